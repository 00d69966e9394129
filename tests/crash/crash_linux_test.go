// SPDX-License-Identifier: MPL-2.0

package crash

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// minKills is the least number of kills for each type.
const minKills = 200

// TestKills kills the plugin (kill -9) at every step of minting, rotating,
// revoking and replacing the root credential: before and after each write to
// storage, before each call of the registry's API, and after the registry has
// done what a call asks for but has not answered. After each kill, once
// rollback has run, all of this must hold:
//
//   - The registry has exactly the credentials that Vault serves, will revoke
//     (the role's read-back names them) or has leased.
//   - Every read serves a credential that pulls; after every other kill, reads
//     before rollback do so too.
//   - Every leased credential pulls until it is revoked, and never afterwards.
//   - There are as many root credentials as at the start, and those of all
//     connections work.
//   - Credentials of somebody else are what they were: those whose names people
//     chose, those of another mount, and root credentials.
//
// Between some of these kills the registry is reinstalled. It then counts its IDs
// from one again, and gives those that the engine knows to others. And a
// connection moves between two registries, and is deleted with force and made
// again: what it minted before is given up, and left alone.
//
// One window is known: Vault learns of a lease from the answer, so a kill
// between the deletion of the write-ahead entry and the answer leaves a
// credential without a lease. The engine revokes it soon after the lease would
// have ended. So each sweep over the steps of such a read may leave one
// credential, and none may be left at the end.
//
// At AWS nothing can be revoked or listed, so the first point does not apply
// there.
func TestKills(t *testing.T) {
	for kind, start := range map[string]func(*testing.T) registry{"artifactory": artifactory, "dockerhub": dockerhub, "gitlab": gitlab, "harbor": harbor, "gitea": gitea, "ecr": ecr, "acr": acr, "http": broker, "quay": quay} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, start(t))
			for round := 1; h.kills < minKills; round++ {
				for _, op := range h.operations() {
					if round == 1 || h.kills < minKills {
						h.sweep(op)
					}
				}
				t.Logf("%d kills after round %d", h.kills, round)
			}
			h.leaveNothing()
		})
	}
}

// operation is an operation during which the plugin is killed.
type operation struct {
	name    string
	path    string                    // of the request, below the mount
	server  func() *issuertest.Server // that is called; nil: the registry's
	prepare func()
	run     func() error
	finish  func() // runs after rollback
}

func (h *harness) operations() []operation {
	nothing := func() {}
	ops := []operation{
		{
			name: "leased read", path: "creds/" + brief,
			prepare: nothing,
			run:     func() error { return h.lease(brief) },
			finish:  func() { h.revokeAll(brief) },
		},
		{
			name: "first read of a shared role", path: "creds/fresh",
			prepare: func() { h.renew("fresh") },
			run:     func() error { _, err := h.read("creds/fresh"); return err },
			finish:  nothing,
		},
		{
			name: "rotation", path: "rotate/slow",
			prepare: func() { h.renew("slow"); h.former = h.served("slow") },
			run:     func() error { return h.write("rotate/slow", nil) },
			finish:  func() { h.mustPull("what a role served less than its grace period ago", h.former) },
		},
		{
			name: "revocation of what was replaced", path: pathRollback,
			prepare: func() { h.served("app"); h.mustWrite("rotate/app", nil) },
			run:     h.rollBack,
			finish:  nothing,
		},
		{
			name: "revocation of a lease", path: "creds/" + lasting,
			prepare: func() { h.mustLease(lasting) },
			run:     func() error { return h.revoke(h.leasesOf(lasting)[0]) },
			finish:  func() { h.revokeAll(lasting) },
		},
		{
			name: "deletion of a role", path: "roles/slow",
			prepare: func() { h.renew("slow"); h.served("slow"); h.mustWrite("rotate/slow", nil) },
			run:     func() error { return h.remove("roles/slow") },
			finish:  nothing,
		},
	}
	for _, name := range slices.Sorted(maps.Keys(h.registry.connections)) {
		if h.registry.keepsRoot {
			continue
		}
		path := "connections/" + name + "/rotate-root"
		ops = append(ops, operation{
			name: "rotate-root of " + name, path: path,
			prepare: func() { h.renew("fresh") }, // so that the next read mints
			run:     func() error { return h.write(path, nil) },
			finish:  nothing,
		})
	}
	return slices.Concat(ops, h.countingAnew(), h.moves())
}

// trigger kills a process at the nth of its kill points during an operation.
type trigger struct {
	name string

	// arm returns a function that disarms the trigger. It reports whether the process
	// was killed meanwhile, in what the operation has left to the background.
	arm func(op operation, pid, n int) (disarm func() (killed bool))
}

func (h *harness) triggers() []trigger {
	return []trigger{
		{"write to storage", func(op operation, pid, n int) func() bool {
			h.mustWrite(pathArm, map[string]any{"path": op.path, "after": n})
			return func() bool {
				err := h.write(pathArm, map[string]any{"after": 0})
				if err == nil {
					return false
				}
				if !servers.Ends(h, pid) {
					h.Fatalf("%s: disarming: %v", h.doing, err)
				}
				h.vault.WaitUntilServed(h)
				return true
			}
		}},
		{"call before it is done", func(op operation, pid, n int) func() bool {
			server := op.server()
			server.Watch(h.killAtCall(pid, n, func() { panic(http.ErrAbortHandler) }), nil)
			return func() bool { server.Watch(nil, nil); return false }
		}},
		{"call after it is done", func(op operation, pid, n int) func() bool {
			server := op.server()
			server.Watch(nil, h.killAtCall(pid, n, func() {}))
			return func() bool { server.Watch(nil, nil); return false }
		}},
	}
}

// killAtCall returns a function that kills a process at the nth call of the
// registry.
func (h *harness) killAtCall(pid, n int, then func()) func(*http.Request) {
	var calls atomic.Int64
	return func(*http.Request) {
		if calls.Add(1) != int64(n) {
			return
		}
		if !servers.KillProcess(h, pid) {
			h.Errorf("process %d does not die", pid)
		}
		then()
	}
}

// sweep runs an operation again and again, each time with the plugin killed one
// step later, until the operation succeeds.
func (h *harness) sweep(op operation) {
	if op.server == nil {
		op.server = func() *issuertest.Server { return h.registry.Server }
	}
	h.unansweredIn(op)
	for _, trigger := range h.triggers() {
		for n := 1; h.kill(op, trigger, n); n++ {
		}
	}
}

// kill runs an operation and reports whether the plugin was killed before its
// end.
func (h *harness) kill(op operation, trigger trigger, n int) bool {
	h.doing = fmt.Sprintf("%s, killed at %s number %d", op.name, trigger.name, n)
	op.prepare()
	pid := h.vault.PluginPID(h)
	disarm := trigger.arm(op, pid, n)
	err := op.run()
	ran := time.Now()
	// A killed process may end a moment later than its request.
	killed := !servers.Running(pid) || err != nil && servers.Ends(h, pid)
	if !killed && err != nil {
		h.Fatalf("%s: was not reached, and the operation failed: %v", h.doing, err)
	}
	if killed {
		h.kills++
		h.vault.WaitUntilServed(h)
	}
	if disarm() && !killed {
		killed = true
		h.kills++
	}
	if n%2 == 0 {
		h.checkReads()
	}
	if killed {
		// The new process reads what is due from an index of whole seconds, rounded up.
		time.Sleep(time.Until(ran.Truncate(time.Second).Add(time.Second)))
	}
	h.mustRollBack()
	op.finish()
	h.check()
	return killed
}

// leaveNothing waits until the engine has revoked the credentials whose answers
// were lost. Then everything can be deleted, and nothing may be left.
func (h *harness) leaveNothing() {
	h.doing = "the end"
	// The index holds whole seconds, rounded up.
	time.Sleep(time.Until(h.unansweredAt.Add(briefTTL + leaseMargin + 2*time.Second)))
	h.vault.KillPlugin(h) // it looks for ended leases when it starts, and rarely later
	h.mustRollBack()
	h.unanswered, h.maxUnanswered = nil, 0
	h.check()

	for _, name := range append(slices.Sorted(maps.Keys(sharedRoles)), brief, lasting) {
		h.mustRemove("roles/" + name)
	}
	h.mustRollBack()
	for name := range h.registry.connections {
		h.mustRemove("connections/" + name) // refused while something is left to be revoked
	}
	h.leaveNothingAtPlaces()
	h.checkForeign(h.registry, h.theirs)
	if h.registry.living == nil {
		return
	}
	if living := h.theirs.without(h.registry.living()); len(living) > 0 {
		h.Fatalf("want nothing of the engine at the registry, got %q", living)
	}
}
