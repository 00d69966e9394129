// SPDX-License-Identifier: MPL-2.0

// Package harbortest is a Harbor in memory: users, projects, robot accounts of
// both levels, and a registry that accepts the robot accounts.
//
// It follows api/v2.0/swagger.yaml and the handlers of Harbor 2.14 (robot.go,
// user.go and project.go in src/server/v2.0/handler, src/controller/robot,
// src/common/rbac/const.go): status codes, field names, error bodies, the order
// in which a request is validated, authenticated and authorised, the q filters,
// pages of at most 100, the prefix of names, days counted from the making, and
// that a robot account gives away only what it has. Where versions differ, see
// [Server.RefuseAcrossLevels].
//
// It leaves out: the second and a half for which Harbor locks a user after a
// wrong password, and the token service in front of the registry.
package harbortest

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// What a new [Server] has.
const (
	Project      = "apps"        // with Admin for its project administrator
	OtherProject = "tools"       // which Admin may not even read
	Admin        = "vault"       // a user
	Password     = "Vault-Pass1" // of Admin
)

// Server is a Harbor. It is safe for concurrent use.
type Server struct {
	*issuertest.Server

	mu       sync.Mutex
	now      func() time.Time
	prefix   string
	authMode string
	strict   bool
	lastID   int64
	users    map[string]*user
	projects map[string]*project
	robots   map[int64]*robot
}

type user struct {
	id       int64
	name     string
	password string
	sysadmin bool
}

type project struct {
	id     int64
	name   string
	admins []string
}

type robot struct {
	id          int64
	project     *project // nil for those of the system
	name        string   // as Harbor keeps it: without the prefix, with the project
	short       string
	description string
	secret      string
	duration    int64
	expiresAt   int64
	permissions []Permission
}

// Permission is what a robot account may do: on the system (kind system,
// namespace /), or in a project (kind project, and its name, or * for all).
type Permission struct {
	Kind      string   `json:"kind"`
	Namespace string   `json:"namespace"`
	Access    []Access `json:"access"`
}

// Access is an action on a kind of resource.
type Access struct {
	Resource string `json:"resource"`
	Action   string `json:"action"`
	Effect   string `json:"effect,omitempty"`
}

// New starts a Harbor, until the test ends.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{
		now: time.Now, prefix: "robot$", authMode: "db_auth", lastID: 1, // the user admin is number 1
		users: map[string]*user{}, projects: map[string]*project{}, robots: map[int64]*robot{},
	}
	s.AddProject(Project, Admin)
	s.AddProject(OtherProject)
	s.AddUser(Admin, Password, false)
	s.Server = issuertest.NewServer(t, s.handler())
	return s
}

func (s *Server) nextID() int64 {
	s.lastID++
	return s.lastID
}

// SetNow sets the clock.
func (s *Server) SetNow(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

// SetPrefix sets that of the names of robot accounts, at first robot$.
func (s *Server) SetPrefix(prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prefix = prefix
}

// SetAuthMode sets where users come from, at first db_auth.
func (s *Server) SetAuthMode(mode string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authMode = mode
}

// RefuseAcrossLevels makes the server one of 2.12.1 to 2.14.0, which let no
// robot account of the system make one of a project.
func (s *Server) RefuseAcrossLevels() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strict = true
}

// AddProject adds a project and returns its number.
func (s *Server) AddProject(name string, admins ...string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.nextID()
	s.projects[name] = &project{id: id, name: name, admins: admins}
	return id
}

// DeleteProject deletes a project with its robot accounts, and takes it out of
// the permissions of all others.
func (s *Server) DeleteProject(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := s.projects[name]
	delete(s.projects, name)
	for id, r := range s.robots {
		if r.project == gone {
			delete(s.robots, id)
		}
		r.permissions = slices.DeleteFunc(r.permissions, func(p Permission) bool { return p.Kind == levelProject && p.Namespace == name })
	}
}

// AddUser adds a user, or changes the password of the one with that name.
func (s *Server) AddUser(name, password string, sysadmin bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[name]; u != nil {
		u.password, u.sysadmin = password, sysadmin
		return
	}
	id := int64(1)
	if name != "admin" {
		id = s.nextID()
	}
	s.users[name] = &user{id: id, name: name, password: password, sysadmin: sysadmin}
}

// AddRobot adds a robot account to a project, or with "" to the system, and
// returns its full name and its secret.
func (s *Server) AddRobot(inProject, short string, days int64, permissions ...Permission) (name, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.addRobot(s.projects[inProject], short, days, permissions)
	return s.prefix + r.name, r.secret
}

// AddMinted adds a robot account to a project as a mint makes one, and returns its
// ID.
func (s *Server) AddMinted(inProject, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	pulls := []Permission{{Kind: levelProject, Namespace: inProject, Access: []Access{{Resource: "repository", Action: "pull"}}}}
	return strconv.FormatInt(s.addRobot(s.projects[inProject], name, -1, pulls).id, 10)
}

func (s *Server) addRobot(in *project, short string, days int64, permissions []Permission) *robot {
	r := &robot{
		id: s.nextID(), project: in, name: short, short: short,
		secret: rand.Text() + "aA1", duration: days, expiresAt: -1, permissions: permissions,
	}
	if in != nil {
		r.name = in.name + "+" + short
	}
	if days != -1 {
		r.expiresAt = s.now().UTC().AddDate(0, 0, int(days)).Unix()
	}
	s.robots[r.id] = r
	return r
}

// Manages is what a robot account needs, to be the administrator for projects;
// where it is one of the system, [ManagesSystem] beside it.
func Manages(projects ...string) []Permission {
	var permissions []Permission
	for _, name := range projects {
		permissions = append(permissions, Permission{Kind: levelProject, Namespace: name, Access: []Access{
			{Resource: "project", Action: "read"},
			{Resource: "robot", Action: "create"},
			{Resource: "robot", Action: "list"},
			{Resource: "robot", Action: "delete"},
			{Resource: "repository", Action: "pull"},
			{Resource: "repository", Action: "push"},
		}})
	}
	return permissions
}

// ManagesSystem is what a robot account needs, to be the administrator for
// roles of several projects, beside [Manages].
func ManagesSystem() Permission {
	return Permission{Kind: levelSystem, Namespace: "/", Access: []Access{
		{Resource: "robot", Action: "create"},
		{Resource: "robot", Action: "list"},
		{Resource: "robot", Action: "delete"},
	}}
}

// Connection is one whose administrator is Admin.
func (s *Server) Connection() issuer.Connection { return s.ConnectionAs(Admin, Password) }

// ConnectionAs is one with another administrator.
func (s *Server) ConnectionAs(username, password string) issuer.Connection {
	return issuer.Connection{
		URL:        s.URL,
		Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())},
		Settings:   issuer.Settings{"username": username},
		Secrets:    issuer.Secrets{"password": dockerconfig.NewSecret(password)},
	}
}

// Role is one of Project.
func (*Server) Role() issuer.Settings { return issuer.Settings{"projects": Project} }

// MintMatch matches requests that make robot accounts.
func (*Server) MintMatch(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Path == base+"/robots"
}

// Living returns the names under which those robot accounts were asked for
// that work now, without those that may manage others.
func (s *Server) Living() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, r := range s.robots {
		if s.works(r) && !r.manages() {
			names = append(names, r.short)
		}
	}
	slices.Sort(names)
	return names
}

// Admins returns the names of all users, and of the robot accounts that work
// now and may manage others.
func (s *Server) Admins() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, u := range s.users {
		names = append(names, u.name)
	}
	for _, r := range s.robots {
		if s.works(r) && r.manages() {
			names = append(names, s.prefix+r.name)
		}
	}
	slices.Sort(names)
	return names
}

// Permissions returns those of the robot account with a full name.
func (s *Server) Permissions(fullName string) []Permission {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.robots {
		if s.prefix+r.name == fullName {
			return r.permissions
		}
	}
	return nil
}

// Accepts reports whether the registry lets a robot account do what it asks,
// pull or push, in a repository.
func (s *Server) Accepts(username, password, repository, action string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.robotOf(username, password)
	if r == nil || repository == "" {
		return r != nil
	}
	name, _, _ := strings.Cut(repository, "/")
	in := s.projects[name]
	return in != nil && s.robotMay(r, in, "repository", action)
}
