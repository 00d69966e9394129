// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"fmt"
	"slices"
)

// Ratio compares two things of one run: the median over the rounds of the
// ratio in each.
type Ratio struct {
	What   string  `json:"what"`
	Figure string  `json:"figure"` // p50, throughput, or MiB
	Value  float64 `json:"value"`
	Low    float64 `json:"low"` // of the rounds
	High   float64 `json:"high"`
	Target *Target `json:"target,omitempty"` // nil: for information
}

// Target is what a ratio is to reach.
type Target struct {
	Limit   float64 `json:"limit"`
	AtLeast bool    `json:"at_least"` // else at most
}

func atMost(limit float64) *Target  { return &Target{Limit: limit} }
func atLeast(limit float64) *Target { return &Target{Limit: limit, AtLeast: true} }

// Met reports whether the ratio reaches its target.
func (r Ratio) Met() bool {
	if r.Target.AtLeast {
		return r.Value >= r.Target.Limit
	}
	return r.Value <= r.Target.Limit
}

// concurrencies are those at which requests are measured.
var concurrencies = []int{1, 4, 32}

// Names of what is measured.
const (
	floor   = "floor"
	again   = "floor, second process"
	kv1     = "KV version 1"
	kv2     = "KV version 2"
	regcred = "regcred"

	static = "static role"
	bundle = "bundle of 3"
	shared = "shared role"
)

func of(server, content string) string { return server + ": " + content }

func reads(server string, n int) string {
	if n == 1 {
		return of(server, "1 read")
	}
	return of(server, fmt.Sprintf("%d reads in sequence", n))
}

func withRoles(n int) string      { return of(regcred, "one of "+count(n)+" roles") }
func listOf(server string) string { return of(server, "list") }

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// compare fills in the ratios of a result.
func (r *Result) compare() {
	r.Ratios = nil
	add := func(what string, target *Target, name string, of figure, a, b string, concurrency int) {
		r.Ratios = append(r.Ratios, ratio(what, name, target, of, r.find(a, concurrency), r.find(b, concurrency)))
	}
	latency := func(what string, target *Target, a, b string, concurrency int) {
		add(fmt.Sprintf("%s, concurrency %d", what, concurrency), target, "p50", p50, a, b, concurrency)
	}
	throughput := func(what string, target *Target, a, b string, concurrency int) {
		add(fmt.Sprintf("%s, concurrency %d", what, concurrency), target, "throughput", perSecond, a, b, concurrency)
	}

	latency("static role against the floor", atMost(1.05), of(regcred, static), of(floor, static), 1)
	throughput("static role against the floor", atLeast(0.92), of(regcred, static), of(floor, static), 32)
	for _, content := range []string{shared, bundle} {
		latency(content+" against the floor", atMost(1.15), of(regcred, content), of(floor, content), 1)
	}
	latency("bundle of 3 against 3 reads of KV version 2 in sequence", atMost(1), of(regcred, bundle), reads(kv2, 3), 1)
	latency(fmt.Sprintf("%s roles against %s", count(r.Run.Most()), count(slices.Min(r.Run.Roles))), atMost(1.1),
		withRoles(r.Run.Most()), withRoles(slices.Min(r.Run.Roles)), 1)
	latency(fmt.Sprintf("list of %s roles against KV version 1", count(r.Run.Listed)), atMost(1.5), listOf(regcred), listOf(kv1), 1)
	r.Ratios = append(r.Ratios,
		r.Memory.over(fmt.Sprintf("memory after %s roles were read, over that of an idle plugin", count(r.Memory.Roles)), r.Memory.Read, atMost(64)),
		r.Memory.over(fmt.Sprintf("memory after %s roles were read, over that of an idle plugin", count(2*r.Memory.Roles)), r.Memory.Twice, atMost(64)))

	for _, content := range []string{shared, bundle} {
		throughput(content+" against the floor", nil, of(regcred, content), of(floor, content), 32)
	}
	for _, concurrency := range concurrencies[1:] {
		latency("bundle of 3 against 3 reads of KV version 2 in sequence", nil, of(regcred, bundle), reads(kv2, 3), concurrency)
	}
	for _, server := range []string{kv1, kv2} {
		latency("static role against 1 read of "+server, nil, of(regcred, static), reads(server, 1), 1)
		throughput("static role against 1 read of "+server, nil, of(regcred, static), reads(server, 1), 32)
	}
	latency("bundle of 3 against 3 reads of KV version 1 in sequence", nil, of(regcred, bundle), reads(kv1, 3), 1)
	latency("the floor in a second process against itself", nil, of(again, static), of(floor, static), 1)
	throughput("the floor in a second process against itself", nil, of(again, static), of(floor, static), 32)
}

func ratio(what, name string, target *Target, of figure, a, b Series) Ratio {
	var values []float64
	for i := range min(len(a.Rounds), len(b.Rounds)) {
		values = append(values, of(a.Rounds[i])/of(b.Rounds[i]))
	}
	r := Ratio{What: what, Figure: name, Target: target, Value: median(values)}
	if len(values) > 0 {
		r.Low, r.High = slices.Min(values), slices.Max(values)
	}
	return r
}

func (m Memory) over(what string, bytes int64, target *Target) Ratio {
	more := mebibytes(bytes - m.Idle)
	return Ratio{What: what, Figure: "MiB", Target: target, Value: more, Low: more, High: more}
}
