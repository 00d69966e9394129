// SPDX-License-Identifier: MPL-2.0

// Package vaulttest is a Vault in memory that answers the requests of the client:
// logins, and reads of creds/. The tests of the repository's module tests use a
// real Vault.
package vaulttest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Marker stands in every secret that the server gives or is given, and so must
// not stand in any output except an answer.
const Marker = "S3cr3t-Marker"

// Token is the token that a login gives.
const Token = "hvb." + Marker + "-token"

// Server is a Vault in memory.
type Server struct {
	*httptest.Server

	mu       sync.Mutex
	answers  map[string]string // bodies by path, without /v1/
	fault    http.HandlerFunc
	requests []string // method, path and body
}

// New starts a server, and clears the environment of what the user has set for
// another one.
func New(t testing.TB) *Server {
	t.Helper()
	CleanEnv(t)
	s := &Server{answers: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	for _, method := range []string{"jwt", "kubernetes", "cert"} {
		s.Answer("auth/"+method+"/login", `{"auth":{"client_token":"`+Token+`","token_policies":["default","pull"],"lease_duration":300}}`)
	}
	return s
}

// CleanEnv unsets Vault's and regcred's variables, and sets HOME to an empty
// folder, until the test ends.
func CleanEnv(t testing.TB) {
	t.Helper()
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "VAULT_") || strings.HasPrefix(name, "REGCRED_") {
			t.Setenv(name, "")
			_ = os.Unsetenv(name)
		}
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
}

// Answer sets the body that a path answers with.
func (s *Server) Answer(path, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[path] = body
}

// PullSecret has a role answer with credentials ("registry", "user", "password",
// …) and further fields as JSON members (`"grace_period":60`).
func (s *Server) PullSecret(role string, credentials [][3]string, more ...string) {
	auths := map[string]map[string]string{}
	for _, c := range credentials {
		auths[c[0]] = map[string]string{"username": c[1], "password": c[2], "auth": "x"}
	}
	docker, _ := json.Marshal(map[string]any{"auths": auths})
	text, _ := json.Marshal(string(docker))
	fields := append([]string{`".dockerconfigjson":` + string(text)}, more...)
	s.Answer("regcred/creds/"+role, `{"data":{`+strings.Join(fields, ",")+`}}`)
}

// Fail has a handler answer all requests; nil ends that.
func (s *Server) Fail(fault http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// Requests returns the requests so far, as "METHOD path body".
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.requests...)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	s.mu.Lock()
	fault, answer := s.fault, s.answers[path]
	s.requests = append(s.requests, strings.TrimSpace(r.Method+" "+path+" "+string(body)))
	s.mu.Unlock()
	switch {
	case fault != nil:
		// What a broken proxy or a debug page may do: repeat what it was sent.
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		fault(w, r)
	case path == "sys/health":
		_, _ = fmt.Fprint(w, `{"initialized":true,"sealed":false,"version":"1.21.0"}`)
	case !strings.HasPrefix(path, "auth/") && r.Header.Get("X-Vault-Token") == "":
		http.Error(w, `{"errors":["missing client token"]}`, http.StatusForbidden)
	case r.Header.Get("X-Vault-Wrap-TTL") != "":
		_, _ = fmt.Fprint(w, `{"wrap_info":{"token":"hvs.wrapped"}}`)
	case answer == "":
		http.Error(w, `{"errors":[]}`, http.StatusNotFound)
	default:
		_, _ = fmt.Fprint(w, answer)
	}
}

// Echo is a fault: a status, with everything that was sent as Vault's message.
func Echo(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		said, _ := json.Marshal(fmt.Sprint(r.Method, r.URL, r.Header, string(body)))
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"errors":[%s]}`, said)
	}
}
