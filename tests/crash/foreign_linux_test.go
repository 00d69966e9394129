// SPDX-License-Identifier: MPL-2.0

package crash

import (
	"slices"
	"strings"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// foreign is a credential of somebody else, by name.
type foreign map[string]login

// byHand begins the names of root credentials that somebody else has made.
const byHand = "by-hand-"

// plant mints credentials of somebody else for what the roles mint for: people
// chose the names of some, and another mount chose those of the others, one of
// which has a role named app, too.
func plant(r registry) foreign {
	planted := foreign{}
	for _, name := range []string{"production-0", "production-1", "by-hand", issuer.NewName("app"), issuer.NewName("other")} {
		planted[name] = r.mint(name)
	}
	return planted
}

// checkForeign checks that nobody has touched the credentials of somebody else.
func (h *harness) checkForeign(r registry, planted foreign) {
	h.Helper()
	var living []string
	if r.living != nil {
		living = r.living()
	}
	for name, l := range planted {
		if r.living != nil && !slices.Contains(living, name) {
			h.Fatalf("%s: somebody else's credential %s is gone; at the registry are %q", h.doing, name, living)
		}
		h.mustPullFrom(r, "somebody else's credential "+name, l)
	}
}

// without returns the names that are not those of somebody else.
func (f foreign) without(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, theirs := f[name]
		return theirs
	})
}

// foreignRoots returns the root credentials of somebody else.
func (h *harness) foreignRoots() []string {
	return slices.DeleteFunc(slices.Clone(h.registry.admins()), func(name string) bool { return !strings.Contains(name, byHand) })
}

// reinstall empties the registry. Others mint there first, so that their
// credentials, and then the new ones of the engine, have IDs that credentials of
// the engine had.
func (h *harness) reinstall() {
	h.Helper()
	for _, name := range h.theirs.without(h.registry.living()) {
		h.lost[name] = true
	}
	for id := range h.leases {
		h.lostLeases[id] = true
	}
	clear(h.leases)
	h.registry.reinstall()
	h.theirs = plant(h.registry)
	for name := range sharedRoles {
		if h.mustRead("roles/"+name) != nil {
			h.mustWrite("rotate/"+name, nil)
		}
	}
}

// countingAnew is operations at a registry that was reinstalled: it gave the IDs
// of what is to be revoked to others.
func (h *harness) countingAnew() []operation {
	if h.registry.reinstall == nil {
		return nil
	}
	const where = ", where IDs are counted anew"
	return []operation{
		{
			name: "revocation of what was replaced" + where, path: pathRollback,
			prepare: func() { h.served("app"); h.mustWrite("rotate/app", nil); h.reinstall() },
			run:     h.rollBack,
			finish:  func() {},
		},
		{
			name: "revocation of a lease" + where, path: "creds/" + lasting,
			prepare: func() { h.mustLease(lasting); h.reinstall() },
			run:     h.revokeLost,
			finish: func() {
				if err := h.revokeLost(); err != nil {
					h.Fatalf("%s: revoking a lease again: %v", h.doing, err)
				}
			},
		},
		{
			name: "deletion of a role" + where, path: "roles/slow",
			prepare: func() { h.renew("slow"); h.served("slow"); h.mustWrite("rotate/slow", nil); h.reinstall() },
			run:     func() error { return h.remove("roles/slow") },
			finish:  func() { h.renew("slow") },
		},
	}
}

// revokeLost revokes the leases of credentials that the registry has lost.
func (h *harness) revokeLost() error {
	for id := range h.lostLeases {
		if err := h.vault.Client.Sys().Revoke(id); err != nil {
			return err
		}
		delete(h.lostLeases, id)
	}
	return nil
}
