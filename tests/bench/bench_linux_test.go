// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

// What a run is given in the environment, which "make bench" passes on.
const (
	// sizeVariable is "full"; "short", which shows in less than a minute that the
	// measurement works; "requests", which leaves out what takes long to fill; or
	// "many", which is less of everything but the roles.
	sizeVariable = "BENCH"

	// envVariable has variables for regcred's processes: "GOGC=400 GOMAXPROCS=1".
	envVariable = "BENCH_ENV"

	// compareVariable has the same for further processes, one for each part
	// that ends with a semicolon. They are compared with those that have
	// envVariable: "GOGC=400; GOGC=400 GOMAXPROCS=1".
	compareVariable = "BENCH_COMPARE"
)

// plan says how much is measured.
type plan struct {
	rounds, turns int
	slice         time.Duration // for one thing in one turn
	roles         []int         // numbers of roles, each in a mount of its own; growing
}

var plans = map[string]plan{
	"full":     {rounds: 7, turns: 10, slice: 100 * time.Millisecond, roles: []int{10, 100, 1_000, 10_000, 100_000}},
	"requests": {rounds: 7, turns: 10, slice: 100 * time.Millisecond},
	"many":     {rounds: 7, turns: 4, slice: 100 * time.Millisecond, roles: []int{10, 100_000}},
	"short":    {rounds: 2, turns: 1, slice: 50 * time.Millisecond, roles: []int{10, 100, 1_000}},
}

// most is the largest number of roles.
func (p plan) most() int { return p.roles[len(p.roles)-1] }

func TestMain(m *testing.M) {
	servers.CleanEnv()
	// The client's garbage collector takes from the same cores.
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// TestBench measures, prints the result and writes it to .bench/result.json. It
// fails if something cannot be measured, never for a figure.
func TestBench(t *testing.T) {
	size := cmp.Or(os.Getenv(sizeVariable), "full")
	p, known := plans[size]
	if !known {
		t.Fatalf("%s=%q: want one of %q", sizeVariable, size, slices.Sorted(maps.Keys(plans)))
	}
	began := time.Now()
	s := newSetup(t, p, settings(t))
	result := &Result{
		Machine: s.machine,
		Run:     Run{Size: size, Began: began.UTC().Truncate(time.Second), Rounds: p.rounds, Roles: p.roles},
		Series:  measure(t, p, s.groups()),
	}
	if len(p.roles) > 0 {
		result.Memory = s.measureMemory()
	}
	result.Run.Seconds = time.Since(began).Round(time.Second).Seconds()
	result.compare()

	fmt.Println()
	result.Print(os.Stdout)
	file := filepath.Join(servers.Repo(), ".bench", "result.json")
	if err := result.Write(file); err != nil {
		t.Fatal(err)
	}
}

// settings are the environments of the processes of regcred: the one that is
// measured, and those that are compared with it.
func settings(t *testing.T) [][]string {
	t.Helper()
	all := [][]string{strings.Fields(os.Getenv(envVariable))}
	for part := range strings.SplitSeq(os.Getenv(compareVariable), ";") {
		if variables := strings.Fields(part); len(variables) > 0 {
			all = append(all, variables)
		}
	}
	for _, variable := range slices.Concat(all...) {
		if !strings.Contains(variable, "=") {
			t.Fatalf("%s and %s: %q: want NAME=value", envVariable, compareVariable, variable)
		}
	}
	return all
}

// group is what is measured in turns, because it is compared.
type group struct {
	concurrency int
	things      []thing
}

type thing struct {
	name string
	act  func() error
}

// measure measures all groups in every round. Within a round the things of a
// group take turns, in another order in each, so that none always comes after
// the same one.
func measure(t *testing.T, p plan, groups []group) []Series {
	t.Helper()
	var all []Series
	for _, g := range groups {
		for _, thing := range g.things {
			all = append(all, Series{Name: thing.name, Concurrency: g.concurrency})
		}
	}
	for round := range p.rounds {
		began := time.Now()
		rest := all
		for _, g := range groups {
			for i, r := range measureRound(t, p, g) {
				rest[i].Rounds = append(rest[i].Rounds, r)
			}
			rest = rest[len(g.things):]
		}
		t.Logf("round %d of %d: %.0f s", round+1, p.rounds, time.Since(began).Seconds())
	}
	return all
}

func measureRound(t *testing.T, p plan, g group) []Round {
	t.Helper()
	n := len(g.things)
	took, elapsed := make([][]time.Duration, n), make([]time.Duration, n)
	for range p.turns {
		for _, i := range rand.Perm(n) {
			mine, all := run(t, g.concurrency, p.slice, g.things[i].act)
			took[i] = append(took[i], mine...)
			elapsed[i] += all
		}
	}
	rounds := make([]Round, n)
	for i := range n {
		rounds[i] = summary(took[i], elapsed[i])
	}
	return rounds
}
