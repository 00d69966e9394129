// SPDX-License-Identifier: MPL-2.0

package harbor_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/harbor"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// subject returns a server with one kind of root credential, and a role.
func subject(s *harbortest.Server, c issuer.Connection, projects ...string) issuertest.Subject {
	return issuertest.Subject{
		Type:       harbor.Type(),
		Connection: c,
		Role:       issuer.Settings{"projects": strings.Join(projects, ",")},
		Server:     s.Server,
		Pulls: func(minted issuer.Credential) bool {
			return !slices.ContainsFunc(projects, func(name string) bool { return !pulls(s, minted, name+"/web") })
		},
		Mints:      s.MintMatch,
		Living:     s.Living,
		CountAnew:  s.CountAnew,
		Outage:     s.SetDatabaseDown,
		BadSecrets: issuer.Secrets{"password": dockerconfig.NewSecret("Wrong-Pass1")},
	}
}

// pulls asks the registry whether a credential can pull.
func pulls(s *harbortest.Server, minted issuer.Credential, repository string) bool {
	request, err := http.NewRequest(http.MethodHead, s.URL+"/v2/"+repository+"/manifests/latest", nil)
	if err != nil {
		return false
	}
	request.SetBasicAuth(minted.Username, minted.Password.Reveal())
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

func asProjectAdmin(s *harbortest.Server) issuer.Connection { return s.Connection() }

func asSystemAdmin(s *harbortest.Server) issuer.Connection {
	s.AddUser("root", "Root-Pass1", true)
	return s.ConnectionAs("root", "Root-Pass1")
}

func asProjectRobot(s *harbortest.Server) issuer.Connection {
	return s.ConnectionAs(s.AddRobot(harbortest.Project, "regcred", 90, harbortest.Manages(harbortest.Project)...))
}

func asSystemRobot(s *harbortest.Server) issuer.Connection {
	all := append(harbortest.Manages(harbortest.Project, harbortest.OtherProject), harbortest.ManagesSystem())
	return s.ConnectionAs(s.AddRobot("", "regcred", -1, all...))
}

func TestConform(t *testing.T) {
	for name, c := range map[string]struct {
		as       func(*harbortest.Server) issuer.Connection
		projects []string
	}{
		"project administrator":                {asProjectAdmin, []string{harbortest.Project}},
		"system administrator, one project":    {asSystemAdmin, []string{harbortest.Project}},
		"system administrator, many projects":  {asSystemAdmin, []string{harbortest.Project, harbortest.OtherProject}},
		"robot account of a project":           {asProjectRobot, []string{harbortest.Project}},
		"system-level robot, one project":      {asSystemRobot, []string{harbortest.OtherProject}},
		"system-level robot, several projects": {asSystemRobot, []string{harbortest.Project, harbortest.OtherProject}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits for servers that hang
			issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
				s := harbortest.New(t)
				return subject(s, c.as(s), c.projects...)
			})
		})
	}
}

func TestTargetRefusesWhatHarborWould(t *testing.T) {
	const rule = `projects: must be names of projects (a-z and 0-9, with single . _ - between them, at most 255 characters), got `
	for _, c := range []struct {
		projects, access, want string
	}{
		{"", "", "projects: must name at least one project"},
		{"*", "", "projects: must name each project; in Harbor, * means every project, including those of other teams"},
		{"apps,*", "", "projects: must name each project; in Harbor, * means every project, including those of other teams"},
		{"apps,tools,apps", "", `projects: must name each project once, got "apps" twice`},
		{"Apps", "", rule + `"Apps"`},
		{"apps/web", "", rule + `"apps/web"`},
		{"apps,,tools", "", rule + `""`},
		{"a__b", "", rule + `"a__b"`},
		{strings.Repeat("a", 180), "", "projects: the name of the project must have at most 179 characters, because Harbor stores the names of its robot accounts with the project's in front, in 255; this one has 180"},
		{strings.Repeat("a", 250), "", "projects: the name of the project must have at most 179 characters, because Harbor stores the names of its robot accounts with the project's in front, in 255; this one has 250"},
		{strings.Repeat("a", 256), "", rule + `"` + strings.Repeat("a", 256) + `"`},
		{"apps", "delete", `access: must be pull or push, got "delete"`},
	} {
		fields := issuer.Settings{"projects": c.projects, "access": c.access}
		if _, err := harbor.Type().Target(issuer.Connection{}, fields); err == nil || err.Error() != c.want {
			t.Errorf("%v: want %q, got %v", fields, c.want, err)
		}
	}
}

func TestTargetFillsInAndSorts(t *testing.T) {
	got, err := harbor.Type().Target(issuer.Connection{}, issuer.Settings{"projects": "tools,42,apps"})
	want := issuer.Target{
		Settings: issuer.Settings{"projects": "42,apps,tools", "access": "pull"},
		Names:    []string{"42", "apps", "tools"},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

// Harbor answers 500 to names over 255 characters.
func TestLongestProjectMints(t *testing.T) {
	s := harbortest.New(t)
	name := strings.Repeat("a", 179)
	s.AddProject(name, harbortest.Admin)
	client, target := subject(s, s.Connection(), name).Open(t)
	if _, err := client.Mint(t.Context(), request(target, issuer.NewName(strings.Repeat("role", 20)))); err != nil {
		t.Error(err)
	}
	if target, err := harbor.Type().Target(issuer.Connection{}, issuer.Settings{"projects": "apps," + strings.Repeat("a", 250)}); err != nil {
		t.Errorf("want several projects of any length, whose robot accounts do not have their names, got %v, %v", target, err)
	}
}

func TestNewRefusesIncompleteLogins(t *testing.T) {
	for _, c := range []struct{ username, password, want string }{
		{"", "x", "username: must not be empty"},
		{"a:b", "x", "username: must not contain ':'"},
		{"vault", "", "password: must not be empty"},
	} {
		_, err := harbor.Type().New(issuer.Connection{
			Settings: issuer.Settings{"username": c.username},
			Secrets:  issuer.Secrets{"password": dockerconfig.NewSecret(c.password)},
		})
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q, %q: want an error that begins with %q, got %v", c.username, c.password, c.want, err)
		}
	}
}

// request asks for a credential that works for an hour.
func request(target issuer.Target, name string) issuer.Request {
	return issuer.Request{Name: name, For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)}
}

func TestMintGivesNoMoreThanAsked(t *testing.T) {
	for _, c := range []struct {
		access   string
		projects []string
		username string
		want     []string
	}{
		{"", []string{"apps"}, "robot$apps+regcred-ci", []string{"pull apps"}},
		{"push", []string{"apps"}, "robot$apps+regcred-ci", []string{"pull apps", "push apps"}},
		{"pull", []string{"apps", "tools"}, "robot$regcred-ci", []string{"pull apps", "pull tools"}},
		{"push", []string{"apps", "tools"}, "robot$regcred-ci", []string{"pull apps", "push apps", "pull tools", "push tools"}},
	} {
		s := harbortest.New(t)
		s.AddProject("secret")
		sub := subject(s, asSystemAdmin(s), c.projects...)
		sub.Role["access"] = c.access
		client, target := sub.Open(t)
		minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
		if err != nil || minted.Username != c.username {
			t.Errorf("%v: want %s, got %s, %v", c, c.username, minted.Username, err)
		}
		var may []string
		for _, in := range []string{"apps", "tools", "secret"} {
			for _, action := range []string{"pull", "push"} {
				if s.Accepts(minted.Username, minted.Password.Reveal(), in+"/web", action) {
					may = append(may, action+" "+in)
				}
			}
		}
		if diff := cmp.Diff(c.want, may); diff != "" {
			t.Errorf("%v: %s", c, diff)
		}
	}
}

func TestMintLastsForWholeDays(t *testing.T) {
	now := time.Date(2026, 11, 24, 15, 0, 0, 0, time.UTC)
	for lasts, days := range map[time.Duration]int{
		time.Minute:                  1,
		24 * time.Hour:               1,
		24*time.Hour + time.Second:   2,
		49 * time.Hour:               3,
		365*24*time.Hour - time.Hour: 365,
	} {
		s := harbortest.New(t)
		s.SetNow(func() time.Time { return now })
		sub := subject(s, s.Connection(), harbortest.Project)
		sub.Connection.Now = func() time.Time { return now }
		client, target := sub.Open(t)
		minted, err := client.Mint(t.Context(), issuer.Request{Name: "regcred-ci", For: target.Settings, ExpiresAt: now.Add(lasts)})
		ends := now.AddDate(0, 0, days)
		if err != nil || !minted.ExpiresAt.Equal(ends) {
			t.Errorf("for %s: want a credential until %s, got one until %s, %v", lasts, ends, minted.ExpiresAt, err)
		}
		s.SetNow(func() time.Time { return ends.Add(-time.Second) })
		if living := s.Living(); !slices.Equal(living, []string{"regcred-ci"}) || !sub.Pulls(minted) {
			t.Errorf("for %s: want it alive before its end, got %v", lasts, living)
		}
		s.SetNow(func() time.Time { return ends })
		if living := s.Living(); len(living) != 0 || sub.Pulls(minted) {
			t.Errorf("for %s: want it dead at its end, got %v", lasts, living)
		}
	}
}

// A robot account from Harbor's web pages has permissions without an effect, one from
// Terraform has the effect allow. Harbor tells them apart.
func TestMintWithRobotAccountWhoseEffectsAreNamed(t *testing.T) {
	s := harbortest.New(t)
	permissions := harbortest.Manages(harbortest.Project)
	for i := range permissions[0].Access {
		permissions[0].Access[i].Effect = "allow"
	}
	sub := subject(s, s.ConnectionAs(s.AddRobot(harbortest.Project, "regcred", -1, permissions...)), harbortest.Project)
	client, target := sub.Open(t)
	minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
	if err != nil || !sub.Pulls(minted) {
		t.Errorf("want a credential that pulls, got %v", err)
	}
}

func TestMintSaysWhoseRightIsMissing(t *testing.T) {
	const (
		ofProject = "only a project administrator, or a robot account that has robot: create and every permission it grants in that project, can create robot accounts of one project"
		ofSystem  = "only a system administrator, or a system-level robot account that has robot: create and every permission it grants, can create robot accounts for several projects"
	)
	for name, c := range map[string]struct {
		as       func(*harbortest.Server) issuer.Connection
		projects []string
		access   string
		want     string
	}{
		"user of another project": {asProjectAdmin, []string{"tools"}, "", "answered 403 Forbidden: forbidden (" + ofProject + ")"},
		"user, several projects":  {asProjectAdmin, []string{"apps", "tools"}, "", "answered 403 Forbidden: vault (" + ofSystem + ")"},
		"robot, several projects": {asProjectRobot, []string{"apps", "tools"}, "", "answered 403 Forbidden: robot$apps+regcred (" + ofSystem + ")"},
		"no such project":         {asSystemAdmin, []string{"none"}, "", "answered 404 Not Found: project none not found"},
		"no such second project":  {asSystemAdmin, []string{"apps", "none"}, "", "answered 404 Not Found: project none not found"},
		"system-level robot before 2.14.1": {func(s *harbortest.Server) issuer.Connection {
			s.RefuseAcrossLevels()
			return asSystemRobot(s)
		}, []string{"apps"}, "", "answered 403 Forbidden: denied (" + ofProject + ")"},
		"more than the robot has": {func(s *harbortest.Server) issuer.Connection {
			own := harbortest.Manages("apps")
			own[0].Access = own[0].Access[:5] // all but push
			return s.ConnectionAs(s.AddRobot("apps", "regcred", -1, own...))
		}, []string{"apps"}, "push", "answered 403 Forbidden: permission scope is invalid. It must be equal to or more restrictive than the creator robot's permissions: robot$apps+regcred (" + ofProject + ")"},
	} {
		t.Run(name, func(t *testing.T) {
			s := harbortest.New(t)
			sub := subject(s, c.as(s), c.projects...)
			sub.Role["access"] = c.access
			client, target := sub.Open(t)
			_, err := client.Mint(t.Context(), request(target, "regcred-ci"))
			want := fmt.Sprintf("the registry's API at %s: %s", s.URL, c.want)
			if err == nil || err.Error() != want || !issuer.Definite(err) {
				t.Errorf("want %q, got %v, definite %v", want, err, issuer.Definite(err))
			}
		})
	}
}

func TestMintRefusesANameThatIsTaken(t *testing.T) {
	s := harbortest.New(t)
	s.AddRobot(harbortest.Project, "regcred-ci", -1)
	client, target := subject(s, s.Connection(), harbortest.Project).Open(t)
	_, err := client.Mint(t.Context(), request(target, "regcred-ci"))
	if issuer.StatusOf(err) != http.StatusConflict || !issuer.Definite(err) {
		t.Errorf("want 409, definite, got %v", err)
	}
}

// answer answers matching calls with success and a body.
func answer(s *harbortest.Server, match func(*http.Request) bool, status int, body string) {
	s.InjectFault(-1, match, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

// path matches requests by their path below the API's.
func path(want string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.URL.Path == "/api/v2.0"+want }
}

func TestMintRefusesOddAnswers(t *testing.T) {
	for body, want := range map[string]string{
		`{"id":5,"name":"robot$apps+regcred-ci","expires_at":1900000000}`:                   "the answer has no robot account with the requested name",
		`{"name":"robot$apps+regcred-ci","secret":"x","expires_at":1900000000}`:             "the answer has no robot account with the requested name",
		`{"id":5,"name":"robot$apps+other","secret":"x","expires_at":1900000000}`:           "the answer has no robot account with the requested name",
		`{"id":5,"name":"robot$apps+regcred-ci","secret":"x"}`:                              "the answer has no expiry time",
		`{"id":"5","name":"robot$apps+regcred-ci","secret":"x","expires_at":1900000000}`:    "the answer could not be understood",
		`[{"id":5,"name":"robot$apps+regcred-ci","secret":"x","expires_at":1900000000}]`:    "the answer could not be understood",
		`<html>{"id":5,"name":"robot$apps+regcred-ci","secret":"x","expires_at":190000000}`: "the answer could not be understood",
	} {
		s := harbortest.New(t)
		answer(s, s.MintMatch, http.StatusCreated, body)
		client, target := subject(s, s.Connection(), harbortest.Project).Open(t)
		_, err := client.Mint(t.Context(), request(target, "regcred-ci"))
		if err == nil || !strings.HasSuffix(err.Error(), ": "+want) || issuer.Definite(err) {
			t.Errorf("%s: want %q, not definite, got %v, definite %v", body, want, err, issuer.Definite(err))
		}
	}
}

func TestMintTakesAnEndThatNeverComes(t *testing.T) {
	s := harbortest.New(t)
	answer(s, s.MintMatch, http.StatusCreated, `{"id":5,"name":"robot$apps+regcred-ci","secret":"x","expires_at":-1}`)
	client, target := subject(s, s.Connection(), harbortest.Project).Open(t)
	minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
	if err != nil || !minted.ExpiresAt.IsZero() || minted.ID != "5" {
		t.Errorf("want number 5 without an end, got %+v, %v", minted, err)
	}
}

func TestErrorsShowWhatHarborSays(t *testing.T) {
	for body, want := range map[string]string{
		`{"errors":[{"code":"BAD_REQUEST","message":"bad name"},{"code":"OTHER","message":""}]}`: "answered 400 Bad Request: bad name: OTHER",
		`<html>Bad Gateway</html>`:                             "answered 400 Bad Request",
		`{"errors":[{"message":"not ` + "Vault-Pass1" + `"}]}`: "answered 400 Bad Request: [redacted]",
	} {
		s := harbortest.New(t)
		s.InjectFault(-1, nil, issuertest.Status(http.StatusBadRequest, body))
		client, _ := subject(s, s.Connection(), harbortest.Project).Open(t)
		_, err := client.Check(t.Context())
		if err == nil || !strings.HasSuffix(err.Error(), ": "+want) {
			t.Errorf("%s: want %q, got %v", body, want, err)
		}
	}
}

// Find reads several pages of names that contain the requested one.
func TestFindGoesThroughAllPages(t *testing.T) {
	for name, c := range map[string]struct {
		as       func(*harbortest.Server) issuer.Connection
		in       string
		projects []string
	}{
		"project": {asProjectAdmin, harbortest.Project, []string{harbortest.Project}},
		"system":  {asSystemAdmin, "", []string{harbortest.Project, harbortest.OtherProject}},
	} {
		t.Run(name, func(t *testing.T) {
			s := harbortest.New(t)
			for i := range 250 {
				s.AddRobot(c.in, fmt.Sprintf("a%d-regcred-x-ci", i), -1)
			}
			s.AddRobot(c.in, "regcred-x-ci-y", -1)
			s.AddRobot(harbortest.OtherProject, "regcred-x-ci", -1)
			sub := subject(s, c.as(s), c.projects...)
			client, target := sub.Open(t)
			before := s.Living()
			if _, err := client.Mint(t.Context(), request(target, "regcred-x-ci")); err != nil {
				t.Fatal(err)
			}
			if err := client.RevokeNamed(t.Context(), target.Settings, "regcred-x-ci"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, s.Living()); diff != "" {
				t.Errorf("want only the one of that name revoked: %s", diff)
			}
		})
	}
}

// If Harbor ignores the filter, Find reads more pages, and still returns no other
// robot account.
func TestFindDoesNotTrustTheFilter(t *testing.T) {
	for _, projects := range [][]string{{harbortest.Project}, {harbortest.Project, harbortest.OtherProject}} {
		s := harbortest.New(t)
		s.AddRobot(harbortest.Project, "a-regcred-ci", -1)
		s.AddRobot("", "of-others", -1)
		client, target := subject(s, asSystemAdmin(s), projects...).Open(t)
		before := s.Living()
		if _, err := client.Mint(t.Context(), request(target, "regcred-ci")); err != nil {
			t.Fatal(err)
		}
		s.InjectFault(-1, path("/robots"), func(w http.ResponseWriter, r *http.Request, act http.Handler) {
			query := r.URL.Query()
			query.Set("q", strings.ReplaceAll(query.Get("q"), "Name=", "Overlooked="))
			r.URL.RawQuery = query.Encode()
			act.ServeHTTP(w, r)
		})
		if err := client.RevokeNamed(t.Context(), target.Settings, "regcred-ci"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, s.Living()); diff != "" {
			t.Errorf("%v: want only the one of that name revoked: %s", projects, diff)
		}
	}
}

func TestFindTakesAListingWithoutTotal(t *testing.T) {
	s := harbortest.New(t)
	for i := range 150 {
		s.AddRobot(harbortest.Project, fmt.Sprintf("a%d-regcred-ci", i), -1)
	}
	s.AddRobot(harbortest.Project, "regcred-ci", -1)
	s.InjectFault(-1, path("/robots"), func(w http.ResponseWriter, r *http.Request, act http.Handler) {
		act.ServeHTTP(withoutTotal{w}, r)
	})
	client, target := subject(s, s.Connection(), harbortest.Project).Open(t)
	if err := client.RevokeNamed(t.Context(), target.Settings, "regcred-ci"); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(s.Living(), "regcred-ci") {
		t.Error("want it revoked")
	}
}

type withoutTotal struct{ http.ResponseWriter }

func (w withoutTotal) WriteHeader(status int) {
	w.Header().Del("X-Total-Count")
	w.ResponseWriter.WriteHeader(status)
}

func TestFindKnowsAnyPrefix(t *testing.T) {
	for _, prefix := range []string{"robot$", "robot-", "ci", "a+b+"} {
		for _, projects := range [][]string{{harbortest.Project}, {harbortest.Project, harbortest.OtherProject}} {
			s := harbortest.New(t)
			s.SetPrefix(prefix)
			client, target := subject(s, asSystemAdmin(s), projects...).Open(t)
			minted, err := client.Mint(t.Context(), request(target, "regcred-x-1"))
			if err != nil || !strings.HasPrefix(minted.Username, prefix) {
				t.Errorf("%s, %v: got %s, %v", prefix, projects, minted.Username, err)
			}
			if err := client.RevokeNamed(t.Context(), target.Settings, "regcred-x-1"); err != nil || len(s.Living()) > 0 {
				t.Errorf("%s, %v: want none left, got %v, %v", prefix, projects, s.Living(), err)
			}
		}
	}
}

func TestProjectWithANameOfDigits(t *testing.T) {
	s := harbortest.New(t)
	id := s.AddProject("other", harbortest.Admin)
	name := fmt.Sprint(id)
	s.AddProject(name, harbortest.Admin)
	s.AddRobot("other", "regcred-ci", -1)
	client, target := subject(s, s.Connection(), name).Open(t)
	minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
	if err != nil || minted.Username != "robot$"+name+"+regcred-ci" {
		t.Errorf("got %s, %v", minted.Username, err)
	}
	if err := client.RevokeNamed(t.Context(), target.Settings, "regcred-ci"); err != nil || pulls(s, minted, name+"/web") || len(s.Living()) != 1 {
		t.Errorf("want only the one in the project of that name revoked, got %v, %v", s.Living(), err)
	}
}

func TestWhatWasMintedForAProjectThatIsGone(t *testing.T) {
	for name, as := range map[string]func(*harbortest.Server) issuer.Connection{
		"system administrator": asSystemAdmin, "project administrator": asProjectAdmin,
	} {
		t.Run(name, func(t *testing.T) {
			s := harbortest.New(t)
			client, target := subject(s, as(s), harbortest.Project).Open(t)
			minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
			if err != nil {
				t.Fatal(err)
			}
			s.DeleteProject(harbortest.Project)
			if err := client.Revoke(t.Context(), target.Settings, "regcred-ci", minted.ID); err != nil {
				t.Errorf("Revoke: want no error, got %v", err)
			}
			// Harbor tells only a system administrator that the project is gone.
			err = client.RevokeNamed(t.Context(), target.Settings, "regcred-ci")
			if gone := name == "system administrator"; gone != (err == nil) {
				t.Errorf("RevokeNamed: want no error only if Harbor says that the project is gone, got %v", err)
			}
			if err != nil && !strings.HasSuffix(err.Error(), "answered 403 Forbidden: forbidden (there is no project apps, or the root credential belongs to neither a project administrator nor a robot account with the permission project: read)") {
				t.Errorf("RevokeNamed: got %v", err)
			}
		})
	}
}

// Deleting a project deletes the robot account that is its root credential. Nothing can
// be asked then, until another account is written to the connection.
func TestProjectIsDeletedWithItsRootCredential(t *testing.T) {
	s := harbortest.New(t)
	client, target := subject(s, asProjectRobot(s), harbortest.Project).Open(t)
	minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
	if err != nil {
		t.Fatal(err)
	}
	s.DeleteProject(harbortest.Project)
	const hint = "write another account to the connection, of any project, and what the project held counts as revoked"
	for call, err := range map[string]error{
		"Revoke":      client.Revoke(t.Context(), target.Settings, "regcred-ci", minted.ID),
		"RevokeNamed": client.RevokeNamed(t.Context(), target.Settings, "regcred-ci"),
	} {
		if issuer.StatusOf(err) != http.StatusUnauthorized || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: want 401 and what to do, got %v", call, err)
		}
	}
	other := s.ConnectionAs(s.AddRobot(harbortest.OtherProject, "regcred", -1, harbortest.Manages(harbortest.OtherProject)...))
	client, _ = subject(s, other, harbortest.Project).Open(t)
	if err := client.Revoke(t.Context(), target.Settings, "regcred-ci", minted.ID); err != nil {
		t.Errorf("Revoke with an account of another project: want no error, got %v", err)
	}
}

// Root credentials from before the permission robot: read was asked for do not have it.
func TestRevokeWithoutThePermissionToRead(t *testing.T) {
	s := harbortest.New(t)
	permissions := harbortest.Manages(harbortest.Project)
	permissions[0].Access = slices.DeleteFunc(permissions[0].Access, func(a harbortest.Access) bool { return a.Resource == "robot" && a.Action == "read" })
	client, target := subject(s, s.ConnectionAs(s.AddRobot(harbortest.Project, "regcred", -1, permissions...)), harbortest.Project).Open(t)
	minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
	if err != nil {
		t.Fatal(err)
	}
	foreign := s.CountAnew(true)
	for range 2 {
		if err := client.Revoke(t.Context(), target.Settings, "regcred-ci", minted.ID); err != nil || !slices.Equal(s.Living(), foreign) {
			t.Errorf("want only the one of that name revoked, got %v, %v", s.Living(), err)
		}
	}
}

// Harbor answers 404 about a permission, and does not delete the robot account.
func TestRevokeOfARobotAccountThatCannotBeDeleted(t *testing.T) {
	s := harbortest.New(t)
	client, target := subject(s, s.Connection(), harbortest.Project).Open(t)
	minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
	if err != nil {
		t.Fatal(err)
	}
	s.LosePermissions("regcred-ci")
	for call, err := range map[string]error{
		"Revoke":      client.Revoke(t.Context(), target.Settings, "regcred-ci", minted.ID),
		"RevokeNamed": client.RevokeNamed(t.Context(), target.Settings, "regcred-ci"),
	} {
		const want = "answered 404 Not Found, which does not prove that the credential is gone: role permission robotaccount:"
		if err == nil || !strings.Contains(err.Error(), want) || !pulls(s, minted, "apps/web") {
			t.Errorf("%s: want %q, got %v", call, want, err)
		}
	}
}

// The same words about another robot account or project prove nothing.
func TestOnlyTheThingThatWasAskedForCounts(t *testing.T) {
	for body, gone := range map[string]bool{
		`{"errors":[{"code":"NOT_FOUND","message":"robot %s not found"}]}`:         true,
		`{"errors":[{"code":"NOT_FOUND","message":"robot 1%s not found"}]}`:        false,
		`{"errors":[{"code":"UNKNOWN","message":"robot %s not found"}]}`:           false,
		`{"errors":[{"code":"NOT_FOUND","message":"robot account %s not found"}]}`: false,
		`{"errors":[{"code":"NOT_FOUND","message":"project tools not found"}]}`:    false,
	} {
		s := harbortest.New(t)
		client, target := subject(s, s.Connection(), harbortest.Project).Open(t)
		minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
		if err != nil {
			t.Fatal(err)
		}
		s.InjectFault(-1, nil, issuertest.Status(http.StatusNotFound, strings.ReplaceAll(body, "%s", minted.ID)))
		if err := client.Revoke(t.Context(), target.Settings, "regcred-ci", minted.ID); (err == nil) != gone {
			t.Errorf("Revoke, %s: want no error: %v, got %v", body, gone, err)
		}
		if err := client.RevokeNamed(t.Context(), target.Settings, "regcred-ci"); err == nil {
			t.Errorf("RevokeNamed, %s: want an error", body)
		}
	}
}

func TestReadOnlyModeRevokesNothing(t *testing.T) {
	s := harbortest.New(t)
	client, target := subject(s, s.Connection(), harbortest.Project).Open(t)
	minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
	if err != nil {
		t.Fatal(err)
	}
	s.SetReadOnly(true)
	err = client.Revoke(t.Context(), target.Settings, "regcred-ci", minted.ID)
	if issuer.StatusOf(err) != http.StatusForbidden || !strings.Contains(err.Error(), "read only mode") || len(s.Living()) != 1 {
		t.Errorf("want Harbor's refusal, got %v", err)
	}
}

func TestSystemLevelRobotOutlivesOneOfItsProjects(t *testing.T) {
	s := harbortest.New(t)
	client, target := subject(s, asSystemAdmin(s), harbortest.Project, harbortest.OtherProject).Open(t)
	if _, err := client.Mint(t.Context(), request(target, "regcred-ci")); err != nil {
		t.Fatal(err)
	}
	s.DeleteProject(harbortest.OtherProject)
	if living := s.Living(); !slices.Equal(living, []string{"regcred-ci"}) {
		t.Errorf("want it alive, got %v", living)
	}
	if err := client.RevokeNamed(t.Context(), target.Settings, "regcred-ci"); err != nil || len(s.Living()) > 0 {
		t.Errorf("want it revoked, got %v, %v", s.Living(), err)
	}
}

func TestRevokeSaysWhoseRightIsMissing(t *testing.T) {
	s := harbortest.New(t)
	mine, target := subject(s, asSystemAdmin(s), harbortest.OtherProject).Open(t)
	minted, err := mine.Mint(t.Context(), request(target, "regcred-ci"))
	if err != nil {
		t.Fatal(err)
	}
	other, _ := subject(s, s.Connection(), harbortest.OtherProject).Open(t)
	err = other.Revoke(t.Context(), target.Settings, "regcred-ci", minted.ID)
	if issuer.StatusOf(err) != http.StatusForbidden || !strings.Contains(err.Error(), "the permission project: read") || len(s.Living()) != 1 {
		t.Errorf("want 403, got %v", err)
	}
}

func TestCheck(t *testing.T) {
	ends := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	s := harbortest.New(t)
	s.SetNow(func() time.Time { return ends.AddDate(0, 0, -10) })
	for name, c := range map[string]struct {
		connection issuer.Connection
		want       issuer.Status
	}{
		"project administrator": {asProjectAdmin(s), issuer.Status{Identity: "vault"}},
		"system administrator": {asSystemAdmin(s), issuer.Status{Identity: "root", Warnings: []string{
			"root is a system administrator of Harbor; for roles of one project each, an administrator of these projects is enough",
		}}},
		"robot account of a project": {
			s.ConnectionAs(s.AddRobot("apps", "admin-1", 10, harbortest.Manages("apps")...)),
			issuer.Status{Identity: "robot$apps+admin-1", ExpiresAt: ends},
		},
		"system-level robot account": {
			s.ConnectionAs(s.AddRobot("", "admin-1", -1, harbortest.ManagesSystem())),
			issuer.Status{Identity: "robot$admin-1"},
		},
	} {
		client, _ := subject(s, c.connection, harbortest.Project).Open(t)
		got, err := client.Check(t.Context())
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

func TestCheckWarnsOfAdministratorsByGroup(t *testing.T) {
	s := harbortest.New(t)
	answer(s, path("/users/current"), http.StatusOK, `{"user_id":7,"username":"ldap","sysadmin_flag":false,"admin_role_in_auth":true}`)
	client, _ := subject(s, s.Connection(), harbortest.Project).Open(t)
	if status, err := client.Check(t.Context()); err != nil || len(status.Warnings) != 1 {
		t.Errorf("want a warning, got %v, %v", status, err)
	}
}

func TestCheckRefuses(t *testing.T) {
	without := func(s *harbortest.Server, in string, lacks ...string) issuer.Connection {
		permissions := harbortest.Manages(harbortest.Project)
		permissions[0].Access = slices.DeleteFunc(permissions[0].Access, func(a harbortest.Access) bool {
			return slices.Contains(lacks, a.Resource+": "+a.Action)
		})
		return s.ConnectionAs(s.AddRobot(in, "regcred", -1, permissions...))
	}
	for name, c := range map[string]struct {
		as   func(s *harbortest.Server) issuer.Connection
		want string
	}{
		"a robot account that may not read its project": {
			func(s *harbortest.Server) issuer.Connection { return without(s, "apps", "project: read") },
			"answered 403 Forbidden: forbidden (there is no project apps, or the root credential belongs to neither a project administrator nor a robot account with the permission project: read)",
		},
		"a robot account that may not list": {
			func(s *harbortest.Server) issuer.Connection { return without(s, "apps", "robot: list") },
			"answered 403 Forbidden: forbidden (only a project administrator (for system-level robot accounts, a system administrator) or a robot account with the permission robot: list can list robot accounts)",
		},
		"a robot account that may not mint or revoke": {
			func(s *harbortest.Server) issuer.Connection {
				return without(s, "apps", "robot: create", "robot: delete")
			},
			"the robot account robot$apps+regcred cannot mint and revoke, because it lacks the permissions robot: create, robot: delete",
		},
		"a system-level robot account of projects only": {
			func(s *harbortest.Server) issuer.Connection { return without(s, "") },
			"answered 403 Forbidden: robot$regcred (only a project administrator (for system-level robot accounts, a system administrator) or a robot account with the permission robot: list can list robot accounts)",
		},
		"a robot account that has ended": {
			func(s *harbortest.Server) issuer.Connection {
				c := s.ConnectionAs(s.AddRobot("apps", "regcred", 1, harbortest.Manages("apps")...))
				s.SetNow(func() time.Time { return time.Now().AddDate(0, 0, 2) })
				return c
			},
			"answered 401 Unauthorized: unauthorized (a robot account of a project is deleted with the project; if it was, write another account to the connection, of any project, and what the project held counts as revoked)",
		},
		"a user whom Harbor has locked": {
			func(s *harbortest.Server) issuer.Connection {
				s.Lock(harbortest.Admin, true)
				return s.Connection()
			},
			"answered 401 Unauthorized: unauthorized",
		},
		"any account while the database is down": {
			func(s *harbortest.Server) issuer.Connection {
				s.SetDatabaseDown(true)
				return s.Connection()
			},
			"answered 401 Unauthorized, which does not prove that the root credential is refused: unauthorized (Harbor says that its component database is unhealthy, and then refuses every password)",
		},
		"a robot account whose project is not in its name": {
			func(s *harbortest.Server) issuer.Connection {
				s.SetPrefix("$robot$")
				name, secret := s.AddRobot("apps", "regcred", -1, harbortest.Manages("apps")...)
				answer(s, path("/robots"), http.StatusOK, "[]")
				return s.ConnectionAs(name, secret)
			},
			"the robot account $robot$apps+regcred is not in the list of robot accounts that it may read, so it can be neither checked nor replaced",
		},
		"an answer without a user": {
			func(s *harbortest.Server) issuer.Connection {
				answer(s, path("/users/current"), http.StatusOK, "{}")
				return s.Connection()
			},
			"the answer does not name a user",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := harbortest.New(t)
			client, _ := subject(s, c.as(s), harbortest.Project).Open(t)
			if _, err := client.Check(t.Context()); err == nil || err.Error() != fmt.Sprintf("the registry's API at %s: %s", s.URL, c.want) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}

// If the prefix could be part of the project's name, two projects are tried.
func TestCheckFindsRobotAccountBehindAnyPrefix(t *testing.T) {
	s := harbortest.New(t)
	s.SetPrefix("my-robot-")
	s.AddProject("team-apps")
	client, _ := subject(s, s.ConnectionAs(s.AddRobot("team-apps", "regcred", -1, harbortest.Manages("team-apps")...)), "team-apps").Open(t)
	if status, err := client.Check(t.Context()); err != nil || status.Identity != "my-robot-team-apps+regcred" {
		t.Errorf("got %v, %v", status, err)
	}
}

func TestCheckFindsSystemLevelRobotOnALaterPage(t *testing.T) {
	s := harbortest.New(t)
	for i := range 120 {
		s.AddRobot("", fmt.Sprintf("a%d", i), -1)
	}
	client, _ := subject(s, asSystemRobot(s), harbortest.Project).Open(t)
	if status, err := client.Check(t.Context()); err != nil || status.Identity != "robot$regcred" {
		t.Errorf("got %v, %v", status, err)
	}
}

func TestCheckGivesUpWhileHarborIsDown(t *testing.T) {
	s := harbortest.New(t)
	client, _ := subject(s, asProjectRobot(s), harbortest.Project).Open(t)
	s.InjectFault(-1, path("/projects/apps"), issuertest.Hang)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client.Check(ctx); err == nil || issuer.Definite(err) {
		t.Errorf("want an error that is not definite, got %v", err)
	}
}

// A proxy answers in place of Harbor, and nothing is revoked.
func TestRevokeDoesNotBelieveAPage(t *testing.T) {
	s := harbortest.New(t)
	client, target := subject(s, asProjectRobot(s), harbortest.Project).Open(t)
	minted, err := client.Mint(t.Context(), request(target, "regcred-ci"))
	if err != nil {
		t.Fatal(err)
	}
	s.InjectFault(1, issuertest.Method(http.MethodDelete), issuertest.Garbage)
	if err := client.Revoke(t.Context(), target.Settings, "regcred-ci", minted.ID); err == nil || !strings.Contains(err.Error(), "with a body, where Harbor sends none") {
		t.Errorf("want an error about the answer, got %v", err)
	}
	if err := client.Revoke(t.Context(), target.Settings, "regcred-ci", minted.ID); err != nil {
		t.Errorf("again: %v", err)
	}
}
