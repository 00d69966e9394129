// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// checkScanned compares what scanStaticRole makes of an entry with what encoding/json
// does, and reports whether it makes anything.
func checkScanned(t *testing.T, value string) bool {
	t.Helper()
	entry := &logical.StorageEntry{Key: roleStoragePrefix + "app", Value: []byte(value)}
	scanned := scanStaticRole(entry)
	if scanned == nil {
		return false
	}
	want, err := unmarshalRole(entry, "app")
	if err != nil {
		t.Fatalf("encoding/json refuses what was scanned: %v", err)
	}
	same := cmp.Comparer(func(a, b dockerconfig.Config) bool { return a.Equal(b) && a.RevealJSON() == b.RevealJSON() })
	if diff := cmp.Diff(want, scanned, same); diff != "" {
		t.Fatalf("scanned differently from encoding/json (-json +scanned):\n%s", diff)
	}
	return true
}

// What is stored for a static role is scanned, unless a value needs an escape.
func TestStoredStaticRolesAreScanned(t *testing.T) {
	e := newEngine(t)
	plain := with(credential, fields{"password": "gldt-x9Qm7"})
	for name, c := range map[string]struct {
		role    fields
		scanned bool
	}{
		"simple":  {plain, true},
		"several": {fields{"dockerconfigjson": several}, true},
		"all fields": {with(plain, fields{
			"email": "me@example.com", "expires_at": "2027-01-31T00:00:00Z", "allowed_bundles": "all,team-*", "verify_repository": "team/app:1.4", "verify_period": "6h",
		}), true},
		"escapes": {with(plain, fields{"password": `<">\&` + "é\n\n"}), false},
	} {
		t.Run(name, func(t *testing.T) {
			e.write("roles/app", c.role)
			entry, err := e.storage.Get(t.Context(), "roles/app")
			if err != nil {
				t.Fatal(err)
			}
			if got := checkScanned(t, string(entry.Value)); got != c.scanned {
				t.Errorf("scanned: want %t, got %t, for %s", c.scanned, got, entry.Value)
			}
			if _, err := decodeRole(entry, "app"); err != nil {
				t.Errorf("decodeRole: %v", err)
			}
			e.clock.advance(time.Hour) // the same again notes since when the credential is there
			e.write("roles/app", c.role)
			if entry, err = e.storage.Get(t.Context(), "roles/app"); err != nil || !strings.Contains(string(entry.Value), `"credential_at":`) {
				t.Fatalf("want the time of the credential, got %s, error %v", entry.Value, err)
			}
			if got := checkScanned(t, string(entry.Value)); got != c.scanned {
				t.Errorf("scanned again: want %t, got %t, for %s", c.scanned, got, entry.Value)
			}
			e.must(logical.DeleteOperation, "roles/app", nil)
		})
	}
}

func FuzzScannedRole(f *testing.F) {
	const start, docker = `{"schema_version":1,"type":"static","updated_at":"2026-03-01T12:00:00Z"`, `,"dockerconfig":{"auths":{"ghcr.io":{"username":"u","password":"p","auth":"dTpw"}}}`
	for _, end := range []string{
		"}", "}\n", "}}", `,"expires_at":"2027-01-31T00:00:00+01:00"}`, `,"expires_at":"2027-01-31T00:00:00,5Z"}`, `,"expires_at":null}`,
		`,"allowed_bundles":["a","b-*"]}`, `,"allowed_bundles":[]}`, `,"allowed_bundles":["a",]}`, `,"verify_repository":"a"}`,
		`,"verify_repository":"a","verify_repository":"b"}`, `,"verify_period":60}`, `,"verify_period":060}`, `,"verify_period":-1,"credential_at":"2026-03-01T12:00:00Z"}`,
		`,"verify_period":0,"credential_at":"2026-03-01T12:00:00Z"}`, `,"members":["a"]}`, `,"type":"bundle","members":["a"]}`,
	} {
		f.Add(start + docker + end)
	}
	f.Add(start + strings.Replace(docker, "}}}", `},"ghcr.io":{"username":"v","password":"q","auth":"dTpw"}}}`, 1) + "}")
	f.Add(start + strings.Replace(docker, `"p"`, `""`, 1) + "}")
	f.Fuzz(func(t *testing.T, value string) { checkScanned(t, value) })
}
