// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func expiring(t *testing.T, e *engine, within any) any {
	t.Helper()
	return e.must(logical.ReadOperation, "expiring", fields{"within": within}).Data["roles"]
}

func TestExpiringRolesAreFoundSoonestFirst(t *testing.T) {
	e := newEngine(t)
	at := func(d time.Duration) fields { return with(credential, fields{"expires_at": formatTime(noon.Add(d))}) }
	e.write("roles/later", at(48*time.Hour))
	e.write("roles/gone", at(-time.Hour))
	e.write("roles/soon", at(time.Hour))
	e.write("roles/never", credential)
	e.write("roles/far", at(1000*time.Hour))

	checkSame(t, "the default", fields{
		"roles": []string{"gone", "soon", "later"},
		"expires_at": fields{
			"gone": "2026-03-01T11:00:00Z", "soon": "2026-03-01T13:00:00Z", "later": "2026-03-03T12:00:00Z",
		},
	}, e.read("expiring"))
	checkSame(t, "within a second of soon", []string{"gone"}, expiring(t, e, "3600s"))
	checkSame(t, "just beyond soon", []string{"gone", "soon"}, expiring(t, e, "3601s"))
	checkSame(t, "none but the past", []string{"gone"}, expiring(t, e, 0))

	e.write("roles/gone", fields{"expires_at": ""})
	e.write("roles/soon", fields{"expires_at": formatTime(noon.Add(2 * time.Hour))})
	e.must(logical.DeleteOperation, "roles/later", nil)
	checkSame(t, "after changes", []string{"soon", "far"}, expiring(t, e, "2000h"))
	checkSame(t, "keys", 2, len(keysBelow(t, e, expiryStoragePrefix)))
}

// A crash between two writes leaves an extra key, which must list nothing.
func TestStaleExpiryIsNotListed(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", with(credential, fields{"expires_at": formatTime(noon.Add(time.Hour))}))
	for _, stale := range []string{expiryKey(noon, "app"), expiryKey(noon, "missing"), expiryStoragePrefix + "odd", expiryKey(noon.Add(2*time.Hour), "app")} {
		e.store(stale, "")
	}
	checkSame(t, "roles", []string{"app"}, expiring(t, e, "24h"))
}

// One role that cannot be read must not hide the others.
func TestExpiringWarnsOfRolesItCannotRead(t *testing.T) {
	e := newEngine(t)
	for _, name := range []string{"app", "newer"} {
		e.write("roles/"+name, with(credential, fields{"expires_at": formatTime(noon.Add(time.Hour))}))
	}
	e.store("roles/newer", `{"schema_version":9}`)
	resp := e.must(logical.ReadOperation, "expiring", nil)
	checkSame(t, "roles", []string{"app"}, resp.Data["roles"].([]string))
	checkWarnings(t, resp.Warnings, "reading roles/newer: the stored entry has schema version 9")
}

// It takes one list, and one read for each role that is found, no matter how many
// roles there are.
func TestExpiringIsCheapWithManyRoles(t *testing.T) {
	e := newEngine(t)
	for i := range 1000 {
		e.store(expiryKey(noon.Add(1000*time.Hour), fmt.Sprintf("role%d", i)), "")
	}
	e.write("roles/app", with(credential, fields{"expires_at": formatTime(noon.Add(time.Hour))}))
	counting := e.faulty(-1)
	e.storage = counting
	checkSame(t, "roles", []string{"app"}, expiring(t, e, "24h"))
	if calls := counting.calls.Load(); calls > 3 {
		t.Errorf("want at most 3 storage calls (config, list, one role), got %d", calls)
	}
}

func keysBelow(t testing.TB, e *engine, prefix string) []string {
	t.Helper()
	keys, err := e.storage.List(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}
