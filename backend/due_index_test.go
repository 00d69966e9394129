// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// dueProblems returns what is wrong with the indexes of shared roles: a role
// without the key that its entry names, or with one that comes up too late; or a
// role that is not in the index of a connection of which it has a credential.
func dueProblems(ctx context.Context, b *backend, storage logical.Storage) (problems []string, err error) {
	names, err := storage.List(ctx, sharedStoragePrefix)
	if err != nil {
		return nil, err
	}
	keys, err := storage.List(ctx, dueIndexPrefix)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		entry, err := storage.Get(ctx, sharedStoragePrefix+name)
		if err != nil {
			return nil, err
		}
		s, err := decodeShared(entry, name)
		if err != nil || s.Due == (dueTimes{}) {
			continue // nobody can use it; or an earlier build wrote it
		}
		if !slices.Contains(keys, strings.TrimPrefix(dueKey(s.Due, name), dueIndexPrefix)) {
			problems = append(problems, fmt.Sprintf("%s: %s is missing", name, dueKey(s.Due, name)))
		}
		for _, connection := range s.connections() {
			if entry, err := storage.Get(ctx, connectionRoleKey(connection, name)); err != nil || entry == nil {
				problems = append(problems, fmt.Sprintf("%s: has a credential of %s, and %s is missing: %v", name, connection, connectionRoleKey(connection, name), err))
			}
		}
		entry, err = storage.Get(ctx, roleStoragePrefix+name)
		if err != nil {
			return nil, err
		}
		if entry == nil {
			continue
		}
		r, err := decodeRole(entry, name)
		if err != nil {
			return nil, err
		}
		status, err := b.status(ctx, storage, s, r.Dynamic)
		if err != nil {
			return nil, err
		}
		now := status.now
		status.now = later(now, s.Due.WrittenAt) // clocks may differ a little
		next, comesUp := status.nextAt(), s.Due.comesUp(now)
		late := comesUp.IsZero() || comesUp.After(now) && comesUp.After(wholeSeconds(next))
		announced := slices.ContainsFunc(keys, func(key string) bool { return strings.HasSuffix(key, "."+connectionMark+r.Dynamic.Connection) })
		if !next.IsZero() && late && !announced {
			problems = append(problems, fmt.Sprintf("%s: due at %s, and the index has %s", name, formatTime(next), dueKey(s.Due, name)))
		}
	}
	return problems, nil
}

func (e *engine) checkDue(when string) {
	e.t.Helper()
	problems, err := dueProblems(e.t.Context(), e.backend, e.storage)
	if err != nil {
		e.t.Fatal(err)
	}
	checkSame(e.t, when+": problems of the index of what is due", []string(nil), problems)
}

// checkNoExtraKeys expects no key but those that the entries name.
func (e *engine) checkNoExtraKeys(when string) {
	e.t.Helper()
	var want, got []string
	for key := range e.snapshot() {
		if name, isShared := strings.CutPrefix(key, sharedStoragePrefix); isShared {
			s, err := e.shared(e.t.Context(), e.storage, name)
			if err != nil {
				e.t.Fatal(err)
			}
			want = append(want, dueKey(s.Due, name))
		}
		if strings.HasPrefix(key, dueIndexPrefix) {
			got = append(got, key)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	checkSame(e.t, when+": keys of the index of what is due", want, got)
}

// checkRolesOfConnections expects each connection's index to have exactly the
// roles that use it, or have a credential of it.
func (e *engine) checkRolesOfConnections() {
	e.t.Helper()
	want, got := []string{}, []string{}
	for key := range e.snapshot() {
		if strings.HasPrefix(key, connectionRolesPrefix) {
			got = append(got, key)
		}
		name, isRole := strings.CutPrefix(key, roleStoragePrefix)
		if !isRole {
			continue
		}
		s, err := e.shared(e.t.Context(), e.storage, name)
		if err != nil {
			e.t.Fatal(err)
		}
		for _, connection := range append(s.connections(), mustRole(e.t, e, name).connection()) {
			want = append(want, connectionRoleKey(connection, name))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	checkSame(e.t, "roles of the connections", slices.Compact(want), got)
}

// dueKeys returns the keys of a name in the index.
func (e *engine) dueKeys(name string) (keys []string) {
	for _, key := range slices.Sorted(maps.Keys(e.snapshot())) {
		if strings.HasPrefix(key, dueIndexPrefix) && strings.HasSuffix(key, "."+name) {
			keys = append(keys, strings.TrimPrefix(key, dueIndexPrefix))
		}
	}
	return keys
}

// recordingStorage records the calls that read.
type recordingStorage struct {
	logical.Storage
	mu          sync.Mutex
	gets, lists []string
}

func (s *recordingStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.mu.Lock()
	s.gets = append(s.gets, key)
	s.mu.Unlock()
	return s.Storage.Get(ctx, key)
}

func (s *recordingStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.mu.Lock()
	s.lists = append(s.lists, prefix)
	s.mu.Unlock()
	return s.Storage.List(ctx, prefix)
}

// perRole returns what was read of single roles, each once.
func (s *recordingStorage) perRole() []string {
	read := slices.DeleteFunc(append([]string{}, s.gets...), func(key string) bool {
		return !strings.HasPrefix(key, sharedStoragePrefix) && !strings.HasPrefix(key, roleStoragePrefix)
	})
	slices.Sort(read)
	return slices.Compact(read)
}

// record has the periodic function run once, on storage that records.
func (e *engine) record() *recordingStorage {
	e.t.Helper()
	before := e.storage
	defer func() { e.storage = before }()
	recording := &recordingStorage{Storage: before}
	e.storage = recording
	e.mustRollBack()
	return recording
}

// storeShared stores shared roles of a connection as the engine does, without the
// registry. The credential of each was minted a while earlier than that of the
// one before.
func (e *engine) storeShared(t testing.TB, count int, apart time.Duration) {
	t.Helper()
	e.write("roles/sample", sharedRole)
	e.read("creds/sample")
	s, err := e.shared(t.Context(), e.storage, "sample")
	if err != nil {
		t.Fatal(err)
	}
	r := mustRole(t, e, "sample")
	for i := range count {
		name := fmt.Sprintf("role-%06d", i)
		current := *s.Current
		current.Role, current.Name, current.ID, current.MintedAt = name, name, "id-"+name, noon.Add(-time.Duration(i)*apart)
		if err := e.putRole(t.Context(), e.storage, name, r, nil); err != nil {
			t.Fatal(err)
		}
		if err := e.putShared(t.Context(), e.storage, name, shared{Current: &current, Rotations: 1}); err != nil {
			t.Fatal(err)
		}
	}
}

// The first run after a start lists, and reads what is due. A run in which
// nothing is due reads no role at all.
func TestFirstRunReadsListsAndWhatIsDue(t *testing.T) {
	e := newConnectedEngine(t)
	e.storeShared(t, 100, time.Second)
	e.mustRollBack() // looks at all roles, once
	next := e.restarted(t)
	next.clock.advance(24*time.Hour - 98*time.Second) // that of role 99 and of role 98 are over
	first := next.record()
	checkSame(t, "read", []string{"roles/role-000098", "roles/role-000099", "shared/role-000098", "shared/role-000099"}, first.perRole())
	lists := slices.DeleteFunc(first.lists, func(prefix string) bool { return prefix == "wal/" })
	checkSame(t, "listed", []string{
		"due/", "shared/", "connections/",
		"role-types/bundle/", "role-types/dynamic/", "roles/", "leases/", "lease-attention/", "connections/", "attention/", "expiries/", "unreachable/", "failing/",
		"leases/", "verify-periods/", "unreachable/", "failing/",
	}, lists)
	checkSame(t, "mints", 1+2, e.minting.mints())

	idle := next.record()
	checkSame(t, "read when nothing is due", []string{}, idle.perRole())
	next.clock.advance(time.Second)
	checkSame(t, "read a second later", []string{"roles/role-000097", "shared/role-000097"}, next.record().perRole())
	next.checkDue("at the end")
	next.checkNoExtraKeys("at the end")
}

// dueSteps are requests and work that change when something is due.
var dueSteps = map[string]func(e *engine, storage logical.Storage) error{
	"a shorter period": onPathWith("roles/served", fields{"rotation_period": "30m"}),
	"a longer period":  onPathWith("roles/served", fields{"rotation_period": "30h"}),
	"another target":   onPathWith("roles/served", fields{"project": "group/other"}),
	"a write":          onPathWith("roles/served", fields{"allowed_bundles": "*"}),
	"another connection": func(e *engine, storage logical.Storage) error {
		if err := onPathWith("roles/served", fields{"connection": "other", "project": "group/served"})(e, storage); err != nil {
			return err
		}
		if err := maintained(e, storage, "served"); err != nil { // replaces the credential
			return err
		}
		e.clock.advance(time.Hour)
		return maintained(e, storage, "served") // revokes the former one
	},
	"a move": func(e *engine, storage logical.Storage) error {
		return onPathWith("connections/app", fields{"url": "https://moved-" + e.minting.url[len("https://"):], "password": adminPassword, "verify_connection": false})(e, storage)
	},
	"maintenance": func(e *engine, storage logical.Storage) error {
		return maintained(e, storage, "replaced")
	},
	"a rotation that is due": func(e *engine, storage logical.Storage) error {
		e.clock.advance(24 * time.Hour)
		return maintained(e, storage, "served")
	},
	"a failure": func(e *engine, storage logical.Storage) error {
		e.clock.advance(24 * time.Hour)
		e.rememberFailure(context.Background(), storage, "served", whenDue, errDown)
		return nil
	},
}

// maintained does what is due for a role, and waits for it.
func maintained(e *engine, storage logical.Storage, name string) error {
	err := e.runDue(context.Background(), storage, name)
	e.background.Wait()
	return err
}

func onPathWith(path string, data fields) func(*engine, logical.Storage) error {
	return func(e *engine, storage logical.Storage) error {
		resp, err := e.HandleRequest(context.Background(), &logical.Request{Operation: logical.UpdateOperation, Path: path, Data: data, Storage: storage})
		if err == nil && resp != nil && resp.IsError() {
			err = resp.Error()
		}
		return err
	}
}

// TestCrashAtEveryStepLeavesTheIndexRight crashes before and after every write.
// No key is missing or late then, and the next run deletes those that are too
// many.
func TestCrashAtEveryStepLeavesTheIndexRight(t *testing.T) {
	acts := maps.Clone(steps)
	maps.Copy(acts, dueSteps)
	for name, act := range acts {
		t.Run(name, func(t *testing.T) {
			for dieAt := 1; ; dieAt++ {
				e := newDynamicEngine(t)
				e.write("connections/other", e.connectionSample())
				e.mustRollBack() // fills the schedule
				e.minting.alsoAt(t, "https://moved-"+e.minting.url[len("https://"):])
				m := &mortality{dieAt: dieAt}
				e.mortal(m)
				err := act(e, mortalStorage{e.storage, m})
				when := fmt.Sprintf("crash at step %d", dieAt)
				if !m.died() {
					if err != nil {
						t.Fatalf("want success without a crash, got %v", err)
					}
					when = "without a crash"
					e.checkDue(when)
				}
				next := e.restarted(t)
				next.checkDue(when)
				next.mustRollBack()
				next.checkDue(when + ", after a run")
				next.checkNoExtraKeys(when + ", after a run")
				if !m.died() {
					next.checkRolesOfConnections()
					t.Logf("%d steps", dieAt-1)
					return
				}
			}
		})
	}
}

// A run without a crash deletes the key of a connection that was changed, too.
func TestConnectionThatWasMovedLeavesNoKey(t *testing.T) {
	e := newDynamicEngine(t)
	e.minting.alsoAt(t, "https://moved-"+e.minting.url[len("https://"):])
	e.mustRollBack()
	if err := dueSteps["a move"](e, e.storage); err != nil {
		t.Fatal(err)
	}
	checkSame(t, "keys of the connection", 1, len(e.dueKeys("@app")))
	e.mustRollBack()
	e.clock.advance(followAfter)
	e.mustRollBack()
	e.checkDue("at the end")
	e.checkNoExtraKeys("at the end")

	if err := onPathWith("connections/app", fields{"registry": "other.example.com", "password": adminPassword, "verify_connection": false})(e, e.storage); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"shared", "served", "replaced", "leased"} {
		e.must(logical.DeleteOperation, "roles/"+role, nil)
	}
	e.must(logical.DeleteOperation, "connections/app", fields{"force": true})
	e.checkNoExtraKeys("once the connection is deleted")
}

// A role that somebody wrote anew, and nobody reads, is due by its new period
// after a restart, too.
func TestShorterPeriodIsKeptAcrossARestart(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.write("roles/app", fields{"rotation_period": "2h"})
	next := e.restarted(t)
	next.clock.advance(2*time.Hour - time.Second)
	next.mustRollBack()
	checkSame(t, "mints", 1, e.minting.mints())
	next.clock.advance(time.Second)
	next.mustRollBack()
	checkSame(t, "mints", 2, e.minting.mints())
}

// Keys that nothing stands behind find nothing, and are deleted.
func TestExtraKeysAreDeletedWhenTheyComeUp(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.write("roles/unread", sharedRole)
	own := e.dueKeys("app")
	checkSame(t, "its own key", []string{"20260302T120000Z.20260301T120000Z.app"}, own)
	for _, key := range []string{
		"20260302T110000Z.20260301T110000Z.app", "20260303T120000Z.20260301T120000Z.app", "99991231T235959Z.20260301T110000Z.app",
		"20260301T120000Z.20260301T120000Z.gone", "20280301T120000Z.20260301T120000Z.unread", "20260301T120000Z.20260301T120000Z.@gone",
	} {
		e.store(dueIndexPrefix+key, "")
	}
	next := e.restarted(t)
	next.mustRollBack()
	next.checkNoExtraKeys("after a run")
	checkSame(t, "its own key", own, next.dueKeys("app"))
	next.clock.advance(24 * time.Hour)
	next.mustRollBack()
	checkSame(t, "mints", 2, e.minting.mints())
}

// A key that a clock wrote which was ahead says nothing about when its role is
// due.
func TestKeyOfAClockThatWasAheadComesUpNow(t *testing.T) {
	e := newSharingEngine(t)
	e.clock.advance(year)
	e.read("creds/app")
	e.clock.advance(-year)
	next := e.restarted(t)
	next.mustRollBack()
	checkSame(t, "mints", 2, e.minting.mints())
	next.checkDue("after a run")
	next.checkNoExtraKeys("after a run")
	checkSame(t, "read when nothing is due", []string{}, next.record().perRole())
}

// storedDue is the part of a stored entry that says which key it has.
var storedDue = regexp.MustCompile(`"due":\{[^}]*\},`)

// storeAsBefore turns the entry of a shared role into one of an earlier build,
// which has no key.
func (e *engine) storeAsBefore(name string) {
	e.t.Helper()
	value := e.snapshot()[sharedStoragePrefix+name]
	if !storedDue.MatchString(value) {
		e.t.Fatalf("%s says nothing of its key", value)
	}
	e.store(sharedStoragePrefix+name, strings.Replace(storedDue.ReplaceAllString(value, ""), `"schema_version":3`, `"schema_version":2`, 1))
	for _, key := range e.dueKeys(name) {
		if err := e.storage.Delete(e.t.Context(), dueIndexPrefix+key); err != nil {
			e.t.Fatal(err)
		}
	}
}

// What earlier builds stored has no keys: it is looked at after each start, and
// gets its key when it is next written. So it is found as well after a roll-back
// to such a build, and forward again.
func TestEntriesOfEarlierBuildsAreLookedAtAfterEachStart(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.write("roles/other", sharedRole)
	e.read("creds/other")
	e.storeAsBefore("app")
	e.mustRollBack()
	for range 2 {
		next := e.restarted(t)
		checkSame(t, "read", []string{"roles/app", "shared/app"}, next.record().perRole())
		checkSame(t, "keys", []string(nil), next.dueKeys("app"))
		e = next
	}
	e.clock.advance(24 * time.Hour)
	e.mustRollBack()
	checkSame(t, "mints", 4, e.minting.mints())
	e.checkDue("once it was rotated")
	e.checkNoExtraKeys("once it was rotated")
	e.clock.advance(2 * time.Hour)
	e.mustRollBack() // revokes the former credentials
	checkSame(t, "read after a start", []string{}, e.restarted(t).record().perRole())
}

// listingHook runs something once, after a list was read.
type listingHook struct {
	logical.Storage
	prefix string
	do     func()
}

func (s *listingHook) List(ctx context.Context, prefix string) ([]string, error) {
	keys, err := s.Storage.List(ctx, prefix)
	if do := s.do; do != nil && prefix == s.prefix {
		s.do = nil
		do()
	}
	return keys, err
}

// A rotation that comes while the schedule is filled is not lost.
func TestRotationWhileTheIndexIsReadIsKept(t *testing.T) {
	for _, prefix := range []string{dueIndexPrefix, sharedStoragePrefix} {
		e := newSharingEngine(t)
		e.read("creds/app")
		next := e.restarted(t)
		next.storage = &listingHook{e.storage, prefix, func() { next.write("rotate/app", nil) }}
		next.mustRollBack()
		next.clock.advance(time.Hour)
		checkSame(t, "due at the end of the grace period", []string{"app"}, next.dueRoles())
		next.checkDue(prefix)
		next.checkNoExtraKeys(prefix)
	}
}

func TestScheduleKeepsTheEarlierTime(t *testing.T) {
	var s schedule
	s.begin(noon)
	s.set("app", noon.Add(time.Hour))
	s.setBy("app", noon.Add(2*time.Hour))
	checkSame(t, "due", []string{"app"}, s.due(noon.Add(time.Hour)))
	s.set("app", noon.Add(2*time.Hour))
	s.setBy("app", noon.Add(time.Hour))
	s.setBy("app", time.Time{})
	checkSame(t, "due", []string{"app"}, s.due(noon.Add(time.Hour)))
}

// A rotation in the midst of the maintenance leaves the schedule right.
func TestMaintenanceDoesNotForgetWhatIsWrittenMeanwhile(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.mustRollBack()
	e.clock.advance(24 * time.Hour)
	e.mustRollBack()
	e.clock.advance(time.Hour)
	var once bool
	e.minting.during("revoke", func() {
		if !once {
			once = true
			e.write("rotate/app", nil)
		}
	})
	e.mustRollBack()
	checkSame(t, "mints", 3, e.minting.mints())
	e.clock.advance(time.Hour)
	checkSame(t, "due", []string{"app"}, e.dueRoles())
}

func TestDueKeysAreParsed(t *testing.T) {
	for _, name := range []string{"app", "a.b-c", "@app", strings.Repeat("x", maxNameLength)} {
		t1 := dueTimesOf(noon.Add(time.Nanosecond), noon.Add(time.Millisecond))
		checkSame(t, "rounded up, and down", dueTimes{noon.Add(time.Second), noon}, t1)
		got, parsed, ok := parseDueKey(strings.TrimPrefix(dueKey(t1, name), dueIndexPrefix))
		checkSame(t, name, []any{t1, name, true}, []any{got, parsed, ok})
	}
	for _, key := range []string{"", "app", "20260301T120000Z.app", "20260301T120000Z.20260301T120000Z.", "20260301T120000Z.2026-03-01T12:00.app"} {
		if _, _, ok := parseDueKey(key); ok {
			t.Errorf("%q: want no key", key)
		}
	}
	late := dueTimesOf(nothingDue.Add(year), noon)
	checkSame(t, "later than a key can say", nothingDue, late.At)
	checkSame(t, "and comes up", time.Time{}, late.comesUp(noon))
}
