// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// askedSystem counts how often Vault is asked for the replication state.
type askedSystem struct {
	logical.StaticSystemView
	asked atomic.Int64
}

func (s *askedSystem) ReplicationState() consts.ReplicationState {
	s.asked.Add(1)
	return s.StaticSystemView.ReplicationState()
}

// newReadableEngine has a role of each type that is read without a lease.
func newReadableEngine(t *testing.T, change ...func(*logical.BackendConfig)) *engine {
	t.Helper()
	e := newEngine(t, change...)
	e.write("config", fields{"allowed_registries": "*"})
	e.write("connections/app", e.connectionSample())
	e.write("roles/shared", fields{"connection": "app", "project": "group/app", "allowed_bundles": "bundle"})
	e.write("roles/static", with(credential, fields{"allowed_bundles": "bundle"}))
	e.write("roles/bundle", fields{"members": "static,shared"})
	return e
}

func TestReadOfWhatWasReadAsksVaultNothing(t *testing.T) {
	system := &askedSystem{}
	e := newReadableEngine(t, func(conf *logical.BackendConfig) { conf.System = system })
	for _, path := range []string{"creds/static", "creds/shared/kubernetes", "creds/bundle/docker"} {
		e.read(path) // mints, where there is nothing yet
		first := e.read(path)
		counting := &faultyStorage{Storage: e.storage, failAt: -1}
		asked := system.asked.Load()
		resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: counting})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		checkSame(t, path, first, resp.Data)
		checkSame(t, path+": calls of storage", int64(0), counting.calls.Load())
		checkSame(t, path+": questions for the replication state", asked, system.asked.Load())
	}
}

// Whatever changes an entry, the next read says so.
func TestReadSeesEveryChange(t *testing.T) {
	read := func(e *engine, path string) string {
		resp, err := e.request(logical.ReadOperation, path, nil)
		switch {
		case err != nil:
			return err.Error()
		case resp == nil:
			return "none"
		case resp.IsError():
			return resp.Error().Error()
		}
		return fmt.Sprint(resp.Data[".dockerconfigjson"], resp.Warnings)
	}
	for name, change := range map[string]func(*engine){
		"update of the role":        func(e *engine) { e.write("roles/static", fields{"password": password + "2"}) },
		"patch of the role":         func(e *engine) { e.patch("roles/static", fields{"password": password + "2"}) },
		"deletion of the role":      func(e *engine) { e.must(logical.DeleteOperation, "roles/static", nil) },
		"expiry of the role":        func(e *engine) { e.write("roles/static", fields{"expires_at": "2026-03-02T00:00:00Z"}) },
		"lock-down of the role":     func(e *engine) { e.write("roles/static", fields{"allowed_bundles": ""}) },
		"rotation":                  func(e *engine) { e.write("rotate/shared", nil) },
		"deletion of a shared role": func(e *engine) { e.must(logical.DeleteOperation, "roles/shared", nil) },
		"update of the bundle":      func(e *engine) { e.write("roles/bundle", fields{"members": "shared"}) },
		"update of the config":      func(e *engine) { e.write("config", fields{"allowed_registries": "ghcr.io"}) },
		"config, by another node":   func(e *engine) { e.store("config", `{"schema_version":1,"allowed_registries":["other.example.com"]}`) },
		"rotation, by another node": func(e *engine) { e.store("shared/shared", `{"schema_version":9}`) },
		"role written elsewhere":    func(e *engine) { e.store("roles/static", `{"schema_version":9}`) },
		"deletion by another node": func(e *engine) {
			_ = e.storage.Delete(e.t.Context(), "roles/static")
			e.InvalidateKey(e.t.Context(), "roles/static")
		},
		"a role where there is none": func(e *engine) { e.write("roles/absent", credential) },
	} {
		t.Run(name, func(t *testing.T) {
			e := newReadableEngine(t)
			paths := []string{"creds/static/kubernetes", "creds/shared/kubernetes", "creds/bundle/kubernetes", "creds/absent/kubernetes"}
			before := map[string]string{}
			for _, path := range paths {
				before[path] = read(e, path)
			}
			change(e)
			changed := 0
			fresh := e.restarted(t) // has nothing in memory
			for _, path := range paths {
				want := read(fresh, path)
				checkSame(t, path, want, read(e, path))
				if want != before[path] {
					changed++
				}
			}
			if changed == 0 {
				t.Error("want a change that reads show")
			}
		})
	}
}

// gatedStorage has the next Get wait, once it knows the answer.
type gatedStorage struct {
	logical.Storage
	asked, goOn chan struct{}
}

func newGatedStorage(storage logical.Storage) *gatedStorage {
	return &gatedStorage{Storage: storage, asked: make(chan struct{}), goOn: make(chan struct{})}
}

func (s *gatedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	entry, err := s.Storage.Get(ctx, key)
	s.asked <- struct{}{}
	<-s.goOn
	return entry, err
}

const cachedKey = roleStoragePrefix + "app"

func mustGet(t *testing.T, storage logical.Storage) string {
	t.Helper()
	entry, err := storage.Get(t.Context(), cachedKey)
	if err != nil {
		t.Fatalf("Get: %v", err)
	}
	if entry == nil {
		return ""
	}
	return string(entry.Value)
}

func mustPut(t *testing.T, storage logical.Storage, value string) {
	t.Helper()
	if err := storage.Put(t.Context(), &logical.StorageEntry{Key: cachedKey, Value: []byte(value)}); err != nil {
		t.Fatalf("Put: %v", err)
	}
}

// An answer that a change has overtaken is given to who asked, and to nobody
// else.
func TestAnswerThatWasOvertakenIsNotKept(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *mountCache, logical.Storage){
		"put":    func(t *testing.T, c *mountCache, s logical.Storage) { mustPut(t, c.over(s), "new") },
		"delete": func(t *testing.T, c *mountCache, s logical.Storage) { _ = c.over(s).Delete(t.Context(), cachedKey) },
		"change on another node": func(t *testing.T, c *mountCache, s logical.Storage) {
			mustPut(t, s, "new")
			c.drop(cachedKey)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, storage := newCache().forMount(), &logical.InmemStorage{}
			mustPut(t, storage, "old")
			gated := newGatedStorage(storage)
			got := make(chan string)
			go func() {
				entry, _ := c.over(gated).Get(context.Background(), cachedKey)
				got <- string(entry.Value)
			}()
			<-gated.asked
			change(t, c, storage)
			gated.goOn <- struct{}{}
			checkSame(t, "what the reader gets", "old", <-got)
			checkSame(t, "what the next one gets", mustGet(t, storage), mustGet(t, c.over(storage)))
		})
	}
}

// lateStorage has a write wait before it happens, or happen after it failed.
type lateStorage struct {
	logical.Storage
	writing, goOn chan struct{}
	err           error
}

func (s *lateStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.writing <- struct{}{}
	<-s.goOn
	if s.err != nil {
		return s.err
	}
	return s.Storage.Put(ctx, entry)
}

func TestReadDuringAWriteIsNotKept(t *testing.T) {
	c, storage := newCache().forMount(), &logical.InmemStorage{}
	mustPut(t, storage, "old")
	slow := &lateStorage{Storage: storage, writing: make(chan struct{}), goOn: make(chan struct{})}
	done := make(chan error)
	go func() {
		done <- c.over(slow).Put(context.Background(), &logical.StorageEntry{Key: cachedKey, Value: []byte("new")})
	}()
	<-slow.writing
	checkSame(t, "read while it is written", "old", mustGet(t, c.over(storage)))
	mustPut(t, storage, "new") // has happened, and is not answered yet
	checkSame(t, "read once it is written", "new", mustGet(t, c.over(storage)))
	slow.goOn <- struct{}{}
	checkSame(t, "error", nil, <-done)
	checkSame(t, "read afterwards", "new", mustGet(t, c.over(storage)))
}

// A request that ends early takes its write with it, and Vault may do that
// write nevertheless.
func TestWriteThatFailedMayStillHappen(t *testing.T) {
	c, storage := newCache().forMount(), &logical.InmemStorage{}
	mustPut(t, storage, "old")
	checkSame(t, "read before", "old", mustGet(t, c.over(storage)))
	slow := &lateStorage{Storage: storage, writing: make(chan struct{}, 1), goOn: make(chan struct{}, 1), err: context.Canceled}
	slow.goOn <- struct{}{}
	err := c.over(slow).Put(t.Context(), &logical.StorageEntry{Key: cachedKey, Value: []byte("new")})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("want the storage's error, got %v", err)
	}
	checkSame(t, "read after the failure", "old", mustGet(t, c.over(storage)))
	mustPut(t, storage, "new")
	checkSame(t, "read once it has happened", "new", mustGet(t, c.over(storage)))
}

func TestCacheIsBounded(t *testing.T) {
	const roles, size = 4 * entriesSize / 1000, 1000
	value := strings.Repeat("x", size)
	memory := newCache()
	c := memory.forMount()
	counting := &faultyStorage{Storage: &logical.InmemStorage{}, failAt: -1}
	storage := c.over(counting)
	key := func(i int) string { return fmt.Sprint(roleStoragePrefix, i) }
	read := func(i int) {
		t.Helper()
		what, err := getDecoded(t.Context(), c, storage, key(i), "", decodeString)
		if err != nil || what != value {
			t.Fatalf("%s: got %.20q, %v", key(i), what, err)
		}
	}
	calls := func(i int) int64 {
		t.Helper()
		before := counting.calls.Load()
		read(i)
		return counting.calls.Load() - before
	}
	for i := range roles {
		if err := counting.Storage.Put(t.Context(), &logical.StorageEntry{Key: key(i), Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range roles {
		read(i)
	}
	checkSize(t, memory)
	if memory.size > memory.limit || memory.size < memory.limit*9/10 {
		t.Errorf("want about %d bytes of what is decoded, got %d", memory.limit, memory.size)
	}
	held := 0
	for i := range roles {
		if _, ok := memory.get(c.key(key(i))); ok {
			held += size
		}
	}
	if held > entriesSize || held < entriesSize*9/10 {
		t.Errorf("want about %d bytes of entries, got %d", entriesSize, held)
	}
	checkSame(t, "calls of storage for the one read first", int64(1), calls(0))
	checkSame(t, "calls of storage for the one read last", int64(0), calls(roles-1))
	checkSame(t, "calls of storage for one that is not decoded any more", int64(0), calls(roles-2*decodedSize/size))

	for _, large := range []struct{ size, wantCalls int }{
		{maxDecodedEntry + 1, 0},
		{64 << 10, 1},
		{1 << 20, 1},
	} {
		value = strings.Repeat("x", large.size)
		if err := storage.Put(t.Context(), &logical.StorageEntry{Key: key(0), Value: []byte(value)}); err != nil {
			t.Fatal(err)
		}
		read(0)
		checkSame(t, fmt.Sprint("calls of storage for an entry of ", large.size), int64(large.wantCalls), calls(0))
		_, held, _ := memory.getDecoded(c.key(key(0)))
		checkSame(t, "a large entry is held decoded", false, held)
	}
	memory.enterDecoded(c.key("list"), decoded{"list", memory.limit + 1}, memory.currentGeneration())
	if memory.decoded.Len() == 0 {
		t.Error("want what is too large to leave others where they are")
	}
	checkSize(t, memory)
}

func decodeString(entry *logical.StorageEntry) (string, error) { return string(entry.Value), nil }

// checkSize counts what a cache holds decoded.
func checkSize(t *testing.T, c *cache) {
	t.Helper()
	size := 0
	for _, d := range c.decoded.Values() {
		size += d.size
	}
	checkSame(t, "size", size, c.size)
}

// Mounts have the same keys, and one process may serve many of them.
func TestMountsShareOneCacheAndNoEntry(t *testing.T) {
	memory := newCache()
	var mounts []*mountCache
	var storages []logical.Storage
	for i := range 3 {
		mounts = append(mounts, memory.forMount())
		storages = append(storages, mounts[i].over(&logical.InmemStorage{}))
		mustPut(t, storages[i], strconv.Itoa(i))
	}
	checkHeld := func(when string, want ...bool) {
		t.Helper()
		for i, m := range mounts {
			_, held := memory.get(m.key(cachedKey))
			_, heldDecoded, _ := memory.getDecoded(m.key(cachedKey))
			checkSame(t, fmt.Sprintf("%s: mount %d is held", when, i), []bool{want[i], want[i]}, []bool{held, heldDecoded})
		}
	}
	checkHeld("before they are read", false, false, false)
	for i := range mounts {
		checkSame(t, "entry", strconv.Itoa(i), mustGetDecoded(t, mounts[i], storages[i]))
	}
	checkHeld("once they are read", true, true, true)
	mounts[0].drop(cachedKey)
	checkHeld("once the first is dropped", false, true, true)
	slow := &lateStorage{Storage: &logical.InmemStorage{}, writing: make(chan struct{}, 1), goOn: make(chan struct{}, 1), err: context.Canceled}
	slow.goOn <- struct{}{}
	if err := mounts[1].over(slow).Put(t.Context(), &logical.StorageEntry{Key: roleStoragePrefix + "other"}); err == nil {
		t.Fatal("want the storage's error")
	}
	generation := memory.currentGeneration()
	mounts[1].end()
	checkSame(t, "decoded entries after a mount has ended", 1, memory.decoded.Len())
	checkSame(t, "keys being written after a mount has ended", 0, len(memory.writing))
	memory.enterDecoded(mounts[1].key(cachedKey), decoded{"late", 4}, generation)
	checkSame(t, "decoded entries once a request of the ended mount is done", 1, memory.decoded.Len())
	checkSize(t, memory)
	if again := memory.forMount(); again.mount <= mounts[2].mount {
		t.Errorf("want a mount that begins to have a number of its own, got %d", again.mount)
	}
}

func mustGetDecoded(t *testing.T, c *mountCache, storage logical.Storage) string {
	t.Helper()
	what, err := getDecoded(t.Context(), c, storage, cachedKey, "", decodeString)
	if err != nil {
		t.Fatalf("getDecoded: %v", err)
	}
	return what
}

// What is decoded is decoded once, and again when it may have changed.
func TestEntryIsDecodedOnce(t *testing.T) {
	c := newCache().forMount()
	storage := c.over(&logical.InmemStorage{})
	decodings := 0
	meanwhile := func() {}
	get := func() string {
		what, err := getDecoded(t.Context(), c, storage, cachedKey, "none", func(entry *logical.StorageEntry) (string, error) {
			decodings++
			meanwhile()
			return "decoded " + string(entry.Value), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return what
	}
	checkSame(t, "value of no entry", "none", get())
	mustPut(t, storage, "one")
	for range 3 {
		checkSame(t, "value", "decoded one", get())
	}
	checkSame(t, "decodings", 1, decodings)
	mustPut(t, storage, "two")
	checkSame(t, "value after a write", "decoded two", get())
	checkSame(t, "decodings after a write", 2, decodings)
	c.drop(cachedKey)
	checkSame(t, "value of what was dropped", "decoded two", get())
	checkSame(t, "decodings of what was dropped", 3, decodings)

	c.drop(cachedKey)
	meanwhile = func() { mustPut(t, storage, "three") }
	checkSame(t, "value that is overtaken while it is decoded", "decoded two", get())
	meanwhile = func() {}
	checkSame(t, "value after it", "decoded three", get())

	if err := storage.Delete(t.Context(), cachedKey); err != nil {
		t.Fatal(err)
	}
	checkSame(t, "value after a deletion", "none", get())
}

func TestErrorOfDecodingIsNotKept(t *testing.T) {
	e := newEngine(t)
	e.store("roles/app", "damaged")
	for range 2 {
		if _, err := e.request(logical.ReadOperation, "creds/app", nil); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("want an error about what is damaged, got %v", err)
		}
	}
}

func TestListOfRolesIsOfNow(t *testing.T) {
	e := newEngine(t)
	listed := func() any {
		resp := e.must(logical.ListOperation, "roles/", nil)
		return resp.Data["keys"]
	}
	checkSame(t, "names of no roles", any(nil), listed())
	e.write("roles/b", credential)
	e.write("roles/a", credential)
	checkSame(t, "names", any([]string{"a", "b"}), listed())

	counting := &faultyStorage{Storage: e.storage, failAt: -1}
	resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.ListOperation, Path: "roles/", Storage: counting})
	if err != nil {
		t.Fatal(err)
	}
	checkSame(t, "names once more", any([]string{"a", "b"}), resp.Data["keys"])
	checkSame(t, "calls of storage", int64(0), counting.calls.Load())

	e.must(logical.DeleteOperation, "roles/a", nil)
	checkSame(t, "names after a deletion", any([]string{"b"}), listed())
	e.store("roles/c", "by another node")
	checkSame(t, "names after a write elsewhere", any([]string{"b", "c"}), listed())
}

func TestCleanupForgetsWhatIsInMemory(t *testing.T) {
	e := newReadableEngine(t)
	e.read("creds/static")
	memory := e.cache.cache
	if memory.decoded.Len() == 0 {
		t.Error("want decoded entries in memory")
	}
	e.Cleanup(t.Context())
	checkSame(t, "decoded entries", 0, memory.decoded.Len())
}

// An entry may be empty, which is not the same as absent.
func TestEmptyEntryIsNoAbsentOne(t *testing.T) {
	storage := &logical.InmemStorage{}
	mustPut(t, storage, "")
	cached := newCache().forMount().over(storage)
	for range 2 {
		if entry, err := cached.Get(t.Context(), cachedKey); err != nil || entry == nil || entry.Key != cachedKey {
			t.Errorf("want an entry, got %v and %v", entry, err)
		}
		if entry, err := cached.Get(t.Context(), cachedKey+"2"); err != nil || entry != nil {
			t.Errorf("want no entry, got %v and %v", entry, err)
		}
	}
}

// jitter is a storage that takes its time before
// and after what it does.
type jitter struct{ logical.Storage }

func pause() {
	if n := rand.IntN(8); n > 0 {
		time.Sleep(time.Duration(n*n) * time.Microsecond)
	}
}

func (s jitter) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	pause()
	defer pause()
	return s.Storage.Get(ctx, key)
}

func (s jitter) Put(ctx context.Context, entry *logical.StorageEntry) error {
	pause()
	defer pause()
	return s.Storage.Put(ctx, entry)
}

func (s jitter) Delete(ctx context.Context, key string) error {
	pause()
	defer pause()
	return s.Storage.Delete(ctx, key)
}

// TestNoReadGoesBack has a writer for each key and many readers of all, of
// entries and of what they are decoded to, and a cache that often has to let go
// of all of them. What a read returns is never older than what
// was acknowledged to the writer, or returned to another reader, before the read
// began.
func TestNoReadGoesBack(t *testing.T) {
	const keys, readers, writes = 4, 6, 200
	storage := jitter{&logical.InmemStorage{}}
	memory := newCache()
	memory.limit = 50 // bytes, of which each value takes some
	c := memory.forMount()
	key := func(k int) string { return fmt.Sprintf("%s%d", roleStoragePrefix, k) }
	var newest [keys]atomic.Int64 // versions acknowledged or returned
	advance := func(k int, version int64) {
		for now := newest[k].Load(); version > now && !newest[k].CompareAndSwap(now, version); now = newest[k].Load() {
		}
	}
	var done atomic.Bool
	var reading, writing sync.WaitGroup
	var reads, hits atomic.Int64
	for range readers {
		reading.Go(func() {
			for !done.Load() {
				k := rand.IntN(keys)
				atLeast := newest[k].Load()
				id := c.key(key(k))
				_, held := memory.get(id)
				_, heldDecoded, _ := memory.getDecoded(id)
				if held || heldDecoded {
					hits.Add(1)
				}
				value, err := getDecoded(context.Background(), c, c.over(storage), key(k), "", decodeString)
				if err != nil {
					t.Errorf("reading: %v", err)
					return
				}
				reads.Add(1)
				if rand.IntN(100) == 0 {
					memory.entries.Reset()
				}
				if value == "" {
					continue // deleted, as of a version that cannot be told
				}
				version, _ := strconv.ParseInt(value, 10, 64)
				if version < atLeast {
					t.Errorf("%s: read version %d after %d", key(k), version, atLeast)
					return
				}
				advance(k, version)
			}
		})
	}
	for k := range keys {
		writing.Go(func() {
			for version := int64(1); version <= writes; version++ {
				var err error
				if version%4 == 0 {
					err = c.over(storage).Delete(context.Background(), key(k))
				} else {
					err = c.over(storage).Put(context.Background(), &logical.StorageEntry{Key: key(k), Value: []byte(strconv.FormatInt(version, 10))})
				}
				if err != nil {
					t.Errorf("writing: %v", err)
				}
				advance(k, version)
				pause()
			}
		})
	}
	writing.Wait()
	done.Store(true)
	reading.Wait()
	checkSize(t, memory)
	t.Logf("%d reads, %d of what was held", reads.Load(), hits.Load())
	if hits.Load() == 0 || hits.Load() == reads.Load() {
		t.Error("want reads of what is held and of what is not")
	}
}

// What is decoded is shared by requests, so none may change it, whatever it does
// and wherever it is refused.
func TestWhatIsDecodedIsNotChanged(t *testing.T) {
	e := newReadableEngine(t)
	for _, r := range []struct {
		op   logical.Operation
		path string
		data fields
	}{
		{logical.ReadOperation, "creds/static", nil},
		{logical.ReadOperation, "creds/shared/docker", nil},
		{logical.ReadOperation, "creds/bundle", nil},
		{logical.ReadOperation, "creds/bundle/kubernetes", fields{"name": "other"}},
		{logical.ReadOperation, "roles/static", nil},
		{logical.ReadOperation, "roles/shared", nil},
		{logical.ReadOperation, "roles/bundle", nil},
		{logical.ReadOperation, "config", nil},
		{logical.ReadOperation, "verify/bundle", fields{"repository": "group/app"}},
		{logical.ReadOperation, "expiring", nil},
		{logical.ListOperation, "roles/", nil},
		{logical.PatchOperation, "roles/static", fields{"hostname": "not a host", "allowed_bundles": "other"}},
		{logical.UpdateOperation, "roles/static", fields{"allowed_bundles": "other", "expires_at": "never"}},
		{logical.PatchOperation, "roles/shared", fields{"project": "other/app", "allowed_bundles": "other", "rotation_period": "-1s"}},
		{logical.PatchOperation, "roles/bundle", fields{"members": "static,absent"}},
		{logical.PatchOperation, "config", fields{"allowed_registries": "other.example.com", "expiry_warning": "-1s"}},
		{logical.UpdateOperation, "rotate/static", nil},
	} {
		_, _ = e.request(r.op, r.path, r.data)
	}
	memory := e.cache.cache
	checked := 0
	for _, id := range memory.decoded.Keys() {
		entry, err := e.storage.Get(t.Context(), id.key)
		if err != nil {
			t.Fatal(err)
		}
		var want any
		switch kind, name, _ := strings.Cut(id.key, "/"); {
		case id.key == roleStoragePrefix:
			want, err = e.storage.List(t.Context(), roleStoragePrefix)
		case kind == "config":
			want, err = decodeConfig(entry)
		case kind == "roles":
			want, err = decodeRole(entry, name)
		case kind == "shared":
			want, err = decodeShared(entry, name)
		}
		if err != nil {
			t.Fatal(err)
		}
		held, _, _ := memory.getDecoded(id)
		if !reflect.DeepEqual(want, held) {
			t.Errorf("%s: a request has changed what was decoded", id.key)
		}
		checked++
	}
	checkSame(t, "what is held decoded", 6, checked)
}
