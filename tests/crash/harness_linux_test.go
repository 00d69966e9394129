// SPDX-License-Identifier: MPL-2.0

package crash

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/tests/servers"
)

// Paths of a plugin that was built with the tag killpoints.
const (
	pathArm      = "killpoints/arm"
	pathRollback = "killpoints/rollback"
)

const (
	brief   = "brief"   // leased, and ends soon
	lasting = "lasting" // leased

	briefTTL    = 15 * time.Second
	leaseMargin = 30 * time.Second // as in the engine

	// maxLooks is how often to look for work that a request left to the
	// background. It is a number of looks, not a time, because the engine's own
	// sweeps would later hide what a rollback has left.
	maxLooks = 500

	randomTail = 27 // length of what follows the role in a credential's name
)

// sharedRoles are the shared roles with their grace periods.
var sharedRoles = map[string]string{"fresh": "0s", "app": "0s", "slow": "1h"}

type harness struct {
	*testing.T
	vault    *servers.Vault
	registry registry
	admins   int

	theirs     foreign  // at the registry
	theirRoots []string // names
	places     places

	doing string
	kills int

	leases map[string]login // by ID: all leases that were not revoked
	ended  *login           // the last credential that was revoked
	former login            // the credential of slow before its rotation

	lost       map[string]bool // names of credentials that a reinstallation has deleted
	lostLeases map[string]bool // IDs of their leases, which Vault still has

	// Credentials whose answers were lost, by name.
	unanswered    map[string]bool
	unansweredAt  time.Time
	maxUnanswered int
}

func newHarness(t *testing.T, r registry) *harness {
	t.Helper()
	h := &harness{
		T: t, vault: servers.StartVaultWith(t, servers.Bin(t, "regcred-killpoints")), registry: r,
		leases: map[string]login{}, unanswered: map[string]bool{}, lost: map[string]bool{}, lostLeases: map[string]bool{},
	}
	h.theirs = plant(r)
	if r.mintRoot != nil {
		r.mintRoot(byHand + "root")
		r.mintRoot(issuer.NewName("by-hand-root"))
	}
	h.admins, h.theirRoots = len(r.admins()), h.foreignRoots()
	for name, c := range r.connections {
		h.mustWrite("connections/"+name, connectionFields(r, c))
	}
	for name := range sharedRoles {
		h.renew(name)
	}
	h.mustWrite("roles/"+brief, h.role(map[string]any{"mode": "leased", "max_ttl": briefTTL.String()}))
	h.mustWrite("roles/"+lasting, h.role(map[string]any{"mode": "leased", "ttl": "1h"}))
	h.startMoving()
	return h
}

func connectionFields(r registry, c issuer.Connection) map[string]any {
	fields := map[string]any{"type": r.kind, "url": c.URL, "registry": string(c.Registries[0]), "allowed_roles": "*"}
	for field, text := range c.Settings {
		fields[field] = text
	}
	for field, secret := range c.Secrets {
		fields[field] = secret.Reveal()
	}
	return fields
}

func (h *harness) role(more map[string]any) map[string]any {
	return h.roleOf(minting, h.registry, more)
}

func (h *harness) roleOf(connection string, r registry, more map[string]any) map[string]any {
	fields := map[string]any{"connection": connection}
	for field, text := range r.role {
		fields[field] = text
	}
	maps.Copy(fields, more)
	return fields
}

func at(path string) string { return servers.Mount + "/" + path }

func (h *harness) write(path string, fields map[string]any) error {
	_, err := h.vault.Client.Logical().Write(at(path), fields)
	return err
}

func (h *harness) mustWrite(path string, fields map[string]any) {
	h.Helper()
	if err := h.write(path, fields); err != nil {
		h.Fatalf("%s: writing %s: %v", h.doing, path, err)
	}
}

func (h *harness) remove(path string) error {
	_, err := h.vault.Client.Logical().Delete(at(path))
	return err
}

func (h *harness) mustRemove(path string) {
	h.Helper()
	if err := h.remove(path); err != nil {
		h.Fatalf("%s: deleting %s: %v", h.doing, path, err)
	}
}

// read returns nil where nothing is.
func (h *harness) read(path string) (map[string]any, error) {
	secret, err := h.vault.Client.Logical().Read(at(path))
	if err != nil || secret == nil {
		return nil, err
	}
	return secret.Data, nil
}

func (h *harness) mustRead(path string) map[string]any {
	h.Helper()
	data, err := h.read(path)
	if err != nil {
		h.Fatalf("%s: reading %s: %v", h.doing, path, err)
	}
	return data
}

// renew deletes and writes a shared role, which then has no credential.
func (h *harness) renew(name string) {
	h.Helper()
	h.mustRemove("roles/" + name)
	h.mustWrite("roles/"+name, h.role(map[string]any{"mode": "shared", "rotation_period": "6h", "grace_period": sharedRoles[name]}))
}

func loginOf(data map[string]any) login {
	return login{data["username"].(string), data["password"].(string)}
}

func (h *harness) mustPull(what string, l login) {
	h.Helper()
	h.mustPullFrom(h.registry, what, l)
}

func (h *harness) mustPullFrom(r registry, what string, l login) {
	h.Helper()
	if !r.pulls(h.T, l) {
		h.Fatalf("%s: %s does not pull", h.doing, what)
	}
}

// served returns the credential that a shared role serves.
func (h *harness) served(name string) login {
	h.Helper()
	data := h.mustRead("creds/" + name)
	if data == nil {
		h.Fatalf("%s: role %s is gone", h.doing, name)
	}
	return loginOf(data)
}

// lease reads a leased role and records the lease.
func (h *harness) lease(name string) error {
	secret, err := h.vault.Client.Logical().Read(at("creds/" + name))
	if err != nil {
		return err
	}
	h.leases[secret.LeaseID] = loginOf(secret.Data)
	return nil
}

func (h *harness) mustLease(name string) {
	h.Helper()
	if err := h.lease(name); err != nil {
		h.Fatalf("%s: reading creds/%s: %v", h.doing, name, err)
	}
}

func (h *harness) leasesOf(name string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(h.leases)), func(id string) bool {
		return !strings.HasPrefix(id, at("creds/"+name)+"/")
	})
}

func (h *harness) revoke(id string) error {
	err := h.vault.Client.Sys().Revoke(id)
	if err == nil {
		ended := h.leases[id]
		h.ended = &ended
		delete(h.leases, id)
	}
	return err
}

// revokeAll revokes the leases of a role, also those whose revocation failed
// before.
func (h *harness) revokeAll(name string) {
	h.Helper()
	for _, id := range h.leasesOf(name) {
		if err := h.revoke(id); err != nil {
			h.Fatalf("%s: revoking %s: %v", h.doing, id, err)
		}
	}
}

func (h *harness) rollBack() error { return h.write(pathRollback, nil) }

// mustRollBack does the engine's work of each minute until it succeeds.
func (h *harness) mustRollBack() {
	h.Helper()
	servers.Eventually(h, func() error {
		err := h.rollBack()
		if err != nil {
			err = fmt.Errorf("%s: rollback fails: %w", h.doing, err)
		}
		return err
	})
}

// check checks the points that TestKills lists.
func (h *harness) check() {
	h.Helper()
	if h.registry.living != nil {
		h.mustBecomeRight(h.compareLiving)
	}
	h.checkReads()
	h.checkForeign(h.registry, h.theirs)
	h.checkPlaces()
	for id, l := range h.leases {
		r := h.registry
		if strings.HasPrefix(id, at("creds/"+tenant)+"/") {
			r = h.places.here()
		}
		h.mustPullFrom(r, "the leased credential "+id, l)
	}
	if h.registry.living != nil && h.ended != nil && h.registry.pulls(h.T, *h.ended) {
		h.Fatalf("%s: a revoked credential pulls", h.doing)
	}
	for name := range h.registry.connections {
		h.mustRead("connections/" + name + "/check")
		if pending := h.mustRead("connections/" + name)["pending_root"]; pending != nil {
			h.Fatalf("%s: connection %s: %v", h.doing, name, pending)
		}
	}
	if admins := h.registry.admins(); len(admins) != h.admins {
		h.Fatalf("%s: want %d root credentials, got %q", h.doing, h.admins, admins)
	}
	h.mustBe("root credentials of somebody else", h.theirRoots, h.foreignRoots())
}

// checkReads checks that every shared role serves a credential that pulls.
func (h *harness) checkReads() {
	h.Helper()
	for name := range sharedRoles {
		if data := h.mustRead("creds/" + name); data != nil { // nil: the role was deleted
			h.mustPull("what "+name+" serves", loginOf(data))
		}
	}
}

// mustBecomeRight looks until compare finds no problem. It waits for work that a
// request may have left to the background.
func (h *harness) mustBecomeRight(compare func() (problem string)) {
	h.Helper()
	var problem string
	for range maxLooks {
		if problem = compare(); problem == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.Fatalf("%s: %s", h.doing, problem)
}

// compareLiving compares the credentials at the registry with those that Vault
// serves, will revoke or has leased. It returns the difference, empty if there
// is none.
func (h *harness) compareLiving() string {
	h.Helper()
	want := map[string]int{}
	var pending []string
	for name := range sharedRoles {
		role := h.mustRead("roles/" + name)
		if role["last_vault_rotation"] != nil {
			want[name] = 1
		}
		waiting, _ := role["pending_revocations"].([]any)
		for _, w := range waiting {
			if waits := w.(map[string]any)["name"].(string); !h.lost[waits] {
				pending = append(pending, waits)
			}
		}
	}
	for _, name := range []string{brief, lasting} {
		want[name] = h.leasedByVault(name)
	}
	living := h.theirs.without(h.registry.living())
	h.noteUnanswered(living, want[brief])

	got := map[string]int{}
	for _, name := range living {
		waits := slices.Index(pending, name)
		switch {
		case waits >= 0:
			pending = slices.Delete(pending, waits, waits+1)
		case !h.unanswered[name]:
			count(got, []string{name})
		}
	}
	maps.DeleteFunc(want, func(_ string, count int) bool { return count == 0 })
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Sprintf("credentials by role (-served or leased +at the registry):\n%s\nall at the registry: %q", diff, living)
	}
	if len(pending) > 0 {
		return fmt.Sprintf("no longer at the registry, and said to wait for revocation: %q", pending)
	}
	return ""
}

// leasedByVault counts Vault's leases of a role, except those of credentials that
// the registry has lost.
func (h *harness) leasedByVault(name string) int {
	h.Helper()
	secret, err := h.vault.Client.Logical().List("sys/leases/lookup/" + at("creds/"+name))
	if err != nil {
		h.Fatalf("%s: listing leases: %v", h.doing, err)
	}
	if secret == nil {
		return 0
	}
	ids := secret.Data["keys"].([]any)
	if have := len(h.leasesOf(name)); len(ids) < have {
		h.Fatalf("%s: Vault has lost a lease of %s: want %d at least, got %d", h.doing, name, have, len(ids))
	}
	return len(slices.DeleteFunc(ids, func(id any) bool { return h.lostLeases[at("creds/"+name)+"/"+id.(string)] }))
}

// unansweredIn allows one credential without a lease for a sweep that reads the
// leased role brief.
func (h *harness) unansweredIn(op operation) {
	if op.path == "creds/"+brief {
		h.maxUnanswered++
	}
}

// noteUnanswered records credentials without a lease, as many as are allowed.
func (h *harness) noteUnanswered(living []string, leased int) {
	for _, name := range living {
		if strings.HasPrefix(name, "regcred-"+brief+"-") && !h.unanswered[name] && leased == 0 && len(h.unanswered) < h.maxUnanswered {
			h.unanswered[name], h.unansweredAt = true, time.Now()
		}
	}
}
