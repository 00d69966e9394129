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

	"github.com/hashicorp/vault/sdk/logical"
)

var errDead = errors.New("the process is dead")

// mortality simulates a crash at one step of a process: from then on no call
// reaches storage or registry. Each call has two steps, before and after it acts.
type mortality struct {
	mu    sync.Mutex
	dieAt int
	steps int
	dead  bool
}

// step counts a step, and reports whether the process is still alive.
func (m *mortality) step() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.steps++; m.steps == m.dieAt {
		m.dead = true
	}
	if m.dead {
		return errDead
	}
	return nil
}

func (m *mortality) died() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

type mortalStorage struct {
	logical.Storage
	*mortality
}

func (s mortalStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := s.step(); err != nil {
		return err
	}
	if err := s.Storage.Put(ctx, entry); err != nil {
		return err
	}
	return s.step()
}

func (s mortalStorage) Delete(ctx context.Context, key string) error {
	if err := s.step(); err != nil {
		return err
	}
	if err := s.Storage.Delete(ctx, key); err != nil {
		return err
	}
	return s.step()
}

func (s mortalStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if s.died() {
		return nil, errDead
	}
	return s.Storage.Get(ctx, key)
}

// mortal counts the calls to the registry of an engine as steps, too.
func (e *engine) mortal(m *mortality) {
	e.minting.mu.Lock()
	defer e.minting.mu.Unlock()
	e.minting.before = func(string) error { return m.step() }
	e.minting.after = func(string) error { return m.step() }
}

// restarted returns an engine on the same storage and registry.
func (e *engine) restarted(t testing.TB) *engine {
	t.Helper()
	next := newEngine(t)
	next.storage, next.minting, next.clock = e.storage, e.minting, e.clock
	next.now = e.clock.now
	next.minting.mend()
	return next
}

// rollBack does what Vault does every minute, for write-ahead entries of any age, and
// waits for the work. Its failures are in the log only.
func (e *engine) rollBack() error {
	before := len(e.log.String())
	req := &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage, Data: fields{"immediate": true}}
	resp, err := e.HandleRequest(e.t.Context(), req)
	if err == nil && resp != nil && resp.IsError() {
		err = resp.Error()
	}
	e.background.Wait()
	for line := range strings.Lines(e.log.String()[before:]) {
		if strings.Contains(line, "what may be left at a registry could not be ended yet") || strings.Contains(line, "a part of the minute's work could not be done") {
			err = errors.Join(err, errors.New(line))
		}
	}
	return err
}

// minute does what Vault does every minute, and waits for the work.
func (e *engine) minute() {
	e.t.Helper()
	if _, err := e.HandleRequest(e.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage}); err != nil {
		e.t.Error(err)
	}
	e.background.Wait()
}

// served returns the names of the credentials that a shared role serves and
// will revoke.
func (e *engine) served(role string) []string {
	e.t.Helper()
	s, err := e.shared(e.t.Context(), e.storage, role)
	if err != nil {
		e.t.Fatal(err)
	}
	names := []string{}
	if s.Current != nil {
		names = append(names, s.Current.Name)
	}
	for _, r := range s.Retired {
		names = append(names, r.Name)
	}
	return names
}

// steps are the requests during which a process can crash.
var steps = map[string]func(e *engine, storage logical.Storage) error{
	"first read":  onPath(logical.ReadOperation, "creds/shared"),
	"rotation":    onPath(logical.UpdateOperation, "rotate/served"),
	"leased read": onPath(logical.ReadOperation, "creds/leased"),
	"deletion":    onPath(logical.DeleteOperation, "roles/served"),
	"rotate-root": onPath(logical.UpdateOperation, "connections/app/rotate-root"),
	"revocation": func(e *engine, storage logical.Storage) error {
		return e.revokeRetired(context.Background(), storage, "replaced")
	},
}

// TestCrashAtEveryStepOrphansNothing crashes before and after every write to
// storage and every call to the registry. After a restart and one rollback, the
// registry holds exactly the credentials that are served or leased, and one root
// credential. A second try of the interrupted request succeeds.
func TestCrashAtEveryStepOrphansNothing(t *testing.T) {
	for name, act := range steps {
		t.Run(name, func(t *testing.T) {
			for dieAt := 1; ; dieAt++ {
				e := newDynamicEngine(t)
				m := &mortality{dieAt: dieAt}
				e.mortal(m)
				err := act(e, mortalStorage{e.storage, m})
				if !m.died() {
					if err != nil {
						t.Fatalf("want success without a crash, got %v", err)
					}
					t.Logf("%d steps", dieAt-1)
					return
				}
				checkNothingIsOrphaned(t, e.restarted(t), fmt.Sprintf("crash at step %d", dieAt), act)
			}
		})
	}
}

func onPath(op logical.Operation, path string) func(*engine, logical.Storage) error {
	return func(e *engine, storage logical.Storage) error {
		resp, err := e.HandleRequest(context.Background(), &logical.Request{Operation: op, Path: path, Storage: storage})
		if err == nil && resp != nil && resp.IsError() {
			err = resp.Error()
		}
		return err
	}
}

// newDynamicEngine has a shared role that was never read, one that serves a
// credential, one with a replaced credential whose grace period is over, and a
// leased one.
func newDynamicEngine(t *testing.T) *engine {
	t.Helper()
	e := newEngine(t)
	e.write("connections/app", e.connectionSample())
	for _, role := range []string{"shared", "served", "replaced"} {
		e.write("roles/"+role, fields{"connection": "app", "project": "group/" + role})
	}
	e.write("roles/leased", fields{"connection": "app", "project": "group/leased", "mode": "leased", "ttl": "1h", "max_ttl": "2h"})
	e.read("creds/served")
	e.read("creds/replaced")
	e.write("rotate/replaced", nil)
	e.clock.advance(defaultGracePeriod)
	e.events.Events = nil
	return e
}

func checkNothingIsOrphaned(t *testing.T, e *engine, when string, again func(*engine, logical.Storage) error) {
	t.Helper()
	if err := e.rollBack(); err != nil {
		t.Errorf("%s: rollback: %v", when, err)
	}
	// A credential in the index counts as leased until its end: Vault may not
	// know its lease, and the sweep revokes it then.
	leased := e.indexedLeases()
	if len(leased) > 0 {
		e.clock.advance(2*time.Hour + leaseMargin)
		e.next.forgetSweep()
		if err := e.rollBack(); err != nil {
			t.Errorf("%s: rollback: %v", when, err)
		}
		checkSame(t, when+": leases that nobody was given", []string(nil), e.indexedLeases())
	}
	want := []string{}
	for _, role := range []string{"shared", "served", "replaced"} {
		want = append(want, e.served(role)...)
	}
	slices.Sort(want)
	checkSame(t, when+": living credentials", want, e.minting.names())
	if admins := e.minting.adminPasswords(); len(admins) != 1 {
		t.Errorf("%s: want one root credential, got %d", when, len(admins))
	}
	if err := onPath(logical.ReadOperation, "connections/app/check")(e, e.storage); err != nil {
		t.Errorf("%s: want the root credential in use to work, got %v", when, err)
	}
	if err := again(e, e.storage); err != nil {
		t.Errorf("%s: again: %v", when, err)
	}
}

func (e *engine) indexedLeases() []string {
	keys, err := e.storage.List(e.t.Context(), leasePrefix("app"))
	if err != nil {
		e.t.Fatal(err)
	}
	return keys
}

// A write to storage that fails without a crash orphans nothing either.
func TestStorageFailureOrphansNothing(t *testing.T) {
	for name, act := range steps {
		t.Run(name, func(t *testing.T) {
			for failAt := int64(1); ; failAt++ {
				e := newDynamicEngine(t)
				faulty := e.faulty(failAt)
				err := act(e, faulty)
				if faulty.calls.Load() < failAt {
					if err != nil {
						t.Fatalf("want success without a failure, got %v", err)
					}
					return
				}
				if err != nil && !strings.Contains(err.Error(), errStorage.Error()) {
					t.Errorf("storage call %d fails: want its error, got %v", failAt, err)
				}
				if name == "leased read" && err == nil {
					continue // the caller has it
				}
				next := e.restarted(t)
				next.clock.advance(firstRetry) // what was minted, and could not be stored, is not minted again at once
				checkNothingIsOrphaned(t, next, fmt.Sprintf("storage call %d fails", failAt), act)
			}
		})
	}
}
