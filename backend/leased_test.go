// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// lease reads a leased role and returns the lease as Vault keeps it.
func (e *engine) lease(path string) (*logical.Response, *logical.Secret) {
	e.t.Helper()
	resp := e.must(logical.ReadOperation, path, nil)
	if resp == nil || resp.Secret == nil {
		e.t.Fatalf("read %s: want a lease, got %v", path, resp)
	}
	checkHoldsNoSecret(e.t, "the internal data of "+path, resp.Secret.InternalData)
	secret := *resp.Secret
	secret.InternalData = overJSON(e.t, secret.InternalData)
	secret.IssueTime = e.clock.now()
	return resp, &secret
}

// onLease renews or revokes a lease, as Vault does.
func (e *engine) onLease(op logical.Operation, secret *logical.Secret) (*logical.Response, error) {
	e.t.Helper()
	kept := *secret
	resp, err := e.HandleRequest(e.t.Context(), &logical.Request{Operation: op, Path: "creds/leased", Storage: e.storage, Secret: &kept})
	checkHoldsNoSecret(e.t, fmt.Sprintf("the error of %s", op), err)
	checkHoldsNoSecret(e.t, fmt.Sprintf("the answer to %s", op), resp)
	return resp, err
}

// newLeasingEngine has a leased role, on a mount with a default lease TTL of one
// hour and a maximum of one day.
func newLeasingEngine(t *testing.T, role fields) *engine {
	t.Helper()
	e := newConnectedEngine(t)
	e.setMount(time.Hour, 24*time.Hour)
	e.write("roles/leased", with(leasedRole, role))
	e.events.Events = nil
	return e
}

func TestLeasedReadMintsOneCredentialEach(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "15m", "max_ttl": "2h"})
	resp, _ := e.lease("creds/leased")
	name := e.minting.names()[0]
	docker := dockerJSON(t, "registry.example.com", "robot", marker+name, "")
	checkSame(t, "creds/leased", fields{
		"registry": "registry.example.com", "username": "robot", "password": marker + name,
		".dockerconfigjson": docker, "dockerconfigjson": b64(docker), "expires_at": "2026-03-01T14:00:00Z",
	}, resp.Data)
	checkWarnings(t, resp.Warnings)

	resp, _ = e.lease("creds/leased/kubernetes")
	other := slices.DeleteFunc(e.minting.names(), func(living string) bool { return living == name })[0]
	checkSame(t, "creds/leased/kubernetes", fields{".dockerconfigjson": dockerJSON(t, "registry.example.com", "robot", marker+other, "")}, resp.Data)
	resp, _ = e.lease("creds/leased/docker")
	checkContains(t, resp.Data["config.json"].(string), `{"auths":{"registry.example.com":{"auth":"`)
	checkSame(t, "fields", 1, len(resp.Data))

	checkSame(t, "mints", 3, e.minting.mints())
	checkSame(t, "index", 3, len(e.indexedLeases()))
	checkSame(t, "write-ahead entries", 0, len(keysBelow(t, e, "wal/")))
	checkSame(t, "events", slices.Repeat([]string{"regcred/credential-mint creds/leased"}, 3), e.sent())
	checkSame(t, "role", with(leasedReadBack, fields{"ttl": int64(900), "max_ttl": int64(7200)}), e.read("roles/leased"))
}

// Role, mount and registry each limit how long a lease lasts.
func TestLeaseIsCapped(t *testing.T) {
	type lease struct {
		TTL, MaxTTL time.Duration
		Renewable   bool
	}
	for name, c := range map[string]struct {
		role     fields
		longest  time.Duration
		gives    time.Duration // lifetime that the registry gives; 0: as requested
		want     lease
		warnings []string
	}{
		"the mount's":             {nil, 0, 0, lease{time.Hour, 24 * time.Hour, true}, nil},
		"the role's":              {fields{"ttl": "15m", "max_ttl": "2h"}, 0, 0, lease{15 * time.Minute, 2 * time.Hour, true}, nil},
		"the mount caps":          {fields{"ttl": "30h", "max_ttl": "48h"}, 0, 0, lease{24 * time.Hour, 24 * time.Hour, false}, []string{"ttl: the lease lasts 24h0m0s instead of 30h0m0s, which is the mount's maximum"}},
		"the registry caps":       {fields{"ttl": "13h"}, 12 * time.Hour, 0, lease{12 * time.Hour, 12 * time.Hour, false}, []string{"ttl: the lease lasts 12h0m0s instead of 13h0m0s, which is the longest lifetime that the registry allows"}},
		"max_ttl caps":            {fields{"max_ttl": "30m"}, 0, 0, lease{30 * time.Minute, 30 * time.Minute, false}, nil},
		"the registry gives less": {fields{"ttl": "15m"}, 0, 20 * time.Minute, lease{15 * time.Minute, 20 * time.Minute, true}, nil},
		"and less than ttl":       {fields{"ttl": "15m"}, 0, 10 * time.Minute, lease{10 * time.Minute, 10 * time.Minute, false}, nil},
		"the registry gives more": {fields{"ttl": "15m", "max_ttl": "1h"}, 0, 48 * time.Hour, lease{15 * time.Minute, time.Hour, true}, nil},
		"the registry sets none":  {fields{"ttl": "15m", "max_ttl": "1h"}, 0, -1, lease{15 * time.Minute, time.Hour, true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := newLeasingEngine(t, c.role)
			e.minting.longest = c.longest
			switch {
			case c.gives > 0:
				e.minting.expires = func(time.Time) time.Time { return noon.Add(c.gives) }
			case c.gives < 0:
				e.minting.expires = func(time.Time) time.Time { return time.Time{} }
			}
			resp, secret := e.lease("creds/leased")
			checkSame(t, "lease", c.want, lease{secret.TTL, secret.MaxTTL, secret.Renewable})
			checkWarnings(t, resp.Warnings, c.warnings...)
			if c.gives < 0 {
				checkSame(t, "expires_at", any(nil), resp.Data["expires_at"])
			}
		})
	}
}

func TestLeaseRevokesAfterEverythingElseIsGone(t *testing.T) {
	e := newLeasingEngine(t, nil)
	_, first := e.lease("creds/leased")
	_, second := e.lease("creds/leased")
	e.write("connections/app", fields{"allowed_roles": "", "allowed_targets": "nothing"})
	e.must(logical.DeleteOperation, "roles/leased", nil)
	e.refused(logical.DeleteOperation, "connections/app", nil, "2 leased credentials")
	e.sent()

	e.minting.fail("revoke", errDown)
	if _, err := e.onLease(logical.RevokeOperation, first); err == nil {
		t.Error("the registry is down: want an error, on which Vault tries again")
	} else {
		checkContains(t, err.Error(), "there was no complete answer within the time limit")
	}
	checkSame(t, "index", 2, len(e.indexedLeases()))
	checkSame(t, "events", []string{}, e.sent())
	e.minting.mend()

	for i, secret := range []*logical.Secret{first, first, second} { // a credential that is gone counts as revoked
		if resp, err := e.onLease(logical.RevokeOperation, secret); err != nil || resp != nil {
			t.Errorf("%d: want no error and no response, got %v, %v", i, err, resp)
		}
	}
	checkSame(t, "living credentials", []string{}, e.minting.names())
	checkSame(t, "index", 0, len(e.indexedLeases()))
	checkSame(t, "events", slices.Repeat([]string{"regcred/credential-revoke creds/leased"}, 3), e.sent())
	e.must(logical.DeleteOperation, "connections/app", nil)
}

func TestLeaseOfAConnectionDeletedByForceEnds(t *testing.T) {
	e := newLeasingEngine(t, nil)
	_, secret := e.lease("creds/leased")
	e.must(logical.DeleteOperation, "roles/leased", nil)
	e.must(logical.DeleteOperation, "connections/app", fields{"force": true})
	if _, err := e.onLease(logical.RevokeOperation, secret); err != nil {
		t.Errorf("want success, because what the connection had minted was given up, got %v", err)
	}
}

func TestLeaseIsRenewedUpToItsOriginalEnd(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "1h", "max_ttl": "3h"})
	_, secret := e.lease("creds/leased")
	renew := func(want time.Duration) {
		t.Helper()
		resp, err := e.onLease(logical.RenewOperation, secret)
		if err != nil || resp.IsError() {
			t.Fatalf("want a renewal, got %v, %v", resp, err)
		}
		checkSame(t, "TTL", want, resp.Secret.TTL)
		// Vault may take an increment in place of the TTL, up to what the index has.
		knows, _, _ := parseExpiryKey(e.indexedLeases()[0])
		checkSame(t, "MaxTTL", min(3*time.Hour, knows.Add(leaseSlack).Sub(secret.IssueTime)), resp.Secret.MaxTTL)
	}
	renew(time.Hour)
	e.clock.advance(90 * time.Minute)
	renew(time.Hour)
	e.write("roles/leased", fields{"ttl": "20m"}) // a renewal uses the current ttl of the role
	renew(20 * time.Minute)
	e.write("roles/leased", fields{"ttl": 0})
	renew(time.Hour) // the mount's default
	e.clock.advance(time.Hour)
	renew(30 * time.Minute)
	e.clock.advance(30 * time.Minute)
	e.checkNotRenewed(secret, "the credential has come to the end of its max_ttl; read creds/leased again")
	checkSame(t, "mints", 1, e.minting.mints())
}

func (e *engine) checkNotRenewed(secret *logical.Secret, want string) {
	e.t.Helper()
	resp, err := e.onLease(logical.RenewOperation, secret)
	if err != nil || !resp.IsError() {
		e.t.Fatalf("want a refusal, got %v, %v", resp, err)
	}
	checkContains(e.t, resp.Error().Error(), want)
}

func TestLeaseOfARoleThatIsGoneIsNotRenewed(t *testing.T) {
	e := newLeasingEngine(t, nil)
	_, secret := e.lease("creds/leased")
	for name, role := range map[string]fields{"none": nil, "a shared one": sharedRole, "a static one": credential} {
		e.must(logical.DeleteOperation, "roles/leased", nil)
		if role != nil {
			e.write("roles/leased", role)
		}
		t.Log(name)
		e.checkNotRenewed(secret, `role "leased" is not there any more; read another role and let this lease end`)
	}
}

func TestMalformedLeaseIsAnError(t *testing.T) {
	e := newLeasingEngine(t, nil)
	for _, internal := range []any{nil, 1, "{", `{"ends":"` + "x" + `"}`} {
		_, secret := e.lease("creds/leased")
		secret.InternalData["lease"] = internal
		for _, op := range []logical.Operation{logical.RenewOperation, logical.RevokeOperation} {
			if resp, err := e.onLease(op, secret); err == nil || resp != nil {
				t.Errorf("%s with %v: want an error, got %v", op, internal, resp)
			} else {
				checkContains(t, err.Error(), "the lease's internal data cannot be understood")
			}
		}
	}
}

func TestLeaseNeedsTheStorage(t *testing.T) {
	for op, calls := range map[logical.Operation]int64{logical.RenewOperation: 1, logical.RevokeOperation: 2} {
		for failAt := int64(1); failAt <= calls; failAt++ {
			e := newLeasingEngine(t, nil)
			_, secret := e.lease("creds/leased")
			e.storage = e.faulty(failAt)
			if _, err := e.onLease(op, secret); !errors.Is(err, errStorage) {
				t.Errorf("%s, storage call %d fails: want its error, got %v", op, failAt, err)
			}
		}
	}
}

// A rollback of the remaining write-ahead entry would revoke a credential that is
// in use.
func TestCredentialWhoseWriteAheadEntryStaysIsNotLeased(t *testing.T) {
	e := newLeasingEngine(t, nil)
	working := e.storage
	e.storage = walStorage{working}
	_, err := e.request(logical.ReadOperation, "creds/leased", nil)
	e.storage = working
	if !errors.Is(err, errStorage) {
		t.Errorf("want the storage's error, got %v", err)
	}
	checkSame(t, "living credentials", []string{}, e.minting.names())
	if err := e.rollBack(); err != nil {
		t.Error(err)
	}
	checkSame(t, "index", 0, len(e.indexedLeases()))
}

// The same where the credential cannot be revoked at first: nothing is remembered of it
// once the rollback has ended it.
func TestCredentialWhoseWriteAheadEntryStaysIsForgotten(t *testing.T) {
	e := newLeasingEngine(t, nil)
	e.minting.fail("revoke", errAmbiguous)
	if err := onPath(logical.ReadOperation, "creds/leased")(e, walStorage{e.storage}); !errors.Is(err, errStorage) {
		t.Errorf("want the storage's error, got %v", err)
	}
	remembered := func() int {
		return e.attentions.countUnrevoked("app")
	}
	checkSame(t, "remembered", 1, remembered())
	e.minting.mend()
	e.mustRollBack()
	checkSame(t, "living credentials", []string{}, e.minting.names())
	checkSame(t, "index", 0, len(e.indexedLeases()))
	checkSame(t, "remembered after the rollback", 0, remembered())
}

// walStorage does not delete write-ahead entries.
type walStorage struct{ logical.Storage }

func (s walStorage) Delete(ctx context.Context, key string) error {
	if strings.HasPrefix(key, "wal/") {
		return errStorage
	}
	return s.Storage.Delete(ctx, key)
}

func TestLeasedReadOfAFailingRegistry(t *testing.T) {
	for name, c := range map[string]struct {
		fail   func(*mintingRegistry)
		living int
		wals   int
	}{
		"refuses":               {func(r *mintingRegistry) { r.fail("mint", errRefused) }, 0, 0},
		"fails before it acts":  {func(r *mintingRegistry) { r.fail("mint", errAmbiguous) }, 0, 1},
		"fails after it acted":  {func(r *mintingRegistry) { r.failAfter("mint", errAmbiguous) }, 1, 1},
		"cuts the connection":   {func(r *mintingRegistry) { r.failAfter("mint", errDown) }, 1, 1},
		"gives no user name":    {func(r *mintingRegistry) { r.username = "" }, 1, 1},
		"gives an empty secret": {func(r *mintingRegistry) { r.password = func(string) string { return "" } }, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			e := newLeasingEngine(t, nil)
			c.fail(e.minting)
			e.failed(logical.ReadOperation, "creds/leased", nil, http.StatusBadGateway,
				`role "leased"`, e.minting.url)
			checkSame(t, "living credentials", c.living, len(e.minting.names()))
			checkSame(t, "write-ahead entries", c.wals, len(keysBelow(t, e, "wal/")))
			checkSame(t, "index", 0, len(e.indexedLeases()))
			checkSame(t, "events", []string{}, e.sent())
			e.minting.mend()
			if err := e.rollBack(); err != nil {
				t.Errorf("rollback: %v", err)
			}
			checkSame(t, "living credentials after a rollback", []string{}, e.minting.names())
			checkSame(t, "write-ahead entries after a rollback", 0, len(keysBelow(t, e, "wal/")))
		})
	}
}

func TestLeasedReadOfARegistryThatIsNotAllowed(t *testing.T) {
	e := newLeasingEngine(t, nil)
	e.write("config", fields{"allowed_registries": "other.example.com"})
	e.refused(logical.ReadOperation, "creds/leased", nil, `registry "registry.example.com"`)
	checkSame(t, "living credentials", []string{}, e.minting.names())
}

func TestLeasedReadIsForwardedFromAStandby(t *testing.T) {
	e := newLeasingEngine(t, nil)
	for state, forwarded := range map[consts.ReplicationState]bool{
		consts.ReplicationPerformanceStandby:   true,
		consts.ReplicationDRSecondary:          true,
		consts.ReplicationPerformanceSecondary: false, // leases are local to a cluster
	} {
		e.System().(*logical.StaticSystemView).ReplicationStateVal = state
		_, err := e.request(logical.ReadOperation, "creds/leased", nil)
		if got := errors.Is(err, logical.ErrReadOnly); got != forwarded {
			t.Errorf("%v: forwarded is %v, error %v", state, got, err)
		}
	}
}

// The sweep revokes credentials whose lease Vault does not know or gave up.
func TestSweepRevokesWhatVaultDoesNot(t *testing.T) {
	e := newLeasingEngine(t, fields{"max_ttl": "2h"})
	e.lease("creds/leased")
	e.lease("creds/leased")
	e.store(leasePrefix("app")+"odd", "")
	sweep := func(after time.Duration, living, indexed int) {
		t.Helper()
		e.clock.advance(after)
		if err := e.rollBack(); err != nil {
			t.Fatalf("periodic: %v", err)
		}
		checkSame(t, "living credentials", living, len(e.minting.names()))
		checkSame(t, "index", indexed, len(e.indexedLeases()))
	}
	sweep(0, 2, 3)
	sweep(time.Hour+leaseMargin-time.Second, 2, 3)
	e.minting.fail("revoke", errDown)
	sweep(time.Minute, 2, 3)
	e.minting.mend()
	sweep(time.Second, 2, 3) // a registry that did not answer is left alone for a moment
	sweep(time.Minute, 0, 1)
}

func TestSweepNeedsTheStorage(t *testing.T) {
	for failAt := int64(1); failAt <= 6; failAt++ {
		e := newLeasingEngine(t, fields{"max_ttl": "2h"})
		e.lease("creds/leased")
		e.clock.advance(3 * time.Hour)
		faulty := e.faulty(failAt)
		working := e.storage
		e.storage = faulty
		e.minute()
		if faulty.calls.Load() < failAt {
			t.Errorf("want at least %d calls of the storage", failAt)
		}
		e.storage = working
		e.minute()
		checkSame(t, "living credentials", []string{}, e.minting.names())
		checkSame(t, "index", 0, len(e.indexedLeases()))
	}
}

// A credential that the registry cannot revoke expires by itself. It needs no
// write-ahead entry and no index key.
func TestLeaseOfACredentialThatCannotBeRevoked(t *testing.T) {
	e := newLeasingEngine(t, nil)
	e.write("connections/brief", with(e.connectionSample(), fields{"type": "brief"}))
	e.write("roles/leased-brief", with(leasedRole, fields{"connection": "brief"}))
	counting := e.faulty(-1)
	before := e.snapshot()
	e.storage = counting
	_, secret := e.lease("creds/leased-brief")
	checkSame(t, "storage", before, e.snapshot())
	e.minting.fail("revoke", errDown)
	if _, err := e.onLease(logical.RevokeOperation, secret); err != nil {
		t.Errorf("want nothing to be done, got %v", err)
	}
}
