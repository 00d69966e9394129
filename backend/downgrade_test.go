// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// The types below read storage as the build a09f167 does, which knows no schema
// version above 1. Never change it.

const formerSchemaVersion = 1

type formerConfig struct {
	SchemaVersion     int                `json:"schema_version"`
	AllowedRegistries []dockerconfig.Key `json:"allowed_registries"`
	ExpiryWarning     int64              `json:"expiry_warning"`
	CAPEM             string             `json:"ca_pem,omitempty"`
}

type formerRole struct {
	SchemaVersion    int                `json:"schema_version"`
	Type             string             `json:"type"`
	UpdatedAt        time.Time          `json:"updated_at"`
	Docker           *json.RawMessage   `json:"dockerconfig,omitempty"`
	ExpiresAt        time.Time          `json:"expires_at,omitzero"`
	Members          []string           `json:"members,omitempty"`
	Dynamic          *formerDynamicRole `json:"dynamic,omitempty"`
	AllowedBundles   []string           `json:"allowed_bundles,omitempty"`
	VerifyRepository string             `json:"verify_repository,omitempty"`
}

type formerDynamicRole struct {
	Connection     string          `json:"connection"`
	Mode           string          `json:"mode"`
	For            issuer.Settings `json:"for,omitempty"`
	TTL            int64           `json:"ttl,omitempty"`
	MaxTTL         int64           `json:"max_ttl,omitempty"`
	RotationPeriod int64           `json:"rotation_period,omitempty"`
	GracePeriod    int64           `json:"grace_period,omitempty"`
}

type formerMinted struct {
	Connection string          `json:"connection"`
	Role       string          `json:"role"`
	Name       string          `json:"name"`
	ID         string          `json:"id,omitempty"`
	For        issuer.Settings `json:"for,omitempty"`
}

type formerLease struct {
	SchemaVersion int `json:"schema_version"`
	formerMinted
	Ends time.Time     `json:"ends"`
	TTL  time.Duration `json:"ttl"`
}

// formerWAL is the data of write-ahead entries of all kinds, and the entries of
// the index of leases.
type formerWAL struct {
	SchemaVersion int `json:"schema_version"`
	formerMinted
}

// formerDecode decodes an entry into stored, of which version is the schema
// version.
func formerDecode(key, value string, stored any, version *int) error {
	err := json.Unmarshal([]byte(value), stored)
	if *version > formerSchemaVersion {
		return fmt.Errorf("reading %s: the stored entry has schema version %d and this plugin knows up to %d; run the newer plugin that wrote it", key, *version, formerSchemaVersion)
	}
	if err != nil || *version < 1 {
		return fmt.Errorf("reading %s: the stored entry is damaged", key)
	}
	return nil
}

// TestReleasedBuildReadsOrRefusesWhatTodayStores reads what today's build stores
// as a released build does after a roll-back. It refuses all that knows of
// registries, with a clear message: otherwise it would mint and revoke without
// regard to where a credential was minted. It reads the rest, and when it writes
// a role or the config again, nothing is lost but the time of a role's credential:
// then the role is verified anew.
func TestReleasedBuildReadsOrRefusesWhatTodayStores(t *testing.T) {
	eachDump(t, func(t *testing.T, u *upgraded) {
		u.writeAllAgain(t)
		refused := map[string]int{}
		for key, value := range u.snapshot() {
			kind, _, _ := strings.Cut(key, "/")
			switch kind {
			case "connections", "shared":
				var stored struct {
					SchemaVersion int `json:"schema_version"`
				}
				want := fmt.Sprintf("reading %s: the stored entry has schema version %d and this plugin knows up to 1; run the newer plugin that wrote it", key, schemaVersionOf(key))
				if err := formerDecode(key, value, &stored, &stored.SchemaVersion); err == nil || err.Error() != want {
					t.Errorf("want %q, got %v", want, err)
				}
				refused[kind]++
			case "roles":
				var stored formerRole
				err := formerDecode(key, value, &stored, &stored.SchemaVersion)
				checkWritesAgain(t, key, value, stored, err)
			case "config":
				var stored formerConfig
				err := formerDecode(key, value, &stored, &stored.SchemaVersion)
				checkWritesAgain(t, key, value, stored, err)
			case "leases":
				var stored formerWAL
				err := formerDecode(key, value, &stored, &stored.SchemaVersion)
				u.checkFormerSees(t, key, stored.formerMinted, err)
			case "wal":
				u.checkFormerWAL(t, strings.TrimPrefix(key, "wal/"))
			case "attention", "root-checks": // no released build looks at them
			case "expiries", "connection-roles", "due", "bundle-members", "role-types", "lease-attention", "verify-periods", "failing":
				checkSame(t, key, "", value) // only their keys count
			case bundlesIndexedKey: // no released build looks at it
			default:
				t.Errorf("%s is of a kind that a released build does not know; add it to this test", key)
			}
		}
		checkSame(t, "refused connections", len(u.names("connections/")), refused["connections"])
		if shared := len(u.names("shared/")); refused["shared"] < shared {
			t.Errorf("want %d shared credentials to be refused, got %d", shared, refused["shared"])
		}
	})
}

// writeAllAgain has today's build store each entry in its own form.
func (u *upgraded) writeAllAgain(t *testing.T) {
	for _, name := range u.names("connections/") {
		u.patch("connections/"+name, fields{"allowed_roles": "*", "verify_connection": false})
	}
	for _, name := range u.names("roles/") {
		u.patch("roles/"+name, fields{})
		s, err := u.shared(t.Context(), u.through(), name)
		if err == nil && s.Current != nil {
			err = u.putShared(t.Context(), u.through(), name, s)
		}
		if err != nil {
			t.Fatal(err)
		}
		role := u.read("roles/" + name)
		if role["mode"] == modeLeased && role["connection"] != "gitea" { // its stand-in cannot mint
			u.read("creds/" + name)
		}
	}
	for _, name := range u.names("shared/") {
		if _, found := u.snapshot()["shared/"+name]; !found {
			t.Fatalf("shared/%s is gone", name)
		}
	}
}

// checkWritesAgain checks that a released build writes an entry as it read it.
func checkWritesAgain(t *testing.T, key, value string, stored any, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	encoded, err := json.Marshal(stored)
	if err != nil {
		t.Fatal(err)
	}
	want := decoded(t, value)
	delete(want, "credential_at")
	checkSame(t, key, want, decoded(t, string(encoded)))
}

func decoded(t *testing.T, text string) (value map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

// checkFormerSees checks that a released build finds a credential at its
// registry by what it reads.
func (u *upgraded) checkFormerSees(t *testing.T, key string, got formerMinted, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		return
	}
	if got.Name == "" || got.Role == "" || !slices.Contains(u.names("connections/"), got.Connection) || !strings.HasSuffix(key, got.Name) && !strings.HasPrefix(key, "wal/") {
		t.Errorf("%s: want the name, the role and the connection of a credential, got %+v", key, got)
	}
}

func (u *upgraded) checkFormerWAL(t *testing.T, id string) {
	t.Helper()
	entry, err := framework.GetWAL(t.Context(), u.through(), id)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(entry.Data)
	if err != nil {
		t.Fatal(err)
	}
	var stored formerWAL
	err = formerDecode("wal/"+id, string(encoded), &stored, &stored.SchemaVersion)
	switch {
	case entry.Kind == walRoot && err == nil && stored.Name != "" && slices.Contains(u.names("connections/"), stored.Connection):
	case entry.Kind == walCredential:
		u.checkFormerSees(t, "wal/"+id, stored.formerMinted, err)
	default:
		t.Errorf("wal/%s: want an entry that a released build understands, got %s, %v, %v", id, entry.Kind, stored, err)
	}
}

// A released build takes the end of a lease for the latest time to which it can
// be renewed. It must never renew a lease beyond the end in the index, after
// which today's build ends the credential.
func TestReleasedBuildRenewsNoLeaseBeyondTheIndex(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "15m", "max_ttl": "24h"})
	_, secret := e.lease("creds/leased")
	secret = e.renewed(secret, 0)
	var former formerLease
	if err := formerDecode("the lease", secret.InternalData["lease"].(string), &former, &former.SchemaVersion); err != nil {
		t.Fatal(err)
	}
	keys := e.indexedLeases()
	checkSame(t, "number of indexed leases", 1, len(keys))
	ends, name, ok := parseExpiryKey(keys[0][strings.LastIndex(keys[0], "/")+1:])
	if !ok {
		t.Fatalf("%q is no key of the index", keys[0])
	}
	checkSame(t, "name", name, former.Name)
	checkSame(t, "end", formatTime(ends), formatTime(former.Ends))
}
