// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// The team's policy: it may write its own roles and no connection.
const authorityPolicy = `
path "regcred/roles/team-a*" { capabilities = ["create", "read", "update", "patch", "delete"] }
path "regcred/creds/team-a*" { capabilities = ["read"] }
path "regcred/rotate/team-a*" { capabilities = ["create", "update"] }
path "regcred/verify/team-a*" { capabilities = ["create", "update"] }
path "sys/leases/renew" { capabilities = ["create", "update"] }
path "sys/leases/revoke" { capabilities = ["create", "update"] }
`

// open is a connection that the team's roles may use, for projects below
// group/team-a; foreign is another team's, at another GitLab.
const (
	ownProject     = "group/team-a/app"
	foreignProject = "group/team-b/app"
)

// authority is the two GitLabs, one for each connection, the clients, and a
// count of what was minted.
type authority struct {
	v             *servers.Vault
	owner, team   *api.Client
	open, foreign *gitlabtest.Server

	mu      sync.Mutex
	closed  bool     // the team may not mint at all
	escaped []string // mints that were not allowed
	granted int      // mints that were allowed
}

// TestNoWriteMintsWhatIsNotOpen attacks as a team with real policies and its
// own token. The team tries to mint at a connection that its roles may not use,
// for projects that are not open to it, and after everything was closed. The
// requests that reach GitLab decide, not the answers of Vault.
func TestNoWriteMintsWhatIsNotOpen(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	for name, attack := range authorityAttacks() {
		t.Run(name, func(t *testing.T) {
			a.reset(t)
			attack(t, a)
			a.useAll(t)
			a.nothingEscaped(t)
		})
	}

	// Without this the test proves nothing: the attacks mint when they are
	// allowed.
	a.reset(t)
	for _, mode := range []string{"shared", "leased"} {
		write(t, a.team, "regcred/roles/team-a-"+mode, fields{"connection": "open", "project": ownProject, "mode": mode})
	}
	a.useAll(t)
	a.nothingEscaped(t)
	if a.granted < 2 {
		t.Errorf("want the team to mint for its own project, got %d mints", a.granted)
	}
	a.admin(t, "connections/foreign", fields{"allowed_roles": "*"})
	write(t, a.team, "regcred/roles/team-a-app", fields{"connection": "foreign", "project": foreignProject})
	a.useAll(t)
	if !a.hasEscaped() {
		t.Error("want a mint noticed that the team has no right to")
	}
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{v: servers.StartVault(t), open: gitlabtest.New(t), foreign: gitlabtest.New(t)}
	a.owner = a.v.Client
	for _, lab := range []*gitlabtest.Server{a.open, a.foreign} {
		for _, project := range []string{ownProject, foreignProject, "group/team-a2/app", "group/Team-A/app", "other/app"} {
			lab.AddProject(project)
		}
		lab.AddGroup("group/team-a")
	}
	a.watch()
	if err := a.owner.Sys().PutPolicy("team-a", authorityPolicy); err != nil {
		t.Fatal(err)
	}
	token, err := a.v.NewToken("team-a")
	if err != nil {
		t.Fatal(err)
	}
	a.team = withToken(t, a.owner, token)
	return a
}

// watch judges each request that mints by what the administrators have opened.
func (a *authority) watch() {
	a.foreign.Watch(func(r *http.Request) {
		if a.foreign.MintMatch(r) {
			a.note(false, "at the foreign connection: "+r.URL.Path)
		}
	}, nil)
	a.open.Watch(func(r *http.Request) {
		if a.open.MintMatch(r) {
			a.note(r.URL.Path == "/api/v4/projects/"+ownProject+"/deploy_tokens", r.URL.Path)
		}
	}, nil)
}

func (a *authority) note(own bool, what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if own && !a.closed {
		a.granted++
		return
	}
	a.escaped = append(a.escaped, what)
}

// reset writes both connections again and deletes the roles that attacks have
// left.
func (a *authority) reset(t *testing.T) {
	t.Helper()
	a.setClosed(false)
	if err := a.owner.Sys().RevokePrefix("regcred/creds"); err != nil {
		t.Fatal(err)
	}
	roles, err := a.owner.Logical().List("regcred/roles")
	if err != nil {
		t.Fatal(err)
	}
	if roles != nil {
		for _, role := range roles.Data["keys"].([]any) {
			if _, err := a.owner.Logical().Delete("regcred/roles/" + role.(string)); err != nil {
				t.Fatal(err)
			}
		}
	}
	connect(t, a.owner, "regcred/connections/open", "gitlab", a.open.Connection(), fields{"allowed_roles": "team-a-*", "allowed_targets": "group/team-a/*"})
	connect(t, a.owner, "regcred/connections/foreign", "gitlab", a.foreign.Connection(), fields{"allowed_roles": "team-b-*", "allowed_targets": ""})
	// Read what team b has, so that there is a credential to steal.
	for role, others := range map[string]fields{"team-b-app": {"rotation_period": "1h"}, "team-b-ci": {"mode": "leased"}} {
		write(t, a.owner, "regcred/roles/"+role, dynamic("foreign", issuer.Settings{"project": foreignProject}, others))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.escaped, a.granted = nil, 0
}

func (a *authority) setClosed(closed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = closed
}

// admin writes as an administrator, which must succeed.
func (a *authority) admin(t *testing.T, path string, data fields) {
	t.Helper()
	write(t, a.owner, "regcred/"+path, data)
}

// close closes the open connection, in one of several ways.
func (a *authority) close(t *testing.T, data fields) {
	t.Helper()
	a.admin(t, "connections/open", data)
	a.setClosed(true)
}

// try writes as the team. A refusal is no failure: the requests at GitLab
// decide.
func (a *authority) try(path string, data fields) {
	_, _ = a.team.Logical().Write("regcred/"+path, data)
}

func (a *authority) tryPatch(t *testing.T, path string, data fields) {
	_, _ = a.team.Logical().JSONMergePatch(t.Context(), "regcred/"+path, data)
}

func (a *authority) tryDelete(path string) { _, _ = a.team.Logical().Delete("regcred/" + path) }

func (a *authority) tryRead(path string) *api.Secret {
	secret, _ := a.team.Logical().Read("regcred/" + path)
	return secret
}

// teamNames are the names of the roles that attacks write, and of others that
// the team might reach.
var teamNames = []string{"team-a", "team-a-app", "team-a-shared", "team-a-leased", "team-a-two", "team-b-app", "team-b-ci", "TEAM-A-app"}

// useAll makes every request that can mint, with every name.
func (a *authority) useAll(t *testing.T) {
	t.Helper()
	for _, name := range teamNames {
		for range 2 {
			for _, form := range []string{"", "/kubernetes", "/docker"} {
				a.tryRead("creds/" + name + form)
			}
			a.try("rotate/"+name, nil)
			a.try("verify/"+name, fields{"repository": ownProject})
		}
		a.try("roles/"+name, fields{"verify": true})
		a.tryPatch(t, "roles/"+name, fields{"verify": true})
	}
}

func (a *authority) nothingEscaped(t *testing.T) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.escaped) > 0 {
		t.Errorf("the team has made the engine mint:\n%s", strings.Join(a.escaped, "\n"))
	}
}

func (a *authority) hasEscaped() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.escaped) > 0
}

// ownRole returns the fields of a role that the team may have.
func ownRole(others fields) fields {
	return dynamic("open", issuer.Settings{"project": ownProject}, others)
}

func authorityAttacks() map[string]func(*testing.T, *authority) {
	attacks := maps.Clone(otherAttacks)
	for _, mode := range []string{"shared", "leased"} {
		for _, group := range []map[string]func(*testing.T, *authority, string){connectionAttacks, targetAttacks, closingAttacks} {
			for name, attack := range group {
				attacks[name+", "+mode] = func(t *testing.T, a *authority) { attack(t, a, mode) }
			}
		}
	}
	return attacks
}

// connectionAttacks aim at a connection that none of the team's roles may use.
var connectionAttacks = map[string]func(*testing.T, *authority, string){
	"another connection": func(_ *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", fields{"connection": "foreign", "project": ownProject, "mode": mode})
	},
	"another connection with a trial": func(_ *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", fields{"connection": "foreign", "project": ownProject, "mode": mode, "verify": true, "verify_repository": ownProject})
	},
	"another connection for an existing role": func(t *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.tryRead("creds/team-a-app")
		a.try("roles/team-a-app", fields{"connection": "foreign"})
		a.tryPatch(t, "roles/team-a-app", fields{"connection": "foreign", "project": foreignProject})
	},
	"deleted and made again with another": func(_ *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.tryRead("creds/team-a-app")
		a.tryDelete("roles/team-a-app")
		a.try("roles/team-a-app", fields{"connection": "foreign", "project": foreignProject, "mode": mode})
	},
	"spellings of the connection": func(_ *testing.T, a *authority, mode string) {
		for _, name := range []string{"FOREIGN", "Foreign", "./foreign", "open/../foreign", "../connections/foreign", "foreign/", "foreign%20", " foreign", "foreign\n", "open,foreign", "*", "f*", "%66oreign", "foreign\x00"} {
			a.try("roles/team-a-app", fields{"connection": name, "project": ownProject, "mode": mode})
		}
	},
	"spellings of the role": func(t *testing.T, a *authority, mode string) {
		for _, name := range []string{
			"team-a/../team-b-app", "team-a%2f..%2fteam-b-app", "team-a-x%2f..%2f..%2froles%2fteam-b-app", "team-a//team-b-app", "team-a-app/", "team-a-app%00",
			"team-a%2d..", "team-a\nteam-b-app", "team-a/team-b-app", "team-a-app%2f", "team-a%252f..%252fteam-b-app",
		} {
			body := fmt.Sprintf(`{"connection":"foreign","project":%q,"mode":%q}`, foreignProject, mode)
			a.raw(t, http.MethodPut, "roles/"+name, body)
			a.raw(t, http.MethodGet, "creds/"+name, "")
			a.raw(t, http.MethodPut, "rotate/"+name, "")
			a.raw(t, http.MethodPut, "verify/"+name, "")
		}
	},
	"the role in the body": func(_ *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", fields{"role": "team-b-app", "name": "team-b-app", "connection": "foreign", "project": foreignProject, "mode": mode})
		a.try("rotate/team-a-app", fields{"role": "team-b-app", "name": "team-b-app"})
		a.try("verify/team-a-app", fields{"role": "team-b-ci", "name": "team-b-ci"})
	},
	"a name that a connection's glob does not mean": func(_ *testing.T, a *authority, mode string) {
		// team-a does not match team-a-*, so it may not mint at open either.
		a.try("roles/team-a", ownRole(fields{"mode": mode, "project": foreignProject}))
		a.try("roles/team-a", fields{"connection": "foreign", "project": foreignProject, "mode": mode})
	},
	"the connection itself": func(t *testing.T, a *authority, mode string) {
		for _, path := range []string{"connections/foreign", "connections/open", "connections/team-a", "config"} {
			a.try(path, fields{"allowed_roles": "*", "allowed_targets": "*"})
			a.tryPatch(t, path, fields{"allowed_roles": "*"})
			a.tryDelete(path)
		}
		a.tryRead("connections/foreign/check")
		a.try("connections/foreign/rotate-root", nil)
		a.try("roles/team-a-app", fields{"connection": "foreign", "project": foreignProject, "mode": mode})
	},
}

// targetAttacks aim at projects that the connection opens to nobody.
var targetAttacks = map[string]func(*testing.T, *authority, string){
	"another project": func(_ *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"project": foreignProject, "mode": mode}))
	},
	"another project with a trial": func(_ *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"project": foreignProject, "mode": mode, "verify": true, "verify_repository": foreignProject}))
	},
	"another project for an existing role": func(t *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.tryRead("creds/team-a-app")
		a.try("roles/team-a-app", fields{"project": foreignProject})
		a.tryPatch(t, "roles/team-a-app", fields{"project": foreignProject})
		a.tryPatch(t, "roles/team-a-app", fields{"project": nil, "group": "group"})
		a.try("roles/team-a-app", fields{"project": "", "group": "group/team-a"})
	},
	"spellings of the project": func(_ *testing.T, a *authority, mode string) {
		for _, project := range []string{
			"group/team-a/../team-b/app", "group/team-a/./../team-b/app", "group/team-a/%2e%2e/team-b/app", "group/team-a%2f..%2fteam-b%2fapp",
			"group/team-a//app", "group/team-a/", "/" + ownProject, ownProject + "/", "group/Team-A/app", "GROUP/TEAM-A/APP", "group/team-a2/app",
			"group/team-b/app?x=group/team-a/app", "group/team-b/app#group/team-a/", "group%2fteam-a%2fapp", "group/team-a/*", "*", "3", "7", "group/team-a/app\x00",
			"group/team-a/app/access_tokens?", "group/team-a/../../groups/group",
		} {
			a.try("roles/team-a-app", ownRole(fields{"project": project, "mode": mode}))
			a.tryRead("creds/team-a-app")
		}
	},
	"a group in place of a project": func(_ *testing.T, a *authority, mode string) {
		for _, group := range []string{"group", "group/team-a", "GROUP", "group/team-a/..", "2"} {
			a.try("roles/team-a-app", fields{"connection": "open", "group": group, "mode": mode})
			a.tryRead("creds/team-a-app")
		}
	},
	"a project and a group": func(_ *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"group": "group", "mode": mode}))
	},
	"a field of another type": func(_ *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"projects": foreignProject, "user": "root", "repositories": foreignProject, "mode": mode}))
	},
	"a target that was closed": func(t *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.close(t, fields{"allowed_targets": "group/team-b/*"})
	},
	"a target that was closed, rotated before": func(t *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.tryRead("creds/team-a-app")
		a.try("rotate/team-a-app", nil)
		a.close(t, fields{"allowed_targets": "other/*"})
	},
}

// closingAttacks continue after the connection was closed.
var closingAttacks = map[string]func(*testing.T, *authority, string){
	"closed before the first read": func(t *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.close(t, fields{"allowed_roles": ""})
	},
	"closed after a read": func(t *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.tryRead("creds/team-a-app")
		a.close(t, fields{"allowed_roles": "team-b-*"})
	},
	"written again after closing": func(t *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.close(t, fields{"allowed_roles": ""})
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.tryDelete("roles/team-a-app")
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.try("roles/team-a-two", ownRole(fields{"mode": mode, "verify": true, "verify_repository": ownProject}))
	},
	"other fields after closing": func(t *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.close(t, fields{"allowed_roles": ""})
		a.try("roles/team-a-app", fields{"verify_repository": ownProject, "verify": true})
		a.tryPatch(t, "roles/team-a-app", fields{"allowed_bundles": "team-a"})
		a.try("roles/team-a", fields{"members": "team-a-app", "verify": true})
	},
	"the connection deleted and made again for others": func(t *testing.T, a *authority, mode string) {
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.close(t, fields{"allowed_roles": ""})
		if _, err := a.owner.Logical().Delete("regcred/connections/open"); err == nil {
			t.Error("want a connection in use kept")
		}
		if _, err := a.owner.Logical().Delete("regcred/roles/team-a-app"); err != nil {
			t.Fatal(err)
		}
		if _, err := a.owner.Logical().Delete("regcred/connections/open"); err != nil {
			t.Fatal(err)
		}
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		connect(t, a.owner, "regcred/connections/open", "gitlab", a.open.Connection(), fields{"allowed_roles": "team-b-*"})
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
	},
	"a connection that is open to nobody": func(t *testing.T, a *authority, mode string) {
		a.close(t, fields{"allowed_roles": ""})
		a.try("roles/team-a-app", ownRole(fields{"mode": mode}))
		a.try("roles/team-a-app", ownRole(fields{"mode": mode, "verify": true}))
	},
}

// otherAttacks need one mode only, or none.
var otherAttacks = map[string]func(*testing.T, *authority){
	"due, and then expired, after closing": func(t *testing.T, a *authority) {
		a.try("roles/team-a-app", ownRole(fields{"rotation_period": "5s", "grace_period": "1s"}))
		a.tryRead("creds/team-a-app")
		a.close(t, fields{"allowed_roles": ""})
		waitUntilExpired(t, a, "team-a-app")
	},
	"a shorter period after closing": func(t *testing.T, a *authority) {
		a.try("roles/team-a-app", ownRole(nil))
		a.tryRead("creds/team-a-app")
		a.close(t, fields{"allowed_roles": ""})
		a.try("roles/team-a-app", fields{"rotation_period": "5s"})
	},
	"a lease renewed after closing": func(t *testing.T, a *authority) {
		a.try("roles/team-a-app", ownRole(fields{"mode": "leased", "ttl": "10m", "max_ttl": "1h"}))
		secret := a.tryRead("creds/team-a-app")
		if secret == nil {
			t.Fatal("want a lease to renew")
		}
		a.close(t, fields{"allowed_roles": ""})
		if _, err := a.team.Sys().Renew(secret.LeaseID, 600); err != nil {
			t.Errorf("want a lease renewed that is there already, got %v", err)
		}
	},
	"a role of others": func(_ *testing.T, a *authority) {
		for _, name := range []string{"team-b-app", "team-b-ci"} {
			a.try("roles/"+name, fields{"connection": "foreign", "project": foreignProject, "allowed_bundles": "*", "verify": true})
		}
	},
	"a bundle of others' roles": func(t *testing.T, a *authority) {
		a.try("roles/team-a-app", fields{"members": "team-b-app", "verify": true})
		a.try("roles/team-a", fields{"members": "team-b-app"})
		a.try("roles/team-a-two", fields{"members": "team-b-app,team-b-ci"})
		a.tryPatch(t, "roles/team-a-two", fields{"members": "team-b-app"})
	},
	"a bundle that was allowed once": func(t *testing.T, a *authority) {
		a.admin(t, "roles/team-b-app", fields{"allowed_bundles": "team-a"})
		a.try("roles/team-a", fields{"members": "team-b-app"})
		a.admin(t, "roles/team-b-app", fields{"allowed_bundles": ""})
	},
}

// waitUntilExpired waits until a shared role's rotation has failed and it has
// nothing left to serve.
func waitUntilExpired(t *testing.T, a *authority, role string) {
	t.Helper()
	servers.Eventually(t, func() error {
		if a.hasEscaped() {
			return nil
		}
		_, err := a.owner.Logical().Read("regcred/creds/" + role)
		got := read(t, a.owner, "regcred/roles/"+role)
		if err == nil || got["last_error"] == nil {
			return fmt.Errorf("want a failed rotation and a refused read (error: %t), got %v", err != nil, got)
		}
		return nil
	})
}

// raw sends a request as the team, byte for byte.
func (a *authority) raw(t *testing.T, method, path, body string) {
	t.Helper()
	rawRequest(t, a.v.Addr, a.team.Token(), method, "/v1/regcred/"+strings.ReplaceAll(path, "\n", "%0a"), body)
}
