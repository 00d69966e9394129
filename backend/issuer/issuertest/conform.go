// SPDX-License-Identifier: MPL-2.0

package issuertest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// Subject is a type of issuer, and a server to test it with.
type Subject struct {
	Type       issuer.Type
	Connection issuer.Connection // HTTP and Now have defaults
	Role       issuer.Settings   // the fields of a role, as written

	// Server is the server to plant faults in. It is nil for a real registry,
	// where faults are not tested.
	Server *Server

	// Pulls reports whether a credential can pull what Role is for.
	Pulls func(issuer.Credential) bool

	// Mints matches the request that mints.
	Mints func(*http.Request) bool

	// BadSecrets replace the connection's secrets, and the server refuses them.
	BadSecrets issuer.Secrets
}

// Open opens the connection of a subject.
func (s Subject) Open(t testing.TB) (*issuer.Client, issuer.Target) {
	t.Helper()
	c := s.Connection
	if c.HTTP == nil {
		c.HTTP = issuer.NewHTTP(nil)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	target, err := s.Type.Target(c, s.Role)
	if err != nil {
		t.Fatalf("Target: %v", err)
	}
	client, err := issuer.Open(s.Type, c)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(client.Close)
	return client, target
}

// Conform tests what every issuer must do. fresh returns a subject with a server of
// its own.
func Conform(t *testing.T, fresh func(t *testing.T) Subject) {
	t.Run("mints, finds and revokes", func(t *testing.T) { mintsFindsAndRevokes(t, fresh(t)) })
	t.Run("target is stable", func(t *testing.T) { targetIsStable(t, fresh(t)) })
	t.Run("bad root credential", func(t *testing.T) { badCredential(t, fresh(t)) })
	t.Run("root credential is replaced", func(t *testing.T) { rotatesRoot(t, fresh(t)) })
	t.Run("faults", func(t *testing.T) {
		if fresh(t).Server == nil {
			return
		}
		for _, f := range faults {
			t.Run(f.name, func(t *testing.T) { f.try(t, fresh(t)) })
		}
	})
}

// mint mints a credential for six hours, and fails the test if it cannot.
func mint(t *testing.T, client *issuer.Client, target issuer.Target, name string) issuer.Credential {
	t.Helper()
	until := time.Now().Add(6 * time.Hour)
	minted, err := client.Mint(t.Context(), issuer.Request{Name: name, For: target.Settings, ExpiresAt: until})
	if err != nil {
		t.Fatalf("Mint: %v", err)
	}
	if !minted.ExpiresAt.IsZero() && minted.ExpiresAt.Before(until.Truncate(time.Second)) {
		t.Errorf("Mint: want a credential until %s at least, got one until %s", until, minted.ExpiresAt)
	}
	return minted
}

func mintsFindsAndRevokes(t *testing.T, s Subject) {
	client, target := s.Open(t)
	if status, err := client.Check(t.Context()); err != nil || status.Identity == "" {
		t.Errorf("Check: want an identity, got %+v, %v", status, err)
	}
	name := issuer.NewName("My_App.1")
	first, second := mint(t, client, target, name), mint(t, client, target, issuer.NewName("My_App.1"))
	for _, c := range []issuer.Credential{first, second} {
		if _, err := dockerconfig.ParseUsername(c.Username); err != nil {
			t.Errorf("user name %q: %v", c.Username, err)
		}
		if !s.Pulls(c) {
			t.Errorf("want a credential that pulls")
		}
	}
	if s.Type.NoRevocation {
		return
	}
	if err := client.Revoke(t.Context(), target.Settings, first.ID); err != nil {
		t.Fatalf("Revoke: %v", err)
	}
	if s.Pulls(first) || !s.Pulls(second) {
		t.Errorf("want the first credential to be refused and the second not; pulls: %v, %v", s.Pulls(first), s.Pulls(second))
	}
	if err := client.Revoke(t.Context(), target.Settings, first.ID); err != nil {
		t.Errorf("Revoke again: want no error, got %v", err)
	}
	if err := client.RevokeNamed(t.Context(), target.Settings, name); err != nil {
		t.Errorf("RevokeNamed of what is gone: want no error, got %v", err)
	}
	third := issuer.NewName("other")
	found := mint(t, client, target, third)
	if err := client.RevokeNamed(t.Context(), target.Settings, third[:len(third)-1]); err != nil || !s.Pulls(found) {
		t.Errorf("RevokeNamed of a part of a name: want nothing revoked, got error %v, pulls %v", err, s.Pulls(found))
	}
	if err := client.RevokeNamed(t.Context(), target.Settings, third); err != nil || s.Pulls(found) || !s.Pulls(second) {
		t.Errorf("RevokeNamed: want the one of that name revoked, got error %v, pulls %v and the other %v", err, s.Pulls(found), s.Pulls(second))
	}
}

// The normalised fields of a role are stored, and checked again at each mint.
func targetIsStable(t *testing.T, s Subject) {
	_, target := s.Open(t)
	c := s.Connection
	again, err := s.Type.Target(c, target.Settings)
	if err != nil || fmt.Sprint(again.Settings) != fmt.Sprint(target.Settings) || !slices.Equal(again.Names, target.Names) {
		t.Errorf("want the same target from its own settings, got %+v and %+v, %v", target, again, err)
	}
	if len(target.Names) == 0 {
		t.Error("want names that allowed_targets can cover")
	}
	for field := range target.Settings {
		if s.Type.RoleFields[field] == nil {
			t.Errorf("the target has a setting %q, which is no field of roles", field)
		}
	}
}

func badCredential(t *testing.T, s Subject) {
	_, target := s.Open(t)
	s.Connection.Secrets = s.BadSecrets
	client, _ := s.Open(t)
	_, err := client.Check(t.Context())
	if status := issuer.StatusOf(err); status != http.StatusUnauthorized && status != http.StatusForbidden && status != http.StatusBadRequest {
		t.Errorf("Check: want the registry's refusal, got %v", err)
	}
	_, err = client.Mint(t.Context(), issuer.Request{Name: issuer.NewName("x"), For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
	if !issuer.Definite(err) {
		t.Errorf("Mint: want an error that is definite, got %v", err)
	}
	holdsNone(t, err, s)
}

// holdsNone fails the test if an error repeats a secret.
func holdsNone(t *testing.T, err error, s Subject, more ...string) {
	t.Helper()
	if err == nil {
		return
	}
	for _, secret := range slices.Concat(s.Connection.Secrets.Reveal(), s.BadSecrets.Reveal(), more) {
		if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
			t.Errorf("the error repeats a secret: %v", err)
		}
	}
}

func rotatesRoot(t *testing.T, s Subject) {
	old, target := s.Open(t)
	name := issuer.NewName("root")
	root, err := old.PrepareRoot(t.Context(), name)
	if errors.Is(err, issuer.ErrRootNotRotatable) {
		return
	}
	if err != nil {
		t.Fatalf("PrepareRoot: %v", err)
	}
	if _, err := old.Check(t.Context()); err != nil {
		t.Errorf("Check after PrepareRoot: want the old one to work, got %v", err)
	}
	for field := range root.Secrets {
		if schema := s.Type.ConnectionFields[field]; schema == nil || schema.DisplayAttrs == nil || !schema.DisplayAttrs.Sensitive {
			t.Errorf("PrepareRoot: want secrets under sensitive fields only, got %q", field)
		}
	}
	for range 2 {
		if err := old.ActivateRoot(t.Context(), root); err != nil {
			t.Fatalf("ActivateRoot: %v", err)
		}
	}
	renewed := s
	renewed.Connection = s.Connection.With(root)
	client, _ := renewed.Open(t)
	if _, err := client.Check(t.Context()); err != nil {
		t.Fatalf("Check of the new one: %v", err)
	}
	for range 2 {
		if err := old.RetireRoot(t.Context()); err != nil {
			t.Errorf("RetireRoot: %v", err)
		}
	}
	if _, err := old.Check(t.Context()); err == nil {
		t.Error("want the old root credential to be refused")
	}
	mint(t, client, target, issuer.NewName("after"))

	unwanted := issuer.NewName("root")
	if root, err = client.PrepareRoot(t.Context(), unwanted); err != nil {
		t.Fatalf("PrepareRoot: %v", err)
	}
	if err := client.DiscardRoot(t.Context(), unwanted); err != nil {
		t.Fatalf("DiscardRoot: %v", err)
	}
	if _, err := client.Check(t.Context()); err != nil {
		t.Errorf("want the one in use to work after DiscardRoot, got %v", err)
	}
	renewed.Connection = renewed.Connection.With(root)
	discarded, _ := renewed.Open(t)
	if _, err := discarded.Check(t.Context()); err == nil {
		t.Error("want what was discarded to be refused")
	}
}

// faults are the faults of the call that mints.
var faults = []struct {
	name string
	try  func(*testing.T, Subject)
}{
	{"refused", mintFault(Status(http.StatusForbidden, `{"message":"no"}`), true, false)},
	{"not found", mintFault(Status(http.StatusNotFound, `{"message":"no"}`), true, false)},
	{"too many requests, for long", mintFault(TooManyRequests(600), true, false)},
	{"500 before acting", mintFault(Status(http.StatusInternalServerError, `boom`), false, false)},
	{"500 after acting", mintFault(StatusAfterActing(http.StatusInternalServerError, `boom`), false, true)},
	{"cut before acting", mintFault(Cut, false, false)},
	{"cut after acting", mintFault(CutAfterActing, false, true)},
	{"hangs after acting", mintFault(HangAfterActing, false, true)},
	{"garbage", mintFault(Garbage, false, false)},
	{"garbage after acting", mintFault(GarbageAfterActing, false, true)},
	{"redirect", mintFault(Status(http.StatusTemporaryRedirect, "", "Location", "http://127.0.0.1:1/"), false, false)},
	{"too many requests, shortly", func(t *testing.T, s Subject) {
		s.Server.InjectFault(2, s.Mints, TooManyRequests(0))
		client, target := s.Open(t)
		if c := mint(t, client, target, issuer.NewName("x")); !s.Pulls(c) {
			t.Error("want a credential that pulls")
		}
	}},
	{"down", func(t *testing.T, s Subject) {
		client, target := s.Open(t)
		s.Server.Close()
		_, err := client.Mint(t.Context(), issuer.Request{Name: issuer.NewName("x"), For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
		if !issuer.Definite(err) {
			t.Errorf("want a definite error, got %v", err)
		}
		holdsNone(t, err, s)
	}},
}

// mintFault returns a test of a fault of the call that mints. definite says whether
// the error must be definite, and acted whether a credential must be found by its
// name afterwards.
func mintFault(fault Fault, definite, acted bool) func(*testing.T, Subject) {
	return func(t *testing.T, s Subject) {
		client, target := s.Open(t)
		name := issuer.NewName("x")
		s.Server.InjectFault(-1, s.Mints, fault)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := client.Mint(ctx, issuer.Request{Name: name, For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
		if err == nil {
			t.Fatal("want an error")
		}
		if got := issuer.Definite(err); got && !definite {
			t.Errorf("want an error that is not definite, because the registry may have acted, got %v", err)
		} else if !got && definite {
			t.Errorf("want a definite error, got %v", err)
		}
		holdsNone(t, err, s)
		s.Server.ClearFaults()
		if s.Type.NoRevocation {
			return
		}
		revoked := len(s.Server.Calls())
		if err := client.RevokeNamed(t.Context(), target.Settings, name); err != nil {
			t.Errorf("RevokeNamed: %v", err)
		}
		deletes := slices.ContainsFunc(s.Server.Calls()[revoked:], func(call string) bool { return strings.HasPrefix(call, http.MethodDelete) })
		if deletes != acted {
			t.Errorf("RevokeNamed: want a deletion %v, got %v", acted, deletes)
		}
	}
}
