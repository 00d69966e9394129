// SPDX-License-Identifier: MPL-2.0

package harbortest

import (
	"net/http"
	"slices"
	"strings"
)

const (
	levelProject = "project"
	levelSystem  = "system"
)

// assignable are permissions that robot accounts can have in Harbor: only those that
// matter here. There is no robot: update.
var assignable = map[string]map[string][]string{
	levelProject: {
		"project":    {"read", "update", "delete"},
		"repository": {"read", "update", "delete", "list", "pull", "push"},
		"artifact":   {"read", "create", "list", "delete"},
		"robot":      {"create", "read", "list", "delete"},
		"member":     {"create", "read", "update", "list", "delete"},
	},
	levelSystem: {
		"project": {"list", "create"},
		"robot":   {"create", "read", "list", "delete"},
		"user":    {"create", "read", "update", "list", "delete"},
	},
}

// principal is the sender of a request; nobody if both are nil.
type principal struct {
	user  *user
	robot *robot
}

func (p principal) nobody() bool { return p.user == nil && p.robot == nil }

func (s *Server) authenticate(r *http.Request) principal {
	name, password, _ := r.BasicAuth()
	if s.databaseDown || s.locked[name] {
		return principal{}
	}
	if u := s.users[name]; u != nil && u.password == password {
		return principal{user: u}
	}
	return principal{robot: s.robotOf(name, password)}
}

// robotOf returns the working robot account of a credential, nil if there is none.
func (s *Server) robotOf(username, secret string) *robot {
	name, ok := strings.CutPrefix(username, s.prefix)
	for _, r := range s.robots {
		if ok && r.name == name && r.secret == secret && s.works(r) {
			return r
		}
	}
	return nil
}

func (s *Server) works(r *robot) bool {
	return !r.disabled && (r.expiresAt == -1 || s.now().Unix() < r.expiresAt)
}

func (r *robot) manages() bool {
	return slices.ContainsFunc(r.permissions, func(p Permission) bool {
		return slices.ContainsFunc(p.Access, func(a Access) bool { return a.Resource == "robot" })
	})
}

// may reports whether a principal may do an action in a project, or at system level
// if it is nil.
func (s *Server) may(p principal, in *project, resource, action string) bool {
	switch {
	case p.robot != nil:
		return s.robotMay(p.robot, in, resource, action)
	case p.user == nil:
		return false
	}
	return p.user.sysadmin || (in != nil && slices.Contains(in.admins, p.user.name))
}

func (s *Server) robotMay(r *robot, in *project, resource, action string) bool {
	if r.project != nil && r.project != in {
		return false
	}
	return slices.ContainsFunc(r.permissions, func(p Permission) bool {
		covers := p.Kind == levelSystem && in == nil
		if in != nil {
			covers = p.Kind == levelProject && (p.Namespace == in.name || p.Namespace == "*")
		}
		return covers && slices.ContainsFunc(p.Access, func(a Access) bool { return a.Resource == resource && a.Action == action })
	})
}

// within reports whether some is a subset of all. As in Harbor, no effect differs from
// the effect "allow".
func within(some, all []Permission) bool {
	for _, p := range some {
		i := slices.IndexFunc(all, func(q Permission) bool { return q.Kind == p.Kind && q.Namespace == p.Namespace })
		if i < 0 {
			i = slices.IndexFunc(all, func(q Permission) bool { return q.Kind == p.Kind && q.Namespace == "*" })
		}
		if i < 0 {
			return false
		}
		for _, a := range p.Access {
			if !slices.Contains(all[i].Access, a) {
				return false
			}
		}
	}
	return true
}
