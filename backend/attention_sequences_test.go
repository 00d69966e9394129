// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"pgregory.net/rapid"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/registry"
)

// TestAttentionSequences draws sequences of what breaks and mends roles, bundles,
// connections and the config, with crashes, restarts and lost indexes in between. After
// each step, status says exactly what a model says that reads all entries of the storage.
// TestRandomSequences has the same check for what registries do.
func TestAttentionSequences(t *testing.T) {
	t.Parallel()
	memory := cache.New()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, memory)
		defer func() { w.engine.Cleanup(context.Background()) }()
		actions := map[string]func(*rapid.T){
			"":                    func(*rapid.T) { w.checkStatus() },
			"write static role":   w.writeStaticRole,
			"write shared role":   w.writeSharedRole,
			"write leased role":   w.writeLeasedRole,
			"write bundle":        w.writeAnyBundle,
			"delete role":         w.deleteAnyRole,
			"restrict connection": w.restrictConnection,
			"move connection":     w.moveConnection,
			"delete connection":   w.deleteConnection,
			"write config":        w.writeConfig,
			"delete config":       func(*rapid.T) { _, _ = w.request(logical.DeleteOperation, "config", nil) },
			"verify":              w.verify,
			"damage":              w.damage,
			"lose index":          w.loseIndex,
			"downgrade":           w.downgrade,
			"upgrade":             w.upgrade,
			"read":                w.read,
			"rotate":              w.rotate,
			"read leased":         w.readLeased,
			"renew lease":         w.renewLease,
			"revoke lease":        w.revokeLease,
			"rotate root":         w.rotateRoot,
			"check root":          w.checkRoot,
			"fault":               w.setFault,
			"mend":                func(*rapid.T) { w.mend() },
			"time passes":         w.timePasses,
			"clock jumps":         w.clockJumps,
			"periodic":            func(*rapid.T) { w.periodic() },
			"restart":             func(*rapid.T) { w.restart() },
			"crash":               w.crashNext,
			"storage fails":       w.failNext,
		}
		rt.Repeat(actions)
	})
}

var (
	staticNames = rapid.SampledFrom([]string{"t0", "t1", "t2", "b0", "l0"}) // names of other types, too
	allNamesOf  = []string{"t0", "t1", "t2", "s0", "s1", "s2", "l0", "all", "b0", "b1"}
)

func (w *world) writeStaticRole(t *rapid.T) {
	data := fields{
		"registry": rapid.SampledFrom([]string{"a.example.com", "b.example.com", "c.example.org"}).Draw(t, "registry"),
		"username": "me", "password": rapid.SampledFrom([]string{"x", "yy"}).Draw(t, "password"),
		"allowed_bundles": rapid.SampledFrom([]string{"", "b0", "b*"}).Draw(t, "allowed_bundles"),
	}
	if rapid.Bool().Draw(t, "expires") {
		at := w.now.Add(rapid.SampledFrom([]time.Duration{time.Minute, 3 * time.Hour, 20 * 24 * time.Hour, 2 * 365 * 24 * time.Hour}).Draw(t, "expires_at"))
		data["expires_at"] = formatTime(at)
	}
	_, _ = w.request(logical.UpdateOperation, "roles/"+staticNames.Draw(t, "role"), data)
}

func (w *world) writeAnyBundle(t *rapid.T) {
	members := rapid.SampledFrom([]string{"t0", "t0,t1", "t1,s0", "s0,s1", "t0,t1,t2"}).Draw(t, "members")
	_, _ = w.request(logical.UpdateOperation, "roles/"+rapid.SampledFrom([]string{"b0", "b1", "t2"}).Draw(t, "role"), fields{"members": members})
}

func (w *world) deleteAnyRole(t *rapid.T) {
	_, _ = w.request(logical.DeleteOperation, "roles/"+rapid.SampledFrom(allNamesOf).Draw(t, "role"), nil)
}

func (w *world) writeConfig(t *rapid.T) {
	data := fields{}
	if rapid.Bool().Draw(t, "registries") {
		data["allowed_registries"] = rapid.SampledFrom([]string{"", "a.example.com", "*.example.com"}).Draw(t, "allowed_registries")
	}
	if rapid.Bool().Draw(t, "verify") {
		data["verify_period"] = rapid.SampledFrom([]string{"0s", "1m", "1h"}).Draw(t, "verify_period")
	}
	if rapid.Bool().Draw(t, "warning") {
		data["expiry_warning"] = rapid.SampledFrom([]string{"1m", "2h", "720h", "17520h"}).Draw(t, "expiry_warning")
	}
	_, _ = w.request(logical.UpdateOperation, "config", data)
}

func (w *world) checkRoot(t *rapid.T) {
	_, _ = w.request(logical.ReadOperation, "connections/"+connectionNames.Draw(t, "connection")+"/check", nil)
}

// damage has another build store what this one cannot read.
func (w *world) damage(t *rapid.T) {
	key := roleStoragePrefix + rapid.SampledFrom(allNamesOf).Draw(t, "role")
	w.engine.Cleanup(context.Background())
	if entry, err := w.storage.Get(context.Background(), key); err == nil && entry != nil {
		entry.Value = []byte(`{"schema_version":9}`)
		_ = w.storage.Storage.Put(context.Background(), entry)
	}
	w.version++
	w.start()
}

// loseIndex deletes whole indexes, as an operator might who looks for space.
func (w *world) loseIndex(*rapid.T) {
	w.engine.Cleanup(context.Background())
	for _, prefix := range []string{roleTypesPrefix, leaseAttentionPrefix, attentionPrefix} {
		w.clear(prefix)
	}
	w.start()
}

func (w *world) clear(prefix string) {
	if err := logical.ClearView(context.Background(), logical.NewStorageView(w.storage.Storage, prefix)); err != nil {
		w.t.Fatal(err)
	}
}

// keptByNoEarlierBuild is what a build before status leaves as it is.
var keptByNoEarlierBuild = []string{attentionPrefix, leaseAttentionPrefix, roleTypesPrefix, rootChecksPrefix, verdictStoragePrefix, failingIndexPrefix, outageStoragePrefix}

// downgrade has an earlier build run from now on, until upgrade: what it does not know
// is then as it was.
func (w *world) downgrade(*rapid.T) {
	if w.untouched != nil {
		return
	}
	w.untouched = []*logical.StorageEntry{}
	for _, prefix := range keptByNoEarlierBuild {
		view := logical.NewStorageView(w.storage.Storage, "")
		keys, err := logical.CollectKeysWithPrefix(context.Background(), view, prefix)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, key := range keys {
			if entry, err := view.Get(context.Background(), key); err == nil && entry != nil {
				w.untouched = append(w.untouched, entry)
			}
		}
	}
}

func (w *world) upgrade(*rapid.T) {
	if w.untouched == nil {
		return
	}
	w.engine.Cleanup(context.Background())
	for _, prefix := range keptByNoEarlierBuild {
		w.clear(prefix)
	}
	for _, entry := range w.untouched {
		if err := w.storage.Storage.Put(context.Background(), entry); err != nil {
			w.t.Fatal(err)
		}
	}
	w.untouched = nil
	w.version++
	w.start()
}

// failNext has one of the next writes fail, whether or not it happens.
func (w *world) failNext(t *rapid.T) {
	w.failing.Store(int64(rapid.IntRange(1, 6).Draw(t, "write")))
	w.failsAfter.Store(rapid.Bool().Draw(t, "happens"))
}

// checkStatus compares status with the model.
func (w *world) checkStatus() {
	if w.steps > 0 || w.failing.Load() > 0 {
		return // the engine is about to die, or its storage to fail
	}
	if w.failed.Swap(false) {
		w.periodic() // what storage refused is looked at in the next minute
	}
	if w.engine.attentions.owes() {
		w.periodic() // so is a lease that was being revoked when an upgrade looked at it
	}
	for range 2 { // the first has what is done in the background begun
		if _, err := w.request(logical.ReadOperation, "status", nil); err != nil {
			w.t.Fatalf("status: %v", err)
		}
	}
	resp, err := w.request(logical.ReadOperation, "status", nil)
	if err != nil {
		w.t.Fatalf("status: %v", err)
	}
	got := []string{}
	for _, item := range resp.Data["attention"].([]map[string]any) {
		line := fmt.Sprint(item["kind"], " ", item["role"], " ", item["connection"])
		if kind := item["kind"]; kind == kindExpiring || kind == kindExpired || kind == kindDenied {
			line += fmt.Sprint(" ", item["since"])
		}
		got = append(got, line)
	}
	slices.Sort(got)
	m := w.model()
	slices.Sort(m.items)
	same := slices.Equal(m.items, got) && resp.Data["complete"] == true && resp.Data["attention_count"] == len(m.items)
	for name, want := range map[string]any{"roles": m.roles, "leases": m.leases, "retired_credentials": m.retired, "write_ahead_entries": m.ahead} {
		same = same && fmt.Sprint(want) == fmt.Sprint(resp.Data[name])
	}
	if !same {
		w.t.Fatalf("at %s the model says %q, %+v\nstatus says %q, %v\ndoubts: %q, work: %q\n%s", formatTime(w.engine.now()), m.items, m, got, resp.Data,
			slices.Sorted(maps.Keys(w.engine.attentions.doubts)), w.engine.attentions.announcedWork(), strings.Join(w.trace, "\n"))
	}
}

// statusModel is what status has to say.
type statusModel struct {
	items          []string
	roles          map[string]int
	leases         int
	retired, ahead int
}

// model reads all entries of the storage.
func (w *world) model() statusModel {
	m := statusModel{roles: map[string]int{"static": 0, "bundle": 0, "dynamic": 0}}
	b, now := w.engine, w.engine.now()
	entries := map[string][]byte{}
	view := logical.NewStorageView(w.storage.Storage, "")
	if err := logical.ScanView(context.Background(), view, func(key string) {
		if entry, err := w.storage.Get(context.Background(), key); err == nil && entry != nil {
			entries[key] = entry.Value
		}
	}); err != nil {
		w.t.Fatal(err)
	}
	settings := config{ExpiryWarning: seconds{defaultExpiryWarning}}
	if value, found := entries["config"]; found {
		settings = config{}
		if err := json.Unmarshal(value, &settings); err != nil {
			w.t.Fatal(err)
		}
	}
	connections := map[string]*connection{}
	roles := map[string]*role{}
	unrevoked := map[string]bool{}
	for key, value := range entries {
		switch kind, name, _ := strings.Cut(key, "/"); kind {
		case "connections":
			c, err := decodeConnection(&logical.StorageEntry{Key: key, Value: value}, name)
			if err != nil {
				w.t.Fatal(err)
			}
			connections[name] = c
		case "roles":
			r, err := unmarshalRole(&logical.StorageEntry{Key: key, Value: value}, name)
			if err == nil {
				m.roles[r.roleType()]++
				roles[name] = r
				break
			}
			m.add(kindUnreadable, name, "")
			m.roles[w.typeOfUnreadable(name, entries)]++
		case "leases":
			m.leases++
			var stored struct{ Attempts int }
			if json.Unmarshal(value, &stored) == nil && stored.Attempts > 0 {
				connection, _, _ := strings.Cut(name, "/")
				unrevoked[connection] = true
			}
		case "wal":
			m.ahead++
		}
	}
	for name := range unrevoked {
		m.add(kindRevocationFailing, "", name)
	}
	for name, c := range connections {
		if c.Root.Pending != nil || c.Root.Retired != nil {
			m.add(kindRootUnfinished, "", name)
		}
		var check rootCheck
		if value, found := entries[rootChecksPrefix+name]; found && json.Unmarshal(value, &check) == nil && check.about(c.rootGeneration()).Refused {
			m.add(kindRootRefused, "", name)
		}
		if since, _ := b.calls.leftAlone(laneOf(name)); !since.IsZero() {
			m.add(kindUnreachable, "", name)
		}
	}
	for name, value := range entries {
		if name, isShared := strings.CutPrefix(name, sharedStoragePrefix); isShared {
			s, err := decodeShared(&logical.StorageEntry{Key: sharedStoragePrefix + name, Value: value}, name)
			if err != nil {
				w.t.Fatal(err)
			}
			m.retired += len(s.Retired)
			if roles[name] == nil {
				continue
			}
			if _, unstored := b.unstored.Load(name); s.Failures > 0 && !unstored {
				m.add(kindRotationFailing, name, "")
			}
			if slices.ContainsFunc(s.Retired, func(r retired) bool { return r.Attempts > 0 }) {
				m.add(kindRevocationFailing, name, "")
			}
			if len(s.GivenUp) > 0 {
				m.add(kindGivenUp, name, "")
			}
		}
	}
	for name, r := range roles {
		if _, unstored := b.unstored.Load(name); unstored && r.isShared() { // a failure that storage did not take
			m.add(kindRotationFailing, name, "")
		}
		keys, mends := []dockerconfig.Key{}, true
		switch {
		case r.Static != nil:
			keys = r.Static.Docker.Keys()
			if at := r.Static.ExpiresAt; !at.IsZero() && !now.Before(at) {
				m.add(kindExpired, name, "", formatTime(at))
			} else if from := at.Add(-settings.ExpiryWarning.Duration); !at.IsZero() && !now.Before(from) {
				m.add(kindExpiring, name, "", formatTime(from))
			}
		case r.Dynamic != nil:
			c := connections[r.Dynamic.Connection]
			if mends = c != nil && matchesAny(c.AllowedRoles, name); !mends {
				m.add(kindConnectionRefuses, name, "")
				break
			}
			keys = c.Registries
		default:
			if keys, mends = w.joined(name, r, roles, connections); !mends {
				m.add(kindBundleBroken, name, "")
			}
		}
		if mends && slices.ContainsFunc(keys, func(key dockerconfig.Key) bool { return !settings.allows(key) }) {
			m.add(kindNotAllowed, name, "")
		}
		m.addVerdict(w, name, r, settings, entries)
	}
	for key, value := range entries {
		var o registryOutage
		if strings.HasPrefix(key, outageStoragePrefix) && json.Unmarshal(value, &o) == nil {
			m.add(kindUnreachable, "", "")
		}
	}
	ids, err := framework.ListWAL(context.Background(), w.storage.Storage)
	if err != nil || len(ids) != m.ahead {
		w.t.Fatalf("%d write-ahead entries, %v", len(ids), err)
	}
	return m
}

// addVerdict adds the confirmed bad verdict of what a role serves.
func (m *statusModel) addVerdict(w *world, name string, r *role, settings config, entries map[string][]byte) {
	var v verdict
	value, found := entries[verdictStoragePrefix+name]
	if _, failing := entries[failingIndexPrefix+name]; !found || !failing || json.Unmarshal(value, &v) != nil || !v.Confirmed {
		return
	}
	ctx, storage := context.Background(), w.engine.cache.Over(w.storage.Storage)
	if r.verifyPeriod(settings) == 0 {
		return
	}
	subject, err := w.engine.subjectOfRole(ctx, storage, name, r, settings)
	if err != nil {
		w.t.Fatal(err)
	}
	if subject != v.Subject {
		return
	}
	switch v.Verdict {
	case registry.NotFound:
		m.add(kindNotFound, name, "")
	case registry.Unreachable:
		m.add(kindUnreachable, name, "")
	case registry.Denied:
		m.add(kindDenied, name, "", formatTime(v.Since))
	case registry.OK, registry.Unverified:
	}
}

func (m *statusModel) add(kind, role, connection string, more ...string) {
	shown := func(name string) any {
		if name == "" {
			return nil
		}
		return name
	}
	line := fmt.Sprint(kind, " ", shown(role), " ", shown(connection))
	m.items = append(m.items, strings.Join(append([]string{line}, more...), " "))
}

// typeOfUnreadable is what status counts a role as that cannot be read: what it was.
func (w *world) typeOfUnreadable(name string, entries map[string][]byte) string {
	for _, roleType := range []string{typeBundle, typeDynamic} {
		if _, found := entries[roleTypeKey(roleType, name)]; found {
			return roleType
		}
	}
	return typeStatic
}

// joined returns the registries of a bundle, and whether it can be read as far as its
// members' definitions decide.
func (w *world) joined(bundle string, r *role, roles map[string]*role, connections map[string]*connection) (keys []dockerconfig.Key, ok bool) {
	for _, name := range r.Bundle.Members {
		member := roles[name]
		if member == nil || member.Bundle != nil || member.isLeased() || !matchesAny(member.AllowedBundles, bundle) {
			return nil, false
		}
		of := []dockerconfig.Key{}
		if member.Static != nil {
			of = member.Static.Docker.Keys()
		} else if c := connections[member.Dynamic.Connection]; c != nil {
			of = c.Registries
		}
		for _, key := range of {
			if slices.Contains(keys, key) {
				return nil, false
			}
			keys = append(keys, key)
		}
	}
	return keys, true
}
