// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// verified is the answer of verify/<role> for one registry.
type verified struct{ verdict, message string }

func verify(t *testing.T, v *servers.Vault, role string, body fields) verified {
	t.Helper()
	secret, err := v.Client.Logical().Write("regcred/verify/"+role, body)
	if err != nil {
		t.Fatalf("verifying %s: %v", role, err)
	}
	message, _ := secret.Data["message"].(string)
	return verified{secret.Data["verdict"].(string), message}
}

// check compares a verdict, and searches the message for secrets.
func (got verified) check(t *testing.T, what, verdict, message string) {
	t.Helper()
	if got.verdict != verdict || !strings.Contains(got.message, message) {
		t.Errorf("%s: want %s with %q in its message, got %s: %s", what, verdict, message, got.verdict, got.message)
	}
	if strings.Contains(got.message, marker) {
		t.Errorf("%s: the message repeats a secret: %s", what, got.message)
	}
}

func TestVerifyAtARegistryWithPasswords(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB, string, string) *servers.Registry{"plain http": servers.StartRegistry, "TLS": servers.StartTLSRegistry} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := start(t, "robot", marker)
			v := servers.StartVault(t)
			if registry.CA == "" {
				clients.Push(t, registry.Addr+"/team/app:1.4", "robot", marker)
			}
			role := func(others fields) fields {
				others["registry"], others["username"] = registry.Addr, "robot"
				return others
			}
			write(t, v.Client, "regcred/roles/app", role(fields{"password": marker}))
			if registry.CA != "" {
				verify(t, v, "app", nil).check(t, "a CA that is not trusted", "unreachable", "certificate")
				write(t, v.Client, "regcred/config", fields{"ca_pem": registry.CA})
				verify(t, v, "app", fields{"repository": "team/missing"}).check(t, "a missing repository", "not_found", "")
			} else {
				verify(t, v, "app", fields{"repository": "team/app:1.4"}).check(t, "an image", "ok", "")
				verify(t, v, "app", fields{"repository": "team/app"}).check(t, "any tag", "ok", "")
				verify(t, v, "app", fields{"repository": "team/app:1.5"}).check(t, "a missing tag", "not_found", "")
				verify(t, v, "app", fields{"repository": "team/other"}).check(t, "a missing repository", "not_found", "")
			}
			verify(t, v, "app", nil).check(t, "no repository", "unverified", "whether it can pull was not tried")

			_, err := v.Client.Logical().Write("regcred/roles/app", role(fields{"password": marker + "-wrong", "verify": true}))
			if got := refusal(t, err); !strings.Contains(got, "verify: nothing is stored") || strings.Contains(got, marker) {
				t.Errorf("a wrong password with verify=true: want a refusal without the password, got\n%s", got)
			}
			verify(t, v, "app", nil).check(t, "after a write that was refused", "unverified", "accepts the credential")
			write(t, v.Client, "regcred/roles/app", role(fields{"password": marker, "verify": true}))
			write(t, v.Client, "regcred/roles/app", fields{"password": marker + "-wrong"})
			verify(t, v, "app", nil).check(t, "a wrong password", "denied", "")
			verify(t, v, "app", fields{"repository": "team/app:1.4"}).check(t, "a wrong password for an image", "denied", "")
		})
	}
}

// A login proves little: this registry accepts the login and refuses the pull.
func TestVerifyAtARegistryWithTokens(t *testing.T) {
	t.Parallel()
	registry := servers.StartTokenRegistry(t, map[string]servers.TokenUser{
		"puller":  {Password: marker, Pull: []string{"team/app"}, Push: []string{"team/app"}},
		"nothing": {Password: marker},
	})
	clients.Push(t, registry.Addr+"/team/app:1.4", "puller", marker)
	v := servers.StartVault(t)
	for _, user := range []string{"puller", "nothing"} {
		write(t, v.Client, "regcred/roles/"+user, fields{"registry": registry.Addr, "username": user, "password": marker, "verify_repository": "team/app:1.4"})
		verify(t, v, user, fields{"repository": ""}).check(t, user, map[string]string{"puller": "ok", "nothing": "denied"}[user], "")
	}
	_, err := v.Client.Logical().Write("regcred/roles/nothing", fields{"verify": true})
	if got := refusal(t, err); !strings.Contains(got, "denied") {
		t.Errorf("a user that may log in but not pull: want denied, got\n%s", got)
	}
	verify(t, v, "puller", fields{"repository": "team/other"}).check(t, "a repository that is not the user's", "denied", "")
	write(t, v.Client, "regcred/roles/puller", fields{"verify_repository": ""})
	verify(t, v, "puller", nil).check(t, "no repository", "unverified", "whether it can pull was not tried")

	registry.SetTokenLifetime(-time.Hour)
	verify(t, v, "puller", fields{"repository": "team/app:1.4"}).check(t, "an expired token", "denied", "")
	registry.SetTokenLifetime(time.Minute)
	write(t, v.Client, "regcred/roles/puller", fields{"password": marker + "-wrong"})
	verify(t, v, "puller", fields{"repository": "team/app:1.4"}).check(t, "a wrong password", "denied", "")
}

// TestVerifyOfABundleAnswersForEachMember has one member that can pull, and one
// whose registry is down.
func TestVerifyOfABundleAnswersForEachMember(t *testing.T) {
	t.Parallel()
	up := servers.StartRegistry(t, "robot", marker)
	clients.Push(t, up.Addr+"/team/app:1.4", "robot", marker)
	down := servers.StartRegistry(t, "robot", marker)
	v := servers.StartVault(t)
	for name, registry := range map[string]*servers.Registry{"up": up, "down": down} {
		write(t, v.Client, "regcred/roles/"+name, fields{
			"registry": registry.Addr, "username": "robot", "password": marker, "verify_repository": "team/app", "allowed_bundles": "all",
		})
	}
	down.Stop(t)
	write(t, v.Client, "regcred/roles/all", fields{"members": "up,down"})
	secret, err := v.Client.Logical().Write("regcred/verify/all", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := secret.Data["verdict"]; got != "unreachable" {
		t.Errorf("want the worst verdict, unreachable, got %v", got)
	}
	of := func(registry *servers.Registry) string { return fmt.Sprint(secret.Data[registry.Addr]) }
	if of(up) != "ok (role up, repository team/app)" || !strings.HasPrefix(of(down), "unreachable (role down, repository team/app): the connection failed") || len(secret.Data) != 3 {
		t.Errorf("want up: ok and down: unreachable, got %v", secret.Data)
	}
}

// TestVerifySurvivesWhatRegistriesDo has one registry for each fault. Each gets
// a verdict within the time limit, and no server except the registry receives a
// credential.
func TestVerifySurvivesWhatRegistriesDo(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)

	var mu sync.Mutex
	stranger := 0 // requests with a credential at a server that is not the registry
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		dump, _ := httputil.DumpRequest(r, true)
		if r.Header.Get("Authorization") != "" || strings.Contains(string(dump), marker) {
			stranger++
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(elsewhere.Close)
	hung := make(chan struct{})
	t.Cleanup(func() { close(hung) })

	for name, c := range map[string]struct {
		answer           http.HandlerFunc
		verdict, message string
	}{
		"hangs": {func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hung:
			case <-r.Context().Done():
			}
		}, "unreachable", ""},
		"answers HTML": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>Please log in</html>")
		}, "unreachable", "web page"},
		"asks too much": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
		}, "unreachable", "30s"},
		"is broken": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, "unreachable", "500"},
		"redirects to a stranger": {func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "unreachable", "it goes only to the registry and its token server"},
		"redirects to the cloud's metadata": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data/", http.StatusTemporaryRedirect)
		}, "unreachable", "169.254.169.254"},
		"names the cloud's metadata as its token server": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://169.254.169.254/token",service="tests"`)
			w.WriteHeader(http.StatusUnauthorized)
		}, "unreachable", "169.254.169.254"},
		"repeats the password": {func(w http.ResponseWriter, r *http.Request) {
			if _, password, ok := r.BasicAuth(); ok {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"no such password: %s (%s)"}]}`, password, r.Header.Get("Authorization"))
				return
			}
			w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
			w.WriteHeader(http.StatusUnauthorized)
		}, "denied", "[redacted]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := httptest.NewServer(c.answer)
			defer registry.CloseClientConnections()
			u, err := url.Parse(registry.URL)
			if err != nil {
				t.Fatal(err)
			}
			role := strings.NewReplacer(" ", "-", "'", "").Replace(name)
			write(t, v.Client, "regcred/roles/"+role, fields{"registry": u.Host, "username": "robot", "password": marker})
			verify(t, v, role, fields{"repository": "team/app"}).check(t, name, c.verdict, c.message)
			if got := read(t, v.Client, "regcred/creds/"+role)["password"]; got != marker {
				t.Errorf("a verification changed the role")
			}
		})
	}
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		if stranger > 0 {
			t.Errorf("%d requests carried a credential to a server that is not the registry", stranger)
		}
		if strings.Contains(v.Log(), marker) {
			t.Error("Vault's log at level trace holds a secret")
		}
	})
}

func TestVerifyNeverDialsAddressesThatNoRegistryHas(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	for _, address := range []string{"169.254.169.254", "169.254.169.254:80", "[fe80::1]:5000", "0.0.0.0:5000", "224.0.0.1", "[fd00:ec2::254]:80", "100.100.100.200"} {
		write(t, v.Client, "regcred/roles/app", fields{"registry": address, "username": "robot", "password": marker})
		verify(t, v, "app", nil).check(t, address, "unreachable", "no registry")
	}
}
