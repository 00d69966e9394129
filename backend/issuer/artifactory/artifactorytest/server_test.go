// SPDX-License-Identifier: MPL-2.0

package artifactorytest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer/artifactory/artifactorytest"
)

// ask makes a call with a token, and returns the status and what the body says: of a
// refusal its code and message, of a list the descriptions.
func ask(t *testing.T, s *artifactorytest.Server, token, method, path, body string, header ...string) (int, string) {
	t.Helper()
	request, err := http.NewRequest(method, s.URL+"/access/api/v1"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	var said struct {
		Errors        []struct{ Code, Message string }
		Code, Message string
		Description   string
		Scope         string
		ExpiresIn     *int64 `json:"expires_in"`
		Tokens        []struct{ Description string }
	}
	if json.Unmarshal(text, &said) != nil {
		return answer.StatusCode, ""
	}
	switch {
	case len(said.Errors) > 0:
		return answer.StatusCode, said.Errors[0].Code + " " + said.Errors[0].Message
	case said.Code != "":
		return answer.StatusCode, said.Code + " " + said.Message
	case said.Scope != "" && said.ExpiresIn != nil:
		return answer.StatusCode, fmt.Sprint(said.Scope, " ", *said.ExpiresIn)
	case said.Scope != "":
		return answer.StatusCode, said.Scope
	case said.Tokens != nil:
		var names []string
		for _, one := range said.Tokens {
			names = append(names, one.Description)
		}
		slices.Sort(names)
		return answer.StatusCode, strings.Join(names, " ")
	}
	return answer.StatusCode, said.Description
}

func TestAnswersAsTheReferenceSays(t *testing.T) {
	const (
		forbidden = "FORBIDDEN The requested token details are forbidden: "
		readers   = "applied-permissions/groups:readers"
	)
	for _, c := range []struct {
		user, method, path, body string
		status                   int
		said                     string
	}{
		{"vault", "POST", "/tokens", `{}`, 200, "applied-permissions/user 31536000"},
		{"vault", "POST", "/tokens", `{"scope":"` + readers + `","expires_in":0}`, 200, readers},
		{"vault", "POST", "/tokens", `{"scope":"` + readers + `","expires_in":60}`, 200, readers + " 60"},
		{"vault", "POST", "/tokens", `{"scope":"` + readers + ` applied-permissions/admin","expires_in":60}`, 200, readers + " applied-permissions/admin 60"},
		{"vault", "POST", "/tokens", `{"scope":"admin"}`, 400, "BAD_REQUEST Invalid scope: admin"},
		{"vault", "POST", "/tokens", `{"scope":"applied-permissions/groups:"}`, 400, "BAD_REQUEST Invalid scope: applied-permissions/groups:"},
		{"vault", "POST", "/tokens", `{"scope":"` + strings.Repeat("a", 501) + `"}`, 400, "BAD_REQUEST Invalid scope: length must be at most 500"},
		{"vault", "POST", "/tokens", `{"username":"` + strings.Repeat("a", 256) + `"}`, 400, "BAD_REQUEST Invalid username: length must be at most 255"},
		{"vault", "POST", "/tokens", `{"description":"` + strings.Repeat("a", 1025) + `"}`, 400, "BAD_REQUEST Invalid description: length must be at most 1024"},
		{"vault", "POST", "/tokens", `{"audience":"jfxx@*"}`, 400, "BAD_REQUEST Invalid audience: jfxx@*"},
		{"vault", "POST", "/tokens", `{"expires_in":-1}`, 400, "BAD_REQUEST Invalid expires_in: must not be negative"},
		{"vault", "POST", "/tokens", `{"expires_in":"60"}`, 400, "BAD_REQUEST Invalid request body"},
		{"vault", "POST", "/tokens", `{"grant_type":"refresh_token"}`, 400, "BAD_REQUEST Invalid grant_type: refresh_token"},
		{"team-lead", "POST", "/tokens", `{"scope":"applied-permissions/roles:apps:Viewer"}`, 200, "applied-permissions/roles:apps:Viewer 31536000"},
		{"team-lead", "POST", "/tokens", `{"scope":"applied-permissions/roles:other:Viewer"}`, 403, forbidden + "no permissions on the scope applied-permissions/roles:other:Viewer"},
		{"team-lead", "POST", "/tokens", `{"scope":"` + readers + `"}`, 403, forbidden + "no permissions on the scope " + readers},
		{"team-lead", "POST", "/tokens", `{"username":"vault"}`, 403, forbidden + "only an administrator can create tokens for others"},
		{"team-lead", "POST", "/tokens", `{"expires_in":0}`, 403, forbidden + "expires_in is higher than the limit"},
		{"team-lead", "POST", "/tokens", `{"expires_in":31536001}`, 403, forbidden + "expires_in is higher than the limit"},
		{"reader", "POST", "/tokens", `{}`, 403, forbidden + "not a user"},
		{"nobody", "POST", "/tokens", `{}`, 401, "UNAUTHORIZED Invalid token"},
		{"expired", "POST", "/tokens", `{}`, 401, "UNAUTHORIZED Invalid token, expired"},
		{"artifactory only", "POST", "/tokens", `{}`, 401, "UNAUTHORIZED Invalid token, audience"},

		{"vault", "GET", "/tokens", "", 200, "artifactory only expired initial reader reader-2 team-lead"},
		{"vault", "GET", "/tokens?description=reader", "", 200, "reader"},
		{"vault", "GET", "/tokens?description=reader*", "", 200, "reader reader-2"},
		{"vault", "GET", "/tokens?description=re*der", "", 200, ""},
		{"vault", "GET", "/tokens?username=team-lead", "", 200, "team-lead"},
		{"vault", "GET", "/tokens?refreshable=true", "", 200, ""},
		{"vault", "GET", "/tokens?refreshable=yes", "", 400, "BAD_REQUEST Invalid refreshable: yes"},
		{"vault", "GET", "/tokens?order_by=name", "", 400, "BAD_REQUEST Invalid order_by: name"},
		{"team-lead", "GET", "/tokens", "", 200, "team-lead"},
		{"team-lead", "GET", "/tokens?username=vault", "", 200, ""},
		{"reader", "GET", "/tokens", "", 403, "FORBIDDEN Not a user, or not an admin token"},

		{"vault", "GET", "/tokens/me", "", 200, "initial"},
		{"team-lead", "GET", "/tokens/me", "", 200, "team-lead"},
		{"artifactory only", "GET", "/tokens/me", "", 200, "artifactory only"},
		{"vault", "GET", "/tokens/x", "", 404, "NOT_FOUND Token not found"},
		{"vault", "GET", "/tokens/{reader}", "", 200, "reader"},
		{"team-lead", "GET", "/tokens/{reader}", "", 403, "FORBIDDEN No permission to get the token"},
		{"brief", "GET", "/tokens/me", "", 404, "NOT_FOUND Token not found"},

		{"vault", "DELETE", "/tokens/x", "", 204, ""},
		{"vault", "DELETE", "/tokens/{reader}", "", 200, ""},
		{"reader", "DELETE", "/tokens/me", "", 200, ""},
		{"team-lead", "DELETE", "/tokens/{reader}", "", 403, "FORBIDDEN No permission to revoke the token"},
		{"vault", "DELETE", "/tokens/{reader-2}", "", 400, "BAD_REQUEST Token not revocable"},
		{"vault", "DELETE", "/tokens", "", 405, "METHOD_NOT_ALLOWED HTTP 405 Method Not Allowed"},
		{"vault", "PUT", "/tokens/x", "", 405, "METHOD_NOT_ALLOWED HTTP 405 Method Not Allowed"},
		{"vault", "GET", "/token", "", 404, "NOT_FOUND HTTP 404 Not Found"},

		{"vault", "GET", "/cert/root", "", 200, ""},
		{"vault", "POST", "/cert/root", "", 405, "METHOD_NOT_ALLOWED HTTP 405 Method Not Allowed"},
		{"team-lead", "GET", "/cert/root", "", 403, "FORBIDDEN Forbidden"},
	} {
		now := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
		s := artifactorytest.NewAt(t, func() time.Time { return now })
		tokens := map[string]string{
			"vault":            s.Connection().Secrets["token"].Reveal(),
			"team-lead":        s.AddToken(artifactorytest.Manager, "team-lead", "applied-permissions/user", 0),
			"reader":           s.AddToken("reader", "reader", readers, 0),
			"reader-2":         s.AddToken("reader", "reader-2", readers, 5*time.Hour),
			"artifactory only": s.AddTokenFor("jfrt@*", "vault", "artifactory only", "applied-permissions/admin", 0),
			"expired":          s.AddToken("vault", "expired", "applied-permissions/admin", 3*time.Hour),
			"brief":            s.AddToken("vault", "brief", "applied-permissions/admin", 3*time.Hour-time.Second),
		}
		path := c.path
		for name, token := range tokens {
			if strings.Contains(path, "{"+name+"}") {
				path = strings.ReplaceAll(path, "{"+name+"}", idOf(t, s, token))
			}
		}
		if c.user != "brief" { // which ends by then
			now = now.Add(3*time.Hour + time.Minute)
		}
		status, said := ask(t, s, tokens[c.user], c.method, path, c.body)
		if status != c.status || said != c.said {
			t.Errorf("%s %s %s as %s: want %d %q, got %d %q", c.method, c.path, c.body, c.user, c.status, c.said, status, said)
		}
	}
}

// idOf returns the ID of a token.
func idOf(t *testing.T, s *artifactorytest.Server, token string) string {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, s.URL+"/access/api/v1/tokens/me", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var me struct {
		ID string `json:"token_id"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&me); err != nil || me.ID == "" {
		t.Fatal(me, err)
	}
	return me.ID
}

// A web form loses force_revocable, so this server takes JSON only.
func TestRefusesWebForms(t *testing.T) {
	s := artifactorytest.New(t)
	status, said := ask(t, s, s.Connection().Secrets["token"].Reveal(), "POST", "/tokens", "scope=applied-permissions/user", "Content-Type", "application/x-www-form-urlencoded")
	if status != http.StatusUnsupportedMediaType {
		t.Errorf("got %d %s", status, said)
	}
}

func TestLivingAndAdminsFollowTheClock(t *testing.T) {
	now := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
	s := artifactorytest.NewAt(t, func() time.Time { return now })
	s.AddToken("ci", "ci", "applied-permissions/groups:readers", time.Hour)
	s.AddToken("vault", "root", "applied-permissions/admin", time.Hour)
	if living, admins := s.Living(), s.Admins(); !slices.Equal(living, []string{"ci"}) || !slices.Equal(admins, []string{"initial", "root"}) {
		t.Errorf("got %v, %v", living, admins)
	}
	now = now.Add(time.Hour)
	if living, admins := s.Living(), s.Admins(); len(living) > 0 || !slices.Equal(admins, []string{"initial"}) {
		t.Errorf("an hour later: got %v, %v", living, admins)
	}
}
