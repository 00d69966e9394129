// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/x509"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/registry"
)

// countingStorage counts what is asked of it.
type countingStorage struct {
	logical.Storage
	gets, puts, deletes, lists atomic.Int64
}

func (s *countingStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.gets.Add(1)
	return s.Storage.Get(ctx, key)
}

func (s *countingStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.puts.Add(1)
	return s.Storage.Put(ctx, entry)
}

func (s *countingStorage) Delete(ctx context.Context, key string) error {
	s.deletes.Add(1)
	return s.Storage.Delete(ctx, key)
}

func (s *countingStorage) List(ctx context.Context, prefix string) ([]string, error) {
	s.lists.Add(1)
	return s.Storage.List(ctx, prefix)
}

func (s *countingStorage) reset() {
	s.gets.Store(0)
	s.puts.Store(0)
	s.deletes.Store(0)
	s.lists.Store(0)
}

// countingPulls counts how often it is asked in each second.
type countingPulls struct {
	clock *clock
	mu    sync.Mutex
	at    map[int64]int
}

func (p *countingPulls) Verify(context.Context, dockerconfig.Credential, string) registry.Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[p.clock.now().Unix()]++
	return registry.Result{Verdict: registry.OK, Accepted: true}
}

// most returns the largest number in a span of that many seconds.
func (p *countingPulls) most(span int64) (most, total int) {
	spans := map[int64]int{}
	for at, n := range p.at {
		spans[at/span] += n
		total += n
	}
	for _, n := range spans {
		most = max(most, n)
	}
	return most, total
}

// storeManyRoles stores static roles of a hundred registries, as the engine does.
func (e *engine) storeManyRoles(count int) {
	e.t.Helper()
	e.write("roles/sample", static("registry-00.example.com", "robot", password, fields{"verify_repository": "team/app"}))
	for i := range count {
		r := *mustRole(e.t, e, "sample")
		r.Static = &staticRole{Docker: mustConfig(e.t, fmt.Sprintf("registry-%02d.example.com", i%100))}
		if err := e.putRole(context.Background(), e.through(), fmt.Sprintf("team-%03d-role-%06d", i%700, i), &r, nil); err != nil {
			e.t.Fatal(err)
		}
	}
	e.must(logical.DeleteOperation, "roles/sample", nil)
}

func mustConfig(t testing.TB, host string) dockerconfig.Config {
	t.Helper()
	config, err := dockerconfig.New(dockerconfig.Credential{Registry: dockerconfig.Key(host), Username: "robot", Password: dockerconfig.NewSecret(password)})
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// verifyingDay is what a day of verifications takes.
type verifyingDay struct {
	heap                                int64 // bytes that the timetable takes
	firstGets, firstLists               int64
	trials, perSecond, perMinute        int
	gets, puts, deletes, lists, minutes int64
}

// verifyADay has roles verified for a day, after a start.
func (e *engine) verifyADay(period string) verifyingDay {
	e.t.Helper()
	pulls := &countingPulls{clock: e.clock, at: map[int64]int{}}
	e.newVerifier = func(*x509.CertPool) verifier { return pulls }
	e.sleep = func(_ context.Context, d time.Duration) {
		if d == verifyPause || d == scanPause {
			return
		}
		for busy := true; busy; runtime.Gosched() { // those who work need no time
			e.jobs.mu.Lock()
			busy = len(e.jobs.known) > 1
			e.jobs.mu.Unlock()
		}
		e.clock.advance(d)
	}
	counting := &countingStorage{Storage: e.storage}
	e.storage = counting
	defer func() { e.storage = counting.Storage }()
	e.write("config", fields{"verify_period": period})
	e.background.Wait() // all roles are looked at after a write of config

	if _, err := e.through().List(context.Background(), roleStoragePrefix); err != nil { // as the cache holds it anyway
		e.t.Fatal(err)
	}
	var day verifyingDay
	before := heapInUse()
	counting.reset()
	if err := e.verifyDue(context.Background(), e.through()); err != nil {
		e.t.Fatal(err)
	}
	day.firstGets, day.firstLists = counting.gets.Load(), counting.lists.Load()
	e.background.Wait()
	day.heap = heapInUse() - before
	counting.reset()
	clear(pulls.at)
	for end := e.clock.now().Add(24 * time.Hour); e.clock.now().Before(end); day.minutes++ {
		begun := e.clock.now()
		e.minute()
		if next := begun.Add(time.Minute); e.clock.now().Before(next) {
			e.clock.advance(next.Sub(e.clock.now()))
		}
	}
	day.perSecond, day.trials = pulls.most(1)
	day.perMinute, _ = pulls.most(60)
	day.gets, day.puts, day.deletes, day.lists = counting.gets.Load(), counting.puts.Load(), counting.deletes.Load(), counting.lists.Load()
	return day
}

func heapInUse() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// A day of verifications is one trial and one write for each role, spread over the day.
// The first run reads lists, and no role.
func TestVerifyingManyRolesIsSpreadAndCheap(t *testing.T) {
	const roles = 1000
	e := newEngine(t)
	e.storeManyRoles(roles)
	day := e.verifyADay("24h")
	if day.firstGets > 2 || day.firstLists > 6 {
		t.Errorf("first run: want lists only, got %d reads and %d lists", day.firstGets, day.firstLists)
	}
	if day.trials < roles*98/100 || day.trials > roles*102/100 {
		t.Errorf("want each of the %d roles tried once a day, got %d trials", roles, day.trials)
	}
	if day.puts > int64(day.trials)+2 { // and the mark that all roles were looked at
		t.Errorf("want a write for each trial at most, got %d for %d trials", day.puts, day.trials)
	}
	if day.perMinute > 10 { // 0.7 on average
		t.Errorf("want the trials spread over the day, got %d in one minute", day.perMinute)
	}
	if day.deletes > 0 {
		t.Errorf("want nothing deleted, got %d", day.deletes)
	}
}

// BenchmarkVerify measures a day of verifications of many roles with verify_period=24h.
func BenchmarkVerify(b *testing.B) {
	e := newEngine(b)
	e.storeManyRoles(benchmarkedRoles)
	for b.Loop() {
		day := e.verifyADay("24h")
		b.ReportMetric(float64(day.heap)/benchmarkedRoles, "heap-B/role")
		b.ReportMetric(float64(day.firstGets), "first-reads")
		b.ReportMetric(float64(day.firstLists), "first-lists")
		b.ReportMetric(float64(day.trials), "trials/day")
		b.ReportMetric(float64(day.perSecond), "most-trials/s")
		b.ReportMetric(float64(day.perMinute), "most-trials/min")
		b.ReportMetric(float64(day.puts), "writes/day")
		b.ReportMetric(float64(day.gets), "reads/day")
		b.ReportMetric(float64(day.lists)/float64(day.minutes), "lists/min")
	}
}
