// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory/artifactorytest"
	"vault-plugin-secrets-regcred/backend/issuer/quay/quaytest"
)

// A credential that is not in another organization is not gone: it was never there. It is
// given up in sight, and not served.
func TestConnectionToAnotherOrganizationIsAnotherOne(t *testing.T) {
	e := newEngine(t)
	e.newHTTP = issuer.NewHTTP
	s := quaytest.New(t)
	c := s.Connection()
	e.write("connections/app", fields{
		"type": "quay", "url": c.URL, "registry": string(c.Registries[0]), "organization": c.Settings["organization"],
		"token": c.Secrets["token"].Reveal(), "allowed_roles": "*",
	})
	e.write("roles/app", fields{"connection": "app", "repositories": s.Role()["repositories"], "rotation_period": "6h"})
	former := e.read("creds/app")
	id := e.stored("connections/app")["id"]

	e.write("connections/app", fields{"organization": "other", "token": s.AddToken("other", "org:admin", "repo:admin"), "verify_connection": false})
	if e.stored("connections/app")["id"] == id {
		t.Error("want another identity of a connection to another organization")
	}
	now := e.read("creds/app")
	if now["password"] == former["password"] || !strings.HasPrefix(now["username"].(string), "other+") {
		t.Errorf("want a credential of the other organization, got one of %s", now["username"])
	}
	e.must(logical.DeleteOperation, "roles/app", nil)
	e.mustRollBack()
	checkSame(t, "living in the former organization", 1, len(s.Living()))
	if !strings.Contains(e.log.String(), "a credential is given up") {
		t.Errorf("want the former credential given up in the log, got %s", e.log.String())
	}
}

// A user of Artifactory who is no administrator lists their own tokens only. What an
// administrator's token has minted before is not in that list, and not gone.
func TestConnectionOfAnotherUserIsAnotherOne(t *testing.T) {
	e := newEngine(t)
	e.newHTTP = issuer.NewHTTP
	s := artifactorytest.New(t)
	s.SetNow(e.clock.now)
	c, ofManager := s.Connection(), s.ConnectionOfManager()
	e.write("connections/app", fields{
		"type": "artifactory", "url": c.URL, "registry": string(c.Registries[0]), "token": c.Secrets["token"].Reveal(), "allowed_roles": "*",
	})
	e.write("roles/app", fields{"connection": "app", "project": artifactorytest.Project, "project_roles": artifactorytest.Role, "rotation_period": "6h"})
	former := e.read("creds/app")

	e.write("connections/app", fields{"username": artifactorytest.Manager, "token": ofManager.Secrets["token"].Reveal()})
	if now := e.read("creds/app"); now["username"] != artifactorytest.Manager {
		t.Errorf("want a credential of the user, got one of %s", now["username"])
	}
	e.must(logical.DeleteOperation, "roles/app", nil)
	e.mustRollBack()
	checkSame(t, "living", []any{former["username"]}, []any{strings.Join(s.Living(), ",")})
	if !strings.Contains(e.log.String(), "a credential is given up") {
		t.Errorf("want the former credential given up in the log, got %s", e.log.String())
	}
}
