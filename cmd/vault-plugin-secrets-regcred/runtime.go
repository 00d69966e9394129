// SPDX-License-Identifier: MPL-2.0

package main

import (
	"runtime"
	"runtime/debug"

	"vault-plugin-secrets-regcred/backend/cache"
)

const (
	// gcPercent makes Go collect garbage less often than by default. The process
	// keeps little, and most of its memory lives for one request, so a collection
	// costs more than it frees: with Go's default of 100, throughput at a
	// concurrency of 32 was up to 2.5 % lower.
	gcPercent = 400

	// memoryLimit makes Go collect more often when the heap comes near it: a
	// process with a full cache takes some 60 MiB more than an idle one. The limit
	// is soft: Go exceeds it rather than fail.
	memoryLimit = 44 << 20
)

// tuneRuntime sets what "make bench" has found to be better than Go's defaults.
// Environment variables take precedence, such as those of "vault plugin
// register -env=GOGC=100". GOMAXPROCS keeps Go's default: on two cores, which
// Vault and the client shared, GOMAXPROCS=1 made single requests 6 to 9 %
// faster and did not change throughput; on more cores it would limit
// throughput, and one long list would block all reads.
func tuneRuntime(lookup func(string) (string, bool)) {
	if _, set := lookup("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
	}
	if _, set := lookup("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(memoryLimitOn(runtime.GOOS))
	}
}

func memoryLimitOn(goos string) int64 {
	if goos == "windows" { // there the entries of the cache are in Go's heap
		return memoryLimit + cache.EntriesSize
	}
	return memoryLimit
}
