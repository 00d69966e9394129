// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"errors"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

// limited is a test with a time limit of its own.
type limited struct {
	testing.TB
	deadline time.Time
	ok       bool
}

// Deadline is that of [testing.T].
func (l limited) Deadline() (deadline time.Time, ok bool) { return l.deadline, l.ok }

func TestWaitingEndsAMinuteBeforeTheTest(t *testing.T) {
	t.Parallel()
	deadline := time.Now().Add(24 * time.Hour)
	if got, want := servers.Limit(limited{t, deadline, true}), deadline.Add(-time.Minute); !got.Equal(want) {
		t.Errorf("limit of a test until %s: want %s, got %s", deadline, want, got)
	}
}

func TestWaitingGoesOnInATestWithoutALimit(t *testing.T) {
	t.Parallel()
	for name, without := range map[string]testing.TB{"no limit": limited{TB: t}, "no method": struct{ testing.TB }{t}} {
		if got := servers.Limit(without); time.Until(got) < time.Hour {
			t.Errorf("%s: want to wait for hours, got %s", name, got)
		}
	}
}

func TestWaitingReturnsTheLastError(t *testing.T) {
	t.Parallel()
	var last error
	got := servers.TryUntil(time.Now(), func() error {
		last = errors.Join(last, errors.New("not yet"))
		return last
	})
	if !errors.Is(got, last) || last == nil {
		t.Errorf("want the last error %v, got %v", last, got)
	}
	checks := 0
	if err := servers.TryUntil(time.Now().Add(24*time.Hour), func() error {
		if checks++; checks < 3 {
			return errors.New("not yet")
		}
		return nil
	}); err != nil || checks != 3 {
		t.Errorf("want no error after 3 checks, got %v after %d", err, checks)
	}
}
