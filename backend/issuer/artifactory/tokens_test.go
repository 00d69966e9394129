// SPDX-License-Identifier: MPL-2.0

package artifactory_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory/artifactorytest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// capture returns a function that returns the body of the last request for a token.
func capture(s *artifactorytest.Server) func() map[string]any {
	var mu sync.Mutex
	var sent map[string]any
	s.Watch(func(r *http.Request) {
		if !s.MintMatch(r) {
			return
		}
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		mu.Lock()
		defer mu.Unlock()
		sent = nil
		_ = json.Unmarshal(body, &sent)
	}, nil)
	return func() map[string]any {
		mu.Lock()
		defer mu.Unlock()
		return sent
	}
}

func (o opened) mint(t *testing.T, name string, life time.Duration) issuer.Credential {
	t.Helper()
	minted, err := o.Mint(t.Context(), o.request(name, life))
	if err != nil {
		t.Fatalf("Mint: %v", err)
	}
	return minted
}

func (o opened) request(name string, life time.Duration) issuer.Request {
	return issuer.Request{Name: name, For: o.Settings, ExpiresAt: time.Now().Add(life)}
}

// reads matches requests that read a path below the API's.
func reads(path string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == http.MethodGet && r.URL.Path == "/access/api/v1"+path }
}

// answers makes matching requests get an answer without anything being done.
func answers(s *artifactorytest.Server, match func(*http.Request) bool, status int, body string) {
	s.InjectFault(-1, match, issuertest.Status(status, body))
}

func TestMintAsksForNoMoreThanIsNeeded(t *testing.T) {
	for name, c := range map[string]struct {
		connection func(*artifactorytest.Server) issuer.Connection
		role       issuer.Settings
		want       map[string]any
	}{
		"groups": {(*artifactorytest.Server).Connection, issuer.Settings{"groups": "readers,builders"}, map[string]any{
			"username": "regcred-ci", "scope": "applied-permissions/groups:builders,readers",
		}},
		"roles": {(*artifactorytest.Server).Connection, issuer.Settings{"project": "apps", "project_roles": "Viewer,Developer"}, map[string]any{
			"username": "regcred-ci", "scope": "applied-permissions/roles:apps:Developer,Viewer",
		}},
		"roles, as project administrator": {(*artifactorytest.Server).ConnectionOfManager, ofProject, map[string]any{
			"username": artifactorytest.Manager, "scope": "applied-permissions/roles:apps:Viewer",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := artifactorytest.New(t)
			client := open(t, s, c.connection(s), c.role)
			sent := capture(s)
			minted := client.mint(t, "regcred-ci", 6*time.Hour)
			c.want["description"], c.want["force_revocable"], c.want["expires_in"] = "regcred-ci", true, 6*3600.0
			if diff := cmp.Diff(c.want, sent()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if minted.Username != c.want["username"] || !s.Pulls(minted, artifactorytest.Repository) {
				t.Errorf("want a credential of %v that pulls, got %q", c.want["username"], minted.Username)
			}
			if mayBuild := strings.Contains(c.want["scope"].(string), "builders"); s.Pulls(minted, artifactorytest.OtherRepo) != mayBuild {
				t.Errorf("want it to pull from the other repository: %v", mayBuild)
			}
		})
	}
}

// No token ends before JFrog stores it, and each lives at least as long as asked.
func TestMintLivesLongEnoughToBeFound(t *testing.T) {
	now := time.Date(2026, 11, 27, 9, 0, 0, 500_000_000, time.UTC)
	for _, c := range []struct {
		asked, want time.Duration
		minTokenTTL string
	}{
		{-time.Hour, 3 * time.Hour, ""},
		{15 * time.Minute, 3 * time.Hour, ""},
		{3 * time.Hour, 3 * time.Hour, ""},
		{3*time.Hour + time.Millisecond, 3*time.Hour + time.Second, ""},
		{36 * time.Hour, 36 * time.Hour, ""},
		{3 * time.Hour, 6 * time.Hour, "6h"},
		{2 * time.Minute, 5 * time.Minute, "300"},
	} {
		s := artifactorytest.New(t)
		s.SetNow(func() time.Time { return now })
		s.SetPersistentThreshold(time.Minute)
		connection := s.Connection()
		connection.Settings = issuer.Settings{"min_token_ttl": c.minTokenTTL}
		client := open(t, s, connection, ofGroups)
		minted, err := client.Mint(t.Context(), issuer.Request{Name: "regcred-ci", For: client.Settings, ExpiresAt: now.Add(c.asked)})
		if err != nil || s.Life("regcred-ci") != c.want || !minted.ExpiresAt.Equal(now.Add(c.want)) {
			t.Errorf("%s, min_token_ttl %q: want %s, got %s, until %s, %v", c.asked, c.minTokenTTL, c.want, s.Life("regcred-ci"), minted.ExpiresAt, err)
		}
	}
}

// A token that is not stored could not be revoked, and nobody would see it.
func TestMintRefusesWhatIsNotStored(t *testing.T) {
	s := artifactorytest.New(t)
	s.SetPersistentThreshold(4 * time.Hour)
	client := open(t, s, s.Connection(), ofGroups)
	_, err := client.Mint(t.Context(), client.request("regcred-ci", time.Hour))
	wantError(t, err, 0, false, "the token that was created is not in the list of tokens, so that it could not be revoked; it ends by itself in 3h0m0s; write to the connection a min_token_ttl that is not below persistent-expiry-threshold of the JFrog Platform")
	connection := s.Connection()
	connection.Settings = issuer.Settings{"min_token_ttl": "4h"}
	open(t, s, connection, ofGroups).mint(t, "regcred-longer", time.Hour)
}

// A token that was created is at JFrog, whatever becomes of the look at the list. An error
// that said that nothing was done would have it forgotten.
func TestWhatWasCreatedIsNotForgotten(t *testing.T) {
	named := func(r *http.Request) bool { return reads("/tokens")(r) && r.URL.Query().Has("description") }
	for what, fault := range map[string]issuertest.Fault{
		"too many requests": issuertest.TooManyRequests(60),
		"forbidden":         issuertest.Status(http.StatusForbidden, `{"errors":[{"code":"FORBIDDEN","message":"no"}]}`),
		"not found":         issuertest.Status(http.StatusNotFound, "<html>"),
	} {
		s := artifactorytest.New(t)
		s.InjectFault(-1, named, fault)
		client := open(t, s, s.Connection(), ofGroups)
		_, err := client.Mint(t.Context(), client.request("regcred-ci", 6*time.Hour))
		wantError(t, err, 0, false, "a token was created")
		if !slices.Contains(s.Living(), "regcred-ci") {
			t.Errorf("%s: want the token at JFrog", what)
		}
		_, err = client.PrepareRoot(t.Context(), "regcred-root-x")
		wantError(t, err, 0, false, "a token was created")
		if !slices.Contains(s.Admins(), "regcred-root-x") {
			t.Errorf("%s: want the second root token at JFrog", what)
		}
	}
}

func TestMintRefusesOddAnswers(t *testing.T) {
	for body, want := range map[string]string{
		`{}`:                                  "the answer has no token",
		`{"token_id":"x","expires_in":10800}`: "the answer has no token",
		`{"access_token":"x","expires_in":10800}`:                 "the answer has no token",
		`{"token_id":"x","access_token":"y","expires_in":-1}`:     "the answer has no token",
		`{"token_id":"x","access_token":"y","expires_in":10800}`:  "is not in the list of tokens",
		`{"token_id":5,"access_token":"y","expires_in":10800}`:    "the answer could not be understood",
		`{"token_id":"x","access_token":"y","expires_in":"long"}`: "the answer could not be understood",
		`[]`:                     "the answer could not be understood",
		`<html>{"token_id":"x"}`: "the answer could not be understood",
	} {
		s := artifactorytest.New(t)
		answers(s, s.MintMatch, http.StatusOK, body)
		client := open(t, s, s.Connection(), ofGroups)
		_, err := client.Mint(t.Context(), client.request("regcred-ci", time.Hour))
		wantError(t, err, 0, false, want)
	}
}

func TestMintTakesAnEndThatNeverComes(t *testing.T) {
	s := artifactorytest.New(t)
	s.AddToken("regcred-ci", "regcred-ci", "applied-permissions/groups:readers", 0)
	client := open(t, s, s.Connection(), ofGroups)
	ids, err := client.Find(t.Context(), client.Settings, "regcred-ci")
	if err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	answers(s, s.MintMatch, http.StatusOK, `{"token_id":"`+ids[0]+`","access_token":"y"}`)
	if minted := client.mint(t, "regcred-ci", time.Hour); !minted.ExpiresAt.IsZero() {
		t.Errorf("want one without an end, got %s", minted.ExpiresAt)
	}
}

func TestErrorsShowWhatJFrogSays(t *testing.T) {
	const hint = " (only an administrator can create such tokens, or tokens that live this long; the token must have the scope applied-permissions/admin; one of a project administrator needs username in the connection, the name of its user)"
	for _, c := range []struct {
		status     int
		body, want string
	}{
		{400, `{"errors":[{"code":"BAD_REQUEST","message":"no"},{"code":"OTHER"}]}`, "answered 400 Bad Request: no: OTHER"},
		{400, `{"code":"BAD_REQUEST","message":"no","detail":"because"}`, "answered 400 Bad Request: no: because"},
		{400, `{"errors":[{"status":400,"message":"from Artifactory"}]}`, "answered 400 Bad Request: from Artifactory"},
		{400, `<html>secret page`, "answered 400 Bad Request"},
		{400, `{"errors":"no list"}`, "answered 400 Bad Request"},
		{403, `{"errors":[{"code":"FORBIDDEN","message":"no"}]}`, "answered 403 Forbidden: no" + hint},
		{500, `{"errors":[{"message":"not ` + nobody + `"}]}`, "answered 500 Internal Server Error: [redacted]"},
	} {
		s := artifactorytest.New(t)
		client := open(t, s, s.ConnectionWith(nobody), ofGroups)
		answers(s, s.MintMatch, c.status, c.body)
		_, err := client.Mint(t.Context(), client.request("regcred-ci", time.Hour))
		if err == nil || !strings.HasSuffix(err.Error(), ": "+c.want) {
			t.Errorf("%s: want %q, got %v", c.body, c.want, err)
		}
	}
}

// Somebody who is no administrator gets a list of their own tokens only, and an empty one
// proves nothing about others.
func TestAnEmptyListProvesNothingToOthers(t *testing.T) {
	for name, c := range map[string]struct {
		connection func(*artifactorytest.Server) issuer.Connection
		lose       func(*artifactorytest.Server)
		status     int
		says       string
	}{
		"no administrator any more": {
			(*artifactorytest.Server).Connection,
			func(s *artifactorytest.Server) { s.Demote(artifactorytest.Admin) },
			http.StatusForbidden, "the token must have the scope applied-permissions/admin",
		},
		"of another user": {
			func(s *artifactorytest.Server) issuer.Connection {
				c := s.ConnectionOfManager()
				c.Settings = issuer.Settings{"username": "other"}
				return c
			},
			func(*artifactorytest.Server) {}, 0, "the token is of the user team-lead, and username of the connection is other",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := artifactorytest.New(t)
			client := open(t, s, c.connection(s), ofGroups)
			s.AddPuller("regcred-ci")
			c.lose(s)
			wantError(t, client.Revoke(t.Context(), client.Settings, "regcred-ci", "x"), c.status, true, c.says)
			wantError(t, client.RevokeNamed(t.Context(), client.Settings, "regcred-ci"), c.status, true, c.says)
			if !slices.Contains(s.Living(), "regcred-ci") {
				t.Error("want the token to work still")
			}
		})
	}
}

// The answer to the question whether the list is whole must be JFrog's own.
func TestAnotherServerDoesNotProveAnAdministrator(t *testing.T) {
	for _, body := range []string{"<html>", "OK==", ""} {
		s := artifactorytest.New(t)
		client := open(t, s, s.Connection(), ofGroups)
		answers(s, reads("/cert/root"), http.StatusOK, body)
		wantError(t, client.RevokeNamed(t.Context(), client.Settings, "regcred-ci"), 0, false, "the answer to the question for the root certificate has none")
		_, err := client.Check(t.Context())
		wantError(t, err, 0, false, "the answer to the question for the root certificate has none")
	}
}

// Of several tokens with a name, only the one with the ID is ended.
func TestRevokeEndsTheOneWithTheID(t *testing.T) {
	s := artifactorytest.New(t)
	client := open(t, s, s.Connection(), ofGroups)
	minted := client.mint(t, "regcred-ci", time.Hour)
	_, other := s.AddPuller("regcred-ci")
	if err := client.Revoke(t.Context(), client.Settings, "regcred-ci", minted.ID); err != nil {
		t.Fatal(err)
	}
	left := issuer.Credential{Username: "regcred-ci", Password: secretOf(other)}
	if s.Pulls(minted, artifactorytest.Repository) || !s.Pulls(left, artifactorytest.Repository) {
		t.Errorf("want only the minted one ended")
	}
}

func TestRevokeDoesNotBelieveAProxy(t *testing.T) {
	s := artifactorytest.New(t)
	client := open(t, s, s.Connection(), ofGroups)
	minted := client.mint(t, "regcred-ci", time.Hour)
	for _, status := range []int{http.StatusOK, http.StatusNoContent} {
		answers(s, issuertest.Method(http.MethodDelete), status, "")
		wantError(t, client.Revoke(t.Context(), client.Settings, "regcred-ci", minted.ID), 0, false, "the credential is still there after it was revoked")
		s.ClearFaults()
	}
	for _, body := range []string{`{}`, `{"tokens":null}`, `{"tokens":{}}`, `[]`, `<html>`, ``} {
		answers(s, reads("/tokens"), http.StatusOK, body)
		if err := client.Revoke(t.Context(), client.Settings, "regcred-ci", minted.ID); err == nil || issuer.Definite(err) {
			t.Errorf("%s: want an error that is not definite, got %v", body, err)
		}
		s.ClearFaults()
	}
	if !s.Pulls(minted, artifactorytest.Repository) {
		t.Error("want it to work still")
	}
}

// An older JFrog may ignore a filter that it does not know.
func TestFindDoesNotTrustTheFilter(t *testing.T) {
	s := artifactorytest.New(t)
	client := open(t, s, s.Connection(), ofGroups)
	for _, name := range []string{"regcred-ci-2", "a-regcred-ci", "regcred-c", "Regcred-ci", ""} {
		s.AddPuller(name)
	}
	before := s.Living()
	client.mint(t, "regcred-ci", time.Hour)
	s.InjectFault(-1, reads("/tokens"), func(w http.ResponseWriter, r *http.Request, act http.Handler) {
		r.URL.RawQuery = url.Values{"overlooked": {"x"}}.Encode()
		act.ServeHTTP(w, r)
	})
	if err := client.RevokeNamed(t.Context(), client.Settings, "regcred-ci"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, s.Living()); diff != "" {
		t.Errorf("want only the one of that name revoked: %s", diff)
	}
}

// JFrog does not page its list.
func TestListThatIsTooLongIsRefused(t *testing.T) {
	for name, body := range map[string]string{
		"many entries": `{"tokens":[{}` + strings.Repeat(",{}", 1_000_000) + `]}`,
		"long entries": `{"tokens":[{}` + strings.Repeat(`,{"description":"`+strings.Repeat("x", 30_000)+`"}`, 200) + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			s := artifactorytest.New(t)
			answers(s, reads("/tokens"), http.StatusOK, body)
			client := open(t, s, s.Connection(), ofGroups)
			peak := issuertest.PeakHeap(t, func() {
				err := client.RevokeNamed(t.Context(), client.Settings, "regcred-ci")
				wantError(t, err, 0, false, "the answer ")
			})
			if peak > 64<<20 {
				t.Errorf("the heap grew by %d MiB, want at most 64", peak>>20)
			}
		})
	}
}

// A token that has ended is listed for a while, and revoking it again is no error.
func TestRevokeOfWhatHasExpired(t *testing.T) {
	s := artifactorytest.New(t)
	client := open(t, s, s.Connection(), ofGroups)
	minted := client.mint(t, "regcred-ci", time.Hour)
	s.SetNow(func() time.Time { return time.Now().Add(3*time.Hour + time.Minute) })
	for range 2 {
		if err := client.Revoke(t.Context(), client.Settings, "regcred-ci", minted.ID); err != nil {
			t.Error(err)
		}
	}
}

func TestCheck(t *testing.T) {
	now := time.Date(2026, 11, 27, 9, 0, 0, 0, time.UTC)
	ends := now.Add(90 * 24 * time.Hour)
	for name, c := range map[string]struct {
		connection func(*artifactorytest.Server) issuer.Connection
		want       issuer.Status
	}{
		"administrator":         {(*artifactorytest.Server).Connection, issuer.Status{Identity: artifactorytest.Admin, ExpiresAt: ends}},
		"project administrator": {(*artifactorytest.Server).ConnectionOfManager, issuer.Status{Identity: artifactorytest.Manager, ExpiresAt: ends}},
		"no end": {func(s *artifactorytest.Server) issuer.Connection {
			return s.ConnectionWith(s.AddRoot("root"))
		}, issuer.Status{Identity: artifactorytest.Admin}},
		"name in capitals": {func(s *artifactorytest.Server) issuer.Connection {
			connection := asNamedAdmin(s)
			connection.Settings["username"] = "VAULT"
			return connection
		}, issuer.Status{Identity: artifactorytest.Admin, ExpiresAt: ends}},
		"transient user": {func(s *artifactorytest.Server) issuer.Connection {
			return s.ConnectionWith(s.AddToken("transient", "x", admin, 0))
		}, issuer.Status{Identity: "transient"}},
	} {
		s := artifactorytest.NewAt(t, func() time.Time { return now })
		got, err := open(t, s, c.connection(s), ofGroups).Check(t.Context())
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct {
		connection func(*artifactorytest.Server) issuer.Connection
		status     int
		says       string
	}{
		"of a user": {
			func(s *artifactorytest.Server) issuer.Connection {
				s.AddUser("alice", false)
				return s.ConnectionWith(s.AddToken("alice", "x", "applied-permissions/user", 0))
			},
			http.StatusForbidden, "(the token must have the scope applied-permissions/admin; one of a project administrator needs username in the connection, the name of its user)",
		},
		"of another user": {
			func(s *artifactorytest.Server) issuer.Connection {
				c := s.ConnectionOfManager()
				c.Settings["username"] = "alice"
				return c
			}, 0, "the token is of the user team-lead, and username of the connection is alice",
		},
		"not stored": {
			func(s *artifactorytest.Server) issuer.Connection {
				return s.ConnectionWith(s.AddToken(artifactorytest.Admin, "x", "applied-permissions/admin", time.Hour))
			}, http.StatusNotFound, "(Artifactory before 7.53.1 cannot be used, nor a token that it does not store because it ends too soon)",
		},
		"for another service": {
			func(s *artifactorytest.Server) issuer.Connection {
				return s.ConnectionWith(s.AddTokenFor("jfrt@*", artifactorytest.Admin, "x", "applied-permissions/admin", 0))
			}, http.StatusUnauthorized, "answered 401 Unauthorized: Invalid token, audience",
		},
		"revoked": {
			func(s *artifactorytest.Server) issuer.Connection {
				c := s.ConnectionWith(s.AddRoot("x"))
				s.Remove("x")
				return c
			}, http.StatusUnauthorized, "answered 401 Unauthorized: Invalid token",
		},
		"no health check": {
			func(s *artifactorytest.Server) issuer.Connection {
				s.InjectFault(-1, func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/router/") }, issuertest.Status(404, ""))
				return s.ConnectionWith(nobody)
			}, 0, "(the health check at /router/api/v1/system/health answers 404)",
		},
		"another's health check": {
			func(s *artifactorytest.Server) issuer.Connection {
				s.InjectFault(-1, func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/router/") }, issuertest.Status(200, `{"status":"ok"}`))
				return s.ConnectionWith(nobody)
			}, 0, "(the answer of the health check at /router/api/v1/system/health is not that of a JFrog Platform)",
		},
		"one service is unhealthy": {
			func(s *artifactorytest.Server) issuer.Connection {
				s.InjectFault(-1, func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/router/") }, issuertest.Status(200, `{"router":{"state":"HEALTHY"},"services":[{"service_id":"jfac@1","state":"UNHEALTHY"}]}`))
				return s.ConnectionWith(nobody)
			}, 0, "(the health check says that JFrog Access is unhealthy)",
		},
		"an odd answer": {
			func(s *artifactorytest.Server) issuer.Connection {
				answers(s, reads("/tokens/me"), 200, `{"token_id":"x","subject":"jfrt@1"}`)
				return s.Connection()
			}, 0, "the answer does not describe the token and its user",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := artifactorytest.New(t)
			_, err := open(t, s, c.connection(s), ofGroups).Check(t.Context())
			if err == nil || issuer.StatusOf(err) != c.status || !strings.Contains(err.Error(), c.says) {
				t.Errorf("want status %d and %q, got %d: %v", c.status, c.says, issuer.StatusOf(err), err)
			}
		})
	}
}
