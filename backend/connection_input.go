// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/registry"
)

// applyConnection returns the connection with the write applied to it, and
// warnings. old is nil for a new connection.
func (in input) applyConnection(name string, old *connection, now time.Time, newID func() string) (*connection, []string, error) {
	c := &connection{Name: name}
	if old != nil {
		*c = *old
	}
	c.UpdatedAt = now
	if err := in.applyConnectionType(c, old); err != nil {
		return nil, nil, err
	}
	warnings, err := in.applyAddress(c, old)
	if err != nil {
		return nil, nil, err
	}
	c.Settings = in.applySettings(c.Type.ConnectionFields, c.Settings)
	if err := in.completeIdentityToken(c.Settings); err != nil {
		return nil, nil, err
	}
	if old == nil || !c.isAt(old) {
		c.ID, c.Declared = newID(), nil
	}
	more, err := in.applySecrets(c)
	if err != nil {
		return nil, nil, err
	}
	warnings = append(warnings, more...)
	if in.has("ca_pem") {
		c.CAPEM = in.text("ca_pem")
		if _, err := parseCAs(c.CAPEM); err != nil {
			return nil, nil, err
		}
	}
	if in.has("allowed_roles") {
		if c.AllowedRoles, err = parseRolePatterns(in.list("allowed_roles")); err != nil {
			return nil, nil, refuse(fieldError("allowed_roles", err))
		}
		if len(c.AllowedRoles) == 0 {
			warnings = append(warnings, "allowed_roles: is empty, so no role can use this connection")
		}
	} else if old == nil {
		warnings = append(warnings, "allowed_roles: is not set, so no role can use this connection yet")
	}
	if in.has("allowed_targets") {
		if c.AllowedTargets, err = parseTargetPatterns(in.list("allowed_targets")); err != nil {
			return nil, nil, err
		}
	}
	return c, warnings, nil
}

// applyConnectionType sets the type of a new connection, and refuses fields of
// other types.
func (in input) applyConnectionType(c, old *connection) error {
	if in.has("type") || old == nil {
		t, known := issuerType(in.text("type"))
		switch {
		case !known && in.text("type") == "ecr":
			return refusef("type: this plugin was built without ecr, by the build tag no_ecr; it has %s", strings.Join(issuerTypeNames(), ", "))
		case !known:
			return refusef("type: must be one of %s", strings.Join(issuerTypeNames(), ", "))
		}
		if old != nil && t.Name != old.Type.Name {
			return refusef("type: is %s and cannot be changed; use another connection name", old.Type.Name)
		}
		c.Type = t
	}
	if in.has("force") {
		return refusef("force: is for deleting a connection")
	}
	return in.refuseOtherTypes("connection", c.Type, connectionFieldsOf)
}

// applyAddress sets the URL of the API and the registry.
func (in input) applyAddress(c, old *connection) (warnings []string, err error) {
	if in.has("url") {
		if c.URL, err = parseURL(in.text("url")); err != nil {
			return nil, refuse(fieldError("url", err))
		}
		if c.Type.WholeURL && strings.HasSuffix(in.text("url"), "/") && apiRoot(c.URL) != origin(c.URL) {
			c.URL += "/"
		}
	}
	if old == nil && c.URL == "" {
		c.URL = c.Type.DefaultURL
	}
	if c.URL == "" && !c.Type.URLOptional {
		return nil, refusef("url: must be the URL of the API, such as https://%s.example.com", c.Type.Name)
	}
	if in.has("registry") || old == nil {
		registries := in.list("registry")
		if len(registries) == 0 && c.Type.DefaultRegistry != "" {
			registries = []string{c.Type.DefaultRegistry}
		}
		if c.Registries, warnings, err = parseConnectionRegistries(registries); err != nil {
			return nil, err
		}
	}
	if old == nil {
		return warnings, nil
	}
	moved := c.movedFrom(old)
	if moved == "" {
		return warnings, nil
	}
	// Otherwise anyone who can write the connection, and not read its secrets,
	// could have them sent to their own host.
	for field := range c.Secrets {
		if !in.has(field) {
			return nil, refusef("%s: names a new %s; write %s in the same request, because a stored credential is only used for the hosts it was written for", moved, c.newPart(old, moved), field)
		}
	}
	if !c.Root.isFinished() {
		c.Root = rootRotation{RotatedAt: c.Root.RotatedAt}
		warnings = append(warnings, moved+": gave up an unfinished rotate-root; revoke the credentials that it created or replaced at the old host yourself")
	}
	if moved == "url" {
		warnings = append(warnings, "url: credentials that were minted at the former URL are given up: they are no longer served, and are not revoked; delete there by hand those that do not expire (their names begin with regcred-)")
	}
	return warnings, nil
}

// newPart says what is new in a field that movedFrom returns.
func (c *connection) newPart(old *connection, moved string) string {
	if moved == "url" && origin(c.URL) == origin(old.URL) {
		return "path"
	}
	return "host"
}

// movedFrom returns the field that names a new host, or another API on the same
// one, if any.
func (c *connection) movedFrom(old *connection) string {
	known := func(key dockerconfig.Key) bool {
		return slices.ContainsFunc(old.Registries, func(other dockerconfig.Key) bool { return other.Host() == key.Host() })
	}
	switch {
	case apiRoot(c.URL) != apiRoot(old.URL):
		return "url"
	case slices.ContainsFunc(c.Registries, func(key dockerconfig.Key) bool { return !known(key) }):
		return "registry"
	}
	return ""
}

// parseURL normalises the URL of an API.
func parseURL(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || strings.Contains(u.Host, "%"): // an IPv6 zone, which only one machine knows
		return "", errors.New("must be a URL, such as https://gitlab.example.com")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return "", errors.New("must not have a user, a query or a fragment")
	case u.Scheme == "http" && !registry.IsLoopback(u.Hostname()):
		return "", errors.New("must begin with https://; plain http would send the root credential unencrypted, and is accepted only for this machine")
	case u.Scheme != "https" && u.Scheme != "http":
		return "", errors.New("must begin with https://")
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + strings.TrimRight(u.EscapedPath(), "/"), nil
}

func parseConnectionRegistries(texts []string) (keys []dockerconfig.Key, warnings []string, err error) {
	if len(texts) == 0 {
		return nil, nil, refusef("registry: must be the registry that the credentials are for, as in image names, such as registry.example.com")
	}
	for _, text := range texts {
		key, changed, err := dockerconfig.ParseKey(text)
		if err != nil {
			return nil, nil, refuse(fieldError("registry", err))
		}
		if strings.Contains(string(key), "*") {
			return nil, nil, refusef("registry: must name one registry, not a pattern")
		}
		if slices.Contains(keys, key) {
			return nil, nil, refusef("registry: names %q twice", key)
		}
		keys = append(keys, key)
		warnings = append(warnings, fieldWarnings("registry", changed)...)
	}
	return keys, warnings, nil
}

// applySecrets sets the secrets that the write names. An empty value removes one.
func (in input) applySecrets(c *connection) (warnings []string, err error) {
	c.Secrets = maps.Clone(c.Secrets)
	if c.Secrets == nil {
		c.Secrets = issuer.Secrets{}
	}
	for name, field := range c.Type.ConnectionFields {
		if !isSecretField(field) || !in.has(name) {
			continue
		}
		if in.text(name) == "" {
			delete(c.Secrets, name)
			continue
		}
		secret, changed, err := dockerconfig.ParsePassword(in.text(name))
		if err != nil {
			return nil, refuse(fieldError(name, err))
		}
		c.Secrets[name] = secret
		warnings = append(warnings, fieldWarnings(name, changed)...)
	}
	return warnings, nil
}

func parseTargetPatterns(patterns []string) ([]string, error) {
	if len(patterns) > dockerconfig.MaxRegistries {
		return nil, refusef("allowed_targets: must have at most %d entries, not %d", dockerconfig.MaxRegistries, len(patterns))
	}
	for i, pattern := range patterns {
		if pattern == "" || strings.ContainsAny(pattern, " \t\r\n") {
			return nil, refusef("allowed_targets: entry %d must be a project, group, user or repository, or a pattern such as group/* in which '*' matches any characters", i+1)
		}
	}
	return patterns, nil
}

// commonConnectionFields are the fields that connections of every type have.
func commonConnectionFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"type": {
			Type:          framework.TypeString,
			Description:   "Type of the registry: " + strings.Join(issuerTypeNames(), ", ") + ". It cannot be changed.",
			AllowedValues: asAny(issuerTypeNames()),
		},
		"url": {
			Type:        framework.TypeString,
			Description: "URL of the API, such as https://gitlab.example.com. Plain http is accepted only for this machine.",
		},
		"registry": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Registry that the credentials are for, as in image names, such as registry.example.com. Several, if one credential works at all of them.",
		},
		"ca_pem": {
			Type:        framework.TypeString,
			Description: "CA certificates in PEM form. Calls to the API trust them in addition to the system's.",
		},
		"allowed_roles": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Names of the roles that may use this connection; '*' matches any characters. Empty: none may.",
		},
		"allowed_targets": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Projects, groups, users or repositories that these roles may mint for; '*' matches any characters. Empty: anything that the root credential can reach.",
		},
		"verify_connection": {
			Type: framework.TypeBool, Default: true,
			Description: "Store the connection only if the registry accepts the root credential.",
		},
	}
}

func asAny(names []string) []any {
	values := make([]any, len(names))
	for i, name := range names {
		values[i] = name
	}
	return values
}

func connectionReadBackFields() map[string]*framework.FieldSchema {
	fields := commonConnectionFields()
	delete(fields, "verify_connection")
	fields["registry"] = &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: "Registry that the credentials are for, as in image names; several are separated by commas."}
	for name, field := range fieldsOfTypes(connectionFieldsOf) {
		if !isSecretField(field) {
			fields[name] = field
		}
	}
	maps.Copy(fields, fieldsOfTypes(declaredFieldsOf))
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"updated_at":         {Type: framework.TypeString, Required: true, Description: "When the connection was last written, RFC 3339."},
		"last_root_rotation": {Type: framework.TypeString, Description: "When rotate-root last replaced the root credential, RFC 3339."},
		"pending_root":       {Type: framework.TypeString, Description: "The step that an interrupted rotate-root has left to do."},
	})
	return fields
}
