// SPDX-License-Identifier: MPL-2.0

// Package harbortest is a Harbor in memory: users, projects, robot accounts of both
// levels, and a registry that accepts the robot accounts.
//
// It follows api/v2.0/swagger.yaml and the handlers of Harbor 2.14 (robot.go, user.go
// and project.go in src/server/v2.0/handler, src/controller/robot,
// src/common/rbac/const.go):
//   - status codes, field names and error bodies,
//   - the order of validation, authentication and authorisation,
//   - the q filters, and pages of at most 100,
//   - the prefix of names, and days counted from creation,
//   - that a robot account can grant only the permissions that it has.
//
// [Server.RefuseAcrossLevels] switches to the behaviour of other versions.
//
// docs/connections/harbor.md says which of that was seen on a real Harbor. [Server.Lock]
// stands for the 1.5 seconds for which Harbor locks a user after a wrong password. The
// token service of the registry is left out.
package harbortest

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// Contents of a new [Server].
const (
	Project      = "apps"        // with Admin for its project administrator
	OtherProject = "tools"       // Admin may not even read it
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
	readOnly bool
	lastID   int64
	users    map[string]*user
	locked   map[string]bool // users
	projects map[string]*project
	robots   map[int64]*robot

	databaseDown, healthIsOld bool
}

// maxStoredName caps a robot account's name as Harbor stores it, in bytes.
const maxStoredName = 255

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
	name        string   // as Harbor stores it: without prefix, with project
	short       string
	description string
	secret      string
	duration    int64
	expiresAt   int64
	disabled    bool
	bare        bool // has lost its permissions in the database
	permissions []Permission
}

// Permission is what a robot account may do: at system level (kind system, namespace
// /), or in a project (kind project; namespace is its name, or * for all).
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

// New starts a Harbor. It stops when its owner ends.
func New(t issuertest.Owner) *Server {
	t.Helper()
	s := &Server{
		now: time.Now, prefix: "robot$", authMode: "db_auth", lastID: 1, // the user admin is number 1
		users: map[string]*user{}, locked: map[string]bool{}, projects: map[string]*project{}, robots: map[int64]*robot{},
	}
	s.AddProject(Project, Admin)
	s.AddProject(OtherProject)
	s.AddUser(Admin, Password, false)
	s.Server = issuertest.NewServer(t, s.handler())
	return s
}

func (s *Server) nextID() int64 {
	for {
		s.lastID++
		if s.robots[s.lastID] == nil {
			return s.lastID
		}
	}
}

// SetNow sets the clock.
func (s *Server) SetNow(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

// SetPrefix sets the prefix of robot accounts' names. The default is robot$.
func (s *Server) SetPrefix(prefix string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prefix = prefix
}

// SetAuthMode sets where users come from. The default is db_auth.
func (s *Server) SetAuthMode(mode string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.authMode = mode
}

// RefuseAcrossLevels makes the server behave like 2.12.1 to 2.14.0, where no
// system-level robot account can create a project-level one.
func (s *Server) RefuseAcrossLevels() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.strict = true
}

// SetReadOnly switches the mode in which Harbor refuses every change.
func (s *Server) SetReadOnly(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readOnly = on
}

// SetDatabaseDown takes the database away, or brings it back. Without it, every login is
// refused.
func (s *Server) SetDatabaseDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.databaseDown, s.healthIsOld = down, false
}

// SetDatabaseJustDown takes the database away while the health still is that of some
// seconds ago.
func (s *Server) SetDatabaseJustDown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.databaseDown, s.healthIsOld = true, true
}

// Lock refuses every login of a user, as Harbor does for 1.5 seconds after a wrong
// password, or ends that.
func (s *Server) Lock(name string, locked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locked[name] = locked
}

// Disable disables the robot account with a full name.
func (s *Server) Disable(fullName string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.robots {
		if s.prefix+r.name == fullName {
			r.disabled = true
		}
	}
}

// LosePermissions deletes the permissions of a robot account from the database, but lets
// it pull. Harbor then cannot delete it.
func (s *Server) LosePermissions(short string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.robots {
		if r.short == short {
			r.bare = true
		}
	}
}

// CountAnew gives the ID of each robot account that works and may not manage others to
// one of the same project with another name, as after a reinstallation that counts its
// IDs from one. The former ones get other IDs if they are kept, and are gone otherwise.
// It returns the names of the new ones.
func (s *Server) CountAnew(keep bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, id := range slices.Sorted(maps.Keys(s.robots)) {
		old := s.robots[id]
		if !s.works(old) || old.manages() {
			continue
		}
		foreign := *old
		foreign.short = fmt.Sprintf("production-%d", id)
		foreign.name = storedName(foreign.project, foreign.short)
		s.robots[id] = &foreign
		names = append(names, foreign.short)
		if keep {
			old.id = s.nextID()
			s.robots[old.id] = old
		}
	}
	return names
}

// Reinstall deletes all robot accounts that may not manage others, and counts IDs from
// one again. IDs of other robot accounts are left out.
func (s *Server) Reinstall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.robots, func(_ int64, r *robot) bool { return !r.manages() })
	s.lastID = 0
}

// AddProject adds a project and returns its ID.
func (s *Server) AddProject(name string, admins ...string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.nextID()
	s.projects[name] = &project{id: id, name: name, admins: admins}
	return id
}

// DeleteProject deletes a project and its robot accounts, and removes it from the
// permissions of all other robot accounts.
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

// AddUser adds a user, or changes the password of an existing one.
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

// AddRobot adds a robot account to a project, or at system level for "", and returns
// its full name and its secret.
func (s *Server) AddRobot(inProject, short string, days int64, permissions ...Permission) (name, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.addRobot(s.projects[inProject], short, days, permissions)
	return s.prefix + r.name, r.secret
}

// AddPuller adds a robot account to a project, which can pull and never ends, and returns
// its full name and its secret.
func (s *Server) AddPuller(inProject, short string) (name, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.addRobot(s.projects[inProject], short, -1, pullsFrom(inProject))
	return s.prefix + r.name, r.secret
}

// AddMinted adds a robot account to a project as a mint does, and returns its ID.
func (s *Server) AddMinted(inProject, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strconv.FormatInt(s.addRobot(s.projects[inProject], name, -1, pullsFrom(inProject)).id, 10)
}

func pullsFrom(inProject string) []Permission {
	return []Permission{{Kind: levelProject, Namespace: inProject, Access: []Access{{Resource: "repository", Action: "pull"}}}}
}

// DeleteRobot deletes the robot accounts with a short name, as another client would.
func (s *Server) DeleteRobot(short string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.robots, func(_ int64, r *robot) bool { return r.short == short })
}

func (s *Server) addRobot(in *project, short string, days int64, permissions []Permission) *robot {
	r := &robot{
		id: s.nextID(), project: in, name: storedName(in, short), short: short,
		secret: rand.Text() + "aA1", duration: days, expiresAt: -1, permissions: permissions,
	}
	if days != -1 {
		r.expiresAt = s.now().UTC().AddDate(0, 0, int(days)).Unix()
	}
	s.robots[r.id] = r
	return r
}

// storedName returns the name as Harbor stores it: without prefix, with project.
func storedName(in *project, short string) string {
	if in == nil {
		return short
	}
	return in.name + "+" + short
}

// Manages returns the permissions that a robot account needs to be the root
// credential for projects. A system-level one needs [ManagesSystem] too.
func Manages(projects ...string) []Permission {
	var permissions []Permission
	for _, name := range projects {
		permissions = append(permissions, Permission{Kind: levelProject, Namespace: name, Access: []Access{
			{Resource: "project", Action: "read"},
			{Resource: "robot", Action: "create"},
			{Resource: "robot", Action: "read"},
			{Resource: "robot", Action: "list"},
			{Resource: "robot", Action: "delete"},
			{Resource: "repository", Action: "pull"},
			{Resource: "repository", Action: "push"},
		}})
	}
	return permissions
}

// ManagesSystem returns the permission that a robot account needs, in addition to
// [Manages], to be the root credential for roles of several projects.
func ManagesSystem() Permission {
	return Permission{Kind: levelSystem, Namespace: "/", Access: []Access{
		{Resource: "robot", Action: "create"},
		{Resource: "robot", Action: "read"},
		{Resource: "robot", Action: "list"},
		{Resource: "robot", Action: "delete"},
	}}
}

// Connection returns a connection with the root credential of Admin.
func (s *Server) Connection() issuer.Connection { return s.ConnectionAs(Admin, Password) }

// ConnectionAs returns a connection with another root credential.
func (s *Server) ConnectionAs(username, password string) issuer.Connection {
	return issuer.Connection{
		URL:        s.URL,
		Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())},
		Settings:   issuer.Settings{"username": username},
		Secrets:    issuer.Secrets{"password": dockerconfig.NewSecret(password)},
	}
}

// Role returns the fields of a role of Project.
func (*Server) Role() issuer.Settings { return issuer.Settings{"projects": Project} }

// MintMatch matches requests that create robot accounts.
func (*Server) MintMatch(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Path == base+"/robots"
}

// Living returns the requested names of the robot accounts that work now, without
// those that may manage others, sorted.
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

// Admins returns the names of all users, and of the robot accounts that work now and
// may manage others, sorted.
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

// Names returns the full names of all robot accounts, also of those that do not work.
func (s *Server) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, r := range s.robots {
		names = append(names, s.prefix+r.name)
	}
	slices.Sort(names)
	return names
}

// Permissions returns the permissions of the robot account with a full name.
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

// Accepts reports whether the registry lets a robot account pull from or push to a
// repository.
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
