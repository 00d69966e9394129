// SPDX-License-Identifier: MPL-2.0

package gitlab_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// Each kind of token that is minted, by its target.
var kinds = []issuer.Settings{
	{"project": gitlabtest.Project},
	{"group": gitlabtest.Group},
	{"project": gitlabtest.Project, "token_type": "access_token"},
	{"group": gitlabtest.Group, "token_type": "access_token"},
}

func TestExpiry(t *testing.T) {
	now := time.Date(2026, 11, 24, 15, 4, 5, 0, time.UTC)
	midnight := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		tokenType string
		until     time.Time
		want      time.Time
		given     string
	}{
		{"deploy_token", now.Add(15 * time.Minute), now.Add(15 * time.Minute), "2026-11-24T15:19:05Z"},
		{"deploy_token", now.Add(time.Nanosecond), now.Add(time.Second), "2026-11-24T15:04:06Z"},
		{"deploy_token", now.Add(time.Hour).In(time.FixedZone("", 3600)), now.Add(time.Hour), "2026-11-24T16:04:05Z"},
		{"access_token", now.Add(15 * time.Minute), midnight, "2026-11-25"},
		{"access_token", midnight, midnight, "2026-11-25"},
		{"access_token", midnight.Add(time.Nanosecond), midnight.AddDate(0, 0, 1), "2026-11-26"},
		{"access_token", now.Add(364 * 24 * time.Hour), now.Truncate(24*time.Hour).AddDate(0, 0, 365), "2027-11-24"},
	} {
		t.Run(fmt.Sprintf("%s until %s", test.tokenType, test.until), func(t *testing.T) {
			s := gitlabtest.New(t)
			clock := now
			s.SetNow(func() time.Time { return clock })
			o := open(t, s, s.Connection(), issuer.Settings{"project": gitlabtest.Project, "token_type": test.tokenType})
			minted := o.mint(t, "regcred-x", test.until)
			if !minted.ExpiresAt.Equal(test.want) || minted.ExpiresAt.Location() != time.UTC {
				t.Errorf("want one that ends at %s, got %s", test.want, minted.ExpiresAt)
			}
			if given := s.Expires("regcred-x"); given != test.given {
				t.Errorf("want GitLab to be told %s, got %s", test.given, given)
			}
			clock = test.until.Add(-time.Second)
			if !s.Pulls(minted, gitlabtest.Project) {
				t.Error("want one that works until the end")
			}
			clock = minted.ExpiresAt.Add(time.Second)
			if s.Pulls(minted, gitlabtest.Project) {
				t.Error("want one that does not work after its end")
			}
		})
	}
}

// GitLab accepts the longest life that a role may have, at any time of the day.
func TestMaxLifetime(t *testing.T) {
	s := gitlabtest.New(t)
	now := time.Date(2026, 11, 24, 23, 59, 59, 0, time.UTC)
	s.SetNow(func() time.Time { return now })
	o := open(t, s, s.Connection(), kinds[2])
	if o.MaxLifetime < 363*24*time.Hour {
		t.Errorf("want nearly a year, got %s", o.MaxLifetime)
	}
	if len(o.Warnings) != 1 || !strings.Contains(o.Warnings[0], "bot user") {
		t.Errorf("want a warning about bot users, got %q", o.Warnings)
	}
	o.mint(t, "regcred-x", now.Add(o.MaxLifetime))
	_, err := o.Mint(t.Context(), issuer.Request{Name: "regcred-y", For: o.Settings, ExpiresAt: now.Add(o.MaxLifetime + 24*time.Hour)})
	wantError(t, err, http.StatusBadRequest, true, "Expires at must be before 2027-11-24")

	deploy := open(t, s, s.Connection(), s.Role())
	if deploy.MaxLifetime != 0 || len(deploy.Warnings) != 0 {
		t.Errorf("deploy tokens: want no limit and no warning, got %s, %q", deploy.MaxLifetime, deploy.Warnings)
	}
}

func TestAccess(t *testing.T) {
	for access, want := range map[string]string{
		"pull": `["read_registry"] 20`,
		"push": `["read_registry" "write_registry"] 30`,
	} {
		for _, role := range kinds {
			s := gitlabtest.New(t)
			role = issuer.Settings{"project": role["project"], "group": role["group"], "token_type": role["token_type"], "access": access}
			sent := capture(s, s.MintMatch)
			open(t, s, s.Connection(), role).mint(t, "regcred-x", time.Now().Add(time.Hour))
			want := want
			if role["token_type"] != "access_token" {
				want = want[:len(want)-2] + "<nil>"
			}
			if got := fmt.Sprintf("%q %v", sent()["scopes"], sent()["access_level"]); got != want {
				t.Errorf("%v: want scopes and access level %s, got %s", role, want, got)
			}
		}
	}
}

func TestCredentialsReachOnlyTheirTarget(t *testing.T) {
	s := gitlabtest.New(t)
	s.AddProject("group/my_app_2")
	s.AddGroup("group/sub")
	s.AddProject("group/sub/x")
	s.AddGroup("other")
	s.AddProject("other/my_app")
	for _, role := range kinds {
		minted := open(t, s, s.Connection(), role).mint(t, issuer.NewName("x"), time.Now().Add(time.Hour))
		got := map[string]bool{}
		for _, repository := range []string{"group/my_app", "group/my_app/image", "group/my_app_2", "group/sub/x/y", "other/my_app", "group"} {
			got[repository] = s.Pulls(minted, repository)
		}
		group := role["group"] != ""
		want := map[string]bool{
			"group/my_app": true, "group/my_app/image": true, "group/my_app_2": group, "group/sub/x/y": group,
			"other/my_app": false, "group": false,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", role, diff)
		}
	}
}

// Mints that the user of the connection is not allowed.
func TestPermissions(t *testing.T) {
	deployProject, deployGroup, accessProject, accessGroup := kinds[0], kinds[1], kinds[2], kinds[3]
	for _, test := range []struct {
		name   string
		role   issuer.Settings
		at     string
		level  int
		status int
		says   string
	}{
		{"no member", deployProject, gitlabtest.Project, 0, http.StatusNotFound, "404 Project Not Found"},
		{"no member", deployGroup, gitlabtest.Group, 0, http.StatusNotFound, "404 Group Not Found"},
		{"no member", accessProject, gitlabtest.Project, 0, http.StatusNotFound, "404 Project Not Found"},
		{"Developer", deployProject, gitlabtest.Project, gitlabtest.Developer, http.StatusForbidden, "403 Forbidden"},
		{"Developer", accessProject, gitlabtest.Project, gitlabtest.Developer, http.StatusBadRequest, "User does not have permission to create project access token"},
		{"Maintainer", deployGroup, gitlabtest.Group, gitlabtest.Maintainer, http.StatusForbidden, "403 Forbidden"},
		{"Maintainer", accessGroup, gitlabtest.Group, gitlabtest.Maintainer, http.StatusBadRequest, "User does not have permission to create group access token"},
		{"Maintainer", deployProject, gitlabtest.Project, gitlabtest.Maintainer, 0, ""},
		{"Maintainer", accessProject, gitlabtest.Project, gitlabtest.Maintainer, 0, ""},
		{"Maintainer of the group", deployProject, gitlabtest.Group, gitlabtest.Maintainer, 0, ""},
		{"Owner", deployGroup, gitlabtest.Group, gitlabtest.Owner, 0, ""},
		{"Owner", accessGroup, gitlabtest.Group, gitlabtest.Owner, 0, ""},
	} {
		t.Run(fmt.Sprintf("%s %v", test.name, test.role), func(t *testing.T) {
			s := gitlabtest.New(t)
			user := s.AddUser("vault", false)
			s.SetMember(test.at, user, test.level)
			o := open(t, s, s.ConnectionWith(s.AddToken(user, "a", []string{"api"}, 30)), test.role)
			_, err := o.Mint(t.Context(), issuer.Request{Name: "regcred-x", For: o.Settings, ExpiresAt: time.Now().Add(time.Hour)})
			if test.status != 0 {
				wantError(t, err, test.status, true, test.says)
			} else if err != nil {
				t.Errorf("want no error, got %v", err)
			}
			if minted := test.status == 0; minted != slices.Equal(s.Living(), []string{"regcred-x"}) {
				t.Errorf("want minted: %v, got %v", minted, s.Living())
			}
		})
	}
}

// An access token of a project can mint deploy tokens, but no access tokens.
func TestAccessTokenAsRootCredential(t *testing.T) {
	s := gitlabtest.New(t)
	c := s.ConnectionWith(s.AddResourceToken(gitlabtest.Project, "admin", []string{"api"}, gitlabtest.Maintainer))
	open(t, s, c, kinds[0]).mint(t, "regcred-x", time.Now().Add(time.Hour))
	o := open(t, s, c, kinds[2])
	_, err := o.Mint(t.Context(), issuer.Request{Name: "regcred-y", For: o.Settings, ExpiresAt: time.Now().Add(time.Hour)})
	wantError(t, err, http.StatusBadRequest, true, "User does not have permission to create project access token")
}

func TestFindReadsAllPages(t *testing.T) {
	for _, role := range kinds {
		s := gitlabtest.New(t)
		o := open(t, s, s.Connection(), role)
		var names []string
		for i := range 2*gitlabtest.MaxPerPage + 1 {
			names = append(names, fmt.Sprintf("regcred-%d", i))
			o.mint(t, names[i], time.Now().Add(time.Hour))
		}
		for len(names) > 0 {
			last := names[len(names)-1]
			names = names[:len(names)-1]
			if err := o.RevokeNamed(t.Context(), o.Settings, last); err != nil {
				t.Fatalf("%v: %v", role, err)
			}
			if diff := cmp.Diff(names, s.Living()); len(names) > 0 && diff != "" {
				t.Fatalf("%v: after the revocation of %s (-want +got):\n%s", role, last, diff)
			}
		}
	}
}

// If another client deletes a token of a page that was read, the first token of the
// next page moves to it.
func TestFindReadsAgainWhatChanged(t *testing.T) {
	others := []string{"other-0", "other-1", "other-2"}[:gitlabtest.MaxPerPage]
	firstPage := func(r *http.Request) bool {
		return r.Method == http.MethodGet && r.URL.Query().Get("page") == "1"
	}
	s := gitlabtest.New(t)
	s.AddDeployTokens(gitlabtest.Project, others...)
	o := open(t, s, s.Connection(), s.Role())
	o.mint(t, "regcred-x", time.Now().Add(time.Hour)) // first of the second page
	s.Watch(nil, func(r *http.Request) {
		if firstPage(r) {
			s.DeleteDeployToken("other-0")
		}
	})
	if err := o.RevokeNamed(t.Context(), o.Settings, "regcred-x"); err != nil || slices.Contains(s.Living(), "regcred-x") {
		t.Errorf("want it found though it had moved, got %v, %v", s.Living(), err)
	}

	// If the list never stops changing, a token that is not found may exist.
	for changes, found := range map[int]bool{1: true, 100: false} {
		left := changes
		s.Watch(nil, func(r *http.Request) {
			if firstPage(r) && left > 0 {
				left--
				s.AddDeployTokens(gitlabtest.Project, "another")
			}
		})
		s.AddDeployTokens(gitlabtest.Project, others...)
		err := o.RevokeNamed(t.Context(), o.Settings, "regcred-y")
		if found && err != nil {
			t.Errorf("%d changes: want no error, got %v", changes, err)
		}
		if !found {
			wantError(t, err, 0, false, "may have been missed")
		}
	}
}

// Access tokens are searched by name, which gives one page.
func TestFindSearchesAccessTokens(t *testing.T) {
	for _, role := range kinds[2:] {
		s := gitlabtest.New(t)
		o := open(t, s, s.Connection(), role)
		for range 2 * gitlabtest.MaxPerPage {
			o.mint(t, issuer.NewName("other"), time.Now().Add(time.Hour))
		}
		o.mint(t, "regcred-x", time.Now().Add(time.Hour))
		before := len(s.Calls())
		if err := o.RevokeNamed(t.Context(), o.Settings, "regcred-x"); err != nil {
			t.Fatal(err)
		}
		if calls := s.Calls()[before:]; len(calls) != 3 || len(s.Living()) != 2*gitlabtest.MaxPerPage {
			t.Errorf("%v: want one list, one look at the token and one deletion, got %v, and left %v", role, calls, s.Living())
		}
	}
}

// Older versions also list tokens that have ended, and a header may be malformed.
func TestFindLeavesOutWhatIsEnded(t *testing.T) {
	const list = `[{"id":90,"name":"regcred-x","revoked":true},{"id":91,"name":"regcred-x","revoked":false,"active":false}]`
	s := gitlabtest.New(t)
	s.InjectFault(-1, issuertest.Method(http.MethodGet), issuertest.Status(http.StatusOK, list, "Link", "<x>; next"))
	o := open(t, s, s.Connection(), s.Role())
	before := len(s.Calls())
	if err := o.RevokeNamed(t.Context(), o.Settings, "regcred-x"); err != nil {
		t.Fatal(err)
	}
	if calls := s.Calls()[before:]; len(calls) != 1 {
		t.Errorf("want one list and no deletion, got %v", calls)
	}
}

func TestFindOfOddLists(t *testing.T) {
	for name, test := range map[string]struct {
		body   string
		header []string
		says   string
	}{
		"in a circle": {`[]`, []string{"X-Next-Page", "1"}, "leads back to a page that was already read"},
		"no list":     {`{}`, nil, "could not be understood"},
		"empty":       {``, nil, "closed in the middle"},
	} {
		t.Run(name, func(t *testing.T) {
			s := gitlabtest.New(t)
			s.InjectFault(-1, nil, issuertest.Status(http.StatusOK, test.body, test.header...))
			o := open(t, s, s.Connection(), s.Role())
			err := o.RevokeNamed(t.Context(), o.Settings, "regcred-x")
			wantError(t, err, 0, false, test.says)
		})
	}
}

// Only GitLab's own answer that something does not exist counts.
func TestGone(t *testing.T) {
	for _, role := range kinds {
		s := gitlabtest.New(t)
		o := open(t, s, s.Connection(), role)
		minted := o.mint(t, "regcred-x", time.Now().Add(time.Hour))
		for _, body := range []string{`<html>404 Not Found</html>`, `{"error":"404 Not Found"}`, `{"message":"no such page"}`, `{"message":"404 Not Found","error":{}}`, `{"message":"404 User Not Found"}`, ``} {
			s.InjectFault(-1, nil, issuertest.Status(http.StatusNotFound, body))
			wantError(t, o.Revoke(t.Context(), o.Settings, "regcred-x", minted.ID), http.StatusNotFound, true, "which does not prove that the credential is gone")
			wantError(t, o.RevokeNamed(t.Context(), o.Settings, "regcred-x"), http.StatusNotFound, true)
			s.ClearFaults()
		}
	}
}

const noMember = "to a user who is no member, GitLab answers as if the project or group had been deleted"

// GitLab gives a user the same answer where the project is gone and where the user has
// left it. Only an administrator sees whether the token is gone.
func TestOwnerThatIsNotSeen(t *testing.T) {
	for _, role := range kinds {
		path := role["project"] + role["group"]
		s := gitlabtest.New(t)
		user := s.AddUser("vault", false)
		s.SetMember(path, user, gitlabtest.Owner)
		o := open(t, s, s.ConnectionWith(s.AddToken(user, "a", []string{"api"}, 30)), role)
		admin := open(t, s, s.ConnectionWith(s.AddToken(s.AddUser("root", true), "b", []string{"api"}, 30)), role)
		minted := o.mint(t, "regcred-x", time.Now().Add(time.Hour))
		s.SetMember(path, user, 0)
		for _, then := range []func(string){s.Remove, func(string) {}} {
			wantError(t, o.Revoke(t.Context(), o.Settings, "regcred-x", minted.ID), http.StatusNotFound, true, noMember)
			wantError(t, o.RevokeNamed(t.Context(), o.Settings, "regcred-x"), http.StatusNotFound, true, noMember)
			then(path)
		}
		if err := admin.Revoke(t.Context(), o.Settings, "regcred-x", minted.ID); err != nil {
			t.Errorf("%v: Revoke by an administrator where the target is gone: want no error, got %v", role, err)
		}
		if err := admin.RevokeNamed(t.Context(), o.Settings, "regcred-x"); err != nil {
			t.Errorf("%v: RevokeNamed by an administrator where the target is gone: want no error, got %v", role, err)
		}
	}
}

// A group that was renamed does not redirect, and its tokens live on.
func TestRenamedGroupIsNoProof(t *testing.T) {
	for _, role := range []issuer.Settings{kinds[1], kinds[3]} {
		s := gitlabtest.New(t)
		admin := open(t, s, s.ConnectionWith(s.AddToken(s.AddUser("root", true), "b", []string{"api"}, 30)), role)
		minted := admin.mint(t, "regcred-x", time.Now().Add(time.Hour))
		s.InjectFault(-1, func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/groups/") }, issuertest.Status(http.StatusNotFound, `{"message":"404 Group Not Found"}`))
		wantError(t, admin.Revoke(t.Context(), admin.Settings, "regcred-x", minted.ID), 0, true, "its token still exists")
		wantError(t, admin.RevokeNamed(t.Context(), admin.Settings, "regcred-x"), 0, true, "its token still exists")
	}
}

// The tokens of a moved project live on below its new path, also while it waits for its
// deletion.
func TestMovedProject(t *testing.T) {
	for name, move := range map[string]func(*gitlabtest.Server){
		"moved":         func(s *gitlabtest.Server) { s.Move(gitlabtest.Project, "group/renamed") },
		"being deleted": func(s *gitlabtest.Server) { s.ScheduleDeletion(gitlabtest.Project) },
	} {
		for _, role := range []issuer.Settings{kinds[0], kinds[2]} {
			s := gitlabtest.New(t)
			o := open(t, s, s.Connection(), role)
			minted := o.mint(t, "regcred-x", time.Now().Add(time.Hour))
			o.mint(t, "regcred-y", time.Now().Add(time.Hour))
			move(s)
			_, err := o.Mint(t.Context(), issuer.Request{Name: "regcred-z", For: o.Settings, ExpiresAt: time.Now().Add(time.Hour)})
			wantError(t, err, http.StatusMethodNotAllowed, true, "moved projects")
			for range 2 {
				if err := o.Revoke(t.Context(), o.Settings, "regcred-x", minted.ID); err != nil {
					t.Errorf("%s: Revoke: %v", name, err)
				}
				if err := o.RevokeNamed(t.Context(), o.Settings, "regcred-y"); err != nil || len(s.Living()) != 0 {
					t.Errorf("%s: RevokeNamed: want nothing left, got %v, %v", name, s.Living(), err)
				}
			}
		}
	}
}

// Only the project in a redirect is used: the token goes to no other host.
func TestMovedProjectIsNotFollowedElsewhere(t *testing.T) {
	other := issuertest.NewServer(t, http.NotFoundHandler())
	s := gitlabtest.New(t)
	o := open(t, s, s.Connection(), s.Role())
	minted := o.mint(t, "regcred-x", time.Now().Add(time.Hour))
	for _, location := range []string{other.URL + "/api/v4/projects/99/deploy_tokens", other.URL + "/login", ""} {
		s.InjectFault(1, issuertest.Method(http.MethodGet), issuertest.Status(http.StatusMovedPermanently, "", "Location", location))
		if err := o.Revoke(t.Context(), o.Settings, "regcred-x", minted.ID); err == nil || len(s.Living()) != 1 {
			t.Errorf("%q: want an error and nothing revoked, got %v, %v", location, s.Living(), err)
		}
	}
	if calls := other.Calls(); len(calls) > 0 {
		t.Errorf("want no call, got %v", calls)
	}
}

func TestRevokeOfForeignID(t *testing.T) {
	s := gitlabtest.New(t)
	o := open(t, s, s.Connection(), s.Role())
	before := len(s.Calls())
	for _, id := range []string{"", "x", "1/../../groups", "1.5"} {
		wantError(t, o.Revoke(t.Context(), o.Settings, "regcred-x", id), 0, true, "is not a number, as IDs of GitLab are")
	}
	if calls := s.Calls()[before:]; len(calls) != 0 {
		t.Errorf("want no call, got %v", calls)
	}
}

// A proxy answers in place of GitLab, and nothing is revoked.
func TestRevokeOfOddAnswers(t *testing.T) {
	for _, role := range kinds {
		s := gitlabtest.New(t)
		o := open(t, s, s.Connection(), role)
		minted := o.mint(t, "regcred-x", time.Now().Add(time.Hour))
		s.InjectFault(1, issuertest.Method(http.MethodDelete), issuertest.Garbage)
		wantError(t, o.Revoke(t.Context(), o.Settings, "regcred-x", minted.ID), 0, false, "answered 200 to a deletion, where 204 is expected")
		if len(s.Living()) != 1 {
			t.Errorf("%v: want it alive, got %v", role, s.Living())
		}
	}
}

// After a lost answer, the deletion is repeated and finds nothing.
func TestRevokeAgainAfterLostAnswer(t *testing.T) {
	for _, role := range kinds {
		s := gitlabtest.New(t)
		o := open(t, s, s.Connection(), role)
		minted := o.mint(t, "regcred-x", time.Now().Add(time.Hour))
		s.InjectFault(1, issuertest.Method(http.MethodDelete), issuertest.CutAfterActing)
		if err := o.Revoke(t.Context(), o.Settings, "regcred-x", minted.ID); err != nil || len(s.Living()) != 0 {
			t.Errorf("%v: want it revoked, got %v, %v", role, s.Living(), err)
		}
	}
}

func TestMintOfOddAnswers(t *testing.T) {
	for _, role := range kinds {
		for name, body := range map[string]string{
			"no token":     `{"id":7,"username":"gitlab+deploy-token-7","expires_at":null}`,
			"no ID":        `{"username":"gitlab+deploy-token-7","token":"t","expires_at":null}`,
			"bad expiry":   `{"id":7,"username":"gitlab+deploy-token-7","token":"t","expires_at":"soon"}`,
			"another form": `[]`,
		} {
			s := gitlabtest.New(t)
			s.InjectFault(-1, s.MintMatch, issuertest.Status(http.StatusCreated, body))
			o := open(t, s, s.Connection(), role)
			_, err := o.Mint(t.Context(), issuer.Request{Name: "regcred-x", For: o.Settings, ExpiresAt: time.Now().Add(time.Hour)})
			if err == nil || issuer.Definite(err) {
				t.Errorf("%v, %s: want an error that is not definite, got %v", role, name, err)
			}
		}
		// A setting of GitLab allows tokens without an end.
		s := gitlabtest.New(t)
		s.InjectFault(-1, s.MintMatch, issuertest.Status(http.StatusCreated, `{"id":7,"username":"u","token":"t","expires_at":null}`))
		minted := open(t, s, s.Connection(), role).mint(t, "regcred-x", time.Now().Add(time.Hour))
		if !minted.ExpiresAt.IsZero() || minted.ID != "7" {
			t.Errorf("%v: want credential 7 without an end, got %+v", role, minted)
		}
	}
}
