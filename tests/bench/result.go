// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Result is the result of one run.
type Result struct {
	Machine Machine  `json:"machine"`
	Run     Run      `json:"run"`
	Ratios  []Ratio  `json:"ratios"`
	Series  []Series `json:"series"`
	Memory  Memory   `json:"memory"`
}

// Machine is what the figures depend on.
type Machine struct {
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	Cores  int    `json:"cores"`
	Go     string `json:"go"` // that built the plugins
	Vault  string `json:"vault"`
	SDK    string `json:"vault_sdk"`
	Plugin string `json:"plugin"`

	Env     []string   `json:"plugin_environment,omitempty"` // variables of regcred's processes beside the usual ones
	Compare [][]string `json:"compared_environments,omitempty"`
}

// Run is how long and how often was measured.
type Run struct {
	Size    string    `json:"size"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	Rounds  int       `json:"rounds"`
	Roles   []int     `json:"roles,omitempty"` // numbers of roles for which reads were measured
}

// short reports whether the run shows only that the measurement works.
func (r Run) short() bool { return r.Size == "short" }

// Series is one thing that was measured in every round.
type Series struct {
	Name        string  `json:"name"`
	Concurrency int     `json:"concurrency"`
	Rounds      []Round `json:"rounds"`
}

// Round is the figures of one round.
type Round struct {
	Requests  int     `json:"requests"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	PerSecond float64 `json:"per_second"`
}

// figure is one of the figures of a round.
type figure func(Round) float64

func p50(r Round) float64       { return r.P50 }
func p99(r Round) float64       { return r.P99 }
func perSecond(r Round) float64 { return r.PerSecond }

// Memory is the resident memory of a plugin process of its own, in bytes.
type Memory struct {
	Idle  int64 `json:"idle"`
	Roles int   `json:"roles"`
	Read  int64 `json:"read"`  // after Roles roles were read once each
	Twice int64 `json:"twice"` // after twice as many roles
}

// summary returns the figures of a round: took is the duration of each request,
// in any order, and elapsed the time in which all were made.
func summary(took []time.Duration, elapsed time.Duration) Round {
	if len(took) == 0 {
		return Round{}
	}
	slices.Sort(took)
	return Round{
		Requests:  len(took),
		P50:       milliseconds(percentile(took, 50)),
		P99:       milliseconds(percentile(took, 99)),
		PerSecond: float64(len(took)) / elapsed.Seconds(),
	}
}

// percentile returns the smallest value that at least p of 100 values do not
// exceed (nearest rank).
func percentile(sorted []time.Duration, p int) time.Duration {
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// median returns the median of one figure over the rounds.
func (s Series) median(of figure) float64 {
	var values []float64
	for _, r := range s.Rounds {
		values = append(values, of(r))
	}
	return median(values)
}

// find returns the series with a name and concurrency; where there is none, one
// without rounds.
func (r *Result) find(name string, concurrency int) Series {
	for _, s := range r.Series {
		if s.Name == name && s.Concurrency == concurrency {
			return s
		}
	}
	return Series{}
}

// Write writes the result as JSON.
func (r *Result) Write(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// Read reads a file that [Result.Write] wrote.
func Read(file string) (*Result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(Result)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}
