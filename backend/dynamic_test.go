// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/registry"
)

// sharedRole and leasedRole are the smallest writes of a role of each mode, and
// its read-back.
var (
	sharedRole = fields{"connection": "app", "project": "group/app"}
	leasedRole = fields{"connection": "app", "project": "group/app", "mode": "leased"}

	sharedReadBack = fields{
		"type": "dynamic", "connection": "app", "mode": "shared", "project": "group/app",
		"rotation_period": int64(86400), "grace_period": int64(3600),
		"registries": []string{"registry.example.com"}, "updated_at": "2026-03-01T12:00:00Z",
	}
	leasedReadBack = fields{
		"type": "dynamic", "connection": "app", "mode": "leased", "project": "group/app",
		"ttl": int64(0), "max_ttl": int64(0),
		"registries": []string{"registry.example.com"}, "updated_at": "2026-03-01T12:00:00Z",
	}
)

func TestDynamicRoleReadsBackAllItsFields(t *testing.T) {
	for name, c := range map[string]struct{ write, want fields }{
		"shared":         {sharedRole, sharedReadBack},
		"shared by null": {with(sharedRole, fields{"mode": nil, "rotation_period": nil, "grace_period": nil}), sharedReadBack},
		"shared, all fields": {
			with(sharedRole, fields{"mode": "shared", "projects": "b,a", "rotation_period": "1h", "grace_period": "0s", "allowed_bundles": "all", "verify_repository": "group/app:1"}),
			with(sharedReadBack, fields{"projects": []string{"b", "a"}, "rotation_period": int64(3600), "grace_period": int64(0), "allowed_bundles": []string{"all"}, "verify_repository": "group/app:1"}),
		},
		"leased": {leasedRole, leasedReadBack},
		"leased, all fields": {
			with(leasedRole, fields{"ttl": "15m", "max_ttl": 7200, "verify_repository": "registry.example.com/group/app"}),
			with(leasedReadBack, fields{"ttl": int64(900), "max_ttl": int64(7200), "verify_repository": "registry.example.com/group/app"}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			e.write("roles/app", c.write)
			checkSame(t, "role", c.want, e.read("roles/app"))
			checkWarnings(t, e.readWarnings("roles/app"))
			checkSame(t, "mints", 0, e.minting.mints())
		})
	}
}

func TestDynamicRoleUpdateKeepsWhatItDoesNotName(t *testing.T) {
	shared := with(sharedRole, fields{"rotation_period": "2h", "grace_period": "30m", "projects": "x"})
	sharedWant := with(sharedReadBack, fields{"rotation_period": int64(7200), "grace_period": int64(1800), "projects": []string{"x"}, "updated_at": "2026-03-01T13:00:00Z"})
	leased := with(leasedRole, fields{"ttl": "15m", "max_ttl": "2h"})
	leasedWant := with(leasedReadBack, fields{"ttl": int64(900), "max_ttl": int64(7200), "updated_at": "2026-03-01T13:00:00Z"})
	for name, c := range map[string]struct{ before, write, want fields }{
		"nothing":              {shared, fields{}, sharedWant},
		"same mode":            {shared, fields{"mode": "shared"}, sharedWant},
		"project":              {shared, fields{"project": "group/b"}, with(sharedWant, fields{"project": "group/b"})},
		"list emptied":         {shared, fields{"projects": nil}, without(sharedWant, "projects")},
		"period":               {shared, fields{"rotation_period": "1h"}, with(sharedWant, fields{"rotation_period": int64(3600)})},
		"period to default":    {shared, fields{"rotation_period": nil}, with(sharedWant, fields{"rotation_period": int64(86400)})},
		"period by empty text": {shared, fields{"rotation_period": ""}, with(sharedWant, fields{"rotation_period": int64(86400)})},
		"grace by empty text":  {shared, fields{"grace_period": ""}, with(sharedWant, fields{"grace_period": int64(3600)})},
		"ttl by empty text":    {leased, fields{"ttl": "", "max_ttl": ""}, with(leasedWant, fields{"ttl": int64(0), "max_ttl": int64(0)})},
		"decades":              {shared, fields{"rotation_period": "175200h", "grace_period": "175200h"}, with(sharedWant, fields{"rotation_period": int64(630720000), "grace_period": int64(630720000)})},
		"grace":                {shared, fields{"grace_period": 600}, with(sharedWant, fields{"grace_period": int64(600)})},
		"bundles":              {shared, fields{"allowed_bundles": "a"}, with(sharedWant, fields{"allowed_bundles": []string{"a"}})},
		"repository":           {shared, fields{"verify_repository": "a/b"}, with(sharedWant, fields{"verify_repository": "a/b"})},
		"ttl":                  {leased, fields{"ttl": "1h"}, with(leasedWant, fields{"ttl": int64(3600)})},
		"max_ttl":              {leased, fields{"max_ttl": nil}, with(leasedWant, fields{"max_ttl": int64(0)})},
		"the other connection": {shared, fields{"connection": "other", "project": "b"}, with(without(sharedWant, "projects"), fields{"connection": "other", "project": "b", "registries": []string{"other.example.com"}})},
	} {
		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
			t.Run(fmt.Sprintf("%s %s", op, name), func(t *testing.T) {
				e := newConnectedEngine(t)
				e.write("connections/other", with(e.connectionSample(), fields{"registry": "other.example.com"}))
				e.write("roles/app", c.before)
				e.clock.advance(time.Hour)
				e.must(op, "roles/app", c.write)
				checkSame(t, "role", c.want, e.read("roles/app"))
			})
		}
	}
}

func TestDynamicRoleRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		role fields
		data fields
		want []string
	}{
		"no connection":             {sharedRole, fields{"connection": nil}, []string{"connection: must be the name of the connection that mints the role's credential"}},
		"unknown mode":              {sharedRole, fields{"mode": "both"}, []string{"mode: must be shared (one credential, rotated by the engine) or leased (one credential per read)"}},
		"ttl of shared":             {sharedRole, fields{"ttl": 1}, []string{"ttl: a role with mode=shared uses rotation_period and grace_period instead"}},
		"max_ttl of shared":         {sharedRole, fields{"max_ttl": nil}, []string{"max_ttl: a role with mode=shared uses"}},
		"period of leased":          {leasedRole, fields{"rotation_period": 60}, []string{"rotation_period: a role with mode=leased uses ttl and max_ttl instead"}},
		"grace of leased":           {leasedRole, fields{"grace_period": 60}, []string{"grace_period: a role with mode=leased uses"}},
		"ttl above max_ttl":         {leasedRole, fields{"ttl": "2h", "max_ttl": "1h"}, []string{"ttl: must be at most max_ttl, which is 1h0m0s"}},
		"short period":              {sharedRole, fields{"rotation_period": "4s"}, []string{"rotation_period: must be at least 5s"}},
		"no period":                 {sharedRole, fields{"rotation_period": 0}, []string{"rotation_period: must be at least 5s"}},
		"long grace":                {sharedRole, fields{"rotation_period": "1m", "grace_period": "51m"}, []string{"grace_period: must be at most 50 times rotation_period"}},
		"negative":                  {sharedRole, fields{"rotation_period": "-1h"}, []string{"rotation_period: "}},
		"what its type refuses":     {sharedRole, fields{"project": ""}, []string{"project: must be set"}},
		"field of another type":     {sharedRole, fields{"repositories": "a"}, []string{"repositories: a role on a connection of type test does not have this field, which is for type dockerhub, ecr or quay; its fields are: project, projects"}},
		"password":                  {sharedRole, fields{"password": password}, []string{"password: "}},
		"expiry":                    {sharedRole, fields{"expires_at": "2027-01-31T00:00:00Z"}, []string{"expires_at: a role with a connection"}},
		"bundles of leased":         {leasedRole, fields{"allowed_bundles": "all"}, []string{"allowed_bundles: a bundle cannot join a leased role", "use mode=shared"}},
		"other repository":          {sharedRole, fields{"verify_repository": "A B"}, []string{"verify_repository: "}},
		"repository of its pattern": {sharedRole, fields{"verify_repository": "registry.example.com/A"}, []string{"verify_repository: "}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			e.write("roles/app", c.role)
			e.refused(logical.UpdateOperation, "roles/app", c.data, c.want...)
			e.refused(logical.PatchOperation, "roles/app", c.data, c.want...)
			e.refused(logical.UpdateOperation, "roles/new", with(c.role, c.data), c.want...)
			checkSame(t, "mints", 0, e.minting.mints())
		})
	}
}

func TestTypeAndModeOfARoleAreFixed(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/shared", sharedRole)
	e.write("roles/leased", leasedRole)
	e.write("roles/static", member("a.example.com", "bundle"))
	e.write("roles/bundle", fields{"members": "static"})
	for want, c := range map[string]struct {
		role string
		data fields
	}{
		"mode: is shared and cannot be changed; delete the role first":                                  {"shared", fields{"mode": "leased"}},
		"mode: is leased and cannot be changed":                                                         {"leased", fields{"mode": nil}},
		"members: this role":                                                                            {"shared", fields{"members": "static"}},
		"registry: a role with a connection gets its credential from it":                                {"shared", fields{"registry": "a.example.com"}},
		"connection: this role is static; delete it first":                                              {"static", fields{"connection": "app"}},
		"mode: is a field of roles on a connection, and this role holds a credential of its own; leave": {"static", fields{"mode": "shared"}},
		"connection: a bundle":                                                                          {"bundle", fields{"connection": "app"}},
		"password: a role with a connection gets its credential from it; leave this field out":          {"new", with(sharedRole, fields{"password": password})},
	} {
		e.refused(logical.UpdateOperation, "roles/"+c.role, c.data, want)
	}
}

// Otherwise anyone who can write roles could find out which connections exist.
func TestForbiddenConnectionLooksLikeAMissingOne(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("connections/closed", with(e.connectionSample(), fields{"allowed_roles": "other"}))
	for _, name := range []string{"closed", "missing"} {
		e.refused(logical.UpdateOperation, "roles/app", with(sharedRole, fields{"connection": name}),
			fmt.Sprintf(`connection: role "app" cannot use connection %q: there is no such connection, or its allowed_roles does not name the role`, name))
	}
}

func TestTargetMustBeAllowed(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("connections/app", fields{"allowed_targets": "group/*,me"})
	e.write("roles/app", sharedRole)
	for _, project := range []string{"other/app", "group", "*"} {
		e.refused(logical.UpdateOperation, "roles/app", fields{"project": project},
			`connection: the allowed_targets of connection "app" do not cover all of: `+project)
	}
	e.write("roles/app", fields{"project": "me"})
}

// A connection that no longer allows a role does not keep its writers from
// restricting the role.
func TestRoleOfAForbiddenConnectionCanStillBeRestricted(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/app", with(sharedRole, fields{"allowed_bundles": "*"}))
	e.write("connections/app", fields{"allowed_roles": "other"})
	e.write("roles/app", fields{"allowed_bundles": ""})
	e.write("roles/app", fields{"verify_repository": "group/app"})
	checkSame(t, "role", with(sharedReadBack, fields{"verify_repository": "group/app"}), e.read("roles/app"))
	for _, data := range []fields{{"project": "group/app"}, {"rotation_period": "1h"}, {"connection": "app"}, {"mode": "shared"}} {
		e.refused(logical.UpdateOperation, "roles/app", data, "its allowed_roles does not name the role")
	}
	e.must(logical.DeleteOperation, "roles/app", nil)
}

func TestPeriodsFitWhatTheRegistryAllows(t *testing.T) {
	e := newConnectedEngine(t)
	e.minting.longest = 12 * time.Hour
	e.write("roles/app", sharedRole)
	checkSame(t, "defaults", with(sharedReadBack, fields{"rotation_period": int64(6 * 3600)}), e.read("roles/app"))
	e.refused(logical.UpdateOperation, "roles/app", fields{"rotation_period": "11h1s"}, "rotation_period: rotation_period and grace_period together must be at most 12h0m0s, the longest lifetime that the registry allows")
	e.refused(logical.UpdateOperation, "roles/app", fields{"grace_period": "6h1s"}, "rotation_period: rotation_period and grace_period together must be at most 12h0m0s")
	e.write("roles/app", fields{"rotation_period": "11h"})
	checkSame(t, "expires_at of what is minted", any(formatTime(noon.Add(12*time.Hour))), e.read("creds/app")["expires_at"])

	e.minting.longest = 2 * time.Hour
	e.write("roles/short", sharedRole)
	checkSame(t, "defaults", with(sharedReadBack, fields{"rotation_period": int64(3600), "grace_period": int64(1800)}), e.read("roles/short"))
}

func TestGraceFollowsAShortPeriod(t *testing.T) {
	e := newConnectedEngine(t)
	for period, want := range map[string]int64{"5s": 60, "30m": 1800, "48h": 3600} {
		e.write("roles/app"+period, with(sharedRole, fields{"rotation_period": period}))
		checkSame(t, "grace_period for "+period, any(want), e.read("roles/app" + period)["grace_period"])
	}
}

func TestDynamicRoleWriteWarns(t *testing.T) {
	e := newConnectedEngine(t)
	for _, c := range []struct {
		longest time.Duration
		data    fields
		want    []string
	}{
		{0, sharedRole, nil},
		{0, with(sharedRole, fields{"grace_period": "4m59s"}), []string{"grace_period: 4m59s is short; a credential that was read before a rotation stops working this long after it"}},
		{0, with(sharedRole, fields{"grace_period": "5m"}), nil},
		{0, with(sharedRole, fields{"rotation_period": "4m"}), []string{"grace_period: 4m0s is short"}}, // the default
		{0, with(sharedRole, fields{"rotation_period": "10m"}), nil},
		{0, leasedRole, nil},
		{0, with(leasedRole, fields{"ttl": "23h", "max_ttl": "24h"}), nil}, // what the mount allows
		{0, with(leasedRole, fields{"ttl": "24h", "max_ttl": "24h"}), []string{"ttl: a lease lasts 24h0m0s and cannot be renewed, because it may last no longer"}},
		{0, with(leasedRole, fields{"ttl": "0", "max_ttl": "30m"}), []string{"ttl: a lease lasts 30m0s and cannot be renewed"}}, // the mount's ttl is longer
		{0, with(leasedRole, fields{"ttl": "25h", "max_ttl": "26h"}), []string{
			"max_ttl: leases last at most 24h0m0s, which is the mount's maximum", "ttl: leases last at most 24h0m0s, which is the mount's maximum",
		}},
		{12 * time.Hour, with(leasedRole, fields{"ttl": "12h"}), []string{"ttl: a lease lasts 12h0m0s and cannot be renewed"}},
		{12 * time.Hour, with(leasedRole, fields{"max_ttl": "13h"}), []string{"max_ttl: leases last at most 12h0m0s, which is the longest lifetime that the registry allows"}},
	} {
		e.setMount(time.Hour, 24*time.Hour)
		e.minting.longest = c.longest
		checkWarnings(t, warningsOf(e.write("roles/app", c.data)), c.want...)
		e.must(logical.DeleteOperation, "roles/app", nil)
	}
}

// A registry may be unable to find and revoke what ends soon.
func TestRoleWriteWarnsOfALongerLife(t *testing.T) {
	const longer = ", and lives 3h0m0s (10800 seconds) at the registry, which can find and revoke none that ends sooner; the engine revokes it when it is no longer needed"
	e := newConnectedEngine(t)
	e.minting.shortest = 3 * time.Hour
	for _, c := range []struct {
		data fields
		want []string
	}{
		{sharedRole, nil},
		{with(sharedRole, fields{"rotation_period": "2h", "grace_period": "1h"}), nil},
		{with(sharedRole, fields{"rotation_period": "2h", "grace_period": "59m"}), []string{"rotation_period: a credential is used for at most 2h59m0s, with grace_period" + longer}},
		{leasedRole, nil},
		{with(leasedRole, fields{"max_ttl": "2h"}), []string{"max_ttl: a credential is used for at most 2h0m0s" + longer}},
		{with(leasedRole, fields{"max_ttl": "3h"}), nil},
		{with(leasedRole, fields{"ttl": "10m", "max_ttl": "0"}), nil}, // the mount's maximum
	} {
		e.setMount(time.Hour, 24*time.Hour)
		checkWarnings(t, warningsOf(e.write("roles/app", c.data)), c.want...)
		checkWarnings(t, warningsOf(e.write("roles/app", fields{"project": "group/app"})))
		e.must(logical.DeleteOperation, "roles/app", nil)
	}
	e.setMount(time.Hour, 2*time.Hour)
	checkWarnings(t, warningsOf(e.write("roles/app", with(leasedRole, fields{"ttl": "10m", "max_ttl": "0"}))), "max_ttl: a credential is used for at most 2h0m0s"+longer)
}

// setMount sets the default and maximum lease TTL of the mount.
func (e *engine) setMount(ttl, maxTTL time.Duration) {
	view := e.System().(*logical.StaticSystemView)
	view.DefaultLeaseTTLVal, view.MaxLeaseTTLVal = ttl, maxTTL
}

// The registries of the new connection count, even while a credential of the former
// one is stored.
func TestVerifyRepositoryFitsTheConnection(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("connections/other", with(e.connectionSample(), fields{"registry": "other.example.com/team,second.example.com"}))
	e.write("roles/app", sharedRole)
	e.read("creds/app")
	e.write("roles/app", fields{"connection": "other", "project": "a"})
	checkSame(t, "registries", any([]string{"other.example.com/team", "second.example.com"}), e.read("roles/app")["registries"])
	for _, bad := range []string{"group/app", "registry.example.com/group/app", "other.example.com/app"} {
		e.refused(logical.UpdateOperation, "roles/app", fields{"verify_repository": bad}, "verify_repository: must begin with one of the role's registries")
	}
	e.write("roles/app", fields{"verify_repository": "other.example.com/team/app"})

	e.write("config", fields{"allowed_registries": "registry.example.com"})
	e.write("roles/app", fields{"grace_period": "2h"}) // it can still be restricted
	checkWarnings(t, e.readWarnings("roles/app"), "creds/app is refused: registry")
	checkSame(t, "registries", any([]string{"other.example.com/team", "second.example.com"}), e.read("roles/app")["registries"])
}

func TestVerifyMintsATrialAndStoresOnlyIfItPulls(t *testing.T) {
	for name, role := range map[string]fields{"shared": sharedRole, "leased": leasedRole} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			data := with(role, fields{"verify": true, "verify_repository": "group/app"})
			e.registries.answer("registry.example.com", registry.Result{Verdict: registry.NotFound, Message: "said so"})
			e.refused(logical.UpdateOperation, "roles/app", data, `verify: nothing is stored, because not every credential can pull: registry "registry.example.com": not_found (said so)`)
			e.minting.fail("mint", errRefused)
			e.failed(logical.UpdateOperation, "roles/app", data, http.StatusBadGateway, `role "app"`, "answered 403 Forbidden")
			e.minting.mend()

			e.registries.asked = nil
			e.registries.answer("registry.example.com", registry.Result{Verdict: registry.OK, Accepted: true})
			e.write("roles/app", data)
			checkSame(t, "asked", []string{"registry.example.com robot group/app"}, e.registries.asked)
			checkSame(t, "living credentials", []string{}, e.minting.names())
			checkSame(t, "mints", 2, e.minting.mints())
			checkSame(t, "write-ahead entries", 0, len(keysBelow(t, e, "wal/")))
			e.write("roles/app", fields{"verify": true})
			checkSame(t, "mints", 3, e.minting.mints())
		})
	}
}

// The write must store exactly what was verified.
func TestVerifyRefusesADynamicRoleThatChangedMeanwhile(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/app", sharedRole)
	e.minting.during("mint", func() {
		e.minting.mend()
		e.write("roles/app", fields{"project": "group/other"})
	})
	resp, err := e.request(logical.UpdateOperation, "roles/app", fields{"rotation_period": "1h", "verify": true})
	if err != nil || !resp.IsError() {
		t.Fatalf("want a refusal, got %v, %v", resp, err)
	}
	checkContains(t, resp.Error().Error(), `verify: nothing is stored, because role "app" was changed meanwhile; try again`)
	checkSame(t, "role", with(sharedReadBack, fields{"project": "group/other"}), e.read("roles/app"))
	checkSame(t, "living credentials", []string{}, e.minting.names())
}

// A new credential is verified before anybody gets it.
func TestMintedCredentialIsVerifiedBeforeItIsServed(t *testing.T) {
	denied := registry.Result{Verdict: registry.Denied, Message: "not yet"}
	for name, role := range map[string]fields{"shared": sharedRole, "leased": leasedRole} {
		e := newConnectedEngine(t)
		e.write("roles/leased", with(role, fields{"verify_repository": "group/app"}))
		e.registries.answer("registry.example.com", denied)
		e.failed(logical.ReadOperation, "creds/leased", nil, http.StatusBadGateway,
			`the new credential is not served, because it cannot pull from verify_repository: registry "registry.example.com" refuses what was minted (not yet)`)
		checkSame(t, name+": living credentials", []string{}, e.minting.names())
		checkSame(t, name+": tries", trialTries, len(e.registries.asked))

		e.clock.advance(firstRetry)
		e.sleep = func(context.Context, time.Duration) { // it takes a moment until it works
			e.registries.answer("registry.example.com", registry.Result{Verdict: registry.OK, Accepted: true})
		}
		e.read("creds/leased")
		for _, verdict := range []registry.Verdict{registry.NotFound, registry.Unreachable} { // the nodes may see it otherwise
			e.registries.answer("registry.example.com", registry.Result{Verdict: verdict})
			e.clock.advance(48 * time.Hour)
			e.read("creds/leased")
		}
	}
}

// A registry may return a credential that no pull secret can hold.
func TestCredentialThatNoPullSecretCanHoldIsRevoked(t *testing.T) {
	for want, spoil := range map[string]func(*mintingRegistry){
		"username: must not contain ':'": func(r *mintingRegistry) { r.username = "a:b" },
		"password: must not contain":     func(r *mintingRegistry) { r.password = func(name string) string { return marker + name + "\x00" } },
	} {
		for name, role := range map[string]fields{"shared": sharedRole, "leased": leasedRole} {
			e := newConnectedEngine(t)
			e.write("roles/leased", role)
			spoil(e.minting)
			resp, err := e.request(logical.ReadOperation, "creds/leased", nil)
			if err == nil || resp != nil {
				t.Fatalf("%s: want an error, got %v", name, resp)
			}
			checkContains(t, err.Error(), `the registry of connection "app" minted what cannot be in a pull secret`, want)
			checkSame(t, name+": living credentials", []string{}, e.minting.names())
			checkSame(t, name+": write-ahead entries", 0, len(keysBelow(t, e, "wal/")))
		}
	}
}

// A read of the role tells beforehand that nothing is minted. What a shared role
// has minted before is served all the same.
func TestRoleOfAConnectionThatWasClosedSaysSo(t *testing.T) {
	for closed, want := range map[string]string{
		"allowed_roles":   `: connection: role "%s" cannot use connection "app"`,
		"allowed_targets": `: connection: the allowed_targets of connection "app" do not cover all of: `,
	} {
		t.Run(closed, func(t *testing.T) {
			e := newConnectedEngine(t)
			e.write("roles/leased", leasedRole)
			e.write("roles/shared", with(sharedRole, fields{"allowed_bundles": "all"}))
			e.write("roles/all", fields{"members": "shared"})
			e.write("connections/app", fields{closed: "other"})
			for name, member := range map[string]string{"leased": "leased", "shared": "shared", "all": "shared"} {
				checkWarnings(t, e.readWarnings("roles/"+name), "creds/"+name+" is refused"+strings.ReplaceAll(want, "%s", member))
				checkSame(t, "registries of "+name, any([]string{"registry.example.com"}), e.read("roles/" + name)["registries"])
			}
			e.write("connections/app", fields{closed: "*"})
			e.read("creds/all")
			e.write("connections/app", fields{closed: "other"})
			for _, name := range []string{"shared", "all"} {
				checkWarnings(t, e.readWarnings("roles/"+name))
				e.read("creds/" + name)
			}
			e.clock.advance(60 * time.Hour) // what was minted has ended
			checkWarnings(t, e.readWarnings("roles/shared"), "creds/shared is refused")
		})
	}
}

func TestRoleOfADeletedConnectionSaysSo(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/app", sharedRole)
	if err := e.through().Delete(t.Context(), "connections/app"); err != nil {
		t.Fatal(err)
	}
	checkSame(t, "role", without(sharedReadBack, "registries"), e.read("roles/app"))
	checkWarnings(t, e.readWarnings("roles/app"), `creds/app is refused: connection "app" does not exist`)
	e.refusedWithTrace(logical.ReadOperation, "creds/app", nil, `connection: role "app" `)
	e.must(logical.DeleteOperation, "roles/app", nil)
}

// When storage fails at any call, the response is complete or an error, and the
// registry holds exactly the credentials that are served or leased.
func TestStorageFailureWithMintedCredentialsIsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		op   logical.Operation
		path string
		data fields
	}{
		"read-back":            {logical.ReadOperation, "roles/replaced", nil},
		"read":                 {logical.ReadOperation, "creds/replaced", nil},
		"read of a bundle":     {logical.ReadOperation, "creds/all", nil},
		"verify":               {logical.UpdateOperation, "verify/leased", nil},
		"write":                {logical.UpdateOperation, "roles/served", fields{"project": "group/x"}},
		"move":                 {logical.UpdateOperation, "roles/served", fields{"connection": "other", "project": "group/x"}},
		"write with a trial":   {logical.UpdateOperation, "roles/served", fields{"verify": true}},
		"use of a connection":  {logical.DeleteOperation, "connections/app", nil},
		"end of a connection":  {logical.DeleteOperation, "connections/other", fields{"force": true}},
		"another password":     {logical.UpdateOperation, "connections/other", fields{"password": marker + "-other"}},
		"check":                {logical.ReadOperation, "connections/app/check", nil},
		"rotation that is due": {logical.UpdateOperation, "rotate/replaced", nil},
	} {
		t.Run(name, func(t *testing.T) {
			for failAt := int64(1); ; failAt++ {
				e := newDynamicEngine(t)
				e.minting.admins[marker+"-own"] = true
				e.write("connections/other", with(e.connectionSample(), fields{"password": marker + "-own"}))
				e.write("roles/leased-other", with(leasedRole, fields{"connection": "other"}))
				e.read("creds/leased-other")
				e.must(logical.DeleteOperation, "roles/leased-other", nil)
				e.minting.admins[marker+"-other"] = true
				e.minting.fail("activate", errDown)
				e.failed(logical.UpdateOperation, "connections/other/rotate-root", nil, http.StatusBadGateway)
				e.minting.mend()
				e.write("roles/served", fields{"allowed_bundles": "all"})
				e.write("roles/all", fields{"members": "served"})
				working := e.storage
				faulty := e.faulty(failAt)
				e.storage = faulty
				resp, err := e.request(c.op, c.path, c.data)
				e.background.Wait()
				e.storage = working
				if faulty.calls.Load() < failAt {
					return
				}
				switch {
				case err != nil && !errors.Is(err, errStorage):
					t.Errorf("storage call %d fails: want its error, got %v", failAt, err)
				case err == nil && c.op == logical.ReadOperation && resp == nil:
					t.Errorf("storage call %d fails: want no 404", failAt)
				}
				if err := e.rollBack(); err != nil {
					t.Errorf("storage call %d fails: rollback: %v", failAt, err)
				}
				want := []string{}
				for _, role := range []string{"shared", "served", "replaced"} {
					want = append(want, e.served(role)...)
				}
				for _, name := range e.minting.names() {
					if !slices.Contains(want, name) && !strings.HasPrefix(name, "regcred-leased-other-") {
						t.Errorf("storage call %d fails: nobody has %s", failAt, name)
					}
				}
				for _, name := range want {
					if !slices.Contains(e.minting.names(), name) {
						t.Errorf("storage call %d fails: %s does not work", failAt, name)
					}
				}
			}
		})
	}
}
