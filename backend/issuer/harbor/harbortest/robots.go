// SPDX-License-Identifier: MPL-2.0

package harbortest

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var shortName = regexp.MustCompile(`^[a-z0-9]+(?:[._-][a-z0-9]+)*$`)

// robotBody is a robot account in a request.
type robotBody struct {
	Name        string       `json:"name"`
	Description string       `json:"description"`
	Level       string       `json:"level"`
	Duration    int64        `json:"duration"`
	Permissions []Permission `json:"permissions"`
}

// createRobot validates before it authenticates, as Harbor does.
func (s *Server) createRobot(w http.ResponseWriter, r *http.Request, who principal) (int, any, *failure) {
	var body robotBody
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		return 0, nil, badRequest("the request cannot be parsed")
	}
	if failed := body.validate(); failed != nil {
		return 0, nil, failed
	}
	var in *project
	failed := s.mayInSystem(who, "create")
	if body.Level == levelProject {
		in = s.projects[body.Permissions[0].Namespace]
		failed = s.mayInProject(who, in, body.Permissions[0].Namespace, "robot", "create")
	}
	if failed == nil {
		failed = s.scope(who, in, body)
	}
	if failed != nil {
		return 0, nil, failed
	}
	if len(storedName(in, body.Name)) > maxStoredName {
		return 0, nil, errInternal
	}
	made := s.addRobot(in, body.Name, body.Duration, body.Permissions)
	made.description = body.Description
	w.Header().Set("Location", fmt.Sprintf("%s/robots/%d", base, made.id))
	return http.StatusCreated, map[string]any{
		"id": made.id, "name": s.prefix + made.name, "secret": made.secret,
		"creation_time": s.now().UTC().Format(time.RFC3339), "expires_at": made.expiresAt,
	}, nil
}

func (b robotBody) validate() *failure {
	switch {
	case !shortName.MatchString(b.Name):
		return badRequest("robot name is not in lower case or contains illegal characters")
	case b.Duration != -1 && (b.Duration <= 0 || b.Duration >= math.MaxInt32):
		return badRequest("bad request error duration input: %d, duration must be either -1(Never) or a positive integer", b.Duration)
	case b.Level != levelProject && b.Level != levelSystem:
		return badRequest("bad request error level input: %s", b.Level)
	case len(b.Permissions) == 0:
		return badRequest("bad request empty permission")
	case slices.ContainsFunc(b.Permissions, func(p Permission) bool { return len(p.Access) == 0 }):
		return badRequest("bad request empty access")
	case b.Level == levelProject && len(b.Permissions) > 1:
		return badRequest("bad request permission")
	}
	for _, p := range b.Permissions {
		resources, ok := assignable[p.Kind]
		if !ok {
			return badRequest("bad request permission level: %s", p.Kind)
		}
		for _, a := range p.Access {
			if !slices.Contains(resources[a.Resource], a.Action) {
				return badRequest("bad request permission: %s:%s", a.Resource, a.Action)
			}
		}
	}
	return nil
}

// scope checks that a robot account grants only what it has, that all projects exist,
// and that the name is new.
func (s *Server) scope(who principal, in *project, b robotBody) *failure {
	if who.robot != nil {
		if s.strict && who.robot.project != in {
			return &failure{http.StatusForbidden, "DENIED", "denied"}
		}
		if !within(b.Permissions, who.robot.permissions) {
			return &failure{http.StatusForbidden, "DENIED", "permission scope is invalid. It must be equal to or more restrictive than the creator robot's permissions: " + s.prefix + who.robot.name}
		}
	}
	for _, p := range b.Permissions {
		switch {
		case p.Kind == levelSystem && p.Namespace != "/":
			return badRequest("unknown namespace")
		case p.Kind == levelProject && p.Namespace != "*" && s.projects[p.Namespace] == nil:
			return notFound("project %s not found", p.Namespace)
		}
	}
	for _, r := range s.robots {
		if r.project == in && r.short == b.Name {
			id := int64(0)
			if in != nil {
				id = in.id
			}
			return &failure{http.StatusConflict, "CONFLICT", fmt.Sprintf("robot account %d:%s already exists", id, r.name)}
		}
	}
	return nil
}

// robotFor returns the robot account of a request. That there is none is told to every
// account, before its permissions are looked at.
func (s *Server) robotFor(r *http.Request, who principal, action string) (*robot, *failure) {
	if who.nobody() {
		return nil, errUnauthorized
	}
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return nil, invalid("robot_id in path must be of type int64: %q", r.PathValue("id"))
	}
	found := s.robots[id]
	switch {
	case found == nil:
		return nil, notFound("robot %d not found", id)
	case found.project != nil:
		return found, s.mayInProject(who, found.project, found.project.name, "robot", action)
	}
	return found, s.mayInSystem(who, action)
}

func (s *Server) getRobot(_ http.ResponseWriter, r *http.Request, who principal) (int, any, *failure) {
	found, failed := s.robotFor(r, who, "read")
	if failed != nil {
		return 0, nil, failed
	}
	return http.StatusOK, s.listing(found), nil
}

func (s *Server) deleteRobot(_ http.ResponseWriter, r *http.Request, who principal) (int, any, *failure) {
	gone, failed := s.robotFor(r, who, "delete")
	if failed != nil {
		return 0, nil, failed
	}
	if gone.bare {
		// Harbor rolls back the whole deletion.
		return 0, nil, notFound("role permission robotaccount:%d not found", gone.id)
	}
	delete(s.robots, gone.id)
	return http.StatusOK, nil, nil
}

func (s *Server) listRobots(w http.ResponseWriter, r *http.Request, who principal) (int, any, *failure) {
	if who.nobody() {
		return 0, nil, errUnauthorized
	}
	page, size, failed := pageOf(r.URL.Query())
	if failed != nil {
		return 0, nil, failed
	}
	wanted, failed := parseQ(r.URL.Query().Get("q"))
	if failed != nil {
		return 0, nil, failed
	}
	inProject := wanted["level"] == levelProject
	in, failed := s.listScope(who, wanted)
	if failed != nil {
		return 0, nil, failed
	}
	var found []*robot
	for _, one := range s.robots {
		if one.project == in && (in != nil) == inProject && wanted.name(one.name) {
			found = append(found, one)
		}
	}
	slices.SortFunc(found, func(a, b *robot) int { return strings.Compare(a.name, b.name) })
	w.Header().Set("X-Total-Count", strconv.Itoa(len(found)))
	listed := []map[string]any{}
	for _, one := range found[min(len(found), (page-1)*size):min(len(found), page*size)] {
		listed = append(listed, s.listing(one))
	}
	return http.StatusOK, listed, nil
}

func (s *Server) listing(r *robot) map[string]any {
	level := levelSystem
	if r.project != nil {
		level = levelProject
	}
	return map[string]any{
		"id": r.id, "name": s.prefix + r.name, "description": r.description, "level": level, "duration": r.duration,
		"expires_at": r.expiresAt, "disable": r.disabled, "editable": true, "permissions": r.permissions,
	}
}

// listScope returns the project whose robot accounts are requested, nil for the system
// level.
func (s *Server) listScope(who principal, wanted query) (*project, *failure) {
	switch level, given := wanted["level"]; {
	case !given || level == levelSystem:
		return nil, s.mayInSystem(who, "list")
	case level != levelProject:
		return nil, badRequest("bad request error level input")
	case wanted["projectid"] == "":
		return nil, badRequest("must with project ID when to query project robots")
	}
	id, err := strconv.ParseInt(wanted["projectid"], 10, 64)
	if err != nil || id <= 0 {
		return nil, badRequest("ProjectID must be a positive integer")
	}
	in := s.projectByID(id)
	if in == nil && who.user != nil && who.user.sysadmin {
		return nil, nil // Harbor lists none
	}
	return in, s.mayInProject(who, in, wanted["projectid"], "robot", "list")
}

func pageOf(values url.Values) (page, size int, failed *failure) {
	page, size = 1, 10
	for name, number := range map[string]*int{"page": &page, "page_size": &size} {
		if text := values.Get(name); text != "" {
			var err error
			if *number, err = strconv.Atoi(text); err != nil {
				return 0, 0, invalid("%s in query must be of type int64: %q", name, text)
			}
		}
	}
	if size > 100 {
		return 0, 0, invalid("page_size in query should be less than or equal to 100")
	}
	return max(page, 1), max(size, 1), nil
}

// query holds the conditions of q by key, in lower case and without underscores.
type query map[string]string

// parseQ reads k=v,k=~v. Like Harbor, it unescapes q a second time.
func parseQ(q string) (query, *failure) {
	wanted := query{}
	if q == "" {
		return wanted, nil
	}
	if again, err := url.QueryUnescape(q); err == nil {
		q = again
	}
	for condition := range strings.SplitSeq(q, ",") {
		key, value, _ := strings.Cut(condition, "=")
		if key == "" || value == "" {
			return nil, badRequest(`the query string must contain "=" and the key/value cannot be empty`)
		}
		wanted[strings.ToLower(strings.ReplaceAll(key, "_", ""))] = value
	}
	return wanted, nil
}

// name reports whether a name, without the prefix, matches the query.
func (q query) name(name string) bool {
	value, given := q["name"]
	part, fuzzy := strings.CutPrefix(value, "~")
	switch {
	case !given:
		return true
	case fuzzy:
		return strings.Contains(strings.ToLower(name), strings.ToLower(part))
	}
	return name == value
}
