// SPDX-License-Identifier: MPL-2.0

package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"
)

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

const listPrefix = "roles/"

var testKeys = Keys{Holds: func(key string) bool { return strings.HasPrefix(key, listPrefix) }, Decodes: func(string) bool { return false }, List: listPrefix}

const cachedKey = listPrefix + "app"

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

// An answer that a change has overtaken goes to the reader who asked, and to
// nobody else.
func TestAnswerThatWasOvertakenIsNotKept(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *Mount, logical.Storage){
		"put":    func(t *testing.T, c *Mount, s logical.Storage) { mustPut(t, c.Over(s), "new") },
		"delete": func(t *testing.T, c *Mount, s logical.Storage) { _ = c.Over(s).Delete(t.Context(), cachedKey) },
		"change on another node": func(t *testing.T, c *Mount, s logical.Storage) {
			mustPut(t, s, "new")
			c.Drop(cachedKey)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, storage := New().ForMount(testKeys), &logical.InmemStorage{}
			mustPut(t, storage, "old")
			gated := newGatedStorage(storage)
			got := make(chan string)
			go func() {
				entry, _ := c.Over(gated).Get(context.Background(), cachedKey)
				got <- string(entry.Value)
			}()
			<-gated.asked
			change(t, c, storage)
			gated.goOn <- struct{}{}
			checkSame(t, "what the reader gets", "old", <-got)
			checkSame(t, "what the next one gets", mustGet(t, storage), mustGet(t, c.Over(storage)))
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
	c, storage := New().ForMount(testKeys), &logical.InmemStorage{}
	mustPut(t, storage, "old")
	slow := &lateStorage{Storage: storage, writing: make(chan struct{}), goOn: make(chan struct{})}
	done := make(chan error)
	go func() {
		done <- c.Over(slow).Put(context.Background(), &logical.StorageEntry{Key: cachedKey, Value: []byte("new")})
	}()
	<-slow.writing
	checkSame(t, "read while it is written", "old", mustGet(t, c.Over(storage)))
	mustPut(t, storage, "new") // has happened, and is not answered yet
	checkSame(t, "read once it is written", "new", mustGet(t, c.Over(storage)))
	slow.goOn <- struct{}{}
	checkSame(t, "error", nil, <-done)
	checkSame(t, "read afterwards", "new", mustGet(t, c.Over(storage)))
}

// A request that ends early takes its write with it, and Vault may do that
// write nevertheless.
func TestWriteThatFailedMayStillHappen(t *testing.T) {
	c, storage := New().ForMount(testKeys), &logical.InmemStorage{}
	mustPut(t, storage, "old")
	checkSame(t, "read before", "old", mustGet(t, c.Over(storage)))
	slow := &lateStorage{Storage: storage, writing: make(chan struct{}, 1), goOn: make(chan struct{}, 1), err: context.Canceled}
	slow.goOn <- struct{}{}
	err := c.Over(slow).Put(t.Context(), &logical.StorageEntry{Key: cachedKey, Value: []byte("new")})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("want the storage's error, got %v", err)
	}
	checkSame(t, "read after the failure", "old", mustGet(t, c.Over(storage)))
	mustPut(t, storage, "new")
	checkSame(t, "read once it has happened", "new", mustGet(t, c.Over(storage)))
}

func TestCacheIsBounded(t *testing.T) {
	const roles, size = 4 * EntriesSize / 1000, 1000
	value := strings.Repeat("x", size)
	memory := New()
	c := memory.ForMount(testKeys)
	counting := &countingStorage{Storage: &logical.InmemStorage{}}
	storage := c.Over(counting)
	key := func(i int) string { return fmt.Sprint(listPrefix, i) }
	read := func(i int) {
		t.Helper()
		what, err := Decoded(t.Context(), c, storage, key(i), "", decodeString)
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
		if err := counting.Put(t.Context(), &logical.StorageEntry{Key: key(i), Value: []byte(value)}); err != nil {
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
	if held > EntriesSize || held < EntriesSize*9/10 {
		t.Errorf("want about %d bytes of entries, got %d", EntriesSize, held)
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
func checkSize(t *testing.T, c *Cache) {
	t.Helper()
	size := 0
	for _, d := range c.decoded.Values() {
		size += d.size
	}
	checkSame(t, "size", size, c.size)
}

// Mounts have the same keys, and one process may serve many of them.
func TestMountsShareOneCacheAndNoEntry(t *testing.T) {
	memory := New()
	var mounts []*Mount
	var storages []logical.Storage
	for i := range 3 {
		mounts = append(mounts, memory.ForMount(testKeys))
		storages = append(storages, mounts[i].Over(&logical.InmemStorage{}))
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
	mounts[0].Drop(cachedKey)
	checkHeld("once the first is dropped", false, true, true)
	slow := &lateStorage{Storage: &logical.InmemStorage{}, writing: make(chan struct{}, 1), goOn: make(chan struct{}, 1), err: context.Canceled}
	slow.goOn <- struct{}{}
	if err := mounts[1].Over(slow).Put(t.Context(), &logical.StorageEntry{Key: listPrefix + "other"}); err == nil {
		t.Fatal("want the storage's error")
	}
	generation := memory.currentGeneration()
	mounts[1].End()
	checkSame(t, "decoded entries after a mount has ended", 1, memory.decoded.Len())
	checkSame(t, "keys being written after a mount has ended", 0, len(memory.writing))
	memory.enterDecoded(mounts[1].key(cachedKey), decoded{"late", 4}, generation)
	checkSame(t, "decoded entries once a request of the ended mount is done", 1, memory.decoded.Len())
	checkSize(t, memory)
	if again := memory.ForMount(testKeys); again.mount <= mounts[2].mount {
		t.Errorf("want a mount that begins to have a number of its own, got %d", again.mount)
	}
}

func mustGetDecoded(t *testing.T, c *Mount, storage logical.Storage) string {
	t.Helper()
	what, err := Decoded(t.Context(), c, storage, cachedKey, "", decodeString)
	if err != nil {
		t.Fatalf("Decoded: %v", err)
	}
	return what
}

// An entry is decoded once, and again when it may have changed.
func TestEntryIsDecodedOnce(t *testing.T) {
	c := New().ForMount(testKeys)
	storage := c.Over(&logical.InmemStorage{})
	decodings := 0
	meanwhile := func() {}
	get := func() string {
		what, err := Decoded(t.Context(), c, storage, cachedKey, "none", func(entry *logical.StorageEntry) (string, error) {
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
	c.Drop(cachedKey)
	checkSame(t, "value of what was dropped", "decoded two", get())
	checkSame(t, "decodings of what was dropped", 3, decodings)

	c.Drop(cachedKey)
	meanwhile = func() { mustPut(t, storage, "three") }
	checkSame(t, "value that is overtaken while it is decoded", "decoded two", get())
	meanwhile = func() {}
	checkSame(t, "value after it", "decoded three", get())

	if err := storage.Delete(t.Context(), cachedKey); err != nil {
		t.Fatal(err)
	}
	checkSame(t, "value after a deletion", "none", get())
}

// An entry may be empty, which is not the same as absent.
func TestEmptyEntryIsNoAbsentOne(t *testing.T) {
	storage := &logical.InmemStorage{}
	mustPut(t, storage, "")
	cached := New().ForMount(testKeys).Over(storage)
	for range 2 {
		if entry, err := cached.Get(t.Context(), cachedKey); err != nil || entry == nil || entry.Key != cachedKey {
			t.Errorf("want an entry, got %v and %v", entry, err)
		}
		if entry, err := cached.Get(t.Context(), cachedKey+"2"); err != nil || entry != nil {
			t.Errorf("want no entry, got %v and %v", entry, err)
		}
	}
}

// An entry may have the prefix of the list as its key.
func TestListIsNoEntry(t *testing.T) {
	c := New().ForMount(testKeys)
	storage := c.Over(&logical.InmemStorage{})
	mustPut(t, storage, "one")
	for range 2 {
		names, err := storage.List(t.Context(), listPrefix)
		checkSame(t, "list", []string{"app"}, names)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decoded(t.Context(), c, storage, listPrefix, "none", func(*logical.StorageEntry) (string, error) { return "an entry", nil })
		checkSame(t, "entry", "none", got)
		if err != nil {
			t.Fatal(err)
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
	memory := New()
	memory.limit = 50 // bytes, of which each value takes some
	c := memory.ForMount(testKeys)
	key := func(k int) string { return fmt.Sprintf("%s%d", listPrefix, k) }
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
				value, err := Decoded(context.Background(), c, c.Over(storage), key(k), "", decodeString)
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
					err = c.Over(storage).Delete(context.Background(), key(k))
				} else {
					err = c.Over(storage).Put(context.Background(), &logical.StorageEntry{Key: key(k), Value: []byte(strconv.FormatInt(version, 10))})
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

// countingStorage counts the reads of an entry.
type countingStorage struct {
	logical.Storage
	calls atomic.Int64
}

func (s *countingStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.calls.Add(1)
	return s.Storage.Get(ctx, key)
}

func checkSame(t testing.TB, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
