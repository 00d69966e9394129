// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
)

// recordedLab is a GitLab that records what it mints and revokes, and can hold
// back an answer. Its tokens do not expire, so that forgotten ones stay.
type recordedLab struct {
	*gitlabtest.Server

	mu     sync.Mutex
	tokens []*token // in the order of their IDs, and so of minting
	reign  int      // how many leaders have been killed
	held   *hold
}

// token is a credential that was minted.
type token struct {
	id       int64
	name     string
	role     string
	username string
	minted   time.Time
	reign    int       // the reign in which it was requested
	ended    time.Time // zero: it is alive

	lastRead time.Time // when the last read that returned it was sent; zero: never
	rotated  time.Time // last_vault_rotation of that answer
}

// hold is a request to hold back.
type hold struct {
	match  func(r *http.Request, role string) bool
	acted  bool // hold after acting and before the answer
	caught chan struct{}
	freed  chan bool // true: continue as if nothing had happened
}

func newRecordedLab(t *testing.T) *recordedLab {
	t.Helper()
	lab := &recordedLab{Server: gitlabtest.New(t)}
	lab.InjectFault(-1, func(r *http.Request) bool { return lab.MintMatch(r) || revokes(r) }, lab.record)
	return lab
}

// revokes matches the revocation of a deploy token.
func revokes(r *http.Request) bool {
	return r.Method == http.MethodDelete && strings.HasSuffix(path.Dir(r.URL.Path), "/deploy_tokens")
}

// record handles a request and records it.
func (lab *recordedLab) record(w http.ResponseWriter, r *http.Request, act http.Handler) {
	role := ""
	if lab.MintMatch(r) {
		role = roleOf(withoutExpiry(r))
	}
	held, reign := lab.arrive(r, role)
	lab.waitFor(held, false)
	answer := httptest.NewRecorder()
	act.ServeHTTP(answer, r)
	lab.note(r, reign, answer)
	lab.waitFor(held, true)
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// withoutExpiry removes the expiry from a request that mints, and returns the
// requested name.
func withoutExpiry(r *http.Request) (name string) {
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body) // GitLab then refuses the request
	delete(body, "expires_at")
	text, _ := json.Marshal(body) // of what was decoded
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	return fmt.Sprint(body["name"])
}

// roleOf returns the role of a credential. Its name is regcred-, the role, a
// hyphen, and 26 random letters and digits.
func roleOf(name string) string {
	return strings.TrimPrefix(name[:max(0, len(name)-len("-")-26)], "regcred-")
}

func (lab *recordedLab) note(r *http.Request, reign int, answer *httptest.ResponseRecorder) {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	switch answer.Code {
	case http.StatusCreated:
		var minted struct {
			ID             int64
			Name, Username string
		}
		_ = json.Unmarshal(answer.Body.Bytes(), &minted)
		lab.tokens = append(lab.tokens, &token{
			id: minted.ID, name: minted.Name, role: roleOf(minted.Name), username: minted.Username,
			minted: time.Now(), reign: reign,
		})
	case http.StatusNoContent:
		id, _ := strconv.ParseInt(path.Base(r.URL.Path), 10, 64)
		for _, t := range lab.tokens {
			if t.id == id {
				t.ended = time.Now()
			}
		}
	}
}

// holdNext holds back the next request that matches, before or after the
// registry has acted. caught is closed once it is held; free lets it continue,
// or drops it if its sender is dead.
func (lab *recordedLab) holdNext(t *testing.T, match func(r *http.Request, role string) bool, acted bool) (caught <-chan struct{}, free func(answer bool)) {
	held := &hold{match: match, acted: acted, caught: make(chan struct{}), freed: make(chan bool, 1)}
	lab.mu.Lock()
	lab.held = held
	lab.mu.Unlock()
	var once sync.Once
	free = func(answer bool) { once.Do(func() { held.freed <- answer }) }
	t.Cleanup(func() { free(false) })
	return held.caught, free
}

// arrive returns whether a request is to be held back, and its reign. role is
// the role that it mints for, if it mints.
func (lab *recordedLab) arrive(r *http.Request, role string) (*hold, int) {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	if lab.held == nil || !lab.held.match(r, role) {
		return nil, lab.reign
	}
	held := lab.held
	lab.held = nil
	return held, lab.reign
}

func (lab *recordedLab) waitFor(held *hold, acted bool) {
	if held == nil || held.acted != acted {
		return
	}
	close(held.caught)
	if goOn := <-held.freed; !goOn {
		panic(http.ErrAbortHandler)
	}
}

// nextReign records that a leader was killed.
func (lab *recordedLab) nextReign() {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	lab.reign++
}

// nowReigns returns how many leaders have been killed.
func (lab *recordedLab) nowReigns() int {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	return lab.reign
}

// sharedRole is a shared role.
type sharedRole struct {
	name string
	lab  *recordedLab

	mu     sync.Mutex
	newest int64 // ID of the newest credential that a read returned
	over   int64 // ID of a credential that is no longer served
}

// certain returns the ID of the oldest credential that a read which begins now
// may return: no read may return an older one than a read before it.
func (s *sharedRole) certain() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.newest, s.over+1)
}

func (s *sharedRole) newestRead() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest
}

// isOver records that the role no longer serves a credential.
func (s *sharedRole) isOver(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = max(s.over, id)
}

func (s *sharedRole) isRead(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = max(s.newest, id)
}

// found judges the credential that a read returned. certain is what certain
// returned before the read was sent.
func (s *sharedRole) found(c issuer.Credential, rotated time.Time, sent time.Time, certain int64) error {
	t := s.lab.noteRead(c.Username, rotated, sent)
	switch {
	case t == nil:
		return fmt.Errorf("%s: a read returns %q, which the registry has not minted", s.name, c.Username)
	case t.role != s.name:
		return fmt.Errorf("%s: a read returns %s, which was minted for another role", s.name, t.name)
	case t.id < certain:
		return fmt.Errorf("%s: a stale read: it returns %s, which had been replaced or dropped before it began: its ID at the registry is %d, and must be %d at least", s.name, t.name, t.id, certain)
	}
	s.isRead(t.id)
	return nil
}

// noteRead records that a read returned a token; nil if there is no such token.
func (lab *recordedLab) noteRead(username string, rotated, sent time.Time) *token {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	for i := len(lab.tokens) - 1; i >= 0; i-- {
		if t := lab.tokens[i]; t.username == username {
			t.rotated = rotated
			if sent.After(t.lastRead) {
				t.lastRead = sent
			}
			return t
		}
	}
	return nil
}

// of returns copies of a role's tokens, in order.
func (lab *recordedLab) of(role string) []token {
	lab.mu.Lock()
	defer lab.mu.Unlock()
	var tokens []token
	for _, t := range lab.tokens {
		if t.role == role {
			tokens = append(tokens, *t)
		}
	}
	return tokens
}

// key returns the registry key of minted credentials.
func (lab *recordedLab) key() dockerconfig.Key { return dockerconfig.Key(lab.Host()) }

// credentialFor returns the credential for a registry in an answer of creds/.
func credentialFor(data map[string]any, key dockerconfig.Key) (issuer.Credential, error) {
	config, err := dockerconfig.Decode([]byte(fmt.Sprint(data[".dockerconfigjson"])))
	if err != nil {
		return issuer.Credential{}, err
	}
	for _, c := range config.Credentials() {
		if c.Registry == key {
			return issuer.Credential{Username: c.Username, Password: c.Password}, nil
		}
	}
	return issuer.Credential{}, fmt.Errorf("want a credential for %s, got those for %q", key, config.Keys())
}
