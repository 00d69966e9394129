// SPDX-License-Identifier: MPL-2.0

// Package acrtest is an in-memory Azure with the parts that the issuer acr uses: the
// client credentials grant of the Microsoft identity platform (v2.0), tokens and
// generateCredentials of Microsoft.ContainerRegistry in Azure Resource Manager
// (2023-07-01), the exchange of a registry (docs/AAD-OAuth.md of Azure/acr), and the
// registry itself. It follows Microsoft's references of November 2026: permissions,
// names, states, long-running operations, pages, bodies of errors.
//
// What the references leave open, and is decided here: the codes of the errors of
// registries about tokens and scope maps.
package acrtest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const (
	// Tenant is the Entra tenant of the application.
	Tenant = "72f988bf-86f1-41af-91ab-2d7cd011db47"

	// Client is the client ID of the application of [Server.Connection].
	Client = "11111111-2222-3333-4444-555555555555"

	// RegistryID is the resource ID of the registry.
	RegistryID = "/subscriptions/00000000-1111-2222-3333-444444444444/resourceGroups/images/providers/Microsoft.ContainerRegistry/registries/acmeimages"

	// LoginServer is the host of the registry.
	LoginServer = "acmeimages.azurecr.io"

	// Repository is a repository of the registry.
	Repository = "team/app"

	// ScopeMap is a scope map that may pull [Repository].
	ScopeMap = "team-pull"

	// IdentityAudience is the audience of the federated credential that trusts Vault.
	IdentityAudience = "api://AzureADTokenExchange"

	// podProof is the token of the pod that Vault runs in.
	podProof = "eyJhbGciOiJSUzI1NiJ9.b2YtdGhlLXBvZA.c2lnbmF0dXJl"

	// RefreshLifetime is how long a refresh token of the registry lives.
	RefreshLifetime = 75 * time.Minute

	pageSize     = 3
	rootLifetime = time.Hour

	managementScope = "https://management.azure.com/.default"
	registryScope   = "https://containerregistry.azure.net/.default"
)

// Permissions are those that the documentation of the type requires.
var Permissions = []string{
	"Microsoft.ContainerRegistry/registries/read",
	"Microsoft.ContainerRegistry/registries/tokens/read",
	"Microsoft.ContainerRegistry/registries/tokens/write",
	"Microsoft.ContainerRegistry/registries/tokens/delete",
	"Microsoft.ContainerRegistry/registries/generateCredentials/action",
	"Microsoft.ContainerRegistry/registries/pull/read",
}

// Server is an Azure on loopback.
type Server struct {
	*issuertest.Server

	mu        sync.Mutex
	now       func() time.Time
	secret    string            // of Client
	vault     *issuertest.Vault // that Client trusts
	allowed   []string
	slow      bool
	lag       int // how often a registry refuses a new password
	tokens    []*token
	entra     map[string]access
	refresh   map[string]time.Time // ends of refresh tokens
	scopeMaps map[string][]string  // repositories to pull; "*" for all
	pending   map[string]any       // answers of operations, by ID
}

type access struct {
	scope string
	ends  time.Time
}

type token struct {
	name, scopeMap, state string
	created               time.Time
	password              string
	expires               time.Time
	refusals              int
}

// New starts an Azure with one registry.
func New(t issuertest.Owner) *Server {
	t.Helper()
	s := &Server{
		now: time.Now, secret: "Q~" + rand.Text(), allowed: slices.Clone(Permissions),
		entra: map[string]access{}, refresh: map[string]time.Time{}, pending: map[string]any{},
		scopeMaps: map[string][]string{ScopeMap: {Repository}, "_repositories_pull": {"*"}, "finance-pull": {"finance/app"}},
	}
	s.Server = issuertest.NewServer(t, http.HandlerFunc(s.serve))
	return s
}

// Connection returns a connection that makes tokens.
func (s *Server) Connection() issuer.Connection {
	c := s.Exchanging()
	c.Settings["registry_id"], c.Declared = RegistryID, nil
	return c
}

// Exchanging returns a connection that exchanges.
func (s *Server) Exchanging() issuer.Connection {
	return issuer.Connection{
		URL: s.URL, Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())},
		Settings: issuer.Settings{"tenant_id": Tenant, "client_id": Client},
		Secrets:  issuer.Secrets{"client_secret": dockerconfig.NewSecret(s.secret)},
		Declared: issuer.Settings{"refresh_token_lifetime": RefreshLifetime.String()},
	}
}

// Keyless returns a connection without a secret. Its client reaches the server under the
// names of Azure.
func (s *Server) Keyless(c issuer.Connection) issuer.Connection {
	inner := issuer.NewHTTP(nil)
	c.URL, c.Secrets, c.Registries = "", nil, []dockerconfig.Key{LoginServer}
	c.HTTP = &http.Client{Transport: asAzure{inner.Transport, s}, CheckRedirect: inner.CheckRedirect}
	return c
}

// Trusting returns a keyless connection that proves who it is by the identity tokens of a
// Vault, which the application trusts.
func (s *Server) Trusting(vault *issuertest.Vault, c issuer.Connection) issuer.Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vault = vault
	c = s.Keyless(c)
	c.Settings[issuer.FieldIdentityTokenAudience], c.IdentityToken = IdentityAudience, vault.Source(IdentityAudience)
	return c
}

// trusts reports whether a federated credential of the application matches a token: by
// issuer, subject and audience.
func (s *Server) trusts(assertion string) bool {
	subject, audience, ok := s.vault.Verify(assertion)
	return assertion == podProof || ok && subject == issuertest.MountSubject && audience == IdentityAudience
}

// asAzure sends to a server what is for Azure.
type asAzure struct {
	http.RoundTripper
	server *Server
}

// RoundTrip implements [http.RoundTripper].
func (a asAzure) RoundTrip(r *http.Request) (*http.Response, error) {
	if slices.Contains([]string{"login.microsoftonline.com", "management.azure.com", LoginServer}, r.URL.Host) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host = "http", a.server.Host()
		r = out
	}
	return a.RoundTripper.RoundTrip(r)
}

// WritePodToken writes the token file of the pod that Vault runs in.
func WritePodToken(path string) error { return os.WriteFile(path, []byte(podProof+"\n"), 0o600) }

// Role returns the fields of a role that pulls [Repository].
func (*Server) Role() issuer.Settings { return issuer.Settings{"scope_map": ScopeMap} }

// SetNow sets the clock for the end of passwords and tokens.
func (s *Server) SetNow(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

// SetSlow makes operations long-running: they are accepted, and end at the next look.
func (s *Server) SetSlow(slow bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = slow
}

// SetLag makes the registry refuse each new password a number of times.
func (s *Server) SetLag(refusals int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lag = refusals
}

// Deny takes a permission from the application.
func (s *Server) Deny(permission string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowed = slices.DeleteFunc(s.allowed, func(p string) bool { return p == permission })
}

// AddToken adds a token with a password, as an administrator would.
func (s *Server) AddToken(name string) (username, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &token{name: name, scopeMap: ScopeMap, state: "Succeeded", created: s.now(), password: rand.Text(), expires: s.now().Add(24 * time.Hour)}
	s.tokens = append(s.tokens, t)
	return name, t.password
}

// DeleteToken deletes a token, as an administrator would.
func (s *Server) DeleteToken(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = slices.DeleteFunc(s.tokens, func(t *token) bool { return t.name == name })
}

// Reinstall makes the registry anew: its tokens are gone.
func (s *Server) Reinstall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = nil
}

// Living returns the names of the tokens, sorted.
func (s *Server) Living() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := []string{}
	for _, t := range s.tokens {
		names = append(names, t.name)
	}
	slices.Sort(names)
	return names
}

// MintMatch matches the request that makes a token.
func MintMatch(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/tokens/")
}

// MintMatch calls the function [MintMatch].
func (*Server) MintMatch(r *http.Request) bool { return MintMatch(r) }

// PasswordMatch matches the request that makes a password.
func PasswordMatch(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, "/generateCredentials")
}

// ExchangeMatch matches the exchange.
func ExchangeMatch(r *http.Request) bool { return r.URL.Path == "/oauth2/exchange" }

// Pulls reports whether a credential may pull a repository.
func (s *Server) Pulls(c issuer.Credential, repository string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepts(c.Username, c.Password.Reveal(), repository)
}

// accepts checks a login; with an empty repository, the login alone.
func (s *Server) accepts(username, password, repository string) bool {
	if username == "00000000-0000-0000-0000-000000000000" {
		ends, known := s.refresh[password]
		return known && ends.After(s.now())
	}
	i := slices.IndexFunc(s.tokens, func(t *token) bool { return t.name == username })
	if i < 0 || s.tokens[i].password == "" || s.tokens[i].password != password || !s.tokens[i].expires.After(s.now()) {
		return false
	}
	if s.tokens[i].refusals > 0 {
		s.tokens[i].refusals--
		return false
	}
	may := s.scopeMaps[s.tokens[i].scopeMap]
	return repository == "" || slices.Contains(may, repository) || slices.Contains(may, "*")
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case strings.HasPrefix(r.URL.Path, "/v2/"):
		issuertest.Registry(s.accepts).ServeHTTP(w, r)
	case strings.HasPrefix(r.URL.Path, "/subscriptions/"):
		s.manage(w, r)
	case r.Method == http.MethodPost && r.URL.Path == "/"+Tenant+"/oauth2/v2.0/token":
		s.signIn(w, r)
	case r.Method == http.MethodPost && r.URL.Path == "/oauth2/exchange":
		s.exchange(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/oauth2/token":
		username, password, _ := r.BasicAuth()
		if !s.accepts(username, password, "") {
			registryError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required, visit https://aka.ms/acr/authorization for more information.")
			return
		}
		answer(w, http.StatusOK, map[string]string{"access_token": rand.Text()})
	default:
		http.NotFound(w, r)
	}
}

// signIn answers the client credentials grant.
func (s *Server) signIn(w http.ResponseWriter, r *http.Request) {
	scope := r.PostFormValue("scope")
	secret, assertion := r.PostFormValue("client_secret"), r.PostFormValue("client_assertion")
	switch {
	case r.PostFormValue("grant_type") != "client_credentials":
		entraError(w, http.StatusBadRequest, "unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type.")
	case r.PostFormValue("client_id") != Client:
		entraError(w, http.StatusBadRequest, "unauthorized_client", "AADSTS700016: Application with identifier was not found in the directory.")
	case scope != managementScope && scope != registryScope:
		entraError(w, http.StatusBadRequest, "invalid_resource", "AADSTS500011: The resource principal was not found in the tenant.")
	case secret == "" && assertion == "":
		entraError(w, http.StatusUnauthorized, "invalid_client", "AADSTS7000216: 'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' grant type.")
	case secret != "" && assertion != "":
		entraError(w, http.StatusBadRequest, "invalid_request", "AADSTS7000217: The request has both a secret and an assertion.")
	case secret != "" && secret != s.secret:
		entraError(w, http.StatusUnauthorized, "invalid_client", "AADSTS7000215: Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID.")
	case assertion != "" && (!s.trusts(assertion) || r.PostFormValue("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"):
		entraError(w, http.StatusUnauthorized, "invalid_client", "AADSTS700213: No matching federated identity record found for presented assertion subject.")
	default:
		value := "eyJ0eXAiOiJKV1Qi." + rand.Text() + "." + rand.Text()
		s.entra[value] = access{scope, s.now().Add(rootLifetime)}
		answer(w, http.StatusOK, map[string]any{"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": value})
	}
}

// exchange answers the exchange of an Entra token.
func (s *Server) exchange(w http.ResponseWriter, r *http.Request) {
	got, known := s.entra[r.PostFormValue("access_token")]
	switch {
	case r.PostFormValue("grant_type") != "access_token" || r.PostFormValue("tenant") != Tenant || r.PostFormValue("service") == "":
		registryError(w, http.StatusBadRequest, "BAD_REQUEST", "invalid parameters")
	case !known || got.scope != registryScope || !got.ends.After(s.now()), !slices.Contains(s.allowed, "Microsoft.ContainerRegistry/registries/pull/read"):
		registryError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required, visit https://aka.ms/acr/authorization for more information.")
	default:
		now := s.now()
		claims, err := json.Marshal(map[string]any{
			"iss": "Azure Container Registry", "aud": r.PostFormValue("service"), "grant_type": "refresh_token", "jti": rand.Text(),
			"iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(RefreshLifetime).Unix(),
		})
		if err != nil {
			panic(err)
		}
		value := strings.Join([]string{encoded([]byte(`{"alg":"RS256"}`)), encoded(claims), encoded([]byte(rand.Text()))}, ".")
		s.refresh[value] = now.Add(RefreshLifetime).Truncate(time.Second)
		answer(w, http.StatusOK, map[string]string{"refresh_token": value})
	}
}

func encoded(text []byte) string { return base64.RawURLEncoding.EncodeToString(text) }

func entraError(w http.ResponseWriter, status int, code, description string) {
	answer(w, status, map[string]any{
		"error": code, "error_description": description + "\r\nTrace ID: 0\r\nCorrelation ID: 0\r\nTimestamp: 2026-11-27 00:00:00Z",
		"error_codes": []int{}, "trace_id": "0", "correlation_id": "0",
	})
}

func registryError(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func managerError(w http.ResponseWriter, status int, code, format string, args ...any) {
	answer(w, status, map[string]any{"error": map[string]string{"code": code, "message": fmt.Sprintf(format, args...)}})
}
