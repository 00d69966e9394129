// SPDX-License-Identifier: MPL-2.0

package quay_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/backend/issuer/quay"
	"vault-plugin-secrets-regcred/backend/issuer/quay/quaytest"
)

func subject(s *quaytest.Server) issuertest.Subject {
	return issuertest.Subject{
		Type:       quay.Type(),
		Connection: s.Connection(),
		Role:       s.Role(),
		Server:     s.Server,
		Pulls:      func(c issuer.Credential) bool { return s.Pulls(c, quaytest.Repository) },
		Mints:      s.MintMatch,
		Living:     s.Living,
		BadSecrets: issuer.Secrets{"token": dockerconfig.NewSecret("token-of-nobody")},
	}
}

func TestConforms(t *testing.T) {
	issuertest.Conform(t, func(t *testing.T) issuertest.Subject { return subject(quaytest.New(t)) })
}

func mint(t *testing.T, s issuertest.Subject, name string) (*issuer.Client, issuer.Target, issuer.Credential, error) {
	t.Helper()
	client, target := s.Open(t)
	minted, err := client.Mint(t.Context(), issuer.Request{Name: name, For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
	return client, target, minted, err
}

func TestRobotAccountMayUseWhatTheRoleNames(t *testing.T) {
	for access, role := range map[string]string{"": "read", "pull": "read", "push": "write"} {
		s := quaytest.New(t)
		sub := subject(s)
		sub.Role = issuer.Settings{"repositories": "app,tools"}
		if access != "" {
			sub.Role["access"] = access
		}
		name := issuer.NewName("my_app")
		_, _, minted, err := mint(t, sub, name)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{minted.Username, minted.ID, s.RoleOf(name, "app"), s.RoleOf(name, "tools")}
		if diff := cmp.Diff([]string{"acme+" + name, "acme+" + name, role, role}, got); diff != "" || !minted.ExpiresAt.IsZero() {
			t.Errorf("access %q (-want +got):\n%s", access, diff)
		}
	}
}

// A robot account that could not be given its repository is deleted at once, and the
// engine looks for it in any case.
func TestRobotAccountWithoutItsRepository(t *testing.T) {
	grants := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/permissions/user/") }
	for what, test := range map[string]struct {
		plant func(*quaytest.Server)
		role  string
		left  int
		says  string
	}{
		"no such repository":        {func(*quaytest.Server) {}, "nothing", 0, "answered 400 Bad Request: Repository does not exist (the new robot account could not be given access to the repository acme/nothing)"},
		"the second does not exist": {func(*quaytest.Server) {}, "app,nothing", 0, "could not be given access to the repository acme/nothing"},
		"Quay fails":                {func(s *quaytest.Server) { s.InjectFault(1, grants, issuertest.Status(500, "boom")) }, "app", 0, "answered 500"},
		"the answer is about another": {func(s *quaytest.Server) {
			s.InjectFault(1, grants, issuertest.Status(200, `{"role":"admin","name":"acme+x"}`))
		}, "app", 0, "not about the role read"},
		"it cannot be deleted": {func(s *quaytest.Server) {
			s.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(403, "{}"))
		}, "nothing", 1, "could not be given access"},
	} {
		s := quaytest.New(t)
		test.plant(s)
		sub := subject(s)
		sub.Role = issuer.Settings{"repositories": test.role}
		_, _, _, err := mint(t, sub, issuer.NewName("app"))
		if err == nil || issuer.Definite(err) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: want an error that is not definite and says %q, got %v", what, test.says, err)
		}
		if living := s.Living(); len(living) != test.left {
			t.Errorf("%s: want %d robot accounts left, got %q", what, test.left, living)
		}
	}
}

func TestTokensThatCannotMint(t *testing.T) {
	s := quaytest.New(t)
	for what, test := range map[string]struct{ token, check, mint string }{
		"nobody's":              {"nobody", "answered 401 Unauthorized: Requires authentication", "CSRF token was invalid or missing. (Quay answers this to a token that it does not know)"},
		"of another":            {s.AddToken("other", "org:admin", "repo:admin"), "answered 403 Forbidden: Unauthorized (the token needs the scopes", "answered 403 Forbidden: Unauthorized"},
		"without org:admin":     {s.AddToken("acme", "repo:admin"), "answered 403 Forbidden", "answered 403 Forbidden"},
		"without repo:admin":    {s.AddToken("acme", "org:admin"), "", "could not be given access to the repository acme/app"},
		"with all that is need": {s.AddToken("acme", "org:admin", "repo:admin"), "", ""},
	} {
		sub := subject(s)
		sub.Connection = s.ConnectionWith(test.token)
		client, _, _, err := mint(t, sub, issuer.NewName("app"))
		if (err == nil) != (test.mint == "") || err != nil && (!strings.Contains(err.Error(), test.mint) && !strings.Contains(err.Error(), "the token needs")) {
			t.Errorf("%s: mint: want %q, got %v", what, test.mint, err)
		}
		_, err = client.Check(t.Context())
		if (err == nil) != (test.check == "") || err != nil && !strings.Contains(err.Error(), test.check) {
			t.Errorf("%s: check: want %q, got %v", what, test.check, err)
		}
	}
	if living := s.Living(); len(living) != 1 {
		t.Errorf("want one robot account, got %q", living)
	}
}

// Of a member that is no owner, Quay lists robot accounts, and nothing can be made.
func TestMemberIsNotEnough(t *testing.T) {
	s := quaytest.New(t)
	s.InjectFault(1, func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/organization/acme") }, issuertest.Status(200, `{"name":"acme","is_admin":false,"is_member":true}`))
	client, _ := subject(s).Open(t)
	if _, err := client.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "does not administer the organization acme") {
		t.Errorf("want a refusal, got %v", err)
	}
}

// "Gone" is what Quay says of a robot account, and nothing else with the same status.
func TestWhatCountsAsGone(t *testing.T) {
	for body, gone := range map[string]bool{
		`{"message":"Could not find robot with specified username"}`:                                                         true,
		`{"message":"Could not find robot with username: acme+x"}`:                                                           true,
		`{"message":"Robot accounts have been disabled. Please contact your administrator."}`:                                false,
		`{"message":"Organization does not exist: acme"}`:                                                                    false,
		`{"detail":"Robot is being used by a mirror","error_type":"invalid_request","title":"invalid_request","status":400}`: false,
		`{}`: false,
	} {
		s := quaytest.New(t)
		name := issuer.NewName("app")
		client, target, minted, err := mint(t, subject(s), name)
		if err != nil {
			t.Fatal(err)
		}
		s.InjectFault(-1, issuertest.Method(http.MethodGet), issuertest.Status(400, body))
		if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); (err == nil) != gone {
			t.Errorf("%s: want it taken for gone: %v, got %v", body, gone, err)
		}
		if !s.Pulls(minted, quaytest.Repository) {
			t.Errorf("%s: want nothing ended", body)
		}
	}
}

// Another server may answer a deletion with success in Quay's place.
func TestDeletionNeedsProof(t *testing.T) {
	for _, answer := range []issuertest.Fault{
		issuertest.Status(http.StatusNoContent, ""), issuertest.Status(http.StatusOK, "<html>Sign in</html>"),
	} {
		s := quaytest.New(t)
		name := issuer.NewName("app")
		client, target, minted, err := mint(t, subject(s), name)
		if err != nil {
			t.Fatal(err)
		}
		s.InjectFault(1, issuertest.Method(http.MethodDelete), answer)
		if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); err == nil || !strings.Contains(err.Error(), "the credential is still there after it was revoked") {
			t.Errorf("want an error that says that it is still there, got %v", err)
		}
		if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); err != nil || s.Pulls(minted, quaytest.Repository) {
			t.Errorf("want it ended by the next try, got %v", err)
		}
	}
}

// An answer about another robot account proves nothing, and ends nothing.
func TestAnswerAboutAnotherRobotAccount(t *testing.T) {
	s := quaytest.New(t)
	name := issuer.NewName("app")
	client, target, minted, err := mint(t, subject(s), name)
	if err != nil {
		t.Fatal(err)
	}
	s.InjectFault(-1, issuertest.Method(http.MethodGet), issuertest.Status(http.StatusOK, `{"name":"acme+production"}`))
	if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); err == nil || !s.Pulls(minted, quaytest.Repository) {
		t.Errorf("want an error and nothing ended, got %v", err)
	}
}

// A name that is taken may be of the same request, sent twice on the way.
func TestNameThatIsTaken(t *testing.T) {
	s := quaytest.New(t)
	name := issuer.NewName("app")
	s.AddRobot(name)
	if _, _, _, err := mint(t, subject(s), name); err == nil || issuer.Definite(err) {
		t.Errorf("want an error that is not definite, got %v", err)
	}
}

func TestFields(t *testing.T) {
	for repositories, want := range map[string][]string{
		"app": {"app"}, "team/app,tools": {"team/app", "tools"}, "a.b_c-d": {"a.b_c-d"},
		"": nil, "*": nil, "app*": nil, "App": nil, "app,app": nil, "../x": nil, "team/../app": nil, "/app": nil, "app/": nil, "a b": nil, "app:1": nil, "app,": nil,
		strings.TrimSuffix(strings.Repeat("a,", 21), ","): nil, strings.Repeat("a", 256): nil,
	} {
		got, err := quay.Type().Target(issuer.Connection{}, issuer.Settings{"repositories": repositories})
		if want == nil {
			if err == nil || !strings.HasPrefix(err.Error(), "repositories: ") {
				t.Errorf("repositories %q: want an error, got %v, %v", repositories, got.Names, err)
			}
		} else if err != nil || !slices.Equal(got.Names, want) {
			t.Errorf("repositories %q: want %q, got %q, %v", repositories, want, got.Names, err)
		}
	}
	if _, err := quay.Type().Target(issuer.Connection{}, issuer.Settings{"repositories": "app", "access": "admin"}); err == nil || !strings.HasPrefix(err.Error(), "access: must be pull or push") {
		t.Errorf("want another access refused, got %v", err)
	}
	for organization, says := range map[string]string{"acme": "", "a.b-c_d": "", "": "organization: ", "Acme": "organization: ", "acme/app": "organization: ", "acme+x": "organization: ", "..": "organization: "} {
		_, err := quay.Type().New(issuer.Connection{Settings: issuer.Settings{"organization": organization}, Secrets: issuer.Secrets{"token": dockerconfig.NewSecret("t")}})
		if (err == nil) != (says == "") || err != nil && !strings.HasPrefix(err.Error(), says) {
			t.Errorf("organization %q: want %q, got %v", organization, says, err)
		}
	}
	for _, token := range []string{"", "a b", "a\nb"} {
		if _, err := quay.Type().New(issuer.Connection{Settings: issuer.Settings{"organization": "acme"}, Secrets: issuer.Secrets{"token": dockerconfig.NewSecret(token)}}); err == nil || !strings.HasPrefix(err.Error(), "token: ") {
			t.Errorf("token %q: want an error, got %v", token, err)
		}
	}
}
