// SPDX-License-Identifier: MPL-2.0

package main

import (
	"runtime"
	"runtime/debug"
)

const (
	// gcPercent has garbage collected less often than Go does by itself. There is
	// little to keep and much that lives for one request, so that each collection
	// takes more than it gives: with Go's 100, throughput at a concurrency of 32
	// was up to 2.5 % less.
	gcPercent = 400

	// memoryLimit has it collected more often where that would take more memory:
	// with it, a process with a full cache takes some 60 MiB more than an idle one.
	// It is soft: what is needed is had.
	memoryLimit = 44 << 20

	// heapEntries is added to it on Windows, where the cache's entries lie in Go's
	// heap. Elsewhere they are not counted.
	heapEntries = 32 << 20
)

// tuneRuntime sets what "make bench" has found to be better than Go's defaults.
// The environment has the last word, such as that of "vault plugin register
// -env=GOGC=100". GOMAXPROCS stays as Go has it: on two cores, which Vault and
// the client shared, 1 made single requests 6 to 9 % faster and changed nothing
// in throughput, of which it would be the bound on more cores; and one long list
// would have all reads wait.
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
