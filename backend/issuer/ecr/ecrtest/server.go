// SPDX-License-Identifier: MPL-2.0

// Package ecrtest is an in-memory AWS with the parts that the issuer ecr uses:
// GetAuthorizationToken of ECR (API version 2015-09-21) and ECR Public (2020-10-30),
// AssumeRole and GetCallerIdentity of STS (2011-06-15), access keys and tags of IAM
// users (2010-05-08), and a registry. It follows the API references of November
// 2026: the JSON 1.1 and the query protocol, signatures of version 4, policies of
// users and roles, session policies, limits and errors.
//
// One behaviour is not in the references and comes from reports of users: a token
// keeps working after the access key that minted it was deleted
// (github.com/aws/aws-cli/issues/3500).
package ecrtest

import (
	"encoding/base64"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const (
	// Account is the AWS account of all users and roles, and of all repositories
	// whose host names no other account.
	Account = "111122223333"

	// Region is the region of the private registries.
	Region = "eu-central-1"

	// User is the name of the IAM user of [Server.Connection].
	User = "regcred"

	// RoleName is the name of the role that the user assumes.
	RoleName = "regcred-ecr"

	// ExternalID is the external ID that the role requires.
	ExternalID = "vault-regcred"

	// IdentityAudience is the audience of the identity provider that trusts Vault.
	IdentityAudience = "vault.example.com/v1/identity/oidc/plugins"

	// podProof is the web identity token of the pod that Vault runs in.
	podProof = "eyJhbGciOiJSUzI1NiJ9.b2YtdGhlLXBvZA.c2lnbmF0dXJl"

	tokenLifetime   = 12 * time.Hour
	sessionLifetime = time.Hour
	keysPerUser     = 2
)

// Key is an access key of an IAM user.
type Key struct {
	ID, Secret string
	Created    time.Time
}

// Server is an AWS on loopback.
type Server struct {
	*issuertest.Server

	mu       sync.Mutex
	now      func() time.Time
	users    map[string]*user
	roles    map[string]*role
	sessions map[string]*session // by access key ID
	tokens   map[string]*token   // by password
	shared   map[string]bool     // accounts whose repositories Account may pull
	key      Key                 // first key of User
	keyCount int
	podRole  string            // that the pod may assume
	vault    *issuertest.Vault // whose tokens the identity provider trusts
}

type user struct {
	keys  []Key
	tags  map[string]string
	allow []Statement
}

type role struct {
	trusts     []string // names of users
	externalID string
	allow      []Statement
}

// principal is the signer of a request.
type principal struct {
	arn   string
	name  string // of the user or of the session
	user  string // "" for a session
	allow func() []Statement
	limit []Statement // the session policy
	bound bool        // whether there is a session policy
}

type session struct {
	principal
	secret, token string
	expires       time.Time
}

type token struct {
	principal
	public  bool
	expires time.Time
}

// New starts an AWS with one user and one role. They have the permissions that the
// documentation of the type requires.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		now:   time.Now,
		users: map[string]*user{}, roles: map[string]*role{}, sessions: map[string]*session{},
		tokens: map[string]*token{}, shared: map[string]bool{},
	}
	self := "arn:aws:iam::" + Account + ":user/" + User
	s.key = s.AddUser(User,
		Statement{Actions: []string{"sts:AssumeRole"}, Resources: []string{"arn:aws:iam::" + Account + ":role/" + RoleName}},
		Statement{
			Actions: []string{
				"iam:CreateAccessKey", "iam:DeleteAccessKey", "iam:ListAccessKeys",
				"iam:ListUserTags", "iam:TagUser", "iam:UntagUser",
			},
			Resources: []string{self},
		},
	)
	s.AddRole(RoleName, []string{User}, ExternalID, Reading()...)
	s.Server = issuertest.NewServer(t, http.HandlerFunc(s.serve))
	return s
}

// Reading returns the permissions to pull from every repository.
func Reading() []Statement {
	return []Statement{
		{Actions: []string{"ecr:GetAuthorizationToken"}, Resources: []string{"*"}},
		{Actions: []string{"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}, Resources: []string{"*"}},
	}
}

// Everything returns the permission to do anything.
func Everything() Statement {
	return Statement{Actions: []string{"*"}, Resources: []string{"*"}}
}

// AddUser adds or replaces an IAM user with one key.
func (s *Server) AddUser(name string, allow ...Statement) Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.newKey("AKIA")
	s.users[name] = &user{keys: []Key{key}, tags: map[string]string{}, allow: allow}
	return key
}

// AddKey adds another key to a user, as an administrator would.
func (s *Server) AddKey(name string) Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.newKey("AKIA")
	s.users[name].keys = append(s.users[name].keys, key)
	return key
}

// SetTag sets a tag of a user.
func (s *Server) SetTag(name, key, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[name].tags[key] = value
}

// AddToken adds a token of a user, and returns it.
func (s *Server) AddToken(name string) (username, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "AWS", s.addToken(s.userPrincipal(name), false)
}

// AddRole adds a role that the named users may assume, and returns its ARN. With an
// empty external ID, it requires none.
func (s *Server) AddRole(name string, trusts []string, externalID string, allow ...Statement) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.roles[name] = &role{trusts: trusts, externalID: externalID, allow: allow}
	return "arn:aws:iam::" + Account + ":role/" + name
}

// TrustPod lets the pod that Vault runs in assume a role with its web identity token,
// which it returns. A client with the transport reaches the server as the STS of AWS.
func (s *Server) TrustPod(role string, inner http.RoundTripper) (proof string, transport http.RoundTripper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.podRole = role
	return podProof, asSTS{inner, s}
}

// Trusting returns a connection without a key, whose role trusts the identity tokens of a
// Vault. Its client reaches the server as the STS of AWS.
func (s *Server) Trusting(vault *issuertest.Vault) issuer.Connection {
	inner := issuer.NewHTTP(nil)
	_, transport := s.TrustPod(RoleName, inner.Transport)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vault = vault
	return issuer.Connection{
		URL:        s.URL,
		Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())},
		Settings: issuer.Settings{
			"region": Region, "role_arn": "arn:aws:iam::" + Account + ":role/" + RoleName,
			issuer.FieldIdentityTokenAudience: IdentityAudience,
		},
		IdentityToken: vault.Source(IdentityAudience),
		HTTP:          &http.Client{Transport: transport, CheckRedirect: inner.CheckRedirect},
	}
}

// asSTS sends to a server what is for the STS of AWS.
type asSTS struct {
	http.RoundTripper
	server *Server
}

// RoundTrip implements [http.RoundTripper].
func (a asSTS) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == "sts."+Region+".amazonaws.com" {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = "http", a.server.Host()
		r = out
	}
	return a.RoundTripper.RoundTrip(r)
}

// Share lets [Account] pull from the repositories of another account.
func (s *Server) Share(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shared[account] = true
}

// SetNow sets the clock for the end of sessions and tokens.
func (s *Server) SetNow(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

// Tags returns a copy of the tags of a user.
func (s *Server) Tags(name string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	tags := map[string]string{}
	for key, value := range s.users[name].tags {
		tags[key] = value
	}
	return tags
}

// Connection returns a connection that assumes the role for each credential.
func (s *Server) Connection() issuer.Connection {
	c := s.WithKey(s.key)
	c.Settings["role_arn"], c.Settings["external_id"] = "arn:aws:iam::"+Account+":role/"+RoleName, ExternalID
	return c
}

// WithKey returns a connection with a user's key and without a role.
func (s *Server) WithKey(key Key) issuer.Connection {
	return issuer.Connection{
		URL:        s.URL,
		Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())},
		Settings:   issuer.Settings{"region": Region, "access_key_id": key.ID},
		Secrets:    issuer.Secrets{"secret_access_key": dockerconfig.NewSecret(key.Secret)},
	}
}

// Role returns the fields of a role that pulls team/app.
func (*Server) Role() issuer.Settings {
	return issuer.Settings{"repositories": "team/app", "access": "pull"}
}

// Living returns the names of the tokens that work, sorted. The name is that of the
// session or user that minted the token. Tokens of a check are included, because AWS
// cannot end them.
func (s *Server) Living() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, t := range s.tokens {
		if t.expires.After(s.now()) {
			names = append(names, t.name)
		}
	}
	slices.Sort(names)
	return names
}

// Admins returns the IDs of the access keys of all users, sorted.
func (s *Server) Admins() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, u := range s.users {
		for _, key := range u.keys {
			ids = append(ids, key.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// MintMatch matches the request that mints.
func MintMatch(r *http.Request) bool {
	return strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".GetAuthorizationToken")
}

// MintMatch calls the function [MintMatch].
func (*Server) MintMatch(r *http.Request) bool { return MintMatch(r) }

// CallMatch matches the calls of an action of IAM or STS.
func CallMatch(action string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return r.Header.Get("X-Amz-Target") == "" && strings.Contains(peek(r), "Action="+action+"&")
	}
}

// Pulls reports whether a credential may pull a repository of [Account].
func (s *Server) Pulls(c issuer.Credential, repository string) bool {
	return s.Allows(c, "ecr:BatchGetImage", Account, repository)
}

// Allows reports whether a credential may do an action on a repository. An action of
// ecr-public is about a repository of the public registry.
func (s *Server) Allows(c issuer.Credential, action, account, repository string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.allows(c.Username, c.Password.Reveal(), action, account, repository)
}

func (s *Server) allows(username, password, action, account, repository string) bool {
	t := s.tokens[password]
	public := strings.HasPrefix(action, "ecr-public:")
	if t == nil || username != "AWS" || t.public != public || !t.expires.After(s.now()) {
		return false
	}
	if repository == "" {
		return true // /v2/ itself
	}
	arn := "arn:aws:ecr:" + Region + ":" + account + ":repository/" + repository
	if public {
		arn = "arn:aws:ecr-public::" + account + ":repository/" + repository
	}
	return t.may(action, arn) && (account == Account || s.shared[account])
}

var ecrHost = regexp.MustCompile(`^([0-9]{12})\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com$`)

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	s.mu.Unlock()
	switch target := r.Header.Get("X-Amz-Target"); {
	case strings.HasPrefix(r.URL.Path, "/v2/"):
		account := Account
		if found := ecrHost.FindStringSubmatch(r.Host); found != nil {
			account = found[1]
		}
		issuertest.Registry(func(username, password, repository string) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.allows(username, password, "ecr:BatchGetImage", account, repository)
		}).ServeHTTP(w, r)
	case r.Method != http.MethodPost || r.URL.Path != "/":
		http.NotFound(w, r)
	case target != "":
		s.serveJSON(w, r, target)
	default:
		s.serveQuery(w, r)
	}
}

// encode returns the form of a token in an answer.
func encode(password string) string {
	return base64.StdEncoding.EncodeToString([]byte("AWS:" + password))
}
