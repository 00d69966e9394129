// SPDX-License-Identifier: MPL-2.0

// Package issuertest helps to test issuers. It has a server on loopback that can be
// made to fail, a registry with a function that decides whom it accepts, and the
// tests that every type of issuer must pass ([Conform]).
package issuertest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
)

// Fault answers a request in place of the right handler, act.
type Fault func(w http.ResponseWriter, r *http.Request, act http.Handler)

// Server is a server on a loopback address.
type Server struct {
	*httptest.Server

	act http.Handler

	mu     sync.Mutex
	faults []*injectedFault
	before func(*http.Request)
	after  func(*http.Request)
	calls  []string
	done   chan struct{}
}

type injectedFault struct {
	match func(*http.Request) bool
	times int
	fault Fault
}

// Owner is what a server belongs to: a test, or a program that runs it for people to
// try.
type Owner interface {
	Helper()
	Cleanup(stop func()) // calls stop when the owner ends
}

// NewServer starts a server with a handler. It stops when its owner ends.
func NewServer(t Owner, act http.Handler) *Server {
	t.Helper()
	s := &Server{act: act, done: make(chan struct{})}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		close(s.done)
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// Host returns host:port.
func (s *Server) Host() string { return strings.TrimPrefix(s.URL, "http://") }

// InjectFault makes the next matching requests fail, the given number of times; -1 means
// always. A nil match matches every request.
func (s *Server) InjectFault(times int, match func(*http.Request) bool, fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if match == nil {
		match = func(*http.Request) bool { return true }
	}
	s.faults = append(s.faults, &injectedFault{match, times, fault})
}

// ClearFaults removes all faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Watch sets functions to call for each request: before the server acts, and after it
// acted but before it answers. Either may be nil.
func (s *Server) Watch(before, after func(*http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after = before, after
}

// Calls returns the method and path of each request so far.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.calls = append(s.calls, r.Method+" "+r.URL.Path)
	before, after, fault := s.before, s.after, s.fault(r)
	s.mu.Unlock()
	if before != nil {
		before(r)
	}
	if fault != nil {
		fault(w, r.WithContext(contextUntil(r.Context(), s.done)), s.act)
		return
	}
	if after == nil {
		s.act.ServeHTTP(w, r)
		return
	}
	recorded := httptest.NewRecorder()
	s.act.ServeHTTP(recorded, r)
	after(r)
	copyAnswer(w, recorded)
}

// contextUntil returns a context that also ends when a channel is closed.
func contextUntil(ctx context.Context, done <-chan struct{}) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-done:
		case <-ctx.Done():
		}
	}()
	return ctx
}

// fault returns the fault for a request, nil if there is none.
func (s *Server) fault(r *http.Request) Fault {
	for _, p := range s.faults {
		if p.times != 0 && p.match(r) {
			p.times--
			return p.fault
		}
	}
	return nil
}

func copyAnswer(w http.ResponseWriter, recorded *httptest.ResponseRecorder) {
	for name, values := range recorded.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(recorded.Code)
	_, _ = io.Copy(w, bytes.NewReader(recorded.Body.Bytes()))
}

// Status answers with a status and body, without acting.
func Status(code int, body string, header ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		answer(w, code, body, header)
	}
}

// StatusAfterActing acts, and answers with a status and body all the same.
func StatusAfterActing(code int, body string) Fault {
	return func(w http.ResponseWriter, r *http.Request, act http.Handler) {
		act.ServeHTTP(httptest.NewRecorder(), r)
		answer(w, code, body, nil)
	}
}

func answer(w http.ResponseWriter, code int, body string, header []string) {
	w.Header().Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		w.Header().Set(header[i], header[i+1])
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, body)
}

// TooManyRequests answers 429 and asks to wait for a number of seconds.
func TooManyRequests(seconds int) Fault {
	return Status(http.StatusTooManyRequests, `{"message":"429 Too Many Requests"}`, "Retry-After", strconv.Itoa(seconds))
}

// Cut closes the connection without acting.
func Cut(w http.ResponseWriter, _ *http.Request, _ http.Handler) { cut(w) }

// CutAfterActing acts, and closes the connection.
func CutAfterActing(w http.ResponseWriter, r *http.Request, act http.Handler) {
	act.ServeHTTP(httptest.NewRecorder(), r)
	cut(w)
}

func cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// Hang does not answer until the client gives up or the test ends.
func Hang(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }

// HangAfterActing acts, and then hangs.
func HangAfterActing(_ http.ResponseWriter, r *http.Request, act http.Handler) {
	act.ServeHTTP(httptest.NewRecorder(), r)
	<-r.Context().Done()
}

// Garbage answers with success and a body that cannot be decoded, without acting.
func Garbage(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	answer(w, http.StatusOK, `<html>{"token":["`, nil)
}

// GarbageAfterActing acts, and answers with success and an empty object.
func GarbageAfterActing(w http.ResponseWriter, r *http.Request, act http.Handler) {
	act.ServeHTTP(httptest.NewRecorder(), r)
	answer(w, http.StatusCreated, `{}`, nil)
}

// Method matches requests by their method.
func Method(method string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == method }
}
