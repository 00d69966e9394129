// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// A snapshot restores Vault but not the registry. These tests find what
// docs/operations.md says about that.

// mintedBy returns the names of the credentials that do adds at a registry.
func mintedBy(living func() []string, do func()) []string {
	before := living()
	do()
	return slices.DeleteFunc(living(), func(name string) bool { return slices.Contains(before, name) })
}

func mustDelete(t *testing.T, client *api.Client, path string) {
	t.Helper()
	if _, err := client.Logical().Delete(path); err != nil {
		t.Fatalf("deleting %s: %v", path, err)
	}
}

// TestRestoringAnOldSnapshot uses a mount after a snapshot was saved, and then
// restores the snapshot.
func TestRestoringAnOldSnapshot(t *testing.T) {
	t.Parallel()
	v, lab := servers.StartRaftVault(t), gitlabtest.New(t)
	pulls := func(c issuer.Credential) bool { return lab.Pulls(c, gitlabtest.Project) }
	creds := func(role string) issuer.Credential {
		t.Helper()
		return credentialOf(read(t, v.Client, "regcred/creds/"+role))
	}
	connect(t, v.Client, "regcred/connections/gitlab", "gitlab", lab.Connection(), fields{"allowed_roles": "*"})
	write(t, v.Client, "regcred/roles/static", credential(nil))
	write(t, v.Client, "regcred/roles/ci", dynamic("gitlab", lab.Role(), fields{"mode": "leased", "ttl": "10m", "max_ttl": "1h"}))
	daily, often := fields{"rotation_period": "24h", "grace_period": "1s"}, fields{"rotation_period": "30s", "grace_period": "5s"}
	for role, periods := range map[string]fields{"daily": daily, "deleted": daily, "often": often} {
		write(t, v.Client, "regcred/roles/"+role, dynamic("gitlab", lab.Role(), periods))
	}
	old := map[string]issuer.Credential{"daily": creds("daily"), "deleted": creds("deleted"), "often": creds("often")}
	oldOften := time.Now()
	oldLease, err := v.Client.Logical().Read("regcred/creds/ci")
	if err != nil {
		t.Fatal(err)
	}
	snapshot := v.SaveSnapshot(t)

	// After the snapshot:
	newer := map[string]issuer.Credential{}
	var newLease *api.Secret
	orphans := mintedBy(lab.Living, func() {
		for _, role := range []string{"daily", "often"} {
			write(t, v.Client, "regcred/rotate/"+role, nil)
			newer[role] = creds(role)
		}
		write(t, v.Client, "regcred/roles/later", dynamic("gitlab", lab.Role(), daily))
		newer["later"] = creds("later")
		if newLease, err = v.Client.Logical().Read("regcred/creds/ci"); err != nil {
			t.Fatal(err)
		}
	})
	if len(orphans) != 4 {
		t.Fatalf("want four credentials minted, got %q", orphans)
	}
	write(t, v.Client, "regcred/rotate/often", nil) // the engine may do so by itself as well
	write(t, v.Client, "regcred/roles/static", fields{"password": marker + "-newer"})
	mustDelete(t, v.Client, "regcred/roles/deleted")
	if err := v.Client.Sys().RevokeWithOptions(revokeNow(oldLease.LeaseID)); err != nil {
		t.Fatal(err)
	}
	write(t, v.Client, "regcred/connections/gitlab", fields{"allowed_roles": "daily,often,later"})
	servers.Eventually(t, func() error {
		creds("daily") // starts the work that is due
		if pulls(old["daily"]) {
			return errors.New("the old credential still works")
		}
		return nil
	})
	time.Sleep(time.Until(oldOften.Add(30 * time.Second))) // so that it is overdue
	v.RestoreSnapshot(t, snapshot)

	t.Run("what is stored is what was stored then", func(t *testing.T) {
		if got := creds("static").Password.Reveal(); got != marker {
			t.Errorf("want the old password of a static role, got %q", got)
		}
		if diff := cmp.Diff([]any{"*"}, read(t, v.Client, "regcred/connections/gitlab")["allowed_roles"]); diff != "" {
			t.Errorf("allowed_roles (-want +got):\n%s", diff)
		}
		if secret, err := v.Client.Logical().Read("regcred/creds/later"); err != nil || secret != nil {
			t.Errorf("want status 404 for a role that was written since, got %v, %v", secret, err)
		}
	})
	t.Run("what was replaced or deleted since is served, and dead", func(t *testing.T) {
		for _, role := range []string{"daily", "deleted"} {
			if got := creds(role); !same(got, old[role]) || pulls(got) {
				t.Errorf("%s: want the old credential, which no longer pulls; same: %t, pulls: %t", role, same(got, old[role]), pulls(got))
			}
		}
		if _, err := v.Client.Sys().Renew(oldLease.LeaseID, 60); err != nil {
			t.Errorf("want a lease that was revoked since renewed, got %v", err)
		}
		if pulls(credentialOf(oldLease.Data)) {
			t.Error("want its credential dead")
		}
	})
	t.Run("what was minted since works, and Vault does not know it", func(t *testing.T) {
		for _, c := range []issuer.Credential{newer["daily"], newer["later"], credentialOf(newLease.Data)} {
			if !pulls(c) {
				t.Errorf("want the credential of %s alive", c.Username)
			}
		}
		if _, err := v.Client.Sys().Lookup(newLease.LeaseID); err == nil || !strings.Contains(err.Error(), "invalid lease") {
			t.Errorf("want no lease from after the snapshot, got %v", err)
		}
	})

	t.Run("what is overdue is replaced without a read", func(t *testing.T) {
		servers.Eventually(t, func() error {
			role := read(t, v.Client, "regcred/roles/often")
			if role["last_vault_rotation"].(string) <= oldOften.UTC().Add(29*time.Second).Format(time.RFC3339) {
				return fmt.Errorf("not yet: %v", role)
			}
			return nil
		})
		if !pulls(creds("often")) {
			t.Error("want a credential that pulls")
		}
	})
	t.Run("the operator's part", func(t *testing.T) {
		// Rotate often no more, because its credentials would come and go.
		write(t, v.Client, "regcred/roles/often", fields{"rotation_period": "24h"})
		mustDelete(t, v.Client, "regcred/roles/deleted")
		left := orphansAfterRotating(t, v, lab.Living, "daily", "often")
		// The credential of often lives 65 seconds, and may have ended.
		if left = slices.DeleteFunc(left, isOf("often")); len(left) != 3 {
			t.Errorf("want three orphans, got %q", left)
		}
		if diff := cmp.Diff(slices.DeleteFunc(orphans, isOf("often")), left); diff != "" {
			t.Errorf("orphans (-want +got):\n%s", diff)
		}
		for _, role := range []string{"daily", "often"} {
			if !pulls(creds(role)) {
				t.Errorf("%s: want a credential that pulls", role)
			}
		}
		for _, name := range left {
			lab.DeleteDeployToken(name)
		}
		if pulls(newer["daily"]) || !pulls(creds("daily")) {
			t.Error("want only the orphans revoked")
		}
	})
}

func isOf(role string) func(string) bool {
	return func(name string) bool { return strings.HasPrefix(name, "regcred-"+role+"-") }
}

// orphansAfterRotating finds orphans as docs/operations.md says: it replaces
// and revokes all that Vault knows, and returns what was there before and is
// still there.
func orphansAfterRotating(t *testing.T, v *servers.Vault, living func() []string, roles ...string) []string {
	t.Helper()
	before := living()
	if err := v.Client.Sys().RevokePrefix("regcred/creds"); err != nil {
		t.Fatal(err)
	}
	for _, role := range roles {
		write(t, v.Client, "regcred/rotate/"+role, nil)
	}
	servers.Eventually(t, func() error {
		for _, role := range roles {
			read(t, v.Client, "regcred/creds/"+role)
			if waiting := read(t, v.Client, "regcred/roles/"+role)["pending_revocations"]; waiting != nil {
				return fmt.Errorf("%s: %v", role, waiting)
			}
		}
		if leases := leasesBelow(t, v.Client, "regcred/creds"); len(leases) > 0 {
			return fmt.Errorf("leases %q", leases)
		}
		return nil
	})
	return slices.DeleteFunc(living(), func(name string) bool { return !slices.Contains(before, name) })
}

// TestRestoringFromBeforeRotateRoot loses the root credential that only Vault
// knew.
func TestRestoringFromBeforeRotateRoot(t *testing.T) {
	t.Parallel()
	v, lab := servers.StartRaftVault(t), gitlabtest.New(t)
	connect(t, v.Client, "regcred/connections/gitlab", "gitlab", lab.Connection(), fields{"allowed_roles": "*"})
	write(t, v.Client, "regcred/roles/my_app", dynamic("gitlab", lab.Role(), nil))
	before := credentialOf(read(t, v.Client, "regcred/creds/my_app"))
	snapshot := v.SaveSnapshot(t)
	lost := mintedBy(lab.Admins, func() { write(t, v.Client, "regcred/connections/gitlab/rotate-root", nil) })
	v.RestoreSnapshot(t, snapshot)

	const refused = "answered 401 Unauthorized"
	if _, err := v.Client.Logical().Read("regcred/connections/gitlab/check"); !isStatus(err, http.StatusBadGateway) || !strings.Contains(err.Error(), refused) {
		t.Errorf("check: want status 502 and %q, got %v", refused, err)
	}
	if _, err := v.Client.Logical().Write("regcred/rotate/my_app", nil); !isStatus(err, http.StatusBadGateway) || !strings.Contains(err.Error(), refused) {
		t.Errorf("rotate: want status 502 and %q, got %v", refused, err)
	}
	if got := credentialOf(read(t, v.Client, "regcred/creds/my_app")); !same(got, before) || !lab.Pulls(got, gitlabtest.Project) {
		t.Error("want the credential served as before, and working")
	}
	if len(lost) != 1 || !slices.Contains(lab.Admins(), lost[0]) {
		t.Errorf("want one token lost that works at GitLab, got %q of %q", lost, lab.Admins())
	}

	owner := lab.AddUser("owner", false)
	lab.SetMember(gitlabtest.Group, owner, gitlabtest.Owner)
	write(t, v.Client, "regcred/connections/gitlab", fields{"token": lab.AddToken(owner, "by hand", []string{"api"}, 90)})
	write(t, v.Client, "regcred/rotate/my_app", nil)
	if got := credentialOf(read(t, v.Client, "regcred/creds/my_app")); same(got, before) || !lab.Pulls(got, gitlabtest.Project) {
		t.Error("want a new credential that pulls, once there is a token again")
	}
	if !slices.Contains(lab.Admins(), lost[0]) {
		t.Errorf("%q was revoked; docs/operations.md says that only the operator does so", lost)
	}
}

// TestRestoringFromWithinAMint restores a snapshot that has the write-ahead
// entry of a credential that was served later. Vault no longer knows the
// credential, and revokes it.
func TestRestoringFromWithinAMint(t *testing.T) {
	t.Parallel()
	v, lab := servers.StartRaftVaultWith(t, servers.RaftOptions{Plugin: buildPlugin(t, "v0.1.0-dev", "-tags=killpoints")}), gitlabtest.New(t)
	connect(t, v.Client, "regcred/connections/gitlab", "gitlab", lab.Connection(), fields{"allowed_roles": "*"})
	write(t, v.Client, "regcred/roles/my_app", dynamic("gitlab", lab.Role(), nil))
	before := credentialOf(read(t, v.Client, "regcred/creds/my_app"))

	var snapshot []byte
	lab.Watch(func(r *http.Request) {
		if lab.MintMatch(r) {
			snapshot = v.SaveSnapshot(t)
		}
	}, nil)
	write(t, v.Client, "regcred/rotate/my_app", nil)
	lab.Watch(nil, nil)
	after := credentialOf(read(t, v.Client, "regcred/creds/my_app"))
	v.RestoreSnapshot(t, snapshot)

	if !lab.Pulls(after, gitlabtest.Project) {
		t.Fatal("want the last served credential alive until rollback")
	}
	if _, err := v.Client.Logical().Write("regcred/killpoints/rollback", nil); err != nil {
		t.Fatal(err)
	}
	if lab.Pulls(after, gitlabtest.Project) {
		t.Error("want the credential revoked that Vault no longer knows")
	}
	if got := credentialOf(read(t, v.Client, "regcred/creds/my_app")); !same(got, before) || !lab.Pulls(got, gitlabtest.Project) {
		t.Error("want the one that was served then served again, and working")
	}
}

// TestRestoringAtGitea finds and deletes by hand the tokens that Gitea would
// keep forever.
func TestRestoringAtGitea(t *testing.T) {
	t.Parallel()
	v, g := servers.StartRaftVault(t), servers.StartGitea(t)
	proxy := g.Proxy(t)
	image := pushedToGitea(t, g, proxy.Puller)
	connect(t, v.Client, "regcred/connections/gitea", "gitea", proxy.Connection(), fields{"allowed_roles": "*"})
	write(t, v.Client, "regcred/roles/my_app", dynamic("gitea", proxy.Role(), fields{"grace_period": "1s"}))
	write(t, v.Client, "regcred/roles/ci", dynamic("gitea", proxy.Role(), fields{"mode": "leased"}))
	old := credentialOf(read(t, v.Client, "regcred/creds/my_app"))
	snapshot := v.SaveSnapshot(t)
	var since issuer.Credential
	orphans := mintedBy(proxy.Living, func() {
		write(t, v.Client, "regcred/rotate/my_app", nil)
		since = credentialOf(read(t, v.Client, "regcred/creds/my_app"))
		read(t, v.Client, "regcred/creds/ci")
		servers.Eventually(t, func() error {
			read(t, v.Client, "regcred/creds/my_app")
			if waiting := read(t, v.Client, "regcred/roles/my_app")["pending_revocations"]; waiting != nil {
				return fmt.Errorf("%v", waiting)
			}
			return nil
		})
	})
	v.RestoreSnapshot(t, snapshot)

	if got := credentialOf(read(t, v.Client, "regcred/creds/my_app")); !same(got, old) || pulls(t, image, got) {
		t.Error("want the old credential served, which no longer pulls")
	}
	left := orphansAfterRotating(t, v, proxy.Living, "my_app")
	if diff := cmp.Diff(orphans, left); diff != "" || len(left) != 2 {
		t.Errorf("want two orphans (-want +got):\n%s", diff)
	}
	if !pulls(t, image, since) {
		t.Error("want the orphan alive")
	}
	for _, name := range left {
		g.Operate(t, http.MethodDelete, "/users/"+proxy.Puller.Name+"/tokens/"+name, http.StatusNoContent, nil, nil)
	}
	if pulls(t, image, since) || !pulls(t, image, credentialOf(read(t, v.Client, "regcred/creds/my_app"))) {
		t.Error("want only the orphans revoked")
	}
}

// TestRestoringFromBeforeAnUpgrade restores a plugin catalog that names a
// program which is gone.
func TestRestoringFromBeforeAnUpgrade(t *testing.T) {
	t.Parallel()
	v := servers.StartRaftVault(t)
	write(t, v.Client, "regcred/roles/app", credential(nil))
	snapshot := v.SaveSnapshot(t)
	const version = "v9.9.9"
	v.Register(t, buildPlugin(t, version), servers.PluginName+"-"+version, version)
	tune(t, v, version)
	reload(t, v)
	program := filepath.Join(v.PluginDir, servers.PluginName)
	if err := os.Rename(program, program+"-away"); err != nil {
		t.Fatal(err)
	}
	v.RestoreSnapshot(t, snapshot)

	for _, path := range []string{"regcred/creds/app", "regcred/config"} {
		if secret, err := v.Client.Logical().Read(path); err != nil || secret != nil {
			t.Errorf("%s: want status 404 from a Vault without the program, got %v, %v", path, secret, err)
		}
	}
	if said := "core: skipping plugin-based mount entry: path=regcred/"; !strings.Contains(v.Log(), said) {
		t.Errorf("want %q in Vault's log", said)
	}
	if err := os.Rename(program+"-away", program); err != nil {
		t.Fatal(err)
	}
	reload(t, v)
	if got := read(t, v.Client, "regcred/creds/app")["password"]; got != marker {
		t.Errorf("want the role read with the program put back, got %v", got)
	}
	_, err := v.Client.Logical().Write("regcred/roles/app", fields{"password": marker + "-newer"})
	if said := "cannot write to storage during setup"; err == nil || !strings.Contains(err.Error(), said) {
		t.Errorf("want %q until the next unseal, got %v", said, err)
	}
	if err := v.Client.Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	v.Unseal(t)
	write(t, v.Client, "regcred/roles/app", fields{"password": marker + "-newer"})
}
