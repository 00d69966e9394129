// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/storagetest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestDumpsOnARealVault puts what each earlier build stored into the storage of
// a Vault, with Vault's own entries for the leases. Today's build must serve it
// and continue with it, and end what the earlier build left half done.
func TestDumpsOnARealVault(t *testing.T) {
	t.Parallel()
	for name, dump := range storagetest.Load(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := restore(t, dump)
			r.serves(t)
			r.registries.Recover()
			r.goesOn(t)
			r.endsLeases(t)
			r.endsWhatWasHalfDone(t)
			r.movesConnection(t)
			r.deletesAll(t)
		})
	}
}

// restored is a Vault with the storage of a dump.
type restored struct {
	*servers.Vault
	dump       *storagetest.Dump
	registries *storagetest.Registries
	mount      string // in Vault's storage
	givenUp    []string
}

// restore returns with all registries failing, so that nothing changes yet.
func restore(t *testing.T, dump *storagetest.Dump) *restored {
	t.Helper()
	v := servers.StartRaftVaultWith(t, servers.RaftOptions{Settings: []string{servers.RawStorage}})
	r := &restored{Vault: v, dump: dump, registries: dump.StartRegistries(t, time.Now), mount: v.RawMount(t, servers.Mount)}
	r.registries.Fail()
	for key, value := range dump.Storage {
		v.RawWrite(t, r.mount+key, string(value))
	}
	for id, value := range dump.Leases {
		v.RawWrite(t, "sys/expire/id/"+id, string(value))
	}
	// Vault reads its leases when it is unsealed.
	if err := v.Client.Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	v.Unseal(t)
	return r
}

// roles returns the names of the roles for which a function is true.
func (r *restored) roles(t *testing.T, is func(role fields) bool) []string {
	t.Helper()
	var names []string
	for path, answer := range r.dump.Answers {
		if name, found := strings.CutPrefix(path, "roles/"); found && name != "" && is(answer.Data) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// isDue reports whether a role's credential has become due since the dump was
// made.
func isDue(t *testing.T, role fields) bool {
	t.Helper()
	next, rotates := role["next_rotation"].(string)
	if !rotates {
		return false
	}
	at, err := time.Parse(time.RFC3339, next)
	if err != nil {
		t.Fatal(err)
	}
	return time.Until(at) < time.Hour
}

// serves compares the answers with those of the earlier build.
func (r *restored) serves(t *testing.T) {
	t.Helper()
	due := r.roles(t, func(role fields) bool { return isDue(t, role) })
	compared := 0
	for path, want := range r.dump.Answers {
		if parts := strings.Split(path, "/"); len(parts) > 1 && slices.Contains(due, parts[1]) {
			continue
		}
		compared++
		got := answerOf(t, r.Client, path)
		if strings.HasPrefix(path, "creds/") && want.Data["ttl"] != nil {
			if was, is := number(t, want.Data["ttl"]), number(t, got.Data["ttl"]); is < 1 || is > was {
				t.Errorf("%s: want a ttl of at most %d, got %d", path, was, is)
			}
			delete(want.Data, "ttl")
			delete(got.Data, "ttl")
		}
		if path == "roles/expired" || strings.HasPrefix(path, "creds/expired") { // they hold a time
			want.Warnings, got.Warnings = nil, nil
		}
		if path == "config" && want.Data["verify_period"] == nil { // which earlier builds did not tell
			delete(got.Data, "verify_period")
		}
		if want.Data["used_by"] == nil { // the same
			delete(got.Data, "used_by")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-%s +today):\n%s", path, r.dump.Build, diff)
		}
	}
	if compared < len(r.dump.Answers)*2/3 {
		t.Errorf("compared %d of %d answers only", compared, len(r.dump.Answers))
	}
}

func number(t *testing.T, value any) int64 {
	t.Helper()
	n, err := value.(json.Number).Int64()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// goesOn updates static roles and rotates shared ones.
func (r *restored) goesOn(t *testing.T) {
	t.Helper()
	for _, name := range r.roles(t, func(role fields) bool { return role["type"] == "static" }) {
		if name == "several" {
			continue
		}
		write(t, r.Client, "regcred/roles/"+name, fields{"password": marker})
		if got := read(t, r.Client, "regcred/creds/"+name)["password"]; got != marker {
			t.Errorf("%s: want the password that was written, got %q", name, got)
		}
	}
	for _, name := range r.roles(t, func(role fields) bool { return role["mode"] == "shared" && role["connection"] != "gitea" }) { // its stand-in cannot mint
		before := r.dump.Answers["creds/"+name].Data["password"]
		write(t, r.Client, "regcred/rotate/"+name, nil)
		if got := read(t, r.Client, "regcred/creds/"+name)["password"]; got == before {
			t.Errorf("%s: want another credential after a rotation", name)
		}
	}
}

// endsLeases renews and revokes the leases that were restored.
func (r *restored) endsLeases(t *testing.T) {
	t.Helper()
	for id := range r.dump.Leases {
		if _, err := r.Client.Sys().Renew(id, 3600); err != nil {
			t.Errorf("renewing %s: %v", id, err)
		}
		if err := r.Client.Sys().RevokeWithOptions(revokeNow(id)); err != nil {
			t.Errorf("revoking %s: %v", id, err)
		}
	}
	if left := r.RawKeys(t, r.mount+"leases/"); left != nil {
		t.Errorf("the index still has %q", left)
	}
}

// endsWhatWasHalfDone waits for Vault, which calls the engine once a minute.
func (r *restored) endsWhatWasHalfDone(t *testing.T) {
	t.Helper()
	servers.Eventually(t, func() error {
		if left := r.RawKeys(t, r.mount+"wal/"); left != nil {
			return fmt.Errorf("write-ahead entries are left: %q", left)
		}
		for path := range r.dump.Answers {
			if !strings.HasPrefix(path, "connections/") || path == "connections/" {
				continue
			}
			if pending := read(t, r.Client, "regcred/"+path)["pending_root"]; pending != nil {
				return fmt.Errorf("%s: %v", path, pending)
			}
		}
		for _, name := range r.roles(t, func(role fields) bool { return role["grace_period"] == json.Number("0") }) {
			waiting, _ := read(t, r.Client, "regcred/roles/"+name)["pending_revocations"].([]any)
			for _, w := range waiting {
				if w.(fields)["last_error"] == nil { // others are tried again minutes later
					return fmt.Errorf("%s: %v", name, w)
				}
			}
		}
		return nil
	})
	for _, name := range r.roles(t, func(role fields) bool { return role["mode"] == "shared" }) {
		waiting, _ := read(t, r.Client, "regcred/roles/"+name)["pending_revocations"].([]any)
		for _, w := range waiting {
			if retired := w.(fields)["name"].(string); !slices.Contains(r.registries.Living(), retired) {
				t.Errorf("%s: %s is gone, and was to be revoked at %s", name, retired, w.(fields)["revoke_at"])
			}
		}
	}
	for path := range r.dump.Answers {
		name, isRoot := strings.CutPrefix(path, "connections/root-")
		if !isRoot {
			continue
		}
		read(t, r.Client, "regcred/"+path+"/check")
		if admins := r.registries.Admins("root-" + name); len(admins) != 2 { // one of the server, and that of the connection
			t.Errorf("%s: want one root credential, got %q", path, admins)
		}
	}
}

// movesConnection moves the connection to Harbor to another one, in which others
// have the IDs of what the former has. That is given up, and nothing is touched.
func (r *restored) movesConnection(t *testing.T) {
	t.Helper()
	if _, there := r.dump.Answers["connections/harbor"]; !there {
		return
	}
	r.givenUp = slices.DeleteFunc(r.registries.Living(), func(name string) bool { return !strings.HasPrefix(name, "regcred-harbor-") })
	other := harbortest.New(t)
	for i := range 30 {
		other.AddPuller(harbortest.Project, fmt.Sprintf("production-%d", i))
	}
	theirs := other.Living()
	connect(t, r.Client, "regcred/connections/harbor", "harbor", other.Connection(), fields{"registry": "harbor.example.com"})
	read(t, r.Client, "regcred/creds/harbor")
	if living := other.Living(); len(living) != len(theirs)+1 {
		t.Errorf("want one credential where the connection leads, and those of others, got %q", living)
	}
	if _, err := r.Client.Logical().Delete("regcred/roles/harbor"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(theirs, other.Living()); diff != "" {
		t.Errorf("what lives where the connection leads (-want +got):\n%s", diff)
	}
}

// deletesAll deletes roles, and then connections, which nothing may use any
// more.
func (r *restored) deletesAll(t *testing.T) {
	t.Helper()
	names := r.roles(t, func(fields) bool { return true })
	for _, folder := range []string{"roles/", "connections/"} {
		if folder == "connections/" {
			names = nil
			for path := range r.dump.Answers {
				if name, found := strings.CutPrefix(path, folder); found && name != "" {
					names = append(names, name)
				}
			}
		}
		for _, name := range names {
			if _, err := r.Client.Logical().Delete("regcred/" + folder + name); err != nil {
				t.Errorf("deleting %s%s: %v", folder, name, err)
			}
		}
		if diff := cmp.Diff(r.givenUp, r.registries.Living()); diff != "" {
			t.Errorf("what lives at the registries (-given up +got):\n%s", diff)
		}
	}
	left := r.RawKeys(t, r.mount)
	if left = slices.DeleteFunc(left, func(key string) bool { return slices.Contains(servers.KeysForEver, key) }); !slices.Equal(left, []string{"config"}) {
		t.Errorf("want only the config left in the storage, got %q", left)
	}
}
