// SPDX-License-Identifier: MPL-2.0

package cache

import (
	"context"
	"fmt"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// failingStorage refuses every write, and may do it later, as Vault may.
type failingStorage struct{ logical.Storage }

func (failingStorage) Put(context.Context, *logical.StorageEntry) error { return context.Canceled }

// While Vault's storage is down, any number of keys may fail to be written.
func TestFailedWritesTakeNoMoreMemory(t *testing.T) {
	const writes = 100_000
	memory, storage := New(), &logical.InmemStorage{}
	c := memory.ForMount(testKeys)
	key := func(i int) string { return fmt.Sprint(listPrefix, i) }
	for i := range writes {
		if err := c.Over(failingStorage{storage}).Put(t.Context(), &logical.StorageEntry{Key: key(i)}); err == nil {
			t.Fatal("want the storage's error")
		}
	}
	checkSame(t, "keys being written", 0, len(memory.writing))
	checkSame(t, "bits for those that failed", failedBits, 64*len(memory.failed.bits))

	// None of them is held, because its write may still happen.
	for i := range writes {
		if _, err := c.Over(storage).Get(t.Context(), key(i)); err != nil {
			t.Fatal(err)
		}
		if _, held := memory.get(c.key(key(i))); held {
			t.Fatalf("%s is held after its write has failed", key(i))
		}
	}

	// Of the others, those that share a bit are not held either.
	held := 0
	for i := range 1000 {
		other := fmt.Sprint(listPrefix, "other-", i)
		if _, err := c.Over(storage).Get(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		if _, ok := memory.get(c.key(other)); ok {
			held++
		}
	}
	if share := 1000 - 1000*writes/failedBits; held < share-100 {
		t.Errorf("of 1,000 other keys, want some %d to be held, got %d", share, held)
	}
}

// A write in progress when its mount ends must not leave its key behind.
func TestWriteThatOutlivesItsMountLeavesNothing(t *testing.T) {
	memory := New()
	c := memory.ForMount(testKeys)
	slow := &lateStorage{Storage: &logical.InmemStorage{}, writing: make(chan struct{}), goOn: make(chan struct{})}
	done := make(chan error)
	go func() {
		done <- c.Over(slow).Put(context.Background(), &logical.StorageEntry{Key: cachedKey})
	}()
	<-slow.writing
	c.End()
	slow.goOn <- struct{}{}
	checkSame(t, "error", nil, <-done)
	checkSame(t, "keys being written", 0, len(memory.writing))
}
