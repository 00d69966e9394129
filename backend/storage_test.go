// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// storedForms are entries as released plugins wrote them; a newer plugin must
// read them all, so lines are only ever added.
var storedForms = map[string]string{
	"roles/app": `{"schema_version":1,"type":"static","updated_at":"2026-03-01T12:00:00Z",` +
		`"dockerconfig":{"auths":{"ghcr.io":{"username":"me","password":"` + marker + `","email":"me@example.com","auth":"bWU6UzNjcjN0LU1hcmtlcg=="}}},"expires_at":"2027-01-31T00:00:00Z"}`,
	"config": `{"schema_version":1,"allowed_registries":["ghcr.io","https://index.docker.io/v1/"],"expiry_warning":86400}`,

	"expiries/20270131T000000Z.app": "",

	"roles/member": `{"schema_version":1,"type":"static","updated_at":"2026-03-01T12:00:00Z",` +
		`"dockerconfig":{"auths":{"ghcr.io":{"username":"me","password":"` + marker + `","auth":"bWU6UzNjcjN0LU1hcmtlcg=="}}},"allowed_bundles":["all","team-*"],"verify_repository":"group/app:1"}`,
	"roles/all": `{"schema_version":1,"type":"bundle","updated_at":"2026-03-01T12:00:00Z","members":["member"]}`,
}

func TestStoredFormsStay(t *testing.T) {
	e := newEngine(t)
	e.write("config", fields{"allowed_registries": "ghcr.io,docker.io", "expiry_warning": "24h"})
	e.write("roles/app", with(samples["roles/app"], fields{"password": marker}))
	e.write("roles/member", fields{"registry": "ghcr.io", "username": "me", "password": marker, "allowed_bundles": "all,team-*", "verify_repository": "group/app:1"})
	e.write("roles/all", fields{"members": "member"})
	got := e.snapshot()
	for key := range got {
		got[key] = strings.TrimSpace(got[key])
	}
	checkSame(t, "storage", storedForms, got)
}

func TestStoredFormsAreRead(t *testing.T) {
	e := newEngine(t)
	for key, value := range storedForms {
		e.store(key, value)
	}
	checkSame(t, "role", appReadBack, e.read("roles/app"))
	checkSame(t, "password", any(marker), e.read("creds/app")["password"])
	checkSame(t, "config", fields{"allowed_registries": []string{"ghcr.io", "docker.io"}, "expiry_warning": int64(86400)}, e.read("config"))
}

// Reads and writes of an entry that cannot be understood fail, and leave it to
// whoever can mend it; only a delete gets rid of it.
func TestEntriesItCannotReadAreLeftAlone(t *testing.T) {
	for name, c := range map[string]struct{ value, want string }{
		"newer version":              {`{"schema_version":2,"type":"static","dockerconfig":{"auths":{"ghcr.io":{"username":"me","password":"` + marker + `"}}}}`, "schema version 2 and this plugin knows up to 1; run the newer plugin"},
		"newer version, other types": {`{"schema_version":2,"type":{"a":"` + marker + `"},"updated_at":"` + marker + `","dockerconfig":"` + marker + `","allowed_registries":"` + marker + `"}`, "schema version 2 and this plugin knows up to 1; run the newer plugin"},
		"no version":                 {`{"type":"static","password":"` + marker + `"}`, "the stored entry is damaged"},
		"no JSON":                    {marker, "the stored entry is damaged"},
		"cut off":                    {`{"schema_version":1,"type":"` + marker, "the stored entry is damaged"},
		"wrong types":                {`{"schema_version":1,"type":["` + marker + `"],"allowed_registries":"` + marker + `"}`, "the stored entry is damaged"},
		"empty":                      {"", "the stored entry is damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, key := range []string{"config", "roles/app", "connections/app"} {
				e := newSampledEngine(t)
				e.store(key, c.value)
				before := e.snapshot()
				everyOperation(t, func(t *testing.T, op logical.Operation, path string, _ framework.OperationProperties) {
					if !reads(op, path, key) {
						return
					}
					resp, err := e.direct(op, path)
					checkHoldsNoSecret(t, "error", err)
					if err == nil || resp != nil {
						t.Fatalf("want an error, got response %v", resp)
					}
					checkContains(t, err.Error(), "reading "+key, c.want)
					checkSame(t, "storage", before, e.snapshot())
				})
				e.must(logical.DeleteOperation, key, nil)
			}
		})
	}
}

// reads reports whether an operation needs an entry that stands under a key.
func reads(op logical.Operation, path, key string) bool {
	switch {
	case op == logical.DeleteOperation || op == logical.ListOperation:
		return false
	case path == "config" || path == "expiring":
		return key == "config"
	case path == "connections/app" && op == logical.ReadOperation, path == "connections/app/rotate-root":
		return key == "connections/app"
	case path == "connections/app" && op == logical.CreateOperation: // it is there already
		return key == "connections/app"
	case strings.HasPrefix(path, "connections/"):
		return key != "roles/app"
	case path == "roles/app" && op != logical.ReadOperation, path == "rotate/app":
		return key == "roles/app"
	}
	return key != "connections/app"
}

func TestRolesItCannotUnderstandAreErrors(t *testing.T) {
	for want, value := range map[string]string{
		`cannot read its type "future"`:  `{"schema_version":1,"type":"future","dockerconfig":{"auths":{"ghcr.io":{"username":"me","password":"` + marker + `"}}}}`,
		"not a Docker config as written": `{"schema_version":1,"type":"static","dockerconfig":{"auths":{"ghcr.io":"` + marker + `"}}}`,
		`cannot read its type "static"`:  `{"schema_version":1,"type":"static"}`,
	} {
		e := newEngine(t)
		e.store("roles/app", value)
		for _, path := range []string{"roles/app", "creds/app"} {
			resp, err := e.request(logical.ReadOperation, path, nil)
			if err == nil || resp != nil {
				t.Fatalf("%s: want an error, got response %v", path, resp)
			}
			checkContains(t, err.Error(), want)
		}
	}
}

func TestEveryStoredSecretIsSealWrapped(t *testing.T) {
	e := newEngine(t)
	e.write("config", fields{"allowed_registries": "*"})
	e.write("roles/app", credential)
	e.write("roles/several", fields{"dockerconfigjson": several})
	for key, value := range e.snapshot() {
		wrapped := false
		for _, prefix := range e.SpecialPaths().SealWrapStorage {
			wrapped = wrapped || key == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix)
		}
		if secret := strings.Contains(value, marker); secret != wrapped {
			t.Errorf("%s: holds a secret: %v, is seal-wrapped: %v", key, secret, wrapped)
		}
	}
}

func TestWhatHoldsSecretsCannotBePrinted(t *testing.T) {
	e := newSampledEngine(t)
	r, err := e.role(t.Context(), e.storage, "app")
	if err != nil {
		t.Fatal(err)
	}
	var stored storedRole
	if err := json.Unmarshal([]byte(e.snapshot()["roles/app"]), &stored); err != nil {
		t.Fatal(err)
	}
	for _, value := range []any{r, *r, r.Static, *r.Static, r.Static.Docker, r.Static.Docker.Credentials(), stored, &stored} {
		for _, verb := range "vsdqxXtbcoOUeEfFgGT" { // %p takes only pointers: go vet
			for _, flags := range []string{"", "+", "#", " ", "-10", ".3"} {
				format := "%" + flags + string(verb)
				if text := fmt.Sprintf(format, value); leaks(text) {
					t.Errorf("%T with %s: %s", value, format, text)
				}
			}
		}
		var log bytes.Buffer
		hclog.New(&hclog.LoggerOptions{Output: &log}).Error("message", "value", value)
		if _, storage := value.(storedRole); !storage && value != any(&stored) { // their JSON is what is stored
			hclog.New(&hclog.LoggerOptions{Output: &log, JSONFormat: true}).Error("message", "value", value)
		}
		if leaks(log.String()) {
			t.Errorf("%T in a log: %s", value, log.String())
		}
	}
}

// leaks finds the marker as text, base64, hexadecimal and as a list of bytes.
func leaks(text string) bool {
	forms := slices.Clone(secretForms)
	for _, format := range []string{"%x", "%X", "% x", "%d"} {
		forms = append(forms, strings.Trim(fmt.Sprintf(format, []byte(marker)), "[]"))
	}
	for _, form := range forms {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}
