// SPDX-License-Identifier: MPL-2.0

package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// maxDecodedEntry is the size of the largest entry whose decoded value is held
	// too: what is read all the time need not be decoded each time.
	maxDecodedEntry = 4 << 10

	// turns is how many larger entries the process decodes at the same time: decoding
	// takes several times the memory of the entry.
	turns = 4
)

// takeTurn waits until fewer than [turns] large entries are being decoded. done gives the
// turn back.
func (c *Cache) takeTurn(ctx context.Context) (done func(), err error) {
	select {
	case c.turns <- struct{}{}:
		return func() { <-c.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// sizeDecoded estimates the bytes of an entry's decoded value and its place in
// the cache.
func sizeDecoded(entry *logical.StorageEntry) int { return 2*len(entry.Value) + 400 }

// Decoded returns what the entry under key is decoded to, or absent where there
// is none. Requests share the value, so it must not be changed. storage must be
// one that Over returned.
func Decoded[T any](ctx context.Context, mount *Mount, storage logical.Storage, key string, absent T, decode func(*logical.StorageEntry) (T, error)) (T, error) {
	cache, id := mount.cache, mount.key(key)
	held, ok, generation := cache.getDecoded(id)
	if ok {
		return held.(T), nil
	}
	entry, err := storage.Get(ctx, key)
	if err != nil {
		return absent, fmt.Errorf("reading %s: %w", key, err)
	}
	if entry == nil {
		return absent, nil
	}
	small := len(entry.Value) <= maxDecodedEntry
	if !small {
		done, err := cache.takeTurn(ctx)
		if err != nil {
			return absent, fmt.Errorf("reading %s: %w", key, err)
		}
		defer done()
	}
	value, err := decode(entry)
	if err != nil {
		return absent, err
	}
	if small || mount.keys.Decodes(key) {
		cache.enterDecoded(id, decoded{value, sizeDecoded(entry)}, generation)
	}
	return value, nil
}

// Over returns the storage of the mount as seen through the cache. All reads and
// writes of the mount must go through it.
func (m *Mount) Over(storage logical.Storage) logical.Storage {
	return &cachedStorage{Storage: storage, mount: m}
}

type cachedStorage struct {
	logical.Storage
	mount *Mount
}

// Get implements [logical.Storage].
func (s *cachedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if !s.mount.keys.Holds(key) {
		return s.Storage.Get(ctx, key)
	}
	cache, id := s.mount.cache, s.mount.key(key)
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

// List implements [logical.Storage]. The list is sorted, whatever the storage of Vault.
// Requests share the list that is held, so it must not be changed.
func (s *cachedStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if prefix != s.mount.keys.List {
		names, err := s.Storage.List(ctx, prefix)
		slices.Sort(names)
		return names, err
	}
	cache, id := s.mount.cache, s.mount.listKey()
	held, ok, generation := cache.getDecoded(id)
	if ok {
		return held.([]string), nil
	}
	names, err := s.Storage.List(ctx, prefix)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	slices.Sort(names)
	// One string holds them all: so many small ones would keep the garbage
	// collector busy.
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

func (s *cachedStorage) write(key string, change func() error) error {
	if !s.mount.keys.Holds(key) && !s.mount.keys.Decodes(key) {
		return change()
	}
	return s.mount.cache.write(change, s.mount.changed(key)...)
}
