// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	tokenService = "registry.tests"
	tokenIssuer  = "token server of the tests"
	tokenKeyID   = "tests"
)

// TokenUser is a user of a [TokenRegistry]. A user who may neither pull nor
// push can still log in.
type TokenUser struct {
	Password string
	Pull     []string // repositories
	Push     []string // repositories, also for pulling
}

// TokenRequest is a request to the token server, and its answer.
type TokenRequest struct {
	Username string // empty if there was none
	Password string
	Scopes   []string // as requested
	Status   int
}

// TokenRegistry is a running OCI registry that accepts the bearer tokens of a
// token server, as the distribution token specification says. The token server
// runs in the test's own process.
type TokenRegistry struct {
	*Process
	Addr  string // host:port, as in image names
	Realm string // URL of the token server
	CA    string // PEM, of registry and token server; empty with plain http

	key ed25519.PrivateKey

	mu       sync.Mutex
	users    map[string]TokenUser
	lifetime time.Duration
	requests []TokenRequest
}

// StartTokenRegistry starts a registry with plain http, and its token server.
func StartTokenRegistry(t testing.TB, users map[string]TokenUser) *TokenRegistry {
	t.Helper()
	return startTokenRegistry(t, users, nil)
}

// StartTLSTokenRegistry does the same with TLS for both, with certificates of a
// private CA.
func StartTLSTokenRegistry(t testing.TB, users map[string]TokenUser) *TokenRegistry {
	t.Helper()
	return startTokenRegistry(t, users, newCertificate(t))
}

func startTokenRegistry(t testing.TB, users map[string]TokenUser, cert *certificate) *TokenRegistry {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r := &TokenRegistry{Addr: FreeAddr(t), key: private, users: users, lifetime: 5 * time.Minute}
	r.startTokenServer(t, cert)
	jwks := filepath.Join(t.TempDir(), "jwks.json")
	keys := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","use":"sig","alg":"EdDSA","kid":%q,"x":%q}]}`,
		tokenKeyID, base64.RawURLEncoding.EncodeToString(public))
	if err := os.WriteFile(jwks, []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
	r.Process = startDistribution(t, r.Addr, cert, fmt.Sprintf(`
  token:
    realm: %q
    service: %q
    issuer: %q
    jwks: %q
`, r.Realm, tokenService, tokenIssuer, jwks))
	return r
}

func (r *TokenRegistry) startTokenServer(t testing.TB, cert *certificate) {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(r.serveToken))
	scheme := "http"
	if cert == nil {
		server.Start()
	} else {
		pair, err := tls.LoadX509KeyPair(cert.certFile, cert.keyFile)
		if err != nil {
			t.Fatal(err)
		}
		server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
		server.StartTLS()
		scheme, r.CA = "https", cert.ca
	}
	t.Cleanup(server.Close)
	// By name, because crane refuses token servers at private addresses.
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	r.Realm = scheme + "://localhost:" + port + "/token"
}

// SetUsers replaces the users.
func (r *TokenRegistry) SetUsers(users map[string]TokenUser) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users = users
}

// SetTokenLifetime sets how long new tokens are valid. With a negative lifetime
// they have expired from the start; the registry tolerates a clock difference
// of one minute.
func (r *TokenRegistry) SetTokenLifetime(lifetime time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lifetime = lifetime
}

// TokenRequests returns the requests that the token server has received.
func (r *TokenRegistry) TokenRequests() []TokenRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

func (r *TokenRegistry) serveToken(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if req.Method != http.MethodGet || req.URL.Path != "/token" {
		http.NotFound(w, req) // then clients use GET, as the specification says
		return
	}
	asked := TokenRequest{Status: http.StatusOK}
	for _, scope := range req.URL.Query()["scope"] {
		asked.Scopes = append(asked.Scopes, strings.Fields(scope)...)
	}
	var login bool
	asked.Username, asked.Password, login = req.BasicAuth()
	user, known := r.users[asked.Username]
	w.Header().Set("Content-Type", "application/json")
	if login && (!known || user.Password != asked.Password) {
		asked.Status = http.StatusUnauthorized
		w.WriteHeader(asked.Status)
		fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}`)
	} else {
		token := r.newToken(asked.Username, user.access(asked.Scopes))
		fmt.Fprintf(w, `{"token":%q,"access_token":%q,"expires_in":%d}`, token, token, max(60, int(r.lifetime.Seconds())))
	}
	r.requests = append(r.requests, asked)
}

// access is a member of a token.
type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

// access returns what a user may do of what was requested. A token server
// leaves the rest out of the token, and the registry refuses it.
func (u TokenUser) access(scopes []string) []access {
	granted := []access{}
	for _, scope := range scopes {
		kind, rest, _ := strings.Cut(scope, ":")
		end := strings.LastIndexByte(rest, ':')
		if kind != "repository" || end < 0 {
			continue
		}
		repository := rest[:end]
		actions := slices.DeleteFunc(strings.Split(rest[end+1:], ","), func(action string) bool {
			pulls := action == "pull" && slices.Contains(u.Pull, repository)
			pushes := (action == "pull" || action == "push") && slices.Contains(u.Push, repository)
			return !pulls && !pushes
		})
		if len(actions) > 0 {
			granted = append(granted, access{kind, repository, actions})
		}
	}
	return granted
}

// newToken signs a JSON Web Token.
func (r *TokenRegistry) newToken(subject string, granted []access) string {
	issued := time.Now().Add(-time.Hour)
	parts := make([]string, 2)
	for i, part := range []any{
		map[string]string{"typ": "JWT", "alg": "EdDSA", "kid": tokenKeyID},
		map[string]any{
			"iss": tokenIssuer, "sub": subject, "aud": tokenService, "jti": rand.Text(), "access": granted,
			"iat": issued.Unix(), "nbf": issued.Unix(), "exp": time.Now().Add(r.lifetime).Unix(),
		},
	} {
		encoded, err := json.Marshal(part)
		if err != nil {
			panic(err) // maps of strings and numbers always marshal
		}
		parts[i] = base64.RawURLEncoding.EncodeToString(encoded)
	}
	signed := strings.Join(parts, ".")
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(r.key, []byte(signed)))
}
