// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestNameLockIsHeldByOne(t *testing.T) {
	var locks nameLocks
	counts := map[string]int{}
	var holders sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		counts[name] = 0
	}
	for range 100 {
		for _, name := range []string{"a"} {
			holders.Go(func() {
				unlock, err := locks.lock(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				defer unlock()
				counts[name]++ // a race without the lock
			})
		}
	}
	holders.Wait()
	checkSame(t, "counts", map[string]int{"a": 100, "b": 0}, counts)
	checkSame(t, "locks that are kept", 0, len(locks.held))
}

func TestNameLocksDoNotHinderEachOther(t *testing.T) {
	var locks nameLocks
	unlockA, errA := locks.lock(t.Context(), "a")
	unlockB, errB := locks.lock(t.Context(), "b") // would wait for ever
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	unlockA()
	unlockB()
	checkSame(t, "locks that are kept", 0, len(locks.held))
}

func TestWaitingForANameEndsWithTheRequest(t *testing.T) {
	var locks nameLocks
	unlock, err := locks.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := locks.lock(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("want the request's end, got %v", err)
	}
	unlock()
	again, err := locks.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	again()
	checkSame(t, "locks that are kept", 0, len(locks.held))
}
