// SPDX-License-Identifier: MPL-2.0

package issuer

import "time"

const day = 24 * time.Hour

// WholeDays returns the time from now until then in days, rounded up, and at
// least 1.
func WholeDays(now, then time.Time) int {
	left := then.Sub(now)
	return max(1, int((left+day-1)/day))
}

// CoveringDate returns the first midnight (UTC) that is not before then, for
// registries whose credentials end at the start of a day.
func CoveringDate(then time.Time) time.Time {
	midnight := then.UTC().Truncate(day)
	if midnight.Before(then) {
		midnight = midnight.Add(day)
	}
	return midnight
}
