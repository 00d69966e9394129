// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

// What a run is given in the environment, which "make bench" passes on.
const (
	sizeVariable = "BENCH"     // "short" shows that it works, in about a minute
	envVariable  = "BENCH_ENV" // variables for regcred's process: "GOGC=400 GOMEMLIMIT=64MiB"
)

// plan says how much is measured.
type plan struct {
	rounds, turns int
	slice         time.Duration // for one thing in one turn
	roles         []int         // numbers of roles, each in a mount of its own
	memory        int           // roles that are read for the memory, and as many again
}

var (
	full = plan{
		rounds: 7, turns: 4, slice: 250 * time.Millisecond,
		roles: []int{10, 100, 1_000, 10_000, 100_000}, memory: 100_000,
	}
	short = plan{
		rounds: 2, turns: 1, slice: 50 * time.Millisecond,
		roles: []int{10, 100, 1_000}, memory: 1_000,
	}
)

func TestMain(m *testing.M) {
	servers.CleanEnv()
	// The client's garbage collector takes from the same cores.
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

// TestBench measures, prints the result and writes it to .bench/result.json. It
// fails if something cannot be measured, never for a figure.
func TestBench(t *testing.T) {
	p := full
	switch size := os.Getenv(sizeVariable); size {
	case "", "full":
	case "short":
		p = short
	default:
		t.Fatalf(`%s=%q: want "short" or "full"`, sizeVariable, size)
	}
	began := time.Now()
	s := newSetup(t, p, strings.Fields(os.Getenv(envVariable)))
	result := &Result{
		Machine: s.machine,
		Run:     Run{Short: p.slice == short.slice, Began: began.UTC().Truncate(time.Second), Rounds: p.rounds, Roles: p.roles, Listed: p.roles[len(p.roles)-1]},
	}
	result.Series = measure(t, p, s.groups())
	result.Memory = s.measureMemory()
	result.Run.Seconds = time.Since(began).Seconds()
	result.compare()

	os.Stdout.WriteString("\n")
	result.Print(os.Stdout)
	file := filepath.Join(servers.Repo(), ".bench", "result.json")
	if err := result.Write(file); err != nil {
		t.Fatal(err)
	}
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
// group take turns, and each turn begins with another one.
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
			for i, r := range measureRound(t, p, g, round) {
				rest[i].Rounds = append(rest[i].Rounds, r)
			}
			rest = rest[len(g.things):]
		}
		t.Logf("round %d of %d: %.0f s", round+1, p.rounds, time.Since(began).Seconds())
	}
	return all
}

func measureRound(t *testing.T, p plan, g group, round int) []Round {
	t.Helper()
	n := len(g.things)
	took, elapsed := make([][]time.Duration, n), make([]time.Duration, n)
	for turn := range p.turns {
		for i := range n {
			i = (i + turn + round*p.turns) % n
			each, all := run(t, g.concurrency, p.slice, g.things[i].act)
			took[i] = append(took[i], each...)
			elapsed[i] += all
		}
	}
	rounds := make([]Round, n)
	for i := range n {
		rounds[i] = summary(took[i], elapsed[i])
	}
	return rounds
}
