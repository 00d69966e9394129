// SPDX-License-Identifier: MPL-2.0

// Package dockerhubtest is a Docker Hub in memory, for tests: the part of its API about
// logins and organization access tokens, and a registry that accepts the tokens.
//
// It follows Docker's OpenAPI document of the Docker Hub API, 2-beta, as of 2026 (fields,
// status codes, forms of refusals, pages, rate limits), Docker's manual on organization
// access tokens (limits, scopes, that tokens that have expired count), and what Docker's
// Terraform provider and users report (docker/docs#24406, docker/hub-feedback#2478:
// logins with personal access tokens are refused). The texts of most refusals are not
// documented, nor which status the limit of tokens has.
//
// docs/connections/dockerhub.md says where each behaviour is documented.
package dockerhubtest

import (
	"crypto/rand"
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

// Contents of a new [Server].
const (
	Organization = "acme"
	Owner        = "owner" // of Organization
	Password     = "Hub-Pass1"
	Repository   = "acme/web"
	OtherRepo    = "acme/api"
)

const (
	// maxTokens is the limit of a Docker Business subscription.
	maxTokens = 100

	maxRepositories = 50
	maxDescription  = 200

	// maxPageSize caps the elements of a page. That of Docker Hub is not documented; this
	// one is small, so that lists have several pages.
	maxPageSize = 3

	sessionLife = 10 * time.Minute
)

// Server is a Docker Hub. It is safe for concurrent use.
type Server struct {
	*issuertest.Server

	mu        sync.Mutex
	now       func() time.Time
	limit     int
	passwords map[string]string   // by user
	owners    map[string][]string // of organizations
	repos     map[string]bool     // that exist
	tokens    map[string]*token   // by ID
	sessions  map[string]session  // by bearer
	perMinute int                 // requests; 0: no limit
	calls     map[int64]int       // in each minute
	personal  map[string]string   // personal access tokens, by user
	order     int                 // of the tokens
}

type session struct {
	user     string
	personal bool // from a personal access token
	ends     time.Time
}

type token struct {
	id, label, secret string
	organization      string
	by                string
	order             int
	created           time.Time
	expires           time.Time // zero: never
	active            bool
	resources         []resource
}

type resource struct {
	Type   string   `json:"type"`
	Path   string   `json:"path"`
	Scopes []string `json:"scopes"`
}

// New starts a Docker Hub with [Organization], its [Owner], and two repositories.
func New(t issuertest.Owner) *Server {
	t.Helper()
	s := &Server{
		now:       time.Now,
		limit:     maxTokens,
		passwords: map[string]string{Owner: Password, "member": Password},
		owners:    map[string][]string{Organization: {Owner}},
		repos:     map[string]bool{Repository: true, OtherRepo: true},
		tokens:    map[string]*token{},
		sessions:  map[string]session{},
		calls:     map[int64]int{},
		personal:  map[string]string{},
	}
	mux := http.NewServeMux()
	mux.Handle("/v2/auth/token", http.HandlerFunc(s.serveLogin))
	mux.Handle("/v2/orgs/", http.HandlerFunc(s.serveTokens))
	mux.Handle("/v2/", issuertest.Registry(s.accepts))
	s.Server = issuertest.NewServer(t, mux)
	return s
}

// Connection returns a connection with the password of [Owner].
func (s *Server) Connection() issuer.Connection { return s.ConnectionAs(Owner, Password) }

// ConnectionAs returns a connection with the password of another user.
func (s *Server) ConnectionAs(username, password string) issuer.Connection {
	return issuer.Connection{
		URL:        s.URL,
		Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())},
		Settings:   issuer.Settings{"organization": Organization, "username": username},
		Secrets:    issuer.Secrets{"password": dockerconfig.NewSecret(password)},
	}
}

// Role returns the fields of a valid role.
func (*Server) Role() issuer.Settings { return issuer.Settings{"repositories": Repository} }

// SetNow sets the clock.
func (s *Server) SetNow(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

// SetLimit sets how many access tokens an organization may have.
func (s *Server) SetLimit(limit int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = limit
}

// SetRate sets how many requests are allowed in a minute.
func (s *Server) SetRate(perMinute int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.perMinute = perMinute
}

// AddPersonalToken gives a user a personal access token, and returns it.
func (s *Server) AddPersonalToken(user string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.personal[user] = "dckr_pat_" + rand.Text()
	return s.personal[user]
}

// AddUser adds a user, who owns the organizations.
func (s *Server) AddUser(name, password string, owns ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passwords[name] = password
	for _, organization := range owns {
		s.owners[organization] = append(s.owners[organization], name)
	}
}

// Dismiss takes the ownership of an organization from a user.
func (s *Server) Dismiss(organization, user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owners[organization] = slices.DeleteFunc(s.owners[organization], func(owner string) bool { return owner == user })
}

// AddRepository adds a repository.
func (s *Server) AddRepository(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repos[path] = true
}

// AddPuller adds an access token for [Repository] that never ends.
func (s *Server) AddPuller(label string) (username, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.addToken(&token{
		label: label, organization: Organization, by: Owner,
		resources: []resource{{Type: "TYPE_REPO", Path: Repository, Scopes: []string{"scope-image-pull"}}},
	})
	return Organization, t.secret
}

// Remove deletes the access tokens with a label, as another client would.
func (s *Server) Remove(label string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.tokens, func(_ string, t *token) bool { return t.label == label })
}

// CountAnew gives the ID of each access token to another one with a label of its own.
// Docker Hub's IDs are random, so that none is used again; another system that answers in
// its place could.
func (s *Server) CountAnew(keep bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var labels []string
	for i, id := range slices.Sorted(maps.Keys(s.tokens)) {
		old, foreign := s.tokens[id], *s.tokens[id]
		foreign.label, foreign.secret = "production-"+strconv.Itoa(i), rand.Text()
		s.tokens[id] = &foreign
		labels = append(labels, foreign.label)
		if keep {
			old.id = newID()
			s.tokens[old.id] = old
		}
	}
	slices.Sort(labels)
	return labels
}

func (s *Server) addToken(t *token) *token {
	s.order++
	t.id, t.secret, t.created, t.active, t.order = newID(), "dckr_oat_"+rand.Text(), s.now().UTC(), true, s.order
	s.tokens[t.id] = t
	return t
}

// newID returns a random UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (s *Server) works(t *token) bool {
	return t.active && (t.expires.IsZero() || s.now().Before(t.expires))
}

// Living returns the labels of the access tokens that work now, sorted.
func (s *Server) Living() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var labels []string
	for _, t := range s.tokens {
		if s.works(t) {
			labels = append(labels, t.label)
		}
	}
	slices.Sort(labels)
	return labels
}

// Count returns how many access tokens there are, with those that have expired.
func (s *Server) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tokens)
}

// Admins returns the names of the users whose password works, sorted.
func (s *Server) Admins() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.passwords))
}

// MintMatch matches requests that create access tokens.
func (*Server) MintMatch(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/access-tokens")
}

// Accepts reports whether the registry lets a credential pull from or push to a
// repository.
func (s *Server) Accepts(username, password, repository, action string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.secret == password {
			return t.organization == username && s.works(t) && (repository == "" || t.may(repository, action))
		}
	}
	return false
}

// may reports whether a token may do something in a repository. To push includes to pull.
func (t *token) may(repository, action string) bool {
	return slices.ContainsFunc(t.resources, func(r resource) bool {
		return r.Type == "TYPE_REPO" && (r.Path == repository || r.Path == t.organization+"/*" && strings.HasPrefix(repository, t.organization+"/")) &&
			(slices.Contains(r.Scopes, "scope-image-push") || action == "pull" && slices.Contains(r.Scopes, "scope-image-pull"))
	})
}

func (s *Server) accepts(username, password, repository string) bool {
	return s.Accepts(username, password, repository, "pull")
}

// Pulls reports whether a credential can pull from a repository.
func (s *Server) Pulls(c issuer.Credential, repository string) bool {
	request, err := http.NewRequest(http.MethodHead, s.URL+"/v2/"+repository+"/manifests/latest", nil)
	if err != nil {
		return false
	}
	request.SetBasicAuth(c.Username, c.Password.Reveal())
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}
