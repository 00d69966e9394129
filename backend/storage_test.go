// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"net/http"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// storedForms are entries as earlier builds of the plugin wrote them. Later ones
// must read them all: add lines, and never change or remove one.
var storedForms = map[string]string{
	"roles/app": `{"schema_version":1,"type":"static","updated_at":"2026-03-01T12:00:00Z",` +
		`"dockerconfig":{"auths":{"ghcr.io":{"username":"me","password":"` + marker + `","email":"me@example.com","auth":"bWU6UzNjcjN0LU1hcmtlcg=="}}},"expires_at":"2027-01-31T00:00:00Z"}`,
	"config": `{"schema_version":1,"allowed_registries":["ghcr.io","https://index.docker.io/v1/"],"expiry_warning":86400}`,

	"expiries/20270131T000000Z.app": "",

	"roles/member": `{"schema_version":1,"type":"static","updated_at":"2026-03-01T12:00:00Z",` +
		`"dockerconfig":{"auths":{"ghcr.io":{"username":"me","password":"` + marker + `","auth":"bWU6UzNjcjN0LU1hcmtlcg=="}}},"allowed_bundles":["all","team-*"],"verify_repository":"group/app:1"}`,
	"roles/all": `{"schema_version":1,"type":"bundle","updated_at":"2026-03-01T12:00:00Z","members":["member"]}`,

	"connections/app": `{"schema_version":1,"type":"test","updated_at":"2026-03-01T12:00:00Z","url":"https://git.example.com","registries":["https://index.docker.io/v1/","registry.example.com:5000"],` +
		`"settings":{"username":"admin"},"secrets":{"password":"` + marker + `-admin"},"ca_pem":` + quoted(testCA) + `,"allowed_roles":["*"],"allowed_targets":["group/*"]}`,
	"connections/pending": `{"schema_version":1,"type":"test","updated_at":"2026-03-01T12:00:00Z","url":"https://git.example.com","registries":["registry.example.com"],` +
		`"settings":{"username":"admin"},"secrets":{"password":"` + marker + `-admin"},` +
		`"root":{"pending":{"name":"regcred-pending-NAME","secrets":{"password":"` + marker + `regcred-pending-NAME"}}}}`,
	"connections/retired": `{"schema_version":1,"type":"test","updated_at":"2026-03-01T12:00:00Z","url":"https://git.example.com","registries":["registry.example.com"],` +
		`"settings":{"username":"admin"},"secrets":{"password":"` + marker + `regcred-retired-NAME"},` +
		`"root":{"rotated_at":"2026-03-01T12:00:00Z","name":"regcred-retired-NAME","retired":{"settings":{"username":"admin"},"secrets":{"password":"` + marker + `-admin"}}}}`,

	"roles/shared": `{"schema_version":1,"type":"dynamic","updated_at":"2026-03-01T12:00:00Z",` +
		`"dynamic":{"connection":"app","mode":"shared","for":{"project":"group/app","projects":"group/b,group/c"},"rotation_period":86400,"grace_period":3600},"allowed_bundles":["all"],"verify_repository":"docker.io/group/app"}`,
	"roles/leased": `{"schema_version":1,"type":"dynamic","updated_at":"2026-03-01T12:00:00Z",` +
		`"dynamic":{"connection":"app","mode":"leased","for":{"project":"group/app"},"ttl":900,"max_ttl":7200}}`,
	"roles/failing": `{"schema_version":1,"type":"dynamic","updated_at":"2026-03-01T12:00:00Z",` +
		`"dynamic":{"connection":"app","mode":"shared","for":{"project":"group/app"},"rotation_period":86400,"grace_period":3600}}`,
	"connection-roles/app/failing": "",
	"connection-roles/app/leased":  "",
	"connection-roles/app/shared":  "",

	"shared/shared": `{"schema_version":1,"current":{"minted":{"connection":"app","role":"shared","name":"regcred-shared-NAME","id":"id-regcred-shared-NAME","for":{"project":"group/app","projects":"group/b,group/c"}},` +
		`"dockerconfig":{"auths":{"https://index.docker.io/v1/":{"username":"robot","password":"` + marker + `","auth":"cm9ib3Q6UzNjcjN0LU1hcmtlcg=="},"registry.example.com:5000":{"username":"robot","password":"` + marker + `","auth":"cm9ib3Q6UzNjcjN0LU1hcmtlcg=="}}},` +
		`"minted_at":"2026-03-01T12:00:00Z","expires_at":"2026-03-03T12:00:00Z"},` +
		`"retired":[{"connection":"app","role":"shared","name":"regcred-shared-NAME","id":"id-regcred-shared-NAME","for":{"project":"group/app","projects":"group/b,group/c"},` +
		`"revoke_at":"2026-03-01T12:00:00Z","tried_at":"2026-03-01T12:00:00Z","attempts":1,"last_error":"the registry's API at https://git.example.com: there was no complete answer within the time limit"}]}`,
	"shared/failing": `{"schema_version":1,"last_error":"minting a credential for role \"failing\": the registry's API at https://git.example.com: answered 429 Too Many Requests; it can be asked again in 1m0s",` +
		`"failed_at":"2026-03-01T12:00:00Z","failures":1,"retry_after":60}`,
	"leases/app/20260301T121500Z.regcred-leased-NAME": `{"schema_version":1,"connection":"app","role":"leased","name":"regcred-leased-NAME","id":"id-regcred-leased-NAME","for":{"project":"group/app"},"written_at":"2026-03-01T12:00:00Z"}`,
}

func quoted(text string) string {
	encoded, _ := json.Marshal(text)
	return string(encoded)
}

// randomName is the random part of a name from [issuer.NewName].
var randomName = regexp.MustCompile(`(regcred-[a-z]+-)[a-z2-7]{26}`)

// storeDynamicForms stores the connections of storedForms and their credentials.
func storeDynamicForms(t *testing.T, e *engine) {
	t.Helper()
	e.setMount(time.Hour, 24*time.Hour)
	e.minting.alsoAt(t, "https://git.example.com")
	e.minting.password = func(string) string { return marker }
	sample := with(e.connectionSample(), fields{"url": "https://git.example.com"})
	e.write("connections/app", with(sample, fields{"registry": "docker.io,registry.example.com:5000", "ca_pem": testCA, "allowed_targets": "group/*"}))
	e.write("connections/pending", without(sample, "allowed_roles"))
	e.write("connections/retired", without(sample, "allowed_roles"))
	e.minting.fail("activate", errDown)
	e.failed(logical.UpdateOperation, "connections/pending/rotate-root", nil, http.StatusBadGateway)
	e.minting.fail("retire", errDown)
	e.failed(logical.UpdateOperation, "connections/retired/rotate-root", nil, http.StatusBadGateway)

	e.write("roles/shared", fields{"connection": "app", "project": "group/app", "projects": "group/b,group/c", "grace_period": "0s", "allowed_bundles": "all", "verify_repository": "docker.io/group/app"})
	e.read("creds/shared")
	e.write("rotate/shared", nil)
	e.minting.fail("revoke", errDown)
	if err := e.revokeRetired(t.Context(), e.through(), "shared"); err != nil {
		t.Fatal(err)
	}
	e.write("roles/shared", fields{"grace_period": "1h"})
	e.write("roles/leased", fields{"connection": "app", "mode": "leased", "project": "group/app", "ttl": "15m", "max_ttl": "2h"})
	e.read("creds/leased")
	e.write("roles/failing", fields{"connection": "app", "project": "group/app"})
	e.minting.fail("mint", issuer.StatusError(http.StatusTooManyRequests, http.Header{"Retry-After": {"60"}}, ""))
	e.failed(logical.ReadOperation, "creds/failing", nil, http.StatusBadGateway)
	e.minting.mend()
}

func TestStoredFormsStay(t *testing.T) {
	e := newEngine(t)
	storeDynamicForms(t, e)
	e.write("config", fields{"allowed_registries": "ghcr.io,docker.io", "expiry_warning": "24h"})
	e.write("roles/app", with(samples["roles/app"], fields{"password": marker}))
	e.write("roles/member", fields{"registry": "ghcr.io", "username": "me", "password": marker, "allowed_bundles": "all,team-*", "verify_repository": "group/app:1"})
	e.write("roles/all", fields{"members": "member"})
	got := map[string]string{}
	for key, value := range e.snapshot() {
		got[randomName.ReplaceAllString(key, "${1}NAME")] = randomName.ReplaceAllString(strings.TrimSpace(value), "${1}NAME")
	}
	checkSame(t, "storage", formsOfNow(), got)
}

// formsOfNow returns storedForms as this plugin writes them: connections and
// what they mint have an identity, what a shared role has minted for stands
// once, and an index says when there is something to be done for the role.
func formsOfNow() map[string]string {
	forms := maps.Clone(storedForms)
	maps.Copy(forms, map[string]string{
		"bundle-members/member/all":  "",
		"role-types/bundle/all":      "",
		"role-types/dynamic/failing": "",
		"role-types/dynamic/leased":  "",
		"role-types/dynamic/shared":  "",
		"root-checks/app":            `{"schema_version":1,"of":"id-1.dgrfgbt3myo0","checked_at":"2026-03-01T12:00:00Z"}`,
		"root-checks/pending":        `{"schema_version":1,"of":"id-2.dgrfgbt3myo0","checked_at":"2026-03-01T12:00:00Z"}`,
		"root-checks/retired":        `{"schema_version":1,"of":"id-3.dgrfgbt3myo0","checked_at":"2026-03-01T12:00:00Z"}`,
		"attention/@pending":         sinceNoon("rotate_root_unfinished"),
		"attention/@retired":         sinceNoon("rotate_root_unfinished"),
		"attention/failing":          sinceNoon("registry_not_allowed", "rotation_failing"),
		"attention/leased":           sinceNoon("registry_not_allowed"),
		"attention/shared":           sinceNoon("registry_not_allowed", "revocation_failing"),
	})
	const target = `{"project":"group/app","projects":"group/b,group/c"}`
	once := strings.NewReplacer(
		`"schema_version":1,"current"`, `"schema_version":1,"targets":[`+target+`],"current"`,
		`"for":`+target+`,"revoke_at"`, `"revoke_at"`,
		`"for":`+target, `"target":0`)
	due := map[string]string{
		"shared/shared":  `{"at":"2026-03-01T12:01:00Z","written_at":"2026-03-01T12:00:00Z"}`,
		"shared/failing": `{"at":"9999-12-31T23:59:59Z","written_at":"2026-03-01T12:00:00Z"}`,
	}
	forms["due/20260301T120100Z.20260301T120000Z.shared"] = ""
	forms["due/99991231T235959Z.20260301T120000Z.failing"] = ""
	forms["shared/failing"] = strings.Replace(forms["shared/failing"], `"failures":1`, `"failures":1,"failed_status":429`, 1)
	reference := strings.NewReplacer(
		`"connection":"app","role"`, `"connection":"app","connection_id":"id-1","host":"https://git.example.com","role"`,
		`"revoke_at"`, `"minted_at":"2026-03-01T12:00:00Z","retired_at":"2026-03-01T12:00:00Z","revoke_at"`,
		`"}]}`, `","target":0}],"rotations":2}`)
	for i, name := range []string{"app", "pending", "retired"} {
		key := "connections/" + name
		forms[key] = strings.Replace(forms[key], `{"schema_version":1,"type":"test"`, fmt.Sprintf(`{"schema_version":2,"type":"test","id":"id-%d"`, i+1), 1)
	}
	for key, value := range forms {
		if strings.HasPrefix(key, sharedStoragePrefix) {
			value = strings.Replace(once.Replace(value), `"schema_version":1`, `"schema_version":3,"due":`+due[key], 1)
		}
		forms[key] = reference.Replace(value)
	}
	return forms
}

// sinceNoon is an entry of the index of what needs attention.
func sinceNoon(kinds ...string) string {
	var since []string
	for _, kind := range kinds {
		since = append(since, quoted(kind)+`:"2026-03-01T12:00:00Z"`)
	}
	return `{"schema_version":1,"since":{` + strings.Join(since, ",") + `}}`
}

func TestStoredFormsAreRead(t *testing.T) {
	e := newEngine(t)
	for key, value := range storedForms {
		e.store(key, value)
	}
	checkSame(t, "role", appReadBack, e.read("roles/app"))
	checkSame(t, "password", any(marker), e.read("creds/app")["password"])
	checkSame(t, "config", fields{"allowed_registries": []string{"ghcr.io", "docker.io"}, "expiry_warning": int64(86400), "verify_period": int64(0)}, e.read("config"))
	e.must(logical.DeleteOperation, "config", nil) // so that the next writes may name any registry

	git := fields{"type": "test", "url": "https://git.example.com", "registry": "registry.example.com", "username": "admin", "allowed_roles": []string{}, "allowed_targets": []string{}, "updated_at": "2026-03-01T12:00:00Z"}
	checkSame(t, "connection", with(git, fields{
		"registry": "docker.io,registry.example.com:5000", "ca_pem": testCA, "allowed_roles": []string{"*"}, "allowed_targets": []string{"group/*"},
	}), e.read("connections/app"))
	checkSame(t, "connection with a pending root", with(git, fields{"pending_root": prepared}), e.read("connections/pending"))
	checkSame(t, "connection with a retired root", with(git, fields{"pending_root": notEnded, "last_root_rotation": "2026-03-01T12:00:00Z"}), e.read("connections/retired"))

	keys := []string{"https://index.docker.io/v1/", "registry.example.com:5000"}
	checkSame(t, "shared role", with(sharedReadBack, fields{
		"projects": []string{"group/b", "group/c"}, "allowed_bundles": []string{"all"}, "verify_repository": "docker.io/group/app", "registries": keys,
		"username": "robot", "expires_at": "2026-03-03T12:00:00Z", "last_vault_rotation": "2026-03-01T12:00:00Z", "next_rotation": "2026-03-02T12:00:00Z",
		"pending_revocations": []fields{{"name": "regcred-shared-NAME", "revoke_at": "2026-03-01T12:00:00Z", "last_error": "the registry's API at https://git.example.com: there was no complete answer within the time limit"}},
	}), e.read("roles/shared"))
	checkSame(t, "pull secret", any(int64(86400)), e.read("creds/shared")["ttl"])
	checkSame(t, "role that failed", with(sharedReadBack, fields{
		"registries": keys, "last_error_at": "2026-03-01T12:00:00Z",
		"last_error": `minting a credential for role "failing": the registry's API at https://git.example.com: answered 429 Too Many Requests; it can be asked again in 1m0s`,
	}), e.read("roles/failing"))
	checkSame(t, "leased role", with(leasedReadBack, fields{"ttl": int64(900), "max_ttl": int64(7200), "registries": keys}), e.read("roles/leased"))
	e.refused(logical.DeleteOperation, "connections/app", nil, "roles failing, leased, shared, 1 leased credentials")
}

// Reads and writes of a malformed entry fail and do not change it. Only a delete
// removes it.
func TestUnreadableEntriesAreLeftAlone(t *testing.T) {
	for name, c := range map[string]struct{ value, want string }{
		"newer version":              {`{"schema_version":9,"type":"static","dockerconfig":{"auths":{"ghcr.io":{"username":"me","password":"` + marker + `"}}}}`, "schema version 9 and this plugin knows up to "},
		"newer version, other types": {`{"schema_version":9,"type":{"a":"` + marker + `"},"updated_at":"` + marker + `","dockerconfig":"` + marker + `","allowed_registries":"` + marker + `"}`, "schema version 9 and this plugin knows up to "},
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

// reads reports whether an operation reads the entry of a key.
func reads(op logical.Operation, path, key string) bool {
	switch {
	case op == logical.DeleteOperation || op == logical.ListOperation:
		return false
	case path == "status" || path == "metrics":
		return false // it says so
	case path == "config" || path == "expiring":
		return key == "config"
	case path == "connections/app" && op == logical.ReadOperation, path == "connections/app/rotate-root":
		return key == "connections/app"
	case path == "connections/app" && op == logical.CreateOperation: // it exists already
		return key == "connections/app"
	case strings.HasPrefix(path, "connections/"):
		return key != "roles/app"
	case path == "roles/app" && op != logical.ReadOperation, path == "rotate/app":
		return key == "roles/app"
	}
	return key != "connections/app"
}

func TestMalformedRolesAreErrors(t *testing.T) {
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
	e.write("config", fields{"allowed_registries": "*,*:5000"})
	e.write("roles/app", credential)
	e.write("roles/several", fields{"dockerconfigjson": several})
	storeDynamicForms(t, e)
	e.mustPutWAL(walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "app", Name: "regcred-x"}})
	wrappedKeys := 0
	for key, value := range e.snapshot() {
		wrapped := false
		for _, prefix := range e.SpecialPaths().SealWrapStorage {
			wrapped = wrapped || key == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix)
		}
		if secret := strings.Contains(value, marker); secret && !wrapped {
			t.Errorf("%s: holds a secret and is not seal-wrapped", key)
		}
		if wrapped {
			wrappedKeys++
		}
	}
	// Roles, connections, shared credentials and a write-ahead entry; no index.
	checkSame(t, "seal-wrapped entries", 5+3+2+1, wrappedKeys)
}

func TestWriteAheadEntriesAndLeasesAreLocalToACluster(t *testing.T) {
	checkSame(t, "local", []string{"wal/", "leases/", "lease-attention/", "fence"}, newEngine(t).SpecialPaths().LocalStorage)
}

func TestTypesThatHoldSecretsCannotBePrinted(t *testing.T) {
	e := newSampledEngine(t)
	r, err := e.role(t.Context(), e.storage, "app")
	if err != nil {
		t.Fatal(err)
	}
	e.must(logical.DeleteOperation, "config", nil) // so that roles may name any registry
	storeDynamicForms(t, e)
	var (
		stored           storedRole
		storedConnection storedConnection
		storedShared     storedShared
	)
	for key, into := range map[string]any{"roles/app": &stored, "connections/retired": &storedConnection, "shared/shared": &storedShared} {
		if err := json.Unmarshal([]byte(e.snapshot()[key]), into); err != nil {
			t.Fatal(err)
		}
	}
	values := []any{r, *r, r.Static, *r.Static, r.Static.Docker, r.Static.Docker.Credentials()}
	values = append(values, holdingSecrets(t, e)...)
	ofStorage := []any{stored, &stored, storedConnection, &storedConnection, storedShared, &storedShared, storedConnection.Root, storedConnection.Root.Retired, *storedConnection.Root.Retired, storedShared.Current, *storedShared.Current}
	checkNoneIsMissing(t, append(values, ofStorage...))
	for i, value := range append(values, ofStorage...) {
		for _, verb := range "vsdqxXtbcoOUeEfFgGTp" {
			for _, flags := range []string{"", "+", "#", " ", "-10", ".3"} {
				format := "%" + flags + string(verb)
				if text := fmt.Sprintf(format, value); planted.In(text) != nil {
					t.Errorf("%T with %s: %s", value, format, text)
				}
			}
		}
		var log bytes.Buffer
		hclog.New(&hclog.LoggerOptions{Output: &log}).Error("message", "value", value)
		if i < len(values) { // the JSON of the others is what is stored
			hclog.New(&hclog.LoggerOptions{Output: &log, JSONFormat: true}).Error("message", "value", value)
		}
		if planted.In(log.String()) != nil {
			t.Errorf("%T in a log: %s", value, log.String())
		}
	}
}

// holdingSecrets returns the other values that hold secrets.
func holdingSecrets(t *testing.T, e *engine) []any {
	t.Helper()
	var values []any
	for _, name := range []string{"app", "pending", "retired"} {
		c, err := e.connection(t.Context(), e.storage, name)
		if err != nil {
			t.Fatal(err)
		}
		toOpen := c.described()
		values = append(values, c.Secrets, c.Root, &c.Root, c.Root.Pending, c.Root.Retired, toOpen.Secrets)
		ofConnection := attentionOfConnection{connection: c}
		values = append(values, *c, c, toOpen, &toOpen, ofConnection, &ofConnection)
	}
	s, err := e.shared(t.Context(), e.storage, "shared")
	if err != nil {
		t.Fatal(err)
	}
	minted := newCredential{credentialRef: s.Current.credentialRef, Docker: s.Current.Docker, done: func() {}}
	status := sharedStatus{shared: s}
	secret := pullSecret{Docker: s.Current.Docker, description: description{sources: []source{{name: "shared", docker: s.Current.Docker, shared: status}}}}
	credential := issuer.Credential{ID: "x", Username: "robot", Password: dockerconfig.NewSecret(marker)}
	facts := roleFacts{role: &role{Static: &staticRole{Docker: s.Current.Docker}}, shared: s}
	change := roleChange{role: facts.role, shared: &s}
	proposed := proposal{role: &role{Static: &staticRole{Docker: s.Current.Docker}}}
	return append(values, facts, &facts, change, &change, proposed, &proposed, status, &status, secret.description, s, &s, s.Current, *s.Current, minted, &minted, secret, &secret, secret.sources, credential, &credential)
}

// secretTypes matches the types that hold a secret. A struct with a field of such a
// type holds one, too.
var secretTypes = regexp.MustCompile(`\b(unprintable|json\.RawMessage|(dockerconfig\.)?(Secret|Config|Credential)|(issuer\.)?(Secrets|Root|Connection|Credential|Client))\b`)

// structs returns the structs that the files of a folder declare, each with its
// field types by field name.
func structs(t *testing.T, folder string) map[string]map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no files, %v", folder, err)
	}
	all := map[string]map[string]string{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			declared, isType := node.(*ast.TypeSpec)
			if !isType {
				return true
			}
			if body, isStruct := declared.Type.(*ast.StructType); isStruct {
				fields := map[string]string{}
				for _, field := range body.Fields.List {
					kind := types.ExprString(field.Type)
					if len(field.Names) == 0 {
						fields[kind] = kind
					}
					for _, name := range field.Names {
						fields[name.Name] = kind
					}
				}
				all[declared.Name.Name] = fields
			}
			return true
		})
	}
	return all
}

// checkNoneIsMissing expects each struct of the engine that can hold a secret, at
// any depth, to be among the values.
func checkNoneIsMissing(t *testing.T, values []any) {
	t.Helper()
	tried := map[string]bool{}
	for _, value := range values {
		kind := reflect.TypeOf(value)
		for kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Slice {
			kind = kind.Elem()
		}
		tried[kind.Name()] = true
	}
	declared := structs(t, ".")
	holding := map[string]bool{}
	for changed := true; changed; {
		changed = false
		for name, fields := range declared {
			for _, kind := range fields {
				inner := strings.TrimLeft(kind, "*[]")
				if !holding[name] && !strings.HasPrefix(kind, "func(") && (secretTypes.MatchString(kind) || holding[inner]) {
					holding[name], changed = true, true
				}
			}
		}
	}
	for name := range holding {
		if !tried[name] {
			t.Errorf("%s can hold a secret: have it tried here", name)
		}
	}
}

// A field with the name of a secret must not have a type that can be printed.
func TestSecretFieldsAreNoPlainStrings(t *testing.T) {
	called := regexp.MustCompile(`(?i)^(auth|token|bearer|sent|credential)$|password|secret`)
	plain := regexp.MustCompile(`^[*]?(\[\])?(string|byte|any|map\[string\]string)$`)
	folders := []string{".", "dockerconfig", "issuer", "redact", "registry"}
	types, err := filepath.Glob(filepath.Join("issuer", "*", "*.go"))
	if err != nil || len(types) < 20 {
		t.Fatalf("found the files %q of types of registries, %v", types, err)
	}
	for _, file := range types {
		if folder := filepath.Dir(file); !strings.HasSuffix(folder, "test") {
			folders = append(folders, folder)
		}
	}
	for _, folder := range slices.Compact(folders) {
		for name, fields := range structs(t, folder) {
			_, guarded := fields["unprintable"]
			for field, kind := range fields {
				if called.MatchString(field) && plain.MatchString(kind) && !guarded && !slices.Contains([]string{"dockerconfig.entry"}, folder+"."+name) {
					t.Errorf("%s: %s.%s is a %s, which is printed as it is", folder, name, field, kind)
				}
			}
		}
	}
}
