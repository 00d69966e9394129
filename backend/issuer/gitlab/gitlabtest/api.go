// SPDX-License-Identifier: MPL-2.0

package gitlabtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// refusal is an answer whose status is not success.
type refusal struct {
	status int
	body   map[string]any
}

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status, map[string]any{"message": fmt.Sprintf(format, args...)}}
}

func (r *refusal) Error() string { return fmt.Sprint(r.status, r.body) }

// invalid returns the refusal of a request's parameters.
func invalid(format string, args ...any) *refusal {
	return &refusal{http.StatusBadRequest, map[string]any{"error": fmt.Sprintf(format, args...)}}
}

var (
	errUnauthorized = refuse(http.StatusUnauthorized, "401 Unauthorized")
	errForbidden    = refuse(http.StatusForbidden, "403 Forbidden")
	errNotFound     = refuse(http.StatusNotFound, "404 Not found") // for a record that was looked up
	errNoRoute      = &refusal{http.StatusNotFound, map[string]any{"error": "404 Not Found"}}
)

// request is an authenticated request.
type request struct {
	*http.Request
	header http.Header // of the answer
	token  *personalToken
	path   []string // below /api/v4/
	params map[string]any
}

func (r *request) is(method string, parts ...string) bool {
	if r.Method != method || len(r.path) != len(parts) {
		return false
	}
	for i, part := range parts {
		if part != "*" && part != r.path[i] {
			return false
		}
	}
	return true
}

// id returns a part of the path as a number, 0 if it is none.
func (r *request) id(part int) int64 {
	id, _ := strconv.ParseInt(r.path[part], 10, 64)
	return id
}

func (s *Server) serveAPI(w http.ResponseWriter, in *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status, body := http.StatusOK, any(nil)
	r, err := s.authenticate(w, in)
	if err == nil {
		status, body, err = s.route(r)
	}
	var refused *refusal
	if errors.As(err, &refused) {
		status, body = refused.status, refused.body
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if status != http.StatusNoContent {
		_ = json.NewEncoder(w).Encode(body)
	}
}

// authenticate parses a request and finds its token.
func (s *Server) authenticate(w http.ResponseWriter, in *http.Request) (*request, error) {
	r := &request{Request: in, header: w.Header(), params: map[string]any{}}
	for part := range strings.SplitSeq(strings.TrimPrefix(in.URL.EscapedPath(), "/api/v4/"), "/") {
		part, err := url.PathUnescape(part)
		if err != nil {
			return nil, errNoRoute
		}
		r.path = append(r.path, part)
	}
	for name, values := range in.URL.Query() {
		r.params[name] = values[0]
	}
	if in.Method == http.MethodPost && json.NewDecoder(in.Body).Decode(&r.params) != nil {
		return nil, refuse(http.StatusBadRequest, "400 Bad request")
	}
	secret := in.Header.Get("PRIVATE-TOKEN")
	if secret == "" {
		secret = strings.TrimPrefix(in.Header.Get("Authorization"), "Bearer ")
	}
	for _, t := range s.tokens {
		if t.secret == secret {
			r.token = t
		}
	}
	switch {
	case r.token == nil:
		return nil, errUnauthorized
	case r.token.revoked:
		return nil, invalidToken("Token was revoked. You have to re-authorize from the user.")
	case s.expired(r.token):
		return nil, invalidToken("Token is expired. You can either do re-authorization or token refresh.")
	case r.token.user.blocked:
		return nil, refuse(http.StatusForbidden, "403 Forbidden - Your account has been blocked.")
	}
	return r, r.checkScope()
}

func invalidToken(description string) *refusal {
	return &refusal{http.StatusUnauthorized, map[string]any{"error": "invalid_token", "error_description": description}}
}

// checkScope refuses a token that lacks the scope for the endpoint. Every token may
// read and revoke itself.
func (r *request) checkScope() error {
	scopes := []string{"api"}
	switch {
	case len(r.path) == 2 && r.path[1] == "self":
		return nil
	case r.is(http.MethodGet, "user"):
		scopes = []string{"api", "read_api", "read_user"}
	case r.Method == http.MethodGet:
		scopes = []string{"api", "read_api"}
	}
	if slices.ContainsFunc(scopes, func(scope string) bool { return slices.Contains(r.token.scopes, scope) }) {
		return nil
	}
	return &refusal{http.StatusForbidden, map[string]any{
		"error":             "insufficient_scope",
		"error_description": "The request requires higher privileges than provided by the access token.",
		"scope":             strings.Join(scopes, " "),
	}}
}

func (s *Server) route(r *request) (int, any, error) {
	switch {
	case r.is(http.MethodGet, "user"):
		return s.getUser(r)
	case r.path[0] == "personal_access_tokens":
		return s.personalTokens(r)
	case r.is(http.MethodPost, "users", "*", "personal_access_tokens"):
		return s.createForUser(r)
	case r.is(http.MethodPost, "groups", "*", "service_accounts", "*", "personal_access_tokens"),
		r.is(http.MethodPost, "projects", "*", "service_accounts", "*", "personal_access_tokens"):
		return s.createForServiceAccount(r)
	case r.is(http.MethodGet, "deploy_tokens"):
		return s.allDeployTokens(r)
	case len(r.path) >= 3 && (r.path[0] == "projects" || r.path[0] == "groups"):
		owner, err := s.space(r)
		if err != nil {
			return 0, nil, err
		}
		switch r.path[2] {
		case "deploy_tokens":
			return s.deployTokens(r, owner)
		case "access_tokens":
			return s.resourceTokens(r, owner)
		}
	}
	return 0, nil, errNoRoute
}

// space returns the project or group of a request. For a user who is not a member, it
// does not exist.
func (s *Server) space(r *request) (*space, error) {
	project, kind := r.path[0] == "projects", "Group"
	if project {
		kind = "Project"
	}
	var found *space
	for path, sp := range s.spaces {
		if sp.project == project && (path == strings.ToLower(r.path[1]) || sp.movedTo == "" && fmt.Sprint(sp.id) == r.path[1]) {
			found = sp
		}
	}
	switch {
	case found == nil, found.movedTo == "" && s.level(r.token.user, found) == 0:
		return nil, refuse(http.StatusNotFound, "404 %s Not Found", kind)
	case found.movedTo == "":
		return found, nil
	case r.Method != http.MethodGet:
		return nil, refuse(http.StatusMethodNotAllowed, "Non GET methods are not allowed for moved projects")
	}
	location := fmt.Sprintf("%s/api/v4/projects/%d/%s", s.URL, found.id, strings.Join(r.path[2:], "/"))
	r.header.Set("Location", location)
	return nil, &refusal{http.StatusMovedPermanently, map[string]any{"message": "This resource has been moved permanently to " + location}}
}

func (s *Server) getUser(r *request) (int, any, error) {
	user := map[string]any{"id": r.token.user.id, "username": r.token.user.name, "state": "active", "bot": r.token.user.bot}
	if r.token.user.admin {
		user["is_admin"] = true
	}
	return http.StatusOK, user, nil
}

// paginate returns the requested page of a list, and sets the pagination headers.
func paginate[T any](r *request, all []T) []T {
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(fmt.Sprint(r.params[name])); err == nil && n > 0 {
			return n
		}
		return otherwise
	}
	page, per := number("page", 1), min(number("per_page", MaxPerPage), MaxPerPage)
	pages := max(1, (len(all)+per-1)/per)
	link := func(page int, rel string) string {
		query := r.URL.Query()
		query.Set("page", strconv.Itoa(page))
		query.Set("per_page", strconv.Itoa(per))
		return fmt.Sprintf(`<http://%s%s?%s>; rel=%q`, r.Host, r.URL.EscapedPath(), query.Encode(), rel)
	}
	links := []string{link(1, "first"), link(pages, "last")}
	next, previous := "", ""
	if page < pages {
		next = strconv.Itoa(page + 1)
		links = append(links, link(page+1, "next"))
	}
	if page > 1 {
		previous = strconv.Itoa(page - 1)
	}
	for name, value := range map[string]string{
		"X-Total": strconv.Itoa(len(all)), "X-Total-Pages": strconv.Itoa(pages), "X-Per-Page": strconv.Itoa(per),
		"X-Page": strconv.Itoa(page), "X-Next-Page": next, "X-Prev-Page": previous, "Link": strings.Join(links, ", "),
	} {
		r.header.Set(name, value)
	}
	start := min((page-1)*per, len(all))
	return all[start:min(start+per, len(all))]
}
