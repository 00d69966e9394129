// SPDX-License-Identifier: MPL-2.0

package harbor_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// rootOf returns the root credential of a connection.
func rootOf(c issuer.Connection) issuer.Root {
	return issuer.Root{Settings: c.Settings, Secrets: c.Secrets}
}

// replace prepares the next root credential of a connection, and returns a client that is
// open with it.
func replace(t *testing.T, s *harbortest.Server, c issuer.Connection) *issuer.Client {
	t.Helper()
	client, _ := subject(s, c, harbortest.Project).Open(t)
	root, err := client.PrepareRoot(t.Context(), "regcred-root-2")
	if err == nil {
		err = client.ActivateRoot(t.Context(), root)
	}
	if err != nil {
		t.Fatal(err)
	}
	renewed, _ := subject(s, c.With(root), harbortest.Project).Open(t)
	return renewed
}

// works reports whether Harbor accepts a root credential.
func works(t *testing.T, s *harbortest.Server, c issuer.Connection) bool {
	t.Helper()
	client, _ := subject(s, c, harbortest.Project).Open(t)
	_, err := client.Check(t.Context())
	return err == nil
}

func TestPreparingAPasswordTellsHarborNothing(t *testing.T) {
	s := harbortest.New(t)
	client, _ := subject(s, s.Connection(), harbortest.Project).Open(t)
	first, err := client.PrepareRoot(t.Context(), "regcred-root-1")
	if err != nil {
		t.Fatal(err)
	}
	second, err := client.PrepareRoot(t.Context(), "regcred-root-2")
	if err != nil || first.Secrets["password"].Equal(second.Secrets["password"]) {
		t.Errorf("want another password each time, got %v", err)
	}
	if length := len(first.Secrets["password"].Reveal()); length != 55 {
		t.Errorf("want 55 characters, as documented, got %d", length)
	}
	if err := client.DiscardRoot(t.Context(), "regcred-root-1"); err != nil {
		t.Errorf("DiscardRoot: %v", err)
	}
	if len(first.Settings) != 0 || !works(t, s, s.Connection()) || works(t, s, s.Connection().With(first)) {
		t.Error("want the same user, with the old password")
	}
	for _, call := range s.Calls() {
		if !strings.HasPrefix(call, http.MethodGet) {
			t.Errorf("want no change at Harbor, got %s", call)
		}
	}
}

// The answer to the change was lost, so the change is repeated.
func TestActivateAgainAfterThePasswordHasChanged(t *testing.T) {
	s := harbortest.New(t)
	client, _ := subject(s, s.Connection(), harbortest.Project).Open(t)
	root, err := client.PrepareRoot(t.Context(), "regcred-root")
	if err != nil {
		t.Fatal(err)
	}
	s.InjectFault(1, issuertest.Method(http.MethodPut), issuertest.CutAfterActing)
	if err := client.ActivateRoot(t.Context(), root); err == nil || issuer.Definite(err) {
		t.Errorf("want an error that is not definite, got %v", err)
	}
	if err := client.ActivateRoot(t.Context(), root); err != nil {
		t.Errorf("want no error, got %v", err)
	}
	if works(t, s, s.Connection()) || !works(t, s, s.Connection().With(root)) {
		t.Error("want the new password in force")
	}
	renewed, _ := subject(s, s.Connection().With(root), harbortest.Project).Open(t)
	if err := renewed.RetireRoot(t.Context(), rootOf(s.Connection())); err != nil {
		t.Errorf("RetireRoot: %v", err)
	}
}

// While Harbor locks the user, either password may be the valid one.
func TestActivateIsNotDefiniteWhereBothPasswordsAreRefused(t *testing.T) {
	s := harbortest.New(t)
	client, _ := subject(s, s.Connection(), harbortest.Project).Open(t)
	root, err := client.PrepareRoot(t.Context(), "regcred-root")
	if err != nil {
		t.Fatal(err)
	}
	s.InjectFault(2, nil, issuertest.Status(http.StatusUnauthorized, `{"errors":[{"code":"UNAUTHORIZED","message":"unauthorized"}]}`))
	err = client.ActivateRoot(t.Context(), root)
	if err == nil || issuer.Definite(err) || !strings.Contains(err.Error(), "the old and the new password of vault") {
		t.Errorf("want an error that is not definite, got %v", err)
	}
	if strings.Contains(err.Error(), root.Secrets["password"].Reveal()) {
		t.Errorf("the error repeats a secret: %v", err)
	}
	if err := client.ActivateRoot(t.Context(), root); err != nil || !works(t, s, s.Connection().With(root)) {
		t.Errorf("want the new password in force, got %v", err)
	}
}

func TestActivateSaysWhatHarborRefuses(t *testing.T) {
	s := harbortest.New(t)
	client, _ := subject(s, s.Connection(), harbortest.Project).Open(t)
	root, err := client.PrepareRoot(t.Context(), "regcred-root")
	if err != nil {
		t.Fatal(err)
	}
	s.SetAuthMode("oidc_auth")
	err = client.ActivateRoot(t.Context(), root)
	if issuer.StatusOf(err) != http.StatusForbidden || !strings.Contains(err.Error(), "can't be updated") {
		t.Errorf("want 403, got %v", err)
	}
	if !works(t, s, s.Connection()) {
		t.Error("want the old password to work")
	}
}

func TestPrepareRefusesUsersWhosePasswordHarborDoesNotKeep(t *testing.T) {
	for _, mode := range []string{"ldap_auth", "oidc_auth", "uaa_auth", "http_auth"} {
		s := harbortest.New(t)
		s.SetAuthMode(mode)
		client, _ := subject(s, s.Connection(), harbortest.Project).Open(t)
		_, err := client.PrepareRoot(t.Context(), "regcred-root")
		want := "Harbor does not keep the password of vault, because its users come from another source (" + mode + "): change it there and write it to the connection, or use a robot account"
		if err == nil || !strings.HasSuffix(err.Error(), ": "+want) || !issuer.Definite(err) {
			t.Errorf("%s: want %q, got %v", mode, want, err)
		}
		s.AddUser("admin", "Harbor-Pass1", true)
		admin := s.ConnectionAs("admin", "Harbor-Pass1")
		local, _ := subject(s, admin, harbortest.Project).Open(t)
		root, err := local.PrepareRoot(t.Context(), "regcred-root")
		if err == nil {
			err = local.ActivateRoot(t.Context(), root)
		}
		if err != nil || works(t, s, admin) || !works(t, s, admin.With(root)) {
			t.Errorf("%s: want another password for Harbor's own admin, got %v", mode, err)
		}
	}
}

func TestRobotAccountIsReplacedByItsLike(t *testing.T) {
	for name, c := range map[string]struct {
		in          string
		permissions []harbortest.Permission
		days        int64
		want        string
	}{
		"of a project": {"apps", harbortest.Manages("apps"), 90, "robot$apps+regcred-root-2"},
		"system-level": {"", append(harbortest.Manages("apps", "tools"), harbortest.ManagesSystem()), -1, "robot$regcred-root-2"},
	} {
		t.Run(name, func(t *testing.T) {
			s := harbortest.New(t)
			s.RefuseAcrossLevels()
			c.permissions[0].Access[0].Effect = "allow" // the copy keeps Harbor's effect
			old := s.ConnectionAs(s.AddRobot(c.in, "root-1", c.days, c.permissions...))
			client, _ := subject(s, old, harbortest.Project).Open(t)
			before, err := client.Check(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			root, err := client.PrepareRoot(t.Context(), "regcred-root-2")
			if err != nil || root.Settings["username"] != c.want {
				t.Fatalf("want %s, got %v, %v", c.want, root.Settings, err)
			}
			if diff := cmp.Diff(s.Permissions(old.Settings["username"]), s.Permissions(c.want)); diff != "" {
				t.Errorf("want the same permissions: %s", diff)
			}
			renewed, _ := subject(s, old.With(root), harbortest.Project).Open(t)
			after, err := renewed.Check(t.Context())
			if err != nil || before.ExpiresAt.IsZero() != after.ExpiresAt.IsZero() || after.ExpiresAt.Before(before.ExpiresAt) {
				t.Errorf("want it to last as long, %s, got %s, %v", before.ExpiresAt, after.ExpiresAt, err)
			}
			if err := renewed.RetireRoot(t.Context(), rootOf(old)); err != nil {
				t.Errorf("RetireRoot: %v", err)
			}
			if diff := cmp.Diff([]string{c.want, "vault"}, s.Admins()); diff != "" {
				t.Errorf("administrators: %s", diff)
			}
		})
	}
}

func TestDiscardEndsOnlyWhatWasPrepared(t *testing.T) {
	for name, as := range map[string]func(*harbortest.Server) issuer.Connection{"of a project": asProjectRobot, "system-level": asSystemRobot} {
		t.Run(name, func(t *testing.T) {
			s := harbortest.New(t)
			client, _ := subject(s, as(s), harbortest.Project).Open(t)
			before := s.Admins()
			s.InjectFault(1, s.MintMatch, issuertest.CutAfterActing)
			if _, err := client.PrepareRoot(t.Context(), "regcred-root"); err == nil || issuer.Definite(err) {
				t.Fatalf("want an error that is not definite, got %v", err)
			}
			if diff := cmp.Diff(before, s.Admins()); diff == "" {
				t.Fatal("want one more")
			}
			for range 2 {
				if err := client.DiscardRoot(t.Context(), "regcred-root"); err != nil {
					t.Errorf("DiscardRoot: %v", err)
				}
			}
			if diff := cmp.Diff(before, s.Admins()); diff != "" {
				t.Errorf("administrators: %s", diff)
			}
		})
	}
}

// The answer to the deletion was lost, and the repetition finds nothing.
func TestRetireWhereTheAnswerIsLost(t *testing.T) {
	s := harbortest.New(t)
	old := asProjectRobot(s)
	renewed := replace(t, s, old)
	s.InjectFault(1, issuertest.Method(http.MethodDelete), issuertest.CutAfterActing)
	for range 2 {
		if err := renewed.RetireRoot(t.Context(), rootOf(old)); err != nil {
			t.Errorf("RetireRoot: %v", err)
		}
	}
	if admins := s.Admins(); !slices.Equal(admins, []string{"robot$apps+regcred-root-2", "vault"}) {
		t.Errorf("want it gone, got %v", admins)
	}
}

func TestRetireFailsWhereTheRobotAccountStays(t *testing.T) {
	for name, fault := range map[string]issuertest.Fault{
		"refused":    issuertest.Status(http.StatusForbidden, "{}"),
		"permission": issuertest.Status(http.StatusNotFound, `{"errors":[{"code":"NOT_FOUND","message":"role permission robotaccount:5 not found"}]}`),
	} {
		s := harbortest.New(t)
		old := asProjectRobot(s)
		renewed := replace(t, s, old)
		s.InjectFault(-1, issuertest.Method(http.MethodDelete), fault)
		if err := renewed.RetireRoot(t.Context(), rootOf(old)); err == nil || !works(t, s, old) {
			t.Errorf("%s: want an error, and the old one to work still, got %v", name, err)
		}
	}
}

// While Harbor's database is down, the old one is refused and lives. A disabled one is
// refused and may be enabled again.
func TestRetireDoesNotTakeARefusalForAnEnd(t *testing.T) {
	for name, as := range map[string]func(*harbortest.Server) issuer.Connection{"of a project": asProjectRobot, "system-level": asSystemRobot} {
		t.Run(name, func(t *testing.T) {
			s := harbortest.New(t)
			old := as(s)
			renewed := replace(t, s, old)
			for _, down := range []func(){func() { s.SetDatabaseDown(true) }, s.SetDatabaseJustDown} {
				down()
				if err := renewed.RetireRoot(t.Context(), rootOf(old)); err == nil {
					t.Error("want an error while the database is down")
				}
				s.SetDatabaseDown(false)
				if !works(t, s, old) {
					t.Fatal("want the old one to work still")
				}
			}
			s.Disable(old.Settings["username"])
			if err := renewed.RetireRoot(t.Context(), rootOf(old)); err != nil {
				t.Errorf("RetireRoot of a disabled one: %v", err)
			}
			client, _ := subject(s, asSystemAdmin(s), harbortest.Project).Open(t)
			if err := client.RetireRoot(t.Context(), rootOf(old)); err != nil {
				t.Errorf("RetireRoot of what is gone: %v", err)
			}
			if slices.Contains(s.Names(), old.Settings["username"]) {
				t.Error("want the disabled one gone")
			}
		})
	}
}

// A root credential that was written by hand meanwhile may not look for the old one,
// which then deletes itself.
func TestRetireWithARootCredentialOfAnotherProject(t *testing.T) {
	s := harbortest.New(t)
	old := asProjectRobot(s)
	other := s.ConnectionAs(s.AddRobot(harbortest.OtherProject, "regcred", -1, harbortest.Manages(harbortest.OtherProject)...))
	client, _ := subject(s, other, harbortest.OtherProject).Open(t)
	for range 2 {
		if err := client.RetireRoot(t.Context(), rootOf(old)); err != nil || works(t, s, old) {
			t.Errorf("want the old one gone, got %v", err)
		}
	}
}

func TestPrepareRobotAccountRefusesWhereItMayNotMakeItsLike(t *testing.T) {
	s := harbortest.New(t)
	own := harbortest.Manages(harbortest.Project)
	own[0].Access = slices.DeleteFunc(own[0].Access, func(a harbortest.Access) bool { return a.Resource == "robot" && a.Action == "create" })
	client, _ := subject(s, s.ConnectionAs(s.AddRobot(harbortest.Project, "regcred", -1, own...)), harbortest.Project).Open(t)
	if _, err := client.PrepareRoot(t.Context(), "regcred-root"); issuer.StatusOf(err) != http.StatusForbidden || !issuer.Definite(err) {
		t.Errorf("want 403, definite, got %v", err)
	}
}

func TestPreparedPasswordsKeepHarborsRule(t *testing.T) {
	s := harbortest.New(t)
	connection := s.Connection()
	for range 20 {
		client, _ := subject(s, connection, harbortest.Project).Open(t)
		root, err := client.PrepareRoot(t.Context(), "regcred-root")
		if err == nil {
			err = client.ActivateRoot(t.Context(), root)
		}
		if err != nil {
			t.Fatal(err)
		}
		connection = connection.With(root)
	}
	client, target := subject(s, connection, harbortest.Project).Open(t)
	if _, err := client.Mint(t.Context(), request(target, "ci")); err != nil {
		t.Error(err)
	}
}

// A system-level robot account is one of many, each with many permissions in many
// projects: a page of a hundred of them is larger than an answer may be.
func TestRobotAccountOfTheSystemFindsItselfAmongMany(t *testing.T) {
	var permissions []harbortest.Permission
	for i := range 20 {
		permission := harbortest.Permission{Kind: "project", Namespace: fmt.Sprintf("project-%d", i)}
		for j := range 60 {
			permission.Access = append(permission.Access, harbortest.Access{Resource: fmt.Sprintf("resource-%d", j), Action: "read"})
		}
		permissions = append(permissions, permission)
	}
	for prefix, requests := range map[string]int{
		"robot$": 1,  // what follows the prefix is looked for
		"bot-":   12, // that is not known, so the list is read
	} {
		t.Run(prefix, func(t *testing.T) {
			s := harbortest.New(t)
			s.SetPrefix(prefix)
			for i := range 100 {
				s.AddRobot("", fmt.Sprintf("other-%d", i), -1, permissions...)
			}
			name, secret := s.AddRobot("", "vault_1", -1, slices.Concat(permissions, harbortest.Manages(harbortest.Project), []harbortest.Permission{harbortest.ManagesSystem()})...)
			client, _ := subject(s, s.ConnectionAs(name, secret), harbortest.Project).Open(t)
			status, err := client.Check(t.Context())
			if err != nil || status.Identity != name {
				t.Errorf("want the identity %s, got %q, %v", name, status.Identity, err)
			}
			lists := 0
			for _, call := range s.Calls() {
				if strings.HasSuffix(call, "/robots") {
					lists++
				}
			}
			if lists != requests {
				t.Errorf("want %d requests for robot accounts, got %d", requests, lists)
			}
		})
	}
}

// While pages are read, others may delete robot accounts, and the following ones move to
// a page that was already read.
func TestListOfRobotAccountsThatChangesIsReadAgain(t *testing.T) {
	s := harbortest.New(t)
	s.SetPrefix("bot-")
	for i := range 30 {
		s.AddRobot("", fmt.Sprintf("other-%02d", i), -1, harbortest.ManagesSystem())
	}
	name, secret := s.AddRobot("", "other-10-vault", -1, append(harbortest.Manages(harbortest.Project), harbortest.ManagesSystem())...)
	deleted := false
	s.Watch(func(r *http.Request) {
		if r.URL.Query().Get("page") == "2" && !deleted && r.URL.Query().Get("q") == "" {
			deleted = true
			s.DeleteRobot("other-00")
			s.DeleteRobot("other-01")
		}
	}, nil)
	client, _ := subject(s, s.ConnectionAs(name, secret), harbortest.Project).Open(t)
	if status, err := client.Check(t.Context()); err != nil || status.Identity != name {
		t.Errorf("want the identity %s, got %q, %v", name, status.Identity, err)
	}
	if !deleted {
		t.Error("nothing was deleted, so the test proves nothing")
	}
}
