// SPDX-License-Identifier: MPL-2.0

package dockerhubtest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer/dockerhub/dockerhubtest"
)

// ask makes a call, and returns the status and what the body says.
func ask(t *testing.T, s *dockerhubtest.Server, bearer, method, path, body string) (int, map[string]any, http.Header) {
	t.Helper()
	request, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+bearer)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	said := map[string]any{}
	_ = json.Unmarshal(text, &said)
	return answer.StatusCode, said, answer.Header
}

func login(t *testing.T, s *dockerhubtest.Server, user, secret string) string {
	t.Helper()
	_, said, _ := ask(t, s, "", "POST", "/v2/auth/token", fmt.Sprintf(`{"identifier":%q,"secret":%q}`, user, secret))
	bearer, _ := said["access_token"].(string)
	return bearer
}

func TestAnswersAsTheReferenceSays(t *testing.T) {
	const (
		tokens   = "/v2/orgs/acme/access-tokens"
		web      = `{"type":"TYPE_REPO","path":"acme/web","scopes":["scope-image-pull"]}`
		resource = `"resources":[` + web + `]`
	)
	for _, c := range []struct {
		user, method, path, body string
		status                   int
		says                     string // of text, message or detail
	}{
		{"", "POST", "/v2/auth/token", `{"identifier":"owner","secret":"Hub-Pass1"}`, 200, ""},
		{"", "POST", "/v2/auth/token", `{"identifier":"owner","secret":"x"}`, 401, "Incorrect authentication credentials"},
		{"", "POST", "/v2/auth/token", `{"identifier":"nobody","secret":"x"}`, 401, "Incorrect authentication credentials"},
		{"", "POST", "/v2/auth/token", `{"identifier":"nobody"}`, 400, "identifier: must not be empty"},
		{"", "GET", "/v2/auth/token", ``, 405, "method not allowed"},
		{"", "GET", tokens, ``, 401, "unauthorized"},
		{"personal", "GET", tokens, ``, 403, "token issued from personal access token is not allowed"},
		{"member", "GET", tokens, ``, 403, "forbidden"},
		{"owner", "GET", "/v2/orgs/none/access-tokens", ``, 404, "organization not found"},
		{"owner", "GET", "/v2/orgs/acme/settings", ``, 404, "not found"},
		{"owner", "PUT", tokens, ``, 405, "method not allowed"},
		{"owner", "POST", tokens, `{"label":"ci",` + resource + `}`, 201, ""},
		{"owner", "POST", tokens, `{"label":"ci","expires_at":"2027-01-01T00:00:00Z",` + resource + `}`, 201, ""},
		{"owner", "POST", tokens, `{"label":"ci","resources":[{"type":"TYPE_REPO","path":"acme/*","scopes":["scope-image-push"]}]}`, 201, ""},
		{"member", "POST", tokens, `{"label":"ci",` + resource + `}`, 403, "forbidden"},
		{"owner", "POST", tokens, `{` + resource + `}`, 400, "label: is required"},
		{"owner", "POST", tokens, `{"label":"ci"}`, 400, "resources: at least one is required"},
		{"owner", "POST", tokens, `{"label":"ci","resources":[` + strings.Repeat(web+",", 50) + web + `]}`, 400, "resources: must be at most 50"},
		{"owner", "POST", tokens, `{"label":"ci","resources":[` + strings.Repeat(web+",", 49) + web + `]}`, 201, ""},
		{"owner", "POST", tokens, `{"label":"ci","description":"` + strings.Repeat("a", 201) + `",` + resource + `}`, 400, "description: must have at most 200 characters"},
		{"owner", "POST", tokens, `{"label":"ci","expires_at":"2026-11-27T09:00:00Z",` + resource + `}`, 400, "expires_at: must be in the future"},
		{"owner", "POST", tokens, `{"label":"ci","expires_at":"tomorrow",` + resource + `}`, 400, "body: is not valid"},
		{"owner", "POST", tokens, `{"label":"ci","resources":[{"type":"TYPE_REPO","path":"acme/none","scopes":["scope-image-pull"]}]}`, 400, "resources: no such repository: acme/none"},
		{"owner", "POST", tokens, `{"label":"ci","resources":[{"type":"TYPE_REPO","path":"acme/web","scopes":["repo-pull"]}]}`, 400, "resources: invalid scopes [repo-pull]"},
		{"owner", "GET", tokens + "/x", ``, 404, "access token not found"},
		{"owner", "DELETE", tokens + "/x", ``, 404, "access token not found"},
	} {
		now := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
		s := dockerhubtest.New(t)
		s.SetNow(func() time.Time { return now })
		secrets := map[string]string{"owner": dockerhubtest.Password, "member": dockerhubtest.Password, "personal": s.AddPersonalToken("owner")}
		user := c.user
		if user == "personal" {
			user = "owner"
		}
		bearer := ""
		if user != "" {
			bearer = login(t, s, user, secrets[c.user])
		}
		status, said, _ := ask(t, s, bearer, c.method, c.path, c.body)
		says := ""
		for _, field := range []string{"text", "message", "detail"} {
			if text, ok := said[field].(string); ok {
				says += text
			}
		}
		if status != c.status || says != c.says {
			t.Errorf("%s %s %s as %s: want %d %q, got %d %q", c.method, c.path, c.body, c.user, c.status, c.says, status, says)
		}
	}
}

func TestPages(t *testing.T) {
	s := dockerhubtest.New(t)
	for i := range 7 {
		s.AddPuller(fmt.Sprint("t", i))
	}
	bearer := login(t, s, dockerhubtest.Owner, dockerhubtest.Password)
	var labels []string
	path := "/v2/orgs/acme/access-tokens?page_size=100"
	for path != "" {
		_, said, _ := ask(t, s, bearer, "GET", path, "")
		if said["total"] != 7.0 {
			t.Fatalf("got %v", said)
		}
		for _, one := range said["results"].([]any) {
			labels = append(labels, one.(map[string]any)["label"].(string))
		}
		next, _ := said["next"].(string)
		path = strings.TrimPrefix(next, s.URL)
	}
	if !slices.Equal(labels, []string{"t6", "t5", "t4", "t3", "t2", "t1", "t0"}) {
		t.Errorf("got %v", labels)
	}
}

// Tokens that have expired count, and a session ends soon.
func TestLimits(t *testing.T) {
	now := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
	s := dockerhubtest.New(t)
	s.SetNow(func() time.Time { return now })
	s.SetLimit(1)
	const body = `{"label":"ci","expires_at":"2026-11-27T09:01:00Z","resources":[{"type":"TYPE_REPO","path":"acme/web","scopes":["scope-image-pull"]}]}`
	bearer := login(t, s, dockerhubtest.Owner, dockerhubtest.Password)
	if status, said, _ := ask(t, s, bearer, "POST", "/v2/orgs/acme/access-tokens", body); status != 201 || said["created_by"] != nil || said["token"] == nil {
		t.Fatalf("got %d, %v", status, said)
	}
	now = now.Add(2 * time.Minute)
	if living := s.Living(); len(living) > 0 {
		t.Errorf("want none that works, got %v", living)
	}
	if status, _, _ := ask(t, s, bearer, "POST", "/v2/orgs/acme/access-tokens", strings.Replace(body, "09:01", "09:11", 1)); status != 400 {
		t.Errorf("want the limit, got %d", status)
	}
	s.SetRate(2)
	for i, want := range []int{200, 200, 429} {
		status, _, header := ask(t, s, bearer, "GET", "/v2/orgs/acme/access-tokens", "")
		if status != want || header.Get("X-RateLimit-Limit") != "2" || (header.Get("Retry-After") == "60") != (want == 429) {
			t.Errorf("call %d: want %d, got %d, %v", i, want, status, header)
		}
	}
	now = now.Add(9 * time.Minute)
	if status, _, _ := ask(t, s, bearer, "GET", "/v2/orgs/acme/access-tokens", ""); status != 401 {
		t.Errorf("want the session to have ended, got %d", status)
	}
}
