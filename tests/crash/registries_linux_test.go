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
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
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

	living func() []string // names of credentials; nil where none can be revoked
	admins func() []string // names of root credentials
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
		role:        s.Role(), living: s.Living, admins: s.Admins,
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
		role: s.Role(), living: s.Living, admins: s.Admins,
	}
}

// A password and an access token are replaced in different ways.
func gitea(t *testing.T) registry {
	g := servers.StartGitea(t)
	p := g.Proxy(t)
	r := registry{
		Server: p.Server, kind: "gitea", image: g.Host + "/" + strings.ToLower(p.Puller.Name) + "/app:1",
		connections: map[string]issuer.Connection{minting: p.Connection()},
		role:        p.Role(), living: p.Living, admins: p.Admins,
	}
	p.UseToken()
	r.connections["token"] = p.Connection()
	clients.Push(t, r.image, p.Puller.Name, p.Puller.Password)
	return r
}

func ecr(t *testing.T) registry {
	s := ecrtest.New(t)
	return registry{
		Server: s.Server, kind: "ecr", image: s.Host() + "/team/app:1",
		connections: map[string]issuer.Connection{minting: s.Connection()},
		role:        s.Role(), admins: s.Admins,
	}
}

// login is a credential in the form that creds/ returns.
type login struct{ username, password string }

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
