// SPDX-License-Identifier: MPL-2.0

package harbortest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
)

// ask makes a call as a user, and returns the status and the code and message of the
// first error.
func ask(t *testing.T, s *harbortest.Server, user, method, path, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(method, s.URL+"/api/v2.0"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		name, password, _ := strings.Cut(user, ":")
		request.SetBasicAuth(name, password)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	var failed struct {
		Errors []struct{ Code, Message string }
	}
	if answer.StatusCode >= 400 {
		if err := json.Unmarshal(text, &failed); err != nil || len(failed.Errors) == 0 {
			t.Fatalf("%s %s: want errors, got %s", method, path, text)
		}
		return answer.StatusCode, failed.Errors[0].Code + " " + failed.Errors[0].Message
	}
	return answer.StatusCode, ""
}

func TestAnswersAsHarborDoes(t *testing.T) {
	const (
		admin = harbortest.Admin + ":" + harbortest.Password
		root  = "root:Root-Pass1"
		pull  = `{"kind":"project","namespace":"apps","access":[{"resource":"repository","action":"pull"}]}`
	)
	robot := func(name, level, duration, permissions string) string {
		return `{"name":"` + name + `","level":"` + level + `","duration":` + duration + `,"permissions":[` + permissions + `]}`
	}
	for _, c := range []struct {
		user, method, path, body string
		status                   int
		said                     string
	}{
		{admin, "POST", "/robots", robot("ci", "project", "1", pull), 201, ""},
		{admin, "POST", "/robots", robot("ci", "project", "-1", pull), 201, ""},
		{admin, "POST", "/robots", robot("Ci", "project", "1", pull), 400, "BAD_REQUEST robot name is not in lower case or contains illegal characters"},
		{"", "POST", "/robots", robot("a+b", "project", "1", pull), 400, "BAD_REQUEST robot name is not in lower case or contains illegal characters"},
		{admin, "POST", "/robots", robot("ci", "project", "0", pull), 400, "BAD_REQUEST bad request error duration input: 0, duration must be either -1(Never) or a positive integer"},
		{admin, "POST", "/robots", robot("ci", "project", "-2", pull), 400, "BAD_REQUEST bad request error duration input: -2, duration must be either -1(Never) or a positive integer"},
		{admin, "POST", "/robots", robot("ci", "global", "1", pull), 400, "BAD_REQUEST bad request error level input: global"},
		{admin, "POST", "/robots", robot("ci", "project", "1", ""), 400, "BAD_REQUEST bad request empty permission"},
		{admin, "POST", "/robots", robot("ci", "project", "1", `{"kind":"project","namespace":"apps","access":[]}`), 400, "BAD_REQUEST bad request empty access"},
		{admin, "POST", "/robots", robot("ci", "project", "1", pull+","+pull), 400, "BAD_REQUEST bad request permission"},
		{admin, "POST", "/robots", robot("ci", "project", "1", `{"kind":"group","namespace":"apps","access":[{"resource":"repository","action":"pull"}]}`), 400, "BAD_REQUEST bad request permission level: group"},
		{admin, "POST", "/robots", robot("ci", "project", "1", `{"kind":"project","namespace":"apps","access":[{"resource":"robot","action":"update"}]}`), 400, "BAD_REQUEST bad request permission: robot:update"},
		{root, "POST", "/robots", robot("ci", "system", "1", `{"kind":"system","namespace":"apps","access":[{"resource":"robot","action":"list"}]}`), 400, "BAD_REQUEST unknown namespace"},
		{"", "POST", "/robots", robot("ci", "project", "1", pull), 401, "UNAUTHORIZED unauthorized"},
		{admin + "x", "POST", "/robots", robot("ci", "system", "1", pull), 401, "UNAUTHORIZED unauthorized"},
		{admin, "POST", "/robots", robot("ci", "system", "1", pull), 403, "FORBIDDEN vault"},
		{admin, "POST", "/robots", robot(strings.Repeat("a", 250), "project", "1", pull), 201, ""},
		{admin, "POST", "/robots", robot(strings.Repeat("a", 251), "project", "1", pull), 500, "UNKNOWN internal server error"},
		{root, "POST", "/robots", robot("taken", "project", "1", pull), 409, "CONFLICT robot account 2:apps+taken already exists"},
		{root, "POST", "/robots", robot("taken", "system", "1", pull), 201, ""},
		{"", "GET", "/robots", "", 401, "UNAUTHORIZED unauthorized"},
		{admin, "GET", "/robots", "", 403, "FORBIDDEN vault"},
		{root, "GET", "/robots?page_size=101", "", 422, "UNPROCESSABLE_ENTITY validation failure list:\npage_size in query should be less than or equal to 100"},
		{root, "GET", "/robots?page=0", "", 200, ""},
		{root, "GET", "/robots?q=Name", "", 400, `BAD_REQUEST the query string must contain "=" and the key/value cannot be empty`},
		{root, "GET", "/robots?q=Level%3Dall", "", 400, "BAD_REQUEST bad request error level input"},
		{root, "GET", "/robots?q=Level%3Dproject", "", 400, "BAD_REQUEST must with project ID when to query project robots"},
		{root, "GET", "/robots?q=Level%3Dproject,ProjectID%3Dapps", "", 400, "BAD_REQUEST ProjectID must be a positive integer"},
		{root, "GET", "/robots?q=Level%3Dproject,ProjectID%3D99", "", 200, ""},
		{root, "GET", "/robots?q=Level%3Dsystem&page=9", "", 200, ""},
		{"", "DELETE", "/robots/99", "", 401, "UNAUTHORIZED unauthorized"},
		{admin, "DELETE", "/robots/99", "", 404, "NOT_FOUND robot 99 not found"},
		{admin, "GET", "/projects/tools", "", 403, "FORBIDDEN forbidden"},
		{admin, "GET", "/projects/none", "", 403, "FORBIDDEN forbidden"},
		{root, "GET", "/projects/none", "", 404, "NOT_FOUND project none not found"},
		{admin, "PUT", "/users/4/password", `{"old_password":"x","new_password":"Vault-Pass2"}`, 403, "FORBIDDEN Current password is incorrect"},
		{admin, "PUT", "/users/4/password", `{"old_password":"Vault-Pass1","new_password":"vault-pass2"}`, 400, "BAD_REQUEST the password or secret must be 8-128, inclusively, characters long with at least 1 uppercase letter, 1 lowercase letter and 1 number"},
		{admin, "PUT", "/users/4/password", `{"old_password":"Vault-Pass1","new_password":"Vault-Pass1"}`, 400, "BAD_REQUEST New password is identical to old password"},
		{admin, "PUT", "/users/5/password", `{"old_password":"Vault-Pass1","new_password":"Vault-Pass2"}`, 403, "FORBIDDEN forbidden"},
		{root, "PUT", "/users/4/password", `{"new_password":"Vault-Pass2"}`, 200, ""},
		{root, "PUT", "/users/77/password", `{"new_password":"Vault-Pass2"}`, 404, "NOT_FOUND user 77 not found"},
		{"", "PUT", "/users/4/password", `{"new_password":"Vault-Pass2"}`, 500, "UNKNOWN internal server error"},
		{admin, "GET", "/robots/6", "", 200, ""},
		{"", "GET", "/robots/99", "", 401, "UNAUTHORIZED unauthorized"},
		{admin, "GET", "/robots/99", "", 404, "NOT_FOUND robot 99 not found"},
		{admin, "GET", "/robot/6", "", 404, "NOT_FOUND path /api/v2.0/robot/6 was not found"},
		{"", "GET", "/health", "", 200, ""},
		{"", "GET", "/projects", "", 200, ""},
	} {
		s := harbortest.New(t) // IDs: the project apps 2, tools 3, the user vault 4
		s.AddUser("root", "Root-Pass1", true)
		s.AddRobot("apps", "taken", -1)
		status, said := ask(t, s, c.user, c.method, c.path, c.body)
		if status != c.status || said != c.said {
			t.Errorf("%s %s %s as %q: want %d %q, got %d %q", c.method, c.path, c.body, c.user, c.status, c.said, status, said)
		}
	}
}

func TestRefusesAsHarborDoes(t *testing.T) {
	const admin = harbortest.Admin + ":" + harbortest.Password
	for name, c := range map[string]struct {
		set                func(*harbortest.Server)
		user, method, path string
		status             int
		said               string
	}{
		"read-only":                  {func(s *harbortest.Server) { s.SetReadOnly(true) }, admin, "DELETE", "/robots/5", 403, "DENIED The system is in read only mode. Any modification is prohibited."},
		"read-only, a read":          {func(s *harbortest.Server) { s.SetReadOnly(true) }, admin, "GET", "/robots/5", 200, ""},
		"no database":                {func(s *harbortest.Server) { s.SetDatabaseDown(true) }, admin, "GET", "/users/current", 401, "UNAUTHORIZED unauthorized"},
		"no database, public":        {func(s *harbortest.Server) { s.SetDatabaseDown(true) }, "", "GET", "/projects", 500, "UNKNOWN internal server error"},
		"no database, health":        {func(s *harbortest.Server) { s.SetDatabaseDown(true) }, "", "GET", "/health", 200, ""},
		"locked":                     {func(s *harbortest.Server) { s.Lock(harbortest.Admin, true) }, admin, "GET", "/users/current", 401, "UNAUTHORIZED unauthorized"},
		"permissions lost":           {func(s *harbortest.Server) { s.LosePermissions("taken") }, admin, "DELETE", "/robots/5", 404, "NOT_FOUND role permission robotaccount:5 not found"},
		"permissions lost, it stays": {func(s *harbortest.Server) { s.LosePermissions("taken") }, admin, "GET", "/robots/5", 200, ""},
	} {
		s := harbortest.New(t) // IDs: the project apps 2, tools 3, the user vault 4
		s.AddRobot("apps", "taken", -1)
		c.set(s)
		if status, said := ask(t, s, c.user, c.method, c.path, ""); status != c.status || said != c.said {
			t.Errorf("%s: want %d %q, got %d %q", name, c.status, c.said, status, said)
		}
	}
}

func TestLivingAndAdminsFollowTheClock(t *testing.T) {
	now := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	s := harbortest.New(t)
	s.SetNow(func() time.Time { return now })
	s.AddRobot("apps", "ci", 1, harbortest.Permission{Kind: "project", Namespace: "apps", Access: []harbortest.Access{{Resource: "repository", Action: "pull"}}})
	s.AddRobot("apps", "admin", 1, harbortest.Manages("apps")...)
	if living, admins := s.Living(), s.Admins(); !slices.Equal(living, []string{"ci"}) || !slices.Equal(admins, []string{"robot$apps+admin", "vault"}) {
		t.Errorf("got %v, %v", living, admins)
	}
	now = now.AddDate(0, 0, 1)
	if living, admins := s.Living(), s.Admins(); len(living) > 0 || !slices.Equal(admins, []string{"vault"}) {
		t.Errorf("a day later: got %v, %v", living, admins)
	}
}
