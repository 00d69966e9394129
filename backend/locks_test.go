// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
)

func TestNameLockIsHeldByOne(t *testing.T) {
	var locks nameLocks
	count := 0
	var holders sync.WaitGroup
	for range 100 {
		holders.Go(func() {
			unlock, err := locks.lock(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			defer unlock()
			before := count
			runtime.Gosched()
			count = before + 1
		})
	}
	holders.Wait()
	checkSame(t, "count", 100, count)
	checkSame(t, "locks that are kept", 0, len(locks.held))
}

func TestNameLocksDoNotBlockEachOther(t *testing.T) {
	var locks nameLocks
	unlockA, errA := locks.lock(t.Context(), "a")
	unlockB, errB := locks.lock(t.Context(), "b") // must not wait for a
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
