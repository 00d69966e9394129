// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// The bytes stand here in full: they are the bytes that kubectl writes and that
// tools compare.
func TestPullSecretHasThreeForms(t *testing.T) {
	const secret = marker + `<&>"\é`
	const escaped = marker + `\u003c\u0026\u003e\"\\é`
	for name, c := range map[string]struct {
		role                    fields
		kubernetes, docker      string
		rest                    fields
		registry, user, expires string
	}{
		"one registry": {
			role:       fields{"registry": "ghcr.io/team", "username": "me", "password": secret, "email": "me@example.com"},
			kubernetes: `{"auths":{"ghcr.io/team":{"username":"me","password":"` + escaped + `","email":"me@example.com","auth":"` + b64("me:"+secret) + `"}}}`,
			docker:     `{"auths":{"ghcr.io/team":{"auth":"` + b64("me:"+secret) + `"}}}`,
			rest:       fields{"registry": "ghcr.io/team", "username": "me", "password": secret},
		},
		"Docker Hub, with expiry": {
			role:       fields{"registry": "docker.io", "username": "me", "password": marker, "expires_at": "2027-01-31T00:00:00+01:00"},
			kubernetes: `{"auths":{"https://index.docker.io/v1/":{"username":"me","password":"` + marker + `","auth":"` + b64("me:"+marker) + `"}}}`,
			docker:     `{"auths":{"https://index.docker.io/v1/":{"auth":"` + b64("me:"+marker) + `"}}}`,
			rest:       fields{"registry": "docker.io", "username": "me", "password": marker, "expires_at": "2027-01-30T23:00:00Z"},
		},
		"several registries": {
			role: fields{"dockerconfigjson": several, "expires_at": "2027-01-31T00:00:00Z"},
			kubernetes: `{"auths":{` +
				`"https://index.docker.io/v1/":{"username":"hub","password":"` + marker + `","auth":"` + b64("hub:"+marker) + `"},` +
				`"quay.io":{"username":"bot","password":"` + marker + `","email":"bot@example.com","auth":"` + b64("bot:"+marker) + `"}}}`,
			docker: `{"auths":{"https://index.docker.io/v1/":{"auth":"` + b64("hub:"+marker) + `"},"quay.io":{"auth":"` + b64("bot:"+marker) + `"}}}`,
			rest:   fields{"expires_at": "2027-01-31T00:00:00Z"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/app", c.role)
			for range 2 { // the same bytes each time
				checkSame(t, "creds/app", with(c.rest, fields{".dockerconfigjson": c.kubernetes, "dockerconfigjson": b64(c.kubernetes)}), e.read("creds/app"))
				checkSame(t, "creds/app/kubernetes", fields{".dockerconfigjson": c.kubernetes}, e.read("creds/app/kubernetes"))
				checkSame(t, "creds/app/docker", fields{"config.json": c.docker}, e.read("creds/app/docker"))
			}
		})
	}
}

// One popular operator fails on lists, and some tools give a special meaning to
// certain names.
func TestPullSecretHasOnlyPlainFields(t *testing.T) {
	forbidden := []string{"data", "metadata", "custom_metadata", "_raw", "certificate", "expiration", "secret_id"}
	for _, role := range []fields{samples["roles/app"], {"dockerconfigjson": several}} {
		e := newEngine(t)
		e.write("roles/app", role)
		everyOperation(t, func(t *testing.T, op logical.Operation, path string, properties framework.OperationProperties) {
			if op != logical.ReadOperation || !strings.HasPrefix(path, "creds/") {
				return
			}
			for _, name := range []string{"ttl", "last_vault_rotation", "rotation_period", "grace_period"} {
				if value, has := e.read(path)[name]; has {
					t.Errorf("want no field %s, which says that the engine rotates, got %v", name, value)
				}
			}
			for name, value := range e.read(path) {
				if _, text := value.(string); !text || slices.Contains(forbidden, name) {
					t.Errorf("want texts of unsuspicious names, got %s: %v", name, value)
				}
			}
			for name := range properties.Responses[200][0].Fields {
				if slices.Contains(forbidden, name) {
					t.Errorf("want no field %s in the schema", name)
				}
			}
		})
	}
}

// Vault Agent and Vault Secrets Operator crash or stop on other types.
func TestMintedPullSecretsHaveOnlyPlainFields(t *testing.T) {
	e := newSharingEngine(t)
	e.write("roles/leased", leasedRole)
	e.write("roles/all", fields{"members": "app"})
	for _, path := range []string{"creds/app", "creds/all", "creds/leased", "creds/app/docker", "creds/leased/kubernetes"} {
		for name, value := range e.read(path) {
			switch value.(type) {
			case string:
			case int64:
				if name != "ttl" && name != "rotation_period" && name != "grace_period" {
					t.Errorf("%s: want a text of %s, got %v", path, name, value)
				}
			default:
				t.Errorf("%s: want a text or an integer of %s, got %T", path, name, value)
			}
		}
	}
	checkSame(t, "a bundle of one is what that is", e.read("creds/app"), e.read("creds/all"))
}

func TestVersionIsIgnored(t *testing.T) {
	e := newSampledEngine(t)
	for _, path := range []string{"creds/app", "creds/app/kubernetes", "creds/app/docker"} {
		want := e.read(path)
		for _, version := range []any{"2", "", "-1", nil, "latest"} {
			resp := e.must(logical.ReadOperation, path, fields{"version": version})
			checkSame(t, fmt.Sprintf("%s with version %v", path, version), want, resp.Data)
			checkWarnings(t, resp.Warnings)
		}
	}
}

func TestReadsOfMissingRolesReturnNothing(t *testing.T) {
	e := newSampledEngine(t)
	for _, path := range []string{"roles/other", "creds/other", "creds/other/kubernetes", "creds/other/docker", "creds/APP"} {
		if resp := e.must(logical.ReadOperation, path, nil); resp != nil {
			t.Errorf("%s: want no response (404), got %v", path, resp)
		}
	}
}

func TestReadsWarnOfExpiry(t *testing.T) {
	expiry := noon.Add(14 * 24 * time.Hour)
	for _, c := range []struct {
		left, warn time.Duration
		want       []string
	}{
		{14*24*time.Hour + time.Second, defaultExpiryWarning, nil},
		{14 * 24 * time.Hour, defaultExpiryWarning, []string{"expires at 2026-03-15T12:00:00Z, in 14 days;"}},
		{48 * time.Hour, defaultExpiryWarning, []string{"in 2 days;"}},
		{48*time.Hour - 1, defaultExpiryWarning, []string{"in 47 hours;"}},
		{2 * time.Hour, defaultExpiryWarning, []string{"in 2 hours;"}},
		{2*time.Hour - 1, defaultExpiryWarning, []string{"in 119 minutes;"}},
		{2 * time.Minute, defaultExpiryWarning, []string{"in 2 minutes;"}},
		{1, defaultExpiryWarning, []string{"in less than two minutes;"}},
		{0, defaultExpiryWarning, []string{`the credential of role "app" expired at 2026-03-15T12:00:00Z; write a new password and expires_at to roles/app`}},
		{-time.Hour, defaultExpiryWarning, []string{"expired at"}},
		{time.Hour + 1, time.Hour, nil},
		{time.Hour, time.Hour, []string{"in 60 minutes;"}},
		{1, 0, nil},
		{0, 0, []string{"expired at"}},
	} {
		t.Run(fmt.Sprintf("%s left, %s before", c.left, c.warn), func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/app", with(credential, fields{"expires_at": formatTime(expiry)}))
			e.write("config", fields{"expiry_warning": int(c.warn.Seconds())})
			e.clock.advance(expiry.Add(-c.left).Sub(e.clock.now()))
			for _, path := range []string{"roles/app", "creds/app", "creds/app/kubernetes", "creds/app/docker"} {
				checkWarnings(t, e.readWarnings(path), c.want...)
			}
		})
	}
}

func TestReadsDoNotWarnIfTheExpiryIsUnknown(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", credential)
	for _, path := range []string{"roles/app", "creds/app"} {
		checkWarnings(t, e.readWarnings(path))
	}
}

func TestReadsChangeNothing(t *testing.T) {
	e := newSampledEngine(t)
	before := e.snapshot()
	everyOperation(t, func(_ *testing.T, op logical.Operation, path string, _ framework.OperationProperties) {
		if !writes(op) {
			e.must(op, path, nil)
		}
	})
	checkSame(t, "storage", before, e.snapshot())
	checkSame(t, "stored keys", []string{"config", "connections/app", "expiries/20270131T000000Z.app", "roles/app", "root-checks/app"}, slices.Sorted(maps.Keys(before)))
}
