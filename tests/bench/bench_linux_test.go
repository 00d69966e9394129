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

// Environment variables of a run, which "make bench" passes on.
const (
	// sizeVariable is one of: "full"; "short", which shows in less than a
	// minute that the measurement works; "requests", which leaves out what
	// takes long to write; "many", which has all roles and less of everything
	// else.
	sizeVariable = "BENCH"

	// envVariable holds variables for regcred's processes: "GOGC=400
	// GOMAXPROCS=1".
	envVariable = "BENCH_ENV"

	// compareVariable holds variables for further processes of regcred,
	// separated by semicolons: "GOGC=400; GOGC=400 GOMAXPROCS=1". Each process
	// is compared with the one that has envVariable.
	compareVariable = "BENCH_COMPARE"
)

// plan is how much is measured.
type plan struct {
	rounds, turns int
	slice         time.Duration // of one thing in one turn
	roles         []int         // numbers of roles, ascending; each in a mount of its own
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
	// The client's garbage collector would take time from the cores that are
	// measured.
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// TestBench measures, prints the result and writes it to .bench/result.json. It
// fails if something cannot be measured, and never because of a figure.
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

// settings are the environments of the processes of regcred: first the one that
// is measured, then those that are compared with it.
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

// group is a set of things that are compared, and so measured in turns.
type group struct {
	concurrency int
	things      []thing
}

type thing struct {
	name string
	act  func() error
}

// measure measures all groups in every round. In each round the things of a
// group take turns in another order, so that none always follows the same one.
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
