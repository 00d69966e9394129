// SPDX-License-Identifier: MPL-2.0

package brokertest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// URL is a server that answers with credentials in two ways, and a registry that accepts
// them until they end. It can end none early.
//
// GET /v2/registries/example/docker-credentials answers as DigitalOcean's API reference
// says: a Docker config whose user name and password are one token, which works for
// expiry_seconds, or for ever without it, and is read-only without read_write=true.
//
// POST /fields answers with {"result":{"login":…,"keys":[…],"ends":…}}, to the body
// {"minutes":N}, for a day at most.
type URL struct {
	*issuertest.Server
	token string

	mu    sync.Mutex
	now   func() time.Time
	mints int
	ends  map[string]time.Time // by user name and password; zero: never
}

// NewURL starts a server. It stops when its owner ends.
func NewURL(t issuertest.Owner) *URL {
	t.Helper()
	u := &URL{now: time.Now, ends: map[string]time.Time{}, token: "dop_v1_" + rand.Text()}
	mux := http.NewServeMux()
	mux.Handle("/v2/", issuertest.Registry(func(username, password, _ string) bool { return u.accepts(username, password) }))
	mux.HandleFunc("GET /v2/registries/example/docker-credentials", u.dockerCredentials)
	mux.HandleFunc("POST /fields", u.fields)
	u.Server = issuertest.NewServer(t, mux)
	return u
}

// SetNow sets the clock.
func (u *URL) SetNow(now func() time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.now = now
}

// Connection returns a connection to the URL that answers with a Docker config.
func (u *URL) Connection() issuer.Connection {
	return u.connection("/v2/registries/example/docker-credentials", issuer.Settings{"protocol": "simple", "query": "expiry_seconds={seconds}&read_write=false"})
}

// FieldsConnection returns a connection to the URL that answers with fields.
func (u *URL) FieldsConnection() issuer.Connection {
	return u.connection("/fields", issuer.Settings{
		"protocol": "simple", "method": "POST", "body": `{"minutes":{minutes}}`, "lifetime": "24h",
		"username_pointer": "/result/login", "password_pointer": "/result/keys/1", "expires_at_pointer": "/result/ends",
	})
}

func (u *URL) connection(path string, settings issuer.Settings) issuer.Connection {
	return issuer.Connection{
		URL: u.URL + path, Registries: []dockerconfig.Key{dockerconfig.Key(u.Host())}, Settings: settings,
		Secrets: issuer.Secrets{"token": dockerconfig.NewSecret(u.token)},
	}
}

// MintMatch matches the requests that mint.
func (*URL) MintMatch(r *http.Request) bool {
	return r.URL.Path == "/fields" || r.URL.Path == "/v2/registries/example/docker-credentials"
}

// Mints returns how many credentials were made.
func (u *URL) Mints() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.mints
}

// Pulls reports whether a credential works.
func (u *URL) Pulls(c issuer.Credential) bool { return u.accepts(c.Username, c.Password.Reveal()) }

func (u *URL) accepts(username, password string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	ends, known := u.ends[username+":"+password]
	return known && (ends.IsZero() || u.now().Before(ends))
}

func (u *URL) mint(username, password string, lifetime time.Duration) (ends time.Time) {
	if lifetime > 0 {
		ends = u.now().Add(lifetime)
	}
	u.mints++
	u.ends[username+":"+password] = ends
	return ends
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (u *URL) dockerCredentials(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	seconds, err := 0, error(nil)
	if text := r.URL.Query().Get("expiry_seconds"); text != "" {
		seconds, err = strconv.Atoi(text)
	}
	switch {
	case r.Header.Get("Authorization") != "Bearer "+u.token:
		reply(w, http.StatusUnauthorized, map[string]string{"id": "Unauthorized", "message": "Unable to authenticate you"})
	case err != nil || seconds < 0:
		reply(w, http.StatusUnprocessableEntity, map[string]string{"id": "unprocessable_entity", "message": "expiry_seconds is invalid"})
	default:
		minted := "dop_v1_" + rand.Text()
		u.mint(minted, minted, time.Duration(seconds)*time.Second)
		auth := base64.StdEncoding.EncodeToString([]byte(minted + ":" + minted))
		reply(w, http.StatusOK, map[string]any{"auths": map[string]any{u.Host(): map[string]string{"auth": auth}}})
	}
}

func (u *URL) fields(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	var in struct{ Minutes int }
	switch err := json.NewDecoder(r.Body).Decode(&in); {
	case r.Header.Get("Authorization") != "Bearer "+u.token:
		reply(w, http.StatusUnauthorized, map[string]any{"errors": []map[string]any{{"code": 10000, "message": "Authentication error"}}})
	case err != nil || in.Minutes < 1 || in.Minutes > 60*24:
		reply(w, http.StatusBadRequest, map[string]any{"errors": []map[string]any{{"message": fmt.Sprintf("minutes must be from 1 to 1440, not %d", in.Minutes)}}})
	default:
		username, password := "v1-"+rand.Text(), rand.Text()
		ends := u.mint(username, password, time.Duration(in.Minutes)*time.Minute)
		reply(w, http.StatusOK, map[string]any{"result": map[string]any{"login": username, "keys": []string{"no", password}, "ends": ends.UTC().Format(time.RFC3339)}})
	}
}
