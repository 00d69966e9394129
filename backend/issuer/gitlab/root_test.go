// SPDX-License-Identifier: MPL-2.0

package gitlab_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// rootOf returns the root credential of a connection.
func rootOf(c issuer.Connection) issuer.Root {
	return issuer.Root{Settings: c.Settings, Secrets: c.Secrets}
}

// capture returns a function that returns the body of the last matching request.
func capture(s *gitlabtest.Server, match func(*http.Request) bool) func() map[string]any {
	var mu sync.Mutex
	var sent map[string]any
	s.Watch(func(r *http.Request) {
		if !match(r) {
			return
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		mu.Lock()
		defer mu.Unlock()
		sent = nil
		_ = json.Unmarshal(body, &sent)
	}, nil)
	return func() map[string]any {
		mu.Lock()
		defer mu.Unlock()
		return sent
	}
}

func makesPersonalToken(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/personal_access_tokens")
}

func TestNextTokenIsLikeTheOldOne(t *testing.T) {
	made := time.Date(2026, 11, 24, 15, 4, 5, 0, time.UTC)
	for name, test := range map[string]struct {
		days  int
		later time.Duration
		want  any
	}{
		"the same day":       {90, 0, "2027-02-22"},
		"two days later":     {90, 48 * time.Hour, "2027-02-24"},
		"late at night":      {90, 8*time.Hour + 55*time.Minute, "2027-02-22"},
		"one day":            {1, 0, "2026-11-25"},
		"a year":             {365, 24 * time.Hour, "2027-11-25"},
		"longer than a year": {400, 0, "2027-11-24"},
		"without an end":     {0, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := gitlabtest.New(t)
			now := made
			s.SetNow(func() time.Time { return now })
			account := s.AddServiceAccount(gitlabtest.Group, "other")
			s.SetMember(gitlabtest.Group, account, gitlabtest.Owner)
			c := s.ConnectionWith(s.AddToken(account, "old", []string{"api", "read_user"}, test.days))
			c.Settings = issuer.Settings{"service_account_group": gitlabtest.Group}
			now = made.Add(test.later)
			sent := capture(s, makesPersonalToken)
			if _, err := open(t, s, c, s.Role()).PrepareRoot(t.Context(), "regcred-root-x"); err != nil {
				t.Fatal(err)
			}
			want := map[string]any{"name": "regcred-root-x", "scopes": []any{"api", "read_user"}}
			if test.want != nil {
				want["expires_at"] = test.want
			}
			if diff := cmp.Diff(want, sent()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Between any two calls of a rotation, a known token works.
func TestRootRotation(t *testing.T) {
	s := gitlabtest.New(t)
	old := open(t, s, s.Connection(), s.Role())
	wantAdmins := func(when string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, s.Admins()); diff != "" {
			t.Errorf("%s: tokens that work (-want +got):\n%s", when, diff)
		}
	}
	root, err := old.PrepareRoot(t.Context(), "regcred-root-x")
	if err != nil {
		t.Fatal(err)
	}
	wantAdmins("prepared", "initial", "regcred-root-x")
	if err := old.ActivateRoot(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	wantAdmins("activated", "initial", "regcred-root-x")
	if err := open(t, s, s.Connection().With(root), s.Role()).RetireRoot(t.Context(), rootOf(s.Connection())); err != nil {
		t.Fatal(err)
	}
	wantAdmins("retired", "regcred-root-x")
	if diff := cmp.Diff([]string{"token"}, slices.Collect(func(yield func(string) bool) {
		for field := range root.Secrets {
			if !yield(field) {
				return
			}
		}
	})); diff != "" || len(root.Settings) != 0 {
		t.Errorf("want only another token, got settings %v and (-want +got):\n%s", root.Settings, diff)
	}
	if calls := strings.Join(s.Calls(), "\n"); strings.Contains(calls, "rotate") {
		t.Errorf("want no call of GitLab's own rotation, got:\n%s", calls)
	}
}

// After a lost answer, DiscardRoot finds the new token among others.
func TestDiscardRootAfterLostAnswer(t *testing.T) {
	s := gitlabtest.New(t)
	admin := s.AddUser("root", true)
	c := s.ConnectionWith(s.AddToken(admin, "old", []string{"api"}, 90))
	other := s.AddUser("other", false)
	s.AddToken(other, "regcred-root-x", []string{"api"}, 90)
	for range 2 * gitlabtest.MaxPerPage {
		s.AddToken(admin, "regcred-root-x-2", []string{"api"}, 90)
	}
	before := s.Admins()
	client := open(t, s, c, s.Role())
	s.InjectFault(1, makesPersonalToken, issuertest.CutAfterActing)
	_, err := client.PrepareRoot(t.Context(), "regcred-root-x")
	wantError(t, err, 0, false)
	if got := len(s.Admins()); got != len(before)+1 {
		t.Fatalf("want a token more, got %d after %d", got, len(before))
	}
	for range 2 {
		if err := client.DiscardRoot(t.Context(), "regcred-root-x"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, s.Admins()); diff != "" {
			t.Errorf("want only the new one discarded (-want +got):\n%s", diff)
		}
	}
}

func TestRootOfOthersIsNotRotatable(t *testing.T) {
	const replaceManually = "vault write regcred/connections/NAME token=…"
	s := gitlabtest.New(t)
	user := s.AddUser("vault", false)
	s.SetMember(gitlabtest.Project, user, gitlabtest.Maintainer)
	maintainer := s.AddServiceAccount(gitlabtest.Group, "maintainer")
	s.SetMember(gitlabtest.Group, maintainer, gitlabtest.Maintainer)
	owner := s.AddUser("owner", false)
	s.SetMember(gitlabtest.Group, owner, gitlabtest.Owner)
	for name, test := range map[string]struct {
		token, group string
		says         string
	}{
		"user":                             {s.AddToken(user, "a", []string{"api"}, 30), "", "answered 403 to the request for the next token: GitLab lets only administrators"},
		"project access token":             {s.AddResourceToken(gitlabtest.Project, "b", []string{"api"}, gitlabtest.Maintainer), "", "answered 403"},
		"service account without group":    {s.AddToken(maintainer, "c", []string{"api"}, 30), "", "service_account_group"},
		"service account that is no Owner": {s.AddToken(maintainer, "d", []string{"api"}, 30), gitlabtest.Group, `answered 403 to the request for the next token: GitLab lets only Owners of the group "group" and administrators create tokens of its service accounts`},
		"Owner who is no service account":  {s.AddToken(owner, "e", []string{"api"}, 30), gitlabtest.Group, "answered 404"},
		"no such group":                    {s.AddToken(owner, "f", []string{"api"}, 30), "nowhere", "answered 404"},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.ConnectionWith(test.token)
			if test.group != "" {
				c.Settings = issuer.Settings{"service_account_group": test.group}
			}
			before := s.Admins()
			_, err := open(t, s, c, s.Role()).PrepareRoot(t.Context(), "regcred-root-x")
			wantError(t, err, 0, true, test.says, replaceManually)
			if diff := cmp.Diff(before, s.Admins()); diff != "" {
				t.Errorf("want nothing made (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPrepareRootFaults(t *testing.T) {
	for name, test := range map[string]struct {
		fault    issuertest.Fault
		status   int
		definite bool
		says     string
	}{
		"no token in the answer": {issuertest.Status(http.StatusCreated, `{"id":9}`), 0, false, "has no token"},
		"garbage":                {issuertest.Garbage, 0, false, ""},
		"refused parameters":     {issuertest.Status(http.StatusUnprocessableEntity, `{"message":"Expires at must be before 2027-11-24"}`), http.StatusUnprocessableEntity, true, "Expires at must be before"},
		"server error":           {issuertest.StatusAfterActing(http.StatusBadGateway, ``), http.StatusBadGateway, false, "502"},
	} {
		t.Run(name, func(t *testing.T) {
			s := gitlabtest.New(t)
			s.InjectFault(-1, makesPersonalToken, test.fault)
			client := open(t, s, s.Connection(), s.Role())
			_, err := client.PrepareRoot(t.Context(), "regcred-root-x")
			wantError(t, err, test.status, test.definite, test.says)
			if err := client.DiscardRoot(t.Context(), "regcred-root-x"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"initial"}, s.Admins()); diff != "" {
				t.Errorf("want only the old one (-want +got):\n%s", diff)
			}
		})
	}
}

// with matches requests that are authenticated with the token of a connection.
func with(c issuer.Connection) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Header.Get("PRIVATE-TOKEN") == c.Secrets["token"].Reveal() }
}

// Only GitLab's own answer that the old token has ended counts, and only if GitLab
// accepts the new one.
func TestRetireRoot(t *testing.T) {
	for body, gone := range map[string]bool{
		`{"message":"401 Unauthorized"}`: true,
		`{"error":"invalid_token","error_description":"Token was revoked. You have to re-authorize from the user."}`: true,
		`<html>Sign in</html>`:        false,
		`{"message":"proxy says no"}`: false,
		``:                            false,
	} {
		s := gitlabtest.New(t)
		old := s.Connection()
		root, err := open(t, s, old, s.Role()).PrepareRoot(t.Context(), "regcred-root-x")
		if err != nil {
			t.Fatal(err)
		}
		client := open(t, s, old.With(root), s.Role())
		s.InjectFault(-1, with(old), issuertest.Status(http.StatusUnauthorized, body))
		err = client.RetireRoot(t.Context(), rootOf(old))
		if gone != (err == nil) {
			t.Errorf("%s, the old one only: want no error: %v, got %v", body, gone, err)
		}
		s.ClearFaults()
		s.InjectFault(-1, nil, issuertest.Status(http.StatusUnauthorized, body))
		if err := client.RetireRoot(t.Context(), rootOf(old)); err == nil {
			t.Errorf("%s, every token: want an error", body)
		}
		s.ClearFaults()
		// The answer was lost: the call is repeated, and refused.
		s.InjectFault(1, issuertest.Method(http.MethodDelete), issuertest.CutAfterActing)
		for range 2 {
			if err := client.RetireRoot(t.Context(), rootOf(old)); err != nil {
				t.Errorf("%s: want no error, got %v", body, err)
			}
		}
		if diff := cmp.Diff([]string{"regcred-root-x"}, s.Admins()); diff != "" {
			t.Errorf("%s: want the old one revoked (-want +got):\n%s", body, diff)
		}
	}
}

// Since GitLab 18.11, a Maintainer of a project creates tokens of its service accounts.
func TestServiceAccountOfAProjectIsReplaced(t *testing.T) {
	s := gitlabtest.New(t)
	account := s.AddServiceAccount(gitlabtest.Project, "of-the-project")
	s.SetMember(gitlabtest.Project, account, gitlabtest.Maintainer)
	old := s.ConnectionWith(s.AddToken(account, "a", []string{"api"}, 30))
	old.Settings = issuer.Settings{"service_account_project": gitlabtest.Project}
	root, err := open(t, s, old, s.Role()).PrepareRoot(t.Context(), "regcred-root-x")
	if err != nil {
		t.Fatal(err)
	}
	client := open(t, s, old.With(root), s.Role())
	if err := client.RetireRoot(t.Context(), rootOf(old)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"initial", "regcred-root-x"}, s.Admins()); diff != "" {
		t.Errorf("want the old one replaced (-want +got):\n%s", diff)
	}
	client.mint(t, "regcred-x", time.Now().Add(time.Hour))

	s.SetMember(gitlabtest.Project, account, gitlabtest.Developer)
	_, err = client.PrepareRoot(t.Context(), "regcred-root-y")
	wantError(t, err, 0, true, `answered 403 to the request for the next token: GitLab (18.11 or later) lets only Maintainers and Owners of the project "group/my_app"`)
}
