// SPDX-License-Identifier: MPL-2.0

package issuer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const secret = "S3cr3t<&>Token"

func TestNewName(t *testing.T) {
	harbor := regexp.MustCompile(`^[a-z0-9]+(?:[._-][a-z0-9]+)*$`) // Harbor's rule is the strictest
	seen := map[string]bool{}
	for purpose, want := range map[string]string{
		"my_app":                            `^regcred-my-app-[a-z2-7]{26}$`,
		"Team.A--B__c":                      `^regcred-team-a-b-c-[a-z2-7]{26}$`,
		"":                                  `^regcred-[a-z2-7]{26}$`,
		"__":                                `^regcred-[a-z2-7]{26}$`,
		strings.Repeat("a", 300):            `^regcred-a{40}-[a-z2-7]{26}$`,
		strings.Repeat("a", 39) + "-" + "b": `^regcred-a{39}-[a-z2-7]{26}$`,
	} {
		for range 100 {
			name := issuer.NewName(purpose)
			if !regexp.MustCompile(want).MatchString(name) || !harbor.MatchString(name) {
				t.Fatalf("NewName(%q): want %s, got %q", purpose, want, name)
			}
			if seen[name] {
				t.Fatalf("NewName gave %q twice", name)
			}
			seen[name] = true
		}
	}
}

func TestExpiryIsRoundedUp(t *testing.T) {
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	now := at("2026-03-01T12:00:00Z")
	for _, c := range []struct {
		until string
		days  int
		date  string
	}{
		{"2026-03-01T12:00:00Z", 1, "2026-03-02"},
		{"2026-03-01T12:00:01Z", 1, "2026-03-02"},
		{"2026-03-02T00:00:00Z", 1, "2026-03-02"},
		{"2026-03-02T12:00:00Z", 1, "2026-03-03"},
		{"2026-03-02T12:00:01Z", 2, "2026-03-03"},
		{"2026-03-01T23:30:00-02:00", 1, "2026-03-03"},
		{"2026-02-01T00:00:00Z", 1, "2026-02-01"},
		{"2027-03-01T12:00:00Z", 365, "2027-03-02"},
	} {
		if got := issuer.WholeDays(now, at(c.until)); got != c.days {
			t.Errorf("WholeDays until %s: want %d, got %d", c.until, c.days, got)
		}
		if got := issuer.CoveringDate(at(c.until)).Format(time.DateOnly); got != c.date {
			t.Errorf("CoveringDate of %s: want %s, got %s", c.until, c.date, got)
		}
	}
}

// pinger is an issuer whose methods all send one request.
type pinger struct {
	conn   issuer.Connection
	method string
}

func (p pinger) call(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, p.method, p.conn.URL+"/api?token="+secret, strings.NewReader(""))
	if err != nil {
		return err
	}
	req.Header.Set("PRIVATE-TOKEN", secret)
	resp, err := p.conn.HTTP.Do(req)
	if err != nil {
		return issuer.Failed(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return issuer.Failed(err)
	}
	if resp.StatusCode != http.StatusOK {
		return issuer.StatusError(resp.StatusCode, resp.Header, string(body))
	}
	return nil
}

func (p pinger) Check(ctx context.Context) (issuer.Status, error) {
	return issuer.Status{}, p.call(ctx)
}

func (p pinger) Mint(ctx context.Context, _ issuer.Request) (issuer.Credential, error) {
	return issuer.Credential{}, p.call(ctx)
}

func (p pinger) Find(ctx context.Context, _ issuer.Settings, name string) ([]string, error) {
	return []string{name + "1", name + "2"}, p.call(ctx)
}

func (p pinger) Revoke(ctx context.Context, _ issuer.Settings, _, _ string) error {
	return p.call(ctx)
}

func open(t *testing.T, url, method string) *issuer.Client {
	t.Helper()
	c := issuer.Connection{
		URL: url, Registries: []dockerconfig.Key{"registry.example.com"},
		Secrets: issuer.Secrets{"token": dockerconfig.NewSecret(secret)}, HTTP: issuer.NewHTTP(nil), Now: time.Now,
	}
	client, err := issuer.Open(issuer.Type{New: func(c issuer.Connection) (issuer.Issuer, error) { return pinger{c, method}, nil }}, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// TestCalls makes one call to a server with faults, and checks how often the server
// is called and what the error says.
func TestCalls(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	type outcome struct {
		Calls      int
		Definite   bool
		Status     int
		RetryAfter time.Duration
		Message    string // part of it
	}
	for name, c := range map[string]struct {
		method string
		times  int // how often the fault occurs; -1: always
		fault  issuertest.Fault
		want   outcome
	}{
		"success":                          {http.MethodPost, 0, nil, outcome{Calls: 1}},
		"GET, 500 once":                    {http.MethodGet, 1, issuertest.Status(500, "boom"), outcome{Calls: 2}},
		"GET, 500 always":                  {http.MethodGet, -1, issuertest.Status(500, "boom"), outcome{4, false, 500, 0, "answered 500 Internal Server Error: boom"}},
		"DELETE, 503 once":                 {http.MethodDelete, 1, issuertest.Status(503, "later"), outcome{Calls: 2}},
		"DELETE, cut once":                 {http.MethodDelete, 1, issuertest.CutAfterActing, outcome{Calls: 2}},
		"POST, 500":                        {http.MethodPost, -1, issuertest.Status(500, "boom"), outcome{1, false, 500, 0, "answered 500"}},
		"POST, 503":                        {http.MethodPost, -1, issuertest.Status(503, "later", "Retry-After", "7"), outcome{1, false, 503, 7 * time.Second, "it can be asked again in 7s"}},
		"POST, cut":                        {http.MethodPost, -1, issuertest.Cut, outcome{1, false, 0, 0, "the connection"}},
		"PUT, cut":                         {http.MethodPut, -1, issuertest.CutAfterActing, outcome{1, false, 0, 0, "the connection"}},
		"POST, 429 once":                   {http.MethodPost, 1, issuertest.TooManyRequests(0), outcome{Calls: 2}},
		"POST, 429 always":                 {http.MethodPost, -1, issuertest.TooManyRequests(0), outcome{4, true, 429, 0, "answered 429 Too Many Requests"}},
		"POST, 429 for long":               {http.MethodPost, -1, issuertest.TooManyRequests(600), outcome{1, true, 429, 10 * time.Minute, "it can be asked again in 10m0s"}},
		"GET, 429 for long":                {http.MethodGet, -1, issuertest.TooManyRequests(600), outcome{1, true, 429, 10 * time.Minute, "it can be asked again in 10m0s"}},
		"403":                              {http.MethodPost, -1, issuertest.Status(403, `{"message":"no"}`), outcome{1, true, 403, 0, `answered 403 Forbidden: {"message":"no"}`}},
		"404":                              {http.MethodGet, -1, issuertest.Status(404, "gone"), outcome{1, true, 404, 0, "answered 404 Not Found: gone"}},
		"408":                              {http.MethodPost, -1, issuertest.Status(408, ""), outcome{1, false, 408, 0, "answered 408"}},
		"redirect":                         {http.MethodGet, -1, issuertest.Status(302, "", "Location", "https://evil.example.com/"), outcome{1, false, 302, 0, "a redirect, which is not followed"}},
		"the secret in the answer":         {http.MethodGet, -1, issuertest.Status(403, "bad token "+secret), outcome{1, true, 403, 0, "[redacted]"}},
		"the secret escaped in the answer": {http.MethodGet, -1, issuertest.Status(403, `bad token S3cr3t\u003c\u0026\u003eToken`), outcome{1, true, 403, 0, "[redacted]"}},
		"many lines":                       {http.MethodGet, -1, issuertest.Status(403, "a\n\x1b[31mb\r\nc"), outcome{1, true, 403, 0, "403 Forbidden: a [31mb c"}},
		"a long answer":                    {http.MethodGet, -1, issuertest.Status(403, strings.Repeat("x", 10_000)), outcome{1, true, 403, 0, strings.Repeat("x", 299) + "…"}},
		"a huge answer":                    {http.MethodGet, -1, issuertest.Status(200, strings.Repeat("x", 5<<20)), outcome{1, false, 0, 0, "the answer is longer than 4194304 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := issuertest.NewServer(t, ok)
			server.InjectFault(c.times, nil, c.fault)
			_, err := open(t, server.URL, c.method).Check(t.Context())
			got := outcome{len(server.Calls()), issuer.Definite(err), issuer.StatusOf(err), issuer.RetryAfter(err), c.want.Message}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s\n%v", diff, err)
			}
			if failed := c.want.Message != ""; failed != (err != nil) || failed && !issuer.IsError(err) {
				t.Fatalf("want an error: %v, got %v", failed, err)
			}
			if err == nil {
				return
			}
			if text := err.Error(); !strings.Contains(text, c.want.Message) || !strings.HasPrefix(text, "the registry's API at "+server.URL+": ") {
				t.Errorf("want an error about the API at %s with %q, got %q", server.URL, c.want.Message, text)
			}
			checkHoldsNoSecret(t, err)
		})
	}
}

func checkHoldsNoSecret(t *testing.T, err error) {
	t.Helper()
	for unwrapped := err; unwrapped != nil; unwrapped = errors.Unwrap(unwrapped) {
		if text := fmt.Sprintf("%v %q", unwrapped, unwrapped); strings.Contains(text, "S3cr3t") {
			t.Errorf("the error holds a secret: %s", text)
		}
	}
}

func TestWhatNobodyAnswers(t *testing.T) {
	server := issuertest.NewServer(t, http.NotFoundHandler())
	closed := server.URL
	server.Close()
	tls := issuertest.NewServer(t, http.NotFoundHandler())
	hanging := issuertest.NewServer(t, http.NotFoundHandler())
	hanging.InjectFault(-1, nil, issuertest.Hang)
	for name, c := range map[string]struct {
		url      string
		definite bool
		message  string
	}{
		"nobody listens":     {closed, true, "the connection failed"},
		"no such name":       {"https://registry.invalid", true, "the name cannot be resolved: lookup registry.invalid"},
		"cloud metadata":     {"http://169.254.169.254", true, "is an address that no registry has; nothing was sent there"},
		"plain http for TLS": {strings.Replace(tls.URL, "http://", "https://", 1), false, "the server answered an https request with plain http"},
		"no complete answer": {hanging.URL, false, "no complete answer within the time limit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			if c.url == hanging.URL {
				limited, cancel := context.WithTimeout(ctx, 3*time.Second)
				defer cancel()
				ctx = limited
			}
			_, err := open(t, c.url, http.MethodPost).Mint(ctx, issuer.Request{})
			if err == nil || issuer.Definite(err) != c.definite || !strings.Contains(err.Error(), c.message) {
				t.Errorf("want an error, definite %v, with %q, got definite %v: %v", c.definite, c.message, issuer.Definite(err), err)
			}
			checkHoldsNoSecret(t, err)
		})
	}
}

// Another server may answer with a success that has no credential.
func TestMintWithoutCredentialIsAnError(t *testing.T) {
	server := issuertest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	_, err := open(t, server.URL, http.MethodPost).Mint(t.Context(), issuer.Request{})
	if err == nil || issuer.Definite(err) {
		t.Errorf("want an error that is not definite, because something may have been minted, got %v", err)
	}
}

func TestRevokeNamedRevokesAllThatIsFound(t *testing.T) {
	server := issuertest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	client := open(t, server.URL, http.MethodPost)
	if err := client.RevokeNamed(t.Context(), nil, "regcred-a"); err != nil || len(server.Calls()) != 3 {
		t.Errorf("want one call that finds and two that revoke, got %d and %v", len(server.Calls()), err)
	}
	server.InjectFault(1, nil, issuertest.Status(500, ""))
	if err := client.RevokeNamed(t.Context(), nil, "regcred-a"); issuer.StatusOf(err) != 500 {
		t.Errorf("want the error of finding, got %v", err)
	}
}

// Only what the engine named is ended.
func TestNothingIsEndedUnderANameOfOthers(t *testing.T) {
	server := issuertest.NewServer(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	client := open(t, server.URL, http.MethodPost)
	for _, name := range []string{"", "production-0", "Regcred-a", "x-regcred-a"} {
		for call, err := range map[string]error{
			"Revoke":      client.Revoke(t.Context(), nil, name, "7"),
			"RevokeNamed": client.RevokeNamed(t.Context(), nil, name),
			"DiscardRoot": client.DiscardRoot(t.Context(), name),
		} {
			if err == nil || !issuer.Definite(err) || !strings.Contains(err.Error(), "is not the name of a credential that the engine created, so nothing is ended") {
				t.Errorf("%s of %q: want a definite error, got %v", call, name, err)
			}
		}
	}
	if calls := server.Calls(); len(calls) > 0 {
		t.Errorf("want no call, got %v", calls)
	}
}

// registryOf is a registry that counts IDs: the names by ID, "" for a name that the root
// credential may not know.
type registryOf map[string]string

func (r registryOf) ending(name string, broken error) issuer.Ending {
	return issuer.Ending{
		NameOf: func(_ context.Context, id string) (string, error) {
			if _, found := r[id]; !found {
				return "", issuer.Gonef("there is no %s", id)
			}
			return r[id], nil
		},
		Find: func(context.Context) ([]string, error) {
			var ids []string
			for id, has := range r {
				if has == name {
					ids = append(ids, id)
				}
			}
			return ids, broken
		},
		Delete: func(_ context.Context, id string) error {
			if _, found := r[id]; !found {
				return issuer.Gonef("there is no %s", id)
			}
			delete(r, id)
			return nil
		},
	}
}

func TestEndingNeedsNameAndID(t *testing.T) {
	broken := issuer.StatusError(http.StatusNotFound, nil, "default backend")
	for name, test := range map[string]struct {
		before, after registryOf
		broken        error
		fails         bool
	}{
		"it has both":                     {registryOf{"7": "a", "8": "b"}, registryOf{"8": "b"}, nil, false},
		"nothing has the ID":              {registryOf{"8": "b"}, registryOf{"8": "b"}, nil, false},
		"another has the ID":              {registryOf{"7": "b"}, registryOf{"7": "b"}, nil, false},
		"another has the ID, it has more": {registryOf{"7": "b", "9": "a"}, registryOf{"7": "b"}, nil, false},
		"another has the ID, no list":     {registryOf{"7": "b"}, registryOf{"7": "b"}, broken, true},
		"the name may not be known":       {registryOf{"7": ""}, registryOf{"7": ""}, nil, false},
		"several have the name":           {registryOf{"7": "b", "9": "a", "10": "a"}, registryOf{"7": "b"}, nil, false},
		"all is gone":                     {registryOf{"7": "b"}, registryOf{"7": "b"}, issuer.Gonef("there is no project"), false},
	} {
		err := test.before.ending("a", test.broken).End(t.Context(), "a", "7")
		if (err != nil) != test.fails {
			t.Errorf("%s: want an error: %v, got %v", name, test.fails, err)
		}
		if diff := cmp.Diff(test.after, test.before); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestOnlyARefusalWithProofHasAStatus(t *testing.T) {
	refused := issuer.StatusError(http.StatusUnauthorized, nil, "no")
	for name, test := range map[string]struct {
		err    error
		status int
		text   string
	}{
		"proven":   {issuer.Proving(issuer.ProvesRefused, refused), 401, "answered 401 Unauthorized: no"},
		"unproven": {issuer.Hint(issuer.StatusError(http.StatusUnauthorized, nil, "no"), "it is down"), 0, "answered 401 Unauthorized, which does not prove that the root credential is refused: no (it is down)"},
		"others":   {issuer.StatusError(http.StatusForbidden, nil, "no"), 403, "answered 403 Forbidden: no"},
	} {
		client, err := issuer.Open(issuer.Type{New: func(issuer.Connection) (issuer.Issuer, error) { return failing{err: test.err}, nil }}, issuer.Connection{URL: "https://a.example.com"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Check(t.Context())
		want := "the registry's API at https://a.example.com: " + test.text
		if issuer.StatusOf(err) != test.status || err.Error() != want || !issuer.Definite(err) {
			t.Errorf("%s: want %q with status %d, got %q with status %d", name, want, test.status, err, issuer.StatusOf(err))
		}
	}
}

// failing is an issuer whose calls fail.
type failing struct {
	issuer.Issuer
	err error
}

func (f failing) Check(context.Context) (issuer.Status, error) { return issuer.Status{}, f.err }

func TestRootOfAnIssuerThatCannotRotateIt(t *testing.T) {
	client := open(t, "https://registry.invalid", http.MethodPost)
	_, prepared := client.PrepareRoot(t.Context(), "a")
	for call, err := range map[string]error{
		"PrepareRoot": prepared, "ActivateRoot": client.ActivateRoot(t.Context(), issuer.Root{}),
		"DiscardRoot": client.DiscardRoot(t.Context(), "regcred-a"), "RetireRoot": client.RetireRoot(t.Context(), issuer.Root{}),
	} {
		if !errors.Is(err, issuer.ErrRootNotRotatable) {
			t.Errorf("%s: want %v, got %v", call, issuer.ErrRootNotRotatable, err)
		}
	}
}

func TestWithReplacesTheRootCredentialOnly(t *testing.T) {
	before := issuer.Connection{
		URL: "https://a.example.com", Settings: issuer.Settings{"username": "a", "region": "r"},
		Secrets: issuer.Secrets{"password": dockerconfig.NewSecret("old")},
	}
	after := before.With(issuer.Root{Settings: issuer.Settings{"username": "b"}, Secrets: issuer.Secrets{"password": dockerconfig.NewSecret("new")}})
	if diff := cmp.Diff(issuer.Settings{"username": "b", "region": "r"}, after.Settings); diff != "" || after.URL != before.URL {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([][]string{{"old"}, {"new"}}, [][]string{before.Secrets.Reveal(), after.Secrets.Reveal()}); diff != "" {
		t.Errorf("secrets before and after (-want +got):\n%s", diff)
	}
}
