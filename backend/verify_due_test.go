// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/registry"
)

// pullingRegistries are registries that accept some passwords, and note when each
// user was tried.
type pullingRegistries struct {
	clock *clock

	mu      sync.Mutex
	refused map[string]bool // passwords
	down    map[string]registry.Result
	tried   map[string][]time.Time // by user name
}

func (p *pullingRegistries) Verify(_ context.Context, c dockerconfig.Credential, repository string) registry.Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tried[c.Username] = append(p.tried[c.Username], p.clock.now())
	result := registry.Result{Verdict: registry.OK, Accepted: true}
	switch down, isDown := p.down[c.Registry.Host()]; {
	case isDown:
		result = down
	case p.refused[c.Password.Reveal()]:
		result = registry.Result{Verdict: registry.Denied, Message: "the registry answered 401 Unauthorized: no " + c.Username}
	case strings.HasPrefix(repository, "missing"):
		result = registry.Result{Verdict: registry.NotFound, Message: "the registry answered 404 Not Found"}
	}
	return result
}

func (p *pullingRegistries) refuse(password string, refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused[password] = refused
}

// answer has a registry answer all alike; nil: as it does when it is well.
func (p *pullingRegistries) answer(host string, result *registry.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if delete(p.down, host); result != nil {
		p.down[host] = *result
	}
}

// trials returns how often a user was tried, and forgets it.
func (p *pullingRegistries) trials(user string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer delete(p.tried, user)
	return len(p.tried[user])
}

func (p *pullingRegistries) all() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer clear(p.tried)
	n := 0
	for _, times := range p.tried {
		n += len(times)
	}
	return n
}

// verifies makes an engine one whose clock runs while it waits.
func verifies(e *engine) *pullingRegistries {
	p := &pullingRegistries{clock: e.clock, refused: map[string]bool{}, down: map[string]registry.Result{}, tried: map[string][]time.Time{}}
	e.verifiesAt(p)
	return p
}

func (e *engine) verifiesAt(p *pullingRegistries) {
	e.newVerifier = func(*x509.CertPool) verifier { return p }
	e.sleep = func(_ context.Context, d time.Duration) {
		time.Sleep(min(d/50_000, time.Millisecond)) // for those who work meanwhile
		e.clock.advance(d)
	}
}

// pass has time pass, with Vault calling the engine each minute.
func (e *engine) pass(d time.Duration) {
	e.t.Helper()
	for until := e.clock.now().Add(d); e.clock.now().Before(until); {
		begun := e.clock.now()
		e.minute()
		if next := begun.Add(time.Minute); e.clock.now().Before(next) {
			e.clock.advance(next.Sub(e.clock.now()))
		}
	}
}

func static(host, user, secret string, more fields) fields {
	return with(fields{"registry": host, "username": user, "password": secret}, more)
}

func (e *engine) verdictShown(role string) string {
	e.t.Helper()
	data := e.read("roles/" + role)
	return strings.TrimSuffix(fmt.Sprint(data["last_verdict"], ": ", data["last_verify_message"]), ": <nil>")
}

func (e *engine) sentOf(kind string) (paths []string) {
	for _, event := range e.sent() {
		if path, ok := strings.CutPrefix(event, "regcred/"+kind+" "); ok {
			paths = append(paths, path)
		}
	}
	return paths
}

func (e *engine) keysBelow(prefix string) (keys []string) {
	for key := range e.snapshot() {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func TestVerifyPeriodOfRoleAndMount(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/app", credential)
	e.write("roles/leased", leasedRole)
	period := func(role string) string {
		data := e.read("roles/" + role)
		return fmt.Sprint(data["verify_period"], " ", data["verify_period_from"])
	}
	checkSame(t, "without any", "<nil> <nil>", period("app"))
	e.write("config", fields{"verify_period": "6h"})
	checkSame(t, "of the mount", "21600 config", period("app"))
	checkSame(t, "of a leased role", "<nil> <nil>", period("leased"))
	e.write("roles/app", fields{"verify_period": "1m"})
	checkSame(t, "of its own", "60 role", period("app"))
	e.write("roles/app", fields{"verify_period": 0})
	checkSame(t, "off", "0 role", period("app"))
	e.patch("roles/app", fields{"verify_period": nil})
	checkSame(t, "of the mount again", "21600 config", period("app"))
	checkSame(t, "index", []string(nil), e.keysBelow(verifyPeriodsPrefix))
	e.write("roles/app", fields{"allowed_bundles": "all"})
	e.write("roles/all", fields{"members": "app", "verify_period": "1h"})
	checkSame(t, "of a bundle", "3600 role", period("all"))
	checkSame(t, "index", []string{verifyPeriodKey(time.Hour, "all")}, e.keysBelow(verifyPeriodsPrefix))
	for path, value := range map[string]any{"roles/app": "59s", "config": "59s"} {
		e.refused(logical.UpdateOperation, path, fields{"verify_period": value}, "verify_period: must be at least 1m, or 0")
		e.refused(logical.UpdateOperation, path, fields{"verify_period": "8761h"}, "verify_period: must be at most 8760h")
	}
	e.refused(logical.UpdateOperation, "roles/leased", fields{"verify_period": "1h"}, "verify_period: a leased role has no credential")
}

// What a read of a role answers can be written to another role, which then has the period
// of its own, or that of the mount, as the first has.
func TestVerifyPeriodIsCopied(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("config", fields{"verify_period": "6h"})
	e.write("roles/a", sharedRole)
	e.write("roles/b", with(sharedRole, fields{"verify_period": "2h"}))
	for name, from := range map[string]string{"a": "21600 config", "b": "7200 role"} {
		e.write("roles/copy-"+name, e.read("roles/"+name))
		data := e.read("roles/copy-" + name)
		checkSame(t, name, from, fmt.Sprint(data["verify_period"], " ", data["verify_period_from"]))
	}
}

func TestEachRoleIsVerifiedOnceInItsPeriod(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.write("config", fields{"verify_period": "1h"})
	const roles = 120
	for i := range roles {
		user := fmt.Sprintf("user-%03d", i)
		e.write("roles/"+user, static(fmt.Sprintf("r%d.example.com", i%3), user, password, fields{"verify_repository": "app"}))
	}
	e.write("roles/quick", static("r1.example.com", "quick", password, fields{"verify_period": "1m"}))
	e.write("roles/off", static("r1.example.com", "off", password, fields{"verify_period": 0}))
	e.pass(2 * time.Minute) // the first time, soon after the write
	e = e.restarted(t)      // and from then on in turn, whoever is the active node
	p.clock = e.clock
	e.verifiesAt(p)
	e.pass(time.Hour) // a start takes those first again that may have been missed
	p.all()
	const hours = 4
	began := e.clock.now()
	for range hours {
		e.pass(time.Hour) // or a little more: whoever waits has the clock run
		e = e.restarted(t)
		e.verifiesAt(p)
	}
	most := int(e.clock.now().Sub(began)/time.Minute) + 1 + hours // once more after each start
	perMinute := map[int64]int{}
	for i := range roles {
		user := fmt.Sprintf("user-%03d", i)
		for _, at := range p.tried[user] {
			perMinute[at.Unix()/60]++
		}
		if got := p.trials(user); got < hours || got > hours+1 {
			t.Errorf("%s: want it verified once an hour, got %d times in %d hours", user, got, hours)
		}
	}
	if busiest := slices.Max(slices.Collect(maps.Values(perMinute))); busiest > 12 || len(perMinute) < hours*30 {
		t.Errorf("want the roles spread over each hour, got %d minutes with up to %d", len(perMinute), busiest)
	}
	if got := p.trials("quick"); got < hours*55 || got > most {
		t.Errorf("want the role with a period of 1m verified once a minute, at most %d times, got %d", most, got)
	}
	checkSame(t, "a role without verification", 0, p.trials("off"))
	checkSame(t, "verdict", "ok", e.verdictShown("user-007"))
	last, err := time.Parse(time.RFC3339, e.read("roles/user-007")["last_verified"].(string))
	if err != nil || e.clock.now().Sub(last) > 61*time.Minute {
		t.Errorf("want it verified within the last hour, got %s at %s", last, e.clock.now())
	}
}

func TestRefusedCredentialIsFoundAndMended(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.write("roles/hub", static("ghcr.io", "robot-user", password, fields{"verify_period": "1h", "verify_repository": "app", "allowed_bundles": "all"}))
	e.write("roles/all", fields{"members": "hub"})
	e.pass(2 * time.Minute)
	checkSame(t, "verdict", "ok", e.verdictShown("hub"))
	e.sent()

	p.refuse(password, true)
	changed := e.clock.now()
	for e.readWarnings("creds/hub") == nil && e.clock.now().Sub(changed) < 2*time.Hour {
		e.pass(time.Minute)
	}
	if found := e.clock.now().Sub(changed); found > 62*time.Minute {
		t.Errorf("want it found within the period and a minute, got %s", found)
	}
	const message = "the registry answered 401 Unauthorized: no [user name]"
	since := e.read("roles/hub")["verified_since"].(string)
	warning := `the registry refuses the credential of role "hub" since ` + since + `: ` + message + `; write a new credential to roles/hub`
	for _, path := range []string{"creds/hub", "creds/hub/kubernetes", "creds/all", "roles/hub", "roles/all"} {
		checkSame(t, "warnings of "+path, []string{warning}, e.readWarnings(path))
	}
	checkSame(t, "verdict", "denied: "+message, e.verdictShown("hub"))
	checkSame(t, "what is served", any(password), e.read("creds/hub")["password"])
	checkSame(t, "events", []string{"creds/hub"}, e.sentOf("verify-fail"))
	e.pass(3 * time.Hour)
	checkSame(t, "events while it stays so", []string(nil), e.sentOf("verify-fail"))
	checkSame(t, "log lines", 1, strings.Count(e.log.String(), "the pull secret of a role fails its verification"))
	checkSame(t, "since", since, e.read("roles/hub")["verified_since"].(string))

	next := e.restarted(t)
	next.verifiesAt(p)
	if err := next.initialize(t.Context(), &logical.InitializationRequest{Storage: next.through()}); err != nil {
		t.Fatal(err)
	}
	checkSame(t, "warnings after a restart", []string{warning}, next.readWarnings("creds/hub"))
	next.pass(3 * time.Hour)
	checkSame(t, "events after a restart", []string(nil), next.sentOf("verify-fail"))

	next.write("roles/hub", fields{"password": marker + "-new"})
	checkSame(t, "warnings once it is mended", []string(nil), next.readWarnings("creds/hub"))
	checkSame(t, "verdict once it is mended", "<nil>", next.verdictShown("hub"))
	next.sent()
	next.pass(time.Minute)
	checkSame(t, "verdict a minute later", "ok", next.verdictShown("hub"))
	checkSame(t, "events", []string{"creds/hub"}, next.sentOf("verify-ok"))
	checkSame(t, "index of failing roles", []string(nil), next.keysBelow(failingIndexPrefix))
}

// A registry may refuse once by chance.
func TestOneBadVerdictIsNoAlarm(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "1h"}))
	e.pass(2 * time.Minute)
	e.sent()
	for range 5 {
		p.refuse(password, true)
		for tried := p.trials("me"); tried == 0; tried = p.trials("me") {
			e.clock.advance(time.Second)
			e.verifications.open(e.clock.now(), e.clock.now())
			e.takeAppointments(t.Context(), e.through())
			e.background.Wait()
		}
		checkSame(t, "warnings", []string(nil), e.readWarnings("creds/hub"))
		p.refuse(password, false)
		e.pass(2 * time.Minute)
		checkSame(t, "verdict after the second look", "ok", e.verdictShown("hub"))
	}
	checkSame(t, "events", []string{}, e.sent())
}

// Nor are two that come right after each other: they are one chance.
func TestTwoBadVerdictsInARowAreApart(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "1h"}))
	p.refuse(password, true)
	for range 3 {
		verify(t, e, "hub", nil)
		e.clock.advance(time.Second)
	}
	checkSame(t, "warnings", []string(nil), e.readWarnings("creds/hub"))
	e.clock.advance(confirmAfter)
	verify(t, e, "hub", nil)
	checkSame(t, "number of warnings", 1, len(e.readWarnings("creds/hub")))
}

// A tool that writes the same role again and again changes nothing.
func TestWriteThatChangesNothingKeepsTheVerdict(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "1h"}))
	e.pass(2 * time.Minute)
	p.refuse(password, true)
	e.pass(2 * time.Hour)
	tried := p.trials("me")
	for range 60 {
		e.write("roles/hub", static("ghcr.io", "me", password, fields{"allowed_bundles": "all"}))
		e.pass(time.Minute)
	}
	if got := p.trials("me"); tried < 2 || got > 2 {
		t.Errorf("want one trial an hour, got %d, before %d", got, tried)
	}
	checkSame(t, "number of warnings", 1, len(e.readWarnings("creds/hub")))
	e.write("roles/hub", fields{"verify_repository": "other/app"})
	checkSame(t, "warnings of what was not tried yet", []string(nil), e.readWarnings("creds/hub"))
}

// What a request or a rotation has proved is not asked again at once.
func TestWhatWasJustProvedIsSkipped(t *testing.T) {
	e := newConnectedEngine(t)
	p := verifies(e)
	e.write("config", fields{"verify_period": "1h"})
	e.pass(time.Minute)
	e.write("roles/hub", static("ghcr.io", "me", password, fields{"verify": true}))
	checkSame(t, "trials of the write", 1, p.trials("me"))
	checkSame(t, "verdict of the write", "ok", e.verdictShown("hub"))
	slot := slotAfter("hub", time.Hour, e.clock.now())
	e.pass(slot.Sub(e.clock.now()) - 3*time.Minute)
	p.trials("me")
	verify(t, e, "hub", nil)
	checkSame(t, "trials of a request", 1, p.trials("me"))
	e.pass(30 * time.Minute)
	checkSame(t, "trials in its next turn", 0, p.trials("me"))
	e.pass(5 * time.Minute)
	checkSame(t, "trials half a period later", 1, p.trials("me"))
	e.pass(time.Hour - 35*time.Minute + 5*time.Minute)
	checkSame(t, "trials in the turn after that", 1, p.trials("me"))

	p.refuse(password, true)
	verify(t, e, "hub", nil)
	checkSame(t, "verdict of a request", "denied: the registry answered 401 Unauthorized: no me", e.verdictShown("hub"))
	e.pass(time.Minute)
	checkSame(t, "number of warnings once it is confirmed", 1, len(e.readWarnings("creds/hub")))
	p.refuse(password, false)
	verify(t, e, "hub", fields{"repository": "other"})
	checkSame(t, "number of warnings after another question", 1, len(e.readWarnings("creds/hub")))
	verify(t, e, "hub", nil)
	checkSame(t, "warnings after a request", []string(nil), e.readWarnings("creds/hub"))

	e.write("roles/app", with(sharedRole, fields{"verify_repository": "registry.example.com/group/app", "rotation_period": "30m"}))
	e.read("creds/app")
	user := e.read("creds/app")["username"].(string)
	checkSame(t, "trials of the mint", 1, p.trials(user))
	checkSame(t, "verdict of the mint", "ok", e.verdictShown("app"))
	e.pass(20 * time.Minute)
	checkSame(t, "trials after the mint", 0, p.trials(user))
}

func TestRegistryThatCannotBeReachedIsOneTrouble(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.calls.pause = firstPause
	e.write("config", fields{"verify_period": "1h"})
	const roles = 60
	for i := range roles {
		user := fmt.Sprintf("user-%03d", i)
		e.write("roles/"+user, static("down.example.com", user, password, nil))
	}
	e.write("roles/up", static("up.example.com", "up", password, nil))
	e.pass(time.Hour)
	before := e.keysAndValues(verdictStoragePrefix)
	p.all()
	p.answer("down.example.com", &registry.Result{Verdict: registry.Unreachable, Message: "it said " + marker, Failure: "the connection failed"})
	e.pass(15 * time.Minute)
	if got := p.all(); got > 60 {
		t.Errorf("want few trials of a registry that is down, got %d", got)
	}
	after := e.keysAndValues(verdictStoragePrefix)
	delete(before, "verdicts/up")
	delete(after, "verdicts/up")
	checkSame(t, "verdicts of the roles", before, after)
	checkSame(t, "log lines", 1, strings.Count(e.log.String(), "a registry cannot be reached, so its roles are not verified"))
	checkSame(t, "outages", 1, len(e.outages.confirmedOutages()))
	checkSame(t, "verdict of a role", "unreachable: down.example.com cannot be reached: the connection failed", e.verdictShown("user-033"))
	checkSame(t, "verdict of another role", "ok", e.verdictShown("up"))
	checkSame(t, "warnings", []string(nil), e.readWarnings("creds/user-033"))

	e = e.restarted(t)
	e.verifiesAt(p)
	e.calls.pause = firstPause
	e.pass(15 * time.Minute)
	checkSame(t, "outages after a restart", 1, len(e.outages.confirmedOutages()))
	checkSame(t, "log lines after a restart", 0, strings.Count(e.log.String(), "a registry cannot be reached"))
	p.all()
	p.answer("down.example.com", nil)
	e.pass(11 * time.Minute)
	checkSame(t, "outages once it is back", 0, len(e.outages.confirmedOutages()))
	checkSame(t, "stored outages", []string(nil), e.keysBelow(outageStoragePrefix))
	checkSame(t, "verdict once it is back", "ok", e.verdictShown("user-033"))
	e.pass(time.Hour)
	for i := range roles {
		if got := p.trials(fmt.Sprintf("user-%03d", i)); got < 1 || got > 3 {
			t.Errorf("user-%03d: want it verified once or twice since, got %d", i, got)
		}
	}
}

func (e *engine) keysAndValues(prefix string) map[string]string {
	all := e.snapshot()
	maps.DeleteFunc(all, func(key, _ string) bool { return !strings.HasPrefix(key, prefix) })
	return all
}

// A registry that fails for one role, and answers the others, is that role's trouble.
func TestTroubleOfOneRoleIsItsOwn(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.newVerifier = func(*x509.CertPool) verifier { return failingFor{p, "broken"} }
	e.write("config", fields{"verify_period": "10m"})
	for _, user := range []string{"broken", "a", "b", "c"} {
		e.write("roles/"+user, static("r.example.com", user, password, nil))
	}
	e.pass(time.Hour)
	checkSame(t, "verdict", "unreachable: 500", e.verdictShown("broken"))
	checkSame(t, "verdict of another role", "ok", e.verdictShown("a"))
	checkSame(t, "outages", 0, len(e.outages.confirmedOutages()))
	checkSame(t, "events", []string{"creds/broken"}, e.sentOf("verify-fail"))
	checkSame(t, "failing", []string{"failing/broken"}, e.keysBelow(failingIndexPrefix))
}

// So it is if the role has other registries, which answer it.
func TestTroubleOfOneRegistryOfARoleIsItsOwn(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.newVerifier = func(*x509.CertPool) verifier { return failingFor{p, "broken"} }
	e.write("config", fields{"verify_period": "10m"})
	for _, user := range []string{"a", "b", "c"} {
		e.write("roles/"+user, static("r.example.com", user, password, nil))
	}
	auths := `{"auths":{"a.example.com":{"username":"fine","password":"x"},"r.example.com":{"username":"broken","password":"x"},"z.example.com":{"username":"fine","password":"x"}}}`
	e.write("roles/several", fields{"dockerconfigjson": auths})
	e.pass(time.Hour)
	checkSame(t, "verdict", "unreachable: 500", e.verdictShown("several"))
	before := strings.Count(e.log.String(), "a registry cannot be reached")
	e.pass(6 * time.Hour)
	checkSame(t, "alarms of a registry that answers others", 0, strings.Count(e.log.String(), "a registry cannot be reached")-before)
	checkSame(t, "outages", 0, len(e.outages.confirmedOutages()))
	e.must(logical.DeleteOperation, "roles/several", nil)
	checkSame(t, "roles that are tried in vain", 0, len(e.outages.waiting()))
}

type failingFor struct {
	*pullingRegistries
	user string
}

func (f failingFor) Verify(ctx context.Context, c dockerconfig.Credential, repository string) registry.Result {
	if c.Username == f.user {
		return registry.Result{Verdict: registry.Unreachable, Message: "500", Failure: "it answered 500"}
	}
	return f.pullingRegistries.Verify(ctx, c, repository)
}

func TestRegistryThatAsksToWaitIsLeftAlone(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.calls.pause = firstPause
	e.write("config", fields{"verify_period": "5m"})
	for i := range 50 {
		e.write(fmt.Sprintf("roles/r%d", i), static("busy.example.com", "user", password, nil))
	}
	p.answer("busy.example.com", &registry.Result{Verdict: registry.Unreachable, Failure: "it answered 429 Too Many Requests", RetryAfter: 20 * time.Minute})
	e.pass(19 * time.Minute)
	if got := p.all(); got < 1 || got > 2 { // two may be under way at first
		t.Errorf("want the registry left alone for 20 minutes, got %d trials", got)
	}
	e.pass(20 * time.Minute)
	if got := p.all(); got < 1 || got > 3 {
		t.Errorf("want the registry left alone for 20 minutes again, got %d trials", got)
	}
}

func TestRevokedSharedCredentialIsReplaced(t *testing.T) {
	e := newConnectedEngine(t)
	p := verifies(e)
	e.write("roles/app", with(sharedRole, fields{"verify_period": "10m", "rotation_period": "240h"}))
	first := e.read("creds/app")
	e.pass(20 * time.Minute)
	checkSame(t, "verdict", "ok", e.verdictShown("app"))
	p.refuse(first["password"].(string), true)
	e.pass(12 * time.Minute)
	second := e.read("creds/app")
	checkSame(t, "mints", 2, e.minting.mints())
	if second["password"] == first["password"] {
		t.Fatal("want another credential")
	}
	e.pass(time.Minute)
	checkSame(t, "verdict of the new one", "ok", e.verdictShown("app"))
	checkSame(t, "fail events", []string{"creds/app"}, e.sentOf("verify-fail"))
	p.refuse(second["password"].(string), true)
	e.pass(12 * time.Minute)
	checkSame(t, "mints after it was revoked again", 3, e.minting.mints())
}

// A registry that refuses each new credential too is not made to mint again and again.
func TestReplacementsAreBounded(t *testing.T) {
	for name, more := range map[string]fields{"tried by the mint": {"verify_repository": "registry.example.com/group/app"}, "served untried": {}} {
		t.Run(name, func(t *testing.T) {
			e := newConnectedEngine(t)
			p := verifies(e)
			e.write("roles/app", with(with(sharedRole, fields{"verify_period": "10m", "rotation_period": "2400h", "grace_period": "1m"}), more))
			e.read("creds/app")
			e.pass(5 * time.Minute)
			e.minting.password = func(string) string { return marker + "-refused" }
			p.refuse(marker+"-refused", true)
			p.refuse(e.read("creds/app")["password"].(string), true)
			before := e.minting.mints()
			e.pass(12 * time.Hour)
			// at once, and after 1, 2, 4 hours
			if got := e.minting.mints() - before; got < 2 || got > 5 {
				t.Errorf("want a few mints in 12 hours, got %d", got)
			}
			checkSame(t, "verdict", "denied", fmt.Sprint(e.read("roles/app")["last_verdict"]))
		})
	}
}

func TestRoleThatServesNothingIsNotVerified(t *testing.T) {
	e := newConnectedEngine(t)
	p := verifies(e)
	e.write("roles/app", with(sharedRole, fields{"verify_period": "1m"})) // never read
	e.write("roles/closed", static("closed.example.com", "me", password, fields{"verify_period": "1m"}))
	e.write("config", fields{"allowed_registries": "registry.example.com"})
	e.pass(5 * time.Minute)
	checkSame(t, "trials", 0, p.all())
	checkSame(t, "mints", 0, e.minting.mints())
}

// A credential is tried once, however many bundles join it.
func TestBundleHasTheWorstVerdictOfItsMembers(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.write("roles/own", static("a.example.com", "own", password+"a", fields{"verify_period": "10m", "allowed_bundles": "*"}))
	e.write("roles/silent", static("b.example.com", "silent", password+"b", fields{"verify_period": 0, "allowed_bundles": "*"}))
	e.write("roles/both", fields{"members": "own,silent", "verify_period": "10m"})
	e.write("roles/covered", fields{"members": "own", "verify_period": "10m"})
	e.pass(60 * time.Minute)
	if own, silent := p.trials("own"), p.trials("silent"); own < 6 || own > 8 || silent < 6 || silent > 8 {
		t.Errorf("want each member tried about six times in an hour, got %d and %d", own, silent)
	}
	checkSame(t, "verdict", "ok", e.verdictShown("both"))
	checkSame(t, "verdicts", []string{"verdicts/both", "verdicts/own"}, e.keysBelow(verdictStoragePrefix))

	p.refuse(password+"a", true)
	e.pass(12 * time.Minute)
	for _, name := range []string{"both", "covered"} {
		checkSame(t, "verdict of "+name, "denied: role own: the registry answered 401 Unauthorized: no [user name]", e.verdictShown(name))
	}
	checkSame(t, "failing", []string{"failing/own"}, e.keysBelow(failingIndexPrefix))
	p.refuse(password+"a", false)
	p.refuse(password+"b", true)
	e.pass(22 * time.Minute)
	checkSame(t, "verdict", "denied: role silent: the registry answered 401 Unauthorized: no [user name]", e.verdictShown("both"))
	checkSame(t, "verdict of the other bundle", "ok", e.verdictShown("covered"))
	checkSame(t, "failing", []string{"failing/both"}, e.keysBelow(failingIndexPrefix))
	checkWarnings(t, e.readWarnings("creds/both"), `the registry refuses the credential of role "both" since`)
	checkSame(t, "warnings of the other bundle", []string(nil), e.readWarnings("creds/covered"))

	e.write("roles/silent", fields{"password": marker + "-new"}) // the bundle is verified soon
	checkSame(t, "warnings once it is mended", []string(nil), e.readWarnings("creds/both"))
	e.pass(time.Minute)
	checkSame(t, "verdict once it is mended", "ok", e.verdictShown("both"))
}

// A bundle has no verdict of its own any more once its members are verified by themselves.
func TestBundleWhoseMembersAreVerifiedIsNotDenied(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.write("roles/member", static("r.example.com", "me", "outdated", fields{"allowed_bundles": "all"}))
	e.write("roles/all", fields{"members": "member", "verify_period": "10m"})
	p.refuse("outdated", true)
	e.pass(30 * time.Minute)
	checkSame(t, "what needs attention", []string{"denied all<nil>"}, e.needsAttention())
	e.write("roles/member", fields{"password": "new", "verify_period": "10m"})
	e.pass(30 * time.Minute)
	checkSame(t, "what needs attention once it is mended", []string{}, e.needsAttention())
}

// Roles whose registry is away are tried out of turn, and keep one next turn each.
func TestTimetableDoesNotGrowDuringAnOutage(t *testing.T) {
	var table timetable
	next := noon.Add(30 * 24 * time.Hour)
	for i := range 100_000 {
		table.push(fmt.Sprint("role-", i%100), next)
	}
	table.push("first", noon)
	if got := table.count(); got > 2*tidyFrom {
		t.Errorf("want few appointments, got %d", got)
	}
	table.open(next, next)
	var names []string
	for {
		a, _, ok := table.take(next)
		if !ok {
			break
		}
		names = append(names, a.name)
	}
	checkSame(t, "appointments that are taken", 101, len(names))
	checkSame(t, "the first of them", "first", names[0])
}

// An outage that began while the clock was ahead is known all the same, and forgotten.
func TestOutageOfAClockThatWasAhead(t *testing.T) {
	var o outages
	o.failed("role", "r.example.com", "no answer", noon.Add(1000*time.Hour))
	for i := range 3 {
		o.failed("role", "r.example.com", "no answer", noon.Add(time.Duration(i)*time.Minute))
	}
	checkSame(t, "outages", 1, len(o.confirmedOutages()))

	o = outages{}
	for i := range 3 {
		o.failed("role", "r.example.com", "no answer", noon.Add(1000*time.Hour+time.Duration(i)*time.Minute))
	}
	o.forgetOld(noon)
	checkSame(t, "outages that no role asks for any more", 0, len(o.confirmedOutages()))
}

func TestDeletedRoleLeavesNothingOfItsVerification(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	empty := e.snapshot()
	e.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "10m"}))
	p.refuse(password, true)
	e.pass(30 * time.Minute)
	checkSame(t, "failing", []string{"failing/hub"}, e.keysBelow(failingIndexPrefix))
	e.must(logical.DeleteOperation, "roles/hub", nil)
	checkSame(t, "storage", empty, e.snapshot())
	p.all()
	e.pass(30 * time.Minute)
	checkSame(t, "trials", 0, p.all())
	checkSame(t, "storage later", empty, e.snapshot())
	e.write("roles/hub", static("ghcr.io", "me", password, nil))
	checkSame(t, "warnings of a role of the same name", []string(nil), e.readWarnings("creds/hub"))
}

func TestVerificationThatIsSwitchedOffWarnsNoMore(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	for name, off := range map[string]func(){
		"of the role":  func() { e.write("roles/hub", fields{"verify_period": 0}) },
		"of the mount": func() { e.write("config", fields{"verify_period": 0}); e.pass(time.Minute) },
	} {
		e.write("config", fields{"verify_period": "10m"})
		e.write("roles/hub", static("ghcr.io", "me", password, nil))
		e.patch("roles/hub", fields{"verify_period": nil})
		p.refuse(password, true)
		e.pass(30 * time.Minute)
		checkSame(t, name+": number of warnings", 1, len(e.readWarnings("creds/hub")))
		off()
		checkSame(t, name+": warnings", []string(nil), e.readWarnings("creds/hub"))
		checkSame(t, name+": failing", []string(nil), e.keysBelow(failingIndexPrefix))
		e.must(logical.DeleteOperation, "roles/hub", nil)
	}
}

func TestOnlyTheActiveNodeVerifies(t *testing.T) {
	active := newEngine(t)
	active.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "1m"}))
	for name, state := range map[string]consts.ReplicationState{
		"standby":      consts.ReplicationPerformanceStandby,
		"secondary":    consts.ReplicationPerformanceSecondary,
		"DR secondary": consts.ReplicationDRSecondary,
	} {
		e := newEngine(t, func(conf *logical.BackendConfig) {
			conf.System = &logical.StaticSystemView{ReplicationStateVal: state}
		})
		e.storage = active.storage
		p := verifies(e)
		before := e.snapshot()
		e.pass(10 * time.Minute)
		checkSame(t, name+": trials", 0, p.all())
		verify(t, e, "hub", nil)
		checkSame(t, name+": storage", before, e.snapshot())
	}
}

// A standby that answers reads warns as the active node does.
func TestStandbyWarnsToo(t *testing.T) {
	active := newEngine(t)
	p := verifies(active)
	standby := newEngine(t, func(conf *logical.BackendConfig) {
		conf.System = &logical.StaticSystemView{ReplicationStateVal: consts.ReplicationPerformanceStandby}
	})
	standby.storage = active.storage
	active.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "1m"}))
	for _, refused := range []bool{true, false, true} {
		before := active.snapshot()
		p.refuse(password, refused)
		active.pass(5 * time.Minute)
		for key, value := range active.snapshot() {
			if was, found := before[key]; !found || was != value {
				standby.InvalidateKey(t.Context(), key)
			}
			delete(before, key)
		}
		for key := range before {
			standby.InvalidateKey(t.Context(), key)
		}
		checkSame(t, fmt.Sprintf("refused %t: number of warnings", refused), refused, len(standby.readWarnings("creds/hub")) == 1)
	}
}

// busyRegistries hold each trial until the test lets it go, and count those at once.
type busyRegistries struct {
	mu        sync.Mutex
	now, most map[string]int // trials at the same time, by host, and "" for all
	trials    int
	goOn      chan struct{}
}

func (b *busyRegistries) Verify(ctx context.Context, c dockerconfig.Credential, _ string) registry.Result {
	count := func(by int) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, of := range []string{c.Registry.Host(), ""} {
			b.now[of] += by
			b.most[of] = max(b.most[of], b.now[of])
		}
		b.trials += max(by, 0)
	}
	count(1)
	defer count(-1)
	select {
	case <-b.goOn:
	case <-ctx.Done():
	}
	return registry.Result{Verdict: registry.OK, Accepted: true}
}

// Roles that are written in a loop are verified soon, a few at a time, and others need not
// wait for that.
func TestVerificationsLeaveRoomForOthers(t *testing.T) {
	e := newConnectedEngine(t)
	busy := &busyRegistries{now: map[string]int{}, most: map[string]int{}, goOn: make(chan struct{})}
	e.verifiesAt(&pullingRegistries{clock: e.clock})
	e.newVerifier = func(*x509.CertPool) verifier { return busy }
	e.write("config", fields{"verify_period": "24h"})
	const roles, hosts = 300, 40
	for i := range roles {
		e.write(fmt.Sprint("roles/r", i), static(fmt.Sprintf("r%d.example.com", i%hosts), "me", password, nil))
	}
	if _, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage}); err != nil {
		t.Fatal(err)
	}
	for waiting := 0; waiting < callsAtOnce/4; { // as many as may
		time.Sleep(time.Millisecond)
		busy.mu.Lock()
		waiting = busy.now[""]
		busy.mu.Unlock()
	}
	e.write("roles/app", sharedRole)
	e.read("creds/app")
	checkSame(t, "mints meanwhile", 1, e.minting.mints())
	close(busy.goOn)
	e.background.Wait()
	if busy.trials < roles || busy.trials > roles+1 { // with that of the minted one
		t.Errorf("want each of the %d roles tried once, got %d trials", roles, busy.trials)
	}
	checkSame(t, "trials at once", callsAtOnce/4, busy.most[""])
	delete(busy.most, "")
	if most := slices.Max(slices.Collect(maps.Values(busy.most))); most > verifyJobsAtOnce {
		t.Errorf("want at most %d trials of a registry at once, got %d", verifyJobsAtOnce, most)
	}
}

// Roles whose turn a clock has jumped over wait for their next one, and a clock that was
// ahead stops nothing.
func TestVerificationWithAClockThatJumps(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.write("config", fields{"verify_period": "24h"})
	const roles = 100
	for i := range roles {
		e.write(fmt.Sprint("roles/r", i), static(fmt.Sprintf("r%d.example.com", i), "me", password, nil))
	}
	e.pass(2 * time.Minute)
	checkSame(t, "trials after the writes", roles, p.all())
	for _, jump := range []time.Duration{year, -2 * year} {
		e.clock.advance(jump)
		e.pass(10 * time.Minute)
		if got := p.all(); got > roles/10 {
			t.Errorf("%s: want the roles verified in their turns, got %d of %d in ten minutes", jump, got, roles)
		}
		e.pass(24 * time.Hour)
		if got := p.all(); got < roles*9/10 || got > roles*11/10 {
			t.Errorf("%s: want each role verified in a day, got %d trials of %d roles", jump, got, roles)
		}
	}
}
