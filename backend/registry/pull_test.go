// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// content is the content of the registries of these tests.
var content = options{
	manifests: map[string]bool{
		"team/app/manifests/latest":  true,
		"team/app/manifests/1.4":     true,
		"team/app/manifests/" + sha:  true,
		"team/old/manifests/0.9":     true,
		"library/alpine/manifests/3": true,
	},
	tags: map[string]string{
		"team/old":   `{"name":"team/old","tags":["0.9","0.8"]}`,
		"team/empty": `{"name":"team/empty","tags":null}`,
		"team/lies":  `{"name":"team/lies","tags":["../../../secret"]}`,
		"team/html":  `<html>`,
	},
}

const sha = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var pulls = []struct {
	repository string
	verdict    Verdict
	accepted   bool
	message    string
}{
	{"team/app", OK, true, ""},
	{"team/app:1.4", OK, true, ""},
	{"team/app@" + sha, OK, true, ""},
	{"team/app:gone@" + sha, OK, true, ""},
	{"team/old", OK, true, ""},
	{"team/app:2", NotFound, false, "the registry answered 404 Not Found: MANIFEST_UNKNOWN: manifest unknown"},
	{"team/other", NotFound, false, "the registry answered 404 Not Found: NAME_UNKNOWN: repository name not known to registry"},
	{"team/empty", NotFound, false, "the repository team/empty has no tags"},
	{"team/lies", Unreachable, false, "the registry's list of tags could not be understood"},
	{"team/html", Unreachable, false, "the registry's list of tags could not be understood"},
	{"", Unverified, true, "the registry accepts the credential; whether it can pull was not tried, because no repository was named"},
}

func TestPullWithBasicAuthentication(t *testing.T) {
	f := newTLS(t, "registry.example.com", registryHandler(content))
	v := newVerifier(t, nil)
	for _, row := range pulls {
		t.Run(row.repository, func(t *testing.T) {
			result := verify(t, v, f.host, row.repository)
			want := Result{Verdict: row.verdict, Message: row.message, Accepted: row.accepted}
			if want.Verdict == Unreachable {
				want.Failure = row.message // of which the registry has said nothing
			}
			if result != want {
				t.Errorf("got  %+v\nwant %+v", result, want)
			}
		})
	}
}

func TestPullWithBearerToken(t *testing.T) {
	auth := newTLS(t, "auth.example.com", tokenHandler)
	o := content
	o.realm = "https://" + auth.host + "/token?account=x"
	f := newTLS(t, "registry.example.com", registryHandler(o))
	v := newVerifier(t, nil)
	for _, row := range pulls {
		t.Run(row.repository, func(t *testing.T) {
			result := verify(t, v, f.host, row.repository)
			want := Result{Verdict: row.verdict, Message: row.message, Accepted: row.accepted}
			if want.Verdict == Unreachable {
				want.Failure = row.message // of which the registry has said nothing
			}
			if result != want {
				t.Errorf("got  %+v\nwant %+v", result, want)
			}
		})
	}
	auth.mu.Lock()
	defer auth.mu.Unlock()
	for _, r := range auth.requests {
		query := r.URL.Query()
		if query.Get("service") != "tests" || query.Get("account") != "x" || r.Header.Get("Authorization") != "Basic "+basicAuth {
			t.Errorf("token server was asked %s with %q; want the service, the realm's own query and the credential", r.URL, r.Header.Get("Authorization"))
		}
	}
	if diff := cmp.Diff([]string{"repository:team/app:pull"}, auth.requests[0].URL.Query()["scope"]); diff != "" {
		t.Errorf("scope of a pull (-want +got):\n%s", diff)
	}
	if scope, found := auth.requests[len(auth.requests)-1].URL.Query()["scope"]; found {
		t.Errorf("scope without a repository: %q; want none", scope)
	}
}

func TestPullAsksForHeadOnly(t *testing.T) {
	f := newTLS(t, "registry.example.com", registryHandler(content))
	wantResult(t, verify(t, newVerifier(t, nil), f.host, "team/old"), OK, true)
	want := []string{"GET /v2/", "HEAD /v2/team/old/manifests/latest", "GET /v2/team/old/tags/list", "HEAD /v2/team/old/manifests/0.9"}
	if diff := cmp.Diff(want, f.log()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestTokenServerMayNameTheTokenAccessToken(t *testing.T) {
	auth := newTLS(t, "auth.example.com", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"access_token":%q}`, token)
	})
	o := content
	o.realm = "https://" + auth.host
	f := newTLS(t, "registry.example.com", registryHandler(o))
	wantResult(t, verify(t, newVerifier(t, nil), f.host, "team/app"), OK, true)
}

// A self-hosted GitLab at an address also names a token server at one.
func TestTokenServerMayBeAtALoopbackAddress(t *testing.T) {
	auth := newTLS(t, "127.0.0.1", tokenHandler)
	o := content
	o.realm = "https://" + auth.host
	f := newTLS(t, "127.0.0.1", registryHandler(o))
	wantResult(t, verify(t, newVerifier(t, nil), f.host, "team/app"), OK, true)
}

func TestPullFollowsTheChallengeOfTheManifest(t *testing.T) {
	for name, open := range map[string]bool{"registry that asks for nothing before": true, "registry that asks for another scope": false} {
		t.Run(name, func(t *testing.T) {
			const scope = "repository:upstream/app:pull"
			auth := newTLS(t, "auth.example.com", func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("scope") == scope {
					tokenHandler(w, r)
					return
				}
				fmt.Fprintf(w, `{"token":"one-without-rights"}`)
			})
			o := content
			o.open, o.scope, o.realm = open, scope, "https://"+auth.host
			f := newTLS(t, "registry.example.com", registryHandler(o))
			if result := verify(t, newVerifier(t, nil), f.host, "team/app"); result != (Result{Verdict: OK, Accepted: true}) {
				t.Errorf("got %+v; want an unqualified OK", result)
			}
		})
	}
}

func TestRegistryThatAsksForNoCredential(t *testing.T) {
	f := newTLS(t, "registry.example.com", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v2/":
			fmt.Fprintf(w, "{}")
		case "/v2/team/app/manifests/latest":
			writeManifest(w)
		default:
			writeError(w, http.StatusNotFound, "NAME_UNKNOWN", "unknown")
		}
	})
	v := newVerifier(t, nil)
	wantResult(t, verify(t, v, f.host, "team/app"), OK, true, "the registry asked for no credential")
	wantResult(t, verify(t, v, f.host, "team/other"), NotFound, false, "NAME_UNKNOWN")
	wantResult(t, verify(t, v, f.host, ""), Unverified, false, "asks for no credential where no repository is named")
	f.wantNothingSecret(t)
}

func TestPlainHTTPRegistryOnLoopback(t *testing.T) {
	auth := newPlain(t, "auth.example.com", tokenHandler)
	for name, realm := range map[string]string{"basic": "", "bearer": "http://" + auth.host} {
		t.Run(name, func(t *testing.T) {
			o := content
			o.realm = realm
			f := newPlain(t, "127.0.0.1", registryHandler(o))
			wantResult(t, verify(t, newVerifier(t, nil), f.host, "team/app"), OK, true)
			wantResult(t, verify(t, newVerifier(t, nil), f.host, ""), Unverified, true)
		})
	}
}

func TestDenied(t *testing.T) {
	refusing := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
			writeError(w, status, "DENIED", "requested access to the resource is denied")
		}
	}
	v := newVerifier(t, nil)
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		auth := newTLS(t, "auth.example.com", refusing(status))
		lenient := newTLS(t, "auth.example.com", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"token":"without-rights"}`)
		})
		for name, handler := range map[string]http.HandlerFunc{
			"by a registry with basic authentication": loginThen(refusing(status)),
			"by the token server":                     registryHandler(options{realm: "https://" + auth.host}),
			"by a registry with tokens":               registryHandler(options{realm: "https://" + lenient.host}),
		} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				f := newTLS(t, "registry.example.com", handler)
				wantResult(t, verify(t, v, f.host, "team/app"), Denied, false, "answered 40")
			})
		}
		f := newTLS(t, "registry.example.com", loginThen(refusing(status)))
		result := verify(t, v, f.host, "team/app")
		want := Result{Verdict: Denied, Message: fmt.Sprintf("the registry answered %d %s: DENIED: requested access to the resource is denied", status, http.StatusText(status))}
		if result != want {
			t.Errorf("got  %+v\nwant %+v", result, want)
		}
	}
}

// loginThen accepts every credential at /v2/, and passes all other requests on. It is a
// registry that allows a login, and may refuse a pull.
func loginThen(pull http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/v2/":
			fmt.Fprintf(w, "{}")
		default:
			pull(w, r)
		}
	}
}

func TestDeniedWithoutRepository(t *testing.T) {
	auth := newTLS(t, "auth.example.com", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong password")
	})
	expired := newTLS(t, "auth.example.com", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"token":"expired"}`)
	})
	v := newVerifier(t, nil)
	for name, row := range map[string]struct {
		handler http.HandlerFunc
		message string
	}{
		"basic":                 {func(w http.ResponseWriter, r *http.Request) { refuse(w) }, "the registry answered 401"},
		"token server":          {registryHandler(options{realm: "https://" + auth.host}), "the token server " + auth.host + " answered 401 Unauthorized: UNAUTHORIZED: wrong password"},
		"token that is no good": {registryHandler(options{realm: "https://" + expired.host}), "the registry answered 401"},
	} {
		t.Run(name, func(t *testing.T) {
			wantResult(t, verify(t, v, newTLS(t, "registry.example.com", row.handler).host, ""), Denied, false, row.message)
		})
	}
}

func refuse(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Basic realm="tests"`)
	writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
}

func TestLatestIsMissingAndTagsMayNotBeListed(t *testing.T) {
	f := newTLS(t, "registry.example.com", loginThen(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		writeError(w, http.StatusForbidden, "DENIED", "no")
	}))
	wantResult(t, verify(t, newVerifier(t, nil), f.host, "team/app"), NotFound, false, "there is no tag latest", "name a tag")
}

func TestPrivateCA(t *testing.T) {
	f := newTLS(t, "registry.example.com", registryHandler(content))
	v := newVerifier(t, nil)
	wantResult(t, verify(t, v, f.host, "team/app"), OK, true)
	trusted := len(f.log())
	v.cas = nil
	wantResult(t, verify(t, v, f.host, "team/app"), Unreachable, false, "the TLS certificate is not trusted", "unknown authority",
		"; ca_pem of config takes the certificates of a private CA: vault write regcred/config ca_pem=@ca.pem")
	if got := f.log()[trusted:]; len(got) > 0 {
		t.Errorf("requests %q; want none without trust", got)
	}
}

func TestKeysThatNameNothingToTry(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.URL.Path) }))
	defer server.Close()
	host := server.Listener.Addr().String()
	v := newVerifier(t, nil)
	for _, row := range []struct{ registry, repository, message string }{
		{"*.example.com", "team/app", "*.example.com names no single registry, so there is none to try"},
		{"*.example.com", "", "*.example.com names no single registry, so there is none to try"},
		{host + "/team", "other/app", "the credential is for " + host + "/team only, and the repository other/app is not under it"},
		{host + "/team", "team-other/app", "the credential is for " + host + "/team only, and the repository team-other/app is not under it"},
		{"docker.io/acme", "alpine", "the credential is for docker.io/acme only, and the repository library/alpine is not under it"},
		{host, "Team/App", "the repository must be in lower case, except for the tag, such as group/app, group/app:1.4 or group/app@sha256:…"},
		{"registry.example.com", "registry.example.com/team/app:1", "the repository must not have the registry in front; give only team/app:1"},
	} {
		if got, want := verify(t, v, row.registry, row.repository), (Result{Verdict: Unverified, Message: row.message}); got != want {
			t.Errorf("%s, %s:\ngot  %+v\nwant %+v", row.registry, row.repository, got, want)
		}
	}
	if len(asked) > 0 {
		t.Errorf("the registry was asked %q; want nothing", asked)
	}
}

func TestPathKey(t *testing.T) {
	f := newTLS(t, "registry.example.com", registryHandler(content))
	v := newVerifier(t, nil)
	wantResult(t, verify(t, v, f.host+"/team", "team/app"), OK, true)
	wantResult(t, verify(t, v, f.host+"/team/app", "team/app:1.4"), OK, true)
	wantResult(t, verify(t, v, f.host+"/team", ""), Unverified, true)
}

func TestTargetOfDockerHub(t *testing.T) {
	for _, row := range []struct{ key, input, want string }{
		{"https://index.docker.io/v1/", "alpine:3", "index.docker.io/library/alpine:3"},
		{"https://index.docker.io/v1/", "acme/app", "index.docker.io/acme/app"},
		{"docker.io/acme", "acme/app", "index.docker.io/acme/app"},
		{"registry.example.com", "alpine", "registry.example.com/alpine"},
	} {
		registry, r, err := newTarget(credentialFor(row.key).Registry, row.input)
		if err != nil {
			t.Fatalf("%s, %s: %v", row.key, row.input, err)
		}
		if got := registry.RegistryStr() + "/" + r.String(); got != row.want {
			t.Errorf("%s, %s: got %s; want %s", row.key, row.input, got, row.want)
		}
	}
}
