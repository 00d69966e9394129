// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

// The personas, each with a policy in examples/policies.
const (
	platform    = "platform-engineer"
	registries  = "registry-admin"
	team        = "team-owner"
	common      = "common-owner"
	application = "application"
	syncTool    = "sync-tool"
	job         = "ci-job"
	auditor     = "auditor"
)

// asked is a request, and the personas that may make it; no other may.
type asked struct {
	method, path string
	may          []string
}

// personaTable has every operation of the engine, on names of team a and on
// other names, and the requests of Vault's own API that come close to them.
// team-a-web, team-b-web and the connection gitlab exist, so a write of them is
// an update; names that end in -new do not exist, so a write creates.
var personaTable = []asked{
	{"GET", "regcred/creds/team-a-web", nil},
	{"GET", "regcred/creds/team-a-web/kubernetes", []string{application, syncTool}},
	{"GET", "regcred/creds/team-a-web/docker", nil},
	{"GET", "regcred/creds/team-a-ci/docker", []string{job}},
	{"GET", "regcred/creds/team-a-ci/kubernetes", []string{syncTool}},
	{"GET", "regcred/creds/team-b-web", nil},
	{"GET", "regcred/creds/team-b-web/kubernetes", []string{syncTool}},
	{"GET", "regcred/creds/team-b-web/docker", nil},
	{"GET", "regcred/creds/team-a-web/kubernetes/", nil},
	{"GET", "regcred/creds/team-A-web/kubernetes", []string{syncTool}}, // another role
	{"LIST", "regcred/creds", nil},

	{"LIST", "regcred/roles", []string{registries, auditor}},
	{"GET", "regcred/roles/team-a-web", []string{registries, team, auditor}},
	{"PUT", "regcred/roles/team-a-web", []string{team}},
	{"PUT", "regcred/roles/team-a-new", []string{team}},
	{"PATCH", "regcred/roles/team-a-web", []string{team}},
	{"DELETE", "regcred/roles/team-a-new", []string{team}},
	{"GET", "regcred/roles/team-b-web", []string{registries, auditor}},
	{"PUT", "regcred/roles/team-b-web", nil},
	{"PUT", "regcred/roles/team-b-new", nil},
	{"PATCH", "regcred/roles/team-b-web", nil},
	{"DELETE", "regcred/roles/team-b-new", nil},
	{"PUT", "regcred/roles/team-a", nil}, // the prefix ends in a hyphen
	{"PUT", "regcred/roles/team-ab-new", nil},
	{"GET", "regcred/roles/common-hub", []string{registries, common, auditor}},
	{"PUT", "regcred/roles/common-hub", []string{common}},
	{"DELETE", "regcred/roles/common-hub", []string{common}},
	{"GET", "regcred/creds/common-hub", nil},
	{"GET", "regcred/creds/common-hub/docker", nil},
	{"PUT", "regcred/roles/commonly-new", nil},

	{"PUT", "regcred/rotate/team-a-web", []string{registries, team}},
	{"PUT", "regcred/rotate/team-b-web", []string{registries}},
	{"PUT", "regcred/rotate/common-hub", []string{registries, common}},
	{"PUT", "regcred/verify/team-a-web", []string{registries, team}},
	{"PUT", "regcred/verify/team-b-web", []string{registries}},
	{"PUT", "regcred/verify/common-hub", []string{registries, common}},

	{"LIST", "regcred/connections", []string{registries, auditor}},
	{"GET", "regcred/connections/gitlab", []string{registries, auditor}},
	{"PUT", "regcred/connections/gitlab", []string{registries}},
	{"PUT", "regcred/connections/gitlab-new", []string{registries}},
	{"PATCH", "regcred/connections/gitlab", []string{registries}},
	{"DELETE", "regcred/connections/gitlab-new", []string{registries}},
	{"GET", "regcred/connections/gitlab/check", []string{registries, auditor}},
	{"PUT", "regcred/connections/gitlab/rotate-root", []string{registries}},

	{"GET", "regcred/config", []string{platform, auditor}},
	{"PUT", "regcred/config", []string{platform}},
	{"DELETE", "regcred/config", []string{platform}},
	{"GET", "regcred/expiring", []string{auditor, common}},
	{"GET", "regcred/status", []string{auditor}},
	{"GET", "regcred/metrics", []string{auditor}},

	{"PUT", "sys/leases/revoke-prefix/regcred/creds/team-a-ci", []string{registries, team}},
	{"PUT", "sys/leases/revoke-prefix/regcred/creds/team-b-ci", []string{registries}},
	{"PUT", "sys/leases/revoke-prefix/regcred/creds", nil},
	{"PUT", "sys/leases/revoke-prefix/auth", nil},
	{"PUT", "sys/leases/revoke-force/regcred/creds/team-a-ci", nil},
	{"PUT", "sys/leases/renew", []string{job}},
	{"PUT", "sys/leases/revoke", []string{job}},
	{"GET", "sys/leases/count", []string{auditor}},

	{"GET", "sys/metrics", []string{auditor}},
	{"GET", "sys/mounts", []string{platform, auditor}},
	{"PUT", "sys/mounts/regcred", []string{platform}},
	{"PUT", "sys/mounts/regcred/tune", []string{platform}},
	{"DELETE", "sys/mounts/regcred", nil},
	{"PUT", "sys/mounts/other", nil},
	{"GET", "sys/plugins/catalog", []string{platform, auditor}},
	{"GET", "sys/plugins/catalog/secret/vault-plugin-secrets-regcred", []string{platform}},
	{"PUT", "sys/plugins/catalog/secret/vault-plugin-secrets-regcred", []string{platform}},
	{"PUT", "sys/plugins/catalog/secret/another", nil},
	{"PUT", "sys/plugins/reload/secret/vault-plugin-secrets-regcred", []string{platform}},
	{"PUT", "sys/plugins/reload/secret/another", nil},
	{"GET", "sys/storage/raft/snapshot", []string{platform}},
	{"PUT", "sys/storage/raft/snapshot", nil},
	{"PUT", "sys/storage/raft/snapshot-force", nil},
	{"PUT", "sys/seal", nil},
	{"LIST", "sys/raw/logical", nil},
	{"PUT", "sys/policies/acl/application", nil},
	{"GET", "sys/audit", nil},
	{"PUT", "auth/token/create", nil},

	{"PUT", "sys/step-down", []string{platform}}, // last, because it is carried out
}

// TestPersonas gives each persona a token with its policy in examples/policies
// and no other, and makes every request of the table. A request that the policy
// does not allow is status 403. One that it allows may have any other outcome;
// many are errors, because their bodies are empty.
func TestPersonas(t *testing.T) {
	t.Parallel()
	v := servers.StartRaftVaultWith(t, servers.RaftOptions{Settings: []string{servers.RawStorage}}) // a dev server shows its metrics to everybody
	for _, role := range []string{"team-a-web", "team-b-web"} {
		write(t, v.Client, "regcred/roles/"+role, credential(nil))
	}
	write(t, v.Client, "regcred/connections/gitlab", fields{
		"type": "gitlab", "url": "http://127.0.0.1:1", "registry": "registry.example.com", "token": marker, "verify_connection": false,
	})
	wholeEngineIsIn(t, v, personaTable)
	tokens := personaTokens(t, v)
	personas := []string{registries, team, common, application, syncTool, job, auditor, platform}
	for persona := range tokens {
		if !slices.Contains(personas, persona) {
			t.Errorf("examples/policies/%s.hcl is of nobody in the table", persona)
		}
	}
	for _, row := range personaTable {
		for _, persona := range personas {
			if tokens[persona] == "" {
				t.Fatalf("examples/policies has no %s.hcl", persona)
			}
			status := statusOf(t, v.Addr, tokens[persona], row.method, row.path)
			if may, did := slices.Contains(row.may, persona), status != http.StatusForbidden; may != did {
				t.Errorf("%s: %s %s: want allowed %t, got status %d", persona, row.method, row.path, may, status)
			}
		}
	}
}

// personaTokens returns a token for each policy of examples/policies.
func personaTokens(t *testing.T, v *servers.Vault) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(servers.Repo(), "examples", "policies", "*.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	tokens := map[string]string{}
	for _, file := range files {
		policy, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".hcl")
		if err := v.Client.Sys().PutPolicy(name, string(policy)); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if tokens[name], err = v.NewToken(name); err != nil {
			t.Fatal(err)
		}
	}
	return tokens
}

func statusOf(t *testing.T, addr, token, method, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, addr+"/v1/"+path, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", token)
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// wholeEngineIsIn reports operations in Vault's OpenAPI document that the table
// lacks: somebody must decide who may use a new one.
func wholeEngineIsIn(t *testing.T, v *servers.Vault, table []asked) {
	t.Helper()
	document, err := v.Client.Logical().ReadRaw("sys/internal/specs/openapi")
	if err != nil {
		t.Fatal(err)
	}
	defer document.Body.Close()
	var openapi struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.NewDecoder(document.Body).Decode(&openapi); err != nil {
		t.Fatal(err)
	}
	methods := map[string][]string{"get": {"GET", "LIST"}, "post": {"PUT"}, "patch": {"PATCH"}, "delete": {"DELETE"}}
	found := 0
	for path, item := range openapi.Paths {
		template := strings.TrimSuffix(strings.TrimPrefix(path, "/"), "/")
		if !strings.HasPrefix(template, servers.Mount+"/") {
			continue
		}
		matching := regexp.MustCompile(`^` + regexp.MustCompile(`\\{\w+\\}`).ReplaceAllString(regexp.QuoteMeta(template), `[^/]+`) + `$`)
		for method, names := range methods {
			if item[method] == nil {
				continue
			}
			found++
			if !slices.ContainsFunc(table, func(row asked) bool { return slices.Contains(names, row.method) && matching.MatchString(row.path) }) {
				t.Errorf("personaTable does not say who may %s %s", method, template)
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d operations of the engine", found)
	}
}
