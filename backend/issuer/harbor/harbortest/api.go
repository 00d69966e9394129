// SPDX-License-Identifier: MPL-2.0

package harbortest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const base = "/api/v2.0"

// failure is an answer whose status is not success.
type failure struct {
	status  int
	code    string
	message string
}

var (
	errUnauthorized = &failure{http.StatusUnauthorized, "UNAUTHORIZED", "unauthorized"}
	errForbidden    = &failure{http.StatusForbidden, "FORBIDDEN", "forbidden"}
	errInternal     = &failure{http.StatusInternalServerError, "UNKNOWN", "internal server error"}
	errReadOnly     = &failure{http.StatusForbidden, "DENIED", "The system is in read only mode. Any modification is prohibited."}
)

// invalid is the refusal of a parameter by the code that Harbor has generated from its
// reference.
func invalid(format string, args ...any) *failure {
	return &failure{http.StatusUnprocessableEntity, "UNPROCESSABLE_ENTITY", "validation failure list:\n" + fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) *failure {
	return &failure{http.StatusBadRequest, "BAD_REQUEST", fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *failure {
	return &failure{http.StatusNotFound, "NOT_FOUND", fmt.Sprintf(format, args...)}
}

// operation returns a status and a body, or a failure. The caller holds the lock.
type operation func(w http.ResponseWriter, r *http.Request, who principal) (int, any, *failure)

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, op := range map[string]operation{
		"GET " + base + "/users/current":       s.currentUser,
		"PUT " + base + "/users/{id}/password": s.changePassword,
		"GET " + base + "/systeminfo":          s.systemInfo,
		"GET " + base + "/health":              s.getHealth,
		"GET " + base + "/projects":            s.listProjects,
		"GET " + base + "/projects/{name}":     s.getProject,
		"GET " + base + "/robots":              s.listRobots,
		"GET " + base + "/robots/{id}":         s.getRobot,
		"POST " + base + "/robots":             s.createRobot,
		"DELETE " + base + "/robots/{id}":      s.deleteRobot,
		base + "/":                             noRoute,
	} {
		mux.Handle(pattern, s.serve(op))
	}
	mux.Handle("/v2/", issuertest.Registry(func(username, password, repository string) bool {
		return s.Accepts(username, password, repository, "pull")
	}))
	return mux
}

func (s *Server) serve(op operation) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		status, body, failed := 0, any(nil), errReadOnly
		if !s.readOnly || r.Method == http.MethodGet {
			status, body, failed = op(w, r, s.authenticate(r))
		}
		if failed != nil {
			status = failed.status
			body = map[string]any{"errors": []map[string]string{{"code": failed.code, "message": failed.message}}}
		}
		w.WriteHeader(status)
		if body != nil {
			_ = json.NewEncoder(w).Encode(body)
		}
	})
}

func noRoute(_ http.ResponseWriter, r *http.Request, _ principal) (int, any, *failure) {
	return 0, nil, notFound("path %s was not found", r.URL.Path)
}

// getHealth needs no authentication, and answers 200 also if a component is unhealthy.
func (s *Server) getHealth(http.ResponseWriter, *http.Request, principal) (int, any, *failure) {
	overall, database := "healthy", map[string]any{"name": "database", "status": "healthy"}
	if s.databaseDown && !s.healthIsOld {
		overall = "unhealthy"
		database = map[string]any{"name": "database", "status": "unhealthy", "error": `failed to run SQL "SELECT 1"`}
	}
	return http.StatusOK, map[string]any{"status": overall, "components": []any{
		map[string]any{"name": "core", "status": "healthy"}, database, map[string]any{"name": "redis", "status": "healthy"},
	}}, nil
}

// listProjects answers only to the unauthenticated, with the public projects. There are
// none.
func (s *Server) listProjects(w http.ResponseWriter, _ *http.Request, _ principal) (int, any, *failure) {
	if s.databaseDown {
		return 0, nil, errInternal
	}
	w.Header().Set("X-Total-Count", "0")
	return http.StatusOK, []any{}, nil
}

func (s *Server) systemInfo(http.ResponseWriter, *http.Request, principal) (int, any, *failure) {
	return http.StatusOK, map[string]any{"auth_mode": s.authMode, "primary_auth_mode": false}, nil
}

func (s *Server) currentUser(_ http.ResponseWriter, _ *http.Request, who principal) (int, any, *failure) {
	switch {
	case who.nobody():
		return 0, nil, errUnauthorized
	case who.robot != nil:
		return 0, nil, &failure{http.StatusPreconditionFailed, "PRECONDITION", "get current user not available for security context: robot"}
	}
	return http.StatusOK, map[string]any{
		"user_id": who.user.id, "username": who.user.name, "sysadmin_flag": who.user.sysadmin, "admin_role_in_auth": false,
	}, nil
}

func (s *Server) changePassword(_ http.ResponseWriter, r *http.Request, who principal) (int, any, *failure) {
	var body struct {
		Old string `json:"old_password"`
		New string `json:"new_password"`
	}
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || json.NewDecoder(r.Body).Decode(&body) != nil {
		return 0, nil, badRequest("the request cannot be parsed")
	}
	self := who.user != nil && who.user.id == id
	switch {
	case who.nobody():
		return 0, nil, errInternal
	case s.authMode != "db_auth" && id != 1:
		return 0, nil, &failure{http.StatusForbidden, "FORBIDDEN", fmt.Sprintf("User with ID %d can't be updated", id)}
	case !self && (who.user == nil || !who.user.sysadmin):
		return 0, nil, errForbidden
	case self && body.Old != who.user.password:
		return 0, nil, &failure{http.StatusForbidden, "FORBIDDEN", "Current password is incorrect"}
	case !validSecret(body.New):
		return 0, nil, badRequest("the password or secret must be 8-128, inclusively, characters long with at least 1 uppercase letter, 1 lowercase letter and 1 number")
	}
	for _, u := range s.users {
		if u.id != id {
			continue
		}
		if u.password == body.New {
			return 0, nil, badRequest("New password is identical to old password")
		}
		u.password = body.New
		return http.StatusOK, nil, nil
	}
	return 0, nil, notFound("user %d not found", id)
}

func validSecret(text string) bool {
	return len(text) >= 8 && len(text) <= 128 &&
		strings.ContainsAny(text, "abcdefghijklmnopqrstuvwxyz") &&
		strings.ContainsAny(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") &&
		strings.ContainsAny(text, "0123456789")
}

func (s *Server) getProject(_ http.ResponseWriter, r *http.Request, who principal) (int, any, *failure) {
	name := r.PathValue("name")
	found := s.projects[name]
	if id, err := strconv.ParseInt(name, 10, 64); err == nil && r.Header.Get("X-Is-Resource-Name") != "true" {
		found = s.projectByID(id)
	}
	if failed := s.mayInProject(who, found, name, "project", "read"); failed != nil {
		return 0, nil, failed
	}
	return http.StatusOK, map[string]any{"project_id": found.id, "name": found.name}, nil
}

func (s *Server) projectByID(id int64) *project {
	for _, p := range s.projects {
		if p.id == id {
			return p
		}
	}
	return nil
}

// mayInProject returns Harbor's refusal of an action in a project, nil if it is
// allowed. Only a system administrator learns that a project does not exist.
func (s *Server) mayInProject(who principal, in *project, name, resource, action string) *failure {
	switch {
	case who.nobody():
		return errUnauthorized
	case in == nil && who.user != nil && who.user.sysadmin:
		return notFound("project %s not found", name)
	case in == nil || !s.may(who, in, resource, action):
		return errForbidden
	}
	return nil
}

// mayInSystem is mayInProject for the system level.
func (s *Server) mayInSystem(who principal, action string) *failure {
	switch {
	case who.nobody():
		return errUnauthorized
	case !s.may(who, nil, "robot", action):
		return &failure{http.StatusForbidden, "FORBIDDEN", s.loginOf(who)}
	}
	return nil
}

// loginOf returns the login of a principal, which is the message of a refusal at system
// level.
func (s *Server) loginOf(who principal) string {
	if who.robot != nil {
		return s.prefix + who.robot.name
	}
	return who.user.name
}
