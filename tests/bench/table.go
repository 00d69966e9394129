// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Print writes the result as text for a terminal.
func (r *Result) Print(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", r.summary())
	if r.Run.short() {
		fmt.Fprintf(w, "A short run: it shows that the measurement works. Its figures mean nothing.\n\n")
	}
	columns(w, ratioRows(r.Ratios))
	fmt.Fprintln(w)
	columns(w, r.seriesRows())
	if r.Memory.Roles > 0 {
		fmt.Fprintf(w, "\n%s\n", r.Memory)
	}
}

// summary returns the versions and the machine of a run, in one line.
func (r *Result) summary() string {
	m := r.Machine
	text := fmt.Sprintf("regcred %s on Vault %s, %d cores (%s/%s), plugins built with %s and Vault's SDK %s; %d rounds, %s",
		m.Plugin, m.Vault, m.Cores, m.OS, m.Arch, strings.Replace(m.Go, "go", "Go ", 1), m.SDK, r.Run.Rounds, r.Run.Began.UTC().Format("2006-01-02"))
	if len(m.Env) > 0 {
		text += "; environment of regcred: " + strings.Join(m.Env, " ")
	}
	return text
}

func ratioRows(ratios []Ratio) [][]string {
	rows := [][]string{{"what", "concurrency", "figure", "ratio", "rounds", "target", ""}}
	for _, ratio := range ratios {
		rows = append(rows, ratio.row())
	}
	return rows
}

func (r Ratio) row() []string {
	concurrency, value, rounds, target, met := strconv.Itoa(r.Concurrency), fmt.Sprintf("%.3f×", r.Value), times(r.Low)+" – "+times(r.High), "", ""
	if r.Figure == "MiB" {
		concurrency, value, rounds = "", fmt.Sprintf("%.1f MiB", r.Value), ""
	}
	if r.Target != nil {
		target, met = r.target(), "missed"
		if r.Met() {
			met = "met"
		}
	}
	return []string{r.What, concurrency, r.Figure, value, rounds, target, met}
}

func (r Ratio) target() string {
	sign, limit := "≤", times(r.Target.Limit)
	if r.Target.AtLeast {
		sign = "≥"
	}
	if r.Figure == "MiB" {
		limit = fmt.Sprintf("%.0f MiB", r.Target.Limit)
	}
	return sign + " " + limit
}

func (r *Result) seriesRows() [][]string {
	rows := [][]string{{"what", "concurrency", "p50", "p99", "per second"}}
	for _, s := range r.Series {
		rows = append(rows, []string{
			s.Name, strconv.Itoa(s.Concurrency),
			fmt.Sprintf("%.2f ms", s.median(p50)), fmt.Sprintf("%.2f ms", s.median(p99)), fmt.Sprintf("%.0f", s.median(perSecond)),
		})
	}
	return rows
}

// String describes the memory of the plugin's process.
func (m Memory) String() string {
	return fmt.Sprintf("Resident memory of the plugin: %.1f MiB idle, %.1f MiB after %s roles were read, %.1f MiB after %s.",
		mebibytes(m.Idle), mebibytes(m.Read), count(m.Roles), mebibytes(m.Twice), count(2*m.Roles))
}

func times(ratio float64) string { return fmt.Sprintf("%.2f×", ratio) }

// count formats a number with commas.
func count(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func columns(w io.Writer, rows [][]string) {
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	_ = table.Flush()
}

// markdown formats rows, of which the first is the heading.
func markdown(rows [][]string) string {
	var text strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&text, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			text.WriteString(strings.Repeat("|---", len(row)) + "|\n")
		}
	}
	return text.String()
}
