// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

const (
	healthy   = `{"status":"healthy","components":[{"name":"core","status":"healthy"},{"name":"database","status":"healthy"},{"name":"redis","status":"healthy"}]}`
	noDB      = `{"status":"unhealthy","components":[{"name":"core","status":"healthy"},{"name":"database","status":"unhealthy","error":"failed to run SQL \"SELECT 1\""}]}`
	noScanner = `{"status":"unhealthy","components":[{"name":"core","status":"healthy"},{"name":"database","status":"healthy"},{"name":"trivy","status":"unhealthy","error":"timeout"}]}`
)

// harborHandler answers like a Harbor that refuses every credential: its token server,
// or, if that gives a token, its registry.
func harborHandler(host func() string, givesToken bool, health, projects http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/service/token" && givesToken:
			fmt.Fprintf(w, `{"token":%q}`, token)
		case r.URL.Path == "/service/token":
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/api/v2.0/health":
			health(w, r)
		case r.URL.Path == "/api/v2.0/projects" && r.URL.RawQuery == "page=1&page_size=1":
			projects(w, r)
		case strings.HasPrefix(r.URL.Path, "/v2/"):
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/service/token",service="harbor-registry"`, host()))
			writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "unauthorized to access repository")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// While its database is down, Harbor refuses right credentials.
func TestRefusalOfAHarborIsDoubted(t *testing.T) {
	const failing = ", so that it refuses the credential proves nothing: "
	for name, row := range map[string]struct {
		health, projects http.HandlerFunc
		verdict          Verdict
		message          string // what it begins with
	}{
		"healthy":                  {answers(200, healthy), answers(200, "[]"), Denied, ""},
		"another component":        {answers(200, noScanner), answers(200, "[]"), Denied, ""},
		"no health":                {answers(404, "<html>"), answers(404, "<html>"), Denied, ""},
		"health of another form":   {answers(200, "<html>"), answers(200, "[]"), Denied, ""},
		"no database":              {answers(200, noDB), answers(500, "{}"), Unreachable, "Harbor says that its component database is unhealthy" + failing},
		"no database since now":    {answers(200, healthy), answers(500, "{}"), Unreachable, "Harbor answered 500 to the question for its public projects" + failing},
		"core does not answer":     {answers(502, "<html>"), answers(502, "<html>"), Unreachable, "Harbor answered 502 to the question whether it is healthy" + failing},
		"health leads elsewhere":   {redirectTo("https://elsewhere.example.com/"), answers(200, "[]"), Denied, ""},
		"health leads to metadata": {redirectTo("https://169.254.169.254/"), answers(200, "[]"), Unreachable, "Harbor does not answer the question whether it is healthy" + failing},
	} {
		for _, givesToken := range []bool{false, true} {
			for _, repository := range []string{"team/app", ""} {
				t.Run(fmt.Sprintf("%s, token %v, %s", name, givesToken, repository), func(t *testing.T) {
					var f *fake
					f = newTLS(t, "harbor.example.com", harborHandler(func() string { return f.host }, givesToken, row.health, row.projects))
					result := verify(t, newVerifier(t, nil), f.host, repository)
					refusal := "the registry answered 401 Unauthorized"
					if result.Verdict != row.verdict || !strings.HasPrefix(result.Message, row.message+refusal) || result.Accepted {
						t.Errorf("want %s, %q…, got %+v", row.verdict, row.message+refusal, result)
					}
					for _, r := range f.requests {
						if strings.HasPrefix(r.URL.Path, "/api/") && r.Header.Get("Authorization") != "" {
							t.Errorf("want the API asked without a credential, got one to %s", r.URL.Path)
						}
					}
				})
			}
		}
	}
}

// A registry that is not a Harbor is asked nothing more.
func TestRefusalOfOthersIsNotDoubted(t *testing.T) {
	for _, challenge := range []string{
		`Bearer realm="https://%s/service/token",service="tests"`,
		`Bearer realm="https://%s/token",service="harbor-registry"`,
		`Basic realm="https://%s/service/token"`,
	} {
		var f *fake
		f = newTLS(t, "registry.example.com", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(challenge, f.host))
			writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "no")
		})
		result := verify(t, newVerifier(t, nil), f.host, "team/app")
		if result.Verdict != Denied {
			t.Errorf("%s: want denied, got %+v", challenge, result)
		}
		for _, call := range f.log() {
			if strings.Contains(call, "/api/") {
				t.Errorf("%s: want no call of an API, got %s", challenge, call)
			}
		}
	}
}

// A registry that names a token server by plain http, or at an address that no registry
// has, is asked nothing there.
func TestHarborIsAskedByTheSameRules(t *testing.T) {
	plain := newPlain(t, "harbor.example.com", answers(200, healthy))
	for _, realm := range []string{"http://" + plain.host, "https://169.254.169.254"} {
		f := newTLS(t, "registry.example.com", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/service/token",service="harbor-registry"`, realm))
			writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "no")
		})
		if result := verify(t, newVerifier(t, nil), f.host, "team/app"); result.Verdict != Unreachable {
			t.Errorf("%s: want unreachable, got %+v", realm, result)
		}
	}
	if calls := plain.log(); len(calls) > 0 {
		t.Errorf("want no call, got %v", calls)
	}
}

func TestHarborOutageWithoutAnAnswer(t *testing.T) {
	down := errors.New("no answer")
	for want, get := range map[string]func(string) (int, []byte, error){
		"Harbor does not answer the question whether it is healthy": func(string) (int, []byte, error) { return 0, nil, down },
		"Harbor does not answer the question for its public projects": func(path string) (int, []byte, error) {
			if path == "/health" {
				return 200, []byte(healthy), nil
			}
			return 0, nil, down
		},
	} {
		if got := HarborOutage(get); got != want {
			t.Errorf("want %q, got %q", want, got)
		}
	}
}
