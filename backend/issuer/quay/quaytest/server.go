// SPDX-License-Identifier: MPL-2.0

// Package quaytest is a Quay in memory: organizations with repositories, OAuth tokens of
// applications, robot accounts, and a registry that accepts these.
//
// It follows the sources of Project Quay at commit ffba0c70e (August 2026):
//   - endpoints/api/robot.py, permission.py, organization.py: paths, bodies, statuses
//   - endpoints/exception.py and endpoints/decorated.py: the two forms of errors
//   - endpoints/csrf.py: 403 to a change with a token that is not known, 401 to a read
//   - data/model/user.py: names, that one is taken, and what is said of one that is not there
//   - data/model/permission.py: what may be given to whom
//
// It was not compared with a real Quay. Feature flags have their defaults.
package quaytest

import (
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// Contents of a new [Server].
const (
	Organization = "acme"
	Repository   = "app"
	Other        = "tools" // another repository
)

// Server is a Quay. It is safe for concurrent use.
type Server struct {
	*issuertest.Server

	mu           sync.Mutex
	organization map[string]bool
	repositories map[string]bool // organization/name
	tokens       map[string]grant
	robots       map[string]*robot // by full name
	first        string
}

// grant is what an OAuth token may do.
type grant struct {
	organization string // that its user owns
	scopes       []string
}

type robot struct {
	token       string
	description string
	roles       map[string]string // by repository
}

// New starts a Quay. It stops when its owner ends.
func New(t issuertest.Owner) *Server {
	t.Helper()
	s := &Server{
		organization: map[string]bool{Organization: true, "other": true},
		repositories: map[string]bool{Organization + "/" + Repository: true, Organization + "/" + Other: true, "other/app": true},
		tokens:       map[string]grant{}, robots: map[string]*robot{},
	}
	s.first = s.AddToken(Organization, "org:admin", "repo:admin")
	mux := http.NewServeMux()
	mux.Handle("/v2/", issuertest.Registry(s.accepts))
	mux.HandleFunc("/api/v1/organization/{org}", s.api(s.getOrganization, "GET"))
	mux.HandleFunc("/api/v1/organization/{org}/robots", s.api(s.listRobots, "GET"))
	mux.HandleFunc("/api/v1/organization/{org}/robots/{short}", s.api(s.aRobot, "GET", "PUT", "DELETE"))
	mux.HandleFunc("/api/v1/repository/", s.api(s.permission, "PUT"))
	s.Server = issuertest.NewServer(t, mux)
	return s
}

// AddToken adds an OAuth token whose user owns an organization.
func (s *Server) AddToken(organization string, scopes ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := rand.Text() + rand.Text()[:14]
	s.tokens[token] = grant{organization, scopes}
	return token
}

// Connection returns a connection with a token that may mint.
func (s *Server) Connection() issuer.Connection { return s.ConnectionWith(s.first) }

// ConnectionWith returns a connection with another token.
func (s *Server) ConnectionWith(token string) issuer.Connection {
	return issuer.Connection{
		URL: s.URL, Registries: []dockerconfig.Key{dockerconfig.Key(s.Host())},
		Settings: issuer.Settings{"organization": Organization}, Secrets: issuer.Secrets{"token": dockerconfig.NewSecret(token)},
	}
}

// Role returns the fields of a role.
func (*Server) Role() issuer.Settings { return issuer.Settings{"repositories": Repository} }

// MintMatch matches the requests that create robot accounts.
func (*Server) MintMatch(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/robots/")
}

// Living returns the names of the robot accounts of the organization, sorted.
func (s *Server) Living() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.robots {
		if short, ours := strings.CutPrefix(name, Organization+"+"); ours {
			names = append(names, short)
		}
	}
	slices.Sort(names)
	return names
}

// AddRobot adds a robot account that pulls from [Repository], and returns its user name
// and token.
func (s *Server) AddRobot(short string) (username, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	username = Organization + "+" + short
	s.robots[username] = &robot{token: secret(), roles: map[string]string{Organization + "/" + Repository: "read"}}
	return username, s.robots[username].token
}

// Delete deletes a robot account, as somebody else would.
func (s *Server) Delete(short string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.robots, Organization+"+"+short)
}

// Admins returns the number of OAuth tokens as names.
func (s *Server) Admins() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.tokens))
}

// RoleOf returns the role of a robot account in a repository of the organization.
func (s *Server) RoleOf(short, repository string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.robots[Organization+"+"+short]; r != nil {
		return r.roles[Organization+"/"+repository]
	}
	return ""
}

// Pulls reports whether a credential can pull from a repository of the organization.
func (s *Server) Pulls(c issuer.Credential, repository string) bool {
	return s.accepts(c.Username, c.Password.Reveal(), Organization+"/"+repository)
}

func (s *Server) accepts(username, password, repository string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.robots[username]
	return r != nil && r.token == password && (repository == "" || r.roles[repository] != "")
}

// secret is 64 capitals and digits, as Quay's are.
func secret() string { return (rand.Text() + rand.Text() + rand.Text())[:64] }

// answer is a status and a body; nil for none.
type answer struct {
	status int
	body   any
}

// apiError is an error of the API.
func apiError(status int, kind, detail string) answer {
	return answer{status, map[string]any{
		"detail": detail, "error_message": detail, "error_type": kind, "title": kind, "type": "https://quay.example.com/api/v1/error/" + kind, "status": status,
	}}
}

// below is a failure below the API.
func below(message string) answer {
	return answer{http.StatusBadRequest, map[string]any{"message": message}}
}

func (s *Server) api(do func(r *http.Request, g *grant) answer, methods ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		var g *grant
		if known, found := s.tokens[token]; found {
			g = &known
		}
		var out answer
		switch {
		case !slices.Contains(methods, r.Method):
			out = answer{http.StatusMethodNotAllowed, map[string]any{"message": "The method is not allowed for the requested URL."}}
		case g == nil && r.Method != http.MethodGet:
			out = answer{http.StatusForbidden, map[string]any{"message": "CSRF token was invalid or missing."}}
		default:
			out = do(r, g)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(out.status)
		if out.body != nil {
			_ = json.NewEncoder(w).Encode(out.body)
		}
	}
}

// unauthorized is what Quay says to somebody who may not: 401 to nobody.
func unauthorized(g *grant) answer {
	if g == nil {
		return apiError(http.StatusUnauthorized, "invalid_token", "Requires authentication")
	}
	return apiError(http.StatusForbidden, "insufficient_scope", "Unauthorized")
}

func (g *grant) administers(organization string) bool {
	return g != nil && g.organization == organization && slices.Contains(g.scopes, "org:admin")
}

func (s *Server) getOrganization(r *http.Request, g *grant) answer {
	org := r.PathValue("org")
	if !s.organization[org] {
		return apiError(http.StatusNotFound, "not_found", "Not Found")
	}
	admin := g.administers(org)
	return answer{http.StatusOK, map[string]any{"name": org, "email": "", "is_admin": admin, "is_member": admin}}
}

func (s *Server) listRobots(r *http.Request, g *grant) answer {
	org := r.PathValue("org")
	if !g.administers(org) {
		return unauthorized(g)
	}
	robots := []map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(s.robots)) {
		if strings.HasPrefix(name, org+"+") && (r.URL.Query().Get("limit") != "1" || len(robots) == 0) {
			robots = append(robots, map[string]any{"name": name, "created": nil, "last_accessed": nil, "description": s.robots[name].description})
		}
	}
	return answer{http.StatusOK, map[string]any{"robots": robots}}
}

var shortPattern = regexp.MustCompile(`^([a-z0-9]+(?:[._-][a-z0-9]+)*)$`)

func (s *Server) aRobot(r *http.Request, g *grant) answer {
	org, short := r.PathValue("org"), r.PathValue("short")
	if !g.administers(org) {
		return unauthorized(g)
	}
	name := org + "+" + short
	found := s.robots[name]
	switch r.Method {
	case http.MethodPut:
		var in struct {
			Description string `json:"description"`
		}
		switch {
		case json.NewDecoder(r.Body).Decode(&in) != nil || len(in.Description) > 255:
			return apiError(http.StatusBadRequest, "invalid_request", "The request was invalid")
		case !shortPattern.MatchString(short) || len(short) < 2 || len(short) > 255:
			return apiError(http.StatusBadRequest, "invalid_request", "The name for the robot '"+short+"' is invalid")
		case found != nil:
			return apiError(http.StatusBadRequest, "invalid_request", "Existing robot with name: "+name)
		}
		made := &robot{token: secret(), description: in.Description, roles: map[string]string{}}
		s.robots[name] = made
		return answer{http.StatusCreated, map[string]any{"name": name, "created": nil, "last_accessed": nil, "description": in.Description, "token": made.token, "unstructured_metadata": map[string]any{}}}
	case http.MethodDelete:
		if found == nil {
			return below("Could not find robot with specified username")
		}
		delete(s.robots, name)
		return answer{http.StatusNoContent, nil}
	}
	if found == nil {
		return below("Could not find robot with specified username")
	}
	return answer{http.StatusOK, map[string]any{"name": name, "created": nil, "last_accessed": nil, "description": found.description, "token": found.token, "unstructured_metadata": map[string]any{}}}
}

// permission gives a user a role in a repository, whose name may have slashes.
func (s *Server) permission(r *http.Request, g *grant) answer {
	repository, username, found := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/v1/repository/"), "/permissions/user/")
	org, _, _ := strings.Cut(repository, "/")
	if !found {
		return answer{http.StatusNotFound, map[string]any{"message": "The requested URL was not found on the server."}}
	}
	if g == nil || g.organization != org || !slices.Contains(g.scopes, "repo:admin") {
		return unauthorized(g)
	}
	var in struct{ Role string }
	account := s.robots[username]
	switch err := json.NewDecoder(r.Body).Decode(&in); {
	case err != nil || !slices.Contains([]string{"read", "write", "admin"}, in.Role):
		return apiError(http.StatusBadRequest, "invalid_request", "The request was invalid")
	case account == nil:
		return apiError(http.StatusBadRequest, "invalid_request", "Invalid username: "+username)
	case !strings.HasPrefix(username, org+"+"):
		return apiError(http.StatusBadRequest, "invalid_request", "Cannot add robot "+username+" under namespace "+org)
	case !s.repositories[repository]:
		return apiError(http.StatusBadRequest, "invalid_request", "Repository does not exist") // its words could not be confirmed
	}
	account.roles[repository] = in.Role
	return answer{http.StatusOK, map[string]any{"role": in.Role, "name": username, "is_robot": true, "is_org_member": true}}
}
