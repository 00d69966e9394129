// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// checkVerificationIndexes expects each role that fails, and each role with a period of its
// own, to be in its index; with exactly, and no other.
func (e *engine) checkVerificationIndexes(when string, exactly bool) {
	e.t.Helper()
	stored := e.snapshot()
	wanted := map[string]bool{}
	for key := range stored {
		name, isRole := strings.CutPrefix(key, roleStoragePrefix)
		if !isRole {
			continue
		}
		r, err := e.role(context.Background(), e.through(), name)
		if err != nil {
			e.t.Fatal(err)
		}
		if period := r.ownVerifyPeriod(); period > 0 {
			wanted[verifyPeriodKey(period, name)] = true
		}
		var v verdict
		value := stored[verdictStoragePrefix+name]
		if value == "" {
			continue
		}
		if err := json.Unmarshal([]byte(value), &v); err != nil {
			e.t.Fatal(err)
		}
		if v.Confirmed && r.verifyPeriod(config{}) > 0 && v.Subject == subjectOf(source{name: name, role: r}) {
			wanted[failingIndexPrefix+name] = true
		}
	}
	for key := range wanted {
		if _, found := stored[key]; !found {
			e.t.Errorf("%s: %s is missing", when, key)
		}
	}
	for key := range stored {
		isIndex := strings.HasPrefix(key, failingIndexPrefix) || exactly && strings.HasPrefix(key, verdictStoragePrefix)
		if name := key[strings.LastIndex(key, "/")+1:]; exactly && isIndex && !wanted[failingIndexPrefix+name] && (strings.HasPrefix(key, failingIndexPrefix) || stored[roleStoragePrefix+name] == "") {
			e.t.Errorf("%s: %s is left", when, key)
		}
	}
}

// A crash in any line leaves no role unseen that fails, and nothing for ever.
func TestCrashDuringVerificationForgetsNothing(t *testing.T) {
	verifying := func(e *engine, storage logical.Storage) error {
		return e.verifyNow(context.Background(), e.cache.Over(storage), "hub")
	}
	later := func(p *pullingRegistries, refused bool) func(*engine) {
		return func(e *engine) {
			p.refuse(password, refused)
			e.clock.advance(2 * time.Hour)
		}
	}
	for name, c := range map[string]struct {
		failing bool // at the start
		prepare func(*pullingRegistries) func(*engine)
		act     func(*engine, logical.Storage) error
	}{
		"the first trial":   {false, func(p *pullingRegistries) func(*engine) { return later(p, false) }, verifying},
		"the first failure": {false, func(p *pullingRegistries) func(*engine) { return later(p, true) }, verifying},
		"the second failure": {false, func(p *pullingRegistries) func(*engine) {
			return func(e *engine) { later(p, true)(e); mustVerify(e); later(p, true)(e) }
		}, verifying},
		"one more failure":    {true, func(p *pullingRegistries) func(*engine) { return later(p, true) }, verifying},
		"it passes again":     {true, func(p *pullingRegistries) func(*engine) { return later(p, false) }, verifying},
		"another password":    {true, func(p *pullingRegistries) func(*engine) { return later(p, true) }, onPathWith("roles/hub", fields{"password": marker + "-new"})},
		"another period":      {true, func(p *pullingRegistries) func(*engine) { return later(p, true) }, onPathWith("roles/hub", fields{"verify_period": "2h"})},
		"no period":           {true, func(p *pullingRegistries) func(*engine) { return later(p, true) }, onPathWith("roles/hub", fields{"verify_period": 0})},
		"the role is deleted": {true, func(p *pullingRegistries) func(*engine) { return later(p, true) }, onPath(logical.DeleteOperation, "roles/hub")},
		"the role is new":     {false, func(p *pullingRegistries) func(*engine) { return later(p, true) }, onPathWith("roles/new", static("ghcr.io", "me", password, fields{"verify_period": "1h"}))},
	} {
		t.Run(name, func(t *testing.T) {
			for dieAt := 1; ; dieAt++ {
				e := newEngine(t)
				p := verifies(e)
				e.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "1h"}))
				if c.failing {
					later(p, true)(e)
					mustVerify(e)
					later(p, true)(e)
					mustVerify(e)
				}
				c.prepare(p)(e)
				m := &mortality{dieAt: dieAt}
				err := c.act(e, mortalStorage{e.storage, m})
				if !m.died() {
					if err != nil {
						t.Fatalf("want success without a crash, got %v", err)
					}
					e.checkVerificationIndexes("without a crash", true)
					return
				}
				when := fmt.Sprintf("crash at step %d", dieAt)
				next := e.restarted(t)
				next.verifiesAt(p)
				next.checkVerificationIndexes(when, false)
				if err := next.initialize(t.Context(), &logical.InitializationRequest{Storage: next.through()}); err != nil {
					t.Fatal(err)
				}
				next.pass(3 * time.Minute)
				next.checkVerificationIndexes(when+", minutes later", true)
				for i := range 3 {
					_ = next.readRoleIfThere("hub")
					next.pass(time.Hour)
					next.checkVerificationIndexes(fmt.Sprintf("%s, %d hours later", when, i+1), true)
				}
			}
		})
	}
}

func mustVerify(e *engine) {
	e.t.Helper()
	if err := e.verifyNow(context.Background(), e.through(), "hub"); err != nil {
		e.t.Fatal(err)
	}
}

func (e *engine) readRoleIfThere(name string) *logical.Response {
	e.t.Helper()
	return e.must(logical.ReadOperation, "roles/"+name, nil)
}

// A failure of storage costs a verdict, and nothing else: the next trial finds it.
func TestStorageFailureCostsAVerdictOnly(t *testing.T) {
	for failAt := int64(1); ; failAt++ {
		e := newEngine(t)
		p := verifies(e)
		e.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "1h"}))
		p.refuse(password, true)
		mustVerify(e)
		e.clock.advance(time.Hour)
		faulty := e.faulty(failAt)
		err := e.verifyNow(t.Context(), e.cache.Over(faulty), "hub")
		if failed := faulty.calls.Load() >= failAt; failed != (err != nil) {
			t.Fatalf("call %d fails: %t, but the error is %v", failAt, failed, err)
		}
		e.checkVerificationIndexes(fmt.Sprintf("call %d fails", failAt), false)
		e.pass(2 * time.Hour)
		checkSame(t, fmt.Sprintf("call %d failed: number of warnings later", failAt), 1, len(e.readWarnings("creds/hub")))
		if err == nil {
			return
		}
	}
}

// A former active node that wakes changes nothing, because storage refuses it, and the end
// of the engine ends its verifications.
func TestEndOfTheEngineEndsVerifications(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	waiting := make(chan struct{}, 1)
	e.sleep = func(ctx context.Context, _ time.Duration) {
		select {
		case waiting <- struct{}{}:
		default:
		}
		<-ctx.Done()
	}
	e.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "1m"}))
	if _, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: e.storage}); err != nil {
		t.Fatal(err)
	}
	<-waiting
	before := e.snapshot()
	e.Cleanup(t.Context()) // waits for what goes on
	checkSame(t, "trials", 0, p.all())
	checkSame(t, "storage", before, e.snapshot())
}

// What an earlier node stored of outages and failing roles is read by the next, also if an
// entry is damaged.
func TestDamagedVerdictsDoNoHarm(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "10m"}))
	for key, value := range map[string]string{
		"verdicts/hub": "{", "failing/hub": "", "failing/gone": "", "unreachable/x": "{", "verify-periods/x.y": "", "verify-periods/9999999999.z": "",
	} {
		e.store(key, value)
	}
	next := e.restarted(t)
	next.verifiesAt(p)
	if err := next.initialize(t.Context(), &logical.InitializationRequest{Storage: next.through()}); err != nil {
		t.Fatal(err)
	}
	checkSame(t, "warnings", []string(nil), next.readWarnings("creds/hub"))
	checkSame(t, "verdict", "<nil>", next.verdictShown("hub"))
	next.pass(12 * time.Minute)
	checkSame(t, "verdict", "ok", next.verdictShown("hub"))
	checkSame(t, "failing", []string(nil), next.keysBelow(failingIndexPrefix))
}

// Hand-run verifications on a secondary are told, and stored nowhere.
func TestSecondaryStoresNoVerdict(t *testing.T) {
	active := newEngine(t)
	active.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "1m"}))
	e := newEngine(t, func(conf *logical.BackendConfig) {
		conf.System = &logical.StaticSystemView{ReplicationStateVal: consts.ReplicationPerformanceSecondary}
	})
	e.storage = active.storage
	verifies(e)
	checkSame(t, "verdict", any("ok"), verify(t, e, "hub", nil)["verdict"])
	checkSame(t, "stored", false, slices.Contains(e.keysBelow(verdictStoragePrefix), "verdicts/hub"))
}
