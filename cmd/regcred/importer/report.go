// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// shownNames is how many names a line has.
const shownNames = 3

// few joins the first names of a list.
func few(names []string) string {
	if len(names) <= shownNames+1 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shownNames], ", "), len(names)-shownNames)
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// report writes text, and keeps the first error.
type report struct {
	out io.Writer
	err error
}

func (r *report) line(format string, args ...any) {
	if r.err == nil {
		_, r.err = fmt.Fprintf(r.out, format+"\n", args...)
	}
}

// section writes rows under a title, unless there are none.
func (r *report) section(title string, rows [][]string, advice string) {
	if len(rows) == 0 || r.err != nil {
		return
	}
	r.line("\n%s", title)
	table := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(table, "  "+strings.Join(row, "\t")); err != nil && r.err == nil {
			r.err = err
		}
	}
	if err := table.Flush(); err != nil && r.err == nil {
		r.err = err
	}
	if advice != "" {
		r.line("  %s", advice)
	}
}

// rows returns the roles with an action, with their sources and the reason.
func (p *plan) rows(actions ...action) (rows [][]string) {
	for _, role := range p.Roles {
		for _, a := range actions {
			if role.Action != a {
				continue
			}
			from := "from " + p.names(role.Sources)
			if role.Why != "" { // is long, and so comes last
				rows = append(rows, []string{role.Role, from, role.Why})
			} else {
				rows = append(rows, []string{role.Role, few(role.Registries), from})
			}
		}
	}
	return rows
}

func (p *plan) names(sources []string) string {
	if p.o.verbose {
		return strings.Join(sources, ", ")
	}
	return few(sources)
}

// writePlan writes what would be done.
func (p *plan) writePlan(out io.Writer) error {
	r := &report{out: out}
	r.line("Import of %s into %s/", p.From, p.Mount)
	r.section("Roles to create:", p.rows(actionCreate), "")
	r.section("Roles to change, because -overwrite names them:", p.rows(actionUpdate), "")
	if p.o.verbose {
		r.section("Roles that have the same content already:", p.rows(actionUnchanged), "")
	}
	r.section("Roles with other content, which stay as they are:", p.rows(actionKept), "If a role is right, nothing is to be done. To have it changed to what the source has, name it with -overwrite.")
	r.section("Clashes, of which no role is written:", p.rows(actionClash), "Give the sources different names, with -name or a rule.")
	var rows [][]string
	for _, l := range p.LeftOut {
		rows = append(rows, []string{l.Source, l.Why})
	}
	r.section("Left out:", rows, "")
	if len(p.Notes) > 0 {
		r.line("\nNotes:")
	}
	for _, n := range p.Notes {
		r.line("  %s", n.Text)
		if n.Sources != nil {
			r.line("    in %s", p.names(n.Sources))
		}
	}
	r.line("\n%s", p.summary())
	if toWrite := p.count(actionCreate) + p.count(actionUpdate); toWrite > 0 && !p.o.apply {
		r.line("Nothing was written. Add -apply to carry this out.")
	}
	return r.err
}

// summary counts what was found and is to do.
func (p *plan) summary() string {
	what := counted(len(p.sources), "secret", "secrets")
	if p.o.kind == kindSecrets {
		what = counted(len(p.sources), "Secret", "Secrets")
	}
	var parts []string
	for _, c := range []struct {
		a    action
		text string
	}{
		{actionCreate, "to create"}, {actionUpdate, "to change"}, {actionUnchanged, "unchanged"}, {actionKept, "with other content"},
	} {
		if n := p.count(c.a); n > 0 {
			parts = append(parts, counted(n, "role ", "roles ")+c.text)
		}
	}
	if n := p.count(actionClash); n > 0 {
		parts = append(parts, counted(n, "clash", "clashes"))
	}
	if n := len(p.LeftOut); n > 0 {
		parts = append(parts, fmt.Sprintf("%d left out", n))
	}
	if parts == nil {
		return what
	}
	return what + ": " + strings.Join(parts, ", ")
}

// writeResult writes what was done, and the comparison.
func (p *plan) writeResult(out io.Writer) error {
	r := &report{out: out}
	if p.Applied {
		r.section("Refused:", p.rows(actionFailed), "")
		done := fmt.Sprintf("%s created, %d changed", counted(p.count(actionCreated), "role", "roles"), p.count(actionUpdated))
		if left := p.count(actionCreate) + p.count(actionUpdate); left > 0 {
			done += fmt.Sprintf(", %d still to do: run the import again", left)
		}
		if n := p.count(actionFailed); n > 0 {
			done += fmt.Sprintf(", %d refused", n)
		}
		r.line("%s.", done)
	}
	c := p.Comparison
	if c == nil || c.Sources == 0 {
		return r.err
	}
	place, source := "folder", "secrets"
	if p.o.kind == kindSecrets {
		place, source = "namespace", "Secrets"
	}
	r.line("\nCompared, what each %s pulls with before and after:", place)
	r.line("  the same registries and credentials in %d of %s, %d of %d %s", c.SamePlaces, counted(c.Places, place, place+"s"), c.SameSources, c.Sources, source)
	if c.Respelled > 0 {
		r.line("  of which %s spelled otherwise before; -v says how", counted(c.Respelled, "registry was", "registries were"))
	}
	var rows [][]string
	for _, d := range c.Differences {
		row := []string{d.Source, d.Registry, d.What}
		if d.Role != "" {
			row[2] += " (role " + d.Role + ")"
		}
		rows = append(rows, row)
	}
	r.section("Not the same:", rows, "")
	return r.err
}

// writeJSON writes everything as one JSON object.
func (p *plan) writeJSON(out io.Writer) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(p)
}
