// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSummaryTakesNearestRanks(t *testing.T) {
	var took []time.Duration
	for i := range 200 {
		took = append(took, time.Duration((i*7)%200+1)*time.Millisecond) // 1 to 200, in no order
	}
	want := Round{Requests: 200, P50: 100, P99: 198, PerSecond: 50}
	if diff := cmp.Diff(want, summary(took, 4*time.Second)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = Round{Requests: 1, P50: 3, P99: 3, PerSecond: 1}
	if diff := cmp.Diff(want, summary([]time.Duration{3 * time.Millisecond}, time.Second)); diff != "" {
		t.Errorf("of one request (-want +got):\n%s", diff)
	}
}

// example is a result in which each thing has different figures.
func example() *Result {
	r := &Result{
		Machine: Machine{OS: "linux", Arch: "amd64", Cores: 2, Go: "go1.26.0", Vault: "1.21.0", SDK: "v0.25.1", Plugin: "v0.1.0"},
		Run:     Run{Size: "full", Began: time.Date(2026, 11, 24, 1, 2, 3, 0, time.UTC), Rounds: 3, Roles: []int{10, 100_000}},
		Memory:  Memory{Idle: 40 << 20, Roles: 100_000, Read: 90 << 20, Twice: 105 << 20},
	}
	names := []string{withRoles(10), withRoles(100_000), listOf(regcred), listOf(kv1), listOf(floor)}
	for _, server := range []string{regcred, floor, again} {
		for _, content := range []string{static, bundle, shared} {
			names = append(names, of(server, content))
		}
	}
	for _, server := range []string{kv1, kv2} {
		names = append(names, reads(server, 1), reads(server, 3))
	}
	for i, name := range names {
		for _, concurrency := range concurrencies {
			took := float64(10+i) * float64(concurrency)
			s := Series{Name: name, Concurrency: concurrency}
			for _, busy := range []float64{1, 5, 2} {
				s.Rounds = append(s.Rounds, Round{Requests: 1, P50: took * busy, P99: 2 * took * busy, PerSecond: 1 / (took * busy)})
			}
			r.Series = append(r.Series, s)
		}
	}
	r.compare()
	return r
}

// TestRatioIsMedianOfThoseOfRounds: a busy machine cancels out.
func TestRatioIsMedianOfThoseOfRounds(t *testing.T) {
	a := Series{Concurrency: 4, Rounds: []Round{{P50: 30}, {P50: 6}, {P50: 2}}}
	b := Series{Concurrency: 4, Rounds: []Round{{P50: 10}, {P50: 5}, {P50: 1}}}
	want := Ratio{What: "a against b", Concurrency: 4, Figure: "p50", Value: 2, Low: 1.2, High: 3, Target: atMost(2)}
	got := ratio("a against b", "p50", atMost(2), p50, a, b)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTargetIsMetAtItsLimit(t *testing.T) {
	for _, c := range []struct {
		value  float64
		target *Target
		want   bool
	}{
		{1.05, atMost(1.05), true},
		{1.06, atMost(1.05), false},
		{0.5, atMost(1.05), true},
		{0.92, &Target{Limit: 0.92, AtLeast: true}, true},
		{0.91, &Target{Limit: 0.92, AtLeast: true}, false},
		{2, &Target{Limit: 0.92, AtLeast: true}, true},
	} {
		if got := (Ratio{Value: c.value, Target: c.target}).Met(); got != c.want {
			t.Errorf("%v of %+v: want %v, got %v", c.value, *c.target, c.want, got)
		}
	}
}

// TestTargetsAreThoseThatWereSet: each target compares the right two things.
func TestTargetsAreThoseThatWereSet(t *testing.T) {
	r := example()
	p := func(name string) float64 { return r.find(name, 1).Rounds[0].P50 }
	want := []Ratio{
		{What: "static role against the floor", Concurrency: 1, Figure: "p50", Value: p(of(regcred, static)) / p(of(floor, static)), Target: atMost(1.05)},
		{What: "static role against the floor", Concurrency: 32, Figure: "throughput", Value: p(of(floor, static)) / p(of(regcred, static)), Target: &Target{Limit: 0.92, AtLeast: true}},
		{What: "shared role against the floor", Concurrency: 1, Figure: "p50", Value: p(of(regcred, shared)) / p(of(floor, shared)), Target: atMost(1.15)},
		{What: "bundle of 3 against the floor", Concurrency: 1, Figure: "p50", Value: p(of(regcred, bundle)) / p(of(floor, bundle)), Target: atMost(1.05)},
		{What: "bundle of 3 against 3 reads of KV version 2 in sequence", Concurrency: 1, Figure: "p50", Value: p(of(regcred, bundle)) / p(reads(kv2, 3)), Target: atMost(1)},
		{What: "read with 100,000 roles against 10", Concurrency: 1, Figure: "p50", Value: p(withRoles(100_000)) / p(withRoles(10)), Target: atMost(1.05)},
		{What: "list of 100,000 roles against the floor", Concurrency: 1, Figure: "p50", Value: p(listOf(regcred)) / p(listOf(floor)), Target: atMost(1.05)},
		{What: "list of 100,000 roles against KV version 1", Concurrency: 1, Figure: "p50", Value: p(listOf(regcred)) / p(listOf(kv1)), Target: atMost(1.5)},
		{What: "memory after 100,000 roles were read, over idle", Figure: "MiB", Value: 50, Target: atMost(64)},
		{What: "memory after 200,000 roles were read, over idle", Figure: "MiB", Value: 65, Target: atMost(64)},
	}
	var got []Ratio
	for _, ratio := range r.Ratios {
		if ratio.Target != nil {
			got = append(got, ratio)
		}
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b float64) bool { return a-b < 1e-9 && b-a < 1e-9 }), cmp.FilterPath(func(p cmp.Path) bool {
		return p.Last().String() == ".Low" || p.Last().String() == ".High"
	}, cmp.Ignore())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, ratio := range r.Ratios {
		if ratio.Value == 0 {
			t.Errorf("%s, %s at concurrency %d: something that it compares is not measured", ratio.What, ratio.Figure, ratio.Concurrency)
		}
	}
}

func TestWrittenResultIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "new", "result.json")
	want := example()
	if err := want.Write(file); err != nil {
		t.Fatal(err)
	}
	got, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}

func TestDocumentReplacesWhatStandsBetweenItsLines(t *testing.T) {
	page := "# Page\n"
	for _, name := range []string{"run", "targets", "memory", "ratios", "figures"} {
		page += "\n<!-- begin " + name + " -->\nof the last run\n<!-- end " + name + " -->\n\ntext\n"
	}
	r := example()
	got, err := r.Document(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# Page\n\n<!-- begin run -->\nregcred v0.1.0 on Vault 1.21.0, 2 cores (linux/amd64), plugins built with Go 1.26.0 and Vault's SDK v0.25.1; 3 rounds, 2026-11-24.\n<!-- end run -->\n\ntext\n",
		"| what | concurrency | figure | ratio | rounds | target |  |\n|---|---|---|---|---|---|---|\n",
		"| bundle of 3 against 3 reads of KV version 2 in sequence | 1 | p50 | 0.593× | 0.59× – 0.59× | ≤ 1.00× | met |\n", // names 6 and 17: 16/27
		"| memory after 100,000 roles were read, over idle |  | MiB | 50.0 MiB |  | ≤ 64 MiB | met |\n",
		"| memory after 200,000 roles were read, over idle |  | MiB | 65.0 MiB |  | ≤ 64 MiB | missed |\n",
		"| regcred: list | 32 | 768.00 ms | 1536.00 ms | 0 |\n", // 12 at concurrency 32, in the round in the middle
	} {
		if !strings.Contains(got, want) {
			t.Errorf("want in it:\n%s\ngot:\n%s", want, got)
		}
	}
	if strings.Contains(got, "of the last run") {
		t.Errorf("the former text must go:\n%s", got)
	}
	if again, err := r.Document(got); err != nil || again != got {
		t.Errorf("the second time must change nothing: %v\n%s", err, cmp.Diff(got, again))
	}
}

// TestPageHasPlaceForResult checks docs/performance.md itself.
func TestPageHasPlaceForResult(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := example().Document(string(page)); err != nil {
		t.Error(err)
	}
}

func TestDocumentRefusesShortRunAndPageWithoutPlace(t *testing.T) {
	r := example()
	if _, err := r.Document("# Page\n"); err == nil {
		t.Error("want an error for a page without places")
	}
	r.Run.Size = "short"
	if _, err := r.Document("# Page\n"); err == nil || !strings.Contains(err.Error(), `"short"`) {
		t.Errorf("want an error that names the size, got %v", err)
	}
}

func TestPlotDrawsEachNumberOfRoles(t *testing.T) {
	svg, err := example().Plot()
	if err != nil {
		t.Fatal(err)
	}
	var circles, floors int
	var text strings.Builder
	for decoder := xml.NewDecoder(strings.NewReader(string(svg))); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("not XML: %v\n%s", err, svg)
		}
		switch token := token.(type) {
		case xml.StartElement:
			switch class := attribute(token, "class"); {
			case token.Name.Local == "circle":
				circles++
			case token.Name.Local == "path" && strings.HasPrefix(class, "floor "):
				floors++
			}
		case xml.CharData:
			text.Write(token)
		}
	}
	if circles != 4 {
		t.Errorf("want p50 and p99 of two numbers of roles, got %d circles", circles)
	}
	if floors != 2 {
		t.Errorf("want p50 and p99 of the floor, got %d lines", floors)
	}
	// The round in the middle has 10 and 11, times 2.
	for _, want := range []string{"p50: 20.00 ms with 10, 22.00 ms with 100,000; the floor, dashed: 36.00 ms.", "p99: 40.00 ms with 10, 44.00 ms with 100,000; the floor, dashed: 72.00 ms.", "100,000\n", "80 ms", "floor, p50\n", "floor, p99\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("want %q in the text, got:\n%s", want, text.String())
		}
	}
	if _, err := (&Result{}).Plot(); err == nil {
		t.Error("want an error where there is nothing to draw")
	}
}

func attribute(element xml.StartElement, name string) string {
	for _, a := range element.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
