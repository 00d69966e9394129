// SPDX-License-Identifier: MPL-2.0

package issuertest

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

// PeakHeap returns by how many bytes the heap grows while a function runs. Garbage is
// collected early meanwhile: otherwise there may be as much of it as other tests of the
// process have in use.
func PeakHeap(t testing.TB, run func()) uint64 {
	t.Helper()
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	runtime.GC()
	before, peak := heap(), uint64(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		run()
	}()
	for {
		select {
		case <-done:
			return max(peak, before) - before
		case <-time.After(time.Millisecond):
			peak = max(peak, heap())
		}
	}
}
