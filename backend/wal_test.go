// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// putWAL writes a write-ahead entry and returns its ID.
func (e *engine) mustPutWAL(kind string, data any) string {
	e.t.Helper()
	id, err := e.putWAL(e.t.Context(), e.storage, kind, "app", data)
	if err != nil {
		e.t.Fatal(err)
	}
	return id
}

// checkRollsBack expects a rollback to succeed, or to fail with a text that contains
// the part.
func (e *engine) checkRollsBack(want string) {
	e.t.Helper()
	switch err := e.rollBack(); {
	case err == nil && want != "":
		e.t.Errorf("rollback: want an error with %q", want)
	case err != nil && (want == "" || !strings.Contains(err.Error(), want)):
		e.t.Errorf("rollback: want an error with %q, got %v", want, err)
	}
	e.clock.advance(time.Minute)
}

// The entry is written before the call to the registry. It holds what is needed to
// find the credential, and no secret.
func TestWriteAheadEntryIsWrittenBeforeTheMint(t *testing.T) {
	for name, role := range map[string]fields{"shared": sharedRole, "leased": leasedRole} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			e.write("roles/leased", with(role, fields{"projects": "a,b"}))
			var entries []fields
			e.minting.during("mint", func() {
				for _, id := range keysBelow(t, e, framework.WALPrefix) {
					entries = append(entries, e.stored(framework.WALPrefix+id))
				}
			})
			e.read("creds/leased")
			if len(entries) != 1 {
				t.Fatalf("want one entry, got %v", entries)
			}
			checkSame(t, "kind", any(walCredential), entries[0]["type"])
			checkSame(t, "data", any(fields{
				"schema_version": 1.0, "connection": "app", "connection_id": "id-1", "host": e.minting.url, "role": "leased", "name": e.minting.names()[0],
				"for": fields{"project": "group/app", "projects": "a,b"}, "written_at": "2026-03-01T12:00:00Z",
			}), entries[0]["data"])
			checkSame(t, "entries afterwards", 0, len(keysBelow(t, e, framework.WALPrefix)))
		})
	}
}

func TestWriteAheadEntryOfARotateRoot(t *testing.T) {
	e := newConnectedEngine(t)
	e.minting.failAfter("prepare", errAmbiguous)
	e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
	ids := keysBelow(t, e, framework.WALPrefix)
	if len(ids) != 1 {
		t.Fatalf("want one entry, got %v", ids)
	}
	entry := e.stored(framework.WALPrefix + ids[0])
	checkSame(t, "kind", any(walRoot), entry["type"])
	data := entry["data"].(fields)
	if !e.minting.admins[marker+data["name"].(string)] {
		t.Error("want the name under which it was made")
	}
	checkSame(t, "data", fields{"schema_version": 1.0, "connection": "app", "connection_id": "id-1", "name": data["name"]}, data)
}

// If the entry cannot be written, nothing is minted.
func TestNothingIsMintedWithoutAWriteAheadEntry(t *testing.T) {
	for path, op := range map[string]logical.Operation{"creds/leased": logical.ReadOperation, "connections/app/rotate-root": logical.UpdateOperation} {
		e := newConnectedEngine(t)
		e.write("roles/leased", leasedRole)
		err := onPath(op, path)(e, noWrites{e.storage})
		if !errors.Is(err, errStorage) {
			t.Errorf("%s: want the storage's error, got %v", path, err)
		}
		checkSame(t, "mints", 0, e.minting.mints())
		checkSame(t, "working root credentials", 1, len(e.minting.adminPasswords()))
	}
}

type noWrites struct{ logical.Storage }

func (noWrites) Put(context.Context, *logical.StorageEntry) error { return errStorage }

func TestRollbackRevokesOnlyUnusedCredentials(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/app", sharedRole)
	e.read("creds/app")
	e.write("rotate/app", nil)
	for _, name := range e.served("app") { // both must stay
		e.mustPutWAL(walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "app", Name: name}})
	}
	const orphan = "regcred-app-orphan"
	e.minting.living[orphan] = true
	lost := storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "app", Name: orphan}}
	e.mustPutWAL(walCredential, lost)
	done := e.markInProgress(orphan)
	e.checkRollsBack("")
	checkSame(t, "living credentials", 3, len(e.minting.names()))
	done()
	for _, call := range []string{"find", "revoke"} {
		e.minting.fail(call, errDown)
		e.checkRollsBack("there was no complete answer within the time limit")
		checkSame(t, "entries", 1, len(keysBelow(t, e, framework.WALPrefix)))
	}
	e.minting.mend()
	e.checkRollsBack("")
	e.checkLiving(2)
	e.mustPutWAL(walCredential, lost) // is gone already
	e.checkRollsBack("")
	checkSame(t, "entries", 0, len(keysBelow(t, e, framework.WALPrefix)))
}

// A rollback of entries of any age that comes while the minute's work goes on, which lets
// young ones be, is done too.
func TestRollbackOfAnyAgeIsDoneDuringTheMinutesWork(t *testing.T) {
	e := newConnectedEngine(t)
	const orphan = "regcred-app-orphan"
	e.minting.living[orphan] = true
	e.mustPutWAL(walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "app", Name: orphan}})
	held := &heldStorage{e.storage, make(chan struct{})}
	e.periodic(&logical.Request{Operation: logical.RollbackOperation, Storage: held})
	e.periodic(&logical.Request{Operation: logical.RollbackOperation, Storage: e.storage, Data: fields{"immediate": true}})
	close(held.until)
	e.background.Wait()
	e.checkLiving(0)
	checkSame(t, "entries", 0, len(keysBelow(t, e, framework.WALPrefix)))
}

// heldStorage lists nothing until a channel is closed.
type heldStorage struct {
	logical.Storage
	until chan struct{}
}

func (s *heldStorage) List(ctx context.Context, prefix string) ([]string, error) {
	<-s.until
	return s.Storage.List(ctx, prefix)
}

// Entries of other registries do not wait for a registry that does not answer. A
// registry that refuses is asked about each entry.
func TestUnreachableRegistryIsNotAskedAboutEveryEntry(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want int
	}{"silent": {errDown, cleaningAtOnce}, "refusing": {errRefused, 50}} {
		e := newConnectedEngine(t)
		e.calls.pause = firstPause
		for i := range 50 {
			e.mustPutWAL(walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "app", Name: fmt.Sprint("regcred-", i)}})
		}
		var calls atomic.Int64
		e.minting.before = func(string) error { calls.Add(1); return c.err }
		if e.rollBack() == nil {
			t.Error("want an error")
		}
		if got := int(calls.Load()); got > c.want || got == 0 {
			t.Errorf("%s: want at most %d calls, got %d", name, c.want, got)
		}
		e.minting.mend()
		e.clock.advance(time.Minute)
		e.checkRollsBack("")
	}
}

func TestMalformedWriteAheadEntriesStay(t *testing.T) {
	for want, c := range map[string]struct {
		kind string
		data any
	}{
		`this plugin does not know the kind`: {"future", fields{"a": 1}},
		"the write-ahead entry is damaged":   {walCredential, "text"},
		"ahead entry is damaged":             {walRoot, []any{1}},
		"entry is damaged":                   {walCredential, fields{"connection": "app", "name": "x"}},
		"the write-ahead entry has schema version 2 and this plugin knows up to 1; run the": {walCredential, fields{"schema_version": 2, "connection": "app", "name": []any{}}},
		"schema version 2": {walRoot, fields{"schema_version": 2}},
	} {
		e := newConnectedEngine(t)
		e.mustPutWAL(c.kind, c.data)
		const orphan = "regcred-app-orphan"
		e.minting.living[orphan] = true
		e.mustPutWAL(walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "app", Name: orphan}})
		e.checkRollsBack(want)
		checkSame(t, "entries", 1, len(keysBelow(t, e, framework.WALPrefix)))
		checkSame(t, "living credentials", []string{}, e.minting.names())
	}
	e := newConnectedEngine(t)
	if err := e.backend.rollBack(t.Context(), e.storage, walRoot, func() {}); err == nil {
		t.Error("want an error for what is no data")
	}
	e.store(framework.WALPrefix+"x", "no JSON")
	e.checkRollsBack("invalid character")
	if resp, err := e.request(logical.DeleteOperation, "connections/app", nil); err == nil || resp != nil {
		t.Errorf("what an unreadable entry is about is not known: want an error, got %v", resp)
	}
}

// Vault tries a rollback again if storage failed.
func TestRollbackNeedsTheStorage(t *testing.T) {
	for kind, data := range map[string]any{
		walCredential: storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "leased", Name: "regcred-orphan"}},
		walRoot:       walRootEntry{schemaVersion, "app", "id-1", issuer.NewName("app")},
	} {
		for failAt := int64(1); ; failAt++ {
			e := newConnectedEngine(t)
			e.write("roles/leased", leasedRole)
			e.read("creds/leased")
			e.store(leasePrefix("app")+"20260301T120000Z.regcred-orphan", "")
			faulty := e.faulty(failAt)
			err := e.backend.rollBack(t.Context(), faulty, kind, data)
			if faulty.calls.Load() < failAt {
				checkSame(t, "error", nil, err)
				break
			}
			if !errors.Is(err, errStorage) {
				t.Errorf("%s: storage call %d fails: want its error, got %v", kind, failAt, err)
			}
		}
	}
}

// A crash between the write of the lease index and the deletion of the write-ahead
// entry leaves both. A rollback revokes the credential and removes its key from the
// index.
func TestRollbackRemovesALeaseThatNobodyReceived(t *testing.T) {
	e := newLeasingEngine(t, nil)
	m := &mortality{dieAt: 7} // write ahead, mint, index: two steps each
	e.mortal(m)
	if err := onPath(logical.ReadOperation, "creds/leased")(e, mortalStorage{e.storage, m}); err == nil {
		t.Fatal("want no answer")
	}
	next := e.restarted(t)
	checkSame(t, "leases in the index", 1, len(next.indexedLeases()))
	next.mustRollBack()
	checkSame(t, "leases in the index", 0, len(next.indexedLeases()))
	checkSame(t, "living credentials", []string{}, next.minting.names())
	next.must(logical.DeleteOperation, "roles/leased", nil)
	next.must(logical.DeleteOperation, "connections/app", nil)
}

// Where the storage failed in a write or a delete, an entry may be counted that is not
// there. It does not count for ever.
func TestEntriesThatAreNotThereDoNotCount(t *testing.T) {
	for name, c := range map[string]struct {
		storage func(logical.Storage) logical.Storage
		counted int
	}{
		"writes fail":           {func(s logical.Storage) logical.Storage { return noWrites{s} }, maxWaiting},
		"deletes seem to fail":  {func(s logical.Storage) logical.Storage { return lateDeletes{s} }, maxWaiting},
		"the storage works":     {func(s logical.Storage) logical.Storage { return s }, 0},
		"an entry is there yet": {func(s logical.Storage) logical.Storage { return walStorage{s} }, maxWaiting},
	} {
		t.Run(name, func(t *testing.T) {
			e := newLeasingEngine(t, nil)
			storage := c.storage(e.storage)
			for range maxWaiting {
				_ = onPath(logical.ReadOperation, "creds/leased")(e, storage)
			}
			checkSame(t, "counted", c.counted, e.waiting.count("app"))
			e.mustRollBack()
			checkSame(t, "counted a minute later", 0, e.waiting.count("app"))
			e.lease("creds/leased")
		})
	}
}

// lateDeletes deletes write-ahead entries, and says that it does not.
type lateDeletes struct{ logical.Storage }

func (s lateDeletes) Delete(ctx context.Context, key string) error {
	if err := s.Storage.Delete(ctx, key); err != nil || !strings.HasPrefix(key, framework.WALPrefix) {
		return err
	}
	return errStorage
}
