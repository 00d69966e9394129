// SPDX-License-Identifier: MPL-2.0

package soak

import (
	"context"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	// faultMemory is how long after a fault it may still cause an error: a call
	// has 30 seconds, and a role remembers why it failed.
	faultMemory = 45 * time.Second
)

// faultKind is a kind of fault of the registry's API, and the texts of the
// errors that it causes.
type faultKind struct {
	name  string
	fault issuertest.Fault // nil: nothing listens
	says  []string
}

const injected = `{"message":"injected"}`

var (
	broken  = []string{"the connection failed", "the connection was closed in the middle of the answer", "the answer could not be understood"}
	garbled = []string{"the answer ", "to a deletion, where 204 is expected"}
	silent  = append([]string{"there was no complete answer within the time limit", "has not answered for "}, broken...)
)

var faultKinds = []faultKind{
	{"refused connection", nil, broken},
	{"status 500", issuertest.Status(http.StatusInternalServerError, injected), answered("500 Internal Server Error")},
	{"status 503 after acting", issuertest.StatusAfterActing(http.StatusServiceUnavailable, injected), answered("503 Service Unavailable")},
	{"status 403", issuertest.Status(http.StatusForbidden, injected), []string{"answered 403 Forbidden: injected", "answered 403 to the request for the next token"}},
	{"status 429", issuertest.TooManyRequests(7), []string{"answered 429 Too Many Requests"}},
	{"cut", issuertest.Cut, broken},
	{"cut after acting", issuertest.CutAfterActing, broken},
	{"no answer", issuertest.Hang, silent},
	{"no answer after acting", issuertest.HangAfterActing, silent},
	{"garbage", issuertest.Garbage, garbled},
	{"garbage after acting", issuertest.GarbageAfterActing, garbled},
}

// answered returns the texts of an error that the registry answered: to the request that
// met it, in the registry's words, and to those for which the registry is then left
// alone, without them.
func answered(status string) []string {
	return []string{"answered " + status + ": injected", ": it answered " + status}
}

func (k faultKind) hangs() bool { return slices.Equal(k.says, silent) }

// faults plants faults in the API of a registry.
type faults struct {
	server *issuertest.Server
	addr   string

	http *http.Server

	mu     sync.Mutex
	open   net.Listener
	hits   map[string][]window // by kind; a fault without an end is in progress
	counts map[string]int      // requests that met a fault, by kind
	mend   chan struct{}       // closed to end the faults that are in progress
}

// newFaults makes a server answer at a second address, which can be made to
// refuse connections.
func newFaults(t *testing.T, server *issuertest.Server) *faults {
	t.Helper()
	f := &faults{server: server, addr: servers.FreeAddr(t), hits: map[string][]window{}, counts: map[string]int{}, mend: make(chan struct{})}
	f.http = &http.Server{Handler: server, ReadHeaderTimeout: time.Minute}
	if err := f.listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.http.Close() })
	return f
}

func (f *faults) url() string { return "http://" + f.addr }

// listen makes the server accept connections.
func (f *faults) listen() error {
	listener, err := net.Listen("tcp", f.addr)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = listener
	go func() { _ = f.http.Serve(listener) }() // until the listener is closed
	return nil
}

// refuse refuses new connections; existing ones stay.
func (f *faults) refuse() {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.open.Close()
}

// begin records that a fault begins. The function that it returns records that
// it ends.
func (f *faults) begin(kind string) (end func(), mended <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[kind]++
	f.hits[kind] = slices.DeleteFunc(f.hits[kind], func(h window) bool { return !h.to.IsZero() && time.Since(h.to) > 10*faultMemory })
	from := time.Now()
	f.hits[kind] = append(f.hits[kind], window{from: from})
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for i := range f.hits[kind] {
			if h := &f.hits[kind][i]; h.from.Equal(from) && h.to.IsZero() {
				h.to = time.Now()
				return
			}
		}
	}, f.mend
}

// explain returns the kind of fault that caused an error, empty if none did. Of
// several kinds it returns the one that happened last.
func (f *faults) explain(a answer) (name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var last time.Time
	for _, kind := range faultKinds {
		if !slices.ContainsFunc(kind.says, func(text string) bool { return strings.Contains(a.says, text) }) {
			continue
		}
		for _, h := range f.hits[kind.name] {
			if h.overlaps(a.sent.Add(-faultMemory), a.got) && h.from.After(last) {
				name, last = kind.name, h.from
			}
		}
	}
	return name
}

// mended removes all faults, and ends those that are in progress.
func (f *faults) mended() {
	f.server.ClearFaults()
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.mend)
	f.mend = make(chan struct{})
}

// happen plants one kind of fault, for up to some seconds.
func (w *worker) happen() {
	if len(w.kinds) == 0 {
		w.kinds = slices.Clone(faultKinds)
		w.Shuffle(len(w.kinds), func(i, j int) { w.kinds[i], w.kinds[j] = w.kinds[j], w.kinds[i] })
	}
	kind := w.kinds[0]
	w.kinds = w.kinds[1:]
	if kind.hangs() && !w.oneIn(3) {
		return // otherwise there would hardly be a time without one
	}
	times, method := 1+w.IntN(5), pick(w, []string{"", http.MethodGet, http.MethodPost, http.MethodPost, http.MethodDelete, http.MethodDelete})
	lasts := time.Duration(200+w.IntN(2500)) * time.Millisecond
	w.load.RLock() // so that no fault happens during a measurement
	defer w.load.RUnlock()
	if kind.fault == nil {
		end, _ := w.faults.begin(kind.name)
		w.faults.refuse()
		time.Sleep(lasts)
		if err := w.faults.listen(); err != nil {
			w.wrong("the registry's API cannot be opened again: %v", err)
		}
		end()
		return
	}
	if kind.hangs() {
		times = 1 // each keeps a request for half a minute
	}
	w.faults.server.InjectFault(times, func(r *http.Request) bool {
		return strings.HasPrefix(r.URL.Path, "/api/") && (method == "" || r.Method == method)
	}, func(rw http.ResponseWriter, r *http.Request, act http.Handler) {
		end, mended := w.faults.begin(kind.name)
		defer end()
		kind.fault(rw, until(r, mended), act)
		if kind.hangs() {
			panic(http.ErrAbortHandler) // cut the connection
		}
	})
	time.Sleep(lasts)
	w.faults.server.ClearFaults()
}

// until returns a request whose context also ends when a channel is closed.
func until(r *http.Request, closed <-chan struct{}) *http.Request {
	ctx, cancel := context.WithCancel(r.Context())
	go func() {
		defer cancel()
		select {
		case <-closed:
		case <-ctx.Done():
		}
	}()
	return r.WithContext(ctx)
}
