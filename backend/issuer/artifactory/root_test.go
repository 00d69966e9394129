// SPDX-License-Identifier: MPL-2.0

package artifactory_test

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory/artifactorytest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

func secretOf(text string) dockerconfig.Secret { return dockerconfig.NewSecret(text) }

// rootOf returns the root credential of a connection.
func rootOf(c issuer.Connection) issuer.Root {
	return issuer.Root{Settings: c.Settings, Secrets: c.Secrets}
}

const admin = "applied-permissions/admin"

func TestNextTokenIsLikeTheOldOne(t *testing.T) {
	for name, c := range map[string]struct {
		connection func(*artifactorytest.Server) issuer.Connection
		want       map[string]any
	}{
		"90 days": {(*artifactorytest.Server).Connection, map[string]any{
			"username": artifactorytest.Admin, "scope": admin, "audience": "*@*", "expires_in": 90 * 86400.0, "force_revocable": true,
		}},
		"no end": {func(s *artifactorytest.Server) issuer.Connection { return s.ConnectionWith(s.AddRoot("old")) }, map[string]any{
			"username": artifactorytest.Admin, "scope": admin, "audience": "*@*", "expires_in": 0.0, "force_revocable": false,
		}},
		"a transient user, other services, a short life": {func(s *artifactorytest.Server) issuer.Connection {
			c := s.ConnectionWith(s.AddTokenFor("jfac@* jfrt@*", "a/b", "old", admin+" system:metrics:r", 3*time.Hour))
			c.Settings = issuer.Settings{"min_token_ttl": "4h"}
			return c
		}, map[string]any{
			"username": "a/b", "scope": admin + " system:metrics:r", "audience": "jfac@* jfrt@*", "expires_in": 4 * 3600.0, "force_revocable": true,
		}},
		"project administrator": {(*artifactorytest.Server).ConnectionOfManager, map[string]any{
			"username": artifactorytest.Manager, "scope": "applied-permissions/user", "audience": "*@*", "expires_in": 90 * 86400.0, "force_revocable": true,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := artifactorytest.New(t)
			connection := c.connection(s)
			sent := capture(s)
			if _, err := open(t, s, connection, ofGroups).PrepareRoot(t.Context(), "regcred-root-x"); err != nil {
				t.Fatal(err)
			}
			c.want["description"] = "regcred-root-x"
			if diff := cmp.Diff(c.want, sent()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Between any two calls of a rotation, a known token works.
func TestRootRotation(t *testing.T) {
	s := artifactorytest.New(t)
	old := open(t, s, s.Connection(), ofGroups)
	wantAdmins := func(when string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, s.Admins()); diff != "" {
			t.Errorf("%s: tokens that work (-want +got):\n%s", when, diff)
		}
	}
	root, err := old.PrepareRoot(t.Context(), "regcred-root-x")
	if err != nil {
		t.Fatal(err)
	}
	wantAdmins("prepared", "initial", "regcred-root-x")
	if err := old.ActivateRoot(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	renewed := open(t, s, s.Connection().With(root), ofGroups)
	for range 2 {
		if err := renewed.RetireRoot(t.Context(), rootOf(s.Connection())); err != nil {
			t.Fatal(err)
		}
		wantAdmins("retired", "regcred-root-x")
	}
	if _, err := renewed.PrepareRoot(t.Context(), "regcred-root-y"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := renewed.DiscardRoot(t.Context(), "regcred-root-y"); err != nil {
			t.Fatal(err)
		}
		wantAdmins("discarded", "regcred-root-x")
	}
}

func TestRootRotationWhoseAnswerIsLost(t *testing.T) {
	s := artifactorytest.New(t)
	old := open(t, s, s.Connection(), ofGroups)
	s.AddRoot("regcred-root-x-2")
	s.InjectFault(1, s.MintMatch, issuertest.CutAfterActing)
	_, err := old.PrepareRoot(t.Context(), "regcred-root-x")
	if err == nil || issuer.Definite(err) || !slices.Contains(s.Admins(), "regcred-root-x") {
		t.Fatalf("want an error that is not definite, and a second token, got %v and %v", err, s.Admins())
	}
	if err := old.DiscardRoot(t.Context(), "regcred-root-x"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"initial", "regcred-root-x-2"}, s.Admins()); diff != "" {
		t.Error(diff)
	}
}

func TestPrepareRootRefusesWhatCannotBeRetired(t *testing.T) {
	jwt := func(payload string) string {
		encode := base64.RawURLEncoding.EncodeToString
		return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(payload)) + ".c2lnbmF0dXJl"
	}
	const reference = "a reference token does not say which rights it has; write the access token itself to the connection, which begins with eyJ"
	for name, c := range map[string]struct{ token, want string }{
		"reference token": {"cmVmdGtuOjAxOjAwMDAwMDAwMDA6YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXow", reference},
		"no payload":      {"eyJh.!!!.c2ln", reference},
		"no JSON":         {jwt(`[]`), reference},
		"no ID":           {jwt(`{"sub":"jfac@1/users/a","scp":"applied-permissions/admin"}`), reference},
		"no user":         {jwt(`{"jti":"x","sub":"jfac@1","scp":"applied-permissions/admin"}`), reference},
		"no scope":        {jwt(`{"jti":"x","sub":"jfac@1/users/a"}`), reference},
		"odd audience":    {jwt(`{"jti":"x","sub":"jfac@1/users/a","scp":"applied-permissions/admin","aud":{}}`), reference},
	} {
		s := artifactorytest.New(t)
		client := open(t, s, s.ConnectionWith(c.token), ofGroups)
		_, err := client.PrepareRoot(t.Context(), "regcred-root-x")
		wantError(t, err, 0, true, c.want)
		if calls := s.Calls(); len(calls) > 0 {
			t.Errorf("%s: want no call, got %v", name, calls)
		}
		root := issuer.Root{Secrets: issuer.Secrets{"token": secretOf(c.token)}}
		wantError(t, open(t, s, s.Connection(), ofGroups).RetireRoot(t.Context(), root), 0, true, c.want)
	}
}

func TestPrepareRootRefusesATokenThatIsNotListed(t *testing.T) {
	s := artifactorytest.New(t)
	client := open(t, s, s.Connection(), ofGroups)
	answers(s, reads("/tokens"), http.StatusOK, `{"tokens":[{"token_id":"other"}]}`)
	_, err := client.PrepareRoot(t.Context(), "regcred-root-x")
	wantError(t, err, 0, true, "the token is not in the list of tokens, so that it could not be revoked once it was replaced")
	if diff := cmp.Diff([]string{"initial"}, s.Admins()); diff != "" {
		t.Error(diff)
	}
}

// JFrog before 7.50.3, and without force_revocable any, cannot revoke what ends soon.
func TestRetireRootSaysWhyAnOldOneStays(t *testing.T) {
	s := artifactorytest.New(t)
	old := s.ConnectionWith(s.AddToken(artifactorytest.Admin, "short", admin, 5*time.Hour))
	err := open(t, s, s.Connection(), ofGroups).RetireRoot(t.Context(), rootOf(old))
	wantError(t, err, http.StatusBadRequest, true, "Token not revocable: Token not revocable. Token expirationTimeMillis: ", "ends by itself)", "only if it was created with force_revocable")
}

// That the old one is refused, or not listed to somebody who may not list it, proves
// nothing.
func TestRetireRootNeedsProof(t *testing.T) {
	s := artifactorytest.New(t)
	old := s.ConnectionWith(s.AddRoot("old"))
	renewed := open(t, s, s.Connection(), ofGroups)
	s.Demote(artifactorytest.Admin)
	s.AddUser("another", true)
	elsewhere := s.ConnectionWith(s.AddToken("another", "elsewhere", admin, 0))
	if err := renewed.RetireRoot(t.Context(), rootOf(elsewhere)); err == nil || issuer.StatusOf(err) != http.StatusForbidden {
		t.Errorf("want the refusal, got %v", err)
	}
	if !slices.Contains(s.Admins(), "elsewhere") {
		t.Error("want the token to work still")
	}
	if err := renewed.RetireRoot(t.Context(), rootOf(old)); err == nil && slices.Contains(s.Admins(), "old") {
		t.Error("want an error, or the token to be revoked")
	}
}

// A token of another user, which somebody has written to the connection meanwhile, does
// not list the old one.
func TestRetireRootNeedsToSeeTheOldOne(t *testing.T) {
	s := artifactorytest.New(t)
	client := open(t, s, s.ConnectionOfManager(), ofProject)
	wantError(t, client.RetireRoot(t.Context(), rootOf(s.Connection())), http.StatusForbidden, true, "the token must have the scope applied-permissions/admin")
	if !slices.Contains(s.Admins(), "initial") {
		t.Error("want the old token to work still")
	}
}

func TestCheckWarnsOfATokenThatCannotBeReplaced(t *testing.T) {
	s := artifactorytest.New(t)
	answers(s, reads("/tokens/me"), http.StatusOK, `{"token_id":"x","subject":"jfac@1/users/vault"}`)
	answers(s, reads("/cert/root"), http.StatusOK, artifactorytest.RootCertificate())
	got, err := open(t, s, s.ConnectionWith(strings.Repeat("c", 64)), ofGroups).Check(t.Context())
	want := issuer.Status{Identity: "vault", Warnings: []string{"rotate-root cannot replace the token: a reference token does not say which rights it has; write the access token itself to the connection, which begins with eyJ"}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}
