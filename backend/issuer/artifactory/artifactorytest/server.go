// SPDX-License-Identifier: MPL-2.0

// Package artifactorytest is a JFrog Platform in memory, for tests: the part of the REST
// API of JFrog Access about tokens, the health check, and Docker repositories that accept
// the tokens.
//
// It follows JFrog's REST reference as of 2026 (Create Token, Get Tokens, Get Token by ID,
// Revoke Token by ID, Get Root Certificate, Health Check) and its pages on access tokens
// (persistency and revocable thresholds, project administrators): permissions, limits of
// lengths, filters, status codes, and that tokens that end soon are not stored. The forms
// of refusals are those that JFrog's own clients expect and that users have reported
// (jfrog/vault-plugin-secrets-artifactory#286, jfrog/jfrog-client-go#753,
// jfrog/terraform-provider-artifactory#1135). Their texts are not documented.
//
// docs/connections/artifactory.md says where each behaviour is documented. Left out are
// refresh and reference tokens, requests in the form of web forms, users with passwords,
// and the token service of the Docker repositories.
package artifactorytest

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// Contents of a new [Server].
const (
	Admin        = "vault"        // an administrator
	Group        = "readers"      // may read Repository
	OtherGroup   = "builders"     // may read OtherRepository
	Project      = "apps"         // has Role, which may read Repository
	Role         = "Viewer"       // a role in Project
	Manager      = "team-lead"    // administrator of Project, and no other
	Repository   = "docker-local" // a Docker repository
	OtherRepo    = "docker-prod"  // another one
	service      = "jfac@01hq5w6v8x9m3k"
	scopeAdmin   = "applied-permissions/admin"
	scopeUser    = "applied-permissions/user"
	scopeGroups  = "applied-permissions/groups:"
	scopeRoles   = "applied-permissions/roles:"
	everyService = "*@*"
)

// Defaults of thresholds, and of the longest life of a token of others than
// administrators.
const (
	PersistentThreshold = 3 * time.Hour
	RevocableThreshold  = 6 * time.Hour
	maxExpiry           = 365 * 24 * time.Hour
)

// cleanup is how long an expired token is still listed.
const cleanup = time.Hour

// Server is a JFrog Platform. It is safe for concurrent use.
type Server struct {
	*issuertest.Server

	mu         sync.Mutex
	now        func() time.Time
	persistent time.Duration
	down       bool
	users      map[string]*user
	grants     map[string][]string // repositories by group/NAME and project/KEY/ROLE
	tokens     map[string]*token   // by ID
	secret     string              // of the token of Connection
	root       string              // certificate
}

type user struct {
	name    string
	admin   bool
	manages []string // keys of projects
}

type token struct {
	id, name, secret string
	user             string
	scope            string
	audience         string
	issued           time.Time
	expires          time.Time // zero: never
	forced           bool      // force_revocable
	stored           bool
	project          string // of a token that a project administrator created
}

// scopes returns the parts of a token's scope.
func (t *token) scopes() []string { return strings.Fields(t.scope) }

// life is from its creation to its end, 0 if it has none.
func (t *token) life() time.Duration {
	if t.expires.IsZero() {
		return 0
	}
	return t.expires.Sub(t.issued)
}

// isFor reports whether a service accepts a token, such as "jfrt" for Artifactory.
func (t *token) isFor(service string) bool {
	return slices.ContainsFunc(strings.Fields(t.audience), func(id string) bool {
		kind, _, _ := strings.Cut(id, "@")
		return kind == "*" || kind == service
	})
}

// New starts a JFrog Platform. The root credential of [Server.Connection] is an access
// token of [Admin].
func New(t issuertest.Owner) *Server {
	t.Helper()
	return NewAt(t, time.Now)
}

// NewAt is New with a clock.
func NewAt(t issuertest.Owner, now func() time.Time) *Server {
	t.Helper()
	s := &Server{
		now:        now,
		persistent: PersistentThreshold,
		users:      map[string]*user{},
		grants: map[string][]string{
			"group/" + Group:                    {Repository},
			"group/" + OtherGroup:               {OtherRepo},
			"project/" + Project + "/" + Role:   {Repository},
			"project/" + Project + "/Developer": {Repository},
		},
		tokens: map[string]*token{},
		root:   RootCertificate(),
	}
	mux := http.NewServeMux()
	mux.Handle("/access/", http.HandlerFunc(s.serveAccess))
	mux.Handle("GET /router/api/v1/system/health", http.HandlerFunc(s.serveHealth))
	mux.Handle("/v2/", issuertest.Registry(s.accepts))
	s.Server = issuertest.NewServer(t, mux)
	s.AddUser(Admin, true)
	s.AddUser(Manager, false, Project)
	s.secret = s.AddToken(Admin, "initial", scopeAdmin, 90*24*time.Hour)
	return s
}

// RootCertificate returns a certificate as the API does: DER in base64.
var RootCertificate = sync.OnceValue(func() string {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "JFrog Token Issuer " + service}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(der)
})

// Connection returns a connection with the token of [Admin].
func (s *Server) Connection() issuer.Connection { return s.ConnectionWith(s.secret) }

// ConnectionWith returns a connection with another token.
func (s *Server) ConnectionWith(token string) issuer.Connection {
	return issuer.Connection{
		URL:        s.URL,
		Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())},
		Secrets:    issuer.Secrets{"token": dockerconfig.NewSecret(token)},
		Now:        func() time.Time { return s.clock() },
	}
}

// ConnectionOfManager returns a connection with a token of [Manager].
func (s *Server) ConnectionOfManager() issuer.Connection {
	c := s.ConnectionWith(s.AddToken(Manager, "of the manager", scopeUser, 90*24*time.Hour))
	c.Settings = issuer.Settings{"username": Manager}
	return c
}

// Role returns the fields of a valid role.
func (*Server) Role() issuer.Settings { return issuer.Settings{"groups": Group} }

// SetNow sets the clock.
func (s *Server) SetNow(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

func (s *Server) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now()
}

// SetPersistentThreshold sets below which life a token is not stored.
func (s *Server) SetPersistentThreshold(threshold time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.persistent = threshold
}

// SetDown makes the API refuse every token, and the health check say so, or ends that.
func (s *Server) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// AddUser adds a user, who may be an administrator, or one of projects.
func (s *Server) AddUser(name string, admin bool, manages ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name] = &user{name: name, admin: admin, manages: manages}
}

// AddToken adds a token with a description for a user, who need not exist, and returns it.
// A life of 0 has no end.
func (s *Server) AddToken(user, name, scope string, life time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addToken(&token{name: name, user: user, scope: scope, audience: everyService}, life).secret
}

// AddTokenFor is AddToken for one with an audience.
func (s *Server) AddTokenFor(audience, user, name, scope string, life time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addToken(&token{name: name, user: user, scope: scope, audience: audience}, life).secret
}

// AddRoot adds a token of [Admin] that never ends, and returns it.
func (s *Server) AddRoot(name string) string { return s.AddToken(Admin, name, scopeAdmin, 0) }

// AddPuller adds a token that can pull from [Repository] and never ends.
func (s *Server) AddPuller(name string) (username, secret string) {
	return name, s.AddToken(name, name, scopeGroups+Group, 0)
}

// Remove revokes the tokens with a description, as another client would.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.tokens, func(_ string, t *token) bool { return t.name == name })
}

// Demote makes a user an ordinary one. Tokens with the scope of an administrator that were
// created for this user lose it, as far as these tests are concerned.
func (s *Server) Demote(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name].admin, s.users[name].manages = false, nil
	for _, t := range s.tokens {
		if t.user == name && t.scope == scopeAdmin {
			t.scope = scopeUser
		}
	}
}

// CountAnew gives the ID of each token that cannot create others to another one with a
// name of its own. JFrog's IDs are random, so that none is used again; another system
// that answers in its place could.
func (s *Server) CountAnew(keep bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for i, id := range slices.Sorted(maps.Keys(s.tokens)) {
		old, foreign := s.tokens[id], *s.tokens[id]
		if s.mayCreate(old) {
			continue
		}
		foreign.name, foreign.secret = fmt.Sprintf("production-%d", i), rand.Text()
		s.tokens[id] = &foreign
		names = append(names, foreign.name)
		if keep {
			old.id = newID()
			s.tokens[old.id] = old
		}
	}
	slices.Sort(names)
	return names
}

// addToken adds a token that lives as long; 0: without end.
func (s *Server) addToken(t *token, life time.Duration) *token {
	t.id, t.issued = newID(), s.now().UTC().Truncate(time.Second)
	if life > 0 {
		t.expires = t.issued.Add(life)
	}
	t.stored = life == 0 || life >= s.persistent
	t.secret = t.signed()
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

// signed returns a token in the form of a JWT, whose signature is random.
func (t *token) signed() string {
	claims := map[string]any{
		"sub": service + "/users/" + t.user, "scp": t.scope, "aud": t.audience, "iss": service,
		"iat": t.issued.Unix(), "jti": t.id,
	}
	if !t.expires.IsZero() {
		claims["exp"] = t.expires.Unix()
	}
	if t.forced {
		claims["ext"] = `{"revocable":"true"}`
	}
	header, _ := json.Marshal(map[string]string{"ver": "2", "typ": "JWT", "alg": "RS256", "kid": "test"})
	payload, _ := json.Marshal(claims)
	encode := base64.RawURLEncoding.EncodeToString
	return encode(header) + "." + encode(payload) + "." + encode([]byte(rand.Text()+rand.Text()))
}

func (s *Server) expired(t *token) bool { return !t.expires.IsZero() && !s.now().Before(t.expires) }

// isAdmin reports whether a token has the rights of an administrator.
func (s *Server) isAdmin(t *token) bool {
	u := s.users[t.user]
	return slices.Contains(t.scopes(), scopeAdmin) || slices.Contains(t.scopes(), scopeUser) && u != nil && u.admin
}

// mayCreate reports whether a token can create others: one of an administrator or of a
// user, but not one with the rights of groups or roles only.
func (s *Server) mayCreate(t *token) bool {
	return s.isAdmin(t) || slices.Contains(t.scopes(), scopeUser) && s.users[t.user] != nil
}

// names returns the descriptions of the tokens that work now and for which keep is true,
// sorted.
func (s *Server) names(keep func(*token) bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, t := range s.tokens {
		if !s.expired(t) && keep(t) {
			names = append(names, t.name)
		}
	}
	slices.Sort(names)
	return names
}

// Living returns the descriptions of the tokens that work now and cannot create others.
func (s *Server) Living() []string { return s.names(func(t *token) bool { return !s.mayCreate(t) }) }

// Admins returns the descriptions of the tokens that work now and can create others.
func (s *Server) Admins() []string { return s.names(s.mayCreate) }

// Life returns how long the token with a description lives from its creation; 0 if it has
// no end.
func (s *Server) Life(name string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.name == name {
			return t.life()
		}
	}
	return -1
}

// MintMatch matches requests that create tokens.
func (*Server) MintMatch(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Path == "/access/api/v1/tokens"
}

// Pulls reports whether a credential can pull from a repository.
func (s *Server) Pulls(c issuer.Credential, repository string) bool {
	request, err := http.NewRequest(http.MethodHead, s.URL+"/v2/"+repository+"/web/manifests/latest", nil)
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

// accepts reports whether a credential may pull from a repository, or log in if it is "".
func (s *Server) accepts(username, password, repository string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.withSecret(password)
	if t == nil || s.down || s.expired(t) || t.user != strings.ToLower(username) || !t.isFor("jfrt") {
		return false
	}
	name, _, _ := strings.Cut(repository, "/")
	return name == "" || s.isAdmin(t) || slices.Contains(s.readable(t), name)
}

// readable returns the repositories that a token may read.
func (s *Server) readable(t *token) []string {
	var repositories []string
	for _, scope := range t.scopes() {
		prefix, names := "group/", strings.TrimPrefix(scope, scopeGroups)
		if of, isRole := strings.CutPrefix(scope, scopeRoles); isRole {
			var key string
			key, names, _ = strings.Cut(of, ":")
			prefix = "project/" + key + "/"
		} else if names == scope {
			continue
		}
		for name := range strings.SplitSeq(names, ",") {
			repositories = append(repositories, s.grants[prefix+name]...)
		}
	}
	return repositories
}

func (s *Server) withSecret(secret string) *token {
	for _, t := range s.tokens {
		if t.secret == secret && secret != "" {
			return t
		}
	}
	return nil
}

// listed returns the tokens that the API knows, sorted by creation.
func (s *Server) listed() []*token {
	var all []*token
	for _, t := range s.tokens {
		if t.stored && (t.expires.IsZero() || s.now().Before(t.expires.Add(cleanup))) {
			all = append(all, t)
		}
	}
	slices.SortFunc(all, func(a, b *token) int { return cmp.Or(a.issued.Compare(b.issued), cmp.Compare(a.id, b.id)) })
	return all
}
