// SPDX-License-Identifier: MPL-2.0

package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// mostWrong is how many wrong answers are shown.
const mostWrong = 20

// world is the servers, and what is known of them.
type world struct {
	*testing.T
	vault  *servers.Vault
	client *api.Client
	gitlab *gitlabtest.Server
	pulls  *servers.Registry // a real one
	faults *faults
	seed   uint64
	began  time.Time

	deadline time.Time // of the test, for which "go test" has no time limit

	ending context.Context // is over when there is no more load
	// load is held by each request for reading, and by what wants none to be
	// under way.
	load sync.RWMutex

	mu     sync.Mutex
	counts map[string]map[string]int // by operation and what came of it
	shown  map[string]int            // errors that were excused, by what they say
	sealed []window
	wrongs int

	done atomic.Int64 // requests

	model
}

// Deadline is that of [testing.T], for [servers.Limit].
func (w *world) Deadline() (deadline time.Time, ok bool) { return w.deadline, true }

// window is a time during which something holds.
type window struct{ from, to time.Time } // to is zero while it lasts

func (w window) overlaps(from, to time.Time) bool {
	return !to.Before(w.from) && (w.to.IsZero() || !from.After(w.to))
}

// outcome is what came of a request.
type outcome int

const (
	acknowledged outcome = iota
	refused              // as it had to be: nothing was changed
	unknown              // an error that was caused by the test
)

// answer is what came back.
type answer struct {
	*api.Secret // nil is status 404
	outcome
	sent, got time.Time
	says      string // an error's
}

// refusal is an error that a request may be answered with, if what is known
// agrees with it.
type refusal struct {
	status int
	says   string
}

// ask sends a request. An error that is neither one of the refusals nor caused
// by the test is wrong.
func (w *world) ask(operation string, send func(context.Context) (*api.Secret, error), may ...refusal) answer {
	w.load.RLock()
	defer w.load.RUnlock()
	a := answer{sent: time.Now()}
	var err error
	a.Secret, err = send(context.Background())
	a.got = time.Now()
	w.done.Add(1)
	if err == nil {
		w.count(operation, "as it should be")
		return a
	}
	a.says = err.Error()
	for _, r := range may {
		if statusOf(err) == r.status && strings.Contains(a.says, r.says) {
			w.count(operation, "refused")
			a.outcome = refused
			return a
		}
	}
	a.outcome = unknown
	cause := w.cause(a, statusOf(err))
	if cause == "" {
		w.count(operation, "WRONG")
		w.wrong("%s: an error that nothing explains: %s", operation, a.says)
		return a
	}
	w.count(operation, cause)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown[cause+": "+varying.ReplaceAllString(lastLine(a.says), "…")]++
	return a
}

// varying is what is another each time in an error.
var varying = regexp.MustCompile(`(127\.0\.0\.1:\d+->)?127\.0\.0\.1:\d+|\(tried at .*|role "[^"]*"`)

// cause returns what the test has done that an error comes from, empty if
// nothing.
func (w *world) cause(a answer, status int) string {
	if kind := w.faults.explain(a); kind != "" {
		return kind
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	whileSealed := slices.ContainsFunc(w.sealed, func(s window) bool { return s.overlaps(a.sent, a.got) })
	if whileSealed && (status == http.StatusServiceUnavailable || slices.ContainsFunc(sealedSays, func(text string) bool { return strings.Contains(a.says, text) })) {
		return "sealed"
	}
	return ""
}

// sealedSays are what else Vault answers when it is sealed during a request, or
// is not active yet.
var sealedSays = []string{
	"local node not active but active cluster node not found",
}

func statusOf(err error) int {
	var response *api.ResponseError
	if errors.As(err, &response) {
		return response.StatusCode
	}
	return 0
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

func (w *world) count(operation, result string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.countLocked(operation, result)
}

func (w *world) countLocked(operation, result string) {
	if w.counts[operation] == nil {
		w.counts[operation] = map[string]int{}
	}
	w.counts[operation][result]++
}

// wrong fails the test, and says why unless that was said often enough.
func (w *world) wrong(format string, args ...any) {
	w.Helper()
	w.mu.Lock()
	w.wrongs++
	n := w.wrongs
	w.mu.Unlock()
	if n <= mostWrong {
		w.Errorf("after %s: "+format, append([]any{time.Since(w.began).Round(time.Millisecond)}, args...)...)
	}
	w.Fail()
}

// worker does one thing after the other until there is no more load. What it
// chooses depends on the seed and on what it was answered.
type worker struct {
	*world
	*rand.Rand

	holding []held      // shared credentials
	leases  []*lease    // that the worker was given
	kinds   []faultKind // that are still to happen in this round
}

// work runs a worker until the load ends. pause is the longest between two
// steps.
func (w *world) work(workers *sync.WaitGroup, number int, pause time.Duration, step func(*worker)) {
	me := &worker{world: w, Rand: rand.New(rand.NewPCG(w.seed, uint64(number)))}
	workers.Go(func() {
		for w.ending.Err() == nil {
			step(me)
			select {
			case <-w.ending.Done():
			case <-time.After(time.Duration(me.Int64N(int64(pause)))):
			}
		}
	})
}

// oneIn is true once in so many times.
func (w *worker) oneIn(n int) bool { return w.IntN(n) == 0 }

func pick[T any](w *worker, of []T) T { return of[w.IntN(len(of))] }

func at(path string) string { return servers.Mount + "/" + path }

func (w *world) read(operation, path string, may ...refusal) answer {
	return w.ask(operation, func(ctx context.Context) (*api.Secret, error) {
		return w.client.Logical().ReadWithContext(ctx, at(path))
	}, may...)
}

func (w *world) list(operation, path string, may ...refusal) answer {
	return w.ask(operation, func(ctx context.Context) (*api.Secret, error) {
		return w.client.Logical().ListWithContext(ctx, at(path))
	}, may...)
}

func (w *world) write(operation, path string, data map[string]any, may ...refusal) answer {
	return w.ask(operation, func(ctx context.Context) (*api.Secret, error) {
		return w.client.Logical().WriteWithContext(ctx, at(path), data)
	}, may...)
}

func (w *world) patch(operation, path string, data map[string]any, may ...refusal) answer {
	return w.ask(operation, func(ctx context.Context) (*api.Secret, error) {
		return w.client.Logical().JSONMergePatch(ctx, at(path), data)
	}, may...)
}

func (w *world) remove(operation, path string) answer {
	return w.ask(operation, func(ctx context.Context) (*api.Secret, error) {
		return w.client.Logical().DeleteWithContext(ctx, at(path))
	})
}

// data returns the fields of an answer, nil for status 404.
func (a answer) data() map[string]any {
	if a.Secret == nil {
		return nil
	}
	return a.Data
}

func (a answer) String() string {
	if a.outcome != acknowledged {
		return a.says
	}
	return fmt.Sprint(a.data())
}
