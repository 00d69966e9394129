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

// mostWrong is how many wrong answers are printed.
const mostWrong = 20

// world is the servers, and what the test knows of them.
type world struct {
	*testing.T
	vault  *servers.Vault
	client *api.Client
	gitlab *gitlabtest.Server
	pulls  *servers.Registry // a real registry
	faults *faults
	seed   uint64
	began  time.Time

	deadline time.Time // of the test; "go test" has none here

	ending context.Context // done when the load ends
	// load is held for reading by each request, and for writing by what must
	// have no request in progress.
	load sync.RWMutex

	mu     sync.Mutex
	counts map[string]map[string]int // by operation and outcome
	shown  map[string]int            // excused errors, by their text
	sealed []window
	wrongs int

	done atomic.Int64 // number of requests

	model
}

// Deadline replaces that of [testing.T], for [servers.Limit].
func (w *world) Deadline() (deadline time.Time, ok bool) { return w.deadline, true }

// window is a span of time.
type window struct{ from, to time.Time } // to is zero as long as it lasts

func (w window) overlaps(from, to time.Time) bool {
	return !to.Before(w.from) && (w.to.IsZero() || !from.After(w.to))
}

// outcome is the outcome of a request.
type outcome int

const (
	acknowledged outcome = iota
	refused              // rightly: nothing was changed
	unknown              // an error that the test itself caused
)

// answer is the answer to a request.
type answer struct {
	*api.Secret // nil is status 404
	outcome
	sent, got time.Time
	says      string // the text of an error
}

// refusal is an error that is right for a request in the present state.
type refusal struct {
	status int
	says   string
}

// ask sends a request. An error is wrong unless it is one of the refusals, or
// the test itself caused it.
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

// varying matches the parts of errors that differ each time.
var varying = regexp.MustCompile(`(127\.0\.0\.1:\d+->)?127\.0\.0\.1:\d+|\(tried at .*|role "[^"]*"`)

// cause returns how the test itself caused an error, empty if it did not.
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
	if strings.Contains(a.says, "; try again in a moment") {
		return slowMachine
	}
	return ""
}

// slowMachine is the cause of an answer that came too late for a request to wait for it,
// though the test has not held it back. One in slowRequests may end so.
const (
	slowMachine  = "slow machine"
	slowRequests = 1000
)

// checkPatience checks that the engine waits long enough for a registry that answers.
func (w *world) checkPatience() {
	w.mu.Lock()
	defer w.mu.Unlock()
	late := 0
	for _, results := range w.counts {
		late += results[slowMachine]
	}
	if most := int(w.done.Load()) / slowRequests; late > most {
		w.Errorf("%d requests were told to try again, with no fault of the registry: want at most %d", late, most)
	}
}

// sealedSays are further answers of a Vault that is sealed during a request, or
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

// wrong fails the test, and prints the reason unless many were printed.
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

// worker does one step after the other until the load ends. Its choices depend
// on the seed and on the answers.
type worker struct {
	*world
	*rand.Rand

	holding []held      // shared credentials
	leases  []*lease    // that the worker was given
	kinds   []faultKind // still to happen in this round
}

// work runs a worker until the load ends. pause is the longest pause between
// two steps.
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

// oneIn returns true once in n times.
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
