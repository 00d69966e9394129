// SPDX-License-Identifier: MPL-2.0

package main

import (
	"runtime"
	"runtime/debug"
)

const (
	// gcPercent has garbage collected less often than Go does by itself. There is
	// little to keep and much that lives for one request, so that each collection
	// takes more than it gives: 3 to 7 % more requests at a concurrency of 32, the
	// medians of a run on a busy machine.
	gcPercent = 400

	// memoryLimit has it collected more often where that would take more memory:
	// with it, a process with a full cache takes some 60 MiB more than an idle one.
	// It is soft: what is needed is had.
	memoryLimit = 40 << 20

	// heapEntries is added to it on Windows, where the cache's entries lie in Go's
	// heap. Elsewhere they are not counted.
	heapEntries = 32 << 20
)

// tuneRuntime sets what "make bench" has found to be better than Go's defaults.
// The environment has the last word, such as that of "vault plugin register
// -env=GOGC=100". GOMAXPROCS stays as Go has it: in the same run, on two cores,
// 1 made single requests 3 to 9 % faster and cost 5 to 19 % of the throughput.
func tuneRuntime(lookup func(string) (string, bool)) {
	if _, set := lookup("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
	}
	if _, set := lookup("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(memoryLimitOn(runtime.GOOS))
	}
}

func memoryLimitOn(goos string) int64 {
	if goos == "windows" {
		return memoryLimit + heapEntries
	}
	return memoryLimit
}
