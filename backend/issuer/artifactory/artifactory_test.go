// SPDX-License-Identifier: MPL-2.0

package artifactory_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory/artifactorytest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const nobody = "eyJhbGciOiJSUzI1NiJ9.eyJqdGkiOiJ4In0.bm9ib2R5"

// subject returns a JFrog Platform with the fields of a role and of a connection.
func subject(s *artifactorytest.Server, c issuer.Connection, role issuer.Settings) issuertest.Subject {
	return issuertest.Subject{
		Type:       artifactory.Type(),
		Connection: c,
		Role:       role,
		Server:     s.Server,
		Pulls:      func(c issuer.Credential) bool { return s.Pulls(c, artifactorytest.Repository) },
		Mints:      s.MintMatch,
		Living:     s.Living,
		CountAnew:  s.CountAnew,
		Outage:     s.SetDown,
		BadSecrets: issuer.Secrets{"token": dockerconfig.NewSecret(nobody)},
	}
}

var (
	ofGroups  = issuer.Settings{"groups": artifactorytest.Group}
	ofProject = issuer.Settings{"project": artifactorytest.Project, "project_roles": artifactorytest.Role}
)

func TestConforms(t *testing.T) {
	for name, c := range map[string]struct {
		connection func(*artifactorytest.Server) issuer.Connection
		role       issuer.Settings
	}{
		"administrator, groups":          {(*artifactorytest.Server).Connection, ofGroups},
		"administrator, roles":           {(*artifactorytest.Server).Connection, ofProject},
		"project administrator":          {(*artifactorytest.Server).ConnectionOfManager, ofProject},
		"administrator, one common user": {asNamedAdmin, ofGroups},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits for servers that hang
			issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
				s := artifactorytest.New(t)
				return subject(s, c.connection(s), c.role)
			})
		})
	}
}

// asNamedAdmin returns a connection that names the administrator, for whom it then mints.
func asNamedAdmin(s *artifactorytest.Server) issuer.Connection {
	c := s.Connection()
	c.Settings = issuer.Settings{"username": artifactorytest.Admin}
	return c
}

// opened is an open client and a target.
type opened struct {
	*issuer.Client
	issuer.Target
}

func open(t *testing.T, s *artifactorytest.Server, c issuer.Connection, role issuer.Settings) opened {
	t.Helper()
	client, target := subject(s, c, role).Open(t)
	return opened{client, target}
}

// wantError fails the test unless an error has the status and contains the texts.
func wantError(t *testing.T, err error, status int, definite bool, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("want an error that says %q", says)
	}
	if got := issuer.StatusOf(err); got != status {
		t.Errorf("want an error of status %d, got %d: %v", status, got, err)
	}
	if got := issuer.Definite(err); got != definite {
		t.Errorf("want definite %v, got %v: %v", definite, got, err)
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("want an error that says %q, got %v", text, err)
		}
	}
}

func TestFieldsOfRoles(t *testing.T) {
	const (
		rule = `(letters, digits and _ . @ + -, of which the first is a letter, a digit or _; others have a meaning of their own in a scope), got `
		key  = `project: must be the key of a project (2 to 32 characters: a-z, 0-9 and -, of which the first is a letter), got `
	)
	for _, c := range []struct {
		fields, want issuer.Settings
		names        []string
		refusal      string
	}{
		{fields: issuer.Settings{"groups": "readers"}, want: issuer.Settings{"groups": "readers"}, names: []string{"groups/readers"}},
		{fields: issuer.Settings{"groups": "team-b,Team.a@x+1"}, want: issuer.Settings{"groups": "Team.a@x+1,team-b"}, names: []string{"groups/Team.a@x+1", "groups/team-b"}},
		{fields: issuer.Settings{"project": "apps", "project_roles": "Viewer,Developer"}, want: issuer.Settings{"project": "apps", "project_roles": "Developer,Viewer"}, names: []string{"projects/apps/Developer", "projects/apps/Viewer"}},
		{refusal: "groups: exactly one of groups and project must be set"},
		{fields: issuer.Settings{"groups": "a", "project": "apps"}, refusal: "groups: exactly one of groups and project must be set"},
		{fields: issuer.Settings{"groups": "a", "project_roles": "Viewer"}, refusal: "project_roles: must be set together with project only"},
		{fields: issuer.Settings{"project": "apps"}, refusal: "project_roles: must have at least one name"},
		{fields: issuer.Settings{"project": "Apps", "project_roles": "Viewer"}, refusal: key + `"Apps"`},
		{fields: issuer.Settings{"project": "a", "project_roles": "Viewer"}, refusal: key + `"a"`},
		{fields: issuer.Settings{"project": "apps:x", "project_roles": "Viewer"}, refusal: key + `"apps:x"`},
		{fields: issuer.Settings{"groups": "*"}, refusal: "groups: must have each name; to Artifactory, * means all"},
		{fields: issuer.Settings{"groups": "a,a"}, refusal: `groups: must have each name once, got "a" twice`},
		// Each of these would be a scope of its own, or another group.
		{fields: issuer.Settings{"groups": "readers applied-permissions/admin"}, refusal: `groups: must be names ` + rule + `"readers applied-permissions/admin"`},
		{fields: issuer.Settings{"groups": "readers\tapplied-permissions/admin"}, refusal: `groups: must be names ` + rule + `"readers\tapplied-permissions/admin"`},
		{fields: issuer.Settings{"groups": `"a b"`}, refusal: `groups: must be names ` + rule + `"\"a b\""`},
		{fields: issuer.Settings{"groups": "a,,b"}, refusal: `groups: must be names ` + rule + `""`},
		{fields: issuer.Settings{"groups": "read*"}, refusal: `groups: must be names ` + rule + `"read*"`},
		{fields: issuer.Settings{"project": "apps", "project_roles": "Viewer:Admin"}, refusal: `project_roles: must be names ` + rule + `"Viewer:Admin"`},
		{fields: issuer.Settings{"groups": strings.Repeat("a", 474)}, refusal: "groups: must be fewer or shorter, because the scope of a token has at most 500 characters; this one has 501"},
		{fields: issuer.Settings{"groups": strings.Repeat("a", 473)}, want: issuer.Settings{"groups": strings.Repeat("a", 473)}, names: []string{"groups/" + strings.Repeat("a", 473)}},
	} {
		got, err := artifactory.Type().Target(issuer.Connection{}, c.fields)
		if c.refusal != "" {
			if err == nil || err.Error() != c.refusal {
				t.Errorf("%v: want %q, got %v", c.fields, c.refusal, err)
			}
			continue
		}
		want := issuer.Target{Settings: c.want, Names: c.names, MinLifetime: 3 * time.Hour}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v: %v\n%s", c.fields, err, diff)
		}
	}
}

func TestFieldsOfConnections(t *testing.T) {
	const ttl = "min_token_ttl: must be a duration such as 3h or 10800 (seconds), between 1m0s and 720h0m0s, got "
	for _, c := range []struct {
		url, token string
		settings   issuer.Settings
		want       string
	}{
		{"https://acme.jfrog.io", nobody, nil, ""},
		{"https://example.com/jfrog", nobody, issuer.Settings{"min_token_ttl": "21600", "username": "alice"}, ""},
		{"https://acme.jfrog.io", "", nil, "token: must be set, to an access token with the scope applied-permissions/admin"},
		{"https://acme.jfrog.io", "a b", nil, "token: must be an access token: letters, digits and punctuation, without white space"},
		{"https://acme.jfrog.io/artifactory", nobody, nil, "url: must be the address of the JFrog Platform, without /artifactory at the end"},
		{"https://acme.jfrog.io/access", nobody, nil, "url: must be the address of the JFrog Platform, without /access at the end"},
		{"https://acme.jfrog.io", nobody, issuer.Settings{"username": "a:b"}, "username: must not contain ':'"},
		{"https://acme.jfrog.io", nobody, issuer.Settings{"min_token_ttl": "soon"}, ttl + `"soon"`},
		{"https://acme.jfrog.io", nobody, issuer.Settings{"min_token_ttl": "59s"}, ttl + `"59s"`},
		{"https://acme.jfrog.io", nobody, issuer.Settings{"min_token_ttl": "721h"}, ttl + `"721h"`},
	} {
		connection := issuer.Connection{URL: c.url, Settings: c.settings, Secrets: issuer.Secrets{"token": dockerconfig.NewSecret(c.token)}}
		got := ""
		if _, err := artifactory.Type().New(connection); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%+v: want %q, got %q", c, c.want, got)
		}
		if _, err := artifactory.Type().Target(connection, ofGroups); (err != nil) != strings.HasPrefix(c.want, "min_token_ttl") {
			t.Errorf("%+v: the fields of a role on it: %v", c, err)
		}
	}
}
