// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"vault-plugin-secrets-regcred/backend/issuer"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// askedSystem counts how often Vault is asked for the replication state.
type askedSystem struct {
	logical.StaticSystemView
	asked atomic.Int64
}

func (s *askedSystem) ReplicationState() consts.ReplicationState {
	s.asked.Add(1)
	return s.StaticSystemView.ReplicationState()
}

// newReadableEngine has one role of each type that is read without a lease.
func newReadableEngine(t *testing.T, change ...func(*logical.BackendConfig)) *engine {
	t.Helper()
	e := newEngine(t, change...)
	e.write("config", fields{"allowed_registries": "*"})
	e.write("connections/app", e.connectionSample())
	e.write("roles/shared", fields{"connection": "app", "project": "group/app", "allowed_bundles": "bundle"})
	e.write("roles/static", with(credential, fields{"allowed_bundles": "bundle"}))
	e.write("roles/bundle", fields{"members": "static,shared"})
	return e
}

func TestCachedReadMakesNoCallToVault(t *testing.T) {
	system := &askedSystem{}
	e := newReadableEngine(t, func(conf *logical.BackendConfig) { conf.System = system })
	for _, path := range []string{"creds/static", "creds/shared/kubernetes", "creds/bundle/docker"} {
		e.read(path) // mints if there is no credential yet
		first := e.read(path)
		counting := &faultyStorage{Storage: e.storage, failAt: -1}
		asked := system.asked.Load()
		resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: counting})
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		checkSame(t, path, first, resp.Data)
		checkSame(t, path+": calls of storage", int64(0), counting.calls.Load())
		checkSame(t, path+": questions for the replication state", asked, system.asked.Load())
	}
	e.must(logical.ListOperation, "roles/", nil)
	asked := system.asked.Load()
	e.must(logical.ListOperation, "roles/", nil)
	checkSame(t, "roles/: questions for the replication state", asked, system.asked.Load())
}

// The next read sees a change, no matter what made it.
func TestReadSeesEveryChange(t *testing.T) {
	read := func(e *engine, path string) string {
		resp, err := e.request(logical.ReadOperation, path, nil)
		switch {
		case err != nil:
			return err.Error()
		case resp == nil:
			return "none"
		case resp.IsError():
			return resp.Error().Error()
		}
		return fmt.Sprint(resp.Data[".dockerconfigjson"], resp.Warnings)
	}
	for name, change := range map[string]func(*engine){
		"update of the role":        func(e *engine) { e.write("roles/static", fields{"password": password + "2"}) },
		"patch of the role":         func(e *engine) { e.patch("roles/static", fields{"password": password + "2"}) },
		"deletion of the role":      func(e *engine) { e.must(logical.DeleteOperation, "roles/static", nil) },
		"expiry of the role":        func(e *engine) { e.write("roles/static", fields{"expires_at": "2026-03-02T00:00:00Z"}) },
		"lock-down of the role":     func(e *engine) { e.write("roles/static", fields{"allowed_bundles": ""}) },
		"rotation":                  func(e *engine) { e.write("rotate/shared", nil) },
		"deletion of a shared role": func(e *engine) { e.must(logical.DeleteOperation, "roles/shared", nil) },
		"update of the bundle":      func(e *engine) { e.write("roles/bundle", fields{"members": "shared"}) },
		"update of the config":      func(e *engine) { e.write("config", fields{"allowed_registries": "ghcr.io"}) },
		"config, by another node":   func(e *engine) { e.store("config", `{"schema_version":1,"allowed_registries":["other.example.com"]}`) },
		"rotation, by another node": func(e *engine) { e.store("shared/shared", `{"schema_version":9}`) },
		"role written elsewhere":    func(e *engine) { e.store("roles/static", `{"schema_version":9}`) },
		"deletion by another node": func(e *engine) {
			_ = e.storage.Delete(e.t.Context(), "roles/static")
			e.InvalidateKey(e.t.Context(), "roles/static")
		},
		"a role where there is none": func(e *engine) { e.write("roles/absent", credential) },
	} {
		t.Run(name, func(t *testing.T) {
			e := newReadableEngine(t)
			paths := []string{"creds/static/kubernetes", "creds/shared/kubernetes", "creds/bundle/kubernetes", "creds/absent/kubernetes"}
			before := map[string]string{}
			for _, path := range paths {
				before[path] = read(e, path)
			}
			change(e)
			changed := 0
			fresh := e.restarted(t) // its cache is empty
			for _, path := range paths {
				want := read(fresh, path)
				checkSame(t, path, want, read(e, path))
				if want != before[path] {
					changed++
				}
			}
			if changed == 0 {
				t.Error("want a change that reads show")
			}
		})
	}
}

func TestDecodingErrorIsNotCached(t *testing.T) {
	e := newEngine(t)
	e.store("roles/app", "damaged")
	for range 2 {
		if _, err := e.request(logical.ReadOperation, "creds/app", nil); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("want an error about what is damaged, got %v", err)
		}
	}
}

func TestListOfRolesIsCurrent(t *testing.T) {
	e := newEngine(t)
	listed := func() any {
		resp := e.must(logical.ListOperation, "roles/", nil)
		return resp.Data["keys"]
	}
	checkSame(t, "names of no roles", any(nil), listed())
	e.write("roles/b", credential)
	e.write("roles/a", credential)
	checkSame(t, "names", any([]string{"a", "b"}), listed())

	counting := &faultyStorage{Storage: e.storage, failAt: -1}
	resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.ListOperation, Path: "roles/", Storage: counting})
	if err != nil {
		t.Fatal(err)
	}
	checkSame(t, "names once more", any([]string{"a", "b"}), resp.Data["keys"])
	checkSame(t, "calls of storage", int64(0), counting.calls.Load())

	e.must(logical.DeleteOperation, "roles/a", nil)
	checkSame(t, "names after a deletion", any([]string{"b"}), listed())
	e.store("roles/c", "by another node")
	checkSame(t, "names after a write elsewhere", any([]string{"b", "c"}), listed())
}

func TestCleanupEmptiesTheCache(t *testing.T) {
	e := newReadableEngine(t)
	e.read("creds/static")
	if len(e.cache.Held()) == 0 {
		t.Error("want decoded entries in memory")
	}
	e.Cleanup(t.Context())
	checkSame(t, "decoded entries", map[string]any{}, e.cache.Held())
}

// Requests share decoded values, so no request may change one, also not a request
// that is refused.
func TestCachedValuesAreNeverChanged(t *testing.T) {
	e := newReadableEngine(t)
	for _, r := range []struct {
		op   logical.Operation
		path string
		data fields
	}{
		{logical.ReadOperation, "creds/static", nil},
		{logical.ReadOperation, "creds/shared/docker", nil},
		{logical.ReadOperation, "creds/bundle", nil},
		{logical.ReadOperation, "creds/bundle/kubernetes", fields{"name": "other"}},
		{logical.ReadOperation, "roles/static", nil},
		{logical.ReadOperation, "roles/shared", nil},
		{logical.ReadOperation, "roles/bundle", nil},
		{logical.ReadOperation, "config", nil},
		{logical.ReadOperation, "verify/bundle", fields{"repository": "group/app"}},
		{logical.ReadOperation, "expiring", nil},
		{logical.ListOperation, "roles/", nil},
		{logical.PatchOperation, "roles/static", fields{"hostname": "not a host", "allowed_bundles": "other"}},
		{logical.UpdateOperation, "roles/static", fields{"allowed_bundles": "other", "expires_at": "never"}},
		{logical.PatchOperation, "roles/shared", fields{"project": "other/app", "allowed_bundles": "other", "rotation_period": "-1s"}},
		{logical.PatchOperation, "roles/bundle", fields{"members": "static,absent"}},
		{logical.PatchOperation, "config", fields{"allowed_registries": "other.example.com", "expiry_warning": "-1s"}},
		{logical.UpdateOperation, "rotate/static", nil},
	} {
		_, _ = e.request(r.op, r.path, r.data)
	}
	checked := 0
	for key, held := range e.cache.Held() {
		entry, err := e.storage.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		var want any
		switch kind, name, _ := strings.Cut(key, "/"); {
		case key == roleStoragePrefix:
			want, err = e.storage.List(t.Context(), roleStoragePrefix)
		case kind == "config":
			want, err = decodeConfig(entry)
		case kind == "roles":
			want, err = decodeRole(entry, name)
		case kind == "shared":
			want, err = decodeShared(entry, name)
		case kind == "connections":
			// Functions are never equal, so the types are compared by name.
			facts, decodeErr := decodeConnectionFacts(entry, name)
			heldFacts := *held.(*connection)
			checkSame(t, "root credential in memory", 0, len(heldFacts.Secrets))
			checkSame(t, "type", facts.Type.Name, heldFacts.Type.Name)
			facts.Type, heldFacts.Type = issuer.Type{}, issuer.Type{}
			want, held, err = facts, &heldFacts, decodeErr
		}
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(want, held) {
			t.Errorf("%s: a request has changed what was decoded", key)
		}
		checked++
	}
	checkSame(t, "what is held decoded", 7, checked)
}
