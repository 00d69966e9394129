// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker/brokertest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/backend/registry"
)

// newBrokerEngine returns an engine with the connection app to a broker that can do some
// operations; without any, all.
func newBrokerEngine(t *testing.T, operations ...string) (*engine, *brokertest.Server) {
	t.Helper()
	e := newEngine(t)
	e.newHTTP = issuer.NewHTTP
	s := brokertest.New(t, operations...)
	s.SetNow(e.clock.now)
	e.write("connections/app", connectionTo(s.Connection(), nil))
	return e, s
}

// connectionTo returns the fields of a connection of type http.
func connectionTo(c issuer.Connection, more fields) fields {
	data := fields{"type": "http", "url": c.URL, "registry": string(c.Registries[0]), "token": c.Secrets["token"].Reveal(), "allowed_roles": "*"}
	for field, value := range c.Settings {
		data[field] = value
	}
	return with(data, more)
}

func credentialIn(data fields) issuer.Credential {
	return issuer.Credential{Username: data["username"].(string), Password: dockerconfig.NewSecret(data["password"].(string))}
}

// What a broker can do is asked when the connection is written, and stored.
func TestWhatABrokerDeclaresIsStored(t *testing.T) {
	e, s := newBrokerEngine(t, "mint", "find", "revoke", "check")
	operations := func() any { return e.read("connections/app")["operations"] }
	checkSame(t, "operations", any([]string{"mint", "find", "revoke", "check"}), operations())
	checkSame(t, "stored", any("mint,find,revoke,check"), e.stored("connections/app")["declared"].(fields)["operations"])
	checkSame(t, "warnings of a check", []string(nil), e.readWarnings("connections/app/check"))

	s.Operations, s.MaxLifetime = []string{"mint", "check"}, 12*time.Hour
	checkContains(t, strings.Join(e.readWarnings("connections/app/check"), "\n"), "the registry declares something else than when the connection was written")
	checkSame(t, "operations after a check, which changes nothing", any([]string{"mint", "find", "revoke", "check"}), operations())

	e.write("connections/app", fields{"allowed_roles": "*", "verify_connection": false})
	checkSame(t, "operations after a write without a check", any([]string{"mint", "find", "revoke", "check"}), operations())

	resp := e.write("connections/app", fields{"allowed_roles": "*"})
	checkContains(t, strings.Join(resp.Warnings, "\n"), "the connection can no longer revoke", "the broker cannot revoke")
	checkSame(t, "operations", any([]string{"mint", "check"}), operations())
	checkSame(t, "max_lifetime", any("12h0m0s"), e.read("connections/app")["max_lifetime"])

	// Another broker is another matter.
	other := brokertest.New(t)
	e.write("connections/app", connectionTo(other.Connection(), fields{"verify_connection": false}))
	checkSame(t, "operations of a broker that was not asked", nil, operations())
}

// Somebody who writes a connection does not say what the broker can do.
func TestNobodyElseDeclaresWhatABrokerCan(t *testing.T) {
	e, _ := newBrokerEngine(t)
	e.refused(logical.UpdateOperation, "connections/app", fields{"operations": "mint"}, "unknown field \"operations\"")
}

// The lifetime that a broker allows is checked when a role is written, with its number.
func TestLifetimeThatABrokerAllows(t *testing.T) {
	e, s := newBrokerEngine(t)
	s.MaxLifetime = 12 * time.Hour
	e.write("connections/app", fields{"allowed_roles": "*"})
	e.refused(logical.UpdateOperation, "roles/app", fields{"connection": "app", "rotation_period": "12h"}, "rotation_period: rotation_period and grace_period together must be at most 12h0m0s, the longest lifetime that the registry allows")
	e.write("roles/app", fields{"connection": "app"})
	checkSame(t, "rotation_period, the default of which fits", any(int64(6*3600)), e.read("roles/app")["rotation_period"])
}

// What a broker cannot end is not kept: neither a write-ahead entry, nor an index of
// leases, nor a list of what is to be revoked, and nobody asks to end it.
func TestBrokerThatCannotRevoke(t *testing.T) {
	e, s := newBrokerEngine(t, "mint", "check")
	e.write("roles/shared", fields{"connection": "app", "scopes": "team", "rotation_period": "6h", "grace_period": "1h"})
	e.write("roles/leased", fields{"connection": "app", "scopes": "team", "mode": "leased", "ttl": "1h", "max_ttl": "2h"})
	entries := 0
	s.Watch(func(r *http.Request) {
		if s.MintMatch(r) {
			entries += len(keysBelow(t, e, framework.WALPrefix))
		}
	}, nil)
	e.read("creds/shared")
	secret := e.must(logical.ReadOperation, "creds/leased", nil).Secret
	checkSame(t, "entries while it mints", 0, entries)
	checkSame(t, "leases in the index", 0, len(keysBelow(t, e, "leases/")))
	checkSame(t, "the longest lease", 2*time.Hour, secret.MaxTTL)

	e.write("rotate/shared", nil)
	e.clock.advance(time.Hour + time.Minute)
	e.mustRollBack()
	checkSame(t, "what waits to be revoked after the grace period", nil, e.read("roles/shared")["pending_revocations"])

	// A mint without an answer leaves nothing either: what it may have made ends by itself.
	s.InjectFault(1, s.MintMatch, issuertest.CutAfterActing)
	e.failed(logical.ReadOperation, "creds/leased", nil, http.StatusBadGateway)
	checkSame(t, "entries after a mint without an answer", 0, len(keysBelow(t, e, framework.WALPrefix)))
	e.clock.advance(2 * time.Hour)
	e.mustRollBack()
	living := slices.DeleteFunc(s.Living(), func(name string) bool { return strings.HasPrefix(name, "regcred-shared-") })
	checkSame(t, "leased credentials that work after their end", 0, len(living))
	for _, call := range s.Calls() {
		if strings.HasPrefix(call, "DELETE") || call == "GET /broker/v1/credentials" {
			t.Errorf("want nothing asked for that the broker cannot do, got %s", call)
		}
	}
	e.must(logical.DeleteOperation, "roles/shared", nil)
	e.must(logical.DeleteOperation, "roles/leased", nil)
	e.must(logical.DeleteOperation, "connections/app", nil)
}

// A broker that cannot find revokes what it has told. What it made in a call without an
// answer is given up, visibly and once.
func TestBrokerThatCannotFind(t *testing.T) {
	e, s := newBrokerEngine(t, "mint", "revoke", "check")
	e.write("roles/app", fields{"connection": "app", "scopes": "team", "rotation_period": "6h", "grace_period": "0s"})
	e.write("roles/leased", fields{"connection": "app", "scopes": "team", "mode": "leased", "ttl": "1h", "max_ttl": "1h"})
	e.read("creds/app")
	e.write("rotate/app", nil)
	e.mustRollBack()
	checkSame(t, "living after a rotation", 1, len(s.Living()))

	secret := e.must(logical.ReadOperation, "creds/leased", nil).Secret
	e.must(logical.DeleteOperation, "roles/app", nil)
	e.mustRollBack()
	checkSame(t, "living", 1, len(s.Living()))
	if _, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.RevokeOperation, Secret: secret, Storage: e.storage}); err != nil {
		t.Errorf("revoking a lease: %v", err)
	}
	checkSame(t, "living after a revocation", 0, len(s.Living()))

	e.sent()
	s.InjectFault(1, s.MintMatch, issuertest.CutAfterActing)
	e.failed(logical.ReadOperation, "creds/leased", nil, http.StatusBadGateway)
	checkSame(t, "entries", 1, len(keysBelow(t, e, framework.WALPrefix)))
	for range 10 {
		e.clock.advance(time.Minute)
		e.mustRollBack()
	}
	checkSame(t, "entries later", 0, len(keysBelow(t, e, framework.WALPrefix)))
	checkSame(t, "events", []string{"regcred/credential-give-up creds/leased"}, e.sent())
	checkSame(t, "log lines", 1, strings.Count(e.log.String(), "a credential is given up that may have been minted"))
	checkSame(t, "living until it expires", 1, len(s.Living()))
	e.clock.advance(time.Hour)
	checkSame(t, "living after it has expired", 0, len(s.Living()))
	e.must(logical.DeleteOperation, "roles/leased", nil)
	e.must(logical.DeleteOperation, "connections/app", nil)
}

// What such a broker has told is known after an outage, too, whoever ends it then.
func TestBrokerThatCannotFindAfterAnOutage(t *testing.T) {
	ends := issuertest.Method(http.MethodDelete)
	for what, do := range map[string]func(*engine, *brokertest.Server){
		"a role is deleted": func(e *engine, s *brokertest.Server) {
			e.read("creds/app")
			s.InjectFault(-1, ends, issuertest.Status(http.StatusServiceUnavailable, "down"))
			e.must(logical.DeleteOperation, "roles/app", nil)
		},
		"a credential that cannot pull is not served": func(e *engine, s *brokertest.Server) {
			s.InjectFault(-1, ends, issuertest.Status(http.StatusServiceUnavailable, "down"))
			e.registries.answer(dockerconfig.Key(s.Host()), registry.Result{Verdict: registry.Denied})
			e.write("roles/app", fields{"verify_repository": "team/app"})
			e.failed(logical.ReadOperation, "creds/app", nil, http.StatusBadGateway, "because it cannot pull")
			e.must(logical.DeleteOperation, "roles/app", nil)
		},
	} {
		t.Run(what, func(t *testing.T) {
			e, s := newBrokerEngine(t, "mint", "revoke", "check")
			e.write("roles/app", fields{"connection": "app", "scopes": "team", "rotation_period": "6h"})
			do(e, s)
			checkSame(t, "living in the outage", 1, len(s.Living()))
			s.ClearFaults()
			for range 10 {
				e.clock.advance(time.Minute)
				e.mustRollBack()
			}
			checkSame(t, "living after it", 0, len(s.Living()))
			checkSame(t, "given up", 0, strings.Count(e.log.String(), "given up"))
			checkSame(t, "entries", 0, len(keysBelow(t, e, framework.WALPrefix)))
		})
	}
}

// A broker that once could revoke, and can no longer, has ended nothing. What it has minted
// until then is given up, visibly, and not forgotten as if it were gone.
func TestBrokerThatCannotRevokeAnyMore(t *testing.T) {
	e, s := newBrokerEngine(t)
	e.write("roles/app", fields{"connection": "app", "scopes": "team", "rotation_period": "6h", "grace_period": "1s"})
	e.write("roles/leased", fields{"connection": "app", "scopes": "team", "mode": "leased", "ttl": "1h", "max_ttl": "1h"})
	e.read("creds/app")
	e.write("rotate/app", nil)
	secret := e.must(logical.ReadOperation, "creds/leased", nil).Secret
	s.InjectFault(1, s.MintMatch, issuertest.CutAfterActing)
	e.failed(logical.ReadOperation, "creds/leased", nil, http.StatusBadGateway)
	living := len(s.Living())

	s.Operations = []string{"mint", "check"}
	e.write("connections/app", fields{"allowed_roles": "*"})
	e.sent()
	if _, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.RevokeOperation, Secret: secret, Storage: e.storage}); err != nil {
		t.Errorf("revoking a lease: %v", err)
	}
	for range 10 {
		e.clock.advance(time.Minute)
		e.mustRollBack()
	}
	checkSame(t, "living, and known to be", living, len(s.Living()))
	checkSame(t, "log lines: the lease, the former credential, the write-ahead entry", 3, strings.Count(e.log.String(), "a credential is given up: its connection cannot revoke any more"))
	checkSame(t, "events", 3, strings.Count(strings.Join(e.sent(), "\n"), "regcred/credential-give-up"))
	if given, _ := e.read("roles/app")["given_up"].([]map[string]any); len(given) != 1 {
		t.Errorf("want the former credential in given_up, got %v", given)
	}
	checkSame(t, "entries", 0, len(keysBelow(t, e, framework.WALPrefix)))
	checkSame(t, "leases in the index", 0, len(keysBelow(t, e, "leases/")))

	// Neither has the end of the role ended what it serves.
	e.must(logical.DeleteOperation, "roles/app", nil)
	e.mustRollBack()
	checkSame(t, "living after the role is deleted", living, len(s.Living()))
	checkSame(t, "log lines: what the role served, too", 4, strings.Count(e.log.String(), "a credential is given up: its connection cannot revoke any more"))
}

// The same by a write of the connection, which then does not speak with a broker.
func TestConnectionThatIsWrittenNotToRevoke(t *testing.T) {
	e, _ := newBrokerEngine(t)
	resp := e.write("connections/app", fields{"allowed_roles": "*", "protocol": "simple", "lifetime": "1h", "verify_connection": false})
	checkContains(t, strings.Join(resp.Warnings, "\n"), "the connection can no longer revoke")
}

// Nothing is left to be done for a deleted role whose credentials nothing can revoke,
// wherever the deletion fails.
func TestDeletedRoleOfAURL(t *testing.T) {
	for failAt := int64(1); ; failAt++ {
		e := newEngine(t)
		e.newHTTP = issuer.NewHTTP
		u := brokertest.NewURL(t)
		u.SetNow(e.clock.now)
		e.write("connections/app", connectionTo(u.Connection(), nil))
		e.write("roles/app", fields{"connection": "app", "rotation_period": "6h", "grace_period": "1h"})
		e.read("creds/app")
		faulty := e.faulty(failAt)
		e.storage = faulty
		_, _ = e.request(logical.DeleteOperation, "roles/app", nil)
		e.background.Wait()
		e.storage = faulty.Storage
		e = e.restarted(t)
		checkSame(t, fmt.Sprintf("call %d fails: entries", failAt), 0, len(keysBelow(t, e, framework.WALPrefix)))
		e.mustRollBack()
		if strings.Contains(e.log.String(), "given up") {
			t.Errorf("call %d fails: %s", failAt, e.log.String())
		}
		if faulty.calls.Load() < failAt {
			return
		}
	}
}

// A URL is asked as often as a rotation needs it, and each credential is served no longer
// than it works.
func TestURLThatAnswersWithACredential(t *testing.T) {
	e := newEngine(t)
	e.newHTTP = issuer.NewHTTP
	u := brokertest.NewURL(t)
	u.SetNow(e.clock.now)
	e.write("connections/app", connectionTo(u.Connection(), nil))
	checkSame(t, "credentials made by the check of a write", 1, u.Mints())
	e.write("roles/app", fields{"connection": "app", "rotation_period": "6h", "grace_period": "1h"})
	checkSame(t, "credentials after a role is written", 1, u.Mints())

	credential := func() issuer.Credential {
		t.Helper()
		data := e.read("creds/app")
		return credentialIn(data)
	}
	first := credential()
	for range 50 {
		if got := credential(); got.Password.Reveal() != first.Password.Reveal() {
			t.Fatal("want the same credential from each read")
		}
	}
	checkSame(t, "credentials after many reads", 2, u.Mints())
	checkSame(t, "the user name in the read-back, which is the token", nil, e.read("roles/app")["username"])

	for hour := range 48 {
		e.clock.advance(time.Hour)
		e.mustRollBack()
		if !u.Pulls(credential()) {
			t.Fatalf("after %d hours: want a credential that works", hour+1)
		}
	}
	checkSame(t, "credentials after two days", 2+8, u.Mints())
	checkSame(t, "what waits to be revoked", nil, e.read("roles/app")["pending_revocations"])
	checkSame(t, "entries", 0, len(keysBelow(t, e, framework.WALPrefix)))

	// While the URL fails, what it gave is served until it ends, and no longer.
	last := credential()
	u.InjectFault(-1, u.MintMatch, issuertest.Status(http.StatusInternalServerError, "boom"))
	for u.Pulls(last) {
		checkSame(t, "what is served", last.Password.Reveal(), credential().Password.Reveal())
		e.clock.advance(time.Hour)
		e.mustRollBack()
	}
	e.failed(logical.ReadOperation, "creds/app", nil, http.StatusBadGateway, "answered 500")
	e.must(logical.DeleteOperation, "roles/app", nil)
	e.must(logical.DeleteOperation, "connections/app", nil)
}

// Nobody is told that a credential was revoked that nothing can revoke.
func TestCredentialOfAURLThatCannotPull(t *testing.T) {
	e := newEngine(t)
	e.newHTTP = issuer.NewHTTP
	u := brokertest.NewURL(t)
	u.SetNow(e.clock.now)
	e.write("connections/app", connectionTo(u.Connection(), nil))
	e.write("roles/app", fields{"connection": "app", "verify_repository": "team/app"})
	e.registries.answer(dockerconfig.Key(u.Host()), registry.Result{Verdict: registry.Denied})
	_, err := e.request(logical.ReadOperation, "creds/app", nil)
	if err == nil || strings.Contains(err.Error(), "revoked") || !strings.Contains(err.Error(), "the new credential is not served, because it cannot pull from verify_repository") {
		t.Errorf("want an error that does not speak of a revocation, got %v", err)
	}
}

// A URL that gives less than it was asked for does not make the engine mint without pause.
func TestURLThatGivesLessThanItWasAskedFor(t *testing.T) {
	e := newEngine(t)
	e.newHTTP = issuer.NewHTTP
	u := brokertest.NewURL(t)
	u.SetNow(e.clock.now)
	e.write("connections/app", connectionTo(u.FieldsConnection(), fields{"lifetime": "10m"}))
	e.refused(logical.UpdateOperation, "roles/app", fields{"connection": "app", "rotation_period": "1h"}, "must be at most 10m0s")
	e.write("roles/app", fields{"connection": "app"})
	e.read("creds/app")
	before := u.Mints()
	for range 60 {
		e.clock.advance(time.Minute)
		e.mustRollBack()
		if !u.Pulls(credentialIn(e.read("creds/app"))) {
			t.Fatal("want a credential that works")
		}
	}
	if got := u.Mints() - before; got < 6 || got > 12 {
		t.Errorf("want a mint each five minutes, got %d in an hour", got)
	}
}

// Many APIs know an address only with the slash at its end, and redirect every other one,
// which is not followed.
func TestURLWithASlashAtItsEnd(t *testing.T) {
	e := newEngine(t)
	e.newHTTP = issuer.NewHTTP
	server := issuertest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/") {
			http.Redirect(w, r, r.URL.Path+"/", http.StatusMovedPermanently)
			return
		}
		_, _ = io.WriteString(w, `{"auths":{"registry.example.com":{"auth":"dXNlcjpwYXNz"}}}`)
	}))
	simple := fields{"type": "http", "protocol": "simple", "url": server.URL + "/credentials/", "registry": "registry.example.com", "token": "x", "lifetime": "12h", "allowed_roles": "*"}
	e.write("connections/app", simple)
	e.write("roles/app", fields{"connection": "app"})
	checkSame(t, "password", any("pass"), e.read("creds/app")["password"])
	id := e.stored("connections/app")["id"]
	e.write("connections/app", fields{"url": server.URL + "/credentials", "verify_connection": false})
	checkSame(t, "identity, whatever stands at the end", id, e.stored("connections/app")["id"])

	// A broker has its paths below the url, with or without a slash.
	b := brokertest.New(t)
	e.write("connections/broker", connectionTo(b.Connection(), fields{"url": b.Connection().URL + "/"}))
}
