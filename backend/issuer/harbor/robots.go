// SPDX-License-Identifier: MPL-2.0

package harbor

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	levelProject = "project"
	levelSystem  = "system"

	description = "Created by Vault (vault-plugin-secrets-regcred), which deletes it when it is no longer used."
)

// robot is a robot account in a creation or in a list. In a list, its name begins
// with Harbor's prefix (robot$ by default), followed in a project by the project's
// name and a plus sign.
type robot struct {
	ID          int64                   `json:"id,omitempty"`
	Name        string                  `json:"name"`
	Description string                  `json:"description,omitempty"`
	Level       string                  `json:"level"`
	Duration    int64                   `json:"duration"` // days from creation, -1: no end
	ExpiresAt   int64                   `json:"expires_at,omitempty"`
	Permissions issuer.List[permission] `json:"permissions"`
}

type permission struct {
	Kind      string              `json:"kind"`
	Namespace string              `json:"namespace"`
	Access    issuer.List[access] `json:"access"`
}

type access struct {
	Resource string `json:"resource"`
	Action   string `json:"action"`
	Effect   string `json:"effect,omitempty"`
}

// createdRobot is the answer to a creation. Harbor never shows its secret again.
type createdRobot struct {
	ID        int64          `json:"id"`
	Name      string         `json:"name"`
	Secret    receivedSecret `json:"secret"`
	ExpiresAt int64          `json:"expires_at"`
}

// receivedSecret is a secret that JSON of an answer can fill.
type receivedSecret struct{ dockerconfig.Secret }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (r *receivedSecret) UnmarshalText(text []byte) error {
	r.Secret = dockerconfig.NewSecret(string(text))
	return nil
}

// registryScope is where robot accounts live: in a project, or, if it is zero, at
// system level.
type registryScope struct {
	project string
	id      int64
}

// Mint implements [issuer.Issuer].
func (r *robots) Mint(ctx context.Context, asked issuer.Request) (issuer.Credential, error) {
	projects := strings.Split(asked.For[fieldProjects], ",")
	wanted := robot{
		Name:        asked.Name,
		Description: description,
		Level:       levelProject,
		Duration:    int64(issuer.WholeDays(r.now(), asked.ExpiresAt)),
		Permissions: permissionsFor(projects, asked.For[fieldAccess], ""),
	}
	if len(projects) > 1 {
		wanted.Level = levelSystem
	}
	got, err := r.create(ctx, wanted)
	if exceedsOwnPermissions(err) {
		// A robot account can grant only permissions that it has itself, and Harbor
		// compares them with their effect: "allow" differs from none.
		wanted.Permissions = permissionsFor(projects, asked.For[fieldAccess], "allow")
		got, err = r.create(ctx, wanted)
	}
	if err != nil {
		return issuer.Credential{}, err
	}
	return issuer.Credential{
		ID:        strconv.FormatInt(got.ID, 10),
		Username:  got.Name,
		Password:  got.Secret.Secret,
		ExpiresAt: expiryTime(got.ExpiresAt),
	}, nil
}

// permissionsFor returns the permissions to pull from projects, or to pull and push.
// Push includes pull explicitly, because it does not imply pull at system level.
func permissionsFor(projects []string, may, effect string) []permission {
	allowed := []access{{Resource: "repository", Action: "pull", Effect: effect}}
	if may == accessPush {
		allowed = append(allowed, access{Resource: "repository", Action: "push", Effect: effect})
	}
	permissions := make([]permission, len(projects))
	for i, project := range projects {
		permissions[i] = permission{Kind: levelProject, Namespace: project, Access: allowed}
	}
	return permissions
}

// exceedsOwnPermissions reports whether Harbor refused permissions that the creating
// robot account does not have itself.
func exceedsOwnPermissions(err error) bool {
	return issuer.StatusOf(err) == http.StatusForbidden && strings.Contains(err.Error(), "permission scope")
}

func (r *robots) create(ctx context.Context, wanted robot) (createdRobot, error) {
	forbidden := "only a project administrator, or a robot account that has robot: create and every permission it grants in that project, can create robot accounts of one project"
	if wanted.Level == levelSystem {
		forbidden = "only a system administrator, or a system-level robot account that has robot: create and every permission it grants, can create robot accounts for several projects"
	}
	var got createdRobot
	_, err := r.do(ctx, r.admin, call{method: http.MethodPost, path: "/robots", in: wanted, out: &got, forbidden: forbidden})
	switch {
	case err != nil:
		return createdRobot{}, err
	case got.ID <= 0 || got.Secret.Reveal() == "" || !strings.HasSuffix(got.Name, wanted.Name):
		return createdRobot{}, issuer.Malformedf("the answer has no robot account with the requested name")
	case got.ExpiresAt == 0:
		return createdRobot{}, issuer.Malformedf("the answer has no expiry time")
	}
	return got, nil
}

// expiryTime converts Harbor's time at which a robot account ends; -1 is never.
func expiryTime(seconds int64) time.Time {
	if seconds < 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// Find implements [issuer.Issuer]. Deleting a project deletes its robot accounts.
func (r *robots) Find(ctx context.Context, target issuer.Settings, name string) ([]string, error) {
	scope, err := r.scopeOf(ctx, target)
	if err != nil {
		if issuer.IsGone(err) {
			return nil, nil
		}
		return nil, err
	}
	return r.find(ctx, scope, name)
}

// scopeOf returns where the robot accounts of a target live.
func (r *robots) scopeOf(ctx context.Context, target issuer.Settings) (registryScope, error) {
	projects := strings.Split(target[fieldProjects], ",")
	if len(projects) > 1 {
		return registryScope{}, nil
	}
	id, err := r.projectID(ctx, r.admin, projects[0])
	return registryScope{project: projects[0], id: id}, err
}

// find returns the IDs of the robot accounts with a name.
func (r *robots) find(ctx context.Context, scope registryScope, name string) ([]string, error) {
	// Harbor's prefix is not known here. At system level, Harbor stores the name
	// without the prefix, so an exact filter works. In a project, it stores
	// project+name. Some versions read the plus sign in a filter as a space, so
	// the filter looks for a part, and the name is compared with what follows the
	// plus sign.
	filter := name
	if scope.project != "" {
		filter = "~" + name
	}
	listed, err := r.list(ctx, r.admin, scope, filter, func(one robot) bool { return one.isNamed(scope.project, name) })
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, one := range listed {
		ids = append(ids, one.id())
	}
	return ids, nil
}

func (r robot) id() string { return strconv.FormatInt(r.ID, 10) }

// isNamed reports whether a robot account of a project, or of the system if it is "",
// was created under a name. Harbor allows a plus sign in no name, and its prefix may
// have been changed to any text.
func (r robot) isNamed(project, name string) bool {
	if project == "" {
		return strings.HasSuffix(r.Name, name)
	}
	prefixed, short, _ := cutLast(r.Name, "+")
	return short == name && strings.HasSuffix(prefixed, project)
}

// Revoke implements [issuer.Issuer].
func (r *robots) Revoke(ctx context.Context, target issuer.Settings, name, id string) error {
	if _, err := strconv.ParseInt(id, 10, 64); err != nil {
		return issuer.Refusedf("%q is not the ID of a robot account", id)
	}
	ending := r.ending(func(ctx context.Context) ([]string, error) { return r.Find(ctx, target, name) })
	if project := target[fieldProjects]; !strings.Contains(project, ",") {
		ending.NameOf = func(ctx context.Context, id string) (string, error) { return r.nameOf(ctx, project, name, id) }
	}
	return ending.End(ctx, name, id)
}

func (r *robots) ending(find func(context.Context) ([]string, error)) issuer.Ending {
	return issuer.Ending{Find: find, Delete: r.delete}
}

// nameOf returns the wanted name if the robot account with an ID was created in the
// project under it, and otherwise its full name. Harbor tells every account that works
// if there is none.
func (r *robots) nameOf(ctx context.Context, project, wanted, id string) (string, error) {
	var found robot
	_, err := r.do(ctx, r.admin, call{method: http.MethodGet, path: "/robots/" + id, out: &found, about: "robot " + id})
	switch {
	case issuer.StatusOf(err) == http.StatusForbidden:
		return "", nil // robot: read is missing, or it is another project's
	case err != nil:
		return "", err
	case found.id() != id || found.Name == "":
		return "", issuer.Malformedf("the answer does not describe the robot account")
	case found.Level == levelProject && found.isNamed(project, wanted):
		return wanted, nil
	}
	return found.Name, nil
}

func (r *robots) delete(ctx context.Context, id string) error {
	_, err := r.do(ctx, r.admin, call{
		method: http.MethodDelete, path: "/robots/" + id, about: "robot " + id,
		forbidden: "only a project administrator (for system-level robot accounts, a system administrator) or a robot account with the permission robot: delete can delete robot accounts",
	})
	return err
}

// Check implements [issuer.Issuer]. It checks the permissions of a robot account.
// Those of a user depend on the project, so only a mint shows them.
func (r *robots) Check(ctx context.Context) (issuer.Status, error) {
	who, err := r.whoami(ctx, r.admin)
	switch {
	case err != nil:
		return issuer.Status{}, err
	case who.robot:
		return r.checkRobot(ctx)
	}
	status := issuer.Status{Identity: redact.Untrusted(who.Username)}
	if who.Username == r.admin.username {
		status.Identity = who.Username
	}
	if who.Admin || who.AdminByIDP {
		status.Warnings = []string{status.Identity + " is a system administrator of Harbor; for roles of one project each, an administrator of these projects is enough"}
	}
	return status, nil
}

func (r *robots) checkRobot(ctx context.Context) (issuer.Status, error) {
	self, _, err := r.self(ctx)
	if err != nil {
		return issuer.Status{}, err
	}
	var lacks []string
	for _, action := range []string{"create", "list", "delete"} {
		if !slices.ContainsFunc(self.Permissions, func(p permission) bool {
			return slices.ContainsFunc(p.Access, func(a access) bool { return a.Resource == "robot" && a.Action == action })
		}) {
			lacks = append(lacks, "robot: "+action)
		}
	}
	if len(lacks) > 0 {
		return issuer.Status{}, issuer.Refusedf("the robot account %s cannot mint and revoke, because it lacks the permissions %s", r.admin.username, strings.Join(lacks, ", "))
	}
	return issuer.Status{Identity: r.admin.username, ExpiresAt: expiryTime(self.ExpiresAt)}, nil
}
