// SPDX-License-Identifier: MPL-2.0

// Package gitlabtest is a GitLab in memory, for tests: the part of its REST API (v4)
// about tokens, and a container registry that accepts them.
//
// It follows the API reference of GitLab 18 and 19 (docs.gitlab.com/api: deploy
// tokens, project, group and personal access tokens, user tokens, service accounts,
// pagination). For texts of refusals, permissions and the moment of expiry, on which
// the reference is silent, it follows GitLab's source of these versions. All projects
// and groups are private. Pages are small ([MaxPerPage]).
package gitlabtest

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// Roles of members, as GitLab numbers them.
const (
	Guest      = 10
	Reporter   = 20
	Developer  = 30
	Maintainer = 40
	Owner      = 50
)

// MaxPerPage caps the elements of a page. GitLab's limit is 100.
const MaxPerPage = 3

// Contents of a new [Server].
const (
	Group   = "group"
	Project = "group/my_app"
	Account = "regcred" // service account of Group, and its Owner
)

const day = 24 * time.Hour

// Server is a GitLab.
type Server struct {
	*issuertest.Server

	mu      sync.Mutex
	now     func() time.Time
	lastID  int64
	users   map[int64]*user
	tokens  map[int64]*personalToken
	deploys map[int64]*deployToken
	spaces  map[string]*space // by path in lower case
	secret  string            // of Account's token
}

type user struct {
	id       int64
	name     string
	admin    bool
	blocked  bool
	provider string // group or project of a service account
	bot      bool   // of an access token of a project or group
}

// personalToken is a personal access token, or an access token of a project or group.
type personalToken struct {
	id          int64
	name        string
	secret      string
	user        *user
	scopes      []string
	created     time.Time
	expires     string // date; "": never
	revoked     bool
	owner       *space // of an access token of a project or group
	accessLevel int
}

type deployToken struct {
	id      int64
	name    string
	secret  string
	owner   *space
	scopes  []string
	expires time.Time // zero: never
}

func (t *deployToken) username() string { return fmt.Sprintf("gitlab+deploy-token-%d", t.id) }

// space is a project or group.
type space struct {
	id      int64
	path    string
	project bool
	movedTo string
	members map[*user]int
}

// kind is project or group.
func (s *space) kind() string {
	if s.project {
		return "project"
	}
	return "group"
}

// covers reports whether a path is the space's own, or below it.
func (s *space) covers(path string) bool {
	return strings.HasPrefix(strings.ToLower(path)+"/", strings.ToLower(s.path)+"/")
}

// New starts a GitLab with [Group], [Project] in it, and [Account], whose token is the
// root credential of [Server.Connection].
func New(t issuertest.Owner) *Server {
	t.Helper()
	s := &Server{
		now:     time.Now,
		users:   map[int64]*user{},
		tokens:  map[int64]*personalToken{},
		deploys: map[int64]*deployToken{},
		spaces:  map[string]*space{},
	}
	mux := http.NewServeMux()
	mux.Handle("/api/v4/", http.HandlerFunc(s.serveAPI))
	mux.Handle("/v2/", issuertest.Registry(s.accepts))
	s.Server = issuertest.NewServer(t, mux)
	s.AddGroup(Group)
	s.AddProject(Project)
	account := s.AddServiceAccount(Group, Account)
	s.SetMember(Group, account, Owner)
	s.secret = s.AddToken(account, "initial", []string{"api"}, 90)
	return s
}

// Connection returns a valid connection. [Account] is Owner of [Group], so that its
// token can be replaced.
func (s *Server) Connection() issuer.Connection {
	c := s.ConnectionWith(s.secret)
	c.Settings = issuer.Settings{"service_account_group": Group}
	return c
}

// ConnectionWith returns a connection with another token and without
// service_account_group.
func (s *Server) ConnectionWith(token string) issuer.Connection {
	s.mu.Lock()
	defer s.mu.Unlock()
	return issuer.Connection{
		URL:        s.URL,
		Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())},
		Secrets:    issuer.Secrets{"token": dockerconfig.NewSecret(token)},
		Now:        s.now,
	}
}

// Role returns the fields of a valid role.
func (s *Server) Role() issuer.Settings { return issuer.Settings{"project": Project} }

// SetNow sets the clock.
func (s *Server) SetNow(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

func (s *Server) nextID() int64 {
	for {
		s.lastID++
		if s.users[s.lastID] == nil && s.tokens[s.lastID] == nil && s.deploys[s.lastID] == nil {
			return s.lastID
		}
	}
}

func (s *Server) addSpace(path string, project bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spaces[strings.ToLower(path)] = &space{id: s.nextID(), path: path, project: project, members: map[*user]int{}}
}

// AddGroup adds a group. Its path is below its parent's.
func (s *Server) AddGroup(path string) { s.addSpace(path, false) }

// AddProject adds a project. Its path is below its group's.
func (s *Server) AddProject(path string) { s.addSpace(path, true) }

// Remove deletes a project or group and its tokens.
func (s *Server) Remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := s.spaces[strings.ToLower(path)]
	delete(s.spaces, strings.ToLower(path))
	maps.DeleteFunc(s.deploys, func(_ int64, t *deployToken) bool { return t.owner == gone })
	maps.DeleteFunc(s.tokens, func(_ int64, t *personalToken) bool { return t.owner == gone })
}

// Move gives a project another path. The old path redirects to it.
func (s *Server) Move(from, to string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	moved := s.spaces[strings.ToLower(from)]
	s.spaces[strings.ToLower(from)] = &space{id: moved.id, path: from, project: true, movedTo: to, members: moved.members}
	moved.path = to
	s.spaces[strings.ToLower(to)] = moved
}

// ScheduleDeletion deletes a project as GitLab 18 does at first: it gets another path, to
// which the old one redirects, and everything in it lives on until it is removed. It
// returns the other path.
func (s *Server) ScheduleDeletion(path string) string {
	s.mu.Lock()
	renamed := fmt.Sprintf("%s-deletion_scheduled-%d", path, s.spaces[strings.ToLower(path)].id)
	s.mu.Unlock()
	s.Move(path, renamed)
	return renamed
}

// CountAnew gives the ID of each deploy token, and of each access token of a project or
// group, to another one of the same project or group with another name, as after a
// reinstallation that counts its IDs from one. The former ones get other IDs if they are
// kept, and are gone otherwise. It returns the names of the new ones.
func (s *Server) CountAnew(keep bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, id := range slices.Sorted(maps.Keys(s.deploys)) {
		old, foreign := s.deploys[id], *s.deploys[id]
		foreign.name, foreign.secret = fmt.Sprintf("production-%d", id), rand.Text()
		s.deploys[id] = &foreign
		names = append(names, foreign.name)
		if keep {
			old.id = s.nextID()
			s.deploys[old.id] = old
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.tokens)) {
		old, foreign := s.tokens[id], *s.tokens[id]
		if old.owner == nil || !s.active(old) || slices.Contains(old.scopes, "api") {
			continue
		}
		foreign.name, foreign.secret = fmt.Sprintf("production-%d", id), rand.Text()
		s.tokens[id] = &foreign
		names = append(names, foreign.name)
		if keep {
			old.id = s.nextID()
			s.tokens[old.id] = old
		}
	}
	return names
}

// Reinstall deletes all deploy tokens, and the access tokens of projects and groups that
// cannot mint, and counts IDs from one again. IDs that are in use are left out.
func (s *Server) Reinstall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.deploys)
	maps.DeleteFunc(s.tokens, func(_ int64, t *personalToken) bool {
		gone := t.owner != nil && !slices.Contains(t.scopes, "api")
		if gone {
			delete(t.owner.members, t.user)
			delete(s.users, t.user.id)
		}
		return gone
	})
	s.lastID = 0
}

func (s *Server) addUser(u *user) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.id = s.nextID()
	s.users[u.id] = u
	return u.id
}

// AddUser adds a user and returns its ID.
func (s *Server) AddUser(name string, admin bool) int64 {
	return s.addUser(&user{name: name, admin: admin})
}

// AddServiceAccount adds a service account of a group or project.
func (s *Server) AddServiceAccount(path, name string) int64 {
	return s.addUser(&user{name: name, provider: path})
}

// Block blocks a user.
func (s *Server) Block(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[id].blocked = true
}

// SetMember gives a user a role in a project or group; 0 removes it.
func (s *Server) SetMember(path string, id int64, level int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spaces[strings.ToLower(path)].members[s.users[id]] = level
}

// AddToken adds a personal access token that ends in a number of days (0: never), and
// returns it.
func (s *Server) AddToken(id int64, name string, scopes []string, days int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &personalToken{name: name, user: s.users[id], scopes: scopes}
	if days > 0 {
		t.expires = s.now().UTC().AddDate(0, 0, days).Format(time.DateOnly)
	}
	s.addToken(t)
	return t.secret
}

func (s *Server) addToken(t *personalToken) {
	t.id, t.secret, t.created = s.nextID(), "glpat-"+rand.Text(), s.now()
	s.tokens[t.id] = t
}

// AddRootToken adds a token of [Account] that never ends, and returns it.
func (s *Server) AddRootToken(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &personalToken{name: name, scopes: []string{"api"}}
	for _, u := range s.users {
		if u.name == Account {
			t.user = u
		}
	}
	s.addToken(t)
	return t.secret
}

// AddResourceToken adds an access token of a project or group, and returns it.
func (s *Server) AddResourceToken(path, name string, scopes []string, level int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.addResourceToken(s.spaces[strings.ToLower(path)], name, scopes, level, s.now().UTC().Add(30*day).Format(time.DateOnly))
	return t.secret
}

func (s *Server) addResourceToken(owner *space, name string, scopes []string, level int, expires string) *personalToken {
	id := s.nextID()
	bot := &user{id: id, name: fmt.Sprintf("%s_%d_bot_%x", owner.kind(), owner.id, id), bot: true}
	s.users[id] = bot
	owner.members[bot] = level
	t := &personalToken{name: name, user: bot, scopes: scopes, expires: expires, owner: owner, accessLevel: level}
	s.addToken(t)
	return t
}

// AddDeployTokens adds deploy tokens with names of their own.
func (s *Server) AddDeployTokens(path string, names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range names {
		s.addDeployToken(s.spaces[strings.ToLower(path)], name, []string{"read_registry"}, time.Time{})
	}
}

// AddDeployToken adds a deploy token of a project or group, and returns it.
func (s *Server) AddDeployToken(path, name string) (username, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.addDeployToken(s.spaces[strings.ToLower(path)], name, []string{"read_registry"}, time.Time{})
	return t.username(), t.secret
}

// AddMinted adds a deploy_token or an access_token of a project or group as a mint
// does, and returns its ID.
func (s *Server) AddMinted(path, tokenType, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, scopes := s.spaces[strings.ToLower(path)], []string{"read_registry"}
	if tokenType == "access_token" {
		return fmt.Sprint(s.addResourceToken(owner, name, scopes, Reporter, s.now().UTC().Add(30*day).Format(time.DateOnly)).id)
	}
	return fmt.Sprint(s.addDeployToken(owner, name, scopes, time.Time{}).id)
}

func (s *Server) addDeployToken(owner *space, name string, scopes []string, expires time.Time) *deployToken {
	t := &deployToken{id: s.nextID(), name: name, secret: "gldt-" + rand.Text(), owner: owner, scopes: scopes, expires: expires}
	s.deploys[t.id] = t
	return t
}

// DeleteDeployToken deletes the deploy tokens with a name, as another client would.
func (s *Server) DeleteDeployToken(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.deploys, func(_ int64, t *deployToken) bool { return t.name == name })
}

// Living returns the names of the deploy tokens and access tokens of projects
// and groups that work now, sorted.
func (s *Server) Living() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, t := range s.deploys {
		if s.deployActive(t) {
			names = append(names, t.name)
		}
	}
	for _, t := range s.tokens {
		if t.owner != nil && s.active(t) {
			names = append(names, t.name)
		}
	}
	slices.Sort(names)
	return names
}

// Admins returns the names of the personal access tokens that work now, sorted.
func (s *Server) Admins() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, t := range s.tokens {
		if t.owner == nil && s.active(t) {
			names = append(names, t.name)
		}
	}
	slices.Sort(names)
	return names
}

// Expires returns when the token with a name ends, in GitLab's format; "" means never.
func (s *Server) Expires(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.name == name {
			return t.expires
		}
	}
	for _, t := range s.deploys {
		if t.name == name && !t.expires.IsZero() {
			return t.expires.UTC().Format(time.RFC3339)
		}
	}
	return ""
}

// MintMatch matches the request that mints.
func (s *Server) MintMatch(r *http.Request) bool {
	return r.Method == http.MethodPost && (strings.HasSuffix(r.URL.Path, "/deploy_tokens") || strings.HasSuffix(r.URL.Path, "/access_tokens"))
}

// Pulls reports whether a credential can pull from a repository.
func (s *Server) Pulls(c issuer.Credential, repository string) bool {
	req, err := http.NewRequest(http.MethodHead, s.URL+"/v2/"+repository+"/manifests/latest", nil)
	if err != nil {
		return false
	}
	req.SetBasicAuth(c.Username, c.Password.Reveal())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// A token with a date ends at the start of that date.
func (s *Server) active(t *personalToken) bool {
	return !t.revoked && !s.expired(t)
}

func (s *Server) expired(t *personalToken) bool {
	return t.expires != "" && t.expires <= s.now().UTC().Format(time.DateOnly)
}

func (s *Server) deployActive(t *deployToken) bool {
	return t.expires.IsZero() || !t.expires.Before(s.now())
}

// level returns the role of a user: the highest in the project or group and in the
// groups above it.
func (s *Server) level(u *user, at *space) int {
	if u.admin {
		return Owner
	}
	highest := 0
	for _, above := range s.spaces {
		if above.movedTo == "" && above.covers(at.path) && (above == at || !above.project) {
			highest = max(highest, above.members[u])
		}
	}
	return highest
}

// projectOf returns the project of a repository, whose path is the project's or below
// it.
func (s *Server) projectOf(repository string) *space {
	var found *space
	for _, sp := range s.spaces {
		if sp.project && sp.movedTo == "" && sp.covers(repository) && len(sp.path) > len(cmp.Or(found, &space{}).path) {
			found = sp
		}
	}
	return found
}

// accepts reports whether a credential may pull from a repository, or log in if the
// repository is "".
func (s *Server) accepts(username, password, repository string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	project := s.projectOf(repository)
	if repository != "" && project == nil {
		return false
	}
	for _, t := range s.deploys {
		if t.secret == password {
			return t.username() == username && s.deployActive(t) && slices.Contains(t.scopes, "read_registry") &&
				(repository == "" || t.owner == project || !t.owner.project && t.owner.covers(project.path))
		}
	}
	for _, t := range s.tokens {
		if t.secret == password {
			return username != "" && s.active(t) && !t.user.blocked && slices.Contains(t.scopes, "read_registry") &&
				(repository == "" || s.level(t.user, project) >= Reporter)
		}
	}
	return false
}
