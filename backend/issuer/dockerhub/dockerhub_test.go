// SPDX-License-Identifier: MPL-2.0

package dockerhub_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub/dockerhubtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// subject returns a Docker Hub with the fields of a role and of a connection.
func subject(s *dockerhubtest.Server, c issuer.Connection, role issuer.Settings) issuertest.Subject {
	return issuertest.Subject{
		Type:       dockerhub.Type(),
		Connection: c,
		Role:       role,
		Server:     s.Server,
		Pulls:      func(c issuer.Credential) bool { return s.Pulls(c, dockerhubtest.Repository) },
		Mints:      s.MintMatch,
		Living:     s.Living,
		CountAnew:  s.CountAnew,
		BadSecrets: issuer.Secrets{"password": dockerconfig.NewSecret("Wrong-Pass1")},
	}
}

func TestConforms(t *testing.T) {
	for name, role := range map[string]issuer.Settings{
		"pull": {"repositories": dockerhubtest.Repository},
		"push": {"repositories": dockerhubtest.Repository + "," + dockerhubtest.OtherRepo, "access": "push"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits for servers that hang
			issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
				s := dockerhubtest.New(t)
				return subject(s, s.Connection(), role)
			})
		})
	}
}

// opened is an open client and a target.
type opened struct {
	*issuer.Client
	issuer.Target
}

func open(t *testing.T, s *dockerhubtest.Server, c issuer.Connection, role issuer.Settings) opened {
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

const limits = "repositories: Docker Hub lets an organization have 10 access tokens (Team) or 100 (Business): a shared role takes one, and one more for each credential in its grace_period; a leased role takes one for each lease"

func TestFieldsOfRoles(t *testing.T) {
	const rule = "repositories: must be repositories such as acme/web (2 to 255 characters after the slash: a-z and 0-9, with single . _ - between them), got "
	many := make([]string, 51)
	for i := range many {
		many[i] = fmt.Sprintf("acme/app%02d", i)
	}
	for _, c := range []struct {
		repositories, access string
		names                []string
		refusal              string
	}{
		{"acme/web", "", []string{"acme/web"}, ""},
		{"acme/web,acme/api.v2", "push", []string{"acme/api.v2", "acme/web"}, ""},
		{strings.Join(many[:50], ","), "", many[:50], ""},
		{strings.Join(many, ","), "", nil, "repositories: must be at most 50, which is Docker Hub's limit for one token; these are 51"},
		{"", "", nil, "repositories: must name at least one repository, such as acme/web"},
		{"acme/*", "", nil, `repositories: must name each repository, without *, got "acme/*"`},
		{"*/*/public", "", nil, `repositories: must name each repository, without *, got "*/*/public"`},
		{"web", "", nil, rule + `"web"`},
		{"acme/a", "", nil, rule + `"acme/a"`},
		{"acme/Web", "", nil, rule + `"acme/Web"`},
		{"acme/web/x", "", nil, rule + `"acme/web/x"`},
		{"acme/..", "", nil, rule + `"acme/.."`},
		{"../web", "", nil, rule + `"../web"`},
		{"docker.io/acme/web", "", nil, rule + `"docker.io/acme/web"`},
		{"other/web", "", nil, `repositories: must be repositories of acme, the organization of the connection, got "other/web"`},
		{"acme/web,acme/web", "", nil, `repositories: must name each repository once, got "acme/web" twice`},
		{"acme/web", "delete", nil, `access: must be pull or push, got "delete"`},
	} {
		connection := issuer.Connection{Settings: issuer.Settings{"organization": "acme"}}
		got, err := dockerhub.Type().Target(connection, issuer.Settings{"repositories": c.repositories, "access": c.access})
		if c.refusal != "" {
			if err == nil || err.Error() != c.refusal {
				t.Errorf("%s: want %q, got %v", c.repositories, c.refusal, err)
			}
			continue
		}
		access := c.access
		if access == "" {
			access = "pull"
		}
		want := issuer.Target{
			Settings: issuer.Settings{"repositories": strings.Join(c.names, ","), "access": access}, Names: c.names, Warnings: []string{limits},
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", c.repositories, err, diff)
		}
	}
}

func TestFieldsOfConnections(t *testing.T) {
	for _, c := range []struct{ organization, username, password, want string }{
		{"acme", "owner", "x", ""},
		{"acme_2-x", "owner", "x", ""},
		{"acme", "", "x", "username: must not be empty"},
		{"acme", "a:b", "x", "username: must not contain ':'"},
		{"acme", "owner", "", "password: must be set, to the password of that user"},
		{"", "owner", "x", `organization: must be the name of an organization: a-z, 0-9, _ and -, got ""`},
		{"acme/web", "owner", "x", `organization: must be the name of an organization: a-z, 0-9, _ and -, got "acme/web"`},
		{"Acme", "owner", "x", `organization: must be the name of an organization: a-z, 0-9, _ and -, got "Acme"`},
	} {
		_, err := dockerhub.Type().New(issuer.Connection{
			Settings: issuer.Settings{"organization": c.organization, "username": c.username},
			Secrets:  issuer.Secrets{"password": dockerconfig.NewSecret(c.password)},
		})
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && !strings.HasPrefix(got, c.want) {
			t.Errorf("%+v: want %q, got %v", c, c.want, err)
		}
	}
}
