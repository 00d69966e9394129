// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"testing"
	"time"
)

const (
	// maxMargin caps the time that a test keeps to stop what it has started and
	// to show why it has failed.
	maxMargin = time.Minute

	// unlimited stands for the time limit of a test that has none.
	unlimited = 24 * time.Hour

	firstPause, maxPause = 5 * time.Millisecond, 250 * time.Millisecond
)

// began is when the test binary started.
var began = time.Now()

// Limit returns the time at which a test must stop waiting: its own time limit
// ("go test -timeout") less a margin. No wait has a shorter limit, because a
// loaded machine can take any time.
func Limit(t testing.TB) time.Time {
	limited, ok := t.(interface{ Deadline() (time.Time, bool) })
	if !ok {
		return time.Now().Add(unlimited)
	}
	deadline, ok := limited.Deadline()
	if !ok {
		return time.Now().Add(unlimited)
	}
	return deadline.Add(-min(maxMargin, deadline.Sub(began)/10))
}

// Eventually calls check until it returns nil. At the [Limit] of the test it
// fails the test with the last error.
func Eventually(t testing.TB, check func() error) {
	t.Helper()
	if err := TryUntil(Limit(t), check); err != nil {
		t.Fatalf("at the test's time limit: %v", err)
	}
}

// TryUntil calls check until it returns nil, or until a time, and returns the
// last error.
func TryUntil(limit time.Time, check func() error) error {
	for pause := firstPause; ; pause = min(pause*3/2, maxPause) {
		err := check()
		if err == nil || time.Now().After(limit) {
			return err
		}
		time.Sleep(pause)
	}
}

// Receive waits for a channel to send or to be closed. At the [Limit] of the
// test it fails the test and says what did not happen.
func Receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(time.Until(Limit(t)))
	defer timer.Stop()
	select {
	case value := <-from:
		return value
	case <-timer.C:
		t.Fatalf("at the test's time limit: %s", what)
		panic("unreachable")
	}
}
