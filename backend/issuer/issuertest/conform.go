// SPDX-License-Identifier: MPL-2.0

package issuertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
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

	// Living returns the names of the credentials that work now. It is nil for a real
	// registry.
	Living func() []string

	// CountAnew gives the ID of each credential to another one with a name of its own,
	// and returns these names. The former ones get other IDs if they are kept, and are
	// gone otherwise. It is nil for a real registry.
	CountAnew func(keep bool) []string

	// Outage makes the registry refuse right credentials, as its own outages do, or
	// ends that. It is nil if no such outage is known.
	Outage func(on bool)

	// BadSecrets replace the connection's secrets, and the server refuses them. A
	// connection that takes identity tokens has none.
	BadSecrets issuer.Secrets
}

func (s Subject) can() issuer.Abilities { return s.Type.AbilitiesOf(s.Connection) }

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
	t.Run("identity tokens", func(t *testing.T) { keepsIdentityTokens(t, fresh) })
	t.Run("root credential is replaced", func(t *testing.T) { rotatesRoot(t, fresh(t)) })
	t.Run("foreign credentials", func(t *testing.T) { leavesForeignCredentials(t, fresh) })
	t.Run("answers of others", func(t *testing.T) { believesNoOther(t, fresh) })
	t.Run("outage", func(t *testing.T) { believesNoOutage(t, fresh(t)) })
	t.Run("faults", func(t *testing.T) {
		if fresh(t).Server == nil {
			return
		}
		for _, f := range faults {
			t.Run(f.name, func(t *testing.T) { f.try(t, fresh(t)) })
		}
	})
}

// mint mints a credential for six hours, or for as long as the registry allows, and
// fails the test if it cannot.
func mint(t *testing.T, client *issuer.Client, target issuer.Target, name string) issuer.Credential {
	t.Helper()
	lifetime := 6 * time.Hour
	if target.MaxLifetime > 0 {
		lifetime = min(lifetime, target.MaxLifetime)
	}
	until := time.Now().Add(lifetime)
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
	} else if !maps.Equal(status.Declared, s.Connection.Declared) {
		t.Errorf("Check: want the declaration that the connection has, %v, got %v", s.Connection.Declared, status.Declared)
	}
	name := issuer.NewName("My_App.1")
	second := mint(t, client, target, issuer.NewName("My_App.1"))
	first := mint(t, client, target, name)
	for _, c := range []issuer.Credential{first, second} {
		if _, err := dockerconfig.ParseUsername(c.Username); err != nil {
			t.Errorf("user name %q: %v", c.Username, err)
		}
		if !s.Pulls(c) {
			t.Errorf("want a credential that pulls")
		}
	}
	if !s.can().Revoke {
		return
	}
	if err := client.Revoke(t.Context(), target.Settings, name, first.ID); err != nil {
		t.Fatalf("Revoke: %v", err)
	}
	if s.Pulls(first) || !s.Pulls(second) {
		t.Errorf("want the first credential to be refused and the second not; pulls: %v, %v", s.Pulls(first), s.Pulls(second))
	}
	if err := client.Revoke(t.Context(), target.Settings, name, first.ID); err != nil {
		t.Errorf("Revoke again: want no error, got %v", err)
	}
	if !s.can().Find {
		return
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
	if s.Connection.TakesIdentityToken() {
		s.Connection.IdentityToken = func(context.Context) (dockerconfig.Secret, error) {
			return dockerconfig.NewSecret(foreignToken), nil
		}
	} else {
		s.Connection.Secrets = s.BadSecrets
	}
	client, _ := s.Open(t)
	_, err := client.Check(t.Context())
	if status := issuer.StatusOf(err); status != http.StatusUnauthorized && status != http.StatusForbidden && status != http.StatusBadRequest {
		t.Errorf("Check: want the registry's refusal, got %v", err)
	}
	_, err = client.Mint(t.Context(), issuer.Request{Name: issuer.NewName("x"), For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
	if !issuer.Definite(err) {
		t.Errorf("Mint: want an error that is definite, got %v", err)
	}
	holdsNone(t, err, s, foreignToken)
}

// foreignToken is an identity token that no server trusts.
const foreignToken = "identity-of-another-mount"

// keepsIdentityTokens tests a connection that proves who it is by identity tokens: a token
// is asked for anew for each call, is in no error, and where there is none, nothing is sent.
func keepsIdentityTokens(t *testing.T, fresh func(t *testing.T) Subject) {
	if !fresh(t).Connection.TakesIdentityToken() {
		return
	}
	try := func(ctx context.Context, s Subject) error {
		client, target := s.Open(t)
		_, err := client.Mint(ctx, issuer.Request{Name: issuer.NewName("x"), For: target.Settings, ExpiresAt: time.Now().Add(time.Hour)})
		return err
	}
	s := fresh(t)
	var given []string
	ask := s.Connection.IdentityToken
	s.Connection.IdentityToken = func(ctx context.Context) (dockerconfig.Secret, error) {
		token, err := ask(ctx)
		given = append(given, token.Reveal())
		return token, err
	}
	s.Server.InjectFault(-1, nil, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		text, _ := url.QueryUnescape(body(r))
		w.WriteHeader(http.StatusBadRequest)
		said, _ := json.Marshal(text)
		_, _ = fmt.Fprintf(w, `{"error":%s,"error_description":%s}`, said, said)
	})
	for range 2 {
		err := try(t.Context(), s)
		if err == nil {
			t.Error("want an error")
		}
		holdsNone(t, err, s, given...)
	}
	if slices.Sort(given); len(slices.Compact(given)) != 2 {
		t.Errorf("want a token for each call, got %d", len(given))
	}

	s = fresh(t)
	s.Connection.IdentityToken = func(context.Context) (dockerconfig.Secret, error) {
		return dockerconfig.Secret{}, issuer.Refusedf("Vault says no")
	}
	if err := try(t.Context(), s); !issuer.Definite(err) || !strings.Contains(err.Error(), "Vault says no") || len(s.Server.Calls()) > 0 {
		t.Errorf("want a definite error and no call, got %v and %q", err, s.Server.Calls())
	}
	client, _ := s.Open(t)
	if _, err := client.PrepareRoot(t.Context(), issuer.NewName("root")); !errors.Is(err, issuer.ErrNothingToRotate) {
		t.Errorf("PrepareRoot: want %q, got %v", issuer.ErrNothingToRotate, err)
	}

	s = fresh(t)
	s.Connection.IdentityToken = func(ctx context.Context) (dockerconfig.Secret, error) {
		<-ctx.Done()
		return dockerconfig.Secret{}, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := try(ctx, s); err == nil || len(s.Server.Calls()) > 0 {
		t.Errorf("want an error and no call, got %v and %q", err, s.Server.Calls())
	}
}

// body returns the body of a request.
func body(r *http.Request) string {
	text, _ := io.ReadAll(r.Body)
	return string(text)
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
	if errors.Is(err, issuer.ErrRootNotRotatable) || errors.Is(err, issuer.ErrNothingToRotate) {
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
		if err := client.RetireRoot(t.Context(), rootOf(s.Connection)); err != nil {
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

func rootOf(c issuer.Connection) issuer.Root {
	return issuer.Root{Settings: c.Settings, Secrets: c.Secrets}
}

// leavesForeignCredentials revokes, where other credentials have the IDs now. One that
// has the name under another ID is revoked.
func leavesForeignCredentials(t *testing.T, fresh func(t *testing.T) Subject) {
	for _, kept := range []bool{false, true} {
		for call, revoke := range map[string]func(*issuer.Client, issuer.Target, string, string) error{
			"Revoke": func(c *issuer.Client, target issuer.Target, name, id string) error {
				return c.Revoke(t.Context(), target.Settings, name, id)
			},
			"RevokeNamed": func(c *issuer.Client, target issuer.Target, name, _ string) error {
				return c.RevokeNamed(t.Context(), target.Settings, name)
			},
		} {
			s := fresh(t)
			if s.CountAnew == nil || !s.can().Find {
				return
			}
			client, target := s.Open(t)
			name := issuer.NewName("My_App.1")
			minted := mint(t, client, target, name)
			foreign := s.CountAnew(kept)
			if living := s.Living(); slices.Contains(living, name) != kept || len(foreign) == 0 {
				t.Fatalf("want the minted one to work: %v, and another with its ID, got %v and %v", kept, living, foreign)
			}
			if err := revoke(client, target, name, minted.ID); err != nil {
				t.Errorf("%s, kept %v: want no error, got %v", call, kept, err)
			}
			if living := s.Living(); !slices.Equal(living, foreign) {
				t.Errorf("%s, kept %v: want only the other ones to work, %v, got %v", call, kept, foreign, living)
			}
			if err := client.Revoke(t.Context(), target.Settings, foreign[0], minted.ID); err == nil || !slices.Equal(s.Living(), foreign) {
				t.Errorf("%s, kept %v: want a name that the engine did not create to be refused, got %v and %v", call, kept, err, s.Living())
			}
		}
	}
}

// others are bodies of answers that are not the registry's own, or not about what was
// asked for. Each comes with each of the statuses 401 and 404.
var others = map[string]struct{ contentType, body string }{
	"plain text":   {"text/plain", "default backend - 404"},
	"page":         {"text/html", "<html><head><title>404 Not Found</title></head></html>"},
	"other JSON":   {"application/json", `{"message":"no Route matched with those values"}`},
	"error":        {"application/json", `{"error":"404 Not Found"}`},
	"OCI registry": {"application/json", `{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}`},
	"no route":     {"application/json", `{"errors":[{"code":"NOT_FOUND","message":"path /api/v2.0/x was not found"}]}`},
	"permission":   {"application/json", `{"errors":[{"code":"NOT_FOUND","message":"role permission robotaccount:56 not found"}]}`},
	"list":         {"application/json", `[]`},
	"nothing":      {"", ""},
}

// believesNoOther has another server answer in place of the registry, as a proxy does
// while the registry is down or its route is missing. Nothing counts as ended, and the
// root credential does not count as refused.
func believesNoOther(t *testing.T, fresh func(t *testing.T) Subject) {
	s := fresh(t)
	if s.Living == nil || !s.can().Revoke {
		return
	}
	client, target := s.Open(t)
	name := issuer.NewName("x")
	minted := mint(t, client, target, name)
	for what, other := range others {
		for _, status := range []int{http.StatusNotFound, http.StatusUnauthorized} {
			for where, match := range map[string]func(*http.Request) bool{"everywhere": nil, "deletions": Method(http.MethodDelete)} {
				s.Server.InjectFault(-1, match, Status(status, other.body, "Content-Type", other.contentType))
				if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); err == nil {
					t.Errorf("%d %s, %s: want an error of Revoke", status, what, where)
				}
				if err := client.RevokeNamed(t.Context(), target.Settings, name); err == nil {
					t.Errorf("%d %s, %s: want an error of RevokeNamed", status, what, where)
				}
				s.Server.ClearFaults()
			}
			s.Server.InjectFault(-1, nil, Status(status, other.body, "Content-Type", other.contentType))
			if _, err := client.Check(t.Context()); err == nil || refused(err) {
				t.Errorf("%d %s: want an error of Check that does not say that the root credential is refused, got %v", status, what, err)
			}
			s.Server.ClearFaults()
		}
	}
	if !s.Pulls(minted) {
		t.Error("want the credential to work still")
	}
	if err := client.Revoke(t.Context(), target.Settings, name, minted.ID); err != nil || s.Pulls(minted) {
		t.Errorf("want it revoked in the end, got %v", err)
	}
}

func refused(err error) bool {
	status := issuer.StatusOf(err)
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// believesNoOutage makes the registry refuse everybody. Nothing counts as ended, and the
// root credential does not count as refused.
func believesNoOutage(t *testing.T, s Subject) {
	if s.Outage == nil {
		return
	}
	old, target := s.Open(t)
	name := issuer.NewName("x")
	minted := mint(t, old, target, name)
	root, err := old.PrepareRoot(t.Context(), issuer.NewName("root"))
	if err != nil {
		t.Fatal(err)
	}
	renewed := s
	renewed.Connection = s.Connection.With(root)
	client, _ := renewed.Open(t)
	_, err = client.Check(t.Context())
	active := err == nil // without activation, as a token is
	s.Outage(true)
	for call, err := range map[string]error{
		"Revoke":       old.Revoke(t.Context(), target.Settings, name, minted.ID),
		"RevokeNamed":  old.RevokeNamed(t.Context(), target.Settings, name),
		"ActivateRoot": old.ActivateRoot(t.Context(), root),
		"DiscardRoot":  old.DiscardRoot(t.Context(), issuer.NewName("root")),
		"RetireRoot":   client.RetireRoot(t.Context(), rootOf(s.Connection)),
	} {
		if err == nil && (call != "ActivateRoot" || !active) {
			t.Errorf("%s: want an error", call)
		}
		if refused(err) {
			t.Errorf("%s: want no refusal of the root credential, got %v", call, err)
		}
	}
	if _, err := old.Check(t.Context()); err == nil || refused(err) {
		t.Errorf("Check: want an error that does not say that the root credential is refused, got %v", err)
	}
	s.Outage(false)
	if _, err := old.Check(t.Context()); err != nil || !s.Pulls(minted) {
		t.Errorf("want the root credential and the minted one to work still, got %v, pulls %v", err, s.Pulls(minted))
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
		if !s.can().Find {
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
