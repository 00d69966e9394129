// SPDX-License-Identifier: MPL-2.0

package ecrtest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// serveJSON answers calls of ECR and ECR Public.
func (s *Server) serveJSON(w http.ResponseWriter, r *http.Request, target string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	service, _, _ := strings.Cut(target, ".")
	var (
		answer any
		wrong  *fault
	)
	switch target {
	case "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken":
		answer, wrong = s.privateToken(r)
	case "SpencerFrontendService.GetAuthorizationToken":
		answer, wrong = s.publicToken(r)
	default:
		wrong = &fault{status: 400, json: "UnknownOperationException", message: "unknown operation of " + service}
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.Header().Set("X-Amzn-Requestid", rand.Text())
	if wrong != nil {
		status := wrong.status
		if wrong == invalidToken {
			status = http.StatusBadRequest // ECR's status for it
		}
		w.WriteHeader(status)
		answer = map[string]string{"__type": wrong.json, "message": wrong.message + wrong.messageHeader}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

type authorizationData struct {
	Token         string      `json:"authorizationToken"`
	ExpiresAt     json.Number `json:"expiresAt"`
	ProxyEndpoint string      `json:"proxyEndpoint,omitempty"`
}

func (s *Server) privateToken(r *http.Request) (any, *fault) {
	who, wrong := s.authenticate(r, "ecr")
	if wrong != nil {
		return nil, wrong
	}
	if !who.may("ecr:GetAuthorizationToken", "*") {
		return nil, denied(who, "ecr:GetAuthorizationToken", "*")
	}
	data := s.mint(who, false)
	data.ProxyEndpoint = "https://" + Account + ".dkr.ecr." + Region + ".amazonaws.com"
	return map[string]any{"authorizationData": []authorizationData{data}}, nil
}

func (s *Server) publicToken(r *http.Request) (any, *fault) {
	who, wrong := s.authenticate(r, "ecr-public")
	if wrong != nil {
		return nil, wrong
	}
	for _, action := range []string{"ecr-public:GetAuthorizationToken", "sts:GetServiceBearerToken"} {
		if !who.may(action, "*") {
			return nil, denied(who, action, "*")
		}
	}
	return map[string]any{"authorizationData": s.mint(who, true)}, nil
}

// mint mints a token. Its expiry is in seconds, with milliseconds after the point.
func (s *Server) mint(who principal, public bool) authorizationData {
	password := s.addToken(who, public)
	at := s.tokens[password].expires.Round(time.Millisecond)
	return authorizationData{Token: encode(password), ExpiresAt: json.Number(fmt.Sprintf("%d.%03d", at.Unix(), at.Nanosecond()/int(time.Millisecond)))}
}

// addToken returns the password of a new token.
func (s *Server) addToken(who principal, public bool) string {
	password := rand.Text() + rand.Text()
	s.tokens[password] = &token{principal: who, public: public, expires: s.now().Add(tokenLifetime)}
	return password
}
