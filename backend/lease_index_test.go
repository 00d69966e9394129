// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// everyMinute is what Vault does for a time.
func (e *engine) everyMinute(long time.Duration) {
	e.t.Helper()
	for end := e.clock.now().Add(long); e.clock.now().Before(end); {
		e.clock.advance(min(time.Minute, end.Sub(e.clock.now())))
		e.mustRollBack()
	}
}

func (e *engine) checkAlive(want int) {
	e.t.Helper()
	checkSame(e.t, "number of living credentials", want, len(e.minting.names()))
}

// endedByNow is how long after the end of a lease its credential is gone.
const endedByNow = 2 * time.Minute

// renewed renews a lease, with an increment, and returns it as Vault stores it.
func (e *engine) renewed(secret *logical.Secret, increment time.Duration) *logical.Secret {
	e.t.Helper()
	kept := *secret
	kept.InternalData, kept.Increment = maps.Clone(secret.InternalData), increment
	resp, err := e.onLease(logical.RenewOperation, &kept)
	if err != nil || resp.IsError() {
		e.t.Fatalf("want a renewal, got %v, %v", resp, err)
	}
	stored := *resp.Secret
	stored.InternalData = overJSON(e.t, stored.InternalData)
	return &stored
}

// Nobody has the lease of a credential whose answer was lost. It lives no longer
// than the lease would have.
func TestCredentialWithoutALeaseEndsAfterItsTTL(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "15m", "max_ttl": "24h"})
	e.mustRollBack()
	e.lease("creds/leased")
	e.everyMinute(15 * time.Minute)
	e.checkAlive(1)
	e.everyMinute(endedByNow)
	e.checkAlive(0)
	checkSame(t, "index", 0, len(e.indexedLeases()))
}

func TestRenewedLeaseMovesTheEndOfItsCredential(t *testing.T) {
	for name, increment := range map[string]time.Duration{"the role's ttl": 0, "a shorter increment": 5 * time.Minute, "a longer one": 3 * time.Hour, "one beyond max_ttl": 300 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			e := newLeasingEngine(t, fields{"ttl": "15m", "max_ttl": "20h"})
			_, secret := e.lease("creds/leased")
			for range 3 {
				e.everyMinute(4 * time.Minute)
				secret = e.renewed(secret, increment)
			}
			lasts := increment
			if lasts == 0 {
				lasts = 15 * time.Minute
			}
			lasts = min(lasts, 20*time.Hour-12*time.Minute)
			checkSame(t, "index", 1, len(e.indexedLeases()))
			e.everyMinute(lasts)
			e.checkAlive(1)
			e.everyMinute(endedByNow)
			e.checkAlive(0)
			checkSame(t, "index", 0, len(e.indexedLeases()))
		})
	}
}

// The mount's maximum may have become less than what the lease was given with.
func TestLeaseIsNotRenewedBeyondTheMaximumOfTheMount(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "15m", "max_ttl": "20h"})
	_, secret := e.lease("creds/leased")
	e.setMount(time.Hour, 2*time.Hour)
	e.clock.advance(110 * time.Minute)
	secret = e.renewed(secret, 0)
	checkSame(t, "TTL", 10*time.Minute, secret.TTL)
	e.clock.advance(10 * time.Minute)
	e.checkNotRenewed(secret, "the credential has come to the end of its max_ttl")
}

// An earlier build takes the field ends for the latest end of a lease, and for
// that in the key of the index. After a roll-back it renews no lease beyond what
// the index knows, and finds the key when the lease is revoked.
func TestLeaseCanBeGoneOnWithByAnEarlierBuild(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "15m", "max_ttl": "2h"})
	_, secret := e.lease("creds/leased")
	e.clock.advance(10 * time.Minute)
	secret = e.renewed(secret, 0)
	var internal struct {
		SchemaVersion int       `json:"schema_version"`
		Name          string    `json:"name"`
		Ends          time.Time `json:"ends"`
		Latest        time.Time `json:"latest"`
	}
	if err := json.Unmarshal([]byte(secret.InternalData["lease"].(string)), &internal); err != nil {
		t.Fatal(err)
	}
	checkSame(t, "version", 1, internal.SchemaVersion)
	checkSame(t, "end", noon.Add(25*time.Minute), internal.Ends)
	checkSame(t, "latest end", noon.Add(2*time.Hour), internal.Latest)
	checkSame(t, "index", []string{internal.Ends.Format(expiryKeyTime) + internal.Name}, e.indexedLeases())
}

// A lease of an earlier build stands in the index with the latest time to which
// it can be renewed. The first renewal moves it.
func TestLeaseOfAnEarlierBuildMovesWhenItIsRenewed(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "15m", "max_ttl": "20h"})
	_, secret := e.lease("creds/leased")
	key := e.indexedLeases()[0]
	latest := noon.Add(20 * time.Hour)
	var internal fields
	if err := json.Unmarshal([]byte(secret.InternalData["lease"].(string)), &internal); err != nil {
		t.Fatal(err)
	}
	delete(internal, "latest")
	internal["ends"] = latest
	encoded, err := json.Marshal(internal)
	if err != nil {
		t.Fatal(err)
	}
	secret.InternalData["lease"] = string(encoded)
	name := strings.TrimPrefix(key, noon.Add(15*time.Minute).Format(expiryKeyTime))
	e.store(leasePrefix("app")+latest.Format(expiryKeyTime)+name, e.snapshot()[leasePrefix("app")+key])
	if err := e.storage.Delete(t.Context(), leasePrefix("app")+key); err != nil {
		t.Fatal(err)
	}
	e.everyMinute(10 * time.Hour)
	e.checkAlive(1)
	secret = e.renewed(secret, 0)
	checkSame(t, "index", []string{noon.Add(10*time.Hour+15*time.Minute).Format(expiryKeyTime) + name}, e.indexedLeases())
	checkSame(t, "MaxTTL", 10*time.Hour+15*time.Minute+leaseSlack, secret.MaxTTL)
	secret = e.renewed(secret, 300*time.Hour)
	checkSame(t, "MaxTTL", 20*time.Hour, secret.MaxTTL)
	if _, err := e.onLease(logical.RevokeOperation, secret); err != nil {
		t.Error(err)
	}
	checkSame(t, "index", 0, len(e.indexedLeases()))
}

// A renewal that Vault does not store leaves a lease that does not know its key.
func TestRenewalThatVaultLostIsRepeated(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "15m", "max_ttl": "20h"})
	_, secret := e.lease("creds/leased")
	e.clock.advance(5 * time.Minute)
	e.renewed(secret, 0)
	e.clock.advance(5 * time.Minute)
	secret = e.renewed(secret, 0)
	checkSame(t, "index", 1, len(e.indexedLeases()))
	e.everyMinute(15 * time.Minute)
	e.checkAlive(1)
	if _, err := e.onLease(logical.RevokeOperation, secret); err != nil {
		t.Error(err)
	}
	checkSame(t, "index", 0, len(e.indexedLeases()))
}

// A renewal is answered only once the index knows it.
func TestRenewalNeedsTheIndex(t *testing.T) {
	for failAt := int64(1); ; failAt++ {
		e := newLeasingEngine(t, fields{"ttl": "15m", "max_ttl": "20h"})
		_, secret := e.lease("creds/leased")
		e.clock.advance(5 * time.Minute)
		faulty := e.faulty(failAt)
		e.storage = faulty
		kept := *secret
		kept.InternalData = maps.Clone(secret.InternalData)
		_, err := e.onLease(logical.RenewOperation, &kept)
		e.storage = faulty.Storage
		if faulty.calls.Load() < failAt {
			if failAt < 4 {
				t.Errorf("want the role, and a read, a write and a deletion in the index, got %d calls", failAt-1)
			}
			return
		}
		if !errors.Is(err, errStorage) {
			t.Errorf("storage call %d fails: want its error, got %v", failAt, err)
		}
		e.everyMinute(10 * time.Minute)
		e.checkAlive(1)
		e.everyMinute(5*time.Minute + endedByNow) // as if it had been renewed
		e.checkAlive(0)
		checkSame(t, "index", 0, len(e.indexedLeases()))
	}
}

// A lease whose credential was ended, or is being ended, is not renewed.
func TestLeaseWhoseCredentialWasEndedIsNotRenewed(t *testing.T) {
	const ended = "the credential of this lease was ended, or is about to be; read creds/leased again"
	e := newLeasingEngine(t, fields{"ttl": "15m", "max_ttl": "20h"})
	_, secret := e.lease("creds/leased")
	e.minting.fail("revoke", errAmbiguous)
	if _, err := e.onLease(logical.RevokeOperation, secret); err == nil {
		t.Error("want an error")
	}
	e.checkNotRenewed(secret, ended)
	e.minting.mend()
	e.everyMinute(endedByNow)
	e.checkAlive(0)
	e.checkNotRenewed(secret, ended)
}

// Vault gives up a lease by revoke-force, or after six attempts. The engine goes
// on, at once and with a back-off.
func TestRevocationThatFailedIsTriedAgainSoon(t *testing.T) {
	for name, fault := range map[string]error{"down": errDown, "failing": errAmbiguous} {
		t.Run(name, func(t *testing.T) {
			e := newLeasingEngine(t, fields{"ttl": "10h", "max_ttl": "20h"})
			e.mustRollBack()
			_, secret := e.lease("creds/leased")
			e.minting.fail("revoke", fault)
			for range 3 { // Vault tries again, too
				if _, err := e.onLease(logical.RevokeOperation, secret); err == nil {
					t.Error("want an error")
				}
			}
			checkSame(t, "index", 1, len(e.indexedLeases()))
			e.minting.mend()
			e.everyMinute(endedByNow)
			e.checkAlive(0)
			checkSame(t, "index", 0, len(e.indexedLeases()))
		})
	}
}

// The same where Vault has not stored the last renewal.
func TestRevocationThatFailedIsTriedAgainSoonWhateverTheIndexHas(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "10h", "max_ttl": "20h"})
	e.mustRollBack()
	_, secret := e.lease("creds/leased")
	e.clock.advance(time.Hour)
	e.renewed(secret, 0)
	e.minting.fail("revoke", errAmbiguous)
	for range 3 {
		if _, err := e.onLease(logical.RevokeOperation, secret); err == nil {
			t.Error("want an error")
		}
	}
	checkSame(t, "index", 1, len(e.indexedLeases()))
	e.minting.mend()
	e.everyMinute(endedByNow)
	e.checkAlive(0)
	checkSame(t, "index", 0, len(e.indexedLeases()))
}

func TestFailedRevocationsAreTriedEverMoreSeldom(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "10h", "max_ttl": "20h"})
	_, secret := e.lease("creds/leased")
	attempts := 0
	e.minting.before = func(call string) error {
		if call == "revoke" {
			attempts++
		}
		return errAmbiguous
	}
	if _, err := e.onLease(logical.RevokeOperation, secret); err == nil {
		t.Error("want an error")
	}
	e.everyMinute(3*time.Hour + 10*time.Minute)
	// After 1, 2, 4, 8, 16, 32, 60 and 60 minutes.
	checkSame(t, "attempts", 9, attempts)
	checkSame(t, "stored attempts", 9.0, e.stored(leasePrefix("app") + e.indexedLeases()[0])["attempts"])
	e.minting.mend()
	e.everyMinute(time.Hour)
	e.checkAlive(0)
}

// An entry that cannot be read, or whose credential cannot be ended, does not stop
// those behind it.
func TestSweepGoesOnAfterWhatItCannotEnd(t *testing.T) {
	for name, fault := range map[string]error{"refused": errRefused, "unanswered": errDown} {
		t.Run(name, func(t *testing.T) {
			e := newLeasingEngine(t, fields{"ttl": "15m"})
			e.store(leasePrefix("app")+noon.Format(expiryKeyTime)+"unreadable", "damaged")
			for range 4 {
				e.lease("creds/leased")
				e.clock.advance(time.Second)
			}
			first := "id-" + e.indexedLeases()[1][len(expiryKeyTime):]
			e.minting.failRevoking = map[string]error{first: fault}
			e.everyMinute(15*time.Minute + endedByNow + time.Minute)
			e.checkAlive(1)
			checkSame(t, "index", 2, len(e.indexedLeases()))
			e.minting.failRevoking = nil
			e.everyMinute(5 * time.Minute)
			e.checkAlive(0)
			checkSame(t, "index", 1, len(e.indexedLeases()))
		})
	}
}

// The index is not listed while nothing in it can be due, and at once when the
// clock went back.
func TestSweepIsDue(t *testing.T) {
	var s schedule
	check := func(what string, now time.Time, want bool) {
		t.Helper()
		checkSame(t, what, want, s.sweepIsDue(now))
	}
	check("at first", noon, true)
	s.beginSweep(noon)
	check("just listed", noon, false)
	check("after long", noon.Add(sweepEvery), true)
	s.sweepBy(noon.Add(5 * time.Minute))
	s.sweepBy(noon.Add(7 * time.Minute))
	check("before the first is due", noon.Add(5*time.Minute-1), false)
	check("when the first is due", noon.Add(5*time.Minute), true)
	check("the clock went back", noon.Add(-1), true)
	s.forgetSweep()
	check("on a standby", noon, true)
}

// endings are all that has something ended at a registry.
var endings = map[string]func(e *engine, storage logical.Storage, lease *logical.Secret) error{
	"revocation of a lease": func(e *engine, storage logical.Storage, lease *logical.Secret) error {
		_, err := e.HandleRequest(e.t.Context(), &logical.Request{Operation: logical.RevokeOperation, Path: "creds/leased", Storage: storage, Secret: lease})
		return err
	},
	"sweep": func(e *engine, storage logical.Storage, _ *logical.Secret) error {
		_, err := e.sweepConnection(e.t.Context(), storage, "app")
		return err
	},
	"end of a grace period": func(e *engine, storage logical.Storage, _ *logical.Secret) error {
		return e.revokeRetired(e.t.Context(), storage, "app")
	},
	"rollback of a mint": func(e *engine, storage logical.Storage, lease *logical.Secret) error {
		l, err := leaseOf(&logical.Request{Secret: lease})
		if err != nil {
			return err
		}
		return e.backend.rollBack(e.t.Context(), storage, walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: l.credentialRef})
	},
	"rollback of a rotate-root": func(e *engine, storage logical.Storage, _ *logical.Secret) error {
		name := "regcred-app-orphan"
		e.minting.admins[marker+name] = true
		return e.backend.rollBack(e.t.Context(), storage, walRoot, walRootEntry{SchemaVersion: schemaVersion, Connection: "app", ConnectionID: "id-1", Name: name})
	},
	"rest of a rotate-root": func(e *engine, storage logical.Storage, _ *logical.Secret) error {
		e.minting.fail("retire", errDown)
		e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, 502)
		e.minting.mend()
		return e.finishRootRotationOf(e.t.Context(), storage, "app")
	},
	"refused rotate-root": func(e *engine, storage logical.Storage, _ *logical.Secret) error {
		e.minting.fail("activate", errRefused)
		e.minting.after = func(call string) error { return map[string]error{"discard": errDown}[call] }
		e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, 502)
		e.minting.fail("activate", errRefused)
		return e.finishRootRotationOf(e.t.Context(), storage, "app")
	},
}

// A node that was paused while another one took over may go on for a moment
// with what it knew. It cannot write any more, and must not end anything: leases
// were renewed, and roles and connections changed, by the other.
func TestNodeThatCannotWriteEndsNothing(t *testing.T) {
	for name, act := range endings {
		t.Run(name, func(t *testing.T) {
			e := newLeasingEngine(t, fields{"ttl": "15m"})
			e.write("roles/app", with(sharedRole, fields{"grace_period": "0s"}))
			e.read("creds/app")
			e.write("rotate/app", nil)
			_, lease := e.lease("creds/leased")
			e.clock.advance(time.Hour)
			var called []string
			working := noWriting{e.storage, func() {
				e.minting.mu.Lock()
				defer e.minting.mu.Unlock()
				inner := e.minting.before
				e.minting.before = func(call string) error {
					if slices.Contains([]string{"revoke", "activate", "discard", "retire"}, call) {
						called = append(called, call)
					}
					if inner != nil {
						return inner(call)
					}
					return nil
				}
			}}
			if err := act(e, &working, lease); !errors.Is(err, errStorage) {
				t.Errorf("want the storage's error, got %v", err)
			}
			checkSame(t, "calls that end something", []string(nil), called)
			e.checkAlive(3)
		})
	}
}

// noWriting refuses to write, and runs a function at the first use.
type noWriting struct {
	logical.Storage
	first func()
}

func (s *noWriting) use() {
	if s.first != nil {
		s.first()
		s.first = nil
	}
}

func (s *noWriting) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.use()
	return s.Storage.Get(ctx, key)
}

func (s *noWriting) List(ctx context.Context, prefix string) ([]string, error) {
	s.use()
	return s.Storage.List(ctx, prefix)
}

func (s *noWriting) Put(context.Context, *logical.StorageEntry) error {
	s.use()
	return errStorage
}

func (s *noWriting) Delete(context.Context, string) error {
	s.use()
	return errStorage
}

// A client that hangs up gets nothing and leaves nothing behind, however
// far its request was.
func TestClientThatHangsUpLeavesNothing(t *testing.T) {
	for at := 1; ; at++ {
		e := newLeasingEngine(t, nil)
		ctx, hangUp := context.WithCancel(t.Context())
		hung := &hangingUp{Storage: e.storage, at: at, hangUp: hangUp}
		resp, err := e.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/leased", Storage: hung})
		e.background.Wait()
		if hung.writes < at {
			if at < 4 {
				t.Fatalf("want three writes at least, got %d", hung.writes)
			}
			return
		}
		hangUp()
		if err == nil {
			t.Errorf("write %d: want an error, got %v", at, resp)
		}
		checkSame(t, fmt.Sprintf("write %d: living credentials", at), []string{}, e.minting.names())
		checkSame(t, fmt.Sprintf("write %d: index", at), []string(nil), e.indexedLeases())
		checkSame(t, fmt.Sprintf("write %d: write-ahead entries", at), 0, len(keysBelow(t, e, framework.WALPrefix)))
	}
}

// hangingUp has a client hang up during a write. As in Vault, a request that has
// ended cannot use the storage.
type hangingUp struct {
	logical.Storage
	at, writes int
	hangUp     func()
}

func (s *hangingUp) write(ctx context.Context) error {
	if s.writes++; s.writes == s.at {
		s.hangUp()
	}
	return ctx.Err()
}

func (s *hangingUp) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := s.write(ctx); err != nil {
		return err
	}
	return s.Storage.Put(ctx, entry)
}

func (s *hangingUp) Delete(ctx context.Context, key string) error {
	if err := s.write(ctx); err != nil {
		return err
	}
	return s.Storage.Delete(ctx, key)
}

// A connection that has nothing left at the registry can be deleted, whatever
// the index says.
func TestConnectionWhoseCredentialsAreGoneCanBeDeleted(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "15m"})
	for range 3 {
		e.lease("creds/leased")
	}
	e.must(logical.DeleteOperation, "roles/leased", nil)
	const inUse = `connection "app" is in use: `
	e.refused(logical.DeleteOperation, "connections/app", nil, inUse+"3 leased credentials;")
	names := e.minting.names()
	e.minting.end(names[0], names[2])
	e.minting.fail("find", errDown)
	e.refused(logical.DeleteOperation, "connections/app", nil, inUse+"3 leased credentials;")
	e.minting.mend()
	resp, err := e.request(logical.DeleteOperation, "connections/app", nil)
	if err != nil || !resp.IsError() {
		t.Fatalf("want a refusal, got %v, %v", resp, err)
	}
	checkContains(t, resp.Error().Error(), inUse+"1 leased credentials;")
	checkSame(t, "index", 1, len(e.indexedLeases()))
	e.minting.end(names[1])
	e.must(logical.DeleteOperation, "connections/app", nil)
	checkSame(t, "index", 0, len(e.indexedLeases()))
}

// Nobody can revoke leases that are not there.
func TestDeletingAConnectionTellsWhatCannotBeRevoked(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "15m"})
	_, secret := e.lease("creds/leased")
	e.lease("creds/leased")
	e.must(logical.DeleteOperation, "roles/leased", nil)
	e.minting.fail("revoke", errDown)
	if _, err := e.onLease(logical.RevokeOperation, secret); err == nil {
		t.Error("want an error")
	}
	e.refused(logical.DeleteOperation, "connections/app", nil, "1 leased credentials, 1 credentials whose revocation failed and is tried again;", "credentials without a lease are ended within two minutes after their ttl")
	e.minting.mend()
	e.everyMinute(15*time.Minute + endedByNow)
	e.must(logical.DeleteOperation, "connections/app", nil)
}

// A credential whose request died before anybody got it need not live for
// the minutes that a write-ahead entry stays.
func TestCredentialOfADeadRequestEndsSoon(t *testing.T) {
	for name, path := range map[string]string{"leased": "creds/leased", "shared": "creds/app"} {
		t.Run(name, func(t *testing.T) {
			e := newLeasingEngine(t, nil)
			e.write("roles/app", sharedRole)
			m := &mortality{dieAt: 4} // after the mint
			e.mortal(m)
			if err := onPath(logical.ReadOperation, path)(e, mortalStorage{e.storage, m}); err == nil {
				t.Fatal("want no answer")
			}
			next := e.restarted(t)
			periodic := next.minute
			done := next.markInProgress(e.minting.names()[0])
			next.clock.advance(time.Minute)
			periodic()
			next.checkAlive(1)
			done()
			next.minting.fail("find", errDown)
			periodic()
			next.checkAlive(1)
			next.minting.mend()
			next.clock.advance(time.Minute)
			periodic()
			next.checkAlive(0)
			checkSame(t, "write-ahead entries", 0, len(keysBelow(t, next, framework.WALPrefix)))
		})
	}
}

// A registry may act later on what a dead process has sent, so an entry of what
// is not there stays.
func TestWriteAheadEntryOfWhatIsNotThereYetStays(t *testing.T) {
	e := newConnectedEngine(t)
	const late = "regcred-app-late"
	e.mustPutWAL(walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "app", Name: late}, WrittenAt: noon})
	for range 3 {
		e.clock.advance(time.Minute)
		e.minute()
		checkSame(t, "write-ahead entries", 1, len(keysBelow(t, e, framework.WALPrefix)))
	}
	e.minting.living[late] = true
	e.clock.advance(time.Minute)
	e.minute()
	e.checkAlive(0)
	checkSame(t, "write-ahead entries", 0, len(keysBelow(t, e, framework.WALPrefix)))
}

// vaultLease is a lease as Vault has it.
type vaultLease struct {
	name   string
	secret *logical.Secret
	ends   time.Time // in Vault
	known  time.Time // the latest end that a renewal, stored or not, may have given it
}

// TestIndexAndVaultAgree has random leases renewed by random increments, with
// answers that Vault does not store, and writes that fail. No credential ends
// before its lease does, and none lives for more than two minutes after it.
func TestIndexAndVaultAgree(t *testing.T) {
	for seed := range uint64(8) {
		random := rand.New(rand.NewPCG(seed, 0))
		e := newLeasingEngine(t, fields{"ttl": "10m", "max_ttl": "3h"})
		var leases []*vaultLease
		for minute := range 5 * 60 {
			if minute < 2*60 && random.IntN(4) == 0 {
				leases = append(leases, e.newVaultLease())
			}
			for _, l := range leases {
				if random.IntN(6) == 0 {
					e.renewAtRandom(l, random)
				}
			}
			e.everyMinute(time.Minute)
			living := e.minting.names()
			now := e.clock.now()
			for _, l := range leases {
				switch alive := slices.Contains(living, l.name); {
				case !alive && now.Before(l.ends):
					t.Fatalf("seed %d, minute %d: the credential of a lease that ends in %s is dead", seed, minute, l.ends.Sub(now))
				case alive && now.Sub(l.known) > endedByNow:
					t.Fatalf("seed %d, minute %d: the credential of a lease that ended %s ago is alive", seed, minute, now.Sub(l.known))
				}
			}
		}
		e.checkAlive(0)
		checkSame(t, "index", 0, len(e.indexedLeases()))
	}
}

func (e *engine) newVaultLease() *vaultLease {
	before := e.minting.names()
	resp, secret := e.lease("creds/leased")
	name := slices.DeleteFunc(e.minting.names(), func(name string) bool { return slices.Contains(before, name) })[0]
	ends := e.clock.now().Add(resp.Secret.TTL)
	return &vaultLease{name: name, secret: secret, ends: ends, known: ends}
}

// renewAtRandom renews a lease as Vault does: see Renew and revokeEntry of its
// ExpirationManager, and [framework.CalculateTTL].
func (e *engine) renewAtRandom(l *vaultLease, random *rand.Rand) {
	if !e.clock.now().Before(l.ends) {
		return // "lease expired"
	}
	working := e.storage
	if random.IntN(4) == 0 {
		e.storage = e.faulty(1 + random.Int64N(5))
	}
	kept := *l.secret
	kept.InternalData = maps.Clone(l.secret.InternalData)
	if random.IntN(2) == 0 {
		kept.Increment = time.Duration(1+random.IntN(4*60*60)) * time.Second
	}
	increment := kept.Increment
	now := e.clock.now()
	resp, err := e.onLease(logical.RenewOperation, &kept)
	e.storage = working
	l.known = later(l.known, earlier(now.Add(max(increment, 10*time.Minute)), l.secret.IssueTime.Add(3*time.Hour)))
	if err != nil || resp.IsError() {
		return
	}
	e.clock.advance(time.Duration(random.IntN(5000)) * time.Millisecond) // until Vault has the answer
	now = e.clock.now()
	ttl := increment
	if ttl == 0 {
		ttl = resp.Secret.TTL
	}
	longest := l.secret.IssueTime.Truncate(time.Second).Add(resp.Secret.MaxTTL).Sub(now.Truncate(time.Second))
	if longest <= 0 || random.IntN(5) == 0 {
		return // "past the max TTL", or Vault fails to store it
	}
	l.secret, l.ends = resp.Secret, now.Add(min(ttl, longest))
	l.known = later(l.known, l.ends)
}

// A lease that was given before the mount's maximum became less ends when Vault
// says so.
func TestLeaseOutlivesALowerMaximumOfTheMount(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "20h", "max_ttl": "20h"})
	e.lease("creds/leased")
	e.setMount(time.Hour, 2*time.Hour)
	e.everyMinute(20 * time.Hour)
	e.checkAlive(1)
	e.everyMinute(endedByNow)
	e.checkAlive(0)
}

// newEngineWithLeaseOfTheFuture returns an engine with a lease of 15 minutes that was given
// while the clock was a year ahead.
func newEngineWithLeaseOfTheFuture(t *testing.T) *engine {
	t.Helper()
	const ahead = 365 * 24 * time.Hour
	e := newLeasingEngine(t, fields{"ttl": "15m"})
	e.clock.advance(ahead)
	e.lease("creds/leased")
	e.clock.advance(-ahead)
	return e
}

// Keys that were written while the clock was ahead do not stay until then.
func TestLeaseOfAClockThatWasAheadEnds(t *testing.T) {
	e := newEngineWithLeaseOfTheFuture(t)
	e.everyMinute(15 * time.Minute)
	e.checkAlive(1)
	e.everyMinute(endedByNow)
	e.checkAlive(0)
}

// A renewal writes a key of its own. The look at the leases must not copy the former one
// beside it, with an end that is sooner.
func TestLeaseThatIsBeingRenewedIsNotDatedAnew(t *testing.T) {
	e := newEngineWithLeaseOfTheFuture(t)
	before := e.indexedLeases()
	unlock, _ := e.leaseLocks.tryLock(e.minting.names()[0])
	e.minute()
	checkSame(t, "the index while the lease is being renewed", before, e.indexedLeases())
	unlock()
	e.clock.advance(time.Hour)
	e.minute()
	if slices.Equal(before, e.indexedLeases()) {
		t.Error("want the key moved once the renewal is over")
	}
}

// Storage fails, or the process dies, at any call of a second attempt to revoke, which
// leaves two keys of one credential. Whoever ends it at last, no key is left, and status
// says nothing of it.
func TestNoKeyOfARevokedLeaseIsLeft(t *testing.T) {
	for name, end := range map[string]func(*engine, *logical.Secret) error{
		"by Vault":  func(e *engine, s *logical.Secret) error { _, err := e.onLease(logical.RevokeOperation, s); return err },
		"by a look": func(e *engine, _ *logical.Secret) error { e.clock.advance(time.Hour); return e.rollBack() },
	} {
		for _, restarts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarts %v", name, restarts), func(t *testing.T) {
				for failAt := int64(1); ; failAt++ {
					e := newLeasingEngine(t, nil)
					_, secret := e.lease("creds/leased")
					e.minting.fail("revoke", errDown)
					_, _ = e.onLease(logical.RevokeOperation, secret)
					e.clock.advance(time.Hour)
					faulty := e.faulty(failAt)
					e.storage = faulty
					_ = e.rollBack()
					e.storage = faulty.Storage
					if restarts {
						e = e.restarted(t)
					}
					e.minting.mend()
					if err := end(e, secret); err != nil {
						t.Fatal(err)
					}
					checkSame(t, fmt.Sprintf("call %d fails: index of leases", failAt), 0, len(e.indexedLeases()))
					checkSame(t, "what needs attention", []string{}, e.needsAttention())
					if faulty.calls.Load() < failAt {
						return
					}
				}
			})
		}
	}
}
