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
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// Limits of what goes on at a time and of what is left behind, as documented.
const (
	callsOfConnection   = 8
	callsOfMount        = 32
	entriesOfConnection = 100
)

// Registries that hang do not keep the engine from ending, in time, what it has
// replaced at another one: not with a rotate-root that is unfinished, and not with
// a rotation that is due.
func TestSilentRegistriesDoNotDelayOthersRotations(t *testing.T) {
	for name, prepare := range map[string]func(o *outage, connection string){
		"unfinished rotate-root": (*outage).leaveRootUnfinished,
		"overdue rotation":       func(o *outage, connection string) { o.read("creds/shared-" + connection) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOutage(t, "a-silent", "b-silent", "healthy")
			o.tick()
			prepare(o, "a-silent")
			prepare(o, "b-silent")
			o.read("creds/shared-healthy")
			o.write("rotate/shared-healthy", nil)
			former := o.served("shared-healthy")[1]
			o.clock.advance(defaultRotationPeriod + time.Minute)
			o.at["a-silent"].during(o.at["a-silent"].hangs)
			o.at["b-silent"].during(o.at["b-silent"].hangs)
			wait := o.tickInBackground()
			o.eventually("the former credential of the other registry is revoked, and the current one replaced", func() string {
				if living := o.at["healthy"].names(); len(living) != 2 || strings.Contains(strings.Join(living, " "), former) {
					return fmt.Sprintf("living credentials: %q", living)
				}
				return ""
			})
			wait()
		})
	}
}

// The credentials of leases that have ended are ended at each registry that
// answers, whatever hangs.
func TestSilentRegistriesDoNotDelayOthersLeases(t *testing.T) {
	for name, c := range map[string]struct {
		silent  int
		prepare func(o *outage, connection string)
	}{
		"unfinished rotate-root": {2, (*outage).leaveRootUnfinished},
		"ended leases":           {9, func(o *outage, connection string) { o.lease("creds/leased-" + connection) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var silent, healthy []string
			for i := range c.silent {
				silent = append(silent, fmt.Sprintf("a-silent-%d", i))
			}
			for i := range 5 {
				healthy = append(healthy, fmt.Sprintf("healthy-%d", i))
			}
			o := newOutage(t, append(silent, healthy...)...)
			o.tick()
			for _, connection := range silent {
				c.prepare(o, connection)
			}
			for _, connection := range healthy {
				o.lease("creds/leased-" + connection)
			}
			o.clock.advance(time.Hour)
			for _, connection := range silent {
				o.at[connection].during(o.at[connection].hangs)
			}
			wait := o.tickInBackground()
			o.eventually("the credentials of ended leases are ended", func() string {
				var left []string
				for _, connection := range healthy {
					left = append(left, o.at[connection].names()...)
				}
				if len(left) > 0 {
					return fmt.Sprintf("living: %q", left)
				}
				return ""
			})
			wait()

			// What hung is done when the registries answer again.
			o.mendAll()
			for range 20 {
				o.tick()
			}
			for _, connection := range silent {
				checkSame(t, "living credentials of "+connection, []string{}, o.at[connection].names())
				checkSame(t, "pending_root of "+connection, any(nil), o.read("connections/" + connection)["pending_root"])
			}
		})
	}
}

// What comes to its end while the leases before it are being ended is ended as soon.
func TestLeaseThatEndsDuringALongSweepIsEnded(t *testing.T) {
	o := newOutage(t, "app")
	r := o.at["app"]
	o.tick()
	o.lease("creds/leased-app")
	o.clock.advance(time.Minute)
	o.lease("creds/leased-app")
	o.clock.advance(15 * time.Minute) // the first one is due
	r.during(only("revoke", r.hangs))
	o.tickInBackground()()
	o.waitForCalls("app")
	o.clock.advance(time.Minute) // and the second one
	o.tickInBackground()()
	o.eventually("the second sweep has begun", func() string {
		o.jobs.mu.Lock()
		defer o.jobs.mu.Unlock()
		if o.jobs.known["the minute"] {
			return "the minute is not over"
		}
		return ""
	})
	r.mend()
	o.settle()
	checkSame(t, "living credentials", 1, len(r.names()))
	o.tick()
	checkSame(t, "living credentials a minute later", 0, len(r.names()))
}

// An entry that cannot be read, whatever the reason, stops none behind it.
func TestUnreadableLeaseDoesNotStopOthers(t *testing.T) {
	for name, damage := range map[string]func(o *outage, key string){
		"damaged":          func(o *outage, key string) { o.store(key, "damaged") },
		"not to be had":    func(o *outage, key string) { o.storage = unreadable{o.storage, key} },
		"of a newer build": func(o *outage, key string) { o.store(key, `{"schema_version":999}`) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOutage(t, "app", "other")
			o.tick()
			o.lease("creds/leased-app")
			first := o.at["app"].names()
			damage(o, leasePrefix("app")+keysBelow(t, o.engine, leasePrefix("app"))[0])
			o.clock.advance(time.Minute)
			o.lease("creds/leased-app")
			o.lease("creds/leased-other")
			for range 30 {
				o.tick()
			}
			checkSame(t, "living credentials", first, o.at["app"].names())
			checkSame(t, "living credentials of another connection", []string{}, o.at["other"].names())
		})
	}
}

// unreadable is a storage that fails to return one entry.
type unreadable struct {
	logical.Storage
	key string
}

func (s unreadable) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if key == s.key {
		return nil, errStorage
	}
	return s.Storage.Get(ctx, key)
}

// waiting are requests that need the registry of the connection "app".
var waiting = map[string]struct {
	op   logical.Operation
	path string
	data fields

	// busy says that the request can only be refused while the registry does not
	// answer.
	busy bool
}{
	"read of a leased role":         {logical.ReadOperation, "creds/leased-app", nil, true},
	"first read of a shared role":   {logical.ReadOperation, "creds/first", nil, true},
	"read of a bundle with that":    {logical.ReadOperation, "creds/bundle", nil, true},
	"read of a role that is due":    {logical.ReadOperation, "creds/shared-app", nil, false},
	"rotation":                      {logical.UpdateOperation, "rotate/shared-app", nil, true},
	"deletion of a role":            {logical.DeleteOperation, "roles/shared-app", nil, false},
	"write of a role that verifies": {logical.UpdateOperation, "roles/first", fields{"verify": true}, false},
	"write of a connection":         {logical.UpdateOperation, "connections/app", fields{"allowed_roles": "*"}, false},
	"check of a connection":         {logical.ReadOperation, "connections/app/check", nil, false},
	"rotate-root":                   {logical.UpdateOperation, "connections/app/rotate-root", nil, true},
	"deletion of a connection":      {logical.DeleteOperation, "connections/app", nil, false},
	"verification of a leased role": {logical.UpdateOperation, "verify/leased-app", nil, false},
	"verification of a shared role": {logical.UpdateOperation, "verify/first", nil, false},
	"revocation of a lease":         {logical.RevokeOperation, "creds/leased-app", nil, true},
}

// newWaitingOutage has what these requests are about. The shared role is due.
func newWaitingOutage(t *testing.T) (o *outage, leased *logical.Secret) {
	t.Helper()
	o = newOutage(t, "app", "other")
	o.write("roles/first", with(sharedRole, fields{"allowed_bundles": "bundle"}))
	o.write("roles/bundle", fields{"members": "first"})
	o.write("roles/static", samples["roles/app"])
	o.read("creds/shared-app")
	o.clock.advance(defaultRotationPeriod)
	_, leased = o.lease("creds/leased-app")
	return o, leased
}

// No request waits until a registry answers that does not answer.
func TestRequestsDoNotWaitForASilentRegistry(t *testing.T) {
	for name, request := range waiting {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, leased := newWaitingOutage(t)
			o.at["app"].during(o.at["app"].hangs)
			var err error
			o.inBackground(name, func() { _, err = o.sendWith(o.t.Context(), request.op, request.path, request.data, leased) })()
			checkHoldsNoSecret(t, "the error", err)
			var coded logical.HTTPCodedError
			if request.busy && (!errors.As(err, &coded) || coded.Code() != http.StatusServiceUnavailable) {
				t.Errorf("want an error with status 503, got %v", err)
			}
			o.inBackground("a read of a static role", func() { _, err = o.send(o.t.Context(), logical.ReadOperation, "creds/static") })()
			if err != nil {
				t.Errorf("a read of a static role: %v", err)
			}
		})
	}
}

// What a request has begun is brought to its end when the request gives up: the
// next read of a shared role returns what was minted, and what was minted for a
// lease that nobody has is ended.
func TestWorkGoesOnWhenItsRequestGivesUp(t *testing.T) {
	o := newOutage(t, "app", "other")
	o.tick()
	for _, r := range o.at {
		r.during(r.hangs)
	}
	for _, path := range []string{"creds/shared-app", "creds/leased-other"} {
		o.inBackground("a read of "+path, func() {
			if _, err := o.send(t.Context(), logical.ReadOperation, path); err == nil {
				t.Errorf("%s: want an error", path)
			}
		})()
	}
	o.mendAll()
	o.eventually("the shared role serves", func() string {
		o.clock.advance(time.Second)
		if _, err := o.send(t.Context(), logical.ReadOperation, "creds/shared-app"); err != nil {
			return err.Error()
		}
		return ""
	})
	checkSame(t, "mints", 1, o.at["app"].mints())
	for range 70 {
		o.tick()
	}
	checkSame(t, "credentials of leases that nobody has", []string{}, o.at["other"].names())
	checkSame(t, "write-ahead entries", 0, o.writeAheadEntries())
}

// The engine ends at once, whatever it is doing: Vault waits for it, and for its
// requests, with a reload, a seal, a step-down and the disabling of the mount.
func TestStoppingDoesNotWaitForASilentRegistry(t *testing.T) {
	o, leased := newWaitingOutage(t)
	o.tick()
	o.leaveRootUnfinished("other")
	o.clock.advance(defaultRotationPeriod)
	for _, r := range o.at {
		r.during(r.hangs)
	}
	var requests sync.WaitGroup
	for _, request := range waiting {
		if request.op == logical.DeleteOperation {
			continue // of what the others are about
		}
		requests.Go(func() {
			_, _ = o.sendWith(context.WithoutCancel(t.Context()), request.op, request.path, request.data, leased)
		})
	}
	requests.Go(func() { _, _ = o.send(context.WithoutCancel(t.Context()), logical.RollbackOperation, "") })
	o.waitForCalls("app", "other")
	o.inBackground("stopping the engine", func() { o.Cleanup(context.Background()) })()
	o.inBackground("the requests", requests.Wait)()
}

// A registry that failed is left alone for a while, whoever asks, and then called
// once to see whether it works again.
func TestRegistryThatFailsIsLeftAlone(t *testing.T) {
	o := newOutage(t, "app", "other")
	r := o.at["app"]
	r.during(func(ctx context.Context, _ string) error {
		sleep(ctx, 20*time.Millisecond)
		return errAmbiguous
	})
	for range errorsTolerated { // it may fail for one role only
		_, _ = o.send(t.Context(), logical.ReadOperation, "creds/leased-app")
	}
	for _, c := range []struct {
		wait  time.Duration
		calls int
	}{{0, 0}, {time.Second, 0}, {2 * time.Minute, 1}, {time.Second, 0}, {2 * time.Minute, 1}} {
		o.clock.advance(c.wait)
		before := r.called()
		var readers sync.WaitGroup
		for i := range 50 {
			readers.Go(func() {
				path := []string{"creds/leased-app", "creds/shared-app"}[i%2]
				if _, err := o.send(t.Context(), logical.ReadOperation, path); err == nil {
					t.Error("want an error")
				}
			})
		}
		readers.Wait()
		if calls := r.calledSince(before); len(calls) > c.calls {
			t.Errorf("%s later: want at most %d calls by 50 reads, got %d", c.wait, c.calls, len(calls))
		}
	}
	o.lease("creds/leased-other")
	r.mend()
	o.clock.advance(2 * time.Minute)
	o.lease("creds/leased-app")
	o.lease("creds/leased-app")
}

// What a registry said to one role is not told to the readers of another.
func TestPauseDoesNotRepeatWhatTheRegistrySaid(t *testing.T) {
	o := newOutage(t, "app", "other")
	o.at["app"].during(func(context.Context, string) error {
		return issuer.StatusError(http.StatusServiceUnavailable, http.Header{"Retry-After": {"90"}}, "no room for project group/hidden")
	})
	_, first := o.send(t.Context(), logical.ReadOperation, "creds/shared-app")
	_, second := o.send(t.Context(), logical.ReadOperation, "creds/leased-app")
	checkContains(t, fmt.Sprint(first), "group/hidden")
	checkContains(t, fmt.Sprint(second), "is asked again at", "it answered 503 Service Unavailable")
	if strings.Contains(fmt.Sprint(second), "group/hidden") {
		t.Errorf("want nothing of another role, got %v", second)
	}
}

// A registry that asks to wait is not asked to mint for a verification either.
func TestVerificationMintsNothingWhileTheRegistryAsksToWait(t *testing.T) {
	o := newOutage(t, "app", "other")
	r := o.at["app"]
	r.during(func(context.Context, string) error {
		return issuer.StatusError(http.StatusTooManyRequests, http.Header{"Retry-After": {"90"}}, "")
	})
	before := r.called()
	for range 3 {
		if _, err := o.send(t.Context(), logical.UpdateOperation, "verify/leased-app"); err == nil {
			t.Error("want an error")
		}
	}
	checkSame(t, "calls", []string{"mint"}, r.calledSince(before))
}

// A write of a connection may mend what its registry failed for.
func TestConnectionThatIsWrittenIsAskedAgainAtOnce(t *testing.T) {
	o := newOutage(t, "app", "other")
	r := o.at["app"]
	r.during(func(context.Context, string) error { return errDown })
	_, _ = o.send(t.Context(), logical.ReadOperation, "creds/leased-app")
	r.mend()
	if _, err := o.send(t.Context(), logical.ReadOperation, "creds/leased-app"); err == nil {
		t.Error("want the registry left alone")
	}
	o.write("connections/app", fields{"verify_connection": false})
	o.lease("creds/leased-app")
}

// Reads that fail leave no more write-ahead entries than a bound, and what they
// may have minted is gone once the registry answers.
func TestWriteAheadEntriesOfALeasedRoleAreBounded(t *testing.T) {
	o := newOutage(t, "app", "other")
	o.tick()
	o.at["app"].failAfter("mint", errAmbiguous)
	o.at["app"].during(func(_ context.Context, call string) error {
		if call == "mint" { // which acts, before it fails
			return nil
		}
		return errAmbiguous
	})
	for minute := range 60 {
		var readers sync.WaitGroup
		for range 8 {
			readers.Go(func() {
				for range 5 {
					if _, err := o.send(t.Context(), logical.ReadOperation, "creds/leased-app"); err == nil {
						t.Error("want an error")
					}
				}
			})
		}
		readers.Wait()
		o.tick()
		if left := o.writeAheadEntries(); left > entriesOfConnection {
			t.Fatalf("after %d minutes in which the registry answers 500: want at most %d write-ahead entries, got %d", minute+1, entriesOfConnection, left)
		}
	}
	if _, err := o.send(t.Context(), logical.ReadOperation, "creds/leased-other"); err != nil {
		t.Errorf("a read of a role of another connection: %v", err)
	}
	o.at["app"].mend()
	for range 70 {
		o.tick()
	}
	checkSame(t, "write-ahead entries once the registry answers", 0, o.writeAheadEntries())
	checkSame(t, "living credentials", []string{}, o.at["app"].names())
	o.lease("creds/leased-app")
}

// Nothing is minted where too many credentials may have been left behind, and the
// reader is told why.
func TestNothingIsMintedWhereTooMuchIsLeftBehind(t *testing.T) {
	o := newOutage(t, "app", "other")
	o.at["app"].during(only("mint", o.at["app"].fails))
	var says string
	for range 3 * entriesOfConnection {
		o.clock.advance(10 * time.Minute) // so that the registry is not left alone any more
		_, err := o.send(t.Context(), logical.ReadOperation, "creds/leased-app")
		if err == nil {
			t.Fatal("want an error")
		}
		says = err.Error()
	}
	o.settle()
	if left := o.writeAheadEntries(); left > entriesOfConnection {
		t.Fatalf("want at most %d write-ahead entries, got %d", entriesOfConnection, left)
	}
	checkContains(t, says, "write-ahead entries")
	o.lease("creds/leased-other")
}

// A shared role that has nothing to serve is read every five seconds, for hours.
func TestWriteAheadEntriesOfASharedRoleAreBounded(t *testing.T) {
	o := newOutage(t, "app")
	o.at["app"].during(o.at["app"].fails)
	for at := time.Duration(0); at < 2*time.Hour; at += 5 * time.Second {
		if _, err := o.send(t.Context(), logical.ReadOperation, "creds/shared-app"); err == nil {
			t.Fatal("want an error")
		}
		o.clock.advance(5 * time.Second)
		if at%time.Minute != 0 {
			continue
		}
		_, _ = o.send(t.Context(), logical.RollbackOperation, "")
		o.settle()
		if left := o.writeAheadEntries(); left > entriesOfConnection {
			t.Fatalf("after %s in which the registry answers 500: want at most %d write-ahead entries, got %d", at, entriesOfConnection, left)
		}
	}
	o.at["app"].mend()
	for range 70 {
		o.tick()
	}
	checkSame(t, "write-ahead entries once the registry answers", 0, o.writeAheadEntries())
	o.read("creds/shared-app")
	checkSame(t, "living credentials", o.served("shared-app"), o.at["app"].names())
}

// Whoever asks, and however many, a registry is called by no more than a few at a
// time, and so are all registries of the mount together.
func TestCallsAtATimeAreLimited(t *testing.T) {
	for name, c := range map[string]struct {
		connections, roles, limit int
	}{
		"one connection":   {1, 300, callsOfConnection},
		"many connections": {6, 50, callsOfMount},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var connections []string
			for i := range c.connections {
				connections = append(connections, fmt.Sprintf("app%d", i))
			}
			o := newOutage(t, connections...)
			var paths []string
			all := &load{}
			for i := range c.connections {
				for role := range c.roles {
					path := fmt.Sprintf("%d-%d", i, role)
					o.write("roles/"+path, fields{"connection": connections[i], "project": "group/app"})
					o.read("creds/" + path)
					paths = append(paths, "creds/"+path)
				}
			}
			o.clock.advance(defaultRotationPeriod)
			for _, r := range o.at {
				r.load = all
				r.during(r.answersIn(20 * time.Millisecond))
			}
			var readers sync.WaitGroup
			for _, path := range paths {
				readers.Go(func() {
					if _, err := o.send(t.Context(), logical.ReadOperation, path); err != nil {
						t.Errorf("%s: what is stored can be served: %v", path, err)
					}
				})
			}
			readers.Go(func() { _, _ = o.send(t.Context(), logical.RollbackOperation, "") })
			readers.Wait()
			o.eventually("all roles are rotated", func() string {
				mints := 0
				for _, r := range o.at {
					mints += r.mints()
				}
				if want := 2 * c.roles * c.connections; mints != want {
					// Whatever was put off is done with the next minutes.
					o.clock.advance(time.Second)
					_, _ = o.send(t.Context(), logical.RollbackOperation, "")
					return fmt.Sprintf("want %d mints, got %d", want, mints)
				}
				return ""
			})
			if all.most > c.limit {
				t.Errorf("want at most %d calls at a time, got %d", c.limit, all.most)
			}
		})
	}
}

// What is to be ended does not delay a rotation that is due, however much it is.
func TestCleaningUpDoesNotDelayWhatIsDue(t *testing.T) {
	const roles, former = 20, 10
	o := newOutage(t, "app")
	o.tick()
	for i := range roles {
		name := fmt.Sprintf("r%d", i)
		o.write("roles/"+name, fields{"connection": "app", "project": "group/app", "rotation_period": "720h", "grace_period": "1h"})
		o.read("creds/" + name)
		for range former {
			o.write("rotate/"+name, nil)
		}
	}
	o.write("roles/shared-app", fields{"rotation_period": "2h", "grace_period": "2h"})
	o.read("creds/shared-app")
	o.clock.advance(2*time.Hour + time.Minute)
	r := o.at["app"]
	before := r.called()
	r.during(r.answersIn(20 * time.Millisecond))
	o.tickInBackground()()
	o.eventually("all is done", func() string {
		if living := r.names(); len(living) != roles+2 {
			return fmt.Sprintf("%d credentials live", len(living))
		}
		return ""
	})
	calls := r.calledSince(before)
	if at := slices.Index(calls, "mint"); at < 0 || at > callsOfConnection {
		t.Errorf("want the rotation among the first %d calls, got it after %d calls of %d", callsOfConnection, at, len(calls))
	}
}

// Requests that have something ended leave room for those that need a credential.
func TestRevocationsByRequestsDoNotDelayWhatIsDue(t *testing.T) {
	for name, begin := range map[string]func(o *outage, ctx context.Context){
		"leases": func(o *outage, ctx context.Context) {
			for range 2 * callsPerRegistry {
				_, lease := o.lease("creds/leased-app")
				o.going.Go(func() { _, _ = o.sendWith(ctx, logical.RevokeOperation, "creds/leased-app", nil, lease) })
			}
		},
		"roles": func(o *outage, ctx context.Context) {
			for i := range 2 * callsPerRegistry {
				name := fmt.Sprintf("r%d", i)
				o.write("roles/"+name, fields{"connection": "app", "project": "group/app"})
				o.read("creds/" + name)
				o.going.Go(func() { _, _ = o.send(ctx, logical.DeleteOperation, "roles/"+name) })
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOutage(t, "app")
			r := o.at["app"]
			r.during(only("revoke", r.hangs))
			begin(o, context.WithoutCancel(t.Context()))
			o.eventually("as many calls as there may be", func() string {
				r.load.mu.Lock()
				defer r.load.mu.Unlock()
				if r.load.now < callsPerRegistry/2 {
					return fmt.Sprintf("%d are in progress", r.load.now)
				}
				return ""
			})
			o.read("creds/shared-app")
			o.lease("creds/leased-app")
		})
	}
}

// A registry that takes longer than requests wait at first is waited for once it is
// known how long it takes.
func TestSlowRegistryIsWaitedForAtTheSecondTry(t *testing.T) {
	t.Parallel()
	o := newOutage(t, "app")
	r := o.at["app"]
	r.during(r.answersIn(2500 * time.Millisecond))
	if _, err := o.send(t.Context(), logical.ReadOperation, "creds/leased-app"); err == nil {
		t.Error("a first read: want an error")
	}
	o.eventually("the work of the first read is done", func() string {
		o.tick()
		if living := r.names(); len(living) > 0 || r.mints() == 0 {
			return fmt.Sprintf("%d mints, living: %q", r.mints(), living)
		}
		return ""
	})
	if _, err := o.send(t.Context(), logical.ReadOperation, "creds/leased-app"); err != nil {
		t.Errorf("a second read: want a credential, got %v", err)
	}
}

// A request about a connection waits for no other connection's registry, and no
// longer than its client.
func TestConnectionsDoNotWaitForEachOther(t *testing.T) {
	other := sameStripe("app")
	for name, busy := range map[string]struct {
		op   logical.Operation
		path string
	}{
		"written":     {logical.UpdateOperation, "connections/app"},
		"rotate-root": {logical.UpdateOperation, "connections/app/rotate-root"},
		"deleted":     {logical.DeleteOperation, "connections/app"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOutage(t, "app", other)
			for _, role := range []string{"shared-app", "leased-app"} {
				if name == "deleted" {
					o.lease("creds/leased-app")
					o.must(logical.DeleteOperation, "roles/"+role, nil)
				}
			}
			o.at["app"].during(o.at["app"].hangs)
			first := o.inBackground("a request about a registry that hangs", func() {
				_, _ = o.sendData(t.Context(), busy.op, busy.path, nil)
			})
			o.waitForCalls("app")
			o.inBackground("a write of another connection", func() {
				if _, err := o.sendData(t.Context(), logical.UpdateOperation, "connections/"+other, fields{"allowed_roles": "team-*"}); err != nil {
					t.Errorf("another connection: %v", err)
				}
			})()
			gone, hangUp := context.WithCancel(t.Context())
			hangUp()
			o.inBackground("a write whose client has hung up", func() {
				_, _ = o.sendData(gone, logical.UpdateOperation, "connections/app", fields{"allowed_roles": "team-*"})
			})()
			first()
		})
	}
}

// sameStripe returns another name that has the same lock in a set of the SDK's
// striped locks.
func sameStripe(name string) string {
	for i := 0; ; i++ {
		if other := fmt.Sprintf("other-%d", i); locksutil.LockIndexForKey(other) == locksutil.LockIndexForKey(name) {
			return other
		}
	}
}

// Deleting a role calls a registry that does not answer no more often than it is
// called at a time, and waits neither for it nor longer than the client. What the
// role has minted is ended when the registry answers.
func TestDeletingARoleDoesNotWaitForItsRegistry(t *testing.T) {
	for name, faultOf := range map[string]func(*unreliableRegistry) fault{
		"hangs": func(r *unreliableRegistry) fault { return r.hangs },
		"fails": func(r *unreliableRegistry) fault { return r.fails },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const former = 40
			o := newOutage(t, "app")
			o.tick()
			o.read("creds/shared-app")
			for range former {
				o.write("rotate/shared-app", nil)
			}
			checkSame(t, "living credentials", former+1, len(o.at["app"].names()))
			o.at["app"].during(faultOf(o.at["app"]))
			before := o.at["app"].called()
			ctx, hangUp := context.WithTimeout(t.Context(), time.Second)
			defer hangUp()
			o.inBackground("deleting a role", func() {
				if _, err := o.send(ctx, logical.DeleteOperation, "roles/shared-app"); err != nil && ctx.Err() == nil {
					t.Errorf("deleting a role: %v", err)
				}
			})()
			if left := o.must(logical.ReadOperation, "roles/shared-app", nil); left != nil {
				t.Errorf("want the role deleted, got %v", left.Data)
			}
			if calls := o.at["app"].calledSince(before); len(calls) > callsOfConnection {
				t.Errorf("want at most %d calls to a registry that does not answer, got %d", callsOfConnection, len(calls))
			}
			o.at["app"].mend()
			for range 70 {
				o.tick()
			}
			checkSame(t, "living credentials once the registry answers", []string{}, o.at["app"].names())
			checkSame(t, "write-ahead entries", 0, o.writeAheadEntries())
		})
	}
}

// deposable is the storage of a node that may lose its leadership.
type deposable struct {
	logical.Storage
	deposed *atomic.Bool
}

func (s deposable) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if s.deposed.Load() {
		return logical.ErrReadOnly
	}
	return s.Storage.Put(ctx, entry)
}

func (s deposable) Delete(ctx context.Context, key string) error {
	if s.deposed.Load() {
		return logical.ErrReadOnly
	}
	return s.Storage.Delete(ctx, key)
}

// newDeposable has a rotate-root that is unfinished, and leases that Vault is about
// to revoke.
func newDeposable(t *testing.T) (o *outage, leases []*logical.Secret, deposed *atomic.Bool) {
	t.Helper()
	o, deposed = newOutage(t, "app"), &atomic.Bool{}
	for range 80 {
		_, secret := o.lease("creds/leased-app")
		leases = append(leases, secret)
	}
	o.leaveRootUnfinished("app")
	o.clock.advance(time.Hour)
	o.storage = deposable{o.storage, deposed}
	o.sleep = sleep
	return o, leases, deposed
}

// revokeAll revokes leases as Vault does, all at once.
func (o *outage) revokeAll(ctx context.Context, leases []*logical.Secret) (done *sync.WaitGroup, errs *sync.Map) {
	done, errs = &sync.WaitGroup{}, &sync.Map{}
	for i, secret := range leases {
		done.Go(func() {
			kept := *secret
			_, err := o.HandleRequest(ctx, &logical.Request{Operation: logical.RevokeOperation, Path: "creds/leased-app", Storage: o.storage, Secret: &kept})
			errs.Store(i, err)
		})
	}
	return done, errs
}

// A node that has lost its leadership, while another one has finished the
// rotate-root, leaves the registry alone, and ends what waits.
func TestDeposedLeaderLeavesTheRegistryAlone(t *testing.T) {
	o, leases, deposed := newDeposable(t)
	var before atomic.Int64
	o.at["app"].during(func(_ context.Context, call string) error {
		if call == "check" && deposed.CompareAndSwap(false, true) {
			o.at["app"].mintingRegistry.mu.Lock()
			defer o.at["app"].mintingRegistry.mu.Unlock()
			clear(o.at["app"].admins)
			o.at["app"].admins["that of the other node"] = true
			before.Store(int64(o.at["app"].called()))
		}
		return nil
	})
	done, errs := o.revokeAll(t.Context(), leases)
	o.inBackground("the revocations of a node that is not the leader", done.Wait)()
	errs.Range(func(_, err any) bool {
		if err == nil {
			t.Error("want an error of each revocation, on which Vault tries again, got none")
		}
		return err != nil
	})
	if !deposed.Load() {
		t.Fatal("want the node deposed during a check of the new root credential")
	}
	if calls := o.at["app"].calledSince(int(before.Load())); len(calls) > 2 {
		t.Errorf("want at most 2 calls after the node was deposed, got %d: %q", len(calls), calls)
	}
	checkSame(t, "living credentials", len(leases), len(o.at["app"].names()))
}

// The same node, which finds that it is not the leader before it has called.
func TestDeposedLeaderDoesNotBegin(t *testing.T) {
	o, leases, deposed := newDeposable(t)
	deposed.Store(true)
	before := o.at["app"].called()
	done, _ := o.revokeAll(t.Context(), leases)
	o.inBackground("the revocations of a node that is not the leader", done.Wait)()
	checkSame(t, "calls", []string{}, o.at["app"].calledSince(before))
}

// A rotate-root that cannot be finished is tried by one request and not by each
// that needs the connection, and the others do not wait for that one.
func TestUnfinishedRootIsTriedByOne(t *testing.T) {
	o, leases, _ := newDeposable(t)
	r := o.at["app"]
	r.mintingRegistry.mu.Lock()
	clear(r.admins) // another node, or a person, has replaced it
	r.mintingRegistry.mu.Unlock()
	before := r.called()
	done, _ := o.revokeAll(t.Context(), leases)
	o.inBackground("revocations with an unfinished rotate-root", done.Wait)()
	tries := 0
	for _, call := range r.calledSince(before) {
		if call != "revoke" {
			tries++
		}
	}
	if limit := rootTries + 4; tries > limit {
		t.Errorf("want at most %d calls to finish the rotate-root, got %d", limit, tries)
	}
}

// What waits for a connection ends with its request.
func TestRevocationsWaitNoLongerThanTheirRequests(t *testing.T) {
	o, leases, _ := newDeposable(t)
	o.at["app"].during(o.at["app"].hangs)
	rotating := o.inBackground("rotate-root", func() {
		_, _ = o.send(t.Context(), logical.UpdateOperation, "connections/app/rotate-root")
	})
	o.waitForCalls("app")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	done, errs := o.revokeAll(ctx, leases)
	o.inBackground("revocations whose requests have ended", done.Wait)()
	errs.Range(func(_, err any) bool {
		if err == nil {
			t.Error("want an error of each revocation, on which Vault tries again, got none")
		}
		return err != nil
	})
	rotating()
}
