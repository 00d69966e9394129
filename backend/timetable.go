// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"container/heap"
	"slices"
	"sync"
	"time"
)

// timetable has when each role is to be verified next. It is in memory only, and small:
// a mount may have 100,000 roles. The same appointment may be in it several times, and a
// role that was deleted may still have one: whoever takes it looks at the role.
type timetable struct {
	mu           sync.Mutex
	filled       bool
	wasFilled    bool
	appointments appointments
	tidyAt       int // the number of appointments at which those that are there twice are removed
	lookedAt     time.Time
	openUntil    time.Time // until when appointments are taken
}

// tidyFrom is how many appointments are kept at least before any are removed.
const tidyFrom = 1000

// appointment is a role that is to be verified at a time, in Unix seconds.
type appointment struct {
	at   int64
	name string
}

func (a appointment) time() time.Time { return time.Unix(a.at, 0) }

func (a appointment) compare(other appointment) int {
	return cmp.Or(cmp.Compare(a.at, other.at), cmp.Compare(a.name, other.name))
}

// open has appointments taken until a time, and reports whether the timetable is to be
// filled: at the start, when it was forgotten, and after the clock has gone back. What is
// in it until then stays in it. isStart tells a start from other reasons.
func (t *timetable) open(now, until time.Time) (toFill, isStart bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wentBack := now.Before(t.lookedAt.Add(-clockSkew))
	t.lookedAt, t.openUntil = now, until
	if t.filled && !wentBack {
		return false, false
	}
	isStart, t.wasFilled = !t.wasFilled, true
	t.filled = true // before storage is read, so that no change is missed
	t.appointments = slices.DeleteFunc(t.appointments, func(a appointment) bool { return a.time().After(until) })
	heap.Init(&t.appointments)
	return true, isStart
}

// forget has the timetable filled anew.
func (t *timetable) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.filled = false
}

// add adds many appointments.
func (t *timetable) add(all appointments) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.appointments = append(t.appointments, all...)
	t.tidy()
}

// tidy removes what is there twice: a role that is verified out of turn, for as long as
// its registry is away, has its next turn each time. t.mu is held.
func (t *timetable) tidy() {
	slices.SortFunc(t.appointments, appointment.compare) // a sorted list is a heap
	t.appointments = slices.Clip(slices.Compact(t.appointments))
	t.tidyAt = max(tidyFrom, 2*len(t.appointments))
}

// push adds an appointment.
func (t *timetable) push(name string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	heap.Push(&t.appointments, appointment{wholeSeconds(at).Unix(), name})
	if len(t.appointments) > max(tidyFrom, t.tidyAt) {
		t.tidy()
	}
}

// take removes and returns the next appointment if it is due by now. Otherwise it says
// how long to wait; false if there is none before the timetable closes.
func (t *timetable) take(now time.Time) (next appointment, wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.appointments) == 0 || t.appointments[0].time().After(t.openUntil) {
		return appointment{}, 0, false
	}
	next = t.appointments[0]
	if wait = next.time().Sub(now); wait > 0 {
		return next, wait, true
	}
	for len(t.appointments) > 0 && t.appointments[0] == next {
		heap.Pop(&t.appointments)
	}
	return next, 0, true
}

// count returns how many appointments there are.
func (t *timetable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.appointments)
}

// appointments implements [heap.Interface], the earliest first.
type appointments []appointment

func (a appointments) Len() int           { return len(a) }
func (a appointments) Less(i, j int) bool { return a[i].compare(a[j]) < 0 }
func (a appointments) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *appointments) Push(x any)        { *a = append(*a, x.(appointment)) }

func (a *appointments) Pop() any {
	last := (*a)[len(*a)-1]
	(*a)[len(*a)-1] = appointment{}
	*a = (*a)[:len(*a)-1]
	return last
}
