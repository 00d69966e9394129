// SPDX-License-Identifier: MPL-2.0

package backend

import "time"

const (
	// A registry that does not answer is left alone for firstPause, and then
	// twice as long each time, up to lastPause, or for as long as it asks for. After
	// each pause one call tries it.
	firstPause = 5 * time.Second
	lastPause  = 30 * time.Second

	// longestWait caps Retry-After.
	longestWait = time.Hour

	// errorsTolerated is how many times in a row a registry may answer that it
	// fails (5xx, 429) before it is left alone: it may fail for one role only.
	errorsTolerated = 3
)

// pause is for how long a registry is left alone. It is zero for one that answers.
type pause struct {
	failures  int       // in a row
	since     time.Time // when the first of them was
	status    int       // of the last answer; 0 if there was none
	failedAt  time.Time
	notedAt   time.Time // the same, of the process
	length    time.Duration
	lastError string
	isTried   bool // by a call after the pause
}

// until returns when the pause ends. If the clock went back, it is over.
func (p *pause) until(now time.Time) time.Time {
	if now.Before(p.failedAt) {
		return now
	}
	return p.failedAt.Add(p.length)
}

func (p *pause) clear() { *p = pause{isTried: p.isTried} }

func (p *pause) isOver(now time.Time) bool { return !p.until(now).After(now) }
