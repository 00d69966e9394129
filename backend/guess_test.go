// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"pgregory.net/rapid"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/redact"
	"vault-plugin-secrets-regcred/backend/registry"
)

// TestNoMessageChangesWithThePassword compares everything that the engine says and logs
// about one password with what it says about another one. Otherwise those who may verify
// or write, and not read, could guess a password by what is redacted: the letter c by
// "[redacted]onne[redacted]tion", or the word that is missing. Half of the passwords are
// parts of these very messages.
func TestNoMessageChangesWithThePassword(t *testing.T) {
	scenarios := guessScenarios(t)
	said := make([][]string, len(scenarios))
	for i, scenario := range scenarios {
		said[i] = scenario.run(t, "Xq7-no-part-of-any-message-Zk9")
		checkContains(t, strings.Join(said[i], "\n"), scenario.says)
	}
	rapid.Check(t, func(rt *rapid.T) {
		i := rapid.IntRange(0, len(scenarios)-1).Draw(rt, "scenario")
		password := guessedPassword(rt, strings.Join(said[i], " "))
		for n, got := range scenarios[i].run(rt, password) {
			if got != said[i][n] {
				rt.Fatalf("%s, with the password %q:\ngot  %s\nwant %s", scenarios[i].name, password, got, said[i][n])
			}
		}
	})
}

// guessedPassword draws a password that a role accepts without a warning.
func guessedPassword(t *rapid.T, said string) string {
	word := rapid.Custom(func(t *rapid.T) string {
		begin := rapid.IntRange(0, len(said)-1).Draw(t, "begin")
		return said[begin : begin+min(len(said)-begin, rapid.IntRange(1, 20).Draw(t, "length"))]
	})
	password := rapid.OneOf(word, word, rapid.StringN(1, 3, -1), rapid.StringN(1, 40, -1))
	return password.Filter(func(text string) bool {
		_, warnings, err := dockerconfig.ParsePassword(text)
		return err == nil && warnings == nil && redact.Clean(text) != "" && text == strings.TrimSpace(text)
	}).Draw(t, "password")
}

// guessScenario is a sequence of requests about one password.
type guessScenario struct {
	name     string
	says     string // among other things
	requests func(password string) []guessRequest
}

type guessRequest struct {
	op   logical.Operation
	path string
	data fields
}

// run returns what the engine answers, request by request, and what it logs.
func (s guessScenario) run(t interface {
	Helper()
	Fatalf(string, ...any)
}, password string,
) []string {
	t.Helper()
	var logged bytes.Buffer
	var said []string
	e := newGuessEngine(&logged)
	defer e.Cleanup(e.lifetime)
	for _, r := range s.requests(password) {
		req := &logical.Request{Operation: r.op, Path: r.path, Data: r.data, Storage: &e.held}
		resp, err := e.HandleRequest(e.lifetime, req)
		text := fmt.Sprintf("%s %s: error %v", r.op, r.path, err)
		if resp != nil && !strings.HasPrefix(r.path, "creds/") {
			data, encodeErr := json.Marshal(resp.Data)
			if encodeErr != nil {
				t.Fatalf("encoding: %v", encodeErr)
			}
			text += fmt.Sprintf(", data %s", data)
		}
		if resp != nil {
			text += fmt.Sprintf(", warnings %v", resp.Warnings)
		}
		said = append(said, normalised(text))
	}
	return append(said, normalised("log "+logged.String()))
}

// normalised replaces what differs from run to run.
func normalised(text string) string {
	text = regexp.MustCompile(`regcred-\w+-[\w-]*`).ReplaceAllString(text, "NAME")
	text = regexp.MustCompile(`127\.0\.0\.1:\d+->`).ReplaceAllString(text, "LOCAL->")
	return text
}

// guessEngine is an engine that calls real servers on loopback.
type guessEngine struct {
	*backend
	held logical.InmemStorage
}

func newGuessEngine(logged io.Writer) *guessEngine {
	conf := &logical.BackendConfig{
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: logged, DisableTime: true}),
		System: &logical.StaticSystemView{
			PluginEnvironment:  &logical.PluginEnvironment{VaultVersion: "1.21.0"},
			DefaultLeaseTTLVal: 768 * 3600e9, MaxLeaseTTLVal: 768 * 3600e9,
		},
		EventsSender: logical.NewMockEventSender(),
	}
	e := &guessEngine{}
	conf.StorageView = &e.held
	made, err := Factory("v1.2.3")(context.Background(), conf)
	if err != nil {
		panic(err)
	}
	e.backend = made.(*backend)
	clock := &clock{at: noon}
	e.now = clock.now
	e.newVerifier = func(cas *x509.CertPool) verifier { return registry.New(registry.Options{CAs: cas}) }
	e.newHTTP = func(*x509.CertPool) *http.Client { // that of package issuer tries again, after a pause
		return &http.Client{
			Transport:     &http.Transport{DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	e.sleep = func(context.Context, time.Duration) {}
	return e
}

// guessScenarios are registries that refuse in all ways, with a static role and with a
// connection for each of them.
func guessScenarios(t *testing.T) []guessScenario {
	t.Helper()
	var scenarios []guessScenario
	for name, address := range guessRegistries(t) {
		host := strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
		scenarios = append(scenarios, guessScenario{name + ", static role", `"127.0.0.1:1":"unreachable: the connection failed`, func(password string) []guessRequest {
			role := fields{"registry": host, "username": "robot", "password": password, "verify_repository": "group/app"}
			auth := base64.StdEncoding.EncodeToString([]byte("robot:" + password))
			docker := fmt.Sprintf(`{"auths":{%q:{"auth":%q},"127.0.0.1:1":{"auth":%q}}}`, host, auth, auth)
			return []guessRequest{
				{logical.CreateOperation, "roles/app", role},
				{logical.ReadOperation, "roles/app", nil},
				{logical.UpdateOperation, "verify/app", nil},
				{logical.UpdateOperation, "verify/app", fields{"repository": "other"}},
				{logical.UpdateOperation, "roles/app", with(role, fields{"verify": true})},
				{logical.UpdateOperation, "roles/app", fields{"ttl": 1, "user": "x"}},
				{logical.CreateOperation, "roles/two", fields{"dockerconfigjson": docker}},
				{logical.UpdateOperation, "verify/two", nil},
				{logical.UpdateOperation, "roles/two", fields{"dockerconfigjson": docker, "verify": true}},
				{logical.ReadOperation, "roles/two", nil},
				{logical.ReadOperation, "creds/two", nil},
			}
		}})
		scenarios = append(scenarios, guessScenario{name + ", connection", `"last_error":`, func(password string) []guessRequest {
			connection := fields{"type": "harbor", "url": address, "registry": host, "username": "robot", "password": password, "allowed_roles": "*"}
			return []guessRequest{
				{logical.CreateOperation, "connections/app", connection},
				{logical.CreateOperation, "connections/app", with(connection, fields{"verify_connection": false})},
				{logical.ReadOperation, "connections/app", nil},
				{logical.ReadOperation, "connections/app/check", nil},
				{logical.CreateOperation, "roles/leased", fields{"connection": "app", "mode": "leased", "projects": "group"}},
				{logical.CreateOperation, "roles/shared", fields{"connection": "app", "projects": "group"}},
				{logical.ReadOperation, "creds/leased", nil},
				{logical.ReadOperation, "creds/shared", nil},
				{logical.UpdateOperation, "rotate/shared", nil},
				{logical.ReadOperation, "roles/shared", nil},
				{logical.UpdateOperation, "verify/leased", nil},
				{logical.CreateOperation, "roles/tried", fields{"connection": "app", "projects": "group", "verify": true}},
				{logical.UpdateOperation, "connections/app/rotate-root", nil},
				{logical.DeleteOperation, "roles/shared", nil},
				{logical.DeleteOperation, "connections/app", nil},
			}
		}})
		scenarios = append(scenarios, guessScenario{name + ", connection to a URL", "the registry's API at ", func(password string) []guessRequest {
			connection := fields{"type": "http", "protocol": "simple", "lifetime": "12h", "url": address, "registry": host, "username": "robot", "password": password, "allowed_roles": "*"}
			return []guessRequest{
				{logical.CreateOperation, "connections/app", connection},
				{logical.CreateOperation, "connections/app", with(connection, fields{"verify_connection": false})},
				{logical.ReadOperation, "connections/app", nil},
				{logical.ReadOperation, "connections/app/check", nil},
				{logical.CreateOperation, "roles/leased", fields{"connection": "app", "mode": "leased"}},
				{logical.CreateOperation, "roles/shared", fields{"connection": "app", "grace_period": "1h"}},
				{logical.ReadOperation, "creds/leased", nil},
				{logical.ReadOperation, "creds/shared", nil},
				{logical.ReadOperation, "roles/shared", nil},
				{logical.UpdateOperation, "connections/app/rotate-root", nil},
			}
		}})
	}
	return scenarios
}

// guessRegistries returns the URLs of registries. What they say is common, or repeats
// names or the credential; it has no other words.
func guessRegistries(t *testing.T) map[string]string {
	t.Helper()
	urls := map[string]string{}
	start := func(name string, start func(*httptest.Server), answer http.HandlerFunc) {
		server := httptest.NewUnstartedServer(answer)
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		start(server)
		t.Cleanup(server.Close)
		urls[name] = server.URL
	}
	plain, tls := (*httptest.Server).Start, (*httptest.Server).StartTLS
	refuse := func(message func(*http.Request) string, status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
				status = http.StatusUnauthorized
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"code": "DENIED", "message": message(r)}}})
		}
	}
	common := func(*http.Request) string { return "requested access to the resource is denied" }
	start("refuses", plain, refuse(common, http.StatusForbidden))
	start("finds nothing", plain, refuse(common, http.StatusNotFound))
	start("repeats names", plain, refuse(func(r *http.Request) string {
		repository, _, found := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
		if !found {
			return "robot"
		}
		return "robot " + repository
	}, http.StatusForbidden))
	start("repeats the credential", plain, refuse(func(r *http.Request) string {
		user, password, _ := r.BasicAuth()
		return fmt.Sprintf("%s may not: %s", user, password)
	}, http.StatusForbidden))
	start("repeats the header", plain, refuse(func(r *http.Request) string { return r.Header.Get("Authorization") }, http.StatusForbidden))
	start("has another's certificate", tls, refuse(common, http.StatusForbidden))
	start("hangs up", plain, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	start("is a web page", plain, func(w http.ResponseWriter, r *http.Request) {
		_, password, _ := r.BasicAuth()
		_, _ = fmt.Fprintf(w, "<html>%s", password)
	})
	start("leads to the password", plain, func(w http.ResponseWriter, r *http.Request) {
		_, password, sent := r.BasicAuth()
		if !sent {
			w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Location", "http://127.0.0.1:1/"+url.PathEscape(password))
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	start("has a token server that repeats the credential", plain, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/token" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="tests"`, r.Host))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		refuse(func(r *http.Request) string { return r.Header.Get("Authorization") }, http.StatusForbidden)(w, r)
	})
	closed := httptest.NewServer(nil)
	closed.Close()
	urls["does not answer"] = closed.URL
	return urls
}
