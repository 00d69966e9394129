// SPDX-License-Identifier: MPL-2.0

// Package brokertest is a broker in memory that follows the protocol regcred-broker/v1 as
// docs/connections/http.md has it, with a registry that accepts what it mints. It refuses
// what the page says is refused, and answers errors in the form that the page gives.
//
// [NewURL] starts servers that answer with a credential and know no protocol.
package brokertest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const (
	// Scope is the scope of [Server.Role]. A credential pulls what lies below its scopes.
	Scope = "team"

	protocol = "regcred-broker/v1"
	base     = "/broker" // path of the connection's URL
)

// All are the operations of a broker that can do everything.
var All = []string{"mint", "find", "revoke", "check", "rotate-root"}

// Server is a broker and its registry. It is safe for concurrent use.
type Server struct {
	*issuertest.Server

	// Protocol, Operations and MaxLifetime are what the broker declares. Set them before
	// the first request.
	Protocol    string
	Operations  []string
	MaxLifetime time.Duration

	root string

	mu     sync.Mutex
	now    func() time.Time
	lastID int
	living map[string]credential // by ID
	roots  map[string]string     // names by token
}

type credential struct {
	name, username, password string
	scopes                   []string
	expiresAt                time.Time // zero: never
}

// New starts a broker with the given operations; without any, with all. It stops when its
// owner ends.
func New(t issuertest.Owner, operations ...string) *Server {
	t.Helper()
	s := &Server{Protocol: protocol, Operations: operations, now: time.Now, living: map[string]credential{}, root: "root-" + rand.Text()}
	if len(operations) == 0 {
		s.Operations = All
	}
	s.roots = map[string]string{s.root: "first"}
	mux := http.NewServeMux()
	mux.Handle("/v2/", issuertest.Registry(s.accepts))
	mux.HandleFunc("GET "+base+"/v1", s.authenticated("", s.capabilities))
	mux.HandleFunc("GET "+base+"/v1/check", s.authenticated("check", s.check))
	mux.HandleFunc("POST "+base+"/v1/credentials", s.authenticated("mint", s.mint))
	mux.HandleFunc("GET "+base+"/v1/credentials", s.authenticated("find", s.find))
	mux.HandleFunc("DELETE "+base+"/v1/credentials", s.authenticated("revoke", s.revoke))
	mux.HandleFunc("POST "+base+"/v1/root", s.authenticated("rotate-root", s.addRoot))
	mux.HandleFunc("DELETE "+base+"/v1/root", s.authenticated("rotate-root", s.removeRoot))
	mux.HandleFunc("DELETE "+base+"/v1/root/self", s.authenticated("rotate-root", s.removeSelf))
	s.Server = issuertest.NewServer(t, mux)
	return s
}

// SetNow sets the clock.
func (s *Server) SetNow(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

// Connection returns a connection to the broker, as after a check.
func (s *Server) Connection() issuer.Connection {
	c := issuer.Connection{
		URL: s.URL + base, Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())},
		Secrets:  issuer.Secrets{"token": dockerconfig.NewSecret(s.root)},
		Declared: issuer.Settings{"operations": strings.Join(s.Operations, ",")},
	}
	if s.MaxLifetime > 0 {
		c.Declared["max_lifetime"] = s.MaxLifetime.String()
	}
	return c
}

// Role returns the fields of a role.
func (*Server) Role() issuer.Settings { return issuer.Settings{"scopes": Scope} }

// MintMatch matches the requests that mint.
func (*Server) MintMatch(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Path == base+"/v1/credentials"
}

// Pulls reports whether a credential can pull from a repository.
func (s *Server) Pulls(c issuer.Credential, repository string) bool {
	return s.accepts(c.Username, c.Password.Reveal(), repository)
}

func (s *Server) accepts(username, password, repository string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.living {
		if c.username == username && c.password == password && s.works(c) {
			return repository == "" || slices.ContainsFunc(c.scopes, func(scope string) bool {
				return repository == scope || strings.HasPrefix(repository, scope+"/")
			})
		}
	}
	return false
}

func (s *Server) works(c credential) bool { return c.expiresAt.IsZero() || s.now().Before(c.expiresAt) }

// Living returns the names of the credentials that work now, sorted.
func (s *Server) Living() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, c := range s.living {
		if s.works(c) {
			names = append(names, c.name)
		}
	}
	slices.Sort(names)
	return names
}

// Admins returns the names of the root tokens, sorted.
func (s *Server) Admins() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Values(s.roots))
}

// AddCredential adds a credential of somebody else, and returns its user name and
// password.
func (s *Server) AddCredential(name string) (username, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, c := s.add(name, []string{Scope}, time.Time{})
	return c.username, c.password
}

// AddRoot adds a root token of somebody else.
func (s *Server) AddRoot(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roots["root-"+rand.Text()] = name
}

// Delete deletes the credentials of a name, as somebody else would.
func (s *Server) Delete(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.living, func(_ string, c credential) bool { return c.name == name })
}

// Reinstall deletes all credentials, and counts IDs from one again.
func (s *Server) Reinstall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.living)
	s.lastID = 0
}

// CountAnew gives the ID of each credential to another one with a name of its own. The
// former ones get other IDs if they are kept, and are gone otherwise.
func (s *Server) CountAnew(keep bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, id := range slices.Sorted(maps.Keys(s.living)) {
		old := s.living[id]
		foreign := old
		foreign.name = "production-" + id
		s.living[id] = foreign
		names = append(names, foreign.name)
		if keep {
			s.lastID++
			s.living[strconv.Itoa(s.lastID)] = old
		}
	}
	return names
}

func (s *Server) add(name string, scopes []string, expiresAt time.Time) (id string, c credential) {
	s.lastID++
	id = strconv.Itoa(s.lastID)
	c = credential{name, "puller-" + id + "-" + rand.Text()[:6], rand.Text(), scopes, expiresAt}
	s.living[id] = c
	return id, c
}

// refusal is an answer that says no.
type refusal struct {
	status        int
	code, message string
	about         map[string]any
}

func invalid(format string, args ...any) *refusal {
	return &refusal{http.StatusBadRequest, "invalid", fmt.Sprintf(format, args...), nil}
}

// authenticated returns the handler of an operation.
func (s *Server) authenticated(operation string, do func(r *http.Request, token string) (map[string]any, *refusal)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		var out map[string]any
		var no *refusal
		switch {
		case !bearer || s.roots[token] == "":
			no = &refusal{http.StatusUnauthorized, "unauthorized", "the token is not known", nil}
		case operation != "" && !slices.Contains(s.Operations, operation):
			no = &refusal{http.StatusMethodNotAllowed, "unsupported", "this broker has no " + operation, nil}
		default:
			out, no = do(r, token)
		}
		status := http.StatusOK
		if no != nil {
			status = no.status
			out = map[string]any{"error": map[string]string{"code": no.code, "message": no.message}}
			maps.Copy(out, no.about)
		} else if r.Method == http.MethodPost {
			status = http.StatusCreated
		}
		out["protocol"] = s.Protocol
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(out)
	}
}

func (s *Server) capabilities(*http.Request, string) (map[string]any, *refusal) {
	out := map[string]any{"operations": s.Operations}
	if s.MaxLifetime > 0 {
		out["max_lifetime_seconds"] = int(s.MaxLifetime.Seconds())
	}
	return out, nil
}

func (s *Server) check(_ *http.Request, token string) (map[string]any, *refusal) {
	return map[string]any{"identity": s.roots[token], "expires_at": nil}, nil
}

// decode decodes the body of a request, with the fields that the protocol has.
func decode(r *http.Request, into any) *refusal {
	if r.Header.Get("Content-Type") != "application/json" {
		return invalid("Content-Type must be application/json")
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return invalid("the body cannot be decoded: %v", err)
	}
	return nil
}

func (s *Server) mint(r *http.Request, _ string) (map[string]any, *refusal) {
	var in struct {
		Name       string     `json:"name"`
		ExpiresAt  *time.Time `json:"expires_at"`
		Scopes     []string   `json:"scopes"`
		Registries []string   `json:"registries"`
	}
	if no := decode(r, &in); no != nil {
		return nil, no
	}
	switch {
	case in.Name == "" || in.ExpiresAt == nil || in.Scopes == nil:
		return nil, invalid("name, expires_at and scopes must be there")
	case !in.ExpiresAt.After(s.now()):
		return nil, invalid("expires_at is in the past")
	case !slices.Equal(in.Registries, []string{s.Host()}):
		return nil, invalid("registries: this broker mints for %s", s.Host())
	case slices.ContainsFunc(slices.Collect(maps.Values(s.living)), func(c credential) bool { return c.name == in.Name }):
		return nil, &refusal{http.StatusConflict, "exists", "a credential has this name", nil}
	}
	ends := *in.ExpiresAt
	if limit := s.now().Add(s.MaxLifetime); s.MaxLifetime > 0 && ends.After(limit) {
		ends = limit
	}
	id, c := s.add(in.Name, in.Scopes, ends)
	return map[string]any{"name": in.Name, "id": id, "username": c.username, "password": c.password, "expires_at": ends.UTC().Format(time.RFC3339), "registries": in.Registries}, nil
}

func (s *Server) find(r *http.Request, _ string) (map[string]any, *refusal) {
	name := r.URL.Query().Get("name")
	if name == "" {
		return nil, invalid("name must be there")
	}
	found := []map[string]string{}
	for id, c := range s.living {
		if c.name == name {
			found = append(found, map[string]string{"id": id, "name": c.name})
		}
	}
	return map[string]any{"name": name, "credentials": found}, nil
}

func (s *Server) revoke(r *http.Request, _ string) (map[string]any, *refusal) {
	name, id := r.URL.Query().Get("name"), r.URL.Query().Get("id")
	if name == "" || id == "" {
		return nil, invalid("name and id must be there")
	}
	about := map[string]any{"name": name, "id": id}
	if s.living[id].name != name {
		return nil, &refusal{http.StatusNotFound, "not_found", "there is no such credential", about}
	}
	delete(s.living, id)
	return about, nil
}

func (s *Server) addRoot(r *http.Request, _ string) (map[string]any, *refusal) {
	var in struct {
		Name string `json:"name"`
	}
	if no := decode(r, &in); no != nil {
		return nil, no
	}
	if in.Name == "" {
		return nil, invalid("name must be there")
	}
	token := "root-" + rand.Text()
	s.roots[token] = in.Name
	return map[string]any{"name": in.Name, "token": token}, nil
}

func (s *Server) removeRoot(r *http.Request, _ string) (map[string]any, *refusal) {
	about := map[string]any{"name": r.URL.Query().Get("name")}
	before := len(s.roots)
	maps.DeleteFunc(s.roots, func(_, name string) bool { return name == about["name"] })
	if len(s.roots) == before {
		return nil, &refusal{http.StatusNotFound, "not_found", "there is no such token", about}
	}
	return about, nil
}

func (s *Server) removeSelf(_ *http.Request, token string) (map[string]any, *refusal) {
	delete(s.roots, token)
	return map[string]any{}, nil
}
