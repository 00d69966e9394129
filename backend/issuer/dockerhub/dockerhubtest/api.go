// SPDX-License-Identifier: MPL-2.0

package dockerhubtest

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// refusal is an answer whose status is not success.
type refusal struct {
	status int
	body   map[string]any
}

func (r *refusal) Error() string { return fmt.Sprint(r.status, r.body) }

func refuse(status int, text string) *refusal {
	return &refusal{status, map[string]any{"message": text, "errinfo": map[string]any{}}}
}

// invalid is the refusal of input.
func invalid(field, text string) *refusal {
	return &refusal{http.StatusBadRequest, map[string]any{"fields": map[string]any{field: text}, "text": field + ": " + text}}
}

const maxBody = 1 << 20

func answer(w http.ResponseWriter, status int, body any, err error) {
	var refused *refusal
	if errors.As(err, &refused) {
		status, body = refused.status, refused.body
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body)
	}
}

// limitRate counts a request, and refuses it if there were too many in this minute.
func (s *Server) limitRate(w http.ResponseWriter) error {
	if s.perMinute == 0 {
		return nil
	}
	now := s.now()
	minute := now.Unix() / 60
	s.calls[minute]++
	reset := (minute + 1) * 60
	w.Header().Set("X-RateLimit-Limit", strconv.Itoa(s.perMinute))
	w.Header().Set("X-RateLimit-Remaining", strconv.Itoa(max(0, s.perMinute-s.calls[minute])))
	w.Header().Set("X-RateLimit-Reset", strconv.FormatInt(reset, 10))
	if s.calls[minute] <= s.perMinute {
		return nil
	}
	w.Header().Set("Retry-After", strconv.FormatInt(reset-now.Unix(), 10))
	return &refusal{http.StatusTooManyRequests, map[string]any{"detail": "Rate limit exceeded", "error": false}}
}

func (s *Server) serveLogin(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := s.login(w, r)
	answer(w, http.StatusOK, body, err)
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) (any, error) {
	if err := s.limitRate(w); err != nil {
		return nil, err
	}
	if r.Method != http.MethodPost {
		return nil, refuse(http.StatusMethodNotAllowed, "method not allowed")
	}
	var asked struct{ Identifier, Secret string }
	if json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&asked) != nil || asked.Identifier == "" || asked.Secret == "" {
		return nil, invalid("identifier", "must not be empty")
	}
	isPersonal := s.personal[asked.Identifier] == asked.Secret
	if s.passwords[asked.Identifier] != asked.Secret && !isPersonal {
		return nil, &refusal{http.StatusUnauthorized, map[string]any{"detail": "Incorrect authentication credentials"}}
	}
	bearer := "eyJ." + rand.Text() + "." + rand.Text()
	s.sessions[bearer] = session{user: asked.Identifier, personal: isPersonal, ends: s.now().Add(sessionLife)}
	return map[string]any{"access_token": bearer}, nil
}

// serveTokens answers requests below /v2/orgs/.
func (s *Server) serveTokens(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status, body, err := s.route(w, r)
	answer(w, status, body, err)
}

func (s *Server) route(w http.ResponseWriter, r *http.Request) (int, any, error) {
	if err := s.limitRate(w); err != nil {
		return 0, nil, err
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	as, known := s.sessions[bearer]
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/orgs/"), "/")
	switch {
	case !known || !s.now().Before(as.ends):
		return 0, nil, refuse(http.StatusUnauthorized, "unauthorized")
	case as.personal:
		return 0, nil, refuse(http.StatusForbidden, "token issued from personal access token is not allowed")
	case len(parts) < 2 || len(parts) > 3 || parts[1] != "access-tokens":
		return 0, nil, refuse(http.StatusNotFound, "not found")
	case s.owners[parts[0]] == nil:
		return 0, nil, refuse(http.StatusNotFound, "organization not found")
	case !slices.Contains(s.owners[parts[0]], as.user):
		return 0, nil, refuse(http.StatusForbidden, "forbidden")
	case len(parts) == 2 && r.Method == http.MethodPost:
		return s.create(r, parts[0], as.user)
	case len(parts) == 2 && r.Method == http.MethodGet:
		return s.list(r, parts[0])
	case len(parts) == 3 && (r.Method == http.MethodGet || r.Method == http.MethodDelete):
		return s.one(r, parts[0], parts[2])
	}
	return 0, nil, refuse(http.StatusMethodNotAllowed, "method not allowed")
}

var repositoryScopes = []string{
	"scope-image-pull", "scope-image-push", "scope-image-delete", "scope-repository-read", "scope-repository-edit",
	"scope-repository-admin", "scope-tag-read", "scope-tag-admin", "scope-webhook-read", "scope-webhook-edit", "scope-webhook-admin",
}

// newToken is the body of a request for an access token.
type newToken struct {
	Label       string     `json:"label"`
	Description string     `json:"description"`
	Resources   []resource `json:"resources"`
	ExpiresAt   *time.Time `json:"expires_at"`
}

func (s *Server) check(n newToken, organization string) error {
	switch {
	case n.Label == "":
		return invalid("label", "is required")
	case len(n.Description) > maxDescription:
		return invalid("description", fmt.Sprintf("must have at most %d characters", maxDescription))
	case len(n.Resources) == 0:
		return invalid("resources", "at least one is required")
	case len(n.Resources) > maxRepositories:
		return invalid("resources", fmt.Sprintf("must be at most %d", maxRepositories))
	case n.ExpiresAt != nil && !n.ExpiresAt.After(s.now()):
		return invalid("expires_at", "must be in the future")
	}
	for _, r := range n.Resources {
		exists := s.repos[r.Path] && strings.HasPrefix(r.Path, organization+"/")
		switch {
		case r.Type != "TYPE_REPO":
			return invalid("resources", "this server knows repositories only")
		case !exists && r.Path != organization+"/*" && r.Path != "*/*/public":
			return invalid("resources", "no such repository: "+r.Path)
		case len(r.Scopes) == 0 || slices.ContainsFunc(r.Scopes, func(scope string) bool { return !slices.Contains(repositoryScopes, scope) }):
			return invalid("resources", fmt.Sprint("invalid scopes ", r.Scopes))
		}
	}
	return nil
}

func (s *Server) create(r *http.Request, organization, user string) (int, any, error) {
	var wanted newToken
	if json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&wanted) != nil {
		return 0, nil, invalid("body", "is not valid")
	}
	if err := s.check(wanted, organization); err != nil {
		return 0, nil, err
	}
	if len(s.of(organization)) >= s.limit {
		return 0, nil, invalid("label", "the organization has reached its limit of access tokens")
	}
	t := &token{label: wanted.Label, organization: organization, by: user, resources: wanted.Resources}
	if wanted.ExpiresAt != nil {
		t.expires = wanted.ExpiresAt.UTC().Truncate(time.Second)
	}
	entity := s.addToken(t).entity()
	delete(entity, "created_by")
	entity["token"], entity["resources"] = t.secret, t.resources
	return http.StatusCreated, entity, nil
}

// of returns the access tokens of an organization, the newest first.
func (s *Server) of(organization string) []*token {
	all := slices.DeleteFunc(slices.Collect(maps.Values(s.tokens)), func(t *token) bool { return t.organization != organization })
	slices.SortFunc(all, func(a, b *token) int { return cmp.Compare(b.order, a.order) })
	return all
}

func (t *token) entity() map[string]any {
	entity := map[string]any{
		"id": t.id, "label": t.label, "created_by": t.by, "is_active": t.active,
		"created_at": t.created.Format(time.RFC3339Nano), "expires_at": nil, "last_used_at": nil,
	}
	if !t.expires.IsZero() {
		entity["expires_at"] = t.expires.Format(time.RFC3339)
	}
	return entity
}

func (s *Server) list(r *http.Request, organization string) (int, any, error) {
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(r.URL.Query().Get(name)); err == nil && n > 0 {
			return n
		}
		return otherwise
	}
	page, size := number("page", 1), min(number("page_size", 10), maxPageSize)
	all := s.of(organization)
	start := min((page-1)*size, len(all))
	end := min(start+size, len(all))
	link := func(page int) string {
		return fmt.Sprintf("http://%s%s?%s", r.Host, r.URL.Path, url.Values{"page": {strconv.Itoa(page)}, "page_size": {strconv.Itoa(size)}}.Encode())
	}
	body := map[string]any{"total": len(all), "next": nil, "previous": nil}
	if end < len(all) {
		body["next"] = link(page + 1)
	}
	if page > 1 {
		body["previous"] = link(page - 1)
	}
	results := []any{}
	for _, t := range all[start:end] {
		results = append(results, t.entity())
	}
	body["results"] = results
	return http.StatusOK, body, nil
}

func (s *Server) one(r *http.Request, organization, id string) (int, any, error) {
	t := s.tokens[id]
	if t == nil || t.organization != organization {
		return 0, nil, refuse(http.StatusNotFound, "access token not found")
	}
	if r.Method == http.MethodDelete {
		delete(s.tokens, id)
		return http.StatusNoContent, nil, nil
	}
	entity := t.entity()
	entity["resources"] = t.resources
	return http.StatusOK, entity, nil
}
