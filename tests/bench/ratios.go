// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"fmt"
	"slices"
	"strings"
)

// Ratio compares two things of one run. Its value is the median of the rounds'
// ratios.
type Ratio struct {
	What        string  `json:"what"`
	Figure      string  `json:"figure"` // p50, throughput, or MiB
	Concurrency int     `json:"concurrency,omitempty"`
	Value       float64 `json:"value"`
	Low         float64 `json:"low"` // of the rounds
	High        float64 `json:"high"`
	Target      *Target `json:"target,omitempty"` // nil: for information
}

// Target is the limit that a ratio must keep.
type Target struct {
	Limit   float64 `json:"limit"`
	AtLeast bool    `json:"at_least"` // the limit is a minimum, else a maximum
}

func atMost(limit float64) *Target { return &Target{Limit: limit} }

// Met reports whether the ratio reaches its target.
func (r Ratio) Met() bool {
	if r.Target.AtLeast {
		return r.Value >= r.Target.Limit
	}
	return r.Value <= r.Target.Limit
}

// concurrencies are the numbers of concurrent requests that are measured.
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

// with returns the name of regcred with further variables in its environment.
func with(variables []string) string { return regcred + " with " + strings.Join(variables, " ") }

// compare fills in the ratios of a result.
func (r *Result) compare() {
	r.Ratios = nil
	r.againstFloor()
	r.latency("bundle of 3 against 3 reads of KV version 2 in sequence", atMost(1), of(regcred, bundle), reads(kv2, 3), 1)
	if len(r.Run.Roles) > 0 {
		least, most := slices.Min(r.Run.Roles), slices.Max(r.Run.Roles)
		r.latency(fmt.Sprintf("read with %s roles against %s", count(most), count(least)), atMost(1.05), withRoles(most), withRoles(least), 1)
		r.latency(fmt.Sprintf("list of %s roles against the floor", count(most)), atMost(1.05), listOf(regcred), listOf(floor), 1)
		r.latency(fmt.Sprintf("list of %s roles against KV version 1", count(most)), atMost(1.5), listOf(regcred), listOf(kv1), 1)
		r.memory()
	}
	r.forInformation()
	for _, variables := range r.Machine.Compare {
		for _, content := range []string{static, shared, bundle} {
			what := content + " with " + strings.Join(variables, " ") + " against without"
			r.latency(what, nil, of(with(variables), content), of(regcred, content), 1)
			r.throughput(what, nil, of(with(variables), content), of(regcred, content))
		}
	}
}

func (r *Result) againstFloor() {
	r.latency("static role against the floor", atMost(1.05), of(regcred, static), of(floor, static), 1)
	r.throughput("static role against the floor", &Target{Limit: 0.92, AtLeast: true}, of(regcred, static), of(floor, static))
	r.latency("shared role against the floor", atMost(1.15), of(regcred, shared), of(floor, shared), 1)
	r.latency("bundle of 3 against the floor", atMost(1.05), of(regcred, bundle), of(floor, bundle), 1)
}

func (r *Result) memory() {
	over := func(roles int, bytes int64) {
		more := mebibytes(bytes - r.Memory.Idle)
		r.Ratios = append(r.Ratios, Ratio{
			What: fmt.Sprintf("memory after %s roles were read, over idle", count(roles)), Figure: "MiB", Target: atMost(64),
			Value: more, Low: more, High: more,
		})
	}
	over(r.Memory.Roles, r.Memory.Read)
	over(2*r.Memory.Roles, r.Memory.Twice)
}

func (r *Result) forInformation() {
	if len(r.Run.Roles) > 0 {
		most := count(slices.Max(r.Run.Roles))
		r.latency(fmt.Sprintf("list of %s names by the floor against KV version 1", most), nil, listOf(floor), listOf(kv1), 1)
	}
	for _, content := range []string{shared, bundle} {
		r.throughput(content+" against the floor", nil, of(regcred, content), of(floor, content))
	}
	for _, concurrency := range concurrencies[1:] {
		r.latency("bundle of 3 against 3 reads of KV version 2 in sequence", nil, of(regcred, bundle), reads(kv2, 3), concurrency)
	}
	r.latency("bundle of 3 against 3 reads of KV version 1 in sequence", nil, of(regcred, bundle), reads(kv1, 3), 1)
	for _, server := range []string{kv2, kv1} {
		r.latency("static role against 1 read of "+server, nil, of(regcred, static), reads(server, 1), 1)
		r.throughput("static role against 1 read of "+server, nil, of(regcred, static), reads(server, 1))
	}
	r.latency("the floor in a second process against itself", nil, of(again, static), of(floor, static), 1)
	r.throughput("the floor in a second process against itself", nil, of(again, static), of(floor, static))
}

func (r *Result) latency(what string, target *Target, a, b string, concurrency int) {
	r.add(what, "p50", target, p50, a, b, concurrency)
}

func (r *Result) throughput(what string, target *Target, a, b string) {
	r.add(what, "throughput", target, perSecond, a, b, slices.Max(concurrencies))
}

func (r *Result) add(what, name string, target *Target, of figure, a, b string, concurrency int) {
	r.Ratios = append(r.Ratios, ratio(what, name, target, of, r.find(a, concurrency), r.find(b, concurrency)))
}

func ratio(what, name string, target *Target, of figure, a, b Series) Ratio {
	r := Ratio{What: what, Concurrency: a.Concurrency, Figure: name, Target: target}
	var values []float64
	for i := range min(len(a.Rounds), len(b.Rounds)) {
		values = append(values, of(a.Rounds[i])/of(b.Rounds[i]))
	}
	if len(values) > 0 {
		r.Value, r.Low, r.High = median(values), slices.Min(values), slices.Max(values)
	}
	return r
}
