// SPDX-License-Identifier: MPL-2.0

// Package gartest is an in-memory Google with the parts that the issuer gar uses:
// generateAccessToken of the IAM Service Account Credentials API (v1), the OAuth 2.0
// token server for keys of service accounts (JWT bearer grant, RFC 7523), the Security
// Token Service (v1) for workload identity federation, the metadata server, and a
// registry. It follows Google's references of November 2026: scopes, lifetimes, roles,
// bodies of errors.
//
// What the references leave open, and is decided here: the text of the error for a
// lifetime that is too long.
package gartest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const (
	project = "acme.iam.gserviceaccount.com"

	// Root is the service account of [Server.Connection]'s key, which may mint for
	// Puller and Pusher.
	Root = "regcred@" + project

	// Puller may read Repository; its tokens may live for 12 hours.
	Puller = "puller@" + project

	// Pusher may write to Repository; its tokens live for an hour at most.
	Pusher = "pusher@" + project

	// Repository is what Puller and Pusher may use.
	Repository = "acme/images/app"

	// Audience is the provider of workload identity federation that Federated comes
	// through.
	Audience = "//iam.googleapis.com/projects/1234/locations/global/workloadIdentityPools/vault/providers/cluster"

	// Federated is the principal of the pod that Vault runs in.
	Federated = "principal://iam.googleapis.com/projects/1234/locations/global/workloadIdentityPools/vault/subject/system:serviceaccount:vault:vault"

	// Mount is the principal of the mount of [issuertest.Vault].
	Mount = "principal://iam.googleapis.com/projects/1234/locations/global/workloadIdentityPools/vault/subject/" + issuertest.MountSubject

	// KeyID is the ID of the key of Root.
	KeyID = "0123456789abcdef0123456789abcdef01234567"

	scopes       = "https://www.googleapis.com/auth/"
	rootLifetime = time.Hour
	shortest     = 10 * time.Minute
	extended     = 12 * time.Hour

	// Names of grants and of types of tokens (RFC 7523, RFC 8693).
	jwtGrant      = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
	accessType    = "urn:ietf:params:oauth:token-type:access_token"
	jwtType       = "urn:ietf:params:oauth:token-type:jwt"
)

// key is the key of every server's Root: making one takes long.
var key = sync.OnceValue(func() *rsa.PrivateKey {
	made, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return made
})

// Server is a Google on loopback.
type Server struct {
	*issuertest.Server

	mu           sync.Mutex
	now          func() time.Time
	creators     map[string][]string // principals with serviceAccountTokenCreator, by service account
	extended     map[string]bool     // in allowServiceAccountCredentialLifetimeExtension
	readers      map[string][]string // service accounts by repository
	writers      map[string][]string
	keyDisabled  bool
	subjectToken string
	vault        *issuertest.Vault // whose tokens the provider trusts
	machine      string            // service account of the metadata server; "": there is none
	tokens       map[string]*token
}

type token struct {
	principal string
	scopes    []string
	expires   time.Time
	minted    bool // by generateAccessToken
}

// New starts a Google with the accounts of this package.
func New(t issuertest.Owner) *Server {
	t.Helper()
	s := &Server{
		now:          time.Now,
		creators:     map[string][]string{Puller: {Root, Federated, Mount}, Pusher: {Root}},
		extended:     map[string]bool{Puller: true},
		readers:      map[string][]string{Repository: {Puller, Pusher}},
		writers:      map[string][]string{Repository: {Pusher}},
		subjectToken: "of-the-pod-" + rand.Text(),
		tokens:       map[string]*token{},
	}
	s.Server = issuertest.NewServer(t, http.HandlerFunc(s.serve))
	return s
}

// Connection returns a connection with the key of Root, whose credentials act as Puller.
func (s *Server) Connection() issuer.Connection {
	c := issuer.Connection{URL: s.URL, Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())}, Settings: s.Keyless().Settings}
	c.Secrets = issuer.Secrets{"service_account_key": dockerconfig.NewSecret(Key(Root))}
	return c
}

// Keyless returns a connection without a key. Its client reaches the server under the
// names of Google.
func (s *Server) Keyless() issuer.Connection {
	inner := issuer.NewHTTP(nil)
	return issuer.Connection{
		Registries: []dockerconfig.Key{"europe-docker.pkg.dev"},
		Settings:   issuer.Settings{"service_account": Puller, "token_lifetime": "12h"},
		HTTP:       &http.Client{Transport: asGoogle{inner.Transport, s}, CheckRedirect: inner.CheckRedirect},
	}
}

// Trusting returns a keyless connection that proves who it is by the identity tokens of a
// Vault, which the provider trusts.
func (s *Server) Trusting(vault *issuertest.Vault) issuer.Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vault = vault
	c := s.Keyless()
	c.Settings[issuer.FieldIdentityTokenAudience], c.IdentityToken = "https:"+Audience, vault.Source("https:"+Audience)
	return c
}

// principal returns who a token of another issuer is; "" if the provider does not trust it.
// Without audiences of its own, a provider accepts its own name, with https: or without.
func (s *Server) principal(subjectToken string) string {
	if subjectToken == s.subjectToken {
		return Federated
	}
	subject, audience, ok := s.vault.Verify(subjectToken)
	if !ok || audience != Audience && audience != "https:"+Audience {
		return ""
	}
	return strings.TrimSuffix(Mount, issuertest.MountSubject) + subject
}

// asGoogle sends to a server what is for Google.
type asGoogle struct {
	http.RoundTripper
	server *Server
}

// RoundTrip implements [http.RoundTripper].
func (g asGoogle) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Host, ".googleapis.com") {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = "http", g.server.Host()
		r = out
	}
	return g.RoundTripper.RoundTrip(r)
}

// Role returns the fields of a role that pulls.
func (*Server) Role() issuer.Settings { return issuer.Settings{"access": "pull"} }

// keyFile is the form of a key.
type keyFile struct {
	Type     string `json:"type"`
	Project  string `json:"project_id"`
	ID       string `json:"private_key_id"`
	Private  string `json:"private_key"`
	Email    string `json:"client_email"`
	Client   string `json:"client_id"`
	Auth     string `json:"auth_uri"`
	Server   string `json:"token_uri"`
	Universe string `json:"universe_domain"`
}

// Key returns a key of a service account, as Google hands it out. Only that of [Root] is
// known to servers.
func Key(email string) string {
	der, err := x509.MarshalPKCS8PrivateKey(key())
	if err != nil {
		panic(err)
	}
	return encode(keyFile{
		Type: "service_account", Project: "acme", ID: KeyID,
		Private: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		Email:   email, Client: "100000000000000000000",
		Auth: "https://accounts.google.com/o/oauth2/auth", Server: "https://oauth2.googleapis.com/token",
		Universe: "googleapis.com",
	})
}

// PrivateLine returns a line of the private key of [Root].
func PrivateLine() string {
	var file keyFile
	if err := json.Unmarshal([]byte(Key(Root)), &file); err != nil {
		panic(err)
	}
	return strings.Split(file.Private, "\n")[3]
}

// federation is the form of a configuration of workload identity federation.
type federation struct {
	Type        string `json:"type"`
	Audience    string `json:"audience"`
	SubjectType string `json:"subject_token_type"`
	Server      string `json:"token_url"`
	Source      struct {
		File string `json:"file"`
	} `json:"credential_source"`
}

// Federation writes the token file of a pod, and returns the configuration of workload
// identity federation that names it.
func (s *Server) Federation(write func(name, content string) (path string)) string {
	file := federation{Type: "external_account", Audience: Audience, SubjectType: jwtType, Server: "https://sts.googleapis.com/v1/token"}
	file.Source.File = write("token", s.subjectToken)
	return encode(file)
}

// SetMachine makes the metadata server answer with the tokens of a service account; ""
// for a machine elsewhere.
func (s *Server) SetMachine(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.machine = account
}

// Allow lets a principal mint for a service account that may read [Repository].
func (s *Server) Allow(principal, account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.creators[account] = append(s.creators[account], principal)
	s.readers[Repository] = append(s.readers[Repository], account)
}

// DisableKey makes the key of Root unusable, or usable again.
func (s *Server) DisableKey(disabled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keyDisabled = disabled
}

// SetNow sets the clock for the end of tokens.
func (s *Server) SetNow(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

// AddToken adds a token of a service account, and returns it as a login.
func (s *Server) AddToken(account string) (username, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "oauth2accesstoken", s.add(account, []string{scopes + "devstorage.read_only"}, rootLifetime, true)
}

// Minted returns how many tokens generateAccessToken has made.
func (s *Server) Minted() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.minted {
			n++
		}
	}
	return n
}

// MintMatch matches the request that mints.
func MintMatch(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, ":generateAccessToken")
}

// MintMatch calls the function [MintMatch].
func (*Server) MintMatch(r *http.Request) bool { return MintMatch(r) }

// Pulls reports whether a credential may pull a repository.
func (s *Server) Pulls(c issuer.Credential, repository string) bool {
	return s.allows(c.Username, c.Password.Reveal(), repository, false)
}

// Pushes reports whether a credential may push to a repository.
func (s *Server) Pushes(c issuer.Credential, repository string) bool {
	return s.allows(c.Username, c.Password.Reveal(), repository, true)
}

func (s *Server) allows(username, password, repository string, push bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokens[password]
	if t == nil || username != "oauth2accesstoken" || !t.expires.After(s.now()) {
		return false
	}
	if push {
		return slices.Contains(s.writers[repository], t.principal) && t.has("devstorage.read_write", "devstorage.full_control", "cloud-platform")
	}
	return (repository == "" || slices.Contains(s.readers[repository], t.principal)) &&
		t.has("devstorage.read_only", "devstorage.read_write", "devstorage.full_control", "cloud-platform")
}

func (t *token) has(one ...string) bool {
	return slices.ContainsFunc(one, func(scope string) bool { return slices.Contains(t.scopes, scopes+scope) })
}

// add adds a token. s.mu is held.
func (s *Server) add(principal string, of []string, lifetime time.Duration, minted bool) string {
	value := "ya29.c." + rand.Text() + rand.Text()
	s.tokens[value] = &token{principal: principal, scopes: of, expires: s.now().Add(lifetime), minted: minted}
	return value
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasPrefix(r.URL.Path, "/v2/"):
		issuertest.Registry(func(username, password, repository string) bool {
			return s.allows(username, password, repository, false)
		}).ServeHTTP(w, r)
	case r.Method == http.MethodPost && r.URL.Path == "/token":
		s.serveKey(w, r)
	case r.Method == http.MethodPost && r.URL.Path == "/v1/token":
		s.serveFederation(w, r)
	case r.Method == http.MethodPost && MintMatch(r):
		s.generate(w, r)
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/computeMetadata/v1/"):
		s.serveMetadata(w, r)
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = fmt.Fprint(w, "<!DOCTYPE html><title>Error 404 (Not Found)!!1</title><p>The requested URL was not found on this server.")
	}
}

// generate answers generateAccessToken.
func (s *Server) generate(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	who := s.tokens[bearer]
	if who == nil || !who.expires.After(s.now()) {
		refuse(w, http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.")
		return
	}
	if !who.has("iam", "cloud-platform") {
		refuse(w, http.StatusForbidden, "PERMISSION_DENIED", "Request had insufficient authentication scopes.")
		return
	}
	path, _ := strings.CutSuffix(r.URL.Path, ":generateAccessToken")
	account, named := strings.CutPrefix(path, "/v1/projects/-/serviceAccounts/")
	if !named {
		refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Request contains an invalid argument.")
		return
	}
	var in struct {
		Scope    []string
		Lifetime string
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Invalid JSON payload received.")
		return
	}
	lifetime, err := time.ParseDuration(in.Lifetime)
	switch {
	case !slices.Contains(s.creators[account], who.principal):
		refuse(w, http.StatusForbidden, "PERMISSION_DENIED", "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).")
	case len(in.Scope) == 0 || slices.ContainsFunc(in.Scope, func(scope string) bool { return !strings.HasPrefix(scope, scopes) }):
		refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Request contains an invalid argument.")
	case err != nil || !strings.HasSuffix(in.Lifetime, "s") || strings.ContainsAny(in.Lifetime, "hm") || lifetime < shortest:
		refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Request contains an invalid argument.")
	case lifetime > rootLifetime && (!s.extended[account] || lifetime > extended):
		refuse(w, http.StatusBadRequest, "INVALID_ARGUMENT", "The requested lifetime is longer than the allowed maximum lifetime.")
	default:
		value := s.add(account, in.Scope, lifetime, true)
		answer(w, http.StatusOK, map[string]string{
			"accessToken": value,
			"expireTime":  s.tokens[value].expires.UTC().Add(time.Second - 1).Truncate(time.Second).Format(time.RFC3339),
		})
	}
}

// serveKey answers the JWT bearer grant.
func (s *Server) serveKey(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.PostFormValue("grant_type") != jwtGrant {
		refuseGrant(w, "unsupported_grant_type", "Invalid grant_type: "+r.PostFormValue("grant_type"))
		return
	}
	header, claims, wrong := verify(r.PostFormValue("assertion"))
	lifetime := claims.Expires - claims.Issued
	switch now := time.Now().Unix(); { // who signs has no other clock
	case wrong != "":
		refuseGrant(w, "invalid_grant", wrong)
	case claims.Issuer != Root:
		refuseGrant(w, "invalid_grant", "Invalid grant: account not found")
	case s.keyDisabled || header.KeyID != KeyID:
		refuseGrant(w, "invalid_grant", "Invalid JWT Signature.")
	case claims.Audience != "https://oauth2.googleapis.com/token":
		refuseGrant(w, "invalid_grant", "Invalid JWT: Failed audience check. The audience must be https://oauth2.googleapis.com/token")
	case lifetime <= 0 || lifetime > 3600 || claims.Issued > now+300 || claims.Expires < now:
		refuseGrant(w, "invalid_grant", "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.")
	case claims.Scope == "":
		refuseGrant(w, "invalid_scope", "Invalid OAuth scope or ID token audience provided.")
	default:
		answer(w, http.StatusOK, map[string]any{
			"access_token": s.add(claims.Issuer, strings.Fields(claims.Scope), rootLifetime, false), "expires_in": 3599, "token_type": "Bearer",
		})
	}
}

type jwtHeader struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
}

type jwtClaims struct {
	Issuer   string `json:"iss"`
	Scope    string `json:"scope"`
	Audience string `json:"aud"`
	Issued   int64  `json:"iat"`
	Expires  int64  `json:"exp"`
}

// verify reads a JWT. wrong says what is wrong with it.
func verify(assertion string) (header jwtHeader, claims jwtClaims, wrong string) {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return header, claims, "Bad Request"
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !decode(parts[0], &header) || !decode(parts[1], &claims) {
		return header, claims, "Bad Request"
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if header.Algorithm != "RS256" || rsa.VerifyPKCS1v15(&key().PublicKey, crypto.SHA256, sum[:], signature) != nil {
		return header, claims, "Invalid JWT Signature."
	}
	return header, claims, ""
}

func decode(part string, into any) bool {
	text, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(text, into) == nil
}

// serveFederation answers the Security Token Service.
func (s *Server) serveFederation(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	scope := r.PostFormValue("scope")
	switch {
	case r.PostFormValue("grant_type") != exchangeGrant, r.PostFormValue("requested_token_type") != accessType, r.PostFormValue("subject_token_type") != jwtType:
		refuseGrant(w, "invalid_request", "Invalid request")
	case r.PostFormValue("audience") != Audience:
		refuseGrant(w, "invalid_target", "The target service indicated by the \"audience\" parameters is invalid. This might either be because the pool or provider is disabled or deleted or because it doesn't exist.")
	case s.principal(r.PostFormValue("subject_token")) == "":
		refuseGrant(w, "invalid_grant", "The ID Token issuer is not trusted by the workload identity pool provider.")
	case scope == "":
		refuseGrant(w, "invalid_scope", "At least one scope must be provided.")
	default:
		answer(w, http.StatusOK, map[string]any{
			"access_token": s.add(s.principal(r.PostFormValue("subject_token")), strings.Fields(scope), rootLifetime, false), "issued_token_type": accessType, "expires_in": 3599, "token_type": "Bearer",
		})
	}
}

// serveMetadata answers as the metadata server of a machine.
func (s *Server) serveMetadata(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Metadata-Flavor", "Google")
	switch path := strings.TrimPrefix(r.URL.Path, "/computeMetadata/v1/instance/service-accounts/default/"); {
	case r.Header.Get("Metadata-Flavor") != "Google":
		http.Error(w, "Missing required header", http.StatusForbidden)
	case s.machine == "":
		http.NotFound(w, r)
	case path == "email":
		_, _ = fmt.Fprint(w, s.machine)
	case path == "token":
		answer(w, http.StatusOK, map[string]any{
			"access_token": s.add(s.machine, strings.Split(r.URL.Query().Get("scopes"), ","), rootLifetime, false), "expires_in": 3599, "token_type": "Bearer",
		})
	default:
		http.NotFound(w, r)
	}
}

// refuse answers in the form of Google's APIs.
func refuse(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]any{"error": map[string]any{"code": status, "message": message, "status": code}})
}

// refuseGrant answers in the form of token servers.
func refuseGrant(w http.ResponseWriter, code, description string) {
	answer(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": description})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func encode(value any) string {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		panic(err)
	}
	return string(text)
}
