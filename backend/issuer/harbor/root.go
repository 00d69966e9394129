// SPDX-License-Identifier: MPL-2.0

package harbor

import (
	"context"
	"crypto/rand"
	"net/http"
	"strconv"
	"strings"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

// localAuth is the authentication mode in which Harbor keeps passwords itself. In
// any other mode, only the first user, admin, can change a password.
const (
	localAuth = "db_auth"
	adminID   = 1
)

// PrepareRoot implements [issuer.RootRotator]. For a user, it generates a password,
// which [robots.ActivateRoot] sets. A robot account may not change its own secret,
// so for one it creates a second robot account with the same permissions.
func (r *robots) PrepareRoot(ctx context.Context, name string) (issuer.Root, error) {
	who, err := r.whoami(ctx, r.admin)
	if err != nil {
		return issuer.Root{}, err
	}
	if !who.robot {
		if err := r.hasPassword(ctx, who); err != nil {
			return issuer.Root{}, err
		}
		return issuer.Root{Secrets: issuer.Secrets{fieldPassword: newPassword()}}, nil
	}
	self, _, err := r.self(ctx)
	if err != nil {
		return issuer.Root{}, err
	}
	got, err := r.create(ctx, robot{
		Name:        name,
		Description: self.Description,
		Level:       self.Level,
		Duration:    self.Duration,
		Permissions: self.Permissions,
	})
	if err != nil {
		return issuer.Root{}, err
	}
	return issuer.Root{
		Settings: issuer.Settings{fieldUsername: got.Name},
		Secrets:  issuer.Secrets{fieldPassword: got.Secret.Secret},
	}, nil
}

// hasPassword returns an error if Harbor does not keep the user's password.
func (r *robots) hasPassword(ctx context.Context, who account) error {
	var info struct {
		Mode string `json:"auth_mode"`
	}
	if _, err := r.do(ctx, r.admin, call{method: http.MethodGet, path: "/systeminfo", out: &info}); err != nil {
		return err
	}
	if info.Mode != localAuth && who.ID != adminID {
		return issuer.Refusedf("Harbor does not keep the password of %s, because its users come from another source (%s): change it there and write it to the connection, or use a robot account", redact.Untrusted(who.Username), redact.Untrusted(info.Mode))
	}
	return nil
}

// newPassword returns 55 characters with more than 256 random bits. Harbor requires
// 8 to 128 characters with a letter of each case and a digit, which the fixed last
// three characters guarantee.
func newPassword() dockerconfig.Secret {
	return dockerconfig.NewSecret(rand.Text() + strings.ToLower(rand.Text()) + "aA1")
}

// ActivateRoot implements [issuer.RootRotator]: it changes a user's password. A
// robot account works from its creation on.
func (r *robots) ActivateRoot(ctx context.Context, root issuer.Root) error {
	if root.Settings[fieldUsername] != "" {
		return nil
	}
	password := root.Secrets[fieldPassword]
	err := r.changePassword(ctx, password)
	if !issuer.IsRefused(err) {
		return err
	}
	// The old password is refused, perhaps because an earlier call has changed it.
	// It is tried before the new one, because Harbor locks a user for a moment
	// after a wrong password.
	_, err = r.whoami(ctx, basicAuth{username: r.admin.username, password: password})
	if issuer.IsRefused(err) {
		// Not definite: a locked user gets the same answer, and then either password
		// may be the valid one.
		return issuer.Malformedf("answered 401 Unauthorized to the old and the new password of %s: the password was changed elsewhere, or Harbor has locked the user for a moment after wrong passwords", r.admin.username)
	}
	return err
}

func (r *robots) changePassword(ctx context.Context, password dockerconfig.Secret) error {
	who, err := r.whoami(ctx, r.admin)
	if err != nil {
		return err
	}
	_, err = r.do(ctx, r.admin, call{
		method: http.MethodPut, path: "/users/" + strconv.FormatInt(who.ID, 10) + "/password",
		in: map[string]string{"old_password": r.admin.password.Reveal(), "new_password": password.Reveal()},
	})
	return err
}

// DiscardRoot implements [issuer.RootRotator]. It does nothing for a user, because
// Harbor does not know the prepared password.
func (r *robots) DiscardRoot(ctx context.Context, name string) error {
	who, err := r.whoami(ctx, r.admin)
	if err != nil || !who.robot {
		return err
	}
	_, scope, err := r.self(ctx)
	if err != nil {
		return err
	}
	return r.ending(func(ctx context.Context) ([]string, error) { return r.find(ctx, scope, name) }).EndNamed(ctx)
}

// RetireRoot implements [issuer.RootRotator]. [robots.ActivateRoot] has ended a user's
// old password. A robot account has ended if it is not in the list that the new root
// credential reads. One that the new root credential may not look for deletes itself.
func (r *robots) RetireRoot(ctx context.Context, root issuer.Root) error {
	if _, err := r.whoami(ctx, r.admin); err != nil {
		return err
	}
	old := *r
	old.admin = basicAuth{username: root.Settings[fieldUsername], password: root.Secrets[fieldPassword]}
	if old.admin.username == r.admin.username {
		return nil
	}
	err := r.retire(ctx, old.admin.username)
	if issuer.StatusOf(err) != http.StatusForbidden {
		return err
	}
	who, oldErr := old.whoami(ctx, old.admin)
	switch {
	case issuer.IsRefused(oldErr), oldErr == nil && !who.robot:
		return nil // Harbor accepts the new one, so it refuses the old one rightly
	case oldErr != nil:
		return err
	}
	return old.retire(ctx, old.admin.username)
}

// retire deletes the robot account with a full name, if it is listed.
func (r *robots) retire(ctx context.Context, username string) error {
	found, _, err := r.robotNamed(ctx, username)
	if err != nil || found == nil {
		return err
	}
	err = r.delete(ctx, found.id())
	if issuer.IsGone(err) {
		return nil
	}
	return err
}

// self returns the robot account of the root credential, and its scope.
func (r *robots) self(ctx context.Context) (robot, registryScope, error) {
	found, scope, err := r.robotNamed(ctx, r.admin.username)
	switch {
	case err != nil:
		return robot{}, registryScope{}, err
	case found == nil:
		return robot{}, registryScope{}, r.notListed()
	}
	return *found, scope, nil
}

// robotNamed returns the robot account with a full name, and its scope. It returns nil
// only if every scope that the name can mean was read, or does not exist.
func (r *robots) robotNamed(ctx context.Context, username string) (*robot, registryScope, error) {
	prefixed, short, inProject := cutLast(username, "+")
	if !inProject {
		found, err := r.systemRobot(ctx, username)
		return found, registryScope{}, err
	}
	// Harbor's prefix is not known, and may look like a part of the project's
	// name: robot-team+x belongs to the project robot-team or, more likely, team.
	var first error
	for _, project := range projectsIn(prefixed) {
		id, err := r.projectID(ctx, r.admin, project)
		if err == nil {
			scope := registryScope{project: project, id: id}
			var found *robot
			if found, err = r.robotIn(ctx, scope, "~"+short, username); found != nil {
				return found, scope, nil
			}
		}
		if first == nil && err != nil && !issuer.IsGone(err) {
			first = err
		}
	}
	return nil, registryScope{}, first
}

// systemRobot returns the system-level robot account with a full name. Harbor's prefix is
// not known, but ends, as by default, in a character that a name cannot have. What
// follows it is looked for first, because the list of all robot accounts may be long.
func (r *robots) systemRobot(ctx context.Context, username string) (*robot, error) {
	short := username
	if i := strings.LastIndexFunc(username, isNotInName); i >= 0 {
		short = strings.TrimLeftFunc(username[i:], isNotInName)
	}
	if short != "" {
		if found, err := r.robotIn(ctx, registryScope{}, short, username); found != nil || err != nil {
			return found, err
		}
	}
	return r.robotIn(ctx, registryScope{}, "", username)
}

// isNotInName reports whether no name of a robot account has the character.
func isNotInName(c rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789._-", c)
}

func (r *robots) robotIn(ctx context.Context, scope registryScope, filter, username string) (*robot, error) {
	listed, err := r.list(ctx, r.admin, scope, filter, func(one robot) bool { return one.Name == username })
	if err != nil || len(listed) == 0 {
		return nil, err
	}
	return &listed[0], nil
}

func (r *robots) notListed() error {
	return issuer.Refusedf("the robot account %s is not in the list of robot accounts that it may read, so it can be neither checked nor replaced", r.admin.username)
}

// projectsIn returns every project name that the text may end in, those after the
// shortest prefix first.
func projectsIn(text string) []string {
	var names []string
	for i := range text {
		if (i == 0 || !isAlphanumeric(text[i-1])) && projectName.MatchString(text[i:]) {
			names = append(names, text[i:])
		}
	}
	return names
}

func isAlphanumeric(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func cutLast(text, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(text, sep); i >= 0 {
		return text[:i], text[i+len(sep):], true
	}
	return text, "", false
}
