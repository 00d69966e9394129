// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// moved has the connection lead to another registry, which it returns.
func (e *engine) moved() *mintingRegistry {
	e.t.Helper()
	other := newMintingRegistry(e.t)
	e.write("connections/app", fields{"url": other.url, "registry": "other.example.com", "password": adminPassword})
	return other
}

// A role must not go on serving the credential of a registry to which its
// connection no longer leads.
func TestRoleOfAMovedConnectionServesTheNewRegistry(t *testing.T) {
	e := newSharingEngine(t)
	former := e.read("creds/app")
	checkSame(t, "registry", any("registry.example.com"), former["registry"])
	old := e.minting.names()
	other := e.moved()

	readBack := e.read("roles/app")
	checkSame(t, "registries", any([]string{"other.example.com"}), readBack["registries"])
	checkSame(t, "user name before anything is minted there", nil, readBack["username"])
	checkSame(t, "next rotation", any("2026-03-01T12:00:00Z"), readBack["next_rotation"])

	data := e.read("creds/app")
	checkSame(t, "registry after the move", any("other.example.com"), data["registry"])
	checkSame(t, "password after the move", any(marker+other.names()[0]), data["password"])

	e.sent()
	e.clock.advance(time.Hour) // the grace period
	e.mustRollBack()
	checkSame(t, "living credentials of the former registry", old, e.minting.names())
	checkSame(t, "calls of the new registry for the former's", 0, len(e.minting.names())-1)
	checkSame(t, "given up", any([]map[string]any{{"name": old[0], "url": e.minting.url, "given_up_at": "2026-03-01T13:00:00Z"}}), e.read("roles/app")["given_up"])
	checkSame(t, "events", []string{"regcred/credential-give-up creds/app"}, e.sent())
	checkSame(t, "pending revocations", nil, e.read("roles/app")["pending_revocations"])
}

// Nobody has to read the role for that.
func TestRoleOfAMovedConnectionIsRotatedSoon(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.mustRollBack()
	other := e.moved()
	e.mustRollBack()
	checkSame(t, "mints at the new registry", 1, other.mints())
}

// The registry of the same API may come to have another name.
func TestRoleOfAConnectionWithAnotherRegistryKeyServesThatKey(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.write("connections/app", fields{"registry": "new.example.com", "password": adminPassword})
	checkSame(t, "registry", any("new.example.com"), e.read("creds/app")["registry"])
	e.clock.advance(time.Hour)
	e.mustRollBack()
	e.checkLiving(1) // it is the same API, so the former one is revoked
}

// IDs are those of somebody else at a registry that has not minted them.
func TestNothingIsLookedForAtARegistryThatDidNotMintIt(t *testing.T) {
	for name, replace := range map[string]func(*engine) *mintingRegistry{
		"moved": (*engine).moved,
		"given up and made again": func(e *engine) *mintingRegistry {
			e.must(logical.DeleteOperation, "roles/app", nil)
			e.must(logical.DeleteOperation, "roles/leased", nil)
			e.minting.fail("revoke", errDown)
			e.must(logical.DeleteOperation, "connections/app", fields{"force": true})
			e.minting.mend()
			other := newMintingRegistry(e.t)
			e.write("connections/app", with(e.connectionSample(), fields{"url": other.url}))
			return other
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			e.write("roles/leased", leasedRole)
			_, secret := e.lease("creds/leased")
			e.read("creds/app")
			e.write("rotate/app", nil)
			e.mustPutWAL(walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "app", Name: "regcred-app-orphan"}})
			e.mustPutWAL(walRoot, walRootEntry{schemaVersion, "app", "id-1", issuer.NewName("app")})
			other := replace(e)
			var calls []string
			other.before = func(call string) error {
				calls = append(calls, call)
				return nil
			}
			if _, err := e.onLease(logical.RevokeOperation, secret); err != nil {
				t.Errorf("want the lease given up, got %v", err)
			}
			e.clock.advance(800 * time.Hour)
			if err := e.rollBack(); err != nil {
				t.Errorf("rollback: %v", err)
			}
			for _, call := range []string{"find", "revoke", "discard", "retire"} {
				if slices.Contains(calls, call) {
					t.Errorf("the new registry was called: %v", calls)
				}
			}
			checkSame(t, "write-ahead entries", 0, len(keysBelow(t, e, framework.WALPrefix)))
		})
	}
}

// A mint that is tried again, because the root credential was replaced, is
// decided anew.
func TestMintThatIsTriedAgainIsDecidedAnew(t *testing.T) {
	const newer = adminPassword + "-newer"
	for name, c := range map[string]struct {
		change fields
		want   string // of the refusal; empty: it succeeds
	}{
		"nothing else":      {fields{}, ""},
		"role excluded":     {fields{"allowed_roles": "other"}, `role "leased" cannot use connection "app"`},
		"target excluded":   {fields{"allowed_targets": "other/*"}, "allowed_targets of connection"},
		"registry of today": {fields{"registry": "new.example.com"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			e.write("roles/leased", leasedRole)
			var once sync.Once
			e.minting.during("mint", func() {
				once.Do(func() {
					e.write("connections/app", with(c.change, fields{"password": newer, "verify_connection": false}))
					e.minting.mu.Lock()
					defer e.minting.mu.Unlock()
					e.minting.admins = map[string]bool{newer: true}
				})
			})
			resp, err := e.request(logical.ReadOperation, "creds/leased", nil)
			if c.want != "" {
				if err != nil || !resp.IsError() {
					t.Fatalf("want a refusal, got %v, %v", resp, err)
				}
				checkContains(t, resp.Error().Error(), c.want)
				checkSame(t, "living credentials", []string{}, e.minting.names())
				checkSame(t, "write-ahead entries", 0, len(keysBelow(t, e, framework.WALPrefix)))
				return
			}
			if err != nil || resp.IsError() {
				t.Fatalf("want a credential, got %v, %v", resp, err)
			}
			want := "registry.example.com"
			if registry, changed := c.change["registry"]; changed {
				want = registry.(string)
			}
			checkSame(t, "registry", any(want), resp.Data["registry"])
		})
	}
}

// hookedStorage runs something before a write-ahead entry is written.
type hookedStorage struct {
	logical.Storage
	before func()
}

func (s hookedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if strings.HasPrefix(entry.Key, framework.WALPrefix) {
		s.before()
	}
	return s.Storage.Put(ctx, entry)
}

// A connection that is deleted between the decision to mint and the write-ahead
// entry would leave the credential to nobody.
func TestConnectionIsNotDeletedWhileAMintBegins(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/leased", leasedRole)
	deleted := make(chan *logical.Response, 1)
	storage := hookedStorage{e.storage, func() {
		go func() {
			_, _ = e.direct(logical.DeleteOperation, "roles/leased")
			resp, _ := e.direct(logical.DeleteOperation, "connections/app")
			deleted <- resp
		}()
		time.Sleep(100 * time.Millisecond) // in which it would succeed
	}}
	resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/leased", Storage: storage})
	if err != nil || resp.IsError() {
		t.Fatalf("want a credential, got %v, %v", resp, err)
	}
	if refusal := <-deleted; !refusal.IsError() {
		t.Error("want the deletion of the connection refused")
	}
	checkSame(t, "connections", []string{"app"}, keysBelow(t, e, connectionStoragePrefix))
}

// The same for a role that is stored while its connection is deleted.
func TestConnectionIsNotDeletedWhileARoleBegins(t *testing.T) {
	e := newConnectedEngine(t)
	deleted := make(chan *logical.Response, 1)
	storage := &hookedRoleStorage{Storage: e.storage, before: func() {
		go func() {
			resp, _ := e.direct(logical.DeleteOperation, "connections/app")
			deleted <- resp
		}()
		time.Sleep(100 * time.Millisecond)
	}}
	resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.CreateOperation, Path: "roles/app", Data: overJSON(t, sharedRole), Storage: storage})
	if err != nil || resp.IsError() {
		t.Fatalf("want the role stored, got %v, %v", resp, err)
	}
	if refusal := <-deleted; !refusal.IsError() {
		t.Error("want the deletion of the connection refused")
	}
	checkSame(t, "connections", []string{"app"}, keysBelow(t, e, connectionStoragePrefix))
}

// hookedRoleStorage runs something before the index of a role's connection is
// written.
type hookedRoleStorage struct {
	logical.Storage
	before func()
}

func (s *hookedRoleStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if strings.HasPrefix(entry.Key, connectionRolesPrefix) {
		s.before()
	}
	return s.Storage.Put(ctx, entry)
}

// readAnswer is an answer to a read.
type readAnswer struct {
	path string
	resp *logical.Response
	err  error
}

// holdFirstMint has the first mint begin, which closes minting, and go on once
// goOn is closed.
func (e *engine) holdFirstMint() (minting, goOn chan struct{}) {
	minting, goOn = make(chan struct{}), make(chan struct{})
	var once sync.Once
	e.minting.during("mint", func() {
		once.Do(func() {
			close(minting)
			<-goOn
		})
	})
	return minting, goOn
}

// waitForReaders returns once so many requests wait for a rotation of the role app
// that has the cause.
func (e *engine) waitForReaders(count int, why cause) {
	for e.waitingFor(fmt.Sprintf("rotation of app, %d", why)) < count {
		time.Sleep(time.Millisecond)
	}
}

// Readers who wait for a mint, while the role is written, must not be given what
// only describes the role.
func TestReadsThatWaitWhileTheRoleIsWrittenAreNeverEmpty(t *testing.T) {
	e := newSharingEngine(t)
	e.write("roles/all", fields{"members": "app"})
	minting, goOn := e.holdFirstMint()
	answers := make(chan readAnswer)
	read := func(path string) {
		go func() {
			resp, err := e.direct(logical.ReadOperation, path)
			answers <- readAnswer{path, resp, err}
		}()
	}
	read("creds/app")
	<-minting
	paths := []string{"creds/app", "creds/app/docker", "creds/all", "creds/all/kubernetes"}
	for _, path := range paths {
		read(path)
	}
	e.waitForReaders(len(paths)+1, whenNothingServes)
	e.write("roles/app", fields{"project": "group/other"})
	close(goOn)
	good := 0
	for range len(paths) + 1 {
		answer := <-answers
		if answer.err != nil || answer.resp.IsError() {
			continue
		}
		for field, value := range answer.resp.Data {
			text, _ := value.(string)
			if strings.Contains(text, `"auth":"Og=="`) || text == "" && field == "password" {
				t.Errorf("%s: %s is empty: %q", answer.path, field, text)
			}
		}
		good++
	}
	if good < len(paths) {
		t.Errorf("want all who waited to be answered, got %d answers", good)
	}
	e.checkLiving(1)
}

// A type of connection may come to have a new default, by an upgrade or by a
// setting of the connection. What a role means is the same then.
func TestNewDefaultOfATypeReplacesNoCredential(t *testing.T) {
	e := newSharingEngine(t)
	former := e.read("creds/app")
	e.minting.mu.Lock()
	e.minting.defaults = issuer.Settings{"projects": "all"}
	e.minting.mu.Unlock()
	checkSame(t, "pull secret", former, e.read("creds/app"))
	checkSame(t, "mints", 1, e.minting.mints())

	e.write("rotate/app", nil)
	for range 3 {
		if e.read("creds/app")["password"] == former["password"] {
			t.Error("want the new credential")
		}
	}
	checkSame(t, "mints", 2, e.minting.mints())
	e.checkLiving(2)
}

// A standby of OpenBao runs the plugin and lags: what it does not find may have
// been written a moment ago.
func TestWhatAStandbyDoesNotFindIsForwarded(t *testing.T) {
	for name, state := range map[string]consts.ReplicationState{"standby": consts.ReplicationPerformanceStandby, "active": consts.ReplicationPerformanceDisabled} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t, func(conf *logical.BackendConfig) {
				conf.System = &logical.StaticSystemView{ReplicationStateVal: state}
			})
			for path, op := range map[string]logical.Operation{
				"creds/app": logical.ReadOperation, "creds/app/docker": logical.ReadOperation, "roles/app": logical.ReadOperation,
				"connections/app": logical.ReadOperation, "connections/app/check": logical.ReadOperation, "verify/app": logical.UpdateOperation,
			} {
				_, err := e.direct(op, path)
				if forwarded := errors.Is(err, logical.ErrReadOnly); forwarded != (name == "standby") {
					t.Errorf("%s: forwarded: %v (%v)", path, forwarded, err)
				}
			}
		})
	}
}

// Whatever leads to it, a pull secret that cannot pull is an error.
func TestIncompletePullSecretIsNeverAnswered(t *testing.T) {
	if _, err := dockerconfig.New(dockerconfig.Credential{Registry: "ghcr.io"}); err == nil {
		t.Error("want a Docker config without a user name and a password refused")
	}
	e := newEngine(t)
	for _, format := range e.credsFormats() {
		if fields, err := format.answer(pullSecret{}); err == nil {
			t.Errorf("%q: want an error, got %v", format.suffix, fields)
		}
	}
	e.store("roles/app", `{"schema_version":1,"type":"static","dockerconfig":{"auths":{"ghcr.io":{"auth":"Og=="}}}}`)
	if resp, err := e.request(logical.ReadOperation, "creds/app", nil); err == nil {
		t.Errorf("want an error, got %v", resp)
	}
}

// A bundle that waits for a mint must not be given a credential that the role,
// as it is written meanwhile, does not allow it.
func TestBundleThatWaitsWhileItsMemberIsWrittenIsDecidedAnew(t *testing.T) {
	e := newSharingEngine(t)
	e.write("roles/all", fields{"members": "app"})
	minting, goOn := e.holdFirstMint()
	answers := make(chan readAnswer)
	for _, path := range []string{"creds/app", "creds/all"} {
		go func() {
			resp, err := e.direct(logical.ReadOperation, path)
			answers <- readAnswer{path, resp, err}
		}()
		if path == "creds/app" {
			<-minting
		}
	}
	e.waitForReaders(2, whenNothingServes)
	e.write("roles/app", fields{"project": "group/other", "allowed_bundles": ""})
	close(goOn)
	for range 2 {
		answer := <-answers
		if answer.path == "creds/all" && (answer.err != nil || !answer.resp.IsError()) {
			t.Errorf("want the bundle refused, got %v, %v", answer.resp, answer.err)
		}
	}
}

// hookedList runs something after a list was read.
type hookedList struct {
	logical.Storage
	prefix string
	at     int // which list of the prefix
	count  int
	after  func()
}

func (s *hookedList) List(ctx context.Context, prefix string) ([]string, error) {
	names, err := s.Storage.List(ctx, prefix)
	if strings.HasPrefix(prefix, s.prefix) {
		if s.count++; s.count == s.at {
			s.after()
		}
	}
	return names, err
}

// A credential that moves from a write-ahead entry to the index of leases, while
// both are listed, must be seen in one of them.
func TestConnectionIsNotDeletedWhileAMintEnds(t *testing.T) {
	for at := 1; at <= 2; at++ {
		e := newConnectedEngine(t)
		e.write("roles/leased", leasedRole)
		minting, goOn := e.holdFirstMint()
		answered := make(chan struct{})
		go func() {
			defer close(answered)
			_, _ = e.direct(logical.ReadOperation, "creds/leased")
		}()
		<-minting
		if _, err := e.direct(logical.DeleteOperation, "roles/leased"); err != nil {
			t.Fatal(err)
		}
		storage := &hookedList{Storage: e.storage, prefix: leaseIndexPrefix, at: at, after: func() {
			close(goOn)
			<-answered
		}}
		_, _ = e.HandleRequest(t.Context(), &logical.Request{Operation: logical.DeleteOperation, Path: "connections/app", Storage: storage})
		checkSame(t, "connections", []string{"app"}, keysBelow(t, e, connectionStoragePrefix))
	}
}

// The same for one that moves from a shared role to a write-ahead entry.
func TestConnectionIsNotDeletedWhileARoleThatLeftItIsDeleted(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("connections/other", e.connectionSample())
	e.write("roles/app", sharedRole)
	e.read("creds/app")
	e.write("roles/app", with(sharedRole, fields{"connection": "other"}))
	e.minting.fail("revoke", errDown)
	storage := &hookedList{Storage: e.storage, prefix: framework.WALPrefix, at: 1, after: func() {
		if _, err := e.direct(logical.DeleteOperation, "roles/app"); err != nil {
			t.Error(err)
		}
	}}
	_, _ = e.HandleRequest(t.Context(), &logical.Request{Operation: logical.DeleteOperation, Path: "connections/app", Storage: storage})
	checkSame(t, "connections", []string{"app", "other"}, keysBelow(t, e, connectionStoragePrefix))
}

func TestOneAPIInTwoSpellings(t *testing.T) {
	for url, want := range map[string]string{
		"https://h.example.com":          "https://h.example.com",
		"https://h.example.com:443":      "https://h.example.com",
		"http://127.0.0.1:80/a":          "http://127.0.0.1/a",
		"https://h.example.com:8443/a/b": "https://h.example.com:8443/a/b",
		"https://h.example.com:80":       "https://h.example.com:80",
	} {
		checkSame(t, url, want, apiRoot(url))
	}
}
