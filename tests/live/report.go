// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// step is one that was done.
type step struct {
	name, note string
	took       time.Duration
	err        error
}

// report prints what may be published: types, names of fields, fixed texts and numbers.
// The text of an error may name accounts, so only its kind is in it.
func (t *trial) report() {
	for _, left := range t.left {
		fmt.Fprintf(t.out, "\nLEFT BEHIND: %s\n", left)
	}
	result := "does all that the engine needs"
	switch {
	case errors.Is(t.failed, errStopped):
		result = "stopped by a signal"
	case t.failed != nil:
		result = "FAILED"
	}
	fields := slices.Concat(slices.Sorted(maps.Keys(t.conn.Settings)), slices.Sorted(maps.Keys(t.conn.Secrets)), slices.Sorted(maps.Keys(t.target.Settings)))
	can := t.can()
	fmt.Fprintf(t.out, "\n--- report: no secrets and no names; paste from here ---\ntype        %s\nversion     %s, %s/%s\ndate        %s\nfields      %s\nrepository  %t\nrevoke      %t\nfind        %t\n\n",
		t.kind.Name, version, runtime.GOOS, runtime.GOARCH, time.Now().UTC().Format(time.DateOnly), strings.Join(fields, ", "), t.repository != "", can.Revoke, can.Find)
	for _, s := range t.steps {
		verdict, note := "ok", s.note
		if s.err != nil {
			verdict, note = "FAILED", kindOf(s.err)
		}
		fmt.Fprintln(t.out, strings.TrimRight(fmt.Sprintf("%-6s  %5.1f s  %-30s  %s", verdict, s.took.Seconds(), s.name, note), " "))
	}
	fmt.Fprintf(t.out, "\nresult      %s; %d left behind\n--- end of the report ---\n", result, len(t.left))
}

// kindOf says of an error what has no name in it.
func kindOf(err error) string {
	if !issuer.IsError(err) {
		return "see above"
	}
	kind := fmt.Sprintf("status %d", issuer.StatusOf(err))
	if issuer.IsUnanswered(err) {
		kind = "no answer"
	}
	if issuer.Definite(err) {
		kind += ", definite"
	}
	return kind
}
