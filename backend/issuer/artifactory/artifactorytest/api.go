// SPDX-License-Identifier: MPL-2.0

package artifactorytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
)

// refusal is an answer whose status is not success. JFrog has two forms of it.
type refusal struct {
	status                int
	code, message, detail string
	bare                  bool // an object in place of a list of them
}

func (r *refusal) Error() string { return fmt.Sprint(r.status, r.message) }

func (r *refusal) body() any {
	entry := map[string]string{"code": r.code, "message": r.message}
	if r.detail != "" {
		entry["detail"] = r.detail
	}
	if r.bare {
		return entry
	}
	return map[string]any{"errors": []any{entry}}
}

func refuse(status int, format string, args ...any) *refusal {
	code := strings.ToUpper(strings.ReplaceAll(http.StatusText(status), " ", "_"))
	return &refusal{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

const maxBody = 1 << 20

// serveAccess answers for JFrog Access.
func (s *Server) serveAccess(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status, body, err := s.answer(r)
	var refused *refusal
	if errors.As(err, &refused) {
		status, body = refused.status, refused.body()
	}
	if body == s.root {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, s.root)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body)
	}
}

func (s *Server) answer(r *http.Request) (status int, body any, err error) {
	path, isAPI := strings.CutPrefix(r.URL.Path, "/access/api/v1/")
	id, ofToken := strings.CutPrefix(path, "tokens/")
	as, err := s.authenticate(r, !ofToken || r.Method != http.MethodGet)
	if err != nil {
		return 0, nil, err
	}
	switch {
	case isAPI && path == "cert/root":
		return s.getRoot(r, as)
	case isAPI && path == "tokens" && r.Method == http.MethodPost:
		return s.create(r, as)
	case isAPI && path == "tokens" && r.Method == http.MethodGet:
		return s.list(r, as)
	case isAPI && ofToken && id != "" && !strings.Contains(id, "/") && r.Method == http.MethodGet:
		return s.get(as, id)
	case isAPI && ofToken && id != "" && !strings.Contains(id, "/") && r.Method == http.MethodDelete:
		return s.revoke(as, id)
	case isAPI && (path == "tokens" || ofToken):
		return 0, nil, refuse(http.StatusMethodNotAllowed, "HTTP 405 Method Not Allowed")
	}
	return 0, nil, refuse(http.StatusNotFound, "HTTP 404 Not Found")
}

// authenticate returns the token of a request.
func (s *Server) authenticate(r *http.Request, checkAudience bool) (*token, error) {
	secret, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	t := s.withSecret(secret)
	switch {
	case s.down || t == nil:
		return nil, refuse(http.StatusUnauthorized, "Invalid token")
	case s.expired(t):
		return nil, refuse(http.StatusUnauthorized, "Invalid token, expired")
	case checkAudience && !t.isFor("jfac"):
		return nil, refuse(http.StatusUnauthorized, "Invalid token, audience")
	}
	return t, nil
}

func (s *Server) getRoot(r *http.Request, as *token) (int, any, error) {
	switch {
	case r.Method != http.MethodGet:
		return 0, nil, refuse(http.StatusMethodNotAllowed, "HTTP 405 Method Not Allowed")
	case !slices.Contains(as.scopes(), scopeAdmin):
		return 0, nil, refuse(http.StatusForbidden, "Forbidden")
	}
	return http.StatusOK, s.root, nil
}

// newToken is the body of a request for a token.
type newToken struct {
	GrantType      string `json:"grant_type"`
	Username       string `json:"username"`
	ProjectKey     string `json:"project_key"`
	Scope          string `json:"scope"`
	ExpiresIn      *int64 `json:"expires_in"`
	Refreshable    bool   `json:"refreshable"`
	Description    string `json:"description"`
	Audience       string `json:"audience"`
	Reference      bool   `json:"include_reference_token"`
	ForceRevocable bool   `json:"force_revocable"`
}

var (
	validAudience = regexp.MustCompile(`^(jfrt|jfxr|jfpip|jfds|jfmc|jfac|jfevt|jfmd|jfcon|\*)@.+$`)
	validScope    = regexp.MustCompile(`^(applied-permissions/(user|admin|groups:[^,]+(,[^,]+)*|roles:[a-z][a-z0-9-]{1,31}:[^,:]+(,[^,:]+)*)|(artifact|system):.+:[rwdamxs,*]+)$`)
)

// check refuses what the reference does not allow.
func (n newToken) check() error {
	invalid := func(field, rule string) error {
		return refuse(http.StatusBadRequest, "Invalid %s: %s", field, rule)
	}
	for _, limit := range []struct {
		field, value string
		most         int
	}{{"username", n.Username, 255}, {"scope", n.Scope, 500}, {"description", n.Description, 1024}, {"audience", n.Audience, 255}} {
		if len(limit.value) > limit.most {
			return invalid(limit.field, fmt.Sprintf("length must be at most %d", limit.most))
		}
	}
	switch {
	case n.GrantType != "client_credentials":
		return invalid("grant_type", n.GrantType)
	case n.Refreshable || n.Reference:
		return invalid("request", "this server has neither refresh tokens nor reference tokens")
	case n.ExpiresIn != nil && *n.ExpiresIn < 0:
		return invalid("expires_in", "must not be negative")
	case slices.ContainsFunc(strings.Fields(n.Audience), func(id string) bool { return !validAudience.MatchString(id) }):
		return invalid("audience", n.Audience)
	case slices.ContainsFunc(strings.Fields(n.Scope), func(scope string) bool { return !validScope.MatchString(scope) }):
		return invalid("scope", n.Scope)
	}
	return nil
}

func (s *Server) create(r *http.Request, as *token) (int, any, error) {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); kind != "application/json" {
		return 0, nil, refuse(http.StatusUnsupportedMediaType, "HTTP 415 Unsupported Media Type")
	}
	wanted := newToken{GrantType: "client_credentials", Scope: scopeUser, Audience: everyService, Username: as.user}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&wanted); err != nil {
		return 0, nil, refuse(http.StatusBadRequest, "Invalid request body")
	}
	if err := wanted.check(); err != nil {
		return 0, nil, err
	}
	life := maxExpiry
	if wanted.ExpiresIn != nil {
		life = time.Duration(*wanted.ExpiresIn) * time.Second
	}
	project, err := s.checkRights(as, wanted, life)
	if err != nil {
		return 0, nil, err
	}
	t := s.addToken(&token{
		name: wanted.Description, user: strings.ToLower(wanted.Username), scope: wanted.Scope, audience: wanted.Audience,
		forced: wanted.ForceRevocable, project: project,
	}, life)
	answer := map[string]any{"token_id": t.id, "access_token": t.secret, "scope": t.scope, "token_type": "Bearer"}
	if life > 0 {
		answer["expires_in"] = int64(life / time.Second)
	}
	return http.StatusOK, answer, nil
}

// checkRights refuses a token that its creator may not create. It returns the project that
// a token of a project administrator is for.
func (s *Server) checkRights(as *token, wanted newToken, life time.Duration) (project string, err error) {
	forbidden := func(why string) (string, error) {
		return "", refuse(http.StatusForbidden, "The requested token details are forbidden: %s", why)
	}
	u := s.users[as.user]
	switch {
	case s.isAdmin(as):
		return "", nil
	case !s.mayCreate(as):
		return forbidden("not a user")
	case strings.ToLower(wanted.Username) != as.user:
		return forbidden("only an administrator can create tokens for others")
	case life == 0 || life > maxExpiry:
		return forbidden("expires_in is higher than the limit")
	}
	for _, scope := range strings.Fields(wanted.Scope) {
		of, isRole := strings.CutPrefix(scope, scopeRoles)
		key, _, _ := strings.Cut(of, ":")
		switch {
		case scope == scopeUser:
		case isRole && slices.Contains(u.manages, key):
			project = key
		default:
			return forbidden("no permissions on the scope " + scope)
		}
	}
	return project, nil
}

func (s *Server) list(r *http.Request, as *token) (int, any, error) {
	query := r.URL.Query()
	for field, values := range query {
		known := map[string][]string{
			"description": nil, "username": nil, "token_id": nil, "refreshable": {"true", "false"},
			"order_by": {"created", "token_id", "owner", "subject", "expiry"}, "descending_order": {"true", "false"},
		}
		allowed, isKnown := known[field]
		if isKnown && allowed != nil && !slices.Contains(allowed, values[0]) {
			return 0, nil, refuse(http.StatusBadRequest, "Invalid %s: %s", field, values[0])
		}
	}
	if !s.mayCreate(as) {
		return 0, nil, refuse(http.StatusForbidden, "Not a user, or not an admin token")
	}
	matches := func(t *token) bool {
		description, wild := strings.CutSuffix(query.Get("description"), "*")
		switch {
		case !s.isAdmin(as) && t.user != as.user:
			return false
		case query.Has("description") && wild && !strings.HasPrefix(t.name, description):
			return false
		case query.Has("description") && !wild && t.name != description:
			return false
		case query.Has("username") && t.user != query.Get("username"):
			return false
		case query.Has("token_id") && t.id != query.Get("token_id"):
			return false
		}
		return query.Get("refreshable") != "true"
	}
	all := []any{}
	for _, t := range s.listed() {
		if matches(t) {
			all = append(all, t.entity())
		}
	}
	return http.StatusOK, map[string]any{"tokens": all}, nil
}

// entity is what the API tells of a token.
func (t *token) entity() map[string]any {
	entity := map[string]any{
		"token_id": t.id, "subject": service + "/users/" + t.user, "issued_at": t.issued.Unix(),
		"issuer": service, "refreshable": false,
	}
	if t.name != "" {
		entity["description"] = t.name
	}
	if !t.expires.IsZero() {
		entity["expiry"] = t.expires.Unix()
	}
	if t.project != "" {
		entity["project"] = t.project
	}
	return entity
}

// named returns the stored token with an ID, or that of the request for "me"; nil if there
// is none.
func (s *Server) named(as *token, id string) *token {
	if id == "me" {
		id = as.id
	}
	if i := slices.IndexFunc(s.listed(), func(t *token) bool { return t.id == id }); i >= 0 {
		return s.listed()[i]
	}
	return nil
}

func (s *Server) get(as *token, id string) (int, any, error) {
	t := s.named(as, id)
	switch {
	case t == nil:
		return 0, nil, refuse(http.StatusNotFound, "Token not found")
	case t.user != as.user && !s.isAdmin(as):
		return 0, nil, refuse(http.StatusForbidden, "No permission to get the token")
	}
	return http.StatusOK, t.entity(), nil
}

func (s *Server) revoke(as *token, id string) (int, any, error) {
	t := s.named(as, id)
	switch {
	case t == nil:
		return http.StatusNoContent, nil, nil
	case t.user != as.user && !s.isAdmin(as):
		return 0, nil, refuse(http.StatusForbidden, "No permission to revoke the token")
	case t.life() > 0 && t.life() < RevocableThreshold && !t.forced:
		refused := refuse(http.StatusBadRequest, "Token not revocable")
		refused.bare = true
		refused.detail = fmt.Sprintf("Token not revocable. Token expirationTimeMillis: %d, issuedAtMillis: %d, revocableExpiryThresholdMillis: %d",
			t.expires.UnixMilli(), t.issued.UnixMilli(), RevocableThreshold.Milliseconds())
		return 0, nil, refused
	}
	delete(s.tokens, t.id)
	return http.StatusOK, nil, nil
}

// serveHealth answers for the router of the platform.
func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	status, state, message := http.StatusOK, "HEALTHY", "OK"
	if s.down {
		status, state, message = http.StatusServiceUnavailable, "UNHEALTHY", "connection refused"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"router": map[string]string{"node_id": "node-1", "state": "HEALTHY", "message": "OK"},
		"services": []any{
			map[string]string{"service_id": "jfrt@01hq5w6v8x9m3k", "node_id": "node-1", "state": "HEALTHY", "message": "OK"},
			map[string]string{"service_id": service, "node_id": "node-1", "state": state, "message": message},
		},
	})
}
