// SPDX-License-Identifier: MPL-2.0

// Package artifactory mints access tokens of the JFrog Platform, for the Docker
// repositories of Artifactory. docs/connections/artifactory.md lists the behaviour it
// depends on, and where JFrog documents it.
package artifactory

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-secure-stdlib/parseutil"
	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// Fields of connections and roles.
const (
	fieldToken        = "token"
	fieldUsername     = "username"
	fieldMinTokenTTL  = "min_token_ttl" //nolint:gosec // the name of a field
	fieldGroups       = "groups"
	fieldProject      = "project"
	fieldProjectRoles = "project_roles"
)

const (
	// defaultMinTokenTTL is the default of JFrog's persistent-expiry-threshold. A token
	// that ends sooner is not stored, so that it can be neither listed nor revoked.
	defaultMinTokenTTL = 3 * time.Hour

	// shortestMinTokenTTL and longestMinTokenTTL bound the field min_token_ttl.
	shortestMinTokenTTL = time.Minute
	longestMinTokenTTL  = 30 * 24 * time.Hour

	maxScope = 500 // characters of a scope
)

// Type returns the type artifactory.
func Type() issuer.Type {
	return issuer.Type{
		Name:        "artifactory",
		Description: "Mints access tokens of the JFrog Platform with the permissions of groups, or of roles in a project.",
		ConnectionFields: map[string]*framework.FieldSchema{
			fieldToken: {
				Type:         framework.TypeString,
				Description:  "Access token of the JFrog Platform that may mint: one with the scope applied-permissions/admin, or, together with username, one of a project administrator.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			fieldUsername: {
				Type:        framework.TypeString,
				Description: "User of the token, if that is no administrator. All credentials then have this user name, because such a user can mint for no other.",
			},
			fieldMinTokenTTL: {
				Type:        framework.TypeString,
				Description: "Shortest life of a minted token, such as 6h. It must not be below persistent-expiry-threshold of the JFrog Platform, whose default, 3h, is the default here too.",
			},
		},
		RoleFields: map[string]*framework.FieldSchema{
			fieldGroups: {
				Type:        framework.TypeCommaStringSlice,
				Description: "Names of the groups whose permissions the credential has.",
			},
			fieldProject: {
				Type:        framework.TypeString,
				Description: "Key of the project that the credential is for, in place of groups.",
			},
			fieldProjectRoles: {
				Type:        framework.TypeCommaStringSlice,
				Description: "Names of the roles that the credential has in the project.",
			},
		},
		PlaceFields: []string{fieldUsername}, // who is no administrator lists what this user has
		Target:      target,
		New:         open,
	}
}

// name is a name of a group or role that means nothing else in a scope, where commas
// separate names, white space separates scopes, and "*" means all groups.
var name = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@+-]*$`)

// projectKey is JFrog's rule for keys of projects.
var projectKey = regexp.MustCompile(`^[a-z][a-z0-9-]{1,31}$`)

const nameRule = "letters, digits and _ . @ + -, of which the first is a letter, a digit or _; others have a meaning of their own in a scope"

func target(c issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
	shortest, err := minTokenTTL(c)
	if err != nil {
		return issuer.Target{}, err
	}
	t := issuer.Target{Settings: issuer.Settings{}, MinLifetime: shortest}
	project := fields[fieldProject]
	switch {
	case (project == "") == (fields[fieldGroups] == ""):
		return issuer.Target{}, errors.New("groups: exactly one of groups and project must be set")
	case project == "" && fields[fieldProjectRoles] != "":
		return issuer.Target{}, errors.New("project_roles: must be set together with project only")
	case project != "" && !projectKey.MatchString(project):
		return issuer.Target{}, fmt.Errorf("project: must be the key of a project (2 to 32 characters: a-z, 0-9 and -, of which the first is a letter), got %q", project)
	}
	field, of := fieldGroups, "groups/"
	if project != "" {
		field, of = fieldProjectRoles, "projects/"+project+"/"
		t.Settings[fieldProject] = project
	}
	names, err := parseNames(fields[field])
	if err != nil {
		return issuer.Target{}, fmt.Errorf("%s: %w", field, err)
	}
	t.Settings[field] = strings.Join(names, ",")
	for _, name := range names {
		t.Names = append(t.Names, of+name)
	}
	if length := len(scopeFor(t.Settings)); length > maxScope {
		return issuer.Target{}, fmt.Errorf("%s: must be fewer or shorter, because the scope of a token has at most %d characters; this one has %d", field, maxScope, length)
	}
	return t, nil
}

// parseNames returns the names of a list, sorted.
func parseNames(list string) ([]string, error) {
	if list == "" {
		return nil, errors.New("must have at least one name")
	}
	names := strings.Split(list, ",")
	slices.Sort(names)
	for i, one := range names {
		switch {
		case one == "*":
			return nil, errors.New("must have each name; to Artifactory, * means all")
		case !name.MatchString(one):
			return nil, fmt.Errorf("must be names (%s), got %q", nameRule, one)
		case i > 0 && one == names[i-1]:
			return nil, fmt.Errorf("must have each name once, got %q twice", one)
		}
	}
	return names, nil
}

// scopeFor returns the scope of a token for a target.
func scopeFor(target issuer.Settings) string {
	if project := target[fieldProject]; project != "" {
		return "applied-permissions/roles:" + project + ":" + target[fieldProjectRoles]
	}
	return "applied-permissions/groups:" + target[fieldGroups]
}

// minTokenTTL returns the shortest life of a token that the JFrog Platform stores.
func minTokenTTL(c issuer.Connection) (time.Duration, error) {
	text := c.Settings[fieldMinTokenTTL]
	if text == "" {
		return defaultMinTokenTTL, nil
	}
	shortest, err := parseutil.ParseDurationSecond(text)
	if err != nil || shortest < shortestMinTokenTTL || shortest > longestMinTokenTTL {
		return 0, fmt.Errorf("%s: must be a duration such as 3h or 10800 (seconds), between %s and %s, got %q", fieldMinTokenTTL, shortestMinTokenTTL, longestMinTokenTTL, text)
	}
	return shortest, nil
}

// tokens is the [issuer.Issuer] of access tokens.
type tokens struct {
	api
	conn     issuer.Connection
	username string // of all tokens; "": each has a user name of its own
	shortest time.Duration
	now      func() time.Time
}

var _ issuer.RootRotator = (*tokens)(nil)

// notInToken matches characters that a header cannot carry.
var notInToken = regexp.MustCompile(`[^!-~]`)

func open(c issuer.Connection) (issuer.Issuer, error) {
	token := c.Secrets[fieldToken]
	switch {
	case token.Reveal() == "":
		return nil, errors.New("token: must be set, to an access token with the scope applied-permissions/admin")
	case notInToken.MatchString(token.Reveal()):
		return nil, errors.New("token: must be an access token: letters, digits and punctuation, without white space")
	}
	for _, service := range []string{"/artifactory", "/access"} {
		if strings.HasSuffix(c.URL, service) {
			return nil, fmt.Errorf("url: must be the address of the JFrog Platform, without %s at the end", service)
		}
	}
	username := c.Settings[fieldUsername]
	if username != "" {
		var err error
		if username, err = dockerconfig.ParseUsername(username); err != nil {
			return nil, fmt.Errorf("%s: %w", fieldUsername, err)
		}
	}
	shortest, err := minTokenTTL(c)
	if err != nil {
		return nil, err
	}
	return &tokens{
		api:  api{url: c.URL, http: c.HTTP, token: token},
		conn: c, username: strings.ToLower(username), shortest: shortest, now: c.Now,
	}, nil
}
