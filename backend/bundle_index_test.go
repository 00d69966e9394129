// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

func TestRoleNamesTheBundlesThatJoinIt(t *testing.T) {
	e := newEngine(t)
	e.write("roles/a", member("a.example.com", "*"))
	e.write("roles/b", member("b.example.com", "*"))
	checkSame(t, "used_by of a role that no bundle joins", nil, e.read("roles/a")["used_by"])
	e.write("roles/two", fields{"members": "a,b"})
	e.write("roles/one", fields{"members": "a"})
	checkSame(t, "used_by", any([]string{"one", "two"}), e.read("roles/a")["used_by"])
	checkSame(t, "used_by", any([]string{"two"}), e.read("roles/b")["used_by"])
	checkSame(t, "used_by of a bundle", nil, e.read("roles/two")["used_by"])

	e.write("roles/two", fields{"members": "b"})
	checkSame(t, "used_by", any([]string{"one"}), e.read("roles/a")["used_by"])
	e.must(logical.DeleteOperation, "roles/one", nil)
	checkSame(t, "used_by", nil, e.read("roles/a")["used_by"])
	checkSame(t, "keys", []string{"two"}, append(keysBelow(t, e, bundleIndexPrefix+"b/"), keysBelow(t, e, bundleIndexPrefix+"a/")...))
}

func TestDeletingARoleThatBundlesJoinWarns(t *testing.T) {
	e := newEngine(t)
	e.write("roles/a", member("a.example.com", "*"))
	e.write("roles/b", member("b.example.com", "*"))
	checkWarnings(t, warningsOf(e.must(logical.DeleteOperation, "roles/b", nil)))
	for i := range 7 {
		e.write(fmt.Sprint("roles/all-", i), fields{"members": "a"})
	}
	checkWarnings(t, warningsOf(e.must(logical.DeleteOperation, "roles/all-6", nil)))
	checkWarnings(t, warningsOf(e.must(logical.DeleteOperation, "roles/a", nil)),
		"bundles join this role, and cannot be read without it: all-0, all-1, all-2, all-3, all-4 and 1 others; take it out of their members")
	checkWarnings(t, warningsOf(e.must(logical.DeleteOperation, "roles/a", nil))) // there is none any more
}

func TestRoleNamesAtMostAHundredBundles(t *testing.T) {
	e := newEngine(t)
	e.write("roles/a", member("a.example.com", "*"))
	for i := range maxUsedBy + 1 {
		e.write(fmt.Sprintf("roles/all-%03d", i), fields{"members": "a"})
	}
	resp := e.must(logical.ReadOperation, "roles/a", nil)
	names := resp.Data["used_by"].([]string)
	checkSame(t, "first and last, and how many", []string{"all-000", "all-099", "100"}, []string{names[0], names[len(names)-1], fmt.Sprint(len(names))})
	checkWarnings(t, resp.Warnings, "used_by: names the first 100 of the bundles that join this role")
	checkWarnings(t, warningsOf(e.must(logical.DeleteOperation, "roles/a", nil)), "bundles join this role, and cannot be read without it: all-000, all-001, all-002, all-003, all-004 and more than 95 others")
}

// A crash at any step leaves a key too many, and never one too few.
func TestIndexOfBundlesIsCompleteAfterAnyFailure(t *testing.T) {
	for _, op := range []logical.Operation{logical.UpdateOperation, logical.DeleteOperation} {
		for failAt := int64(1); ; failAt++ {
			e := newEngine(t)
			for _, name := range []string{"a", "b", "c"} {
				e.write("roles/"+name, member(name+".example.com", "*"))
			}
			e.write("roles/all", fields{"members": "a,b"})
			faulty := e.faulty(failAt)
			_, _ = e.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: "roles/all", Data: fields{"members": "b,c"}, Storage: faulty})
			e.faulty(0) // empties the cache, as a restart does
			for _, name := range []string{"a", "b", "c"} {
				r, err := e.role(t.Context(), e.storage, "all")
				if err != nil {
					t.Fatal(err)
				}
				var want any
				if slices.Contains(r.members(), name) {
					want = []string{"all"}
				}
				checkSame(t, fmt.Sprintf("%s, failure of call %d: used_by of %s", op, failAt, name), want, e.read("roles/" + name)["used_by"])
			}
			if faulty.calls.Load() < failAt {
				break
			}
		}
	}
}

// Bundles that an earlier build has stored have no keys.
func TestBundlesOfAnEarlierBuildAreIndexedOnce(t *testing.T) {
	e := newEngine(t)
	e.write("roles/a", member("a.example.com", "*"))
	e.write("roles/named", member("b.example.com", "all"))
	for i := range 3 * scanBatch / 2 {
		e.write(fmt.Sprint("roles/other-", i), member("c.example.com", ""))
	}
	e.write("roles/all", fields{"members": "a,named"})
	for _, member := range []string{"a", "named"} {
		if err := e.storage.Delete(t.Context(), bundleKey(member, "all")); err != nil {
			t.Fatal(err)
		}
	}
	e.store("roles/damaged", "{")
	checkSame(t, "used_by of a role that names its bundle", any([]string{"all"}), e.read("roles/named")["used_by"])
	checkSame(t, "used_by before the scan", nil, e.read("roles/a")["used_by"])

	initialize := func() {
		t.Helper()
		if err := e.Initialize(t.Context(), &logical.InitializationRequest{Storage: e.storage}); err != nil {
			t.Fatal(err)
		}
		e.background.Wait()
	}
	e.System().(*logical.StaticSystemView).ReplicationStateVal = consts.ReplicationPerformanceStandby
	initialize()
	checkSame(t, "keys, of a standby", 0, len(keysBelow(t, e, bundleIndexPrefix)))
	e.System().(*logical.StaticSystemView).ReplicationStateVal = 0
	initialize()
	checkSame(t, "used_by", any([]string{"all"}), e.read("roles/a")["used_by"])
	before := e.snapshot()
	e.must(logical.DeleteOperation, "roles/all", nil)
	initialize() // reads one entry
	if before[bundlesIndexedKey] == "" {
		t.Error("want the scan noted")
	}
	checkSame(t, "keys, of which an initialised mount makes none", 0, len(keysBelow(t, e, bundleIndexPrefix)))
}

func TestReadsOfCredsDoNotUseTheIndexOfBundles(t *testing.T) {
	e := newEngine(t)
	e.write("roles/a", member("a.example.com", "*"))
	e.write("roles/all", fields{"members": "a"})
	e.faulty(0) // empties the cache
	watched := &watchedStorage{Storage: e.storage}
	for _, path := range []string{"creds/a", "creds/all"} {
		if _, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: watched}); err != nil {
			t.Fatal(err)
		}
	}
	if n := watched.uses.Load(); n != 0 {
		t.Errorf("reads of creds have used the index %d times", n)
	}
}

// watchedStorage counts the uses of the index of bundles.
type watchedStorage struct {
	logical.Storage
	uses atomic.Int64
}

func (s *watchedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.note(key)
	return s.Storage.Get(ctx, key)
}

func (s *watchedStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.note(prefix)
	return s.Storage.List(ctx, prefix)
}

func (s *watchedStorage) note(key string) {
	if strings.HasPrefix(key, bundleIndexPrefix) {
		s.uses.Add(1)
	}
}
