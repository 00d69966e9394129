// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/binary"
	"maps"
	"math"
	"strings"
	"sync"

	"github.com/VictoriaMetrics/fastcache"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// entriesSize is the most bytes that the entries of a process take: those of
	// some 100,000 roles of one registry. It is the least that fastcache takes.
	entriesSize = 32 << 20

	// decodedSize is the most bytes that what was decoded takes, about.
	decodedSize = 4 << 20
)

// cache holds what reads need of storage, so that a read of a pull secret waits
// for Vault's storage once and then no more. All mounts of the process share it.
// It has two parts: storage entries as they stand, which lie outside of Go's heap,
// where so many would keep the garbage collector busy, and leave it first in,
// first out; and, of those read last, what they were decoded to.
//
// It is right because nothing enters it that a write may have overtaken:
//
//   - While a key is written or deleted, it is neither held nor entered: whoever
//     reads meanwhile asks storage.
//   - What was asked before a write ended, or before Vault said that a key has
//     changed on another node, is given to whoever asked and not entered.
//   - A write that failed may still happen, when Vault gets to it. Its key is not
//     held any more.
type cache struct {
	mu      sync.Mutex
	entries *fastcache.Cache
	decoded *simplelru.LRU[entryKey, decoded]
	size    int // bytes of what is decoded, about
	limit   int // of size

	writing    map[entryKey]int // how many writes of a key are under way, or have failed
	generation uint64           // grows with whatever makes an answer of storage out of date
	mounts     uint64           // how many there have been
}

// entryKey is a key in the storage of one mount.
type entryKey struct {
	mount uint64
	key   string
}

// bytes returns the key under which fastcache has an entry.
func (k entryKey) bytes() []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 64), k.mount), k.key...)
}

// decoded is what an entry, or the list of roles, was decoded to. Who is given
// it must not change it.
type decoded struct {
	what any
	size int // bytes, about
}

// What fastcache has of an entry begins with one of these.
const (
	entryAbsent  = 0 // storage has no such entry
	entryPresent = 1 // its value follows
)

func newCache() *cache {
	c := &cache{entries: fastcache.New(entriesSize), limit: decodedSize, writing: map[entryKey]int{}}
	// It is the bytes that are limited, not their number; the constructor fails
	// only for a number below one.
	c.decoded, _ = simplelru.NewLRU(math.MaxInt, func(_ entryKey, d decoded) { c.size -= d.size })
	return c
}

// now returns the number of changes so far. Who then asks storage says it to
// enter or enterDecoded.
func (c *cache) currentGeneration() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// get returns an entry that is held, nil where storage has none.
func (c *cache) get(key entryKey) (entry *logical.StorageEntry, held bool) {
	value, held := c.entries.HasGet(nil, key.bytes())
	if !held || value[0] == entryAbsent {
		return nil, held
	}
	return &logical.StorageEntry{Key: key.key, Value: value[1:]}, true
}

// enter takes in what storage answered, unless something has changed since. An
// entry of 64 KiB and more is too large to be held.
func (c *cache) enter(key entryKey, entry *logical.StorageEntry, generation uint64) {
	value := []byte{entryAbsent}
	if entry != nil {
		value = append([]byte{entryPresent}, entry.Value...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if id := key.bytes(); c.isCurrent(key, generation) && !c.entries.Has(id) {
		c.entries.Set(id, value)
	}
}

// isCurrent reports whether what storage answered is not out of date.
func (c *cache) isCurrent(key entryKey, generation uint64) bool {
	return c.generation == generation && c.writing[key] == 0
}

// getDecoded returns what an entry was decoded to, if that is held.
func (c *cache) getDecoded(key entryKey) (what any, held bool, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, held := c.decoded.Get(key)
	return d.what, held, c.generation
}

// enterDecoded takes in what was decoded, unless something has changed since
// storage was asked for it, or it would leave no room for others.
func (c *cache) enterDecoded(key entryKey, d decoded, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isCurrent(key, generation) || c.decoded.Contains(key) || d.size > c.limit {
		return
	}
	c.decoded.Add(key, d)
	for c.size += d.size; c.size > c.limit; {
		c.decoded.RemoveOldest()
	}
}

// drop forgets keys that have changed.
func (c *cache) drop(keys ...entryKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(keys)
}

func (c *cache) dropLocked(keys []entryKey) {
	c.generation++
	for _, key := range keys {
		c.entries.Del(key.bytes())
		c.decoded.Remove(key)
	}
}

// write does what changes keys in storage.
func (c *cache) write(do func() error, keys ...entryKey) error {
	c.mu.Lock()
	for _, key := range keys {
		c.writing[key]++
	}
	c.dropLocked(keys)
	c.mu.Unlock()

	err := do()
	if err != nil {
		return err // and they stay among those being written
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		if c.writing[key]--; c.writing[key] == 0 {
			delete(c.writing, key)
		}
	}
	c.dropLocked(keys)
	return nil
}

// forMount returns the part of a mount that begins to be served: nothing. A
// reload, a seal and a change of the active node begin so.
func (c *cache) forMount() *mountCache {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mounts++
	return &mountCache{cache: c, mount: c.mounts}
}

// mountCache is the part of one mount.
type mountCache struct {
	cache *cache
	mount uint64
}

// holds reports whether entries of that key are held: those that a read of
// creds/ needs. Those of connections are read when one is used, which takes
// the registry's time, and administrative credentials stay out of memory.
func holds(key string) bool {
	return key == configStorageKey || strings.HasPrefix(key, roleStoragePrefix) || strings.HasPrefix(key, sharedStoragePrefix)
}

func (m *mountCache) key(key string) entryKey { return entryKey{m.mount, key} }

// changed returns the keys of what is out of date when a key has changed. The
// list of roles is held under their prefix.
func (m *mountCache) changed(key string) []entryKey {
	if strings.HasPrefix(key, roleStoragePrefix) {
		return []entryKey{m.key(key), m.key(roleStoragePrefix)}
	}
	return []entryKey{m.key(key)}
}

// drop forgets a key that has changed.
func (m *mountCache) drop(key string) { m.cache.drop(m.changed(key)...) }

// end forgets what a mount has had, which is not served any more. Its entries
// are out of reach, because no other mount has its number, and make way for
// others in time.
func (m *mountCache) end() {
	m.cache.mu.Lock()
	defer m.cache.mu.Unlock()
	m.cache.generation++ // nothing of it is entered from now on
	for _, key := range m.cache.decoded.Keys() {
		if key.mount == m.mount {
			m.cache.decoded.Remove(key)
		}
	}
	maps.DeleteFunc(m.cache.writing, func(key entryKey, _ int) bool { return key.mount == m.mount })
}

// over returns the storage of the mount as seen through the cache. All that the
// engine does goes through it.
func (m *mountCache) over(storage logical.Storage) logical.Storage {
	return &cachedStorage{Storage: storage, cached: m}
}

type cachedStorage struct {
	logical.Storage
	cached *mountCache
}

// Get implements [logical.Storage].
func (s *cachedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if !holds(key) {
		return s.Storage.Get(ctx, key)
	}
	cache, id := s.cached.cache, s.cached.key(key)
	if entry, held := cache.get(id); held {
		return entry, nil
	}
	generation := cache.currentGeneration()
	entry, err := s.Storage.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	cache.enter(id, entry, generation)
	return entry, nil
}

// List implements [logical.Storage]. Of lists that of the roles is held, which
// may be long. What it returns is shared, and must not be changed.
func (s *cachedStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if prefix != roleStoragePrefix {
		return s.Storage.List(ctx, prefix)
	}
	cache, id := s.cached.cache, s.cached.key(prefix)
	held, ok, generation := cache.getDecoded(id)
	if ok {
		return held.([]string), nil
	}
	names, err := s.Storage.List(ctx, prefix)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	// In one string, because so many would keep the garbage collector busy.
	joined := strings.Join(names, "\n")
	names = strings.Split(joined, "\n")
	cache.enterDecoded(id, decoded{names, len(joined) + 16*len(names)}, generation)
	return names, nil
}

// Put implements [logical.Storage].
func (s *cachedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.write(entry.Key, func() error { return s.Storage.Put(ctx, entry) })
}

// Delete implements [logical.Storage].
func (s *cachedStorage) Delete(ctx context.Context, key string) error {
	return s.write(key, func() error { return s.Storage.Delete(ctx, key) })
}

func (s *cachedStorage) write(key string, do func() error) error {
	if !holds(key) {
		return do()
	}
	return s.cached.cache.write(do, s.cached.changed(key)...)
}
