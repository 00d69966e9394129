// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// waitForAttention waits until all that depends on what was written is looked at.
func (e *engine) waitForAttention() {
	e.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if !e.attentions.isWorking() {
			return
		}
	}
	e.t.Fatal("what depends on a write is still being looked at")
}

// isWorking reports whether some work is in progress.
func (a *attentions) isWorking() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.work {
		if w.running {
			return true
		}
	}
	return false
}

// needsAttention returns what status says: the kind, and the role or connection, of each.
func (e *engine) needsAttention() []string {
	e.t.Helper()
	e.read("status")
	e.waitForAttention()
	items := []string{}
	for _, item := range e.read("status")["attention"].([]map[string]any) {
		items = append(items, fmt.Sprint(item["kind"], " ", item["role"], item["connection"]))
	}
	return items
}

func TestStatusOfAnEmptyMount(t *testing.T) {
	e := newEngine(t)
	e.read("status")
	e.waitForAttention()
	checkSame(t, "status", fields{
		"attention": []map[string]any{}, "attention_count": 0, "complete": true,
		"roles": map[string]int{"static": 0, "bundle": 0, "dynamic": 0}, "connections": map[string]int{},
		"leases": 0, "retired_credentials": 0, "write_ahead_entries": 0,
	}, e.read("status"))
}

// Each of these needs attention, and does not any more once it is mended. What a registry
// said, with a user name in it, is not shown.
func TestStatusSaysWhatNeedsAttention(t *testing.T) {
	const said = "user planted-user-name is not allowed"
	fresh := fields{"registry": "registry.example.com", "username": "planted-user-name", "password": "x"}
	for name, c := range map[string]struct {
		breaks, mends func(*engine)
		want          []string
	}{
		"expired": {
			func(e *engine) { e.write("roles/old", with(fresh, fields{"expires_at": "2026-02-28T12:00:00Z"})) },
			func(e *engine) {
				e.write("roles/old", fields{"password": "y", "expires_at": "2036-02-28T12:00:00Z"})
			},
			[]string{"expired old<nil>"},
		},
		"expires while nobody writes": {
			func(e *engine) {
				e.write("roles/old", with(fresh, fields{"expires_at": "2026-04-01T12:00:00Z"}))
				checkSame(t, "a month before", []string{}, e.needsAttention())
				e.clock.advance(20 * 24 * time.Hour)
				checkSame(t, "11 days before", []string{"expiring old<nil>"}, e.needsAttention())
				e.clock.advance(11 * 24 * time.Hour)
			},
			func(e *engine) { e.must(logical.DeleteOperation, "roles/old", nil) },
			[]string{"expired old<nil>"},
		},
		"longer warning": {
			func(e *engine) {
				e.write("roles/old", with(fresh, fields{"expires_at": "2026-04-01T12:00:00Z"}))
				e.write("config", fields{"expiry_warning": "1000h"})
			},
			func(e *engine) { e.must(logical.DeleteOperation, "config", nil) },
			[]string{"expiring old<nil>"},
		},
		"not allowed": {
			func(e *engine) {
				e.write("roles/other", with(fresh, fields{"registry": "ghcr.io"}))
				e.write("config", fields{"allowed_registries": "*.example.com"})
			},
			func(e *engine) { e.must(logical.DeleteOperation, "config", nil) },
			[]string{"registry_not_allowed other<nil>"},
		},
		"bundle": {
			func(e *engine) {
				e.write("roles/all", fields{"members": "app"})
				e.write("roles/app", fields{"allowed_bundles": ""})
			},
			func(e *engine) { e.write("roles/app", fields{"allowed_bundles": "all"}) },
			[]string{"bundle_broken all<nil>"},
		},
		"connection": {
			func(e *engine) { e.write("connections/app", fields{"allowed_roles": "other"}) },
			func(e *engine) { e.write("connections/app", fields{"allowed_roles": "*"}) },
			[]string{"connection_refuses app<nil>"},
		},
		"rotation": {
			func(e *engine) {
				e.minting.fail("mint", issuer.StatusError(http.StatusForbidden, nil, said))
				e.failed(logical.ReadOperation, "creds/app", nil, http.StatusBadGateway)
			},
			func(e *engine) {
				e.minting.mend()
				e.clock.advance(time.Minute)
				e.read("creds/app")
			},
			[]string{"rotation_failing app<nil>"},
		},
		"revocation": {
			func(e *engine) {
				e.read("creds/app")
				e.write("rotate/app", nil)
				e.minting.fail("revoke", issuer.StatusError(http.StatusForbidden, nil, said))
				e.clock.advance(2 * time.Hour)
				e.mustRollBack()
			},
			func(e *engine) {
				e.minting.mend()
				e.clock.advance(2 * time.Hour)
				e.mustRollBack()
			},
			[]string{"revocation_failing app<nil>"},
		},
		"root": {
			func(e *engine) {
				e.minting.fail("check", issuer.StatusError(http.StatusForbidden, nil, said))
				e.failed(logical.ReadOperation, "connections/app/check", nil, http.StatusBadGateway)
			},
			func(e *engine) {
				e.minting.mend()
				e.read("connections/app/check")
			},
			[]string{"root_refused <nil>app"},
		},
		"rotate-root": {
			func(e *engine) {
				e.minting.fail("retire", errDown)
				e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
			},
			func(e *engine) {
				e.minting.mend()
				e.clock.advance(time.Hour)
				e.mustRollBack()
				e.read("connections/app/check")
			},
			[]string{"rotate_root_unfinished <nil>app"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			e.t = t
			checkSame(t, "before", []string{}, e.needsAttention())
			c.breaks(e)
			checkSame(t, "attention", c.want, e.needsAttention())
			shown, err := json.Marshal(e.read("status"))
			if err != nil || strings.Contains(string(shown), "planted-user-name") {
				t.Errorf("status shows a user name: %s, %v", shown, err)
			}
			checkSame(t, "attention after a start", c.want, e.restarted(t).needsAttention())
			c.mends(e)
			checkSame(t, "attention once it is mended", []string{}, e.needsAttention())
			checkSame(t, "attention once it is mended, after a start", []string{}, e.restarted(t).needsAttention())
			if e.read("status")["retired_credentials"] != 0 {
				return // they have a key
			}
			for key := range e.snapshot() {
				if strings.HasPrefix(key, attentionPrefix) {
					t.Errorf("%s stays in the index", key)
				}
			}
		})
	}
}

// A registry that does not answer is one entry, until it answers.
func TestRegistryThatDoesNotAnswerNeedsAttention(t *testing.T) {
	e := newSharingEngine(t)
	e.calls.pause = firstPause
	e.minting.fail("check", issuer.StatusError(http.StatusServiceUnavailable, nil, "planted-user-name"))
	for range errorsTolerated {
		e.failed(logical.ReadOperation, "connections/app/check", nil, http.StatusBadGateway)
	}
	checkSame(t, "attention", []string{"registry_unreachable <nil>app"}, e.needsAttention())
	checkSame(t, "left alone", map[string]float64{"connection=app": 1}, series(e.metricFamilies()["regcred_registry_left_alone"]))
	e.clock.advance(time.Hour)
	checkSame(t, "attention while nobody asks", []string{"registry_unreachable <nil>app"}, e.needsAttention())
	e.minting.mend()
	e.read("connections/app/check")
	checkSame(t, "attention", []string{}, e.needsAttention())
	checkSame(t, "left alone", map[string]float64{"connection=app": 0}, series(e.metricFamilies()["regcred_registry_left_alone"]))
}

func TestGivenUpCredentialStaysUntilSomebodyForgetsIt(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.minting.alsoAt(t, "https://other.example.com")
	e.write("connections/app", with(e.connectionSample(), fields{"url": "https://other.example.com"}))
	e.read("creds/app")
	e.clock.advance(2 * time.Hour)
	e.mustRollBack()
	checkSame(t, "attention", []string{"given_up app<nil>"}, e.needsAttention())
	e.write("roles/app", fields{"project": "group/app"})
	checkSame(t, "attention after another write", []string{"given_up app<nil>"}, e.needsAttention())
	e.write("roles/app", fields{"forget_given_up": true})
	checkSame(t, "attention", []string{}, e.needsAttention())
	checkSame(t, "given_up", any(nil), e.read("roles/app")["given_up"])
	e.refused(logical.UpdateOperation, "roles/new", fields{"registry": "ghcr.io", "username": "me", "password": "x", "forget_given_up": true}, `forget_given_up: is for shared roles that exist; role "new" is none`)
}

// A process that has ended knew under which key the failed revocation stands. The next one
// must know it too, or the key outlives the credential.
func TestRevocationAfterARestartLeavesNoKey(t *testing.T) {
	e := newLeasingEngine(t, nil)
	_, secret := e.lease("creds/leased")
	e.minting.fail("revoke", errDown)
	if _, err := e.onLease(logical.RevokeOperation, secret); err == nil {
		t.Error("want an error while the registry is down")
	}
	e = e.restarted(t)
	if items := e.needsAttention(); len(items) != 1 || !strings.HasPrefix(items[0], kindRevocationFailing) {
		t.Errorf("want %s, got %q", kindRevocationFailing, items)
	}
	if _, err := e.onLease(logical.RevokeOperation, secret); err != nil {
		t.Error(err)
	}
	checkSame(t, "index of leases", 0, len(e.indexedLeases()))
	checkSame(t, "what needs attention", []string{}, e.needsAttention())
}

// What storage refuses again does not have the others forgotten that are to be looked at.
func TestDoubtThatStaysLosesNoOther(t *testing.T) {
	e := newEngine(t)
	e.write("roles/a", fields{"registry": "ghcr.io", "username": "me", "password": "x"})
	e.write("roles/b", fields{"registry": "ghcr.io", "username": "me", "password": "x"})
	checkSame(t, "what needs attention", []string{}, e.needsAttention())
	expires := formatTime(e.clock.now().Add(time.Hour))
	written := e.storage
	e.storage = afterwards{written}
	for _, name := range []string{"a", "b"} {
		if _, err := e.request(logical.UpdateOperation, "roles/"+name, fields{"expires_at": expires}); err == nil {
			t.Error("want an error of the storage")
		}
	}
	e.storage = written
	e.storage = e.faulty(1)
	_ = e.keepAttention(t.Context(), e.through())
	e.storage = written
	e.mustRollBack()
	checkSame(t, "what needs attention", []string{"expiring a<nil>", "expiring b<nil>"}, e.needsAttention())
}

// afterwards is a storage that writes roles and then says that it could not.
type afterwards struct{ logical.Storage }

func (s afterwards) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := s.Storage.Put(ctx, entry); err != nil || !strings.HasPrefix(entry.Key, roleStoragePrefix) {
		return err
	}
	return errDown
}

// A credential may be under way to its end for as long as its registry takes. Neither a
// start nor the engine's minute waits for that, and what came of it is known afterwards.
func TestStatusDoesNotWaitForARevocation(t *testing.T) {
	for name, ends := range map[string]bool{"that works": true, "that fails": false} {
		t.Run(name, func(t *testing.T) {
			e := newLeasingEngine(t, nil)
			_, secret := e.lease("creds/leased")
			e.minting.fail("revoke", errDown)
			_, _ = e.onLease(logical.RevokeOperation, secret)
			e = e.restarted(t)
			unlock := e.lockLease(secret)
			looked := make(chan error, 1)
			go func() { looked <- e.keepAttention(t.Context(), e.through()) }()
			select {
			case err := <-looked:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(soon):
				t.Fatal("the minute waits for a revocation")
			}
			failing := []string{"revocation_failing <nil>app"}
			checkSame(t, "what needs attention meanwhile", failing, e.needsAttention())
			unlock()
			want := []string{}
			if !ends {
				e.minting.fail("revoke", errDown)
				want = failing
			}
			if _, err := e.onLease(logical.RevokeOperation, secret); (err == nil) != ends {
				t.Error(err)
			}
			e.mustRollBack()
			checkSame(t, "what needs attention", want, e.needsAttention())
			checkSame(t, "complete", any(true), e.read("status")["complete"])
		})
	}
}

// All roles and leases are looked at once a day. A credential that cannot be revoked, and is
// being tried again meanwhile, leaves status complete.
func TestDailyLookLeavesStatusComplete(t *testing.T) {
	e := newLeasingEngine(t, nil)
	_, secret := e.lease("creds/leased")
	e.minting.fail("revoke", errDown)
	_, _ = e.onLease(logical.RevokeOperation, secret)
	failing := []string{"revocation_failing <nil>app"}
	checkSame(t, "what needs attention", failing, e.needsAttention())
	defer e.lockLease(secret)()
	e.attentions.want(refreshed)
	if err := e.keepAttention(t.Context(), e.through()); err != nil {
		t.Error(err)
	}
	e.background.Wait()
	checkSame(t, "work that is left", 0, len(e.attentions.announcedWork()))
	checkSame(t, "what needs attention", failing, e.needsAttention())
	checkSame(t, "complete", any(true), e.read("status")["complete"])
}

// lockLease locks a lease, as whoever revokes it does.
func (e *engine) lockLease(secret *logical.Secret) (unlock func()) {
	e.t.Helper()
	l, err := leaseOf(&logical.Request{Secret: secret})
	if err != nil {
		e.t.Fatal(err)
	}
	unlock, err = e.leaseLocks.lock(e.t.Context(), l.Name)
	if err != nil {
		e.t.Fatal(err)
	}
	return unlock
}

// loseIndexes deletes what is stored under prefixes, as if an earlier build had written
// the rest, or somebody had looked for space.
func (e *engine) loseIndexes(prefixes ...string) {
	e.t.Helper()
	for _, prefix := range prefixes {
		if err := logical.ClearView(e.t.Context(), logical.NewStorageView(e.storage, prefix)); err != nil {
			e.t.Fatal(err)
		}
	}
}

// An earlier build has no index of the leases whose revocation failed.
func TestFailedRevocationOfAnEarlierBuildIsKnownAfterItsNextTry(t *testing.T) {
	e := newLeasingEngine(t, nil)
	_, secret := e.lease("creds/leased")
	e.minting.fail("revoke", errDown)
	_, _ = e.onLease(logical.RevokeOperation, secret)
	e.loseIndexes(leaseAttentionPrefix)
	e = e.restarted(t)
	e.minting.fail("revoke", errDown)
	e.clock.advance(time.Hour)
	_ = e.rollBack()
	failing := []string{"revocation_failing <nil>app"}
	checkSame(t, "what needs attention", failing, e.needsAttention())
	e = e.restarted(t)
	checkSame(t, "what needs attention after a restart", failing, e.needsAttention())
}

// Whatever is the first to see such a lease has the index name it: here it is the sweep,
// which moves a key that was written while the clock was ahead.
func TestMovedKeyOfAnEarlierBuildIsKnownAfterARestart(t *testing.T) {
	const year = 365 * 24 * time.Hour
	e := newLeasingEngine(t, nil)
	e.clock.advance(year)
	_, secret := e.lease("creds/leased")
	e.minting.fail("revoke", errDown)
	_, _ = e.onLease(logical.RevokeOperation, secret)
	e.loseIndexes(attentionPrefix, leaseAttentionPrefix)
	e.clock.advance(-year)
	e = e.restarted(t)
	failing := []string{"revocation_failing <nil>app"}
	if err := e.sweepLeases(t.Context(), e.storage); err != nil {
		t.Fatal(err)
	}
	e.background.Wait()
	checkSame(t, "what needs attention", failing, e.needsAttention())
	checkSame(t, "what needs attention after a restart", failing, e.restarted(t).needsAttention())
}

// Whoever deletes the indexes in storage loses nothing that status says.
func TestLostIndexOfFailedRevocationsIsBuiltAnew(t *testing.T) {
	e := newLeasingEngine(t, nil)
	_, secret := e.lease("creds/leased")
	e.minting.fail("revoke", errDown)
	_, _ = e.onLease(logical.RevokeOperation, secret)
	e.loseIndexes(attentionPrefix, leaseAttentionPrefix)
	e = e.restarted(t)
	checkSame(t, "what needs attention", []string{"revocation_failing <nil>app"}, e.needsAttention())
}

// A role of an earlier build, of which a write fails before it is looked at, comes into the
// index of types all the same.
func TestTypeOfARoleThatIsLookedAtTwice(t *testing.T) {
	e := newSharingEngine(t)
	e.loseIndexes(roleTypesPrefix)
	e = e.restarted(t)
	e.attentions.doubt("app")
	e.mustRollBack()
	want := any(map[string]int{"static": 0, "bundle": 0, "dynamic": 1})
	checkSame(t, "roles", want, e.read("status")["roles"])
	checkSame(t, "roles after a restart", want, e.restarted(t).read("status")["roles"])
}

// The same, if the role is written before anything is looked at.
func TestTypeOfARoleThatIsWrittenAfterAnUpgrade(t *testing.T) {
	e := newSharingEngine(t)
	e.loseIndexes(roleTypesPrefix)
	if err := e.storage.Delete(t.Context(), attentionCompleteKey); err != nil {
		t.Fatal(err)
	}
	e = e.restarted(t)
	e.write("roles/app", fields{"rotation_period": "2h"})
	storage := e.storage
	e.storage = failingDelete{storage, attentionCompleteKey}
	if _, err := e.request(logical.UpdateOperation, "config", fields{"allowed_registries": "*"}); !errors.Is(err, errStorage) { // has all roles looked at
		t.Errorf("want the storage's error, got %v", err)
	}
	e.background.Wait()
	e.storage = storage
	e.mustRollBack()
	want := any(map[string]int{"static": 0, "bundle": 0, "dynamic": 1})
	checkSame(t, "roles", want, e.read("status")["roles"])
	checkSame(t, "roles after a restart", want, e.restarted(t).read("status")["roles"])
}

// failingDelete fails to delete a key.
type failingDelete struct {
	logical.Storage
	key string
}

func (s failingDelete) Delete(ctx context.Context, key string) error {
	if key == s.key {
		return errStorage
	}
	return s.Storage.Delete(ctx, key)
}

// Storage fails at any call while the leases of a deleted connection are forgotten. What is
// counted, and what needs attention, is what is left.
func TestLeasesOfADeletedConnectionAreNotCounted(t *testing.T) {
	for failAt := int64(1); ; failAt++ {
		e := newLeasingEngine(t, nil)
		for range 3 {
			_, secret := e.lease("creds/leased")
			e.minting.fail("revoke", errDown)
			_, _ = e.onLease(logical.RevokeOperation, secret)
			e.minting.mend()
		}
		e.must(logical.DeleteOperation, "roles/leased", nil)
		checkSame(t, "what needs attention", []string{"revocation_failing <nil>app"}, e.needsAttention())
		faulty := e.faulty(failAt)
		e.storage = faulty
		_, _ = e.request(logical.DeleteOperation, "connections/app", fields{"force": true})
		calls := faulty.calls.Load()
		e.storage = faulty.Storage
		if err := e.keepAttention(t.Context(), e.through()); err != nil {
			t.Error(err)
		}
		got, want := e.needsAttention(), e.restarted(t).needsAttention()
		checkSame(t, fmt.Sprintf("call %d fails: attention as after a start", failAt), want, got)
		checkSame(t, fmt.Sprintf("call %d fails: leases", failAt), any(len(e.indexedLeases())), e.read("status")["leases"])
		if calls < failAt {
			return
		}
	}
}

// What is known of a root credential stays known until another one is stored.
func TestRootCheckOutlivesOtherWrites(t *testing.T) {
	e := newConnectedEngine(t)
	e.minting.status.ExpiresAt = e.clock.now().Add(48 * time.Hour)
	e.read("connections/app/check")
	expiring := []string{"root_expiring <nil>app"}
	checkSame(t, "what needs attention", expiring, e.needsAttention())
	e.clock.advance(time.Minute)
	e.write("connections/app", fields{"allowed_roles": "other", "verify_connection": false})
	checkSame(t, "what needs attention after a write of something else", expiring, e.needsAttention())
	checkSame(t, "what needs attention after a restart", expiring, e.restarted(t).needsAttention())

	e.minting.status.ExpiresAt = time.Time{}
	e.minting.admins["new"] = true
	for range 2 {
		e.clock.advance(time.Minute)
		written := e.storage
		e.storage = noConnections{written}
		if _, err := e.request(logical.UpdateOperation, "connections/app", fields{"password": "new"}); err == nil {
			t.Error("want an error of the storage")
		}
		e.storage = written
		e.mustRollBack()
		checkSame(t, "what needs attention after a write that failed", expiring, e.needsAttention())
		checkSame(t, "what needs attention after a restart", expiring, e.restarted(t).needsAttention())
	}
	e.write("connections/app", fields{"password": "new"})
	checkSame(t, "what needs attention after the write", []string{}, e.needsAttention())
}

// noConnections is a storage that does not store connections.
type noConnections struct{ logical.Storage }

func (s noConnections) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if strings.HasPrefix(entry.Key, connectionStoragePrefix) {
		return errDown
	}
	return s.Storage.Put(ctx, entry)
}

// A refusal that the registry words differently is the same refusal.
func TestRefusalOfARootCredentialKeepsItsTime(t *testing.T) {
	e := newConnectedEngine(t)
	since := formatTime(e.clock.now())
	for _, refusal := range []error{issuer.StatusError(http.StatusForbidden, nil), issuer.Proving(issuer.ProvesRefused, issuer.StatusError(http.StatusUnauthorized, nil))} {
		e.minting.fail("check", refusal)
		_, _ = e.request(logical.ReadOperation, "connections/app/check", nil)
		items := e.read("status")["attention"].([]map[string]any)
		if len(items) != 1 || items[0]["kind"] != kindRootRefused || items[0]["since"] != since {
			t.Errorf("want %s since %s, got %v", kindRootRefused, since, items)
		}
		e.clock.advance(time.Hour)
	}
}

// A key in the index may stay for something else. When what was mended breaks again, it
// is new, also if that is the first thing after a start.
func TestSinceIsNotThatOfAFormerFailure(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.minting.fail("mint", errDown)
	_, _ = e.request(logical.UpdateOperation, "rotate/app", nil)
	e.minting.mend()
	e.clock.advance(time.Hour)
	e.write("rotate/app", nil)
	checkSame(t, "what needs attention", []string{}, e.needsAttention())
	e = e.restarted(t)
	e.clock.advance(time.Minute)
	again := e.clock.now()
	e.minting.fail("mint", errDown)
	_, _ = e.request(logical.UpdateOperation, "rotate/app", nil)
	items := e.read("status")["attention"].([]map[string]any)
	if len(items) != 1 || items[0]["since"] != formatTime(again) {
		t.Errorf("want %s since %s, got %v", kindRotationFailing, formatTime(again), items)
	}
}

// Any number of reads of status has what they wait for done once.
func TestStatusIsPreparedOnce(t *testing.T) {
	e := newEngine(t)
	e.calls.patience = time.Millisecond
	storage := e.storage
	release := make(chan struct{})
	e.storage = listsLater{storage, release}
	for range 50 {
		if _, err := e.request(logical.ReadOperation, "status", nil); err == nil {
			t.Error("want an error while storage does not answer")
		}
	}
	e.background.mu.Lock()
	running := e.background.running
	e.background.mu.Unlock()
	close(release)
	checkSame(t, "what goes on in the background", 1, running)
	e.background.Wait()
	checkSame(t, "what needs attention", []string{}, e.needsAttention())
}

// listsLater is a storage that lists nothing until it is released.
type listsLater struct {
	logical.Storage
	release chan struct{}
}

func (s listsLater) List(ctx context.Context, prefix string) ([]string, error) {
	<-s.release
	return s.Storage.List(ctx, prefix)
}

// Each call of the storage fails once, in each of these steps, and a write that fails
// happens or does not. A minute later status is right, and it is right after a start.
func TestAttentionSurvivesEachFailure(t *testing.T) {
	nothing := func(*engine) {}
	for name, c := range map[string]struct{ before, step func(*engine) }{
		"role":       {nothing, func(e *engine) { e.try(logical.UpdateOperation, "roles/old", fields{"registry": "ghcr.io"}) }},
		"bundle":     {nothing, func(e *engine) { e.try(logical.UpdateOperation, "roles/member", fields{"allowed_bundles": ""}) }},
		"config":     {nothing, func(e *engine) { e.try(logical.UpdateOperation, "config", fields{"allowed_registries": "ghcr.io"}) }},
		"connection": {nothing, func(e *engine) { e.try(logical.UpdateOperation, "connections/app", fields{"allowed_roles": "none"}) }},
		"rotate":     {nothing, func(e *engine) { e.try(logical.UpdateOperation, "rotate/app", nil) }},
		"deletion of a role": {
			func(e *engine) { e.write("config", fields{"allowed_registries": "registry.example.*"}) },
			func(e *engine) { e.try(logical.DeleteOperation, "roles/old", nil) },
		},
		"deletion of a connection": {
			func(e *engine) {
				e.write("connections/spare", e.connectionSample())
				e.minting.fail("check", issuer.StatusError(http.StatusForbidden, nil, "no"))
				e.failed(logical.ReadOperation, "connections/spare/check", nil, http.StatusBadGateway)
				e.minting.mend()
			},
			func(e *engine) { e.try(logical.DeleteOperation, "connections/spare", nil) },
		},
		"deletion of a config that cannot be read": {
			func(e *engine) {
				if err := e.storage.Put(t.Context(), &logical.StorageEntry{Key: configStorageKey, Value: []byte(`{"schema_version":9}`)}); err != nil {
					t.Fatal(err)
				}
				e.Invalidate(t.Context(), configStorageKey)
			},
			func(e *engine) { e.try(logical.DeleteOperation, "config", nil) },
		},
	} {
		test := func(t *testing.T, happens bool) {
			for failAt := int64(1); ; failAt++ {
				e := newSharingEngine(t)
				e.t = t
				e.write("roles/member", fields{"registry": "registry.example.org", "username": "me", "password": "x", "allowed_bundles": "all"})
				e.write("roles/old", fields{"registry": "quay.io", "username": "me", "password": "x"})
				e.write("roles/all", fields{"members": "member"})
				e.read("creds/app")
				c.before(e)
				e.needsAttention()
				faulty := e.faulty(failAt)
				faulty.happens = happens
				e.storage = faulty
				c.step(e)
				e.background.Wait()
				calls := faulty.calls.Load()
				e.storage = faulty.Storage
				_ = e.rollBack() // a config that cannot be read is said there, too
				got, want := e.needsAttention(), e.restarted(t).needsAttention()
				checkSame(t, fmt.Sprintf("call %d fails: attention as after a start", failAt), want, got)
				checkSame(t, "complete", any(true), e.read("status")["complete"])
				lost := e.restarted(t)
				if err := logical.ClearView(t.Context(), logical.NewStorageView(lost.storage, attentionPrefix)); err != nil {
					t.Fatal(err)
				}
				checkSame(t, fmt.Sprintf("call %d fails: attention without an index", failAt), want, lost.needsAttention())
				if calls < failAt {
					return
				}
			}
		}
		t.Run(name, func(t *testing.T) { test(t, false) })
		t.Run(name+", and the write happens", func(t *testing.T) { test(t, true) })
	}
}

// try sends a write, whatever comes of it.
func (e *engine) try(op logical.Operation, path string, data fields) {
	_, err := e.request(op, path, data)
	if err != nil && !errors.Is(err, errStorage) {
		e.t.Errorf("%s: want the storage's error or none, got %v", path, err)
	}
}

// The cause of a thousand failures is listed beside them.
func TestStatusListsSomeOfEachKind(t *testing.T) {
	e := newSharingEngine(t)
	const many = maxAttention + 100
	for i := range many {
		e.attentions.set(fmt.Sprintf("r%04d", i), subject{items: []attention{{Kind: kindDenied, Role: fmt.Sprintf("r%04d", i), Since: noon}}})
	}
	e.attentions.set(connectionMark+"app", subject{items: []attention{{Kind: kindRootRefused, Connection: "app", Since: noon}}})
	v := e.viewAttention()
	checkSame(t, "how many need attention", many+1, v.count)
	checkSame(t, "how many are listed", maxAttention, len(v.listed))
	checkSame(t, "the first", "r0000", v.listed[0].Role)
	checkSame(t, "the last", kindRootRefused, v.listed[maxAttention-1].Kind)
}

func TestStatusIsBounded(t *testing.T) {
	e := newEngine(t)
	for i := range maxAttention + 200 {
		e.write(fmt.Sprintf("roles/r%04d", i), fields{"registry": "ghcr.io", "username": "me", "password": "x", "expires_at": "2026-03-03T00:00:00Z"})
	}
	e.write("roles/worst", fields{"registry": "ghcr.io", "username": "me", "password": "x", "expires_at": "2026-02-28T00:00:00Z"})
	items := e.needsAttention()
	checkSame(t, "listed", maxAttention, len(items))
	checkSame(t, "first", "expired worst<nil>", items[0])
	checkSame(t, "count", any(maxAttention+201), e.read("status")["attention_count"])
}

// families parses the metrics.
func (e *engine) metricFamilies() map[string]*dto.MetricFamily {
	e.t.Helper()
	data := e.read("metrics")
	checkSame(e.t, "content type", any("text/plain; version=0.0.4; charset=utf-8"), data[logical.HTTPContentType])
	parser := expfmt.NewTextParser(model.UTF8Validation)
	parsed, err := parser.TextToMetricFamilies(strings.NewReader(string(data[logical.HTTPRawBody].([]byte))))
	if err != nil {
		e.t.Fatal(err)
	}
	return parsed
}

// series returns the values of a metric by its labels.
func series(family *dto.MetricFamily) map[string]float64 {
	values := map[string]float64{}
	for _, m := range family.GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		slices.Sort(labels)
		values[strings.Join(labels, ",")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return values
}

func TestMetrics(t *testing.T) {
	e := newSharingEngine(t)
	e.write("roles/old", fields{"registry": "ghcr.io", "username": "me", "password": "x", "expires_at": "2026-02-28T00:00:00Z"})
	e.read("creds/app")
	e.write("rotate/app", nil)
	e.minting.fail("mint", errDown)
	e.failed(logical.UpdateOperation, "rotate/app", nil, http.StatusBadGateway)
	e.minting.mend()
	e.write("verify/old", nil)
	e.needsAttention()
	parsed := e.metricFamilies()
	checkSame(t, "metrics", []string{
		"regcred_attention", "regcred_attention_since_timestamp_seconds", "regcred_build_info", "regcred_connections", "regcred_leases",
		"regcred_mint_failures_total", "regcred_mints_total", "regcred_process_start_time_seconds", "regcred_registry_calls_in_flight",
		"regcred_registry_left_alone", "regcred_retired_credentials", "regcred_revocation_failures_total", "regcred_revocations_total",
		"regcred_roles", "regcred_rotation_failures_total", "regcred_rotations_total", "regcred_verifications_total", "regcred_write_ahead_entries",
	}, slices.Sorted(maps.Keys(parsed)))
	for name, want := range map[string]map[string]float64{
		"regcred_build_info":              {"version=v1.2.3": 1},
		"regcred_roles":                   {"type=static": 1, "type=dynamic": 1, "type=bundle": 0},
		"regcred_connections":             {"type=test": 1},
		"regcred_retired_credentials":     {"": 1},
		"regcred_rotations_total":         {"connection=app": 2},
		"regcred_rotation_failures_total": {"connection=app": 1},
		"regcred_mints_total":             {"connection=app": 2},
		"regcred_mint_failures_total":     {"connection=app": 1},
		"regcred_verifications_total":     {"connection=,verdict=ok": 1},
		"regcred_attention_since_timestamp_seconds": {
			"connection=,kind=expired,registry=,role=old":          float64(time.Date(2026, 2, 28, 0, 0, 0, 0, time.UTC).Unix()),
			"connection=,kind=rotation_failing,registry=,role=app": float64(noon.Unix()),
		},
	} {
		checkSame(t, name, want, series(parsed[name]))
	}
	kinds := series(parsed["regcred_attention"])
	checkSame(t, "kinds", len(attentionKinds), len(kinds))
	checkSame(t, "expired", 1.0, kinds["kind=expired"])
	for name, family := range parsed {
		if isCounter := strings.HasSuffix(name, "_total"); isCounter != (family.GetType() == dto.MetricType_COUNTER) || isCounter && !strings.HasSuffix(family.GetHelp(), sinceStart) {
			t.Errorf("%s: type %s, help %q", name, family.GetType(), family.GetHelp())
		}
	}

	e.must(logical.DeleteOperation, "roles/app", nil)
	e.must(logical.DeleteOperation, "connections/app", fields{"force": true})
	parsed = e.metricFamilies()
	for _, name := range []string{"regcred_mints_total", "regcred_registry_left_alone", "regcred_connections"} {
		checkSame(t, name+" of a deleted connection", map[string]float64{}, series(parsed[name]))
	}
}

// BenchmarkStatus compares a read of status, in a mount of 100,000 static roles of which
// none or 1,000 need attention, with a read of a static role, and says how many bytes of
// memory a role takes.
func BenchmarkStatus(b *testing.B) {
	const roles = 100_000
	for _, expired := range []int{0, maxAttention} {
		e := newEngine(b)
		for i := range roles {
			r := &role{Static: &staticRole{Docker: dockerOf(b)}, UpdatedAt: noon}
			if i < expired {
				r.Static.ExpiresAt = noon.Add(-time.Hour)
			}
			if err := e.putRole(b.Context(), e.storage, fmt.Sprintf("role-%06d", i), r, nil); err != nil {
				b.Fatal(err)
			}
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		if err := e.keepAttention(b.Context(), e.through()); err != nil {
			b.Fatal(err)
		}
		e.background.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		for _, path := range []string{"creds/role-000000", "status", "metrics"} {
			b.Run(fmt.Sprintf("%d/%s", expired, path), func(b *testing.B) {
				for b.Loop() {
					resp, err := e.HandleRequest(b.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: e.storage})
					if err != nil || resp.IsError() {
						b.Fatal(resp, err)
					}
				}
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/roles, "B/role")
			})
		}
	}
}

// dockerOf returns the Docker config of one registry.
func dockerOf(t testing.TB) dockerconfig.Config {
	t.Helper()
	docker, err := dockerconfig.New(dockerconfig.Credential{Registry: "registry.example.com", Username: "me", Password: dockerconfig.NewSecret("x")})
	if err != nil {
		t.Fatal(err)
	}
	return docker
}
