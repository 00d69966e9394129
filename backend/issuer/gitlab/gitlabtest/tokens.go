// SPDX-License-Identifier: MPL-2.0

package gitlabtest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	maxDays  = 365
	timeForm = "2006-01-02T15:04:05.000Z"
)

var (
	deployScopes = []string{
		"read_repository", "read_registry", "write_registry", "read_package_registry",
		"write_package_registry", "read_virtual_registry", "write_virtual_registry",
	}
	resourceScopes = []string{"api", "read_api", "read_repository", "write_repository", "read_registry", "write_registry", "self_rotate"}
	personalScopes = slices.Concat(resourceScopes, []string{"read_user", "sudo", "admin_mode"})
)

func (r *request) scopes() []string {
	var scopes []string
	list, _ := r.params["scopes"].([]any)
	for _, scope := range list {
		scopes = append(scopes, fmt.Sprint(scope))
	}
	return scopes
}

// text returns a string parameter.
func (r *request) text(name string) string {
	text, _ := r.params[name].(string)
	return text
}

// named checks the parameters that every new token has. known are the valid scopes.
func (r *request) named(known []string) error {
	var missing []string
	for _, name := range []string{"name", "scopes"} {
		if r.params[name] == nil {
			missing = append(missing, name+" is missing")
		}
	}
	if len(missing) > 0 {
		return invalid("%s", strings.Join(missing, ", "))
	}
	for _, scope := range r.scopes() {
		if !slices.Contains(known, scope) {
			return invalid("scopes does not have a valid value")
		}
	}
	return nil
}

// date checks the parameter expires_at of an access token. Without it, the token gets
// the longest life.
func (s *Server) date(r *request) (string, string, error) {
	today := s.now().UTC()
	latest := today.AddDate(0, 0, maxDays).Format(time.DateOnly)
	if r.text("expires_at") == "" {
		return latest, "", nil
	}
	date, err := time.Parse(time.DateOnly, r.text("expires_at"))
	if err != nil {
		return "", "", invalid("expires_at is invalid")
	}
	if text := date.Format(time.DateOnly); text <= latest {
		return text, "", nil
	}
	return "", "Expires at must be before " + latest, nil
}

// sorted returns the values of a map for which keep is true, in the order of their
// IDs.
func sorted[T any](all map[int64]T, keep func(T) bool) []T {
	var kept []T
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if keep(all[id]) {
			kept = append(kept, all[id])
		}
	}
	return kept
}

func (s *Server) deployTokens(r *request, owner *space) (int, any, error) {
	level, needed := s.level(r.token.user, owner), Maintainer
	if !owner.project && r.Method != http.MethodGet {
		needed = Owner
	}
	if level < needed {
		return 0, nil, errForbidden
	}
	switch {
	case r.is(http.MethodGet, "*", "*", "*"):
		list := []any{}
		for _, t := range paginate(r, sorted(s.deploys, func(t *deployToken) bool { return t.owner == owner })) {
			list = append(list, s.deployEntity(t))
		}
		return http.StatusOK, list, nil
	case r.is(http.MethodPost, "*", "*", "*"):
		return s.createDeployToken(r, owner)
	case !r.is(http.MethodGet, "*", "*", "*", "*") && !r.is(http.MethodDelete, "*", "*", "*", "*"):
		return 0, nil, errNoRoute
	}
	t := s.deploys[r.id(3)]
	switch {
	case t == nil || t.owner != owner:
		return 0, nil, errNotFound
	case r.Method == http.MethodGet:
		return http.StatusOK, s.deployEntity(t), nil
	}
	delete(s.deploys, r.id(3))
	return http.StatusNoContent, nil, nil
}

// allDeployTokens lists the deploy tokens of all projects and groups, for administrators.
func (s *Server) allDeployTokens(r *request) (int, any, error) {
	if !r.token.user.admin {
		return 0, nil, errForbidden
	}
	list := []any{}
	for _, t := range paginate(r, sorted(s.deploys, func(t *deployToken) bool { return r.text("active") != "true" || s.deployActive(t) })) {
		list = append(list, s.deployEntity(t))
	}
	return http.StatusOK, list, nil
}

func (s *Server) createDeployToken(r *request, owner *space) (int, any, error) {
	if err := r.named(deployScopes); err != nil {
		return 0, nil, err
	}
	if len(r.text("name")) > 255 {
		return 0, nil, refuse(http.StatusBadRequest, "Name is too long (maximum is 255 characters)")
	}
	if len(r.scopes()) == 0 {
		return 0, nil, refuse(http.StatusBadRequest, "Scopes can't be blank")
	}
	var expires time.Time
	if text := r.text("expires_at"); text != "" {
		var err error
		if expires, err = time.Parse(time.RFC3339, text); err != nil {
			return 0, nil, invalid("expires_at is invalid")
		}
	}
	t := s.addDeployToken(owner, r.text("name"), r.scopes(), expires)
	entity := s.deployEntity(t)
	entity["token"] = t.secret
	return http.StatusCreated, entity, nil
}

func (s *Server) deployEntity(t *deployToken) map[string]any {
	entity := map[string]any{
		"id": t.id, "name": t.name, "username": t.username(), "expires_at": nil,
		"revoked": false, "expired": !s.deployActive(t), "scopes": t.scopes,
	}
	if !t.expires.IsZero() {
		entity["expires_at"] = t.expires.UTC().Format(timeForm)
	}
	return entity
}

func (s *Server) resourceTokens(r *request, owner *space) (int, any, error) {
	needed := Maintainer
	if !owner.project {
		needed = Owner
	}
	may := s.level(r.token.user, owner) >= needed
	switch {
	case r.is(http.MethodGet, "*", "*", "*"):
		if !may {
			return 0, nil, errUnauthorized
		}
		return s.listTokens(r, func(t *personalToken) bool { return t.owner == owner })
	case r.is(http.MethodGet, "*", "*", "*", "*"):
		t := s.tokens[r.id(3)]
		switch {
		case !may:
			return 0, nil, errUnauthorized
		case t == nil || t.owner != owner:
			return 0, nil, refuse(http.StatusNotFound, "404 %s Access Token Not Found", owner.kind())
		}
		return http.StatusOK, s.entity(t, false), nil
	case r.is(http.MethodPost, "*", "*", "*"):
		return s.createResourceToken(r, owner, may)
	case r.is(http.MethodDelete, "*", "*", "*", "*"):
		t := s.tokens[r.id(3)]
		if t == nil || t.owner != owner {
			return 0, nil, refuse(http.StatusNotFound, "404 %s Access Token Not Found", owner.kind())
		}
		if !may || r.token.user.bot {
			return 0, nil, refuse(http.StatusBadRequest, "400 Bad request - %s cannot delete %s", r.token.user.name, t.user.name)
		}
		// The bot user and its token stay, since GitLab 17.9, for 30 days.
		t.revoked = true
		return http.StatusNoContent, nil, nil
	}
	return 0, nil, errNoRoute
}

func (s *Server) createResourceToken(r *request, owner *space, may bool) (int, any, error) {
	if err := r.named(resourceScopes); err != nil {
		return 0, nil, err
	}
	level := Maintainer
	if given, ok := r.params["access_level"].(float64); ok {
		level = int(given)
	}
	if !slices.Contains([]int{Guest, 15, Reporter, Developer, Maintainer, Owner}, level) {
		return 0, nil, invalid("access_level does not have a valid value")
	}
	expires, problem, err := s.date(r)
	switch {
	case err != nil:
		return 0, nil, err
	case !may || r.token.user.bot:
		problem = fmt.Sprintf("User does not have permission to create %s access token", owner.kind())
	case level > s.level(r.token.user, owner):
		problem = "Access level of the token contains permissions not held by the creating user"
	}
	if problem != "" {
		return 0, nil, refuse(http.StatusBadRequest, "400 Bad request - %s", problem)
	}
	t := s.addResourceToken(owner, r.text("name"), r.scopes(), level, expires)
	return http.StatusCreated, s.entity(t, true), nil
}

// listTokens answers with the tokens for which keep is true, filtered by the request.
func (s *Server) listTokens(r *request, keep func(*personalToken) bool) (int, any, error) {
	all := sorted(s.tokens, func(t *personalToken) bool {
		state := r.text("state")
		return keep(t) && strings.Contains(strings.ToLower(t.name), strings.ToLower(r.text("search"))) &&
			(state == "" || s.active(t) == (state == "active"))
	})
	list := []any{}
	for _, t := range paginate(r, all) {
		list = append(list, s.entity(t, false))
	}
	return http.StatusOK, list, nil
}

func (s *Server) entity(t *personalToken, secret bool) map[string]any {
	entity := map[string]any{
		"id": t.id, "name": t.name, "revoked": t.revoked, "created_at": t.created.UTC().Format(timeForm),
		"description": nil, "scopes": t.scopes, "user_id": t.user.id, "last_used_at": nil,
		"active": s.active(t), "expires_at": nil,
	}
	if t.expires != "" {
		entity["expires_at"] = t.expires
	}
	if t.owner != nil {
		entity["access_level"] = t.accessLevel
	}
	if secret {
		entity["token"] = t.secret
	}
	return entity
}

func (s *Server) personalTokens(r *request) (int, any, error) {
	me := r.token.user
	switch {
	case r.is(http.MethodGet, "personal_access_tokens"):
		of := r.text("user_id")
		if of != "" && of != fmt.Sprint(me.id) && !me.admin {
			return 0, nil, errUnauthorized
		}
		return s.listTokens(r, func(t *personalToken) bool {
			if of == "" && me.admin {
				return true
			}
			return t.user == me && of == "" || fmt.Sprint(t.user.id) == of
		})
	case r.is(http.MethodGet, "personal_access_tokens", "self"):
		return http.StatusOK, s.entity(r.token, false), nil
	case r.is(http.MethodDelete, "personal_access_tokens", "self"):
		r.token.revoked = true
		return http.StatusNoContent, nil, nil
	case r.is(http.MethodDelete, "personal_access_tokens", "*"):
		t := s.tokens[r.id(1)]
		switch {
		case t == nil:
			return 0, nil, errNotFound
		case t.user != me && !me.admin:
			return 0, nil, refuse(http.StatusBadRequest, "400 Bad request")
		}
		t.revoked = true
		return http.StatusNoContent, nil, nil
	}
	return 0, nil, errNoRoute
}

func (s *Server) createForUser(r *request) (int, any, error) {
	if !r.token.user.admin {
		return 0, nil, errForbidden
	}
	return s.createPersonalToken(r, s.users[r.id(1)])
}

// createForServiceAccount creates a token of a service account of a group, or since
// GitLab 18.11 of a project.
func (s *Server) createForServiceAccount(r *request) (int, any, error) {
	owner, err := s.space(r)
	if err != nil {
		return 0, nil, err
	}
	needed := Owner
	if owner.project {
		needed = Maintainer
	}
	if s.level(r.token.user, owner) < needed {
		return 0, nil, errForbidden
	}
	account := s.users[r.id(3)]
	if account != nil && !strings.EqualFold(account.provider, owner.path) {
		account = nil
	}
	return s.createPersonalToken(r, account)
}

func (s *Server) createPersonalToken(r *request, of *user) (int, any, error) {
	if err := r.named(personalScopes); err != nil {
		return 0, nil, err
	}
	if of == nil {
		return 0, nil, refuse(http.StatusNotFound, "404 User Not Found")
	}
	expires, problem, err := s.date(r)
	if err != nil {
		return 0, nil, err
	}
	if problem != "" {
		return 0, nil, refuse(http.StatusUnprocessableEntity, "%s", problem)
	}
	t := &personalToken{name: r.text("name"), user: of, scopes: r.scopes(), expires: expires}
	s.addToken(t)
	return http.StatusCreated, s.entity(t, true), nil
}
