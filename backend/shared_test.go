// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// newSharingEngine has a shared role with a rotation_period of one day and a
// grace_period of one hour.
func newSharingEngine(t *testing.T) *engine {
	t.Helper()
	e := newConnectedEngine(t)
	e.write("roles/app", with(sharedRole, fields{"allowed_bundles": "all"}))
	e.events.Events = nil
	return e
}

// readInBackground reads, and waits for the background work that the read starts.
func (e *engine) readInBackground() fields {
	e.t.Helper()
	data := e.read("creds/app")
	e.background.Wait()
	return data
}

func (e *engine) mustRollBack() {
	e.t.Helper()
	if err := e.rollBack(); err != nil {
		e.t.Fatalf("rollback: %v", err)
	}
}

// checkLiving expects the registry to hold exactly the credentials that a shared
// role serves or will revoke.
func (e *engine) checkLiving(count int) {
	e.t.Helper()
	served := e.served("app")
	slices.Sort(served)
	checkSame(e.t, "living credentials", served, e.minting.names())
	checkSame(e.t, "number of living credentials", count, len(served))
}

func TestThousandFirstReadsAreOneMint(t *testing.T) {
	e := newSharingEngine(t)
	var readers sync.WaitGroup
	answers := make([]any, 1000)
	for i := range answers {
		readers.Go(func() { answers[i] = e.read("creds/app")["password"] })
	}
	readers.Wait()
	checkSame(t, "mints", 1, e.minting.mints())
	for i, password := range answers {
		if password != any(marker+e.minting.names()[0]) {
			t.Fatalf("reader %d got %v", i, password != nil)
		}
	}
}

func TestSharedReadHasAllFieldsAndNoLease(t *testing.T) {
	e := newSharingEngine(t)
	first := e.read("creds/app")
	name := e.minting.names()[0]
	docker := dockerJSON(t, "registry.example.com", "robot", marker+name, "")
	// Twice the rotation period plus the grace period, so that the registry may
	// be down for a day.
	want := fields{
		"registry": "registry.example.com", "username": "robot", "password": marker + name,
		".dockerconfigjson": docker, "dockerconfigjson": b64(docker), "expires_at": "2026-03-03T13:00:00Z",
		"last_vault_rotation": "2026-03-01T12:00:00Z", "rotation_period": int64(86400), "ttl": int64(86400), "grace_period": int64(3600),
	}
	checkSame(t, "creds/app", want, first)
	checkSame(t, "events", []string{"regcred/credential-rotate creds/app"}, e.sent())
	checkSame(t, "role", with(sharedReadBack, fields{
		"allowed_bundles": []string{"all"}, "username": "robot", "expires_at": "2026-03-03T13:00:00Z",
		"last_vault_rotation": "2026-03-01T12:00:00Z", "next_rotation": "2026-03-02T12:00:00Z",
	}), e.read("roles/app"))

	before := e.snapshot()
	for _, c := range []struct {
		advance time.Duration
		ttl     int64
	}{{time.Second, 86399}, {86398*time.Second + time.Millisecond, 1}} {
		e.clock.advance(c.advance)
		checkSame(t, "creds/app", with(want, fields{"ttl": c.ttl}), e.readInBackground())
		checkSame(t, "kubernetes", fields{".dockerconfigjson": docker}, e.read("creds/app/kubernetes"))
		checkSame(t, "docker", fields{"config.json": `{"auths":{"registry.example.com":{"auth":"` + b64("robot:"+marker+name) + `"}}}`}, e.read("creds/app/docker"))
	}
	checkSame(t, "mints", 1, e.minting.mints())
	checkSame(t, "storage", before, e.snapshot())
	checkSame(t, "events", []string{}, e.sent())
}

func TestCredentialWithoutAnEndHasNoExpiresAt(t *testing.T) {
	e := newSharingEngine(t)
	e.minting.expires = func(time.Time) time.Time { return time.Time{} }
	data := e.read("creds/app")
	checkSame(t, "expires_at", any(nil), data["expires_at"])
	checkSame(t, "ttl", any(int64(86400)), data["ttl"])
}

// Readers never wait for a rotation, and the credential that they have keeps
// working.
func TestDueCredentialIsServedUntilItsSuccessorIs(t *testing.T) {
	e := newSharingEngine(t)
	old := e.read("creds/app")
	e.clock.advance(24 * time.Hour)
	minted, proceed := make(chan struct{}), make(chan struct{})
	e.minting.during("mint", func() {
		close(minted)
		<-proceed
	})
	for range 2 { // the second read starts no further rotation
		checkSame(t, "password of a due credential", old["password"], e.read("creds/app")["password"])
		checkSame(t, "ttl of what is overdue", any(int64(1)), e.read("creds/app")["ttl"])
	}
	<-minted
	checkSame(t, "password during the rotation", old["password"], e.read("creds/app")["password"])
	close(proceed)
	e.background.Wait()

	next := e.read("creds/app")
	if next["password"] == old["password"] {
		t.Error("want a new credential after the rotation")
	}
	checkSame(t, "last_vault_rotation", any("2026-03-02T12:00:00Z"), next["last_vault_rotation"])
	e.checkLiving(2)
	checkSame(t, "mints", 2, e.minting.mints())
	checkSame(t, "events", slices.Repeat([]string{"regcred/credential-rotate creds/app"}, 2), e.sent())
}

// After Vault was down for long, one read mints and all others wait for it.
func TestExpiredCredentialIsReplacedBeforeItsReadersAreAnswered(t *testing.T) {
	e := newSharingEngine(t)
	old := e.read("creds/app")["password"]
	e.clock.advance(49 * time.Hour)
	var readers sync.WaitGroup
	answers := make([]any, 100)
	for i := range answers {
		readers.Go(func() { answers[i] = e.read("creds/app")["password"] })
	}
	readers.Wait()
	checkSame(t, "mints", 2, e.minting.mints())
	if answers[0] == old || slices.ContainsFunc(answers, func(a any) bool { return a != answers[0] }) {
		t.Error("want all to be given the new credential")
	}
}

// failures are the ways in which a mint can fail. living is how many credentials
// each leaves until a rollback.
var failures = map[string]struct {
	fail   func(*mintingRegistry)
	living int
	want   string
}{
	"refuses":              {func(r *mintingRegistry) { r.fail("mint", errRefused) }, 0, "answered 403 Forbidden: [redacted]"},
	"fails before it acts": {func(r *mintingRegistry) { r.fail("mint", errAmbiguous) }, 0, "answered 500 Internal Server Error: [redacted]"},
	"fails after it acted": {func(r *mintingRegistry) { r.failAfter("mint", errAmbiguous) }, 1, "answered 500 Internal Server Error: [redacted]"},
	"is down":              {func(r *mintingRegistry) { r.fail("mint", errDown) }, 0, "there was no complete answer within the time limit"},
	"cuts the connection":  {func(r *mintingRegistry) { r.failAfter("mint", errDown) }, 1, "there was no complete answer within the time limit"},
	"answers garbage":      {func(r *mintingRegistry) { r.username = "" }, 1, "the answer has no credential"},
}

func TestFailingRegistryDoesNotAffectReadersOfACurrentCredential(t *testing.T) {
	for name, c := range failures {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			old := e.read("creds/app")
			e.sent()
			c.fail(e.minting)
			e.clock.advance(24 * time.Hour)
			e.readInBackground()
			e.clock.advance(time.Second)
			checkSame(t, "creds/app", with(old, fields{"ttl": int64(4)}), e.readInBackground())
			checkWarnings(t, e.readWarnings("creds/app"), `the credential of role "app" is overdue for rotation since 2026-03-02T12:00:00Z, and works until 2026-03-03T13:00:00Z; roles/app says why`)
			checkSame(t, "events", []string{"regcred/credential-rotate-fail creds/app"}, e.sent())
			checkSame(t, "living credentials", 1+c.living, len(e.minting.names()))

			described := e.read("roles/app")
			checkContains(t, described["last_error"].(string), `minting a credential for role "app": the registry's API at `+e.minting.url, c.want)
			delete(described, "last_error")
			checkSame(t, "role", with(sharedReadBack, fields{
				"allowed_bundles": []string{"all"}, "username": "robot", "expires_at": "2026-03-03T13:00:00Z",
				"last_vault_rotation": "2026-03-01T12:00:00Z", "next_rotation": "2026-03-02T12:00:05Z", "last_error_at": "2026-03-02T12:00:00Z",
			}), described)

			e.minting.mend()
			e.minting.username = "robot"
			e.clock.advance(time.Minute)
			if next := e.readInBackground(); next["password"] != old["password"] {
				t.Error("want no read to wait for the rotation")
			}
			e.mustRollBack()
			e.checkLiving(2)
			checkWarnings(t, e.readWarnings("creds/app"))
			checkSame(t, "last_error", any(nil), e.read("roles/app")["last_error"])
		})
	}
}

func TestFailingRegistryWithNothingToServeIsAnErrorWithBackOff(t *testing.T) {
	for name, c := range failures {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			c.fail(e.minting)
			calls := 0
			e.minting.mu.Lock()
			before := e.minting.before
			e.minting.before = func(call string) error {
				calls++
				if before != nil {
					return before(call)
				}
				return nil
			}
			e.minting.mu.Unlock()
			for range 3 {
				e.failed(logical.ReadOperation, "creds/app", nil, http.StatusBadGateway, `role "app"`, c.want)
			}
			e.clock.advance(firstRetry - time.Second)
			e.failed(logical.ReadOperation, "creds/app", nil, http.StatusBadGateway, c.want, "(tried at 2026-03-01T12:00:00Z; it is tried again at the next read from 2026-03-01T12:00:05Z on)")
			checkSame(t, "calls", 1, calls)
			checkSame(t, "events", []string{"regcred/credential-rotate-fail creds/app"}, e.sent())

			e.clock.advance(time.Second)
			e.failed(logical.ReadOperation, "creds/app", nil, http.StatusBadGateway, c.want)
			checkSame(t, "calls", 2, calls)
			e.minting.mend()
			e.minting.username = "robot"
			e.clock.advance(firstRetry)
			e.read("creds/app")
			e.mustRollBack()
			e.checkLiving(1)
		})
	}
}

// sharedStatusOf returns what a shared role's stored state means now.
func (e *engine) sharedStatusOf(name string) sharedStatus {
	e.t.Helper()
	s, err := e.sharedStatus(e.t.Context(), e.through(), name, mustRole(e.t, e, name).Dynamic)
	if err != nil {
		e.t.Fatal(err)
	}
	return s
}

func TestRotationIsRetriedWithBackOff(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.mustRollBack() // fills the schedule
	e.minting.fail("mint", errRefused)
	e.clock.advance(24 * time.Hour)
	for i, want := range []time.Duration{5, 10, 20, 40, 80, 160, 300, 300, 300} {
		e.mustRollBack()
		s := e.sharedStatusOf("app")
		checkSame(t, "failures", i+1, s.Failures)
		checkSame(t, fmt.Sprintf("pause after failure %d", i+1), want*time.Second, s.retryAt().Sub(e.clock.now()))
		e.clock.advance(want*time.Second - time.Second)
		e.mustRollBack() // too early
		e.clock.advance(time.Second)
	}
	checkSame(t, "of many", lastRetry, backOff(firstRetry, lastRetry, 1000))
}

// The engine waits as long as Retry-After says, up to a limit.
func TestRetryAfterIsRespected(t *testing.T) {
	for asks, want := range map[string]time.Duration{"1": firstRetry, "60": time.Minute, "2147483647": longestWait} {
		e := newSharingEngine(t)
		e.minting.fail("mint", issuer.StatusError(http.StatusTooManyRequests, http.Header{"Retry-After": {asks}}, ""))
		e.failed(logical.ReadOperation, "creds/app", nil, http.StatusBadGateway, "answered 429 Too Many Requests")
		e.minting.mend()
		e.clock.advance(want - time.Second)
		e.failed(logical.ReadOperation, "creds/app", nil, http.StatusBadGateway, "it is tried again at the next read from "+formatTime(noon.Add(want))+" on")
		e.clock.advance(time.Second)
		old := e.read("creds/app")["password"]

		e.minting.fail("mint", issuer.StatusError(http.StatusTooManyRequests, http.Header{"Retry-After": {asks}}, ""))
		e.clock.advance(24 * time.Hour)
		e.readInBackground()
		e.minting.mend()
		e.clock.advance(want - time.Second)
		e.readInBackground()
		checkSame(t, "mints while it waits", 1, e.minting.mints())
		e.clock.advance(time.Second)
		checkSame(t, "what is served", old, e.readInBackground()["password"])
		checkSame(t, "mints", 2, e.minting.mints())
	}
}

func TestReplacedCredentialIsRevokedAfterItsGrace(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	old := e.minting.names()[0]
	checkSame(t, "answer", fields{"last_vault_rotation": "2026-03-01T12:00:00Z", "rotation_period": int64(86400), "ttl": int64(86400), "grace_period": int64(3600)},
		e.write("rotate/app", nil).Data)
	waiting := func(more fields) fields {
		return with(sharedReadBack, fields{
			"allowed_bundles": []string{"all"}, "username": "robot", "expires_at": "2026-03-03T13:00:00Z",
			"last_vault_rotation": "2026-03-01T12:00:00Z", "next_rotation": "2026-03-02T12:00:00Z",
			"pending_revocations": []fields{with(fields{"name": old, "revoke_at": "2026-03-01T13:00:00Z"}, more)},
		})
	}
	checkSame(t, "role", waiting(nil), e.read("roles/app"))

	e.clock.advance(time.Hour - time.Second)
	e.mustRollBack()
	e.checkLiving(2)
	e.sent()

	e.minting.fail("revoke", errRefused)
	e.clock.advance(time.Second)
	for i, pause := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} { // minutes
		e.mustRollBack()
		e.mustRollBack() // finds nothing to be done
		s, err := e.shared(t.Context(), e.storage, "app")
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, "attempts", i+1, s.Retired[0].Attempts)
		checkSame(t, "next try", pause*time.Minute, s.Retired[0].tryAt(e.clock.now()).Sub(e.clock.now()))
		e.clock.advance(pause * time.Minute)
	}
	described := e.read("roles/app")
	lastError := described["pending_revocations"].([]fields)[0]["last_error"]
	checkContains(t, lastError.(string), "the registry's API at "+e.minting.url+": answered 403 Forbidden: [redacted]")
	checkSame(t, "role", waiting(fields{"last_error": lastError}), described)
	checkSame(t, "events", []string{}, e.sent())

	e.minting.mend()
	e.mustRollBack()
	e.checkLiving(1)
	checkSame(t, "pending_revocations", any(nil), e.read("roles/app")["pending_revocations"])
	checkSame(t, "events", []string{"regcred/credential-revoke creds/app"}, e.sent())
}

// A read finds credentials to revoke even if nothing is scheduled.
func TestReadStartsRevocationsThatAreDue(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.write("rotate/app", nil)
	e.clock.advance(time.Hour)
	e.readInBackground()
	e.checkLiving(1)
	checkSame(t, "mints", 2, e.minting.mints())
}

func TestRotateOfEachTypeOfRole(t *testing.T) {
	e := newSharingEngine(t)
	e.write("roles/static", member("a.example.com", "bundle"))
	e.write("roles/bundle", fields{"members": "static"})
	e.write("roles/leased", leasedRole)
	for role, want := range map[string]string{
		"static": `role "static" is static: the engine cannot replace its credential; write the new password to roles/static`,
		"bundle": `role "bundle" is a bundle; rotate its members`,
		"leased": `role "leased" is leased: each read mints a new credential; to end one, revoke its lease`,
		"a b":    "role: must be at most",
	} {
		e.refused(logical.UpdateOperation, "rotate/"+role, nil, want)
	}
	e.failed(logical.UpdateOperation, "rotate/missing", nil, http.StatusNotFound, `role "missing" does not exist`)
	e.write("rotate/app", nil) // mints the first one, too
	e.checkLiving(1)

	e.minting.fail("mint", errRefused)
	e.sent()
	for range 2 { // back-off does not apply to a request
		e.failed(logical.UpdateOperation, "rotate/app", nil, http.StatusBadGateway, "answered 403 Forbidden")
	}
	checkSame(t, "events", slices.Repeat([]string{"regcred/credential-rotate-fail creds/app"}, 2), e.sent())
	checkWarnings(t, e.readWarnings("creds/app"), `the credential of role "app" is not yet replaced, though rotate/app was written; it works until`)
	e.checkLiving(1)
}

// Two concurrent rotate requests wait for each other and get the same new
// credential.
func TestConcurrentRotationsAreOne(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.clock.advance(time.Hour)
	unlock, err := e.rotating.lock(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() { e.write("rotate/app", nil) })
	}
	e.waitForReaders(2, whenAsked)
	e.clock.advance(time.Second)
	unlock()
	asking.Wait()
	checkSame(t, "mints", 2, e.minting.mints())
}

func TestRoleForAnotherTargetServesNothingOfTheFormer(t *testing.T) {
	for name, change := range map[string]fields{
		"project":        {"project": "group/other"},
		"more projects":  {"projects": "x"},
		"the connection": {"connection": "other", "project": "group/app"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			e.write("connections/other", e.connectionSample())
			old := e.read("creds/app")["password"]
			e.write("roles/app", change)
			if e.read("creds/app")["password"] == old {
				t.Error("want a credential for what the role is written for")
			}
			e.checkLiving(2)
			e.clock.advance(time.Hour)
			e.mustRollBack()
			e.checkLiving(1)
		})
	}
}

// A credential that its registry can revoke waits for revocation, and one that it
// cannot revoke does not, no matter which connection the role uses now.
func TestRoleThatMovesToARegistryWithoutRevocation(t *testing.T) {
	e := newSharingEngine(t)
	e.write("connections/brief", with(e.connectionSample(), fields{"type": "brief"}))
	e.read("creds/app")
	e.write("roles/app", fields{"connection": "brief", "project": "group/app"})
	e.read("creds/app")
	e.checkLiving(2)
	e.clock.advance(time.Hour)
	e.mustRollBack()
	e.checkLiving(1)
	e.write("rotate/app", nil)
	checkSame(t, "pending_revocations", any(nil), e.read("roles/app")["pending_revocations"])

	e.write("roles/app", fields{"connection": "app", "project": "group/app"})
	e.read("creds/app")
	e.clock.advance(time.Hour)
	e.mustRollBack()
	checkSame(t, "pending_revocations", any(nil), e.read("roles/app")["pending_revocations"])
	e.must(logical.DeleteOperation, "roles/app", nil)
	checkSame(t, "write-ahead entries", 0, len(keysBelow(t, e, "wal/")))
}

func TestDeletedRoleHasItsCredentialsRevoked(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.write("rotate/app", nil)
	e.minting.fail("find", errDown) // a deletion must not need it
	e.must(logical.DeleteOperation, "roles/app", nil)
	checkSame(t, "living credentials", []string{}, e.minting.names())
	checkSame(t, "stored keys", []string{"connections/app", "root-checks/app"}, keysOf(e.snapshot()))
}

func keysOf(stored map[string]string) []string {
	keys := []string{}
	for key := range stored {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func TestDeletedRoleHasItsCredentialsRevokedLaterIfTheRegistryIsDown(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.write("rotate/app", nil)
	e.minting.fail("revoke", errDown)
	checkWarnings(t, warningsOf(e.must(logical.DeleteOperation, "roles/app", nil)), "2 credentials of the role are not revoked yet")
	e.refused(logical.DeleteOperation, "connections/app", nil, "2 credentials waiting to be revoked")
	if err := e.rollBack(); err == nil {
		t.Error("want an error while the registry is down")
	} else {
		checkHoldsNoSecret(t, "error", err)
	}
	checkSame(t, "write-ahead entries", 2, len(keysBelow(t, e, "wal/")))
	e.minting.mend()
	e.clock.advance(time.Minute)

	// A new role of the same name does not change that.
	e.write("roles/app", sharedRole)
	e.read("creds/app")
	e.clock.advance(time.Minute)
	e.mustRollBack()
	e.checkLiving(1)
	checkSame(t, "write-ahead entries", 0, len(keysBelow(t, e, "wal/")))
}

func TestRecreatedRoleServesNothingOfTheFormerOne(t *testing.T) {
	e := newSharingEngine(t)
	old := e.read("creds/app")["password"]
	e.must(logical.DeleteOperation, "roles/app", nil)
	e.write("roles/app", sharedRole)
	checkSame(t, "role", sharedReadBack, e.read("roles/app"))
	if e.read("creds/app")["password"] == old {
		t.Error("want a new credential")
	}
	e.checkLiving(1)
}

// It holds without a restart, too.
func TestDeletionThatAStorageFailureInterruptsOrphansNothing(t *testing.T) {
	for failAt := int64(1); ; failAt++ {
		e := newSharingEngine(t)
		e.read("creds/app")
		e.write("rotate/app", nil)
		faulty := e.faulty(failAt)
		err := onPath(logical.DeleteOperation, "roles/app")(e, faulty)
		if faulty.calls.Load() < failAt {
			return
		}
		e.mustRollBack()
		e.checkLiving(len(e.served("app")))
		checkSame(t, fmt.Sprintf("write-ahead entries after %v", err), 0, len(keysBelow(t, e, "wal/")))
	}
}

func TestRoleThatIsChangedWhileItsCredentialIsMinted(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*engine)
		username any // of what is read: the role as it is now; nil: an error, or nothing
	}{
		"project":      {func(e *engine) { e.write("roles/app", fields{"project": "group/other"}) }, "robot"},
		"deleted":      {func(e *engine) { e.must(logical.DeleteOperation, "roles/app", nil) }, nil},
		"of another":   {func(e *engine) { e.must(logical.DeleteOperation, "roles/app", nil); e.write("roles/app", credential) }, "me"},
		"unreadable":   {func(e *engine) { e.store("roles/app", "damaged") }, nil},
		"its state is": {func(e *engine) { e.store("shared/app", "damaged") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			e.minting.during("mint", func() { c.change(e) })
			resp, err := e.request(logical.ReadOperation, "creds/app", nil)
			var got any
			if err == nil && resp != nil {
				got = resp.Data["username"]
			}
			checkSame(t, "user name", c.username, got)
			living := []string{}
			if c.username == "robot" {
				living = e.served("app")
			}
			checkSame(t, "living credentials", living, e.minting.names())
			checkSame(t, "write-ahead entries", 0, len(keysBelow(t, e, "wal/")))
		})
	}
}

// A registry may give a shorter lifetime than requested.
func TestCredentialThatEndsEarlierIsReplacedEarlier(t *testing.T) {
	for _, c := range []struct{ gives, next, grace time.Duration }{
		{49 * time.Hour, 24 * time.Hour, time.Hour},
		{24 * time.Hour, 23 * time.Hour, time.Hour},
		{3 * time.Hour, 2 * time.Hour, time.Hour},
		{time.Hour, 30 * time.Minute, 30 * time.Minute},
		{10 * time.Second, 5 * time.Second, 5 * time.Second},
	} {
		e := newSharingEngine(t)
		e.minting.expires = func(time.Time) time.Time { return noon.Add(c.gives) }
		data := e.read("creds/app")
		// What was read just before the rotation works no longer than until its end.
		checkSame(t, fmt.Sprintf("grace_period of what lives for %s", c.gives), any(int64(c.grace/time.Second)), data["grace_period"])
		checkSame(t, "expires_at", any(formatTime(noon.Add(c.gives))), data["expires_at"])
		checkSame(t, fmt.Sprintf("ttl of what lives for %s", c.gives), any(int64(c.next/time.Second)), data["ttl"])
		checkSame(t, "rotation_period", any(int64(86400)), data["rotation_period"])
		checkSame(t, "next_rotation", any(formatTime(noon.Add(c.next))), e.read("roles/app")["next_rotation"])
	}
}

// The number of credentials that wait to be revoked is bounded.
func TestMintingStopsWhileTooManyRevocationsFail(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	s, err := e.shared(t.Context(), e.storage, "app")
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxRetired {
		s.Retired = append(s.Retired, retired{credentialRef: credentialRef{Connection: "app", Role: "app", Name: fmt.Sprintf("r%d", i), ID: fmt.Sprintf("id-r%d", i)}, RevokeAt: noon.Add(48 * time.Hour)})
	}
	if err := e.putShared(t.Context(), e.through(), "app", s); err != nil {
		t.Fatal(err)
	}
	e.refused(logical.UpdateOperation, "rotate/app", nil, `rotate: 200 former credentials of role "app" wait`)
	if needed, err := (sharedStatus{shared: s, role: &dynamicRole{}, now: noon.Add(48 * time.Hour)}).needsRotation(whenAsked, 0); needed || err == nil {
		t.Error("want nothing minted even if nothing serves")
	} else {
		checkContains(t, err.Error(), "200 former credentials wait to be revoked; the role's read-back says why")
	}
	e.clock.advance(24 * time.Hour)
	e.readInBackground()
	checkSame(t, "mints", 1, e.minting.mints())
	if needed, err := e.sharedStatusOf("app").needsRotation(whenNothingServes, 0); needed || err != nil {
		t.Errorf("a credential works: want it to be served, got %v", err)
	}
	e.clock.advance(24 * time.Hour)
	e.mustRollBack()
	e.mustRollBack() // if the minute's own look at the role was not over when the last one was revoked
	checkSame(t, "mints", 2, e.minting.mints())
}

// Somebody who writes rotate/ over and over is refused long before rotations that
// are due have no room.
func TestRotateThatIsAskedTooOftenLeavesRoomForWhatIsDue(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/app", with(sharedRole, fields{"rotation_period": "30m", "grace_period": "1h"}))
	e.read("creds/app")
	for range maxRetiredAsked {
		e.write("rotate/app", nil)
	}
	e.refused(logical.UpdateOperation, "rotate/app", nil, `rotate: 100 former credentials of role "app" wait for the end of their grace_period, or could not be revoked yet; `+
		"rotate/ is refused from 100 on, so that rotations that are due have room; wait until some are revoked, which roles/app shows as pending_revocations")
	checkSame(t, "mints", 1+maxRetiredAsked, e.minting.mints())
	e.mustRollBack()
	e.clock.advance(30 * time.Minute)
	e.mustRollBack()
	checkSame(t, "mints, with the one that is due", 2+maxRetiredAsked, e.minting.mints())
	e.checkLiving(2 + maxRetiredAsked)
	e.clock.advance(30 * time.Minute)
	e.mustRollBack()
	e.write("rotate/app", nil)
}

func mustRole(t testing.TB, e *engine, name string) *role {
	t.Helper()
	r, err := e.role(t.Context(), e.storage, name)
	if err != nil || r == nil {
		t.Fatalf("role %s: %v, %v", name, r, err)
	}
	return r
}

// A mint writes to storage, so a standby serves only what is stored.
func TestSharedReadsOnOtherNodes(t *testing.T) {
	for name, c := range map[string]struct {
		state consts.ReplicationState
		local bool
		mints bool
	}{
		"active":             {0, false, true},
		"standby":            {consts.ReplicationPerformanceStandby, false, false},
		"standby, local":     {consts.ReplicationPerformanceStandby, true, false},
		"DR secondary":       {consts.ReplicationDRSecondary, false, false},
		"secondary":          {consts.ReplicationPerformanceSecondary, false, false},
		"secondary, local":   {consts.ReplicationPerformanceSecondary, true, true},
		"standby of a local": {consts.ReplicationPerformanceSecondary | consts.ReplicationPerformanceStandby, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			e.write("roles/fresh", sharedRole)
			old := e.read("creds/app")["password"]
			e.mustRollBack()
			view := e.System().(*logical.StaticSystemView)
			view.ReplicationStateVal, view.LocalMountVal = c.state, c.local
			want := 1
			if c.mints {
				want = 3
				e.read("creds/fresh")
			} else if _, err := e.request(logical.ReadOperation, "creds/fresh", nil); !errors.Is(err, logical.ErrReadOnly) {
				t.Errorf("want ErrReadOnly, which Vault forwards on, got %v", err)
			}
			e.clock.advance(24 * time.Hour)
			checkSame(t, "password of a due credential", old, e.readInBackground()["password"])
			e.mustRollBack()
			if c.mints {
				want++ // of fresh
			}
			checkSame(t, "mints", want, e.minting.mints()+map[bool]int{true: 0, false: 0}[c.mints])
		})
	}
}

func TestBundleJoinsSharedRoles(t *testing.T) {
	e := newSharingEngine(t)
	e.write("connections/other", with(e.connectionSample(), fields{"registry": "other.example.com"}))
	e.write("roles/other", with(sharedRole, fields{"connection": "other", "rotation_period": "48h", "grace_period": "2h", "allowed_bundles": "all"}))
	e.write("roles/static", with(member("static.example.com", "all"), fields{"expires_at": "2027-01-31T00:00:00Z"}))
	e.write("roles/all", fields{"members": "app,other,static"})
	bundle := fields{
		"type": "bundle", "members": []string{"app", "other", "static"}, "updated_at": "2026-03-01T12:00:00Z",
		"registries": []string{"other.example.com", "registry.example.com", "static.example.com"}, "expires_at": "2027-01-31T00:00:00Z",
	}
	checkSame(t, "bundle before its first read", bundle, e.read("roles/all"))
	checkSame(t, "mints", 0, e.minting.mints())

	e.read("creds/other")
	e.clock.advance(time.Hour)
	data := e.read("creds/all") // mints the credential of the other member
	docker, err := dockerconfig.New(
		dockerconfig.Credential{Registry: "registry.example.com", Username: "robot", Password: dockerconfig.NewSecret(marker + e.served("app")[0])},
		dockerconfig.Credential{Registry: "other.example.com", Username: "robot", Password: dockerconfig.NewSecret(marker + e.served("other")[0])},
		dockerconfig.Credential{Registry: "static.example.com", Username: "user", Password: dockerconfig.NewSecret(password)},
	)
	if err != nil {
		t.Fatal(err)
	}
	want := fields{
		".dockerconfigjson": string(docker.JSON()), "dockerconfigjson": b64(string(docker.JSON())), "expires_at": "2026-03-03T14:00:00Z",
		"last_vault_rotation": "2026-03-01T13:00:00Z", "rotation_period": int64(86400), "ttl": int64(86400), "grace_period": int64(3600),
	}
	checkSame(t, "creds/all", want, data)
	checkSame(t, "the same again", want, e.read("creds/all"))
	checkSame(t, "bundle", with(bundle, fields{"expires_at": "2026-03-03T14:00:00Z"}), e.read("roles/all"))

	// The next rotation of any member counts, the last one of any member, and the
	// shortest grace period.
	e.clock.advance(12 * time.Hour)
	e.write("rotate/other", nil)
	e.write("roles/other", fields{"rotation_period": "6h", "grace_period": "30m"})
	data = e.read("creds/all")
	checkSame(t, "rotation fields", fields{"last_vault_rotation": "2026-03-02T01:00:00Z", "rotation_period": int64(6 * 3600), "ttl": int64(6 * 3600), "grace_period": int64(1800)},
		fields{"last_vault_rotation": data["last_vault_rotation"], "rotation_period": data["rotation_period"], "ttl": data["ttl"], "grace_period": data["grace_period"]})

	e.write("roles/app", fields{"allowed_bundles": ""})
	e.refused(logical.ReadOperation, "creds/all", nil, `members: role "app" `)
}

func TestBundleWithoutASharedMemberHasNoRotationFields(t *testing.T) {
	earlier := &rotation{Last: noon, Period: time.Hour, Next: noon.Add(time.Hour)}
	if got := joinRotations(nil, nil); got != nil {
		t.Errorf("want none, got %v", got)
	}
	checkSame(t, "one", earlier, joinRotations(nil, earlier))
	checkSame(t, "one", earlier, joinRotations(earlier, nil))
	latest := &rotation{Last: noon.Add(time.Minute), Period: 2 * time.Hour, Next: noon.Add(2 * time.Hour)}
	want := &rotation{Last: noon.Add(time.Minute), Period: time.Hour, Next: noon.Add(time.Hour)}
	checkSame(t, "both", want, joinRotations(earlier, latest))
	checkSame(t, "both, the other way", want, joinRotations(latest, earlier))
}

func TestBundleJoinsNoLeasedRole(t *testing.T) {
	e := newSharingEngine(t)
	e.write("roles/leased", leasedRole)
	e.refused(logical.UpdateOperation, "roles/all", fields{"members": "leased"}, `members: role "leased" `)
	e.write("roles/all", fields{"members": "app"})
	e.must(logical.DeleteOperation, "roles/app", nil)
	e.store("roles/app", `{"schema_version":1,"type":"dynamic","dynamic":{"connection":"app","mode":"leased","for":{"project":"a"}},"allowed_bundles":["all"]}`)
	e.refused(logical.ReadOperation, "creds/all", nil, `members: role "app" `)
	checkSame(t, "mints", 0, e.minting.mints())
}

// If one member cannot be minted, the read fails. It never returns a smaller
// bundle.
func TestBundleOfAMemberThatCannotBeMintedIsAnError(t *testing.T) {
	e := newSharingEngine(t)
	e.write("roles/static", member("static.example.com", "all"))
	e.write("roles/all", fields{"members": "app,static"})
	e.minting.fail("mint", errDown)
	e.failed(logical.ReadOperation, "creds/all", nil, http.StatusBadGateway, `role "app"`)
}

// The engine replaces minted credentials, so only static roles are listed.
func TestExpiringListsNoMintedCredentials(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	checkSame(t, "expiring", any([]string{}), e.must(logical.ReadOperation, "expiring", fields{"within": "9999h"}).Data["roles"])
	checkSame(t, "index", 0, len(keysBelow(t, e, expiryStoragePrefix)))
}

func TestDeletionWorksIfTheSharedStateIsUnreadable(t *testing.T) {
	for name, value := range map[string]string{
		"damaged":     "damaged",
		"no config":   `{"schema_version":1,"current":{"minted":{"name":"x"}}}`,
		"bad config":  `{"schema_version":1,"current":{"minted":{"name":"x"},"dockerconfig":{"auths":"` + marker + `"}}}`,
		"newer":       `{"schema_version":9}`,
		"wrong types": `{"schema_version":1,"current":["` + marker + `"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			e.store("shared/app", value)
			for op, path := range map[logical.Operation]string{logical.ReadOperation: "creds/app", logical.UpdateOperation: "rotate/app"} {
				resp, err := e.request(op, path, nil)
				if err == nil || resp != nil {
					t.Errorf("%s: want an error, got %v", path, resp)
				}
			}
			if resp, err := e.request(logical.ReadOperation, "roles/app", nil); err == nil || resp != nil {
				t.Errorf("want an error, got %v", resp)
			}
			e.must(logical.DeleteOperation, "roles/app", nil)
			checkSame(t, "stored keys", []string{"connections/app", "root-checks/app"}, keysOf(e.snapshot()))
		})
	}
}

// When a connection no longer allows a role or a target, every mint stops at once,
// on every path. The current credential is still served.
func TestNothingIsMintedForWhatIsNotAllowed(t *testing.T) {
	for name, closing := range map[string]fields{
		"role":    {"allowed_roles": "other"},
		"no role": {"allowed_roles": ""},
		"target":  {"allowed_targets": "elsewhere/*"},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			e.write("roles/fresh", sharedRole)
			e.write("roles/leased", leasedRole)
			e.write("roles/static", member("static.example.com", "all"))
			e.write("roles/all", fields{"members": "app,static"})
			current := e.read("creds/app")
			e.write("connections/app", closing)

			checkSame(t, "what is current", current, e.read("creds/app"))
			e.read("creds/all")
			for _, c := range []struct {
				op   logical.Operation
				path string
				data fields
			}{
				{logical.ReadOperation, "creds/fresh", nil},
				{logical.ReadOperation, "creds/leased", nil},
				{logical.ReadOperation, "creds/leased/docker", nil},
				{logical.UpdateOperation, "rotate/app", nil},
				{logical.UpdateOperation, "rotate/fresh", nil},
				{logical.UpdateOperation, "verify/leased", nil},
				{logical.UpdateOperation, "roles/app", fields{"verify": true}},
				{logical.UpdateOperation, "roles/new", with(sharedRole, fields{"verify": true})},
				{logical.UpdateOperation, "roles/leased", fields{"project": "group/app"}},
			} {
				e.refusedWithTrace(c.op, c.path, c.data, `connection`, `"app"`)
			}
			e.clock.advance(48 * time.Hour)
			e.mustRollBack()
			e.readInBackground()
			checkSame(t, "mints", 1, e.minting.mints())
			e.clock.advance(2 * time.Hour) // the current credential has expired
			for _, path := range []string{"creds/app", "creds/all"} {
				if resp, err := e.request(logical.ReadOperation, path, nil); err == nil && !resp.IsError() {
					t.Errorf("%s: want a refusal", path)
				}
			}
			checkSame(t, "mints", 1, e.minting.mints())

			e.write("connections/app", fields{"allowed_roles": "*", "allowed_targets": ""})
			e.clock.advance(time.Hour)
			e.read("creds/all")
			checkSame(t, "mints", 2, e.minting.mints())
		})
	}
}

// The end of a request does not end the mint that it started.
func TestMintContinuesAfterItsReaderDisconnects(t *testing.T) {
	e := newSharingEngine(t)
	ctx, cancel := context.WithCancel(t.Context())
	e.minting.during("mint", cancel)
	if _, err := e.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/app", Storage: e.storage}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	e.background.Wait()
	e.checkLiving(1)
	e.read("creds/app")
	checkSame(t, "mints", 1, e.minting.mints())
}

func TestWaitingReaderStopsWithItsRequest(t *testing.T) {
	e := newSharingEngine(t)
	unlock, err := e.rotating.lock(t.Context(), "app")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: "creds/app", Storage: e.storage}); !errors.Is(err, context.Canceled) {
		t.Errorf("want the request's end, got %v", err)
	}
}

// A failure of Vault's storage says nothing about the registry, and the read can be
// repeated at once, unless a credential was minted before.
func TestStorageFailureIsNotBlamedOnTheRegistry(t *testing.T) {
	for failAt := int64(1); ; failAt++ {
		e := newSharingEngine(t)
		faulty := e.faulty(failAt)
		err := onPath(logical.ReadOperation, "creds/app")(e, faulty)
		if faulty.calls.Load() < failAt {
			return
		}
		if err != nil && (!errors.Is(err, errStorage) || strings.Contains(err.Error(), e.minting.url)) {
			t.Errorf("storage call %d fails: want its error, got %v", failAt, err)
		}
		if lastError := e.read("roles/app")["last_error"]; lastError != nil { // what was minted could not be stored
			checkContains(t, lastError.(string), "the new credential could not be stored: ")
			checkContains(t, lastError.(string), errStorage.Error())
			e.clock.advance(firstRetry)
		}
		e.read("creds/app")
		e.mustRollBack()
		e.checkLiving(len(e.served("app")))
	}
}

func TestFailureThatCannotBeStoredIsStillReturned(t *testing.T) {
	for failAt := int64(1); failAt <= 20; failAt++ {
		e := newSharingEngine(t)
		e.minting.fail("mint", errRefused)
		err := onPath(logical.ReadOperation, "creds/app")(e, e.faulty(failAt))
		if err == nil {
			t.Errorf("storage call %d fails: want an error", failAt)
		} else if !errors.Is(err, errStorage) && !strings.Contains(err.Error(), "answered 403 Forbidden") {
			t.Errorf("storage call %d fails: got %v", failAt, err)
		}
	}
}

// Somebody who replaces a leaked credential must not wait for the rotation period
// because the registry was down for a moment.
func TestRotationThatWasAskedForIsTriedAgain(t *testing.T) {
	e := newSharingEngine(t)
	former := e.read("creds/app")
	e.mustRollBack()
	e.minting.fail("mint", errDown)
	e.failed(logical.UpdateOperation, "rotate/app", nil, http.StatusBadGateway)
	checkWarnings(t, e.readWarnings("creds/app"), `the credential of role "app" is not yet replaced, though rotate/app was written; it works until 2026-03-03T13:00:00Z, and roles/app says why`)
	checkSame(t, "next rotation", any("2026-03-01T12:00:05Z"), e.read("roles/app")["next_rotation"])
	e = e.restarted(t) // which forgets nothing of it
	e.minting.mend()
	e.clock.advance(time.Minute)
	e.mustRollBack()
	if e.read("creds/app")["password"] == former["password"] {
		t.Error("want the credential replaced")
	}
	checkWarnings(t, e.readWarnings("creds/app"))
	checkSame(t, "mints", 2, e.minting.mints())
}

// A role that is written to mint for another target gets a new credential soon,
// and its read-back says so at once.
func TestRoleForAnotherTargetIsRotatedWithoutARead(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.mustRollBack()
	e.write("roles/app", fields{"project": "group/other"})
	readBack := e.read("roles/app")
	checkSame(t, "user name", nil, readBack["username"])
	checkSame(t, "last rotation", nil, readBack["last_vault_rotation"])
	checkSame(t, "next rotation", any("2026-03-01T12:00:00Z"), readBack["next_rotation"])
	e.mustRollBack()
	checkSame(t, "mints", 2, e.minting.mints())
	checkSame(t, "user name of the new one", any("robot"), e.read("roles/app")["username"])
}

// A write of the role may have mended why the rotation failed, and must not have
// it forgotten.
func TestRotationThatWasAskedForSurvivesAWriteOfTheRole(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.mustRollBack()
	e.minting.fail("mint", errDown)
	e.failed(logical.UpdateOperation, "rotate/app", nil, http.StatusBadGateway)
	e.write("roles/app", fields{"allowed_bundles": "all,more"})
	checkSame(t, "next rotation", any("2026-03-01T12:00:00Z"), e.read("roles/app")["next_rotation"])
	checkWarnings(t, e.readWarnings("creds/app"), `the credential of role "app" is not yet replaced, though rotate/app was written`)
	e.background.Wait()
	e.minting.mend()
	e.clock.advance(time.Minute)
	e.mustRollBack()
	checkSame(t, "mints", 2, e.minting.mints())
}
