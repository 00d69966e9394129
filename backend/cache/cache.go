// SPDX-License-Identifier: MPL-2.0

// Package cache holds what reads of pull secrets need of Vault's storage, so
// that a read waits for storage once and then no more. All mounts of a process
// share one [Cache].
//
// It has two parts. Storage entries, as they are stored, lie outside of Go's
// heap, where so many small objects would keep the garbage collector busy; they
// are evicted first in, first out. The values that the most recently used
// entries were decoded to are in a small LRU.
//
// The cache is right because no answer enters it that a write may have
// overtaken:
//
//   - While a key is written or deleted, the key is neither held nor entered:
//     reads in between ask storage.
//   - An answer of storage is returned to its reader but not entered if a write
//     ended, or Vault invalidated a key, after storage was asked.
//   - A write that failed may still happen, when Vault gets to it. Its key is not
//     held any more, and neither are the few that share a bit with it; see
//     [failedWrites].
package cache

import (
	"encoding/binary"
	"math"
	"strings"
	"sync"

	"github.com/VictoriaMetrics/fastcache"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// EntriesSize caps the bytes that the entries of a process take: those of
	// some 100,000 roles of one registry. It is the least that fastcache takes.
	EntriesSize = 32 << 20

	// decodedSize caps the bytes that decoded values take, about.
	decodedSize = 4 << 20
)

// Cache is the memory of all mounts of a process.
type Cache struct {
	mu      sync.Mutex
	entries *fastcache.Cache
	decoded *simplelru.LRU[entryKey, decoded]
	size    int // bytes of what is decoded, about
	limit   int // of size

	turns chan struct{} // see takeTurn

	writing    map[entryKey]int // how many writes of a key are in progress
	failed     failedWrites     // keys whose write has failed
	generation uint64           // grows with each change that makes an answer of storage out of date
	mounts     uint64           // how many there have been
}

// entryKey is a key in the storage of one mount, or a prefix whose list is held. An entry
// may have the prefix as its key.
type entryKey struct {
	mount  uint64
	key    string
	isList bool
}

// bytes returns the key under which fastcache has an entry.
func (k entryKey) bytes() []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 64), k.mount), k.key...)
}

// decoded is the value that an entry, or a list, was decoded to.
type decoded struct {
	value any
	size  int // bytes, about
}

// The first byte of what fastcache has of an entry.
const (
	entryAbsent  = 0 // storage has no such entry
	entryPresent = 1 // its value follows
)

// New returns an empty cache.
func New() *Cache {
	c := &Cache{entries: fastcache.New(EntriesSize), limit: decodedSize, turns: make(chan struct{}, turns), writing: map[entryKey]int{}}
	// The bytes are limited, not the number of values; the constructor fails
	// only for a number below one.
	c.decoded, _ = simplelru.NewLRU(math.MaxInt, func(_ entryKey, d decoded) { c.size -= d.size })
	return c
}

// currentGeneration returns the current generation; pass it to enter or
// enterDecoded, which reject answers older than the last change.
func (c *Cache) currentGeneration() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

// get returns an entry that is held, nil where storage has none.
func (c *Cache) get(key entryKey) (entry *logical.StorageEntry, held bool) {
	value, held := c.entries.HasGet(nil, key.bytes())
	if !held || value[0] == entryAbsent {
		return nil, held
	}
	return &logical.StorageEntry{Key: key.key, Value: value[1:]}, true
}

// enter takes an answer of storage in, unless something has changed since
// storage was asked. fastcache holds no entry of 64 KiB and more.
func (c *Cache) enter(key entryKey, entry *logical.StorageEntry, generation uint64) {
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

// isCurrent reports whether an answer of storage is not out of date.
func (c *Cache) isCurrent(key entryKey, generation uint64) bool {
	return c.generation == generation && c.writing[key] == 0 && !c.failed.has(key)
}

// getDecoded returns the decoded value of an entry, if it is held.
func (c *Cache) getDecoded(key entryKey) (value any, held bool, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, held := c.decoded.Get(key)
	return d.value, held, c.generation
}

// enterDecoded takes a decoded value in, unless something has changed since
// storage was asked, or the value is larger than the limit.
func (c *Cache) enterDecoded(key entryKey, d decoded, generation uint64) {
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
func (c *Cache) drop(keys ...entryKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(keys)
}

func (c *Cache) dropLocked(keys []entryKey) {
	c.generation++
	for _, key := range keys {
		c.entries.Del(key.bytes())
		c.decoded.Remove(key)
	}
}

// write runs a function that changes keys in storage.
func (c *Cache) write(change func() error, keys ...entryKey) error {
	c.mu.Lock()
	for _, key := range keys {
		c.writing[key]++
	}
	c.dropLocked(keys)
	c.mu.Unlock()

	err := change()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		if err != nil {
			c.failed.add(key)
		}
		if c.writing[key]--; c.writing[key] == 0 {
			delete(c.writing, key)
		}
	}
	c.dropLocked(keys)
	return err
}

// Keys says what of a mount's storage is held.
type Keys struct {
	// Holds reports whether the entry of a key is held.
	Holds func(key string) bool

	// Decodes reports whether the value that [Decoded] decodes of a key is held,
	// whatever its size, but not its entry: for entries with a secret that the value
	// leaves out.
	Decodes func(key string) bool

	// List is the prefix whose list of keys is held.
	List string
}

// Mount is the part of the cache that one mount uses.
type Mount struct {
	cache *Cache
	mount uint64
	keys  Keys
}

// ForMount returns the part of a mount, which is empty. Each reload, unseal and
// change of the active node begins so.
func (c *Cache) ForMount(keys Keys) *Mount {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mounts++
	return &Mount{cache: c, mount: c.mounts, keys: keys}
}

func (m *Mount) key(key string) entryKey { return entryKey{mount: m.mount, key: key} }

func (m *Mount) listKey() entryKey { return entryKey{m.mount, m.keys.List, true} }

// changed returns what is out of date when a key has changed.
func (m *Mount) changed(key string) []entryKey {
	if strings.HasPrefix(key, m.keys.List) {
		return []entryKey{m.key(key), m.listKey()}
	}
	return []entryKey{m.key(key)}
}

// Drop forgets a key that has changed, as Vault says of a key that another node
// has written.
func (m *Mount) Drop(key string) { m.cache.drop(m.changed(key)...) }

// End forgets a mount that is not served any more. Its entries are out of
// reach, because no other mount has its number, and are evicted in time.
func (m *Mount) End() {
	m.cache.mu.Lock()
	defer m.cache.mu.Unlock()
	m.cache.generation++ // late requests of the mount enter nothing
	for _, key := range m.cache.decoded.Keys() {
		if key.mount == m.mount {
			m.cache.decoded.Remove(key)
		}
	}
}

// Held returns the decoded values that are held of the mount, by key. Tests look
// at it.
func (m *Mount) Held() map[string]any {
	m.cache.mu.Lock()
	defer m.cache.mu.Unlock()
	held := map[string]any{}
	for _, key := range m.cache.decoded.Keys() {
		if d, ok := m.cache.decoded.Peek(key); ok && key.mount == m.mount {
			held[key.key] = d.value
		}
	}
	return held
}
