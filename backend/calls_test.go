// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// enters makes calls to a registry until none may be made any more, and returns how
// many there are, and how they end.
func enters(ctx context.Context, t *testing.T, c *calls, registry string) (count int, leave func()) {
	t.Helper()
	var leaves []func(error)
	for {
		limited, cancel := context.WithTimeout(ctx, time.Second)
		left, err := c.enter(limited, registry)
		cancel()
		if err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			return len(leaves), func() {
				for _, l := range leaves {
					l(nil)
				}
			}
		}
		leaves = append(leaves, left)
	}
}

func newTestCalls() *calls { return newCalls(time.Now) }

func TestCallsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCalls()
		cleaner := withUrgency(t.Context(), cleaning)
		cleaned, leave := enters(cleaner, t, c, "a")
		checkSame(t, "calls that clean up", callsPerRegistry/2, cleaned)
		others, leaveOthers := enters(t.Context(), t, c, "a")
		checkSame(t, "other calls", callsPerRegistry/2, others)
		leaveOthers()
		leave()

		total := 0
		for _, registry := range []string{"a", "b", "c", "d", "e"} {
			count, _ := enters(t.Context(), t, c, registry)
			total += count
		}
		checkSame(t, "calls of the mount", callsAtOnce, total)
	})
}

func TestLanesThatSayNothingAreForgotten(t *testing.T) {
	c := newTestCalls()
	leave, err := c.enter(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	leave(nil)
	checkSame(t, "lanes", 0, len(c.lanes))
}

// Whoever may write roles can have any number of hosts asked that do not answer.
func TestLanesAreNotRememberedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCalls()
		fail := func(registry string) {
			leave, err := c.enter(t.Context(), registry)
			if err != nil {
				t.Fatal(err)
			}
			leave(errDown)
		}
		for i := range 10 * rememberedLanes {
			fail(fmt.Sprint("host", i))
			time.Sleep(10 * time.Millisecond)
		}
		if n := len(c.lanes); n > 2*rememberedLanes {
			t.Errorf("want at most %d lanes, got %d", 2*rememberedLanes, n)
		}
		fail("a")
		for i := range 2 * rememberedLanes {
			fail(fmt.Sprint("another", i))
		}
		checkSame(t, "called during its pause", false, called(t, c, urgent, nil))
	})
}

// called makes one call, and says whether it was made.
func called(t *testing.T, c *calls, u urgency, result error) bool {
	t.Helper()
	leave, err := c.enter(withUrgency(t.Context(), u), "a")
	if left := (leftAloneError{}); errors.As(err, &left) {
		checkSame(t, "status", http.StatusBadGateway, left.Code())
		return false
	} else if err != nil {
		t.Fatal(err)
	}
	leave(result)
	return true
}

func TestPauses(t *testing.T) {
	tooMany := func(after string) error {
		return issuer.StatusError(http.StatusTooManyRequests, http.Header{"Retry-After": {after}}, "")
	}
	for name, c := range map[string]struct {
		failure error
		times   int // until the registry is left alone
		pause   time.Duration
	}{
		"no answer":                 {errDown, 1, firstPause},
		"no answer, twice":          {errDown, 2, firstPause},
		"an error":                  {errAmbiguous, errorsTolerated, firstPause},
		"too many calls":            {tooMany("90"), 1, 90 * time.Second},
		"too many, without a time":  {tooMany(""), errorsTolerated, firstPause},
		"too many, for a long time": {tooMany("999999"), 1, longestWait},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := newTestCalls()
				for range c.times {
					called(t, calls, asked, c.failure)
				}
				if c.times == 2 {
					c.pause *= 2
				}
				time.Sleep(c.pause - time.Second)
				checkSame(t, "called during the pause", false, called(t, calls, urgent, nil))
				time.Sleep(time.Second)
				checkSame(t, "called after the pause", true, called(t, calls, cleaning, nil))
				checkSame(t, "called after a success", true, called(t, calls, urgent, nil))
			})
		})
	}
}

func TestRefusalIsNoReasonForAPause(t *testing.T) {
	c := newTestCalls()
	for range 10 {
		checkSame(t, "called", true, called(t, c, urgent, errRefused))
		checkSame(t, "called", true, called(t, c, urgent, errors.New("of storage")))
	}
}

// After a pause one call tries the registry. Others do not wait for it.
func TestOneCallTriesAfterAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCalls()
		called(t, c, urgent, errDown)
		time.Sleep(firstPause)
		leave, err := c.enter(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, "a second call", false, called(t, c, urgent, nil))
		leave(errNotCalled) // says nothing
		checkSame(t, "the next call", true, called(t, c, urgent, nil))
	})
}

func TestClockThatGoesBackEndsAPause(t *testing.T) {
	clock := &clock{at: noon}
	c := newCalls(clock.now)
	called(t, c, urgent, errDown)
	clock.advance(-time.Hour)
	checkSame(t, "called", true, called(t, c, urgent, nil))
}

// A request waits longer for a registry that is known to be slow, and for one that
// answers others.
func TestPatience(t *testing.T) {
	for name, c := range map[string]struct {
		slow    time.Duration // of the answer before
		answers time.Duration // how often others are answered while it waits
		waits   time.Duration
	}{
		"nothing known":    {0, 0, firstPatience},
		"slow":             {3 * time.Second, 0, 6 * time.Second},
		"very slow":        {20 * time.Second, 0, lastPatience},
		"answers others":   {0, time.Second, 5*time.Second + firstPatience},
		"too late for one": {0, 2 * time.Second, firstPatience},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := newTestCalls()
				l := calls.join("a")
				defer calls.part(l)
				calls.record(l, urgent, nil, c.slow)
				time.Sleep(time.Hour)
				go func() {
					for range 5 {
						if c.answers > 0 {
							time.Sleep(c.answers)
							calls.record(l, urgent, nil, 0)
						}
					}
				}()
				began := time.Now()
				err := calls.wait(t.Context(), "a", &progress{}, make(chan struct{}))
				checkSame(t, "waits", c.waits, time.Since(began))
				var none noAnswerYetError
				if !errors.As(err, &none) || none.Code() != http.StatusServiceUnavailable {
					t.Errorf("want status 503, got %v", err)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// Calls that were in progress together when a registry ceased to answer are one
// failure.
func TestCallsThatFailTogetherAreOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCalls()
		var leaves []func(error)
		for range callsPerRegistry {
			leave, err := c.enter(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, leave)
		}
		time.Sleep(issuer.CallTimeout)
		for _, leave := range leaves {
			leave(errDown)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(firstPause)
		checkSame(t, "called after the first pause", true, called(t, c, urgent, errDown))
		time.Sleep(firstPause)
		checkSame(t, "called during the second pause", false, called(t, c, urgent, nil))
		time.Sleep(firstPause)
		checkSame(t, "called after the second pause", true, called(t, c, urgent, nil))
	})
}

// A registry that takes long to end something may answer all else at once.
func TestRequestWaitsWhileSomethingIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCalls()
		leave, err := c.enter(withUrgency(t.Context(), cleaning), "a")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * firstPatience)
		done := make(chan struct{})
		time.AfterFunc(firstPatience/2, func() { close(done) })
		if err := c.wait(t.Context(), "a", &progress{}, done); err != nil {
			t.Errorf("want the answer, got %v", err)
		}
		leave(nil)
	})
}

// A registry that answers that it cannot end something still mints.
func TestFailuresToEndSomethingDoNotDelayWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCalls()
		for range errorsTolerated {
			called(t, c, cleaning, errAmbiguous)
		}
		checkSame(t, "cleaned up during the pause", false, called(t, c, cleaning, nil))
		checkSame(t, "called during the pause", true, called(t, c, urgent, nil))
		time.Sleep(firstPause)
		checkSame(t, "cleaned up after the pause", true, called(t, c, cleaning, errAmbiguous))
		checkSame(t, "cleaned up during the next pause", false, called(t, c, cleaning, nil))
		time.Sleep(2 * firstPause)
		checkSame(t, "cleaned up after the next pause", true, called(t, c, cleaning, nil))
		checkSame(t, "cleaned up after a success", true, called(t, c, cleaning, nil))

		called(t, c, cleaning, errDown)
		checkSame(t, "called where nothing is answered", false, called(t, c, urgent, nil))
		checkSame(t, "cleaned up where nothing is answered", false, called(t, c, cleaning, nil))
	})
}

// Requests that come while a registry owes an answer do not each wait as long again:
// Vault reloads mounts one after the other.
func TestLaterRequestsDoNotWaitAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCalls()
		leave, err := c.enter(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		const later = firstPatience / 2
		for _, wait := range []time.Duration{firstPatience - later, leastPatience, leastPatience} {
			time.Sleep(later)
			began := time.Now()
			if err := c.wait(t.Context(), "a", &progress{}, make(chan struct{})); !errors.As(err, new(noAnswerYetError)) {
				t.Fatalf("want no answer yet, got %v", err)
			}
			checkSame(t, "waits", wait, time.Since(began))
		}
		leave(nil)
		began := time.Now()
		_ = c.wait(t.Context(), "a", &progress{}, make(chan struct{}))
		if waited := time.Since(began); waited < firstPatience {
			t.Errorf("after an answer: want the whole patience, got %s", waited)
		}
	})
}

// A call that hangs has no others fail that the registry would answer.
func TestOneHangingCallHasNoOthersFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t)
		e.calls.patience = firstPatience
		attended := func(takes time.Duration) error {
			_, err := attend(t.Context(), e.backend, "a", work[int]{do: func(ctx context.Context) (int, error) {
				leave, err := e.calls.enter(ctx, "a")
				if err != nil {
					return 0, err
				}
				defer leave(nil)
				select {
				case <-time.After(takes):
					return 1, nil
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}, goesOn: takes > lastPatience})
			return err
		}
		if err := attended(30 * time.Second); !errors.As(err, new(noAnswerYetError)) {
			t.Fatalf("want no answer yet, got %v", err)
		}
		time.Sleep(10 * time.Second)
		if err := attended(leastPatience / 2); err != nil {
			t.Errorf("what the registry answers: want no error, got %v", err)
		}
		time.Sleep(time.Minute)
	})
}

// Requests that want the same wait for the same work, which goes on without them. What
// nobody waits for, and can be ended, is ended.
func TestAttend(t *testing.T) {
	for name, c := range map[string]struct {
		key       string
		goesOn    bool
		begun     int64
		finished  int64
		unclaimed int64
	}{
		"joined":  {"same", false, 1, 1, 1},
		"each":    {"", false, 3, 0, 0},
		"goes on": {"", true, 3, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			var begun, finished, unclaimed atomic.Int64
			proceed := make(chan struct{})
			ctx, hangUp := context.WithCancel(t.Context())
			ended := make(chan error)
			for range 3 {
				go func() {
					_, err := attend(ctx, e.backend, "a", work[int]{
						key: c.key, goesOn: c.goesOn,
						do: func(ctx context.Context) (int, error) {
							begun.Add(1)
							select {
							case <-proceed:
								finished.Add(1)
								return 1, nil
							case <-ctx.Done():
								return 0, ctx.Err()
							}
						},
						unclaimed: func(int) { unclaimed.Add(1) },
					})
					ended <- err
				}()
			}
			for begun.Load() < c.begun || c.key != "" && e.waitingFor(c.key) < 3 {
				time.Sleep(time.Millisecond)
			}
			hangUp()
			for range 3 {
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Errorf("want it to end with its request, got %v", err)
				}
			}
			if c.finished > 0 {
				close(proceed)
			}
			e.background.Wait()
			checkSame(t, "begun", c.begun, begun.Load())
			checkSame(t, "finished", c.finished, finished.Load())
			checkSame(t, "unclaimed", c.unclaimed, unclaimed.Load())
		})
	}
}

// waitingFor returns how many requests wait for the work of a key.
func (e *engine) waitingFor(key string) int {
	e.flights.mu.Lock()
	defer e.flights.mu.Unlock()
	if f := e.flights.byKey[key]; f != nil {
		return f.waiting
	}
	return 0
}

func TestRequestAfterTheEndIsRefused(t *testing.T) {
	e := newSharingEngine(t)
	e.Cleanup(context.Background())
	_, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/app", Storage: e.storage})
	if !errors.Is(err, errEnded) {
		t.Errorf("want %v, got %v", errEnded, err)
	}
}
