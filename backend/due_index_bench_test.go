// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"testing"
	"time"
)

const (
	benchmarkedRoles = 100_000
	benchmarkedApart = time.Second / 2 // the times at which they are due
)

// BenchmarkPeriodic measures what Vault calls each minute, with many shared roles
// stored and none of them due: the first run after a start, and each later one. It
// counts what they read of storage.
func BenchmarkPeriodic(b *testing.B) {
	e := newConnectedEngine(b)
	e.storeShared(b, benchmarkedRoles, benchmarkedApart)
	b.Run("first", func(b *testing.B) {
		var reads, lists int
		for b.Loop() {
			b.StopTimer()
			next := e.restarted(b)
			b.StartTimer()
			recorded := next.record()
			reads, lists = reads+len(recorded.gets), lists+len(recorded.lists)
		}
		b.ReportMetric(float64(reads)/float64(b.N), "reads/op")
		b.ReportMetric(float64(lists)/float64(b.N), "lists/op")
	})
	b.Run("later", func(b *testing.B) {
		next := e.restarted(b)
		next.mustRollBack()
		var reads, lists int
		for b.Loop() {
			recorded := next.record()
			reads, lists = reads+len(recorded.gets), lists+len(recorded.lists)
		}
		b.ReportMetric(float64(reads)/float64(b.N), "reads/op")
		b.ReportMetric(float64(lists)/float64(b.N), "lists/op")
	})
}
