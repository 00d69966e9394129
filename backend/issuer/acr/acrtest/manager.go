// SPDX-License-Identifier: MPL-2.0

package acrtest

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// namePattern is the rule for names of tokens.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9-]{5,50}$`)

// manage answers Azure Resource Manager. s.mu is held.
func (s *Server) manage(w http.ResponseWriter, r *http.Request) {
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	got := s.entra[bearer]
	part, ours := strings.CutPrefix(r.URL.Path, RegistryID)
	switch {
	case got.scope != managementScope:
		managerError(w, http.StatusUnauthorized, "InvalidAuthenticationToken", "The access token is invalid.")
		return
	case !got.ends.After(s.now()):
		managerError(w, http.StatusUnauthorized, "ExpiredAuthenticationToken", "The access token expiry UTC time is earlier than current UTC time.")
		return
	case r.URL.Query().Get("api-version") != "2023-07-01":
		managerError(w, http.StatusBadRequest, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
		return
	case !ours:
		managerError(w, http.StatusNotFound, "ResourceNotFound", "The Resource '%s' was not found.", r.URL.Path)
		return
	}
	name, aToken := strings.CutPrefix(part, "/tokens/")
	operation, anOperation := strings.CutPrefix(part, "/operationStatuses/")
	switch {
	case part == "" && r.Method == http.MethodGet:
		if s.may(w, "read") {
			answer(w, http.StatusOK, map[string]any{"id": RegistryID, "name": "acmeimages", "properties": map[string]string{"loginServer": LoginServer, "provisioningState": "Succeeded"}})
		}
	case part == "/tokens" && r.Method == http.MethodGet:
		s.list(w, r)
	case aToken && r.Method == http.MethodGet:
		s.get(w, name)
	case aToken && r.Method == http.MethodPut:
		s.put(w, r, name)
	case aToken && r.Method == http.MethodDelete:
		s.remove(w, name)
	case part == "/generateCredentials" && r.Method == http.MethodPost:
		s.generate(w, r)
	case anOperation && r.Method == http.MethodGet && s.pending[operation] != nil:
		result := s.pending[operation]
		s.pending[operation] = nil
		answer(w, http.StatusOK, result)
	default:
		managerError(w, http.StatusNotFound, "NotFound", "The requested path is not found.")
	}
}

// may checks a permission, and answers if it is missing.
func (s *Server) may(w http.ResponseWriter, right string) bool {
	action := "Microsoft.ContainerRegistry/registries/" + right
	if slices.Contains(s.allowed, action) {
		return true
	}
	managerError(w, http.StatusForbidden, "AuthorizationFailed", "The client '%s' does not have authorization to perform action '%s' over scope '%s' or the scope is invalid.", Client, action, RegistryID)
	return false
}

func (s *Server) find(name string) *token {
	i := slices.IndexFunc(s.tokens, func(t *token) bool { return strings.EqualFold(t.name, name) })
	if i < 0 {
		return nil
	}
	return s.tokens[i]
}

func (t *token) described() map[string]any {
	return map[string]any{
		"id": RegistryID + "/tokens/" + t.name, "name": t.name, "type": "Microsoft.ContainerRegistry/registries/tokens",
		"properties": map[string]any{
			"creationDate": t.created.UTC().Format(time.RFC3339Nano), "provisioningState": t.state,
			"scopeMapId": RegistryID + "/scopeMaps/" + t.scopeMap, "status": "enabled", "credentials": map[string]any{},
		},
	}
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	if !s.may(w, "tokens/read") {
		return
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("$skiptoken"))
	from = min(from, len(s.tokens))
	to := min(from+pageSize, len(s.tokens))
	value := []any{}
	for _, t := range s.tokens[from:to] {
		value = append(value, t.described())
	}
	page := map[string]any{"value": value}
	if to < len(s.tokens) {
		page["nextLink"] = baseOf(r) + RegistryID + "/tokens?api-version=2023-07-01&$skiptoken=" + strconv.Itoa(to)
	}
	answer(w, http.StatusOK, page)
}

// baseOf returns the address under which a client knows the service.
func baseOf(r *http.Request) string {
	if r.Host == "management.azure.com" {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

func (s *Server) get(w http.ResponseWriter, name string) {
	if !s.may(w, "tokens/read") {
		return
	}
	t := s.find(name)
	if t == nil {
		managerError(w, http.StatusNotFound, "ResourceNotFound", "The Resource 'Microsoft.ContainerRegistry/registries/acmeimages/tokens/%s' under resource group 'images' was not found.", name)
		return
	}
	if t.state == "Creating" {
		t.state = "Succeeded"
	}
	answer(w, http.StatusOK, t.described())
	if t.state == "Deleting" {
		s.tokens = slices.DeleteFunc(s.tokens, func(other *token) bool { return other == t })
	}
}

func (s *Server) put(w http.ResponseWriter, r *http.Request, name string) {
	if !s.may(w, "tokens/write") {
		return
	}
	var in struct {
		Properties struct{ ScopeMapID, Status string }
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if decoder.Decode(&in) != nil || !namePattern.MatchString(name) || in.Properties.Status != "enabled" {
		managerError(w, http.StatusBadRequest, "InvalidRequest", "The request is invalid.")
		return
	}
	scopeMap, named := strings.CutPrefix(in.Properties.ScopeMapID, RegistryID+"/scopeMaps/")
	if !named || s.scopeMaps[scopeMap] == nil {
		managerError(w, http.StatusBadRequest, "ScopeMapNotFound", "The scope map %s was not found.", scopeMap)
		return
	}
	if s.find(name) != nil {
		managerError(w, http.StatusConflict, "Conflict", "The token %s exists.", name)
		return
	}
	t := &token{name: name, scopeMap: scopeMap, state: "Succeeded", created: s.now()}
	if s.slow {
		t.state = "Creating"
	}
	s.tokens = append(s.tokens, t)
	answer(w, http.StatusCreated, t.described())
}

func (s *Server) remove(w http.ResponseWriter, name string) {
	if !s.may(w, "tokens/delete") {
		return
	}
	t := s.find(name)
	switch {
	case t == nil:
		w.WriteHeader(http.StatusNoContent)
	case s.slow:
		t.state, t.password = "Deleting", ""
		w.WriteHeader(http.StatusAccepted)
	default:
		s.tokens = slices.DeleteFunc(s.tokens, func(other *token) bool { return other == t })
		w.WriteHeader(http.StatusOK)
	}
}

// generate makes a password, which replaces the one of that name.
func (s *Server) generate(w http.ResponseWriter, r *http.Request) {
	if !s.may(w, "generateCredentials/action") {
		return
	}
	var in struct {
		TokenID, Name string
		Expiry        time.Time
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		managerError(w, http.StatusBadRequest, "InvalidRequest", "The request is invalid.")
		return
	}
	name, named := strings.CutPrefix(in.TokenID, RegistryID+"/tokens/")
	t := s.find(name)
	switch {
	case !named || t == nil || t.state != "Succeeded":
		managerError(w, http.StatusNotFound, "TokenNotFound", "The token was not found.")
	case in.Name != "password1" && in.Name != "password2", !in.Expiry.After(s.now()):
		managerError(w, http.StatusBadRequest, "InvalidRequest", "The password's name must be password1 or password2, and its expiry in the future.")
	default:
		t.password, t.expires, t.refusals = rand.Text(), in.Expiry, s.lag
		body := map[string]any{"username": t.name, "passwords": []any{
			map[string]any{"name": in.Name, "value": t.password, "creationTime": s.now().UTC().Format(time.RFC3339Nano), "expiry": in.Expiry.UTC().Format(time.RFC3339Nano)},
		}}
		if !s.slow {
			answer(w, http.StatusOK, body)
			return
		}
		operation := rand.Text()
		s.pending[operation] = body
		w.Header().Set("Location", baseOf(r)+RegistryID+"/operationStatuses/"+operation+"?api-version=2023-07-01")
		w.WriteHeader(http.StatusAccepted)
	}
}
