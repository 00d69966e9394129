// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"fmt"
	"slices"
	"strings"
)

// Document puts the result into a page: each part between its lines "<!-- begin
// NAME -->" and "<!-- end NAME -->".
func (r *Result) Document(page string) (string, error) {
	if r.Run.Size != "full" {
		return "", fmt.Errorf("the result is of a run of size %q: the page shows those of \"make bench\" without BENCH", r.Run.Size)
	}
	targets := slices.DeleteFunc(slices.Clone(r.Ratios), func(ratio Ratio) bool { return ratio.Target == nil })
	others := slices.DeleteFunc(slices.Clone(r.Ratios), func(ratio Ratio) bool { return ratio.Target != nil })
	for _, part := range []struct{ name, text string }{
		{"run", r.summary() + ".\n"},
		{"targets", markdown(ratioRows(targets))},
		{"ratios", markdown(ratioRows(others))},
		{"memory", r.Memory.String() + "\n"},
		{"figures", markdown(r.seriesRows())},
	} {
		before, rest, began := strings.Cut(page, "<!-- begin "+part.name+" -->\n")
		_, after, ended := strings.Cut(rest, "<!-- end "+part.name+" -->\n")
		if !began || !ended {
			return "", fmt.Errorf("the page has no <!-- begin %[1]s --> with an <!-- end %[1]s --> after it", part.name)
		}
		page = before + "<!-- begin " + part.name + " -->\n" + part.text + "<!-- end " + part.name + " -->\n" + after
	}
	return page, nil
}
