// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// staticFields are the fields of roles/<role> that make a role static.
func staticFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"registry": {
			Type:        framework.TypeString,
			Description: "Registry as in image names: a host, host:port or host/path, or a name or URL of Docker Hub.",
		},
		"hostname": {
			Type:        framework.TypeString,
			Description: "Means the same as registry, so that a secret of a KV engine with this field is accepted as it is.",
		},
		"username": {
			Type:        framework.TypeString,
			Description: "User name at the registry.",
		},
		"password": {
			Type:         framework.TypeString,
			Description:  "Password or token at the registry. A byte order mark and one trailing newline are removed.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		"email": {
			Type:        framework.TypeString,
			Description: "Email. Optional: it appears in the pull secret only if set.",
		},
		"dockerconfigjson": {
			Type:         framework.TypeString,
			Description:  "Instead of registry, username, password and email: a whole Docker config, as JSON or its base64, or a Kubernetes Secret that holds one, with up to 1,000 registries.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true, EditType: "textarea"},
		},
		"expires_at": {
			Type:        framework.TypeString,
			Description: "When the credential stops working at the registry, RFC 3339, such as 2027-01-31T00:00:00Z; a date means the end of that day, UTC. Reads warn before that time. Empty: not known.",
		},
	}
}

// applyStatic returns the role with the write applied to it, and warnings. old is
// nil for a new role. Fields that the write does not name stay as in old.
func (in input) applyStatic(old *staticRole, now time.Time) (*staticRole, []string, error) {
	role := &staticRole{}
	if old != nil {
		*role = *old
	}
	var warnings []string
	var err error
	switch single := in.has("registry", "hostname", "username", "password", "email"); {
	case in.has("dockerconfigjson") && single:
		return nil, nil, refusef("dockerconfigjson: already contains registry, username, password and email; leave those fields out")
	case in.has("dockerconfigjson"):
		role.Docker, warnings, err = dockerconfig.Parse(in.text("dockerconfigjson"))
		if err != nil {
			return nil, nil, refuse(fieldError("dockerconfigjson", err))
		}
		warnings = fieldWarnings("dockerconfigjson", warnings)
	case single || old == nil:
		role.Docker, warnings, err = in.applyCredential(role.Docker.Credentials())
		if err != nil {
			return nil, nil, err
		}
	}

	if in.has("expires_at") {
		var changed []string
		if role.ExpiresAt, changed, err = parseExpiry(in.text("expires_at")); err != nil {
			return nil, nil, refuse(fieldError("expires_at", err))
		}
		warnings = append(warnings, fieldWarnings("expires_at", changed)...)
		if !role.ExpiresAt.IsZero() && !role.ExpiresAt.After(now) {
			warnings = append(warnings, fmt.Sprintf("expires_at: %s is in the past", formatTime(role.ExpiresAt)))
		}
	} else if in.has("password", "dockerconfigjson") && !role.ExpiresAt.IsZero() {
		warnings = append(warnings, fmt.Sprintf("expires_at: stays %s; write it too if the new password expires at another time", formatTime(role.ExpiresAt)))
	}
	if role.ExpiresAt.IsZero() && in.named(staticFields()) != "" {
		warnings = append(warnings, shortLived(role.Docker.Credentials())...)
	}
	return role, warnings, nil
}

// shortLived warns of credentials that end soon, as their user names tell.
func shortLived(credentials []dockerconfig.Credential) (warnings []string) {
	for _, c := range credentials {
		field := "username"
		if len(credentials) > 1 {
			field = fmt.Sprintf("auths[%q].username", c.Registry)
		}
		if reason := c.ShortLived(); reason != "" {
			warnings = append(warnings, field+": "+reason)
		}
	}
	return warnings
}

// applyCredential applies the fields of a single credential. old are the role's
// credentials, and empty for a new role.
func (in input) applyCredential(old []dockerconfig.Credential) (dockerconfig.Config, []string, error) {
	var c dockerconfig.Credential
	switch len(old) {
	case 0:
		if err := in.checkComplete(); err != nil {
			return dockerconfig.Config{}, nil, err
		}
	case 1:
		c = old[0]
	default:
		return dockerconfig.Config{}, nil, refusef("this role holds %d registries, so registry, username, password and email are ambiguous; write the whole dockerconfigjson", len(old))
	}

	var warnings []string
	var err error
	if in.has("registry", "hostname") {
		before := c.Registry
		if c.Registry, warnings, err = in.registry(); err != nil {
			return dockerconfig.Config{}, nil, refuse(err)
		}
		// Otherwise anyone who can write the role could send its password to their
		// own host: verify would send it, and so would every pull.
		if before != "" && c.Registry.Host() != before.Host() && !in.has("password") {
			return dockerconfig.Config{}, nil, refusef("registry: names a new host; write password in the same request, because a stored password is only used for the host it was written for")
		}
	}
	if in.has("username") {
		if c.Username, err = dockerconfig.ParseUsername(in.text("username")); err != nil {
			return dockerconfig.Config{}, nil, refuse(fieldError("username", err))
		}
	}
	if in.has("password") {
		var changed []string
		if c.Password, changed, err = dockerconfig.ParsePassword(in.text("password")); err != nil {
			return dockerconfig.Config{}, nil, refuse(fieldError("password", err))
		}
		warnings = append(warnings, fieldWarnings("password", changed)...)
	}
	if in.has("email") {
		if c.Email, err = dockerconfig.ParseEmail(in.text("email")); err != nil {
			return dockerconfig.Config{}, nil, refuse(fieldError("email", err))
		}
	}
	docker, err := dockerconfig.New(c)
	if err != nil {
		return dockerconfig.Config{}, nil, refuse(fieldError("password", err)) // only the password can be too long
	}
	return docker, append(warnings, c.Doubts()...), nil
}

// checkComplete refuses a new role that lacks fields, and names all of them.
func (in input) checkComplete() error {
	var missing []string
	if !in.has("registry", "hostname") {
		missing = append(missing, "registry")
	}
	for _, field := range []string{"username", "password"} {
		if !in.has(field) {
			missing = append(missing, field)
		}
	}
	if missing == nil {
		return nil
	}
	return refusef("missing %s: a new role needs registry, username and password, or dockerconfigjson, members or connection", strings.Join(missing, ", "))
}

// registry reads the field registry, which may also be called hostname.
func (in input) registry() (dockerconfig.Key, []string, error) {
	field := "registry"
	if !in.has(field) {
		field = "hostname"
	}
	key, warnings, err := dockerconfig.ParseKey(in.text(field))
	if err != nil {
		return "", nil, fieldError(field, err)
	}
	if in.has("registry") && in.has("hostname") {
		if other, _, err := dockerconfig.ParseKey(in.text("hostname")); err != nil || other != key {
			return "", nil, errors.New("registry and hostname: mean the same and have different values; keep one of them")
		}
	}
	return key, fieldWarnings(field, warnings), nil
}

var (
	timeOfDay = regexp.MustCompile(`^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$`)
	leapEnd   = regexp.MustCompile(`:60(\.\d+)?([Zz]|[+-]\d\d:\d\d)$`)
)

// parseExpiry reads an RFC 3339 time, or a date, which means the end of that day in
// UTC. The warnings say what was changed. "" gives the zero time.
func parseExpiry(text string) (at time.Time, warnings []string, err error) {
	const want = "must be an RFC 3339 time, such as 2027-01-31T00:00:00Z, or a date, such as 2027-01-31; leave it empty if the credential has no end"
	if text == "" {
		return time.Time{}, nil, nil
	}
	exact := true
	switch day, notDate := time.Parse(time.DateOnly, text); {
	case notDate == nil:
		at, exact = day.Add(24*time.Hour-time.Second), false
	case !timeOfDay.MatchString(text):
		return time.Time{}, nil, errors.New(want)
	default:
		// Go knows no leap second: the time at its end is the next one.
		counted := leapEnd.ReplaceAllString(strings.ToUpper(text), ":59$1$2")
		if at, err = time.Parse(time.RFC3339, counted); err != nil {
			return time.Time{}, nil, errors.New(want)
		}
		if counted != strings.ToUpper(text) {
			at, exact = at.Add(time.Second), false
		}
	}
	whole := at.UTC().Truncate(time.Second)      // storage cannot hold every offset
	if whole.Year() < 2 || whole.Year() > 9999 { // in year 1 is Go's time that nobody has set
		return time.Time{}, nil, errors.New(want)
	}
	if !exact || !whole.Equal(at) {
		warnings = []string{"stored as " + formatTime(whole)}
	}
	return whole, warnings, nil
}
