// SPDX-License-Identifier: MPL-2.0

package crash

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr/acrtest"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory/artifactorytest"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub/dockerhubtest"
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker/brokertest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/backend/issuer/quay/quaytest"
	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// registry is a registry that mints.
type registry struct {
	*issuertest.Server // the registry's API

	kind        string
	image       string                       // pulled with a role's credential
	connections map[string]issuer.Connection // by name; the roles use minting
	role        issuer.Settings

	keepsRoot bool // the engine cannot replace the root credential

	living func() []string // names of credentials; nil where none can be revoked
	admins func() []string // names of root credentials

	// Somebody else mints, creates a root credential for the account of each
	// connection, and deletes by hand.
	mint     func(name string) login
	mintRoot func(name string) // nil where an account can have no more of them
	remove   func(name string) // nil where none can be revoked

	// reinstall deletes all credentials, except those that can mint, and makes the
	// registry count its IDs from one. It is nil where that cannot be.
	reinstall func()

	another func() registry // starts another registry of the kind
}

// minting is the connection that the roles use.
const minting = "minting"

func gitlab(t *testing.T) registry {
	s := gitlabtest.New(t)
	// The clock stands, so that no forgotten credential expires.
	start := time.Now()
	s.SetNow(func() time.Time { return start })
	return registry{
		Server: s.Server, kind: "gitlab", image: s.Host() + "/" + gitlabtest.Project + ":1",
		connections: map[string]issuer.Connection{minting: s.Connection()},
		role:        s.Role(), living: s.Living, admins: s.Admins, reinstall: s.Reinstall,
		another:  func() registry { return gitlab(t) },
		mint:     func(name string) login { return newLogin(s.AddDeployToken(gitlabtest.Project, name)) },
		mintRoot: func(name string) { s.AddRootToken(name) },
		remove:   s.DeleteDeployToken,
	}
}

// A token of an administrator, and one of a project administrator, who mints for one user.
func artifactory(t *testing.T) registry {
	s := artifactorytest.New(t)
	// The clock stands, so that no forgotten credential expires.
	start := time.Now()
	s.SetNow(func() time.Time { return start })
	return registry{
		Server: s.Server, kind: "artifactory", image: s.Host() + "/" + artifactorytest.Repository + "/app:1",
		connections: map[string]issuer.Connection{minting: s.Connection(), "manager": s.ConnectionOfManager()},
		role:        s.Role(), living: s.Living, admins: s.Admins,
		another:  func() registry { return artifactory(t) },
		mint:     func(name string) login { return newLogin(s.AddPuller(name)) },
		mintRoot: func(name string) { s.AddRoot(name) },
		remove:   s.Remove,
	}
}

func dockerhub(t *testing.T) registry {
	s := dockerhubtest.New(t)
	// The clock stands, so that no forgotten credential expires.
	start := time.Now()
	s.SetNow(func() time.Time { return start })
	return registry{
		Server: s.Server, kind: "dockerhub", image: s.Host() + "/" + dockerhubtest.Repository + ":1",
		connections: map[string]issuer.Connection{minting: s.Connection()}, keepsRoot: true,
		role: s.Role(), living: s.Living, admins: s.Admins,
		another: func() registry { return dockerhub(t) },
		mint:    func(name string) login { return newLogin(s.AddPuller(name)) },
		remove:  s.Remove,
	}
}

// A user's password and a robot account are replaced in different ways.
func harbor(t *testing.T) registry {
	s := harbortest.New(t)
	return registry{
		Server: s.Server, kind: "harbor", image: s.Host() + "/" + harbortest.Project + "/app:1",
		connections: map[string]issuer.Connection{
			minting: s.Connection(),
			"robot": s.ConnectionAs(s.AddRobot(harbortest.Project, "manager", -1, harbortest.Manages(harbortest.Project)...)),
		},
		role: s.Role(), living: s.Living, admins: s.Admins, reinstall: s.Reinstall,
		another: func() registry { return harbor(t) },
		mint:    func(name string) login { return newLogin(s.AddPuller(harbortest.Project, name)) },
		mintRoot: func(name string) {
			s.AddRobot(harbortest.Project, name, -1, harbortest.Manages(harbortest.Project)...)
		},
		remove: s.DeleteRobot,
	}
}

func broker(t *testing.T) registry {
	s := brokertest.New(t)
	start := time.Now() // the clock stands, as that of gitlab
	s.SetNow(func() time.Time { return start })
	return registry{
		Server: s.Server, kind: "http", image: s.Host() + "/" + brokertest.Scope + "/app:1",
		connections: map[string]issuer.Connection{minting: s.Connection()},
		role:        s.Role(), living: s.Living, admins: s.Admins, reinstall: s.Reinstall,
		another:  func() registry { return broker(t) },
		mint:     func(name string) login { return newLogin(s.AddCredential(name)) },
		mintRoot: s.AddRoot,
		remove:   s.Delete,
	}
}

// At Quay the engine cannot replace the root credential, and a robot account has no ID
// besides its name.
func quay(t *testing.T) registry {
	s := quaytest.New(t)
	return registry{
		Server: s.Server, kind: "quay", image: s.Host() + "/" + quaytest.Organization + "/" + quaytest.Repository + ":1",
		connections: map[string]issuer.Connection{minting: s.Connection()}, keepsRoot: true,
		role: s.Role(), living: s.Living, admins: s.Admins,
		another: func() registry { return quay(t) },
		mint:    func(name string) login { return newLogin(s.AddRobot(name)) },
		remove:  s.Delete,
	}
}

func gitea(t *testing.T) registry {
	g := servers.StartGitea(t)
	r, _ := giteaBehind(t, g)
	// Of two others, one is another Gitea, with an account of the same name.
	var puller servers.Account
	r.another = func() (another registry) {
		if puller.Name == "" {
			another, puller = giteaBehind(t, g)
			return another
		}
		another, _ = giteaBehind(t, servers.StartGitea(t), puller)
		return another
	}
	return r
}

// giteaBehind returns a proxy for a Gitea, with accounts of its own, or one that
// mints for an account that it adds. A password and an access token are replaced
// in different ways.
func giteaBehind(t *testing.T, g *servers.Gitea, puller ...servers.Account) (registry, servers.Account) {
	p := g.Proxy(t)
	for _, a := range puller {
		g.Operate(t, http.MethodPost, "/admin/users", http.StatusCreated, map[string]any{
			"username": a.Name, "password": a.Password, "email": a.Name + "@example.invalid", "must_change_password": false,
		}, nil)
		p.Puller = a
	}
	r := registry{
		Server: p.Server, kind: "gitea", image: g.Host + "/" + strings.ToLower(p.Puller.Name) + "/app:1",
		connections: map[string]issuer.Connection{minting: p.Connection()},
		role:        p.Role(), living: p.Living, admins: p.Admins,
		mint: func(name string) login {
			return login{p.Puller.Name, g.AddToken(t, p.Puller, name, "read:package")}
		},
		mintRoot: func(name string) { g.AddToken(t, p.Admin, name, "write:user") },
		remove: func(name string) {
			g.Operate(t, http.MethodDelete, "/users/"+p.Puller.Name+"/tokens/"+name, http.StatusNoContent, nil, nil)
		},
	}
	p.UseToken()
	r.connections["token"] = p.Connection()
	clients.Push(t, r.image, p.Puller.Name, p.Puller.Password)
	return r, p.Puller
}

// At AWS, somebody else has users of their own, and their access keys.
func ecr(t *testing.T) registry {
	s := ecrtest.New(t)
	return registry{
		Server: s.Server, kind: "ecr", image: s.Host() + "/team/app:1",
		connections: map[string]issuer.Connection{minting: s.Connection()},
		role:        s.Role(), admins: s.Admins,
		another: func() registry { return ecr(t) },
		mint: func(name string) login {
			s.AddUser(name, ecrtest.Reading()...)
			return newLogin(s.AddToken(name))
		},
	}
}

// At Azure, the names of tokens are their IDs, so none can be given to another.
func acr(t *testing.T) registry {
	s := acrtest.New(t)
	start := time.Now()
	s.SetNow(func() time.Time { return start })
	return registry{
		Server: s.Server, kind: "acr", image: s.Host() + "/" + acrtest.Repository + ":1",
		connections: map[string]issuer.Connection{minting: s.Connection()},
		role:        s.Role(), living: s.Living, admins: func() []string { return nil }, keepsRoot: true,
		another: func() registry { return acr(t) },
		mint:    func(name string) login { return newLogin(s.AddToken(name)) },
		remove:  s.DeleteToken,
	}
}

// login is a credential in the form that creds/ returns.
type login struct{ username, password string }

func newLogin(username, password string) login { return login{username, password} }

// pulls reports whether the registry serves the image for a credential.
func (r registry) pulls(t *testing.T, l login) bool {
	t.Helper()
	tag, err := name.NewTag(r.image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	_, err = remote.Head(tag, remote.WithAuth(&authn.Basic{Username: l.username, Password: l.password}), remote.WithContext(t.Context()))
	var refused *transport.Error
	if errors.As(err, &refused) && refused.StatusCode == http.StatusUnauthorized {
		return false
	}
	if err != nil {
		t.Fatalf("pulling %s: want success or status 401, got %v", r.image, err)
	}
	return true
}
