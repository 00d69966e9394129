// SPDX-License-Identifier: MPL-2.0

package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

// Go has read the environment at the start of the process.
func TestEnvironmentHasTheLastWordOnTheRuntime(t *testing.T) {
	gc, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() {
		debug.SetGCPercent(gc)
		debug.SetMemoryLimit(limit)
	})
	for _, set := range []string{"", "GOGC", "GOMEMLIMIT"} {
		debug.SetGCPercent(100)
		debug.SetMemoryLimit(math.MaxInt64)
		tuneRuntime(func(name string) (string, bool) { return "", name == set })

		wantGC, wantLimit := gcPercent, memoryLimitOn(runtime.GOOS)
		switch set {
		case "GOGC":
			wantGC = 100
		case "GOMEMLIMIT":
			wantLimit = math.MaxInt64
		}
		if got := debug.SetGCPercent(100); got != wantGC {
			t.Errorf("with %q set: want a GC percentage of %d, got %d", set, wantGC, got)
		}
		if got := debug.SetMemoryLimit(-1); got != wantLimit {
			t.Errorf("with %q set: want a memory limit of %d, got %d", set, wantLimit, got)
		}
	}
}

func TestMemoryLimitHasRoomForEntriesInTheHeap(t *testing.T) {
	if linux, windows := memoryLimitOn("linux"), memoryLimitOn("windows"); linux != 44<<20 || windows != 76<<20 {
		t.Errorf("want 44 MiB on Linux and 76 MiB on Windows, got %d and %d", linux, windows)
	}
}
