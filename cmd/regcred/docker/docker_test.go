// SPDX-License-Identifier: MPL-2.0

package docker

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
	"vault-plugin-secrets-regcred/cmd/regcred/internal/vaulttest"
)

const (
	hub      = "https://index.docker.io/v1/"
	notFound = "credentials not found in native keychain\n"
	password = vaulttest.Marker + `"\<>&`
)

// newVault starts a Vault with the roles of the tests, and writes docker.yaml.
func newVault(t *testing.T, config string) *vaulttest.Server {
	t.Helper()
	s := vaulttest.New(t)
	t.Setenv("VAULT_ADDR", s.URL)
	t.Setenv("VAULT_TOKEN", vaulttest.Token)
	t.Setenv("VAULT_MAX_RETRIES", "0")
	s.PullSecret("app", [][3]string{{"ghcr.io", "robot", password}, {hub, "hub", password}, {"registry.example.com:5000", "port", password}})
	s.PullSecret("team", [][3]string{{"registry.example.com/team", "path", password}})
	s.PullSecret("two", [][3]string{{"registry.example.com/a", "a", password}, {"registry.example.com/b", "b", password}})
	if config != "" {
		writeConfig(t, "docker.yaml", config)
	}
	return s
}

func writeConfig(t *testing.T, name, config string) {
	t.Helper()
	dir := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "regcred")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// serve returns what the helper prints, and whether it exits with status 0.
func serve(t *testing.T, program, action, in string) (out, warnings string, ok bool) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	ok = Serve(t.Context(), program, "v1.2.3", action, strings.NewReader(in), &stdout, &stderr)
	return stdout.String(), stderr.String(), ok
}

func answer(server, user string) string {
	return fmt.Sprintf(`{"ServerURL":%q,"Username":%q,"Secret":"%s\"\\\u003c\u003e\u0026"}`+"\n", server, user, vaulttest.Marker)
}

func TestGetFindsTheRegistryInEverySpelling(t *testing.T) {
	newVault(t, "role: app\nroles: {registry.example.com: team}\n")
	for server, user := range map[string]string{
		"ghcr.io": "robot", "https://ghcr.io": "robot", "GHCR.io/": "robot", "https://ghcr.io/v2/": "robot",
		hub: "hub", "docker.io": "hub", "index.docker.io": "hub", "registry-1.docker.io": "hub", "https://index.docker.io/v1": "hub",
		"registry.example.com:5000": "port", "registry.example.com": "path",
	} {
		out, warnings, ok := serve(t, Program, "get", server+"\n")
		if want := answer(server, user); !ok || out != want || warnings != "" {
			t.Errorf("%s: want %s, got %q, %q, %v", server, want, out, warnings, ok)
		}
	}
}

// Only this text lets clients go on without a credential.
func TestNotFoundOnlyWhereNoRoleCoversTheHost(t *testing.T) {
	newVault(t, "role: app\nroles: {quay.io: app, registry.example.com: two, gcr.io: none}\n")
	for server, want := range map[string]string{
		"other.example.com":         notFound,
		"registry.example.com:5001": notFound,
		"quay.io":                   "regcred: role app has no credential for quay.io; ",
		"registry.example.com":      "regcred: role two has 2 credentials for registry.example.com, each for another path",
		"gcr.io":                    `regcred: reading regcred/creds/none: there is no role "none" at regcred/, or no engine is mounted there`,
		"":                          "regcred: the registry is missing",
		"a b":                       "regcred: the registry that was asked for ",
	} {
		out, warnings, ok := serve(t, Program, "get", server+"\n")
		if ok || !strings.HasPrefix(out, want) || (warnings == "") != (want == notFound) {
			t.Errorf("%q: want %q, got %q, %q", server, want, out, warnings)
		}
	}
	newVault(t, "roles: {quay.io: app}\n")
	if out, _, _ := serve(t, Program, "get", "ghcr.io"); out != notFound {
		t.Errorf("want not found for a host that has no role, got %q", out)
	}
}

func TestFailuresAreNeverNotFound(t *testing.T) {
	s := newVault(t, "role: app\n")
	for _, c := range []struct {
		what, want string
		fail       func()
	}{
		{"sealed", "status 503", func() { s.Fail(vaulttest.Echo(503)) }},
		{"forbidden", "the token has expired, or its policies do not allow to read regcred/creds/app", func() { s.Fail(vaulttest.Echo(403)) }},
		{"error", "status 500", func() { s.Fail(vaulttest.Echo(500)) }},
		{"bad role", "is not the name of a role", func() { t.Setenv("REGCRED_ROLE", "../x") }},
		{"down", "connection refused", func() { t.Setenv("REGCRED_ROLE", ""); s.Close() }},
		{"no file", "/none.yaml does not exist", func() { t.Setenv("REGCRED_DOCKER_CONFIG", "/none.yaml") }},
	} {
		c.fail()
		out, warnings, ok := serve(t, Program, "get", "ghcr.io")
		if ok || out == notFound || !strings.Contains(out, c.want) || strings.Contains(out+warnings, vaulttest.Marker) || strings.Count(out, "\n") != 1 || warnings != out {
			t.Errorf("%s: want on both outputs one line with %q and no secret, got %q, %q", c.what, c.want, out, warnings)
		}
	}
}

func TestListAnswersAlways(t *testing.T) {
	s := newVault(t, "role: app\nroles: {registry.example.com: team, quay.io: none, gcr.io: app}\n")
	want := `{"ghcr.io":"robot","https://index.docker.io/v1/":"hub","registry.example.com":"path","registry.example.com:5000":"port"}` + "\n"
	out, warnings, ok := serve(t, Program, "list", "")
	if !ok || out != want || !strings.Contains(warnings, `there is no role "none"`) {
		t.Errorf("want %s and a warning, got %q, %q, %v", want, out, warnings, ok)
	}
	s.Close()
	out, warnings, ok = serve(t, Program, "list", "")
	if !ok || out != "{}\n" || strings.Count(warnings, "connection refused") != 3 {
		t.Errorf("want an empty list and a warning for each role, got %q, %q, %v", out, warnings, ok)
	}
	t.Setenv("REGCRED_DOCKER_CONFIG", "/none.yaml")
	if out, warnings, ok = serve(t, Program, "list", ""); !ok || out != "{}\n" || !strings.Contains(warnings, "/none.yaml does not exist") {
		t.Errorf("want an empty list and a warning, got %q, %q, %v", out, warnings, ok)
	}
}

func TestStoreAndEraseExplain(t *testing.T) {
	newVault(t, "role: app\n")
	for action, in := range map[string]string{
		"store": `{"ServerURL":"ghcr.io","Username":"u","Secret":"` + vaulttest.Marker + `"}`,
		"erase": "ghcr.io",
	} {
		out, _, ok := serve(t, Program, action, in)
		if ok || !strings.Contains(out, "the credentials are in Vault") || strings.Contains(out, vaulttest.Marker) {
			t.Errorf("%s: want an explanation, got %q", action, out)
		}
	}
	if out, _, ok := serve(t, Program, "store", `{"Secret":"`+vaulttest.Marker); ok || strings.Contains(out, vaulttest.Marker) || !strings.Contains(out, "nothing is stored here") {
		t.Errorf("garbage: got %q", out)
	}
	if out, _, ok := serve(t, Program, "version", ""); !ok || out != "docker-credential-regcred (regcred) v1.2.3\n" {
		t.Errorf("version: got %q", out)
	}
	if out, _, ok := serve(t, Program, vaulttest.Marker, ""); ok || out != "regcred: there is no such action; there are get, list, store, erase and version\n" {
		t.Errorf("other action: got %q", out)
	}
}

func TestConfigurationIsFoundByTheProgramsName(t *testing.T) {
	newVault(t, "")
	writeConfig(t, "docker-work.yaml", "role: app\n")
	if out, _, ok := serve(t, Program+"-work", "get", "ghcr.io"); !ok || out != answer("ghcr.io", "robot") {
		t.Errorf("got %q", out)
	}
	if out, _, ok := serve(t, Program, "get", "ghcr.io"); ok || !strings.Contains(out, "no role is configured") || !strings.Contains(out, "docker.yaml") {
		t.Errorf("want an error that names the file, got %q", out)
	}
	t.Setenv("REGCRED_ROLE", "app")
	if out, _, ok := serve(t, Program, "get", "ghcr.io"); !ok || out != answer("ghcr.io", "robot") {
		t.Errorf("got %q", out)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	newVault(t, "")
	for config, want := range map[string]string{
		"roles: {ghcr.io/team: app}":                "must be a host without a path",
		"roles: {ghcr.io: app, GHCR.io: app}":       "ghcr.io is there twice",
		"roles: {docker.io: a, index.docker.io: b}": "docker.io is there twice",
		"roles: {'a b': app}":                       `roles: "a b" `,
		"roles: {ghcr.io: a/b}":                     "is not the name of a role",
		"role: app\nrole: b":                        "already set",
		"roles: {ghcr.io: app}\nhost: x":            `unknown field "host"`,
		"role: ''":                                  "no role is configured",
	} {
		writeConfig(t, "docker.yaml", config)
		if out, _, ok := serve(t, Program, "get", "ghcr.io"); ok || !strings.Contains(out, want) {
			t.Errorf("%s: want %q, got %q", config, want, out)
		}
	}
}

func TestCheckShowsEachStep(t *testing.T) {
	s := newVault(t, "role: app\nroles: {quay.io: app}\n")
	check := func(registry string) (string, bool) {
		var out bytes.Buffer
		steps := &client.Steps{Out: &out}
		Check(t.Context(), Program, registry, steps)
		if strings.Contains(out.String(), vaulttest.Marker) {
			t.Errorf("%s: a secret is shown: %s", registry, out.String())
		}
		return out.String(), !steps.Failed()
	}
	if out, ok := check("index.docker.io"); !ok || !strings.Contains(out, "ok    credential     docker.io as hub\n") || !strings.Contains(out, "ok    role           app, the role for all registries\n") {
		t.Errorf("got %s", out)
	}
	for registry, want := range map[string]string{
		"quay.io":           "FAIL  credential     role app has no credential for quay.io\n                     what to do: ",
		"other.example.com": "FAIL  credential     role app has no credential for other.example.com: Docker pulls from it without",
		"a b":               "FAIL  registry",
	} {
		if out, ok := check(registry); ok || !strings.Contains(out, want) {
			t.Errorf("want %q, got %s", want, out)
		}
	}
	s.Fail(vaulttest.Echo(403))
	if out, ok := check("ghcr.io"); ok || !strings.Contains(out, "FAIL  Vault") {
		t.Errorf("got %s", out)
	}
}
