// SPDX-License-Identifier: MPL-2.0

package gitea

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// Tests in tests/ make the calls on a real Gitea. Here are tests of the fields, and of
// answers that a real one does not give on demand.

const token = "0123456789abcdef0123456789abcdef01234567"

func connection(url, username, password string) issuer.Connection {
	c := issuer.Connection{
		URL:        url,
		Registries: []dockerconfig.Key{"gitea.example.com"},
		Settings:   issuer.Settings{},
		Secrets:    issuer.Secrets{},
		HTTP:       issuer.NewHTTP(nil),
		Now:        time.Now,
	}
	if username != "" {
		c.Settings["username"] = username
	}
	if password != "" {
		c.Secrets["password"] = dockerconfig.NewSecret(password)
	}
	return c
}

// serve opens a connection to a server with an answer for each request, by method and
// path below /api/v1.
func serve(t *testing.T, password string, answers map[string]http.HandlerFunc) *issuer.Client {
	t.Helper()
	server := issuertest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, known := answers[r.Method+" "+strings.TrimPrefix(r.URL.Path, "/api/v1")]
		if !known && r.URL.Path == "/api/healthz" {
			answer, known = says(200, `{"status":"pass"}`), true
		}
		if !known {
			t.Errorf("unexpected request: %s %s", r.Method, r.URL)
			w.WriteHeader(http.StatusTeapot)
			return
		}
		answer(w, r)
	}))
	client, err := issuer.Open(Type(), connection(server.URL, "alice", password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

var alice = issuer.Settings{"user": "alice"}

func TestFieldsOfConnections(t *testing.T) {
	const name = `username: must be the name of an account, not an e-mail address: letters and digits, with single "-", "_" or "." in between`
	for _, test := range []struct{ username, password, want string }{
		{"alice", "secret", ""},
		{"A.l-i_c3", "secret", ""},
		{"7", "secret", ""},
		{"", "secret", "username: must be set: the name of an account"},
		{"alice", "", "password: must be set: the account's password, or an access token of it with the scope write:user"},
		{"alice@example.com", "secret", name},
		{"a--b", "secret", name},
		{"a.", "secret", name},
		{"-a", "secret", name},
		{"..", "secret", name},
		{"a/b", "secret", name},
		{"a b", "secret", name},
		{"ä", "secret", name},
	} {
		got := ""
		if _, err := issuer.Open(Type(), connection("https://gitea.example.com", test.username, test.password)); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("username %q, password %q: want %q, got %q", test.username, test.password, test.want, got)
		}
	}
	if attrs := Type().ConnectionFields["password"].DisplayAttrs; attrs == nil || !attrs.Sensitive {
		t.Error("want the password to be sensitive")
	}
}

func TestFieldsOfRoles(t *testing.T) {
	c := connection("https://gitea.example.com", "alice", "secret")
	for _, test := range []struct{ user, want, refusal string }{
		{"", "alice", ""},
		{"Bob", "Bob", ""},
		{"bob/../alice", "", `user: must be the name of an account, not an e-mail address: letters and digits, with single "-", "_" or "." in between`},
	} {
		fields := issuer.Settings{}
		if test.user != "" {
			fields["user"] = test.user
		}
		target, err := Type().Target(c, fields)
		if test.refusal != "" {
			if err == nil || err.Error() != test.refusal {
				t.Errorf("user %q: want %q, got %v", test.user, test.refusal, err)
			}
			continue
		}
		want := issuer.Target{Settings: issuer.Settings{"user": test.want}, Names: []string{test.want}}
		if err != nil || !cmp.Equal(target, want) {
			t.Errorf("user %q: want %+v, got %+v, %v", test.user, want, target, err)
		}
	}
}

func TestErrorsOfMinting(t *testing.T) {
	for name, test := range map[string]struct {
		answer   http.HandlerFunc
		want     string
		definite bool
	}{
		"Gitea's words":  {says(400, `{"message":"access token name has been used already"}`), "answered 400 Bad Request: access token name has been used already", true},
		"a proxy's page": {says(403, "<html>\nsecret page"), "answered 403 Forbidden", true},
		"no token":       {says(201, `{"id":7}`), "the answer has no access token", false},
		"no ID":          {says(201, `{"sha1":"`+token+`"}`), "the answer has no access token", false},
		"no JSON":        {says(201, `<html>`), "the answer could not be understood", false},
		"a server error": {says(500, `{"message":"boom"}`), "answered 500 Internal Server Error: boom", false},
		"renamed":        {redirect("/api/v1/users/bob/tokens"), "the account alice was renamed to bob; write user=bob to the role", true},
		"renamed, below a path": {
			redirect("/git/api/v1/users/bob/tokens"), "the account alice was renamed to bob; write user=bob to the role", true,
		},
		"redirect to a login":     {redirect("/user/login"), "answered 307, a redirect", false},
		"redirect to no name":     {redirect("/api/v1/users/..%2fadmin/tokens"), "answered 307, a redirect", false},
		"redirect to nowhere":     {says(307, ""), "answered 307, a redirect", false},
		"the secret in its words": {says(400, `{"message":"no: secret-of-alice"}`), "answered 400 Bad Request: [redacted]", true},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, "secret-of-alice", map[string]http.HandlerFunc{"POST /users/alice/tokens": test.answer})
			_, err := client.Mint(t.Context(), issuer.Request{Name: "regcred-x", For: alice})
			if err == nil || !strings.Contains(err.Error(), ": "+test.want) || issuer.Definite(err) != test.definite {
				t.Errorf("want %q, definite %v; got %v, definite %v", test.want, test.definite, err, issuer.Definite(err))
			}
			if strings.Contains(err.Error(), "html") || strings.Contains(err.Error(), "SDK") {
				t.Errorf("want no more than Gitea's own message, got %v", err)
			}
		})
	}
}

func redirect(location string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
}

// Gitea's answers have the address of its reference.
const (
	notFound  = `{"message":"not found","url":"https://gitea.example.com/api/swagger","errors":null}`
	noAccount = `{"message":"user redirect does not exist [name: alice]","url":"https://gitea.example.com/api/swagger"}`
	refused   = `{"message":"invalid username, password or token","url":"https://gitea.example.com/api/swagger"}`
)

func TestRevoke(t *testing.T) {
	const ours, foreign = `[{"id":7,"name":"regcred-x"},{"id":8,"name":"production-0"}]`, `[{"id":7,"name":"production-0"}]`
	for name, test := range map[string]struct {
		list     http.HandlerFunc
		deletion http.HandlerFunc // of token 7; nil if there must be none
		status   int
		want     string // "" for success
	}{
		"done":                       {says(200, ours), says(204, ""), 0, ""},
		"gone":                       {says(200, `[]`), nil, 0, ""},
		"another has its ID":         {says(200, foreign), nil, 0, ""},
		"it goes meanwhile":          {says(200, ours), says(404, notFound), 404, "answered 404 Not Found, which does not prove that the credential is gone: not found"},
		"the account is gone":        {says(404, noAccount), nil, 0, ""},
		"another account is gone":    {says(404, strings.ReplaceAll(noAccount, "alice", "malice")), nil, 404, "does not prove"},
		"the account is not seen":    {says(404, notFound), nil, 404, "answered 404 Not Found, which does not prove that the credential is gone: not found"},
		"all is not found":           {says(404, "<html>"), nil, 404, "answered 404 Not Found"},
		"the credential is no more":  {says(401, refused), nil, 401, "invalid username"},
		"a proxy signs in":           {says(401, "<html>"), nil, 0, "answered 401 Unauthorized, which does not prove that the root credential is refused"},
		"another answers in between": {says(200, ours), says(200, "<html>please sign in"), 0, "answered 200 OK to a deletion, where 204 is expected"},
		"the account cannot be read": {redirect("/user/login"), nil, 307, "a redirect"},
	} {
		t.Run(name, func(t *testing.T) {
			answers := map[string]http.HandlerFunc{"GET /users/alice/tokens": test.list}
			if test.deletion != nil {
				answers["DELETE /users/alice/tokens/7"] = test.deletion
			}
			err := serve(t, "secret-of-alice", answers).Revoke(t.Context(), alice, "regcred-x", "7")
			if test.want == "" && err != nil {
				t.Errorf("want success, got %v", err)
			}
			if test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || issuer.StatusOf(err) != test.status) {
				t.Errorf("want %q with status %d, got %v with status %d", test.want, test.status, err, issuer.StatusOf(err))
			}
		})
	}
	err := serve(t, "secret-of-alice", nil).Revoke(t.Context(), alice, "regcred-x", "../8")
	if err == nil || !strings.Contains(err.Error(), "is not the ID of an access token") {
		t.Errorf("want an ID of another kind to be refused without a call, got %v", err)
	}
}

// While Gitea's database is down, it refuses every credential.
func TestRefusalOfAnUnhealthyGitea(t *testing.T) {
	for name, test := range map[string]struct {
		health http.HandlerFunc
		status int
	}{
		"healthy":              {says(200, `{"status":"pass"}`), 401},
		"without a health":     {says(404, `<html>`), 401},
		"unhealthy":            {says(424, `{"status":"fail"}`), 0},
		"unhealthy, 1.23":      {says(500, `{"status":"fail"}`), 0},
		"not even an answer":   {issuertestCut, 0},
		"behind a dead server": {says(502, `<html>`), 0},
	} {
		_, err := serve(t, "secret-of-alice", map[string]http.HandlerFunc{"GET /user": says(401, refused), "GET /api/healthz": test.health}).Check(t.Context())
		if err == nil || issuer.StatusOf(err) != test.status {
			t.Errorf("%s: want status %d, got %v", name, test.status, err)
		}
	}
}

func issuertestCut(w http.ResponseWriter, r *http.Request) { issuertest.Cut(w, r, nil) }

// The new credential reads whether the old token is still there.
func TestRetireRoot(t *testing.T) {
	const old = "89abcdef0123456789abcdef0123456789abcdef"
	root := issuer.Root{Settings: issuer.Settings{"username": "alice"}, Secrets: issuer.Secrets{"password": dockerconfig.NewSecret(old)}}
	const both = `[{"id":7,"name":"hand-made","token_last_eight":"89abcdef"},{"id":8,"name":"regcred-x","token_last_eight":"01234567"}]`
	for name, test := range map[string]struct {
		answers map[string]http.HandlerFunc
		want    string
	}{
		"it is there": {map[string]http.HandlerFunc{
			"GET /users/alice/tokens": says(200, both), "DELETE /users/alice/tokens/7": says(204, ""),
		}, ""},
		"it is gone":      {map[string]http.HandlerFunc{"GET /users/alice/tokens": says(200, `[{"id":8,"token_last_eight":"01234567"}]`)}, ""},
		"all are refused": {map[string]http.HandlerFunc{"GET /users/alice/tokens": says(401, refused)}, "invalid username"},
		"database down":   {map[string]http.HandlerFunc{"GET /users/alice/tokens": says(401, refused), "GET /api/healthz": says(424, "")}, "Gitea says that it is unhealthy"},
		"another's, which is refused": {map[string]http.HandlerFunc{
			"GET /users/alice/tokens": byPassword(old, says(401, refused), says(403, notFound)), "GET /user": says(200, `{"login":"alice"}`),
		}, ""},
		"another's, which works": {map[string]http.HandlerFunc{
			"GET /users/alice/tokens": byPassword(old, says(200, both), says(403, notFound)), "DELETE /users/alice/tokens/7": says(204, ""),
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := serve(t, token, test.answers).RetireRoot(t.Context(), root)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("want %q, got %v", test.want, err)
			}
		})
	}
}

// byPassword answers in one way to a password, and in another to all others.
func byPassword(password string, its, others http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, sent, _ := r.BasicAuth(); sent == password {
			its(w, r)
			return
		}
		others(w, r)
	}
}

// pages serves a list of tokens with the IDs 1 to last, two on a page. total returns
// the total that it reports with each page.
func pages(last int, total func(page int) string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		list := []map[string]any{}
		for id := 2*page - 1; id <= min(2*page, last); id++ {
			list = append(list, map[string]any{"id": id, "name": fmt.Sprintf("name-%d", id)})
		}
		if said := total(page); said != "" {
			w.Header().Set("X-Total-Count", said)
		}
		_ = json.NewEncoder(w).Encode(list)
	}
}

// oneGoes serves five tokens. The first is deleted after the first page was read, so
// the third is never on the second page.
func oneGoes() http.HandlerFunc {
	all := []string{`{"id":1,"name":"name-1"}`, `{"id":2,"name":"name-2"}`, `{"id":3,"name":"name-3"}`, `{"id":4,"name":"name-4"}`, `{"id":5,"name":"name-5"}`}
	gone := 0
	return func(w http.ResponseWriter, r *http.Request) {
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		left := all[gone:]
		w.Header().Set("X-Total-Count", strconv.Itoa(len(left)))
		from, to := min(2*page-2, len(left)), min(2*page, len(left))
		_, _ = w.Write([]byte("[" + strings.Join(left[from:to], ",") + "]"))
		gone = 1
	}
}

func TestFind(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		name   string
		want   []string
		fails  string
	}{
		"on the last page":       {pages(5, func(int) string { return "5" }), "name-5", []string{"5"}, ""},
		"a part of a name":       {pages(5, func(int) string { return "5" }), "name", nil, ""},
		"the total is not said":  {pages(5, func(int) string { return "" }), "name-5", []string{"5"}, ""},
		"one went meanwhile":     {oneGoes(), "name-3", []string{"3"}, ""},
		"always changing":        {pages(5, func(page int) string { return strconv.Itoa(5 + page) }), "name-5", nil, "changed each time"},
		"fewer than are said":    {pages(4, func(int) string { return "6" }), "name-4", nil, "changed each time"},
		"each page is the first": {says(200, `[{"id":1,"name":"name-5"}]`), "name-5", []string{"1"}, ""},
		"no list":                {says(200, `{}`), "name-5", nil, "could not be understood"},
		"refused":                {says(403, `{"message":"doer should be the site admin"}`), "name-5", nil, "doer should be the site admin"},
		"two of one name":        {says(200, `[{"id":3,"name":"name-5"},{"id":4,"name":"name-5"}]`), "name-5", []string{"3", "4"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := issuertest.NewServer(t, test.answer)
			g, err := open(connection(server.URL, "alice", "secret-of-alice"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := g.Find(t.Context(), alice, test.name)
			slices.Sort(got)
			if test.fails == "" && (err != nil || !cmp.Equal(got, test.want)) {
				t.Errorf("want %q, got %q, %v", test.want, got, err)
			}
			if test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)) {
				t.Errorf("want an error that contains %q, got %q, %v", test.fails, got, err)
			}
		})
	}
}

func TestCheckOfOddAnswers(t *testing.T) {
	me := says(200, `{"login":"alice"}`)
	for name, test := range map[string]struct {
		answers map[string]http.HandlerFunc
		want    string
	}{
		"nobody":    {map[string]http.HandlerFunc{"GET /user": says(200, `{}`)}, "does not name the account of the root credential"},
		"no tokens": {map[string]http.HandlerFunc{"GET /user": me, "GET /users/alice/tokens": says(401, `{"message":"auth required"}`)}, "auth required"},
	} {
		t.Run(name, func(t *testing.T) {
			status, err := serve(t, token, test.answers).Check(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) || status.Identity != "" {
				t.Errorf("want an error that contains %q and no status, got %+v, %v", test.want, status, err)
			}
		})
	}
}

func TestCheckOfScopes(t *testing.T) {
	for scopes, want := range map[string][]string{
		`null`:           nil, // older versions answer so
		`["write:user"]`: nil,
		`["all"]`:        {"the access token used as the password has the scopes all; write:user is all that is needed"},
		`["write:user","read:misc"]`: {
			"the access token used as the password has the scopes write:user, read:misc; write:user is all that is needed",
		},
	} {
		status, err := serve(t, token, map[string]http.HandlerFunc{
			"GET /user":               says(200, `{"login":"alice"}`),
			"GET /users/alice/tokens": says(200, `[{"id":7,"token_last_eight":"01234567","scopes":`+scopes+`}]`),
			endsNone:                  says(404, notFound),
		}).Check(t.Context())
		if err != nil || !cmp.Equal(status, issuer.Status{Identity: "alice", Warnings: want}) {
			t.Errorf("scopes %s: want alice and the warnings %q, got %+v, %v", scopes, want, status, err)
		}
	}
}

// endsNone is the call with which a check finds out whether a token may end others.
const endsNone = "DELETE /users/alice/tokens/9223372036854775807"

// Since 12.0.2, Forgejo lets a token list the others, but neither mint nor end any.
// The answers are those of its source.
func TestForgejoRefusesTokens(t *testing.T) {
	const notAllowed = `{"message":"auth method not allowed","url":"https://forgejo.example.com/api/swagger"}`
	const want = "answered 401 Unauthorized: auth method not allowed (Forgejo lets no access token mint or end others: write the account's own password to the connection)"
	client := serve(t, token, map[string]http.HandlerFunc{
		"GET /user":                says(200, `{"login":"alice"}`),
		"GET /users/alice/tokens":  says(200, `[{"id":7,"name":"vault","token_last_eight":"01234567","scopes":["write:user"]}]`),
		"POST /users/alice/tokens": says(401, notAllowed),
		endsNone:                   says(401, notAllowed),
	})
	status, err := client.Check(t.Context())
	if err == nil || !strings.Contains(err.Error(), want) || !cmp.Equal(status, issuer.Status{}) {
		t.Errorf("Check: want %q, got %+v, %v", want, status, err)
	}
	if _, err := client.Mint(t.Context(), issuer.Request{Name: "regcred-x", For: alice}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Mint: want %q, got %v", want, err)
	}

	// A password may do all of it, and is no token.
	client = serve(t, "secret-of-alice", map[string]http.HandlerFunc{
		"GET /user":                says(200, `{"login":"alice"}`),
		"GET /users/alice/tokens":  says(200, `[]`),
		"POST /users/alice/tokens": says(201, `{"id":9,"name":"regcred-x","sha1":"`+token+`","token_last_eight":"01234567","scopes":["read:package"]}`),
	})
	if _, err := client.Check(t.Context()); err != nil {
		t.Errorf("Check with a password: %v", err)
	}
	if got, err := client.Mint(t.Context(), issuer.Request{Name: "regcred-x", For: alice}); err != nil || got.ID != "9" || got.Username != "alice" {
		t.Errorf("Mint with a password: got %+v, %v", got, err)
	}
}

func TestRootThatCannotBeReplaced(t *testing.T) {
	// A password is refused as a token.
	me := func(asToken int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.Header.Get("Authorization"), "token ") && asToken != http.StatusOK {
				says(asToken, refused)(w, r)
				return
			}
			says(200, body)(w, r)
		}
	}
	twice := says(200, `[{"id":7,"token_last_eight":"01234567","scopes":["all"]},{"id":8,"token_last_eight":"01234567","scopes":["all"]}]`)
	for name, test := range map[string]struct {
		secret  string
		answers map[string]http.HandlerFunc
		want    string
	}{
		"a password that is kept elsewhere": {"secret-of-alice", map[string]http.HandlerFunc{
			"GET /user": me(401, `{"login":"alice","is_admin":true,"source_id":1}`),
		}, "Gitea does not keep the password of alice, because an authentication source does"},
		"a password of no administrator": {"secret-of-alice", map[string]http.HandlerFunc{
			"GET /user": me(401, `{"login":"alice"}`),
		}, "alice is not a site administrator"},
		"it cannot be told what it is": {token, map[string]http.HandlerFunc{
			"GET /user": me(418, `{"login":"alice","is_admin":true}`),
		}, "answered 418"},
		"two tokens that end alike": {token, map[string]http.HandlerFunc{
			"GET /user": me(200, `{"login":"alice"}`), "GET /users/alice/tokens": twice,
		}, "2 access tokens of the account have the last eight characters of the token used as the password"},
		"a token that is not listed": {token, map[string]http.HandlerFunc{
			"GET /user": me(200, `{"login":"alice"}`), "GET /users/alice/tokens": says(200, `[]`),
		}, "0 access tokens of the account have the last eight characters of the token used as the password"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := serve(t, test.secret, test.answers).PrepareRoot(t.Context(), "regcred-root")
			if err == nil || !strings.Contains(err.Error(), test.want) || !issuer.Definite(err) {
				t.Errorf("want a definite error that contains %q, got %v", test.want, err)
			}
		})
	}
	client := serve(t, token, map[string]http.HandlerFunc{"GET /users/alice/tokens": twice})
	root := issuer.Root{Settings: issuer.Settings{"username": "alice"}, Secrets: issuer.Secrets{"password": dockerconfig.NewSecret(token)}}
	if err := client.RetireRoot(t.Context(), root); err == nil || !strings.Contains(err.Error(), "2 access tokens") {
		t.Errorf("RetireRoot: want neither of two tokens deleted that end alike, got %v", err)
	}
}

// A password is discarded or retired without a call: nothing exists at the registry,
// and the old password may already be refused.
func TestPasswordsNeedNoDiscarding(t *testing.T) {
	client := serve(t, "secret-of-alice", nil)
	if err := client.DiscardRoot(t.Context(), "regcred-root"); err != nil {
		t.Errorf("DiscardRoot: %v", err)
	}
	root := issuer.Root{Settings: issuer.Settings{"username": "alice"}, Secrets: issuer.Secrets{"password": dockerconfig.NewSecret("secret-of-alice")}}
	if err := client.RetireRoot(t.Context(), root); err != nil {
		t.Errorf("RetireRoot: %v", err)
	}
}

func TestNewPassword(t *testing.T) {
	first, second := newPassword(), newPassword()
	if first.Equal(second) {
		t.Error("want a password of its own each time")
	}
	for _, class := range []string{`[A-Z]`, `[a-z]`, `[0-9]`, `[^A-Za-z0-9]`, `^.{40,72}$`} {
		if !regexp.MustCompile(class).MatchString(first.Reveal()) {
			t.Errorf("want a password that matches %s", class)
		}
	}
	if hasTokenShape(first) {
		t.Error("want a password that does not look like a token")
	}
}
