// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"maps"
	"math"
	"strings"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// cacheSize is the most bytes that the cache of a process holds. It is what
	// some 80,000 roles of one registry take.
	cacheSize = 40 << 20

	// cacheOverhead is about what an entry takes beside its key and value.
	cacheOverhead = 190

	// maxDecoded is how many entries are held as they were decoded, too, those
	// with at most maxDecodedSize bytes: what is read all the time need not be
	// decoded each time, and to hold all like that would take twice the memory.
	maxDecoded     = 1024
	maxDecodedSize = 4 << 10
)

// cache holds storage entries that reads need, as they stand in storage, so
// that a read of a pull secret waits for Vault's storage once and then no more.
// All mounts of the process share it, and the least recently used go first. It
// is right because nothing enters it that a write may have overtaken:
//
//   - While a key is written or deleted, it is neither held nor entered: whoever
//     reads meanwhile asks storage.
//   - What was asked before a write ended, or before Vault said that a key has
//     changed on another node, is given to whoever asked and not entered.
//   - A write that failed may still happen, when Vault gets to it. Its key is not
//     held any more.
type cache struct {
	mu      sync.Mutex
	entries *simplelru.LRU[entryKey, []byte] // a nil value: storage has no such entry
	size    int                              // bytes
	limit   int                              // of size
	writing map[entryKey]int                 // how many writes of a key are under way, or have failed
	changes uint64                           // grows with whatever makes an answer of storage out of date
	mounts  uint64                           // how many there have been

	decoded *simplelru.LRU[entryKey, decodedEntry]
}

// decodedEntry is what the bytes that begin at one address were decoded to. Who
// is given it must not change it.
type decodedEntry struct {
	of   *byte
	what any
}

// entryKey is a key in the storage of one mount.
type entryKey struct {
	mount uint64
	key   string
}

func newCache(limit int) *cache {
	c := &cache{limit: limit, writing: map[entryKey]int{}}
	// It is the bytes that are limited, not their number; the constructor fails
	// only for a number below one.
	c.entries, _ = simplelru.NewLRU(math.MaxInt, func(key entryKey, value []byte) {
		c.size -= cost(key, value)
		c.decoded.Remove(key)
	})
	c.decoded, _ = simplelru.NewLRU[entryKey, decodedEntry](maxDecoded, nil)
	return c
}

func cost(key entryKey, value []byte) int { return len(key.key) + len(value) + cacheOverhead }

func (c *cache) get(key entryKey) (value []byte, held bool, asOf uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	value, held = c.entries.Get(key)
	return value, held, c.changes
}

// enter takes in what storage answered, unless something has changed since get
// was asked for it.
func (c *cache) enter(key entryKey, value []byte, asOf uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != asOf || c.writing[key] > 0 || c.entries.Contains(key) {
		return
	}
	c.entries.Add(key, value)
	for c.size += cost(key, value); c.size > c.limit; {
		c.entries.RemoveOldest()
	}
}

// drop forgets keys that have changed.
func (c *cache) drop(keys ...entryKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(keys)
}

func (c *cache) dropLocked(keys []entryKey) {
	c.changes++
	for _, key := range keys {
		c.entries.Remove(key)
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

// decode returns what the bytes under a key are decoded to, and decodes them
// only if that is not known.
func (c *cache) decode(key entryKey, value []byte, decode func() (any, error)) (any, error) {
	if len(value) == 0 || len(value) > maxDecodedSize {
		return decode()
	}
	c.mu.Lock()
	known, ok := c.decoded.Get(key)
	c.mu.Unlock()
	if ok && known.of == &value[0] {
		return known.what, nil
	}
	what, err := decode()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// It is of use only while these bytes are held.
	if held, ok := c.entries.Peek(key); ok && len(held) > 0 && &held[0] == &value[0] {
		c.decoded.Add(key, decodedEntry{&value[0], what})
	}
	return what, nil
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

// end forgets all that a mount has had, which is not served any more.
func (m *mountCache) end() {
	m.cache.mu.Lock()
	defer m.cache.mu.Unlock()
	m.cache.changes++
	for _, key := range m.cache.entries.Keys() {
		if key.mount == m.mount {
			m.cache.entries.Remove(key)
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

// Get implements [logical.Storage]. What it returns is shared, and must not be
// changed.
func (s *cachedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if !holds(key) {
		return s.Storage.Get(ctx, key)
	}
	value, err := s.read(key, func() ([]byte, error) {
		entry, err := s.Storage.Get(ctx, key)
		if err != nil || entry == nil {
			return nil, err
		}
		return append([]byte{}, entry.Value...), nil // not nil, even where it is empty
	})
	if err != nil || value == nil {
		return nil, err
	}
	return &logical.StorageEntry{Key: key, Value: value}, nil
}

// List implements [logical.Storage]. Of lists that of the roles is held, which
// may be long.
func (s *cachedStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if prefix != roleStoragePrefix {
		return s.Storage.List(ctx, prefix)
	}
	value, err := s.read(prefix, func() ([]byte, error) {
		names, err := s.Storage.List(ctx, prefix)
		return []byte(strings.Join(names, "\n")), err
	})
	if err != nil || len(value) == 0 {
		return nil, err
	}
	return strings.Split(string(value), "\n"), nil
}

func (s *cachedStorage) read(key string, ask func() ([]byte, error)) ([]byte, error) {
	value, held, asOf := s.cached.cache.get(s.cached.key(key))
	if held {
		return value, nil
	}
	value, err := ask()
	if err != nil {
		return nil, err
	}
	s.cached.cache.enter(s.cached.key(key), value, asOf)
	return value, nil
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
