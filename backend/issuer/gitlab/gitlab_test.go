// SPDX-License-Identifier: MPL-2.0

package gitlab_test

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// subject returns a GitLab with the fields of a role and of a connection.
func subject(s *gitlabtest.Server, c issuer.Connection, role issuer.Settings) issuertest.Subject {
	return issuertest.Subject{
		Type:       gitlab.Type(),
		Connection: c,
		Role:       role,
		Server:     s.Server,
		Pulls:      func(c issuer.Credential) bool { return s.Pulls(c, gitlabtest.Project+"/image") },
		Mints:      s.MintMatch,
		Living:     s.Living,
		CountAnew:  s.CountAnew,
		BadSecrets: issuer.Secrets{"token": dockerconfig.NewSecret("glpat-of-nobody")},
	}
}

func TestConforms(t *testing.T) {
	for name, role := range map[string]issuer.Settings{
		"project deploy token": {"project": gitlabtest.Project},
		"group deploy token":   {"group": gitlabtest.Group, "access": "push"},
		"project access token": {"project": gitlabtest.Project, "token_type": "access_token"},
		"group access token":   {"group": gitlabtest.Group, "token_type": "access_token", "access": "push"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
				s := gitlabtest.New(t)
				return subject(s, s.Connection(), role)
			})
		})
	}
}

func TestConformsWithAdministrator(t *testing.T) {
	t.Parallel()
	issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
		s := gitlabtest.New(t)
		token := s.AddToken(s.AddUser("root", true), "of the administrator", []string{"api"}, 90)
		return subject(s, s.ConnectionWith(token), s.Role())
	})
}

// opened is an open client and a target at a GitLab.
type opened struct {
	*issuer.Client
	issuer.Target
}

func open(t *testing.T, s *gitlabtest.Server, c issuer.Connection, role issuer.Settings) opened {
	t.Helper()
	client, target := subject(s, c, role).Open(t)
	return opened{client, target}
}

func (o opened) mint(t *testing.T, name string, until time.Time) issuer.Credential {
	t.Helper()
	minted, err := o.Mint(t.Context(), issuer.Request{Name: name, For: o.Settings, ExpiresAt: until})
	if err != nil {
		t.Fatalf("Mint: %v", err)
	}
	return minted
}

// wantError fails the test unless an error has the status and contains the text.
func wantError(t *testing.T, err error, status int, definite bool, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("want an error that says %q", says)
	}
	if got := issuer.StatusOf(err); got != status {
		t.Errorf("want an error of status %d, got %d: %v", status, got, err)
	}
	if got := issuer.Definite(err); got != definite {
		t.Errorf("want definite %v, got %v: %v", definite, got, err)
	}
	for _, text := range says {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("want an error that says %q, got %v", text, err)
		}
	}
}

const (
	projectPath = "project: must be the full path of a project, such as group/my_app, not its number or URL"
	groupPath   = "group: must be the full path of a group, such as group/team, not its number or URL"
)

func TestRoleFields(t *testing.T) {
	for _, test := range []struct {
		fields issuer.Settings
		want   issuer.Settings // nil if refused
		names  []string
		err    string
	}{
		{fields: issuer.Settings{"project": "group/my_app"}, names: []string{"group/my_app"}, want: issuer.Settings{"project": "group/my_app", "token_type": "deploy_token", "access": "pull"}},
		{fields: issuer.Settings{"project": "Group/sub-1/_my.App"}, names: []string{"Group/sub-1/_my.App"}, want: issuer.Settings{"project": "Group/sub-1/_my.App", "token_type": "deploy_token", "access": "pull"}},
		{fields: issuer.Settings{"group": "group", "access": "push"}, names: []string{"group"}, want: issuer.Settings{"group": "group", "token_type": "deploy_token", "access": "push"}},
		{fields: issuer.Settings{"group": "group/2", "token_type": "access_token", "access": "pull"}, names: []string{"group/2"}, want: issuer.Settings{"group": "group/2", "token_type": "access_token", "access": "pull"}},
		{fields: nil, err: "project: exactly one of project and group must be set"},
		{fields: issuer.Settings{"project": "group/a", "group": "group"}, err: "project: exactly one of project and group must be set"},
		{fields: issuer.Settings{"project": "my_app"}, err: projectPath},
		{fields: issuer.Settings{"project": "42"}, err: projectPath},
		{fields: issuer.Settings{"project": "/group/my_app"}, err: projectPath},
		{fields: issuer.Settings{"project": "group/my_app/"}, err: projectPath},
		{fields: issuer.Settings{"project": "group//my_app"}, err: projectPath},
		{fields: issuer.Settings{"project": "group/../other"}, err: projectPath},
		{fields: issuer.Settings{"project": "group/a..b"}, err: projectPath},
		{fields: issuer.Settings{"project": "group/./my_app"}, err: projectPath},
		{fields: issuer.Settings{"project": "group/-my_app"}, err: projectPath},
		{fields: issuer.Settings{"project": "group%2Fmy_app/x"}, err: projectPath},
		{fields: issuer.Settings{"project": "group/my app"}, err: projectPath},
		{fields: issuer.Settings{"project": "group/my_app\n"}, err: projectPath},
		{fields: issuer.Settings{"project": "group/my_app?x=/"}, err: projectPath},
		{fields: issuer.Settings{"project": "https://gitlab.example.com/group/my_app"}, err: projectPath},
		{fields: issuer.Settings{"group": "7"}, err: groupPath},
		{fields: issuer.Settings{"group": "group/"}, err: groupPath},
		{fields: issuer.Settings{"group": "."}, err: groupPath},
		{fields: issuer.Settings{"group": "*"}, err: groupPath},
		{fields: issuer.Settings{"group": "g", "token_type": "personal"}, err: "token_type: must be deploy_token or access_token"},
		{fields: issuer.Settings{"group": "g", "access": "write"}, err: "access: must be pull or push"},
	} {
		target, err := gitlab.Type().Target(issuer.Connection{}, test.fields)
		if test.err != "" {
			if err == nil || err.Error() != test.err {
				t.Errorf("%v: want error %q, got %v", test.fields, test.err, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", test.fields, err)
			continue
		}
		if diff := cmp.Diff(test.want, target.Settings) + cmp.Diff(test.names, target.Names); diff != "" {
			t.Errorf("%v (-want +got):\n%s", test.fields, diff)
		}
	}
}

func TestConnectionFields(t *testing.T) {
	const group = "service_account_group: must be the full path of a group, not its number or URL"
	for _, test := range []struct{ token, group, err string }{
		{token: "glpat-a.01.b", group: ""},
		{token: "glpat-a", group: "group"},
		{token: "", err: "token: must be set, to a personal access token with the scope api"},
		{token: "glpat-a\n", err: "token: must be a personal access token: letters, digits and punctuation, without white space"},
		{token: "glpat a", err: "token: must be a personal access token: letters, digits and punctuation, without white space"},
		{token: "glpat-ä", err: "token: must be a personal access token: letters, digits and punctuation, without white space"},
		{token: "glpat-a", group: "group/sub"},
		{token: "glpat-a", group: "group/", err: group},
		{token: "glpat-a", group: "35", err: group},
		{token: "glpat-a", group: "https://gitlab.example.com", err: group},
	} {
		_, err := issuer.Open(gitlab.Type(), issuer.Connection{
			URL:      "https://gitlab.example.com",
			Settings: issuer.Settings{"service_account_group": test.group},
			Secrets:  issuer.Secrets{"token": dockerconfig.NewSecret(test.token)},
			HTTP:     issuer.NewHTTP(nil),
			Now:      time.Now,
		})
		if got := errorText(err); got != test.err {
			t.Errorf("token %q, group %q: want error %q, got %q", test.token, test.group, test.err, got)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// A GitLab may be below a path.
func TestRelativeURL(t *testing.T) {
	s := gitlabtest.New(t)
	front := issuertest.NewServer(t, http.StripPrefix("/gitlab", s))
	c := s.Connection()
	for _, path := range []string{"/gitlab", "/gitlab/api/v4"} {
		c.URL = front.URL + path
		o := open(t, s, c, s.Role())
		name := issuer.NewName("x")
		o.mint(t, name, time.Now().Add(time.Hour))
		if err := o.RevokeNamed(t.Context(), o.Settings, name); err != nil || len(s.Living()) != 0 {
			t.Errorf("%s: RevokeNamed: want nothing left, got %v, %v", path, s.Living(), err)
		}
	}
}

func TestCheck(t *testing.T) {
	now := time.Date(2026, 11, 24, 15, 4, 5, 0, time.UTC)
	const (
		admin = "the token is an administrator's: it may do more than is needed; a user who is Maintainer of the projects, or Owner of the groups, is enough"
		bot   = "the token is an access token of a project or group: it can mint deploy tokens only, and rotate-root cannot replace it"
	)
	s := gitlabtest.New(t)
	s.SetNow(func() time.Time { return now })
	user := s.AddUser("vault", false)
	for name, test := range map[string]struct {
		token string
		want  issuer.Status
	}{
		"user":                 {s.AddToken(user, "a", []string{"api", "read_user"}, 30), issuer.Status{Identity: "vault", ExpiresAt: time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC)}},
		"token without end":    {s.AddToken(user, "b", []string{"api"}, 0), issuer.Status{Identity: "vault"}},
		"administrator":        {s.AddToken(s.AddUser("root", true), "c", []string{"api"}, 0), issuer.Status{Identity: "root", Warnings: []string{admin}}},
		"project access token": {s.AddResourceToken(gitlabtest.Project, "d", []string{"api"}, gitlabtest.Maintainer), issuer.Status{Identity: "project_2_bot_b", ExpiresAt: time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC), Warnings: []string{bot}}},
	} {
		t.Run(name, func(t *testing.T) {
			status, err := open(t, s, s.ConnectionWith(test.token), s.Role()).Check(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(status.Identity, "project_2_bot_") {
				status.Identity = test.want.Identity // the rest is random
			}
			if diff := cmp.Diff(test.want, status); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	s := gitlabtest.New(t)
	now := time.Date(2026, 11, 24, 23, 59, 59, 0, time.UTC)
	s.SetNow(func() time.Time { return now })
	user, blocked := s.AddUser("vault", false), s.AddUser("blocked", false)
	readOnly := s.AddToken(user, "a", []string{"read_api", "read_user"}, 30)
	_, err := open(t, s, s.ConnectionWith(readOnly), s.Role()).Check(t.Context())
	wantError(t, err, 0, true, "the token lacks the scope api")

	ending := s.AddToken(user, "b", []string{"api"}, 1)
	client := open(t, s, s.ConnectionWith(ending), s.Role())
	if _, err := client.Check(t.Context()); err != nil {
		t.Errorf("a second before midnight: want no error, got %v", err)
	}
	now = now.Add(time.Second)
	_, err = client.Check(t.Context())
	wantError(t, err, http.StatusUnauthorized, true, "invalid_token: Token is expired.")

	token := s.AddToken(blocked, "c", []string{"api"}, 30)
	s.Block(blocked)
	_, err = open(t, s, s.ConnectionWith(token), s.Role()).Check(t.Context())
	wantError(t, err, http.StatusForbidden, true, "Your account has been blocked")
}

func TestCheckOfOddAnswers(t *testing.T) {
	const self = `{"id":1,"user_id":2,"scopes":["api"],"revoked":false,"active":true,"expires_at":"2026-12-24"}`
	for name, test := range map[string]struct {
		self, user string
		definite   bool
		says       string
	}{
		"no token":     {`{}`, `{"username":"x"}`, false, "does not describe the token"},
		"revoked":      {`{"id":1,"user_id":2,"scopes":["api"],"revoked":true,"active":false}`, `{"username":"x"}`, true, "is revoked or has expired"},
		"no user":      {self, `{}`, false, "does not name the user of the token"},
		"no JSON":      {`<html>`, `{}`, false, "could not be understood"},
		"another form": {`["a"]`, `{}`, false, "could not be understood"},
	} {
		t.Run(name, func(t *testing.T) {
			s := gitlabtest.New(t)
			s.InjectFault(-1, pathIs("/api/v4/personal_access_tokens/self"), issuertest.Status(http.StatusOK, test.self))
			s.InjectFault(-1, pathIs("/api/v4/user"), issuertest.Status(http.StatusOK, test.user))
			_, err := open(t, s, s.Connection(), s.Role()).Check(t.Context())
			wantError(t, err, 0, test.definite, test.says)
		})
	}
}

func pathIs(path string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.URL.Path == path }
}

// Neither the page of a proxy nor a secret in GitLab's answer is repeated.
func TestErrorsOfOtherForms(t *testing.T) {
	s := gitlabtest.New(t)
	token := s.Connection().Secrets.Reveal()[0]
	for body, want := range map[string]string{
		`<html><body>Sign in to the proxy</body></html>`:                          "answered 403 Forbidden",
		`{"message":{"expires_at":["must be before","or so"],"base":["no"]}}`:     "answered 403 Forbidden: base no, expires_at must be before, or so",
		`{"message":"token ` + token + ` may not"}`:                               "answered 403 Forbidden: [redacted]",
		`{"error":"insufficient_scope","error_description":"Higher privileges."}`: "answered 403 Forbidden: insufficient_scope: Higher privileges.",
		`{"message":7}`: "answered 403 Forbidden",
		``:              "answered 403 Forbidden",
	} {
		s.ClearFaults()
		s.InjectFault(-1, nil, issuertest.Status(http.StatusForbidden, body, "Link", "<x>; broken"))
		_, err := open(t, s, s.Connection(), s.Role()).Check(t.Context())
		wantError(t, err, http.StatusForbidden, true)
		if !strings.HasSuffix(err.Error(), want) || strings.Contains(err.Error(), token) {
			t.Errorf("%s: want an error that ends in %q, got %v", body, want, err)
		}
	}
	// 304 is not a success, and GitLab's own header allows a retry.
	s.ClearFaults()
	s.InjectFault(-1, nil, issuertest.Status(http.StatusNotModified, ""))
	_, err := open(t, s, s.Connection(), s.Role()).Check(t.Context())
	wantError(t, err, http.StatusNotModified, false)
}

// The client library's own limiter would delay calls.
func TestNoLimiterOfItsOwn(t *testing.T) {
	s := gitlabtest.New(t)
	s.InjectFault(-1, nil, func(w http.ResponseWriter, r *http.Request, act http.Handler) {
		w.Header().Set("RateLimit-Limit", "1")
		act.ServeHTTP(w, r)
	})
	client := open(t, s, s.Connection(), s.Role())
	for range 2 {
		if _, err := client.Check(t.Context()); err != nil {
			t.Errorf("want no error, got %v", err)
		}
	}
}

// unreachable counts calls, and fails them as if nothing listened.
type unreachable struct{ calls int }

func (u *unreachable) RoundTrip(*http.Request) (*http.Response, error) {
	u.calls++
	return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
}

// Only the connection's client retries.
func TestNoRetriesOfItsOwn(t *testing.T) {
	s := gitlabtest.New(t)
	c, transport := s.Connection(), &unreachable{}
	c.HTTP = &http.Client{Transport: transport}
	_, err := open(t, s, c, s.Role()).Check(t.Context())
	wantError(t, err, 0, true, "the connection failed")
	if transport.calls != 1 {
		t.Errorf("want one call, got %d", transport.calls)
	}
}
