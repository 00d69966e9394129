// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/storagetest"
)

// upgraded is a mount of today's build on the storage of an earlier one.
type upgraded struct {
	*engine
	dump       *storagetest.Dump
	registries *storagetest.Registries
}

// eachDump runs a test on the storage of each earlier build, with the clock set to
// the time at which that build answered.
func eachDump(t *testing.T, test func(*testing.T, *upgraded)) {
	for name, dump := range storagetest.Load(t) {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			e.setMount(24*time.Hour, 24*365*40*time.Hour)
			e.newHTTP = issuer.NewHTTP
			e.clock.at = dump.At
			u := &upgraded{engine: e, dump: dump, registries: dump.StartRegistries(t, e.now)}
			for key, value := range dump.Storage {
				e.store(key, string(value))
			}
			test(t, u)
		})
	}
}

// names returns the last part of the keys below a prefix, sorted.
func (u *upgraded) names(prefix string) []string {
	var names []string
	for key := range u.dump.Storage {
		if name, found := strings.CutPrefix(key, prefix); found {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// answer reads a path, or lists it if it ends in a slash.
func (u *upgraded) answer(path string) storagetest.Answer {
	u.t.Helper()
	op := logical.Operation(logical.ReadOperation)
	if strings.HasSuffix(path, "/") {
		op = logical.ListOperation
	}
	resp, err := u.request(op, path, nil)
	switch {
	case err != nil:
		return storagetest.Answer{Error: err.Error()}
	case resp == nil:
		return storagetest.Answer{}
	case resp.IsError():
		return storagetest.Answer{Error: resp.Error().Error()}
	}
	answer := storagetest.Answer{Warnings: resp.Warnings}
	encoded, err := json.Marshal(resp.Data)
	if err != nil {
		u.t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.UseNumber()
	if err := decoder.Decode(&answer.Data); err != nil {
		u.t.Fatal(err)
	}
	return answer
}

// TestDumpsAreServed compares today's answers with those of each earlier build,
// byte for byte and for every path. Reads change nothing.
func TestDumpsAreServed(t *testing.T) {
	eachDump(t, func(t *testing.T, u *upgraded) {
		before := u.snapshot()
		for path, want := range u.dump.Answers {
			got := u.answer(path)
			checkAhead(t, path, want.Data, got.Data)
			if want.Data["used_by"] == nil { // which earlier builds did not tell
				delete(got.Data, "used_by")
			}
			if path == "config" && want.Data["verify_period"] == nil { // the same
				delete(got.Data, "verify_period")
			}
			checkSame(t, path, want, got)
		}
		checkSame(t, "storage after reads", before, u.snapshot())
	})
}

// checkAhead compares the ttl of two answers and removes it from both. Today's is
// shorter by the time that passed between the old build's answer and its dump.
func checkAhead(t *testing.T, path string, want, got fields) {
	t.Helper()
	if want["ttl"] == nil || strings.HasPrefix(path, "roles/") {
		return
	}
	was, is := secondsIn(t, want["ttl"]), secondsIn(t, got["ttl"])
	if is < 1 || is > was || was-is > 60 {
		t.Errorf("%s: want a ttl of about %d, got %d", path, was, is)
	}
	delete(want, "ttl")
	delete(got, "ttl")
}

func secondsIn(t *testing.T, value any) int64 {
	t.Helper()
	number, ok := value.(json.Number)
	if !ok {
		t.Fatalf("want a number, got %v", value)
	}
	n, err := number.Int64()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDumpsCanBeContinued has today's build update, rotate, verify and delete
// everything that an earlier build wrote, renew and revoke its leases, and finish
// what it left unfinished. At the end nothing is left in storage and at the
// registries.
func TestDumpsCanBeContinued(t *testing.T) {
	eachDump(t, func(t *testing.T, u *upgraded) {
		u.updateStatic(t)
		u.settleRoots(t)
		u.rollBack(t)
		u.renewAndRevoke(t)
		u.goOnWithShared(t)
		u.endRetired(t)
		u.deleteAll(t)
	})
}

// updateStatic changes the password and other fields of each static role, and
// writes each bundle again.
func (u *upgraded) updateStatic(t *testing.T) {
	for _, name := range u.names("roles/") {
		role := u.read("roles/" + name)
		switch role["type"] {
		case "static":
			before := u.read("creds/" + name)
			u.patch("roles/"+name, fields{"allowed_bundles": "all,mixed"})
			checkSame(t, "pull secret of "+name, before, u.read("creds/"+name))
			checkSame(t, "role "+name, without(with(role, fields{"allowed_bundles": []string{"all", "mixed"}, "updated_at": formatTime(u.now())}), "used_by"),
				without(u.read("roles/"+name), "used_by"))
			if len(role["registries"].([]string)) > 1 {
				continue
			}
			u.write("roles/"+name, fields{"password": marker + "-new"})
			checkSame(t, "password of "+name, any(marker+"-new"), u.read("creds/" + name)["password"])
			checkSame(t, "user name of "+name, before["username"], u.read("creds/" + name)["username"])
			u.must(logical.UpdateOperation, "verify/"+name, nil)
		case "bundle":
			u.write("roles/"+name, fields{"members": role["members"]})
		}
	}
}

// settleRoots finishes each rotate-root, as Vault's periodic call does.
func (u *upgraded) settleRoots(t *testing.T) {
	for _, name := range u.names("connections/") {
		if name == "unasked" {
			continue
		}
		before := u.read("connections/" + name)
		if err := u.finishRootRotationOf(t.Context(), u.through(), name); err != nil {
			t.Errorf("connection %s: %v", name, err)
		}
		after := u.read("connections/" + name)
		if _, pending := after["pending_root"]; pending {
			t.Errorf("connection %s: want nothing pending, got %v", name, after["pending_root"])
		}
		if !strings.HasPrefix(name, "gitea") { // its stand-in cannot be checked
			u.read("connections/" + name + "/check")
		}
		u.patch("connections/"+name, fields{"allowed_roles": "*", "verify_connection": false})
		if name != "root-pending" {
			checkSame(t, "connection "+name, without(with(before, fields{"updated_at": nil, "allowed_roles": nil}), "pending_root"),
				with(u.read("connections/"+name), fields{"updated_at": nil, "allowed_roles": nil}))
		}
	}
}

// rollBack rolls back each write-ahead entry, as Vault does.
func (u *upgraded) rollBack(t *testing.T) {
	u.clock.advance(10 * time.Minute)
	for _, name := range u.names("connections/") {
		u.rollBackOf(t, name)
	}
	for _, name := range u.names("connections/root-") {
		if admins := u.registries.Admins("root-" + name); len(admins) > 2 { // the server's own, and the connection's
			t.Errorf("connection root-%s: want one root credential, got %q", name, admins[1:])
		}
	}
	for name := range u.dump.Credentials() {
		gone := strings.HasPrefix(name, "regcred-gitlab-deleted-") || strings.HasPrefix(name, "regcred-gitlab-unanswered-")
		if gone == slices.Contains(u.registries.Living(), name) && !strings.HasPrefix(name, "regcred-ecr-") {
			t.Errorf("after the rollback: %s is alive: %t", name, gone)
		}
	}
}

// rollBackOf rolls back the write-ahead entries of a connection, as Vault does.
func (u *upgraded) rollBackOf(t *testing.T, connection string) {
	t.Helper()
	for _, id := range u.names("wal/") {
		entry, err := framework.GetWAL(t.Context(), u.through(), id)
		if err != nil {
			t.Fatal(err)
		}
		if entry == nil || entry.Data.(map[string]any)["connection"] != connection {
			continue
		}
		if err := u.backend.rollBack(t.Context(), u.through(), entry.Kind, entry.Data); err != nil {
			t.Errorf("rolling back %v: %v", entry, err)
		}
		if err := framework.DeleteWAL(t.Context(), u.through(), id); err != nil {
			t.Fatal(err)
		}
	}
}

// renewAndRevoke renews and revokes each lease, as Vault does with its stored data.
func (u *upgraded) renewAndRevoke(t *testing.T) {
	for id, value := range u.dump.Leases {
		path, secret := dumpedLease(t, value)
		u.onDumpedLease(t, logical.RenewOperation, path, secret)
		name := u.dumpedLeaseName(t, secret)
		if !slices.Contains(u.registries.Living(), name) {
			t.Errorf("the lease %s was renewed, and its credential %s is gone", id, name)
		}
		checkSame(t, "ends of "+name+" in the index", []string{formatTime(wholeSeconds(u.now().Add(secret.TTL)))}, u.indexedEnds(t, name))
		u.onDumpedLease(t, logical.RevokeOperation, path, secret)
		if slices.Contains(u.registries.Living(), name) {
			t.Errorf("the lease %s was revoked, and its credential %s is alive", id, name)
		}
	}
	var left []string
	for key := range u.snapshot() {
		if strings.HasPrefix(key, "leases/") {
			left = append(left, key)
		}
	}
	if left != nil {
		t.Errorf("the index still has %q", left)
	}
}

// dumpedLease returns the path and the data of one of Vault's entries.
func dumpedLease(t *testing.T, value storagetest.Value) (path string, secret *logical.Secret) {
	t.Helper()
	var lease struct {
		Path   string          `json:"path"`
		Secret *logical.Secret `json:"secret"`
	}
	if err := json.Unmarshal([]byte(value), &lease); err != nil {
		t.Fatal(err)
	}
	return lease.Path, lease.Secret
}

func (u *upgraded) onDumpedLease(t *testing.T, op logical.Operation, path string, secret *logical.Secret) {
	t.Helper()
	resp, err := u.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: strings.TrimPrefix(path, "regcred/"), Secret: secret, Storage: u.through()})
	if err != nil || resp != nil && resp.IsError() {
		t.Errorf("%s of a lease of %s: %v, %v", op, path, resp, err)
	}
}

// dumpedLeaseName returns the name of the credential of a lease.
func (u *upgraded) dumpedLeaseName(t *testing.T, secret *logical.Secret) string {
	t.Helper()
	l, err := leaseOf(&logical.Request{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	return l.Name
}

// indexedEnds returns the ends that the index of leases has for a credential.
func (u *upgraded) indexedEnds(t *testing.T, name string) (ends []string) {
	t.Helper()
	for key := range u.snapshot() {
		if !strings.HasPrefix(key, "leases/") {
			continue
		}
		if at, indexed, ok := parseExpiryKey(key[strings.LastIndex(key, "/")+1:]); ok && indexed == name {
			ends = append(ends, formatTime(at))
		}
	}
	return ends
}

// goOnWithShared rotates each shared role.
func (u *upgraded) goOnWithShared(t *testing.T) {
	for _, name := range u.names("roles/") {
		role := u.read("roles/" + name)
		if role["mode"] != modeShared || role["connection"] == "gitea" { // its stand-in cannot mint
			continue
		}
		u.write("roles/"+name, fields{"grace_period": "6h"})
		before := u.answer("creds/" + name)
		u.write("rotate/"+name, nil)
		after := u.answer("creds/" + name)
		if after.Error != "" || after.Data["password"] == before.Data["password"] {
			t.Errorf("%s: want a new credential, got %v after %v", name, after, before)
		}
		u.write("verify/"+name, nil)
	}
}

// endRetired has time pass, and checks that each credential that was replaced is
// revoked at its time, and not before.
func (u *upgraded) endRetired(t *testing.T) {
	waiting := u.retired(t)
	slices.SortFunc(waiting, func(a, b retired) int { return a.RevokeAt.Compare(b.RevokeAt) })
	for _, r := range waiting {
		if early := r.RevokeAt.Add(-time.Second); early.After(u.now()) {
			u.clock.advance(early.Sub(u.now()))
			u.endDue(t, r, true)
		}
		u.clock.advance(max(0, r.tryAt(u.now()).Sub(u.now())))
		u.endDue(t, r, false)
	}
	for _, name := range u.names("shared/") {
		if waiting := u.read("roles/" + name)["pending_revocations"]; waiting != nil {
			t.Errorf("%s: want none to be revoked any more, got %v", name, waiting)
		}
	}
}

// retired returns all that waits to be revoked.
func (u *upgraded) retired(t *testing.T) (all []retired) {
	t.Helper()
	for _, name := range u.names("shared/") {
		s, err := u.shared(t.Context(), u.through(), name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s.Retired...)
	}
	return all
}

// endDue revokes what is due of a role.
func (u *upgraded) endDue(t *testing.T, r retired, lives bool) {
	t.Helper()
	if err := u.revokeRetired(t.Context(), u.through(), r.Role); err != nil {
		t.Error(err)
	}
	if got := slices.Contains(u.registries.Living(), r.Name); got != lives {
		t.Errorf("%s at %s, to be revoked at %s: want it to be alive: %t, got %t", r.Name, formatTime(u.now()), formatTime(r.RevokeAt), lives, got)
	}
}

// deleteAll deletes all roles, and then the connections, which nothing uses any
// more.
func (u *upgraded) deleteAll(t *testing.T) {
	for _, name := range u.names("roles/") {
		u.must(logical.DeleteOperation, "roles/"+name, nil)
	}
	checkSame(t, "what lives at the registries", []string(nil), u.registries.Living())
	for _, name := range u.names("connections/") {
		u.must(logical.DeleteOperation, "connections/"+name, nil)
	}
	u.must(logical.DeleteOperation, "config", nil)
	left := u.snapshot()
	delete(left, bundlesIndexedKey) // says that this storage needs no scan
	checkSame(t, "what is stored", 0, len(left))
}

// TestDumpsGiveUpWhatAMovedConnectionMinted moves the connections of an earlier
// build to registries in which others have the IDs of what that build minted.
// From then on the roles serve what the new registry has minted. What the old one
// has is given up: it stays there, nothing of others is touched, and it keeps no
// connection from being deleted.
func TestDumpsGiveUpWhatAMovedConnectionMinted(t *testing.T) {
	eachDump(t, func(t *testing.T, u *upgraded) {
		before := u.registries.Living()
		for _, name := range u.names("connections/") {
			switch c := u.read("connections/" + name); {
			case !strings.HasPrefix(c["url"].(string), "http://"): // never called
			case c["type"] == "gitlab":
				lab := gitlabtest.New(t)
				lab.SetNow(u.now)
				u.moveTo(t, name, lab.Connection(), func(name string) { lab.AddDeployTokens(gitlabtest.Project, name) }, lab.Living)
			case c["type"] == "harbor":
				harbor := harbortest.New(t)
				harbor.SetNow(u.now)
				u.moveTo(t, name, harbor.Connection(), func(name string) { harbor.AddPuller(harbortest.Project, name) }, harbor.Living)
			}
		}
		checkSame(t, "what lives where the connections led before", before, u.registries.Living())
	})
}

// moveTo moves a connection to a registry, uses its roles, and deletes all.
func (u *upgraded) moveTo(t *testing.T, name string, to issuer.Connection, mint func(name string), living func() []string) {
	t.Helper()
	const foreign = 50 // more than the dump has IDs
	for i := range foreign {
		mint(fmt.Sprintf("production-%d", i))
	}
	theirs := living()
	data := fields{"url": to.URL}
	for field, text := range to.Settings {
		data[field] = text
	}
	for field, secret := range to.Secrets {
		data[field] = secret.Reveal()
	}
	u.write("connections/"+name, data)

	roles := u.rolesOf(name)
	for _, role := range roles {
		if u.read("roles/" + role)["mode"] == modeShared {
			u.servesFromThere(t, role, living)
		}
	}
	u.rollBackOf(t, name)
	for _, value := range u.dump.Leases {
		path, secret := dumpedLease(t, value)
		if strings.HasSuffix(path, "creds/leased-"+name) {
			u.onDumpedLease(t, logical.RevokeOperation, path, secret)
		}
	}
	for _, role := range roles {
		u.must(logical.DeleteOperation, "roles/"+role, nil)
	}
	checkSame(t, "what lives where the connection "+name+" leads", theirs, living())
	u.must(logical.DeleteOperation, "connections/"+name, nil)
}

// rolesOf returns the dump's roles of a connection.
func (u *upgraded) rolesOf(connection string) []string {
	return slices.DeleteFunc(u.names("roles/"), func(name string) bool {
		return u.dump.Answers["roles/"+name].Data["connection"] != connection
	})
}

// servesFromThere checks that a shared role serves what the registry has to which
// its connection has moved, and gives up what it had before.
func (u *upgraded) servesFromThere(t *testing.T, role string, living func() []string) {
	t.Helper()
	s, err := u.shared(t.Context(), u.through(), role)
	if err != nil {
		t.Fatal(err)
	}
	u.patch("roles/"+role, fields{"grace_period": "0s"})
	before := len(living())
	u.read("creds/" + role)
	u.background.Wait()
	checkSame(t, "credentials of "+role+" where the connection leads", before+1, len(living()))
	if s.Current == nil {
		return
	}
	if err := u.revokeRetired(t.Context(), u.through(), role); err != nil {
		t.Error(err)
	}
	given, _ := u.read("roles/" + role)["given_up"].([]map[string]any)
	if !slices.ContainsFunc(given, func(g map[string]any) bool { return g["name"] == s.Current.Name }) {
		t.Errorf("%s: want %s to be given up, got %v", role, s.Current.Name, given)
	}
}
