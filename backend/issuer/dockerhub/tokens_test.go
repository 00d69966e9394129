// SPDX-License-Identifier: MPL-2.0

package dockerhub_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub/dockerhubtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const tokensOfAcme = "/v2/orgs/acme/access-tokens"

func (o opened) mint(t *testing.T, until time.Time) issuer.Credential {
	t.Helper()
	minted, err := o.Mint(t.Context(), issuer.Request{Name: "regcred-ci", For: o.Settings, ExpiresAt: until})
	if err != nil {
		t.Fatalf("Mint: %v", err)
	}
	return minted
}

func (o opened) request() issuer.Request {
	return issuer.Request{Name: "regcred-ci", For: o.Settings, ExpiresAt: time.Now().Add(time.Hour)}
}

// answers makes matching requests get an answer without anything being done.
func answers(s *dockerhubtest.Server, match func(*http.Request) bool, status int, body string) {
	s.InjectFault(-1, match, issuertest.Status(status, body))
}

func isList(r *http.Request) bool { return r.Method == http.MethodGet && r.URL.Path == tokensOfAcme }

func isLogin(r *http.Request) bool { return r.URL.Path == "/v2/auth/token" }

func TestMintGivesNoMoreThanAsked(t *testing.T) {
	until := time.Now().Add(6 * time.Hour).Truncate(time.Second).Add(time.Millisecond)
	for access, scope := range map[string]string{"pull": "scope-image-pull", "push": "scope-image-push"} {
		s := dockerhubtest.New(t)
		var sent map[string]any
		s.Watch(func(r *http.Request) {
			if s.MintMatch(r) {
				body, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(strings.NewReader(string(body)))
				_ = json.Unmarshal(body, &sent)
			}
		}, nil)
		client := open(t, s, s.Connection(), issuer.Settings{"repositories": dockerhubtest.Repository, "access": access})
		minted := client.mint(t, until)
		ends := until.UTC().Truncate(time.Second).Add(time.Second)
		want := map[string]any{
			"label": "regcred-ci", "description": "Created by Vault (vault-plugin-secrets-regcred), which deletes it when it is no longer used.",
			"resources":  []any{map[string]any{"type": "TYPE_REPO", "path": "acme/web", "scopes": []any{scope}}},
			"expires_at": ends.Format(time.RFC3339),
		}
		if diff := cmp.Diff(want, sent); diff != "" {
			t.Errorf("%s (-want +got):\n%s", access, diff)
		}
		may := func(repository, action string) bool {
			return s.Accepts(minted.Username, minted.Password.Reveal(), repository, action)
		}
		if minted.Username != "acme" || !minted.ExpiresAt.Equal(ends) || !may("acme/web", "pull") || may("acme/web", "push") != (access == "push") || may("acme/api", "pull") {
			t.Errorf("%s: got %s until %s, which may: pull %v, push %v, pull elsewhere %v", access, minted.Username, minted.ExpiresAt,
				may("acme/web", "pull"), may("acme/web", "push"), may("acme/api", "pull"))
		}
	}
}

func TestMintRefusesOddAnswers(t *testing.T) {
	for _, c := range []struct {
		status     int
		body, want string
	}{
		{201, `{}`, "the answer has no access token with the requested label"},
		{201, `{"id":"x","label":"regcred-ci"}`, "the answer has no access token with the requested label"},
		{201, `{"token":"x","label":"regcred-ci"}`, "the answer has no access token with the requested label"},
		{201, `{"id":"x","token":"y","label":"regcred-c"}`, "the answer has no access token with the requested label"},
		{201, `{"id":"x","token":"y","label":"regcred-ci","expires_at":"soon"}`, "the answer could not be understood"},
		{201, `[]`, "the answer could not be understood"},
		{200, `{"id":"x","token":"y","label":"regcred-ci"}`, "the answer has the status 200, where 201 is expected"},
	} {
		s := dockerhubtest.New(t)
		answers(s, s.MintMatch, c.status, c.body)
		client := open(t, s, s.Connection(), s.Role())
		_, err := client.Mint(t.Context(), client.request())
		wantError(t, err, 0, false, c.want)
	}
}

func TestMintTakesAnEndThatNeverComes(t *testing.T) {
	s := dockerhubtest.New(t)
	answers(s, s.MintMatch, http.StatusCreated, `{"id":"x","token":"y","label":"regcred-ci","expires_at":null}`)
	client := open(t, s, s.Connection(), s.Role())
	if minted := client.mint(t, time.Now().Add(time.Hour)); !minted.ExpiresAt.IsZero() {
		t.Errorf("want one without an end, got %s", minted.ExpiresAt)
	}
}

// No token is made while the login fails, whatever its answer is.
func TestMintWithoutALoginHasDoneNothing(t *testing.T) {
	for name, fault := range map[string]issuertest.Fault{
		"500":      issuertest.Status(http.StatusInternalServerError, "boom"),
		"cut":      issuertest.Cut,
		"garbage":  issuertest.Garbage,
		"no token": issuertest.Status(http.StatusOK, "{}"),
	} {
		s := dockerhubtest.New(t)
		s.InjectFault(-1, isLogin, fault)
		client := open(t, s, s.Connection(), s.Role())
		if _, err := client.Mint(t.Context(), client.request()); !issuer.Definite(err) {
			t.Errorf("%s: want a definite error, got %v", name, err)
		}
		if err := client.RevokeNamed(t.Context(), client.Settings, "regcred-ci"); err == nil {
			t.Errorf("%s: want an error of RevokeNamed", name)
		}
	}
}

func TestErrorsSayWhatIsMissing(t *testing.T) {
	const (
		owner = "(only an owner of the organization can manage its access tokens, with a password: Docker Hub refuses logins with a personal access token here)"
		full  = "(each repository must exist; and an organization may have 10 access tokens (Team) or 100 (Business), of which those that have expired count)"
	)
	for name, c := range map[string]struct {
		connection func(*dockerhubtest.Server) issuer.Connection
		role       issuer.Settings
		status     int
		says       string
	}{
		"wrong password": {func(s *dockerhubtest.Server) issuer.Connection {
			return s.ConnectionAs(dockerhubtest.Owner, "Wrong-Pass1")
		}, nil, 401, "answered 401 Unauthorized: Incorrect authentication credentials (Docker Hub takes no password of an account with two-factor authentication, or whose organization enforces single sign-on)"},
		"personal access token": {func(s *dockerhubtest.Server) issuer.Connection {
			return s.ConnectionAs(dockerhubtest.Owner, s.AddPersonalToken(dockerhubtest.Owner))
		}, nil, 403, "answered 403 Forbidden: token issued from personal access token is not allowed " + owner},
		"member": {func(s *dockerhubtest.Server) issuer.Connection {
			return s.ConnectionAs("member", dockerhubtest.Password)
		}, nil, 403, "answered 403 Forbidden: forbidden " + owner},
		"no such repository": {
			(*dockerhubtest.Server).Connection,
			issuer.Settings{"repositories": "acme/none"},
			400, "answered 400 Bad Request: resources: no such repository: acme/none " + full,
		},
		"too many tokens": {func(s *dockerhubtest.Server) issuer.Connection {
			s.SetLimit(1)
			s.AddPuller("other")
			return s.Connection()
		}, nil, 400, "answered 400 Bad Request: label: the organization has reached its limit of access tokens " + full},
		"a proxy's 401": {func(s *dockerhubtest.Server) issuer.Connection {
			answers(s, isLogin, http.StatusUnauthorized, `{"message":"unauthorized"}`)
			return s.Connection()
		}, nil, 0, "answered 401 Unauthorized, which does not prove that the root credential is refused"},
		"a 401 after the login": {func(s *dockerhubtest.Server) issuer.Connection {
			answers(s, s.MintMatch, http.StatusUnauthorized, `{"message":"unauthorized","errinfo":{}}`)
			return s.Connection()
		}, nil, 0, "answered 401 Unauthorized, which does not prove that the root credential is refused: unauthorized"},
	} {
		t.Run(name, func(t *testing.T) {
			s := dockerhubtest.New(t)
			role := s.Role()
			if c.role != nil {
				role = c.role
			}
			client := open(t, s, c.connection(s), role)
			_, err := client.Mint(t.Context(), client.request())
			wantError(t, err, c.status, true, c.says)
		})
	}
}

// A proxy may return what it was sent.
func TestErrorsKeepTheSession(t *testing.T) {
	s := dockerhubtest.New(t)
	var bearer atomic.Value
	s.InjectFault(-1, s.MintMatch, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		bearer.Store(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": "not " + r.Header.Get("Authorization"), "detail": "x"})
	})
	client := open(t, s, s.Connection(), s.Role())
	_, err := client.Mint(t.Context(), client.request())
	wantError(t, err, http.StatusBadRequest, true)
	if text := bearer.Load().(string); text == "" || strings.Contains(err.Error(), text) {
		t.Errorf("the error repeats the token of the session: %v", err)
	}
}

func TestTooManyRequests(t *testing.T) {
	s := dockerhubtest.New(t)
	now := time.Date(2026, 11, 27, 9, 0, 10, 0, time.UTC)
	s.SetNow(func() time.Time { return now })
	s.SetRate(1)
	client := open(t, s, s.Connection(), s.Role())
	_, err := client.Mint(t.Context(), client.request())
	wantError(t, err, http.StatusTooManyRequests, true, "answered 429 Too Many Requests: Rate limit exceeded; it can be asked again in 50s")
}

// Find reads several pages of labels that contain the requested one, and the token of a
// role whose connection names another organization by now.
func TestFindGoesThroughAllPages(t *testing.T) {
	s := dockerhubtest.New(t)
	client := open(t, s, s.Connection(), s.Role())
	client.mint(t, time.Now().Add(time.Hour))
	for _, label := range []string{"regcred-ci-2", "a-regcred-ci", "Regcred-ci", "regcred-c", "other", "another"} {
		s.AddPuller(label)
	}
	moved := s.Connection()
	moved.Settings = issuer.Settings{"organization": "other", "username": dockerhubtest.Owner}
	elsewhere := open(t, s, moved, issuer.Settings{"repositories": "other/web"})
	before := s.Living()
	if err := elsewhere.RevokeNamed(t.Context(), client.Settings, "regcred-ci"); err != nil {
		t.Fatal(err)
	}
	want := cmp.Diff(before, append(s.Living(), "regcred-ci"))
	if got := s.Living(); len(got) != 6 {
		t.Errorf("want only the one of that label revoked, got %v\n%s", got, want)
	}
}

// Tokens that have expired count until they are deleted.
func TestFindFindsWhatHasExpired(t *testing.T) {
	s := dockerhubtest.New(t)
	client := open(t, s, s.Connection(), s.Role())
	minted := client.mint(t, time.Now().Add(time.Hour))
	s.SetNow(func() time.Time { return time.Now().Add(2 * time.Hour) })
	if living := s.Living(); len(living) > 0 || s.Count() != 1 {
		t.Fatalf("want one that has expired, got %v", living)
	}
	if err := client.Revoke(t.Context(), client.Settings, "regcred-ci", minted.ID); err != nil || s.Count() != 0 {
		t.Errorf("want it deleted, got %d left, %v", s.Count(), err)
	}
}

// changing makes the list have another total on each page.
func changing(w http.ResponseWriter, r *http.Request, act http.Handler) {
	recorded := httptest.NewRecorder()
	act.ServeHTTP(recorded, r)
	var body map[string]any
	_ = json.Unmarshal(recorded.Body.Bytes(), &body)
	if r.URL.Query().Get("page") != "1" {
		body["total"] = 99
	}
	_ = json.NewEncoder(w).Encode(body)
}

func TestListThatChangesIsReadAgain(t *testing.T) {
	s := dockerhubtest.New(t)
	client := open(t, s, s.Connection(), s.Role())
	for _, label := range []string{"a", "b", "c", "d"} {
		s.AddPuller(label)
	}
	s.InjectFault(-1, isList, changing)
	_, err := client.Find(t.Context(), client.Settings, "regcred-ci")
	wantError(t, err, 0, false, "the list of access tokens changed each time it was read, so one may have been missed")
	s.ClearFaults()
	s.InjectFault(3, isList, changing)
	if ids, err := client.Find(t.Context(), client.Settings, "regcred-ci"); err != nil || len(ids) > 0 {
		t.Errorf("want none, got %v, %v", ids, err)
	}
}

// A token that is deleted while a list is read moves others to a page that was read
// already, and one that is made meanwhile keeps the total. In which order tokens are
// listed is not documented.
func TestListInWhichOneTakesThePlaceOfAnother(t *testing.T) {
	s := dockerhubtest.New(t)
	client := open(t, s, s.Connection(), s.Role())
	pages := []string{`"a","b","c"`, `"d"`, `"b","c","regcred-ci"`, `"d"`} // "a" is deleted, and "d" made, after the first
	s.InjectFault(-1, isList, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		var labels []string
		_ = json.Unmarshal([]byte("["+pages[0]+"]"), &labels)
		pages = pages[1:]
		var results []map[string]string
		for _, label := range labels {
			results = append(results, map[string]string{"id": "id-of-" + label, "label": label})
		}
		answer := map[string]any{"total": 4, "results": results, "next": nil}
		if r.URL.Query().Get("page") == "1" {
			answer["next"] = s.URL + "/next"
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
	ids, err := client.Find(t.Context(), client.Settings, "regcred-ci")
	if diff := cmp.Diff([]string{"id-of-regcred-ci"}, ids); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestRevokeNeedsProof(t *testing.T) {
	s := dockerhubtest.New(t)
	client := open(t, s, s.Connection(), s.Role())
	minted := client.mint(t, time.Now().Add(time.Hour))
	revoke := func() error { return client.Revoke(t.Context(), client.Settings, "regcred-ci", minted.ID) }
	answers(s, issuertest.Method(http.MethodDelete), http.StatusNoContent, "")
	wantError(t, revoke(), 0, false, "the credential is still there after it was revoked")
	s.ClearFaults()
	answers(s, issuertest.Method(http.MethodDelete), http.StatusOK, "<html>")
	wantError(t, revoke(), 0, false, "the answer has the status 200, where 204 is expected")
	s.ClearFaults()
	for _, body := range []string{`{}`, `{"results":[]}`, `{"total":0}`, `{"total":0,"results":null}`, `{"total":1,"results":[]}`, `[]`, `<html>`} {
		answers(s, isList, http.StatusOK, body)
		if err := revoke(); err == nil || issuer.Definite(err) {
			t.Errorf("%s: want an error that is not definite, got %v", body, err)
		}
		s.ClearFaults()
	}
	s.Dismiss(dockerhubtest.Organization, dockerhubtest.Owner)
	s.AddUser("another", dockerhubtest.Password, dockerhubtest.Organization)
	wantError(t, revoke(), http.StatusForbidden, true)
	if !s.Pulls(minted, dockerhubtest.Repository) {
		t.Error("want it to work still")
	}
}

func TestRevokeEndsTheOneWithTheID(t *testing.T) {
	s := dockerhubtest.New(t)
	client := open(t, s, s.Connection(), s.Role())
	minted := client.mint(t, time.Now().Add(time.Hour))
	username, secret := s.AddPuller("regcred-ci")
	if err := client.Revoke(t.Context(), client.Settings, "regcred-ci", minted.ID); err != nil {
		t.Fatal(err)
	}
	other := issuer.Credential{Username: username, Password: dockerconfig.NewSecret(secret)}
	if s.Pulls(minted, dockerhubtest.Repository) || !s.Pulls(other, dockerhubtest.Repository) {
		t.Error("want only the minted one ended")
	}
}

func TestCheckWarnsBeforeTheLimit(t *testing.T) {
	for count, warns := range map[int]string{
		0: "", 7: "", 11: "",
		8:  "acme has 8 access tokens; Docker Hub allows 10 (Team) or 100 (Business), of which those that have expired count",
		10: "acme has 10 access tokens; Docker Hub allows 10 (Team) or 100 (Business), of which those that have expired count",
		80: "acme has 80 access tokens; Docker Hub allows 10 (Team) or 100 (Business), of which those that have expired count",
	} {
		s := dockerhubtest.New(t)
		for range count {
			s.AddPuller("x")
		}
		got, err := open(t, s, s.Connection(), s.Role()).Check(t.Context())
		want := issuer.Status{Identity: dockerhubtest.Owner}
		if warns != "" {
			want.Warnings = []string{warns}
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%d: %v\n%s", count, err, diff)
		}
	}
}

func TestRootCannotBeReplaced(t *testing.T) {
	s := dockerhubtest.New(t)
	if _, err := open(t, s, s.Connection(), s.Role()).PrepareRoot(t.Context(), "regcred-root"); !errors.Is(err, issuer.ErrRootNotRotatable) {
		t.Errorf("got %v", err)
	}
}
