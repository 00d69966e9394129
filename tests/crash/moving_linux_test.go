// SPDX-License-Identifier: MPL-2.0

package crash

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

const (
	moving = "moving" // a connection
	mover  = "mover"  // a shared role of it
	tenant = "tenant" // a leased role of it
)

// places are two registries, to one of which the connection moving leads.
type places struct {
	all    [2]registry
	theirs [2]foreign
	at     int

	before   []string // the engine's credentials at the place before an operation
	givenUp  []string // the engine's credentials where the connection led before
	wasAt    int
	strays   []string // leases of what is given up
	original login    // of mover before an operation
}

func (p *places) here() registry { return p.all[p.at] }

// startMoving starts both registries, and writes the connection and its roles.
func (h *harness) startMoving() {
	h.Helper()
	for i := range h.places.all {
		h.places.all[i] = h.registry.another()
		h.places.theirs[i] = plant(h.places.all[i])
	}
	h.writeMoving()
}

// writeMoving writes the connection, and the roles where they are not there.
func (h *harness) writeMoving() {
	h.Helper()
	h.mustWrite("connections/"+moving, h.movingTo(h.places.at))
	h.mustWrite("roles/"+mover, h.roleOf(moving, h.places.here(), map[string]any{"mode": "shared", "rotation_period": "6h", "grace_period": "0s"}))
	h.mustWrite("roles/"+tenant, h.roleOf(moving, h.places.here(), map[string]any{"mode": "leased", "ttl": "1h"}))
}

// movingTo returns the fields with which the connection leads to a place.
func (h *harness) movingTo(place int) map[string]any {
	r := h.places.all[place]
	return connectionFields(r, r.connections[minting])
}

// ours returns the names of the engine's credentials at a place.
func (h *harness) ours(place int) []string {
	if h.registry.living == nil {
		return nil
	}
	return h.places.theirs[place].without(h.places.all[place].living())
}

// fillPlace mints for both roles.
func (h *harness) fillPlace() {
	h.Helper()
	h.places.original = h.served(mover)
	h.mustRollBack() // revokes what mover has replaced
	h.mustLease(tenant)
	h.checkPlaces() // a read that was sent again may have minted one too many
	h.places.before, h.places.wasAt = h.ours(h.places.at), h.places.at
	h.places.strays = h.leasesOf(tenant)
}

// moves are operations that part the connection from what it has minted.
func (h *harness) moves() []operation {
	return []operation{
		{
			name: "move of a connection", path: "connections/" + moving,
			server:  func() *issuertest.Server { return h.places.all[1-h.places.at].Server },
			prepare: h.fillPlace,
			run:     func() error { return h.write("connections/"+moving, h.movingTo(1-h.places.at)) },
			finish:  h.finishMove,
		},
		{
			name: "deletion of a connection with force", path: "connections/" + moving,
			server:  func() *issuertest.Server { return h.places.here().Server },
			prepare: func() { h.fillPlace(); h.deleteRolesInVain() },
			run:     h.forceMovingInVain,
			finish:  h.finishForce,
		},
	}
}

func (h *harness) finishMove() {
	h.Helper()
	p := &h.places
	if h.mustRead("connections/" + moving)["url"] == p.here().connections[minting].URL {
		h.mustWrite("connections/"+moving, h.movingTo(1-p.at))
	}
	p.at = 1 - p.at
	h.mustBe("what was minted where the connection led before", p.before, h.ours(p.wasAt))
	h.isServed()
	h.mustRollBack() // gives up what mover had
	if h.registry.living != nil {
		h.isGivenUp()
	}
	h.revokeStrays()
}

// isGivenUp checks that the read-back of mover names what it had.
func (h *harness) isGivenUp() {
	h.Helper()
	for _, name := range h.places.before {
		given, _ := h.mustRead("roles/" + mover)["given_up"].([]any)
		if strings.HasPrefix(name, "regcred-"+mover) && !slices.ContainsFunc(given, func(g any) bool { return g.(map[string]any)["name"] == name }) {
			h.Fatalf("%s: want %s to be among what is given up, got %v", h.doing, name, given)
		}
	}
}

// deleteRolesInVain deletes the roles. The registry revokes nothing from now on.
func (h *harness) deleteRolesInVain() {
	h.Helper()
	h.places.here().InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusServiceUnavailable, ""))
	h.mustRemove("roles/" + mover)
	h.mustRemove("roles/" + tenant)
}

// forceMovingInVain deletes the connection. If that fails, the registry revokes again.
func (h *harness) forceMovingInVain() error {
	err := h.forceMoving()
	if err != nil {
		h.vault.WaitUntilServed(h)
	}
	if h.mustRead("connections/"+moving) != nil {
		h.places.here().ClearFaults()
	}
	return err
}

func (h *harness) forceMoving() error {
	_, err := h.vault.Client.Logical().DeleteWithData(at("connections/"+moving), map[string][]string{"force": {"true"}})
	return err
}

// finishForce makes the connection again, at a registry that counts its IDs anew
// where that is possible.
func (h *harness) finishForce() {
	h.Helper()
	p := &h.places
	if h.mustRead("connections/"+moving) == nil {
		h.mustBe("what the deleted connection had minted", p.before, h.ours(p.at))
	} else if err := h.forceMoving(); err != nil { // what was not deleted was revoked meanwhile
		h.Fatalf("%s: deleting again: %v", h.doing, err)
	}
	p.here().ClearFaults()
	p.givenUp = h.ours(p.at)
	if r := p.here(); r.reinstall != nil {
		r.reinstall()
		p.theirs[p.at], p.givenUp = plant(r), nil
	}
	h.writeMoving()
	h.isServed()
	h.mustRollBack()
	h.revokeStrays()
}

// isServed checks that mover serves what pulls where the connection leads.
func (h *harness) isServed() {
	h.Helper()
	if l := h.served(mover); l == h.places.original {
		h.Fatalf("%s: mover still serves what it did before", h.doing)
	} else {
		h.mustPullFrom(h.places.here(), "what mover serves", l)
	}
}

// revokeStrays revokes the leases of what is given up, which must touch nothing.
// Then somebody deletes by hand what is given up.
func (h *harness) revokeStrays() {
	h.Helper()
	p := &h.places
	for _, id := range p.strays {
		if err := h.vault.Client.Sys().Revoke(id); err != nil {
			h.Fatalf("%s: revoking the lease of what is given up: %v", h.doing, err)
		}
		delete(h.leases, id)
	}
	p.strays = nil
	if p.wasAt != p.at {
		p.givenUp = p.before
	}
	h.checkPlaces()
	for _, name := range p.givenUp {
		p.all[p.wasAt].remove(name)
	}
	p.givenUp, p.wasAt = nil, p.at
}

func (h *harness) mustBe(what string, want, got []string) {
	h.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		h.Fatalf("%s: %s (-want +got):\n%s", h.doing, what, diff)
	}
}

// checkPlaces checks that the engine has at each place what it must have, and
// that it has touched nothing of others.
func (h *harness) checkPlaces() {
	h.Helper()
	h.mustBecomeRight(h.comparePlaces)
	for i, r := range h.places.all {
		h.checkForeign(r, h.places.theirs[i])
	}
}

// comparePlaces compares the engine's credentials at each place with those that it
// must have there. It returns the difference, empty if there is none.
func (h *harness) comparePlaces() string {
	h.Helper()
	p := &h.places
	for i, r := range p.all {
		if r.living == nil {
			continue
		}
		want := map[string]int{}
		if i == p.wasAt {
			count(want, p.givenUp)
		}
		if i == p.at {
			if h.mustRead("roles/" + mover)["last_vault_rotation"] != nil {
				want[mover]++
			}
			want[tenant] += h.leasedByVault(tenant)
			if want[tenant] == 0 {
				delete(want, tenant)
			}
		}
		got := map[string]int{}
		count(got, h.ours(i))
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Sprintf("credentials at place %d of %d, where the connection leads to %d (-want +got):\n%s\nat the place: %q", i, len(p.all), p.at, diff, r.living())
		}
	}
	return ""
}

// count counts credentials by role.
func count(counts map[string]int, names []string) {
	for _, name := range names {
		counts[strings.TrimPrefix(name[:max(0, len(name)-randomTail)], "regcred-")]++
	}
}

// leaveNothingAtPlaces deletes all that uses the connection, and then the
// connection, without force.
func (h *harness) leaveNothingAtPlaces() {
	h.Helper()
	h.revokeAll(tenant)
	for _, name := range []string{mover, tenant} {
		h.mustRemove("roles/" + name)
	}
	h.mustRollBack()
	h.mustRemove("connections/" + moving)
	for i := range h.places.all {
		if left := h.ours(i); len(left) > 0 {
			h.Fatalf("want nothing of the engine at place %d, got %q", i, left)
		}
		h.checkForeign(h.places.all[i], h.places.theirs[i])
	}
}
