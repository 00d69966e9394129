// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// rootInUse returns the password of the connection, and its pending_root.
func (e *engine) rootInUse() (password string, pending any) {
	e.t.Helper()
	c, err := e.connection(e.t.Context(), e.storage, "app")
	if err != nil || c == nil {
		e.t.Fatalf("connection: %v, %v", c, err)
	}
	return c.Secrets["password"].Reveal(), e.read("connections/app")["pending_root"]
}

// checkRoot expects the password in use to be the former one or a new one, and
// exactly that many passwords to work at the registry.
func (e *engine) checkRoot(replaced bool, pending any, admins int) {
	e.t.Helper()
	password, got := e.rootInUse()
	if (password != adminPassword) != replaced {
		e.t.Errorf("want it replaced: %v; it is the old one: %v", replaced, password == adminPassword)
	}
	checkSame(e.t, "pending_root", pending, got)
	all := e.minting.adminPasswords()
	checkSame(e.t, "working root credentials", admins, len(all))
	if !slices.Contains(all, password) {
		e.t.Error("want the one in use to work")
	}
}

const (
	prepared = "a new root credential was prepared and is not in use yet"
	notEnded = "the former root credential is not revoked at the registry yet"
)

func TestRotateRootReplacesTheRootCredential(t *testing.T) {
	e := newConnectedEngine(t)
	e.clock.advance(time.Hour)
	if resp := e.write("connections/app/rotate-root", nil); resp != nil {
		t.Errorf("want no response, got %v", resp)
	}
	e.checkRoot(true, nil, 1)
	checkSame(t, "connection", with(e.connectionReadBack(), fields{"last_root_rotation": "2026-03-01T13:00:00Z"}), e.read("connections/app"))
	checkSame(t, "events", []string{"regcred/root-rotate connections/app"}, e.sent())
	checkSame(t, "stored keys", []string{"connections/app", "root-checks/app"}, keysOf(e.snapshot()))

	first, _ := e.rootInUse()
	e.write("connections/app/rotate-root", nil)
	if second, _ := e.rootInUse(); second == first {
		t.Error("want another one")
	}
	e.write("connections/app", fields{"username": "other"}) // keeps the password and last_root_rotation
	e.checkRoot(true, nil, 1)
	checkSame(t, "last_root_rotation", any("2026-03-01T13:00:00Z"), e.read("connections/app")["last_root_rotation"])
}

// After a failure of any call to the registry there is a credential that works, and
// the engine finishes the rotate-root once the registry answers again.
func TestRotateRootOfAFailingRegistry(t *testing.T) {
	refused, boom := "answered 403 Forbidden: [redacted]", "answered 500 Internal Server Error: [redacted]"
	for name, c := range map[string]struct {
		call     string
		err      error
		acted    bool
		want     []string
		replaced bool
		pending  any
		admins   int
		settled  bool // the periodic function continues to the new one
	}{
		"prepare refused":              {"prepare", errRefused, false, []string{refused}, false, nil, 1, false},
		"prepare fails before it acts": {"prepare", errAmbiguous, false, []string{boom}, false, nil, 1, false},
		"prepare fails after it acted": {"prepare", errAmbiguous, true, []string{boom}, false, nil, 2, false},
		"activate refused":             {"activate", errRefused, false, []string{"the root credential stays as it was", refused}, false, nil, 1, false},
		"activate fails":               {"activate", errAmbiguous, true, []string{"could not be put in use, which is tried again every minute", boom}, false, prepared, 2, true},
		"retire refused":               {"retire", errRefused, false, []string{"the new root credential is in use, and the former one could not be ended yet, which is tried again every minute", refused}, true, notEnded, 2, true},
		"retire fails after it acted":  {"retire", errAmbiguous, true, []string{"the new root credential is in use", boom}, true, notEnded, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			if c.acted {
				e.minting.failAfter(c.call, c.err)
			} else {
				e.minting.fail(c.call, c.err)
			}
			e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway, append(c.want, "the registry's API at "+e.minting.url)...)
			e.checkRoot(c.replaced, c.pending, c.admins)
			checkSame(t, "events", []string{"regcred/root-rotate-fail connections/app"}, e.sent())

			if c.pending != nil && c.admins == 2 { // a further try adds no credential
				e.mustRollBack()
				e.checkRoot(c.replaced, c.pending, c.admins)
			}
			e.minting.mend()
			e.clock.advance(lastRootPause)
			e.mustRollBack()
			e.checkRoot(c.replaced || c.settled, nil, 1)
			checkSame(t, "stored keys", []string{"connections/app", "root-checks/app"}, keysOf(e.snapshot()))
			e.write("connections/app/rotate-root", nil)
			e.checkRoot(true, nil, 1)
		})
	}
}

// errCheck is the answer of a registry to an unknown credential.
var errCheck = issuer.Proving(issuer.ProvesRefused, issuer.StatusError(http.StatusUnauthorized, nil, "who are you?"))

func TestNewRootCredentialThatDoesNotWork(t *testing.T) {
	for name, c := range map[string]struct {
		discard error
		want    string
		pending any
		admins  int
	}{
		"is ended":           {nil, "the root credential stays as it was", nil, 1},
		"could not be ended": {errDown, "the new root credential is refused, and could not be ended yet, which is tried again every minute", prepared, 2},
		"may not be ended":   {errRefused, "the new root credential is refused, and could not be ended yet", prepared, 2},
	} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			tries := 0
			e.minting.before = func(call string) error {
				switch call {
				case "check":
					if tries++; tries <= rootTries { // tries of the new one; then comes the old one
						return errCheck
					}
				case "discard":
					return c.discard
				}
				return nil
			}
			e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway, c.want)
			checkSame(t, "tries", rootTries+1, tries)
			e.checkRoot(false, c.pending, c.admins)
			e.minting.mend()
			e.mustRollBack()
			e.checkRoot(c.pending != nil, nil, 1)
		})
	}
}

// Some registries refuse a new credential for some seconds.
func TestNewRootCredentialIsTriedMoreThanOnce(t *testing.T) {
	e := newConnectedEngine(t)
	tries := 0
	e.minting.before = func(call string) error {
		if call == "check" {
			if tries++; tries < rootTries {
				return errRefused
			}
		}
		return nil
	}
	e.write("connections/app/rotate-root", nil)
	e.checkRoot(true, nil, 1)
	checkSame(t, "tries", rootTries, tries)
}

// The engine keeps both until it knows which one works.
func TestBothRootCredentialsAreKeptWhileTheRegistryIsDown(t *testing.T) {
	for name, err := range map[string]error{"down": errDown, "refusing all": errCheck} {
		e := newConnectedEngine(t)
		e.minting.fail("check", err)
		e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway, "the new root credential could not be put in use, which is tried again every minute")
		t.Log(name)
		e.checkRoot(false, prepared, 2)
		e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway, "tried again every minute") // creates no third one
		e.checkRoot(false, prepared, 2)
		e.minting.mend()
		e.write("roles/leased", leasedRole)
		e.read("creds/leased") // finishes it before it mints
		e.checkRoot(true, nil, 1)
	}
}

// An unfinished rotate-root does not make a mint fail.
func TestMintWithAPendingRootCredential(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/leased", leasedRole)
	e.minting.fail("activate", errDown)
	e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
	e.read("creds/leased")
	e.checkRoot(false, prepared, 2)
	checkSame(t, "mints", 1, e.minting.mints())

	e.minting.mend()
	e.write("connections/app/rotate-root", nil)
	e.checkRoot(true, nil, 1)
}

// A performance secondary cannot store that a root credential is in force: if the
// primary gave it up meanwhile, nobody would know the one that the registry has.
func TestSecondaryLeavesARotateRootToThePrimary(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/leased", leasedRole)
	e.minting.fail("activate", errDown)
	e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
	e.System().(*logical.StaticSystemView).ReplicationStateVal = consts.ReplicationPerformanceSecondary
	activated := 0
	e.minting.during("activate", func() { activated++ })
	for _, path := range []string{"creds/leased", "connections/app/check"} {
		e.read(path)
		checkSame(t, path+": calls that put the new one in force", 0, activated)
	}
	checkSame(t, "mints", 1, e.minting.mints())
}

// If somebody writes another root credential by hand, the engine still revokes the
// ones that rotate-root created.
func TestRootCredentialWrittenDuringARotateRoot(t *testing.T) {
	for name, c := range map[string]struct{ call, pending string }{"prepared": {"activate", prepared}, "not ended": {"retire", notEnded}} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			e.minting.fail(c.call, errDown)
			e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
			e.minting.mend()
			const byHand = marker + "-by-hand"
			e.minting.admins[byHand] = true
			e.write("connections/app", fields{"allowed_roles": "*"}) // does not change the credential
			_, pending := e.rootInUse()
			checkSame(t, "pending_root", any(c.pending), pending)

			e.write("connections/app", fields{"password": byHand})
			e.mustRollBack()
			password, pending := e.rootInUse()
			checkSame(t, "in use", true, password == byHand)
			checkSame(t, "pending_root", any(nil), pending)
			for _, admin := range e.minting.adminPasswords() {
				if admin != byHand && admin != adminPassword && c.call == "activate" {
					t.Error("want what was prepared to be ended")
				}
				if admin == adminPassword && c.call == "retire" {
					t.Error("want the former one to be ended")
				}
			}
			e.read("connections/app/check")
		})
	}
}

// Otherwise its leftovers could no longer be revoked.
func TestConnectionWithAnUnfinishedRotateRootIsNotDeleted(t *testing.T) {
	for _, call := range []string{"activate", "retire"} {
		e := newConnectedEngine(t)
		e.minting.fail(call, errDown)
		e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
		e.events.Events = nil
		e.refused(logical.DeleteOperation, "connections/app", nil, "a root credential that an unfinished rotate-root still has to revoke")
		e.minting.mend()
		e.mustRollBack()
		e.must(logical.DeleteOperation, "connections/app", nil)
		if left := e.minting.adminPasswords(); len(left) != 1 {
			t.Errorf("want one root credential, got %d", len(left))
		}
	}
}

// Leftovers of a rotate-root at one host are not looked for at another one.
func TestConnectionThatMovesDuringARotateRoot(t *testing.T) {
	const elsewhere = "https://elsewhere.example.com"
	for call, pending := range map[string]string{"activate": prepared, "retire": notEnded} {
		for _, data := range []fields{{"url": elsewhere}, {"registry": "other.example.com"}} {
			e := newConnectedEngine(t)
			e.minting.alsoAt(t, elsewhere)
			e.minting.fail(call, errDown)
			e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
			e.minting.mend()
			_, got := e.rootInUse()
			checkSame(t, "pending_root", any(pending), got)
			warnings := warningsOf(e.write("connections/app", with(data, fields{"password": adminPassword})))
			checkContains(t, warnings[0], ": gave up an unfinished rotate-root; revoke the credentials that it created or replaced at the old host yourself")
			_, got = e.rootInUse()
			checkSame(t, "pending_root", any(nil), got)
		}
	}
}

// A call that uses the former credential when it is revoked continues with the new
// one.
func TestCallsDuringARotateRootUseOneThatWorks(t *testing.T) {
	for call, act := range map[string]func(*engine) error{
		"mint":   onPathOf(logical.ReadOperation, "creds/leased"),
		"revoke": onPathOf(logical.DeleteOperation, "roles/app"),
		"find": func(e *engine) error {
			e.mustPutWAL(walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "app", Name: "regcred-x"}})
			return e.rollBack()
		},
	} {
		t.Run(call, func(t *testing.T) {
			e := newSharingEngine(t)
			e.write("roles/leased", leasedRole)
			e.read("creds/app")
			e.minting.living["regcred-x"] = true
			e.minting.during(call, func() {
				e.minting.mend()
				e.write("connections/app/rotate-root", nil)
			})
			if err := act(e); err != nil {
				t.Errorf("want success, got %v", err)
			}
			e.checkRoot(true, nil, 1)
			checkSame(t, "mints", map[string]int{"mint": 2, "revoke": 1, "find": 1}[call], e.minting.mints())
			checkSame(t, "living credentials", map[string]int{"mint": 3, "revoke": 1, "find": 1}[call], len(e.minting.names()))
			checkSame(t, "write-ahead entries", 0, len(keysBelow(t, e, "wal/")))
		})
	}
}

func onPathOf(op logical.Operation, path string) func(*engine) error {
	return func(e *engine) error { return onPath(op, path)(e, e.storage) }
}

func TestRootCredentialThatCannotBeReplaced(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("connections/app2", with(e.connectionSample(), fields{"type": "brief"}))
	before := e.snapshot()
	e.refusedWithTrace(logical.UpdateOperation, "connections/app2/rotate-root", nil, issuer.ErrRootNotRotatable.Error())
	checkSame(t, "storage", before, e.snapshot())
}

// A crash can leave a prepared root credential that storage does not hold. The
// engine finds it by name and revokes it, unless it is in use.
func TestLeftoversOfARotateRootAreRevoked(t *testing.T) {
	prepare := func(t *testing.T) (*engine, walRootEntry) {
		e := newConnectedEngine(t)
		name := issuer.NewName("app")
		e.minting.admins[marker+name] = true
		return e, walRootEntry{SchemaVersion: schemaVersion, Connection: "app", ConnectionID: "id-1", Name: name}
	}
	rollBack := func(t *testing.T, e *engine, entry walRootEntry) error {
		t.Helper()
		return e.rollBackRoot(t.Context(), e.storage, entry)
	}
	change := func(t *testing.T, e *engine, root rootRotation) {
		t.Helper()
		c, err := e.connection(t.Context(), e.storage, "app")
		if err != nil {
			t.Fatal(err)
		}
		c.Root = root
		if err := e.putConnection(t.Context(), e.storage, c); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		root   func(name string) *rootRotation
		want   error
		admins int
	}{
		"not known":        {func(string) *rootRotation { return nil }, nil, 1},
		"in use":           {func(name string) *rootRotation { return &rootRotation{RotatedAt: noon, Name: name} }, nil, 2},
		"pending":          {func(name string) *rootRotation { return &rootRotation{Pending: &pendingRoot{Name: name}} }, nil, 2},
		"another, pending": {func(string) *rootRotation { return &rootRotation{Pending: &pendingRoot{Name: "other"}} }, errInProgress, 2},
	} {
		t.Run(name, func(t *testing.T) {
			e, entry := prepare(t)
			if root := c.root(entry.Name); root != nil {
				change(t, e, *root)
			}
			checkSame(t, "error", fmt.Sprint(c.want), fmt.Sprint(rollBack(t, e, entry)))
			checkSame(t, "working root credentials", c.admins, len(e.minting.adminPasswords()))
		})
	}
	e, entry := prepare(t)
	done := e.markInProgress(entry.Name)
	checkSame(t, "while at work", fmt.Sprint(errInProgress), fmt.Sprint(rollBack(t, e, entry)))
	done()
	e.minting.fail("discard", errDown)
	if err := rollBack(t, e, entry); err == nil {
		t.Error("want an error while the registry is down")
	}
	e.must(logical.DeleteOperation, "connections/app", nil)
	checkSame(t, "without the connection", nil, rollBack(t, e, entry))
}

// One rotate-root that cannot be finished does not keep the engine from finishing
// others.
func TestOneUnfinishedRotateRootDoesNotBlockOthers(t *testing.T) {
	e := newConnectedEngine(t)
	e.store("connections/aaa", "damaged")
	e.minting.fail("activate", errDown)
	e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
	e.minting.mend()
	e.mustRollBack()
	e.checkRoot(true, nil, 1)
}

func TestStoredRootThatCannotBeOpenedIsAnError(t *testing.T) {
	e := newConnectedEngine(t)
	c, err := e.connection(t.Context(), e.storage, "app")
	if err != nil {
		t.Fatal(err)
	}
	broken := issuer.Root{Settings: issuer.Settings{"username": ""}, Secrets: issuer.Secrets{"password": dockerconfig.NewSecret(adminPassword)}}
	c.Root = rootRotation{Pending: &pendingRoot{Name: "regcred-x", Root: broken}}
	if err := e.putConnection(t.Context(), e.storage, c); err != nil {
		t.Fatal(err)
	}
	e.refusedWithTrace(logical.UpdateOperation, "connections/app/rotate-root", nil, "username: must be set")
}

func TestRotateRootNeedsTheStorage(t *testing.T) {
	for failAt := int64(1); failAt <= 3; failAt++ {
		e := newConnectedEngine(t)
		err := e.finishRootRotations(t.Context(), e.faulty(failAt))
		if lists := failAt == 1; lists != (err != nil) {
			t.Errorf("storage call %d fails: got %v", failAt, err)
		}
	}
}

// A root credential that was written by hand may be of another account, which
// cannot find what rotate-root has prepared for the former one.
func TestPendingRootOfAnotherAccountIsEnded(t *testing.T) {
	e := newConnectedEngine(t)
	e.minting.fail("activate", errDown)
	e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
	e.minting.mu.Lock()
	e.minting.admins["by hand"] = true
	e.minting.mu.Unlock()
	e.minting.mend()
	pending := ""
	for _, password := range e.minting.adminPasswords() {
		if strings.HasPrefix(password, marker+"regcred-") {
			pending = password
		}
	}
	e.write("connections/app", fields{"password": "by hand"})
	e.forgetWAL()
	e.mustRollBack()
	if slices.Contains(e.minting.adminPasswords(), pending) {
		t.Errorf("the root credential that was pending is alive: %q", e.minting.adminPasswords())
	}
}

// forgetWAL deletes the write-ahead entries, as if they had found nothing.
func (e *engine) forgetWAL() {
	e.t.Helper()
	for _, id := range keysBelow(e.t, e, framework.WALPrefix) {
		if err := e.storage.Delete(e.t.Context(), framework.WALPrefix+id); err != nil {
			e.t.Fatal(err)
		}
	}
}
