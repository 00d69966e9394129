// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"vault-plugin-secrets-regcred/tests/servers"
)

// marker is in every secret of these tests, so that a leak shows.
const marker = "s3cr3t"

// fields are the body of a write.
type fields = map[string]any

// credential returns the fields of a valid static role. The fields in others
// replace some of them; nil removes one.
func credential(others fields) fields {
	all := fields{"registry": "registry.example.com", "username": "robot", "password": marker}
	for name, value := range others {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	return all
}

func dockerConfig(others string) fields { return fields{"dockerconfigjson": others} }

// TestRefusedInput has every refusal of docs/api.md: status 400, a message that
// names the field and holds no secret, and nothing changed. What the messages
// say is in the tests of backend.
func TestRefusedInput(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	write(t, v.Client, "regcred/roles/existing", credential(nil))
	before := read(t, v.Client, "regcred/roles/existing")

	auth := base64.StdEncoding.EncodeToString([]byte("robot:" + marker))
	for _, test := range []struct {
		name   string
		fields fields
		want   []string // how the message begins, and what else it names
	}{
		{"registry with user info", credential(fields{"registry": "robot:" + marker + "@registry.example.com"}), []string{"registry:"}},
		{"registry with user info in a URL", credential(fields{"registry": "https://robot:" + marker + "@registry.example.com/"}), []string{"registry:"}},
		{"registry with a query", credential(fields{"registry": "registry.example.com?x=" + marker}), []string{"registry:"}},
		{"registry with a fragment", credential(fields{"registry": "registry.example.com#" + marker}), []string{"registry:"}},
		{"registry with a space", credential(fields{"registry": "registry.example.com " + marker}), []string{"registry:"}},
		{"registry with two newlines", credential(fields{"registry": "registry.example.com\n\n"}), []string{"registry:"}},
		{"registry with a control character", credential(fields{"registry": "registry\x01.example.com"}), []string{"registry:"}},
		{"registry with a bad port", credential(fields{"registry": "registry.example.com:http"}), []string{"registry:"}},
		{"registry with port 0", credential(fields{"registry": "registry.example.com:0"}), []string{"registry:"}},
		{"registry with too high a port", credential(fields{"registry": "registry.example.com:65536"}), []string{"registry:"}},
		{"registry with an empty port", credential(fields{"registry": "registry.example.com:"}), []string{"registry:"}},
		{"registry without a host", credential(fields{"registry": "https:///v2/"}), []string{"registry:"}},
		{"empty registry", credential(fields{"registry": ""}), []string{"registry:"}},
		{"registry with another scheme", credential(fields{"registry": "oci://registry.example.com"}), []string{"registry:"}},
		{"registry that is an image", credential(fields{"registry": "registry.example.com/team/app:1.4"}), []string{"registry:"}},
		{"registry with a glob in its path", credential(fields{"registry": "registry.example.com/*"}), []string{"registry:"}},
		{"bare IPv6 address", credential(fields{"registry": "::1"}), []string{"registry:"}},
		{"host with an underscore", credential(fields{"registry": "my_registry.example.com"}), []string{"registry:"}},
		{"hostname with user info", credential(fields{"registry": nil, "hostname": marker + "@registry.example.com"}), []string{"hostname:"}},
		{"registry and hostname that differ", credential(fields{"hostname": "other.example.com"}), []string{"registry and hostname:"}},
		{"empty username", credential(fields{"username": ""}), []string{"username:"}},
		{"username with a colon", credential(fields{"username": "robot:" + marker}), []string{"username:"}},
		{"username with a newline", credential(fields{"username": "robot\n"}), []string{"username:"}},
		{"empty password", credential(fields{"password": ""}), []string{"password:"}},
		{"password of a newline", credential(fields{"password": "\n"}), []string{"password:"}},
		{"password with NUL", credential(fields{"password": marker + "\x00"}), []string{"password:"}},
		{"password that was not UTF-8", credential(fields{"password": marker + "\xff"}), []string{"password:"}},
		{"password of the wrong type", credential(fields{"password": fields{"value": marker}}), []string{"password:"}},
		{"password in a list", credential(fields{"password": []string{marker}}), []string{"password:"}},
		{"password true", credential(fields{"password": true}), []string{"password:"}},
		{"password that is a number", credential(fields{"password": json.Number("12345678901234567890")}), []string{"password:"}},
		{"email with a newline", credential(fields{"email": "ops@example.com\n"}), []string{"email:"}},
		{"misspelt password", credential(fields{"password": nil, "pasword": marker}), []string{`unknown field "pasword"`}},
		{"unknown field beside good ones", credential(fields{"tls": marker}), []string{`unknown field "tls"`}},
		{"name in the body", credential(fields{"role": "other"}), []string{`unknown field "role"`}},
		{"bad expires_at", credential(fields{"expires_at": "tomorrow"}), []string{"expires_at:"}},
		{"expires_at in year 1", credential(fields{"expires_at": "0001-01-01T00:00:00Z"}), []string{"expires_at:"}},
		{"password in UTF-16", credential(fields{"password": "\xff\xfe" + strings.Join(strings.Split(marker, ""), "\x00") + "\x00"}), []string{"password:"}},
		{"session of docker login", credential(fields{"registry": "https://index.docker.io/v1/access-token"}), []string{"registry:"}},
		{"fields and a config", credential(fields{"dockerconfigjson": `{"auths":{}}`}), []string{"dockerconfigjson:"}},
		{"pull secret over 1 MiB", credential(fields{"password": strings.Repeat(marker, 90_000)}), []string{"password:", "1048576"}},
		{"body over 1 MiB", credential(fields{"password": strings.Repeat("p", 600_000), "email": strings.Repeat("e", 600_000)}), []string{"the fields", "1048576"}},

		{"empty config", dockerConfig(""), []string{"dockerconfigjson:"}},
		{"neither JSON nor base64", dockerConfig("{" + marker), []string{"dockerconfigjson:"}},
		{"base64 of something else", dockerConfig(auth), []string{"dockerconfigjson:"}},
		{"config without auths", dockerConfig(`{"registry.example.com":{"auth":"` + auth + `"}}`), []string{"dockerconfigjson:"}},
		{"config of no registry", dockerConfig(`{"auths":{}}`), []string{"dockerconfigjson:"}},
		{"config that keeps its passwords elsewhere", dockerConfig(`{"auths":{"ghcr.io":{}},"credsStore":"desktop"}`), []string{`dockerconfigjson: auths["ghcr.io"]`}},
		{"config of credential helpers only", dockerConfig(`{"credHelpers":{"ghcr.io":"gh"},"auths":{}}`), []string{"dockerconfigjson:"}},
		{"identity token", dockerConfig(`{"auths":{"ghcr.io":{"identitytoken":"` + marker + `"}}}`), []string{`dockerconfigjson: auths["ghcr.io"]`}},
		{"registry token", dockerConfig(`{"auths":{"ghcr.io":{"auth":"` + auth + `","registrytoken":"` + marker + `"}}}`), []string{`dockerconfigjson: auths["ghcr.io"]`}},
		{"one registry twice", dockerConfig(`{"auths":{"Ghcr.io":{"auth":"` + auth + `"},"ghcr.io/":{"auth":"` + auth + `"}}}`), []string{"dockerconfigjson:", `"Ghcr.io"`, `"ghcr.io/"`}},
		{"Docker Hub twice", dockerConfig(`{"auths":{"docker.io":{"auth":"` + auth + `"},"https://index.docker.io/v1/":{"auth":"` + auth + `"}}}`), []string{"dockerconfigjson:", `"docker.io"`, `"https://index.docker.io/v1/"`}},
		{"auth that contradicts", dockerConfig(`{"auths":{"ghcr.io":{"username":"other","password":"` + marker + `","auth":"` + auth + `"}}}`), []string{`dockerconfigjson: auths["ghcr.io"].auth`}},
		{"auth that is not base64", dockerConfig(`{"auths":{"ghcr.io":{"auth":"robot:` + marker + `"}}}`), []string{`dockerconfigjson: auths["ghcr.io"].auth`}},
		{"password that is not text", dockerConfig(`{"auths":{"ghcr.io":{"username":"robot","password":{"x":"` + marker + `"}}}}`), []string{`dockerconfigjson: auths["ghcr.io"].password`}},
		{"key with user info", dockerConfig(`{"auths":{"https://robot:` + marker + `@ghcr.io":{"auth":"` + auth + `"}}}`), []string{"dockerconfigjson: registry 1 of auths"}},
		{"1,001 registries", dockerConfig(manyRegistries(t, 1001)), []string{"dockerconfigjson:"}},
	} {
		for role, effect := range map[string]func(*testing.T){
			"new": func(t *testing.T) {
				if secret, err := v.Client.Logical().Read("regcred/roles/new"); secret != nil || err != nil {
					t.Errorf("a refused write stored %+v, %v", secret, err)
				}
			},
			"existing": func(t *testing.T) {
				if diff := cmp.Diff(before, read(t, v.Client, "regcred/roles/existing")); diff != "" {
					t.Errorf("a refused write changed the role (-before +after):\n%s", diff)
				}
				if got := read(t, v.Client, "regcred/creds/existing")["password"]; got != marker {
					t.Errorf("a refused write changed the password")
				}
			},
		} {
			t.Run(test.name+"/"+role, func(t *testing.T) {
				_, err := v.Client.Logical().Write("regcred/roles/"+role, test.fields)
				message := refusal(t, err)
				for i, part := range test.want {
					if i == 0 {
						part = "* " + part // as Vault lists errors
					}
					if !strings.Contains(message, part) {
						t.Errorf("want %q in the message, got\n%s", part, message)
					}
				}
				if strings.Contains(message, marker) {
					t.Errorf("the message repeats a secret:\n%s", message)
				}
				effect(t)
			})
		}
	}

	if strings.Contains(v.Log(), marker) {
		t.Error("Vault's log at level trace holds a secret")
	}
}

func TestIncompleteNewRoleIsRefused(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	for missing, body := range map[string]fields{
		"missing registry:":                     credential(fields{"registry": nil}),
		"missing username:":                     credential(fields{"username": nil}),
		"missing password:":                     credential(fields{"password": nil}),
		"missing registry, username, password:": {"email": "ops@example.com"},
	} {
		_, err := v.Client.Logical().Write("regcred/roles/new", body)
		if got := refusal(t, err); !strings.Contains(got, missing) {
			t.Errorf("writing %v: want %q, got\n%s", body, missing, got)
		}
	}
	if _, err := v.Client.Logical().JSONMergePatch(t.Context(), "regcred/roles/new", credential(nil)); !isStatus(err, http.StatusNotFound) {
		t.Errorf("patching a role that does not exist: want status 404, got %v", err)
	}
}

func TestBadRoleNamesAreRefused(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	for _, name := range []string{"my app", "app-", ".app", "a..b", "a%b", "äpp", strings.Repeat("a", 201)} {
		for _, path := range []string{"regcred/roles/", "regcred/creds/"} {
			_, err := v.Client.Logical().Read(path + name)
			if got := refusal(t, err); !strings.Contains(got, "role:") {
				t.Errorf("reading %s%s: want a refusal of the role's name, got\n%s", path, name, got)
			}
		}
		_, err := v.Client.Logical().Write("regcred/roles/"+name, credential(nil))
		if got := refusal(t, err); !strings.Contains(got, "role:") {
			t.Errorf("writing %s: want a refusal of the role's name, got\n%s", name, got)
		}
	}
	for _, name := range []string{"a", "my.app-1", "MY_APP", strings.Repeat("a", 200)} {
		write(t, v.Client, "regcred/roles/"+name, credential(nil))
		read(t, v.Client, "regcred/creds/"+name)
	}
}

// TestAcceptedInput has the rows of docs/api.md that change a value or warn.
func TestAcceptedInput(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	const hub = "https://index.docker.io/v1/"
	hubWarning := []string{`registry: stored as "https://index.docker.io/v1/", under which kubelet, Docker, podman, skopeo and crane find Docker Hub`}
	stored := func(key string) []string { return []string{fmt.Sprintf("registry: stored as %q", key)} }

	for input, want := range map[string]struct {
		key, registry string
		warnings      []string // how each begins
	}{
		"registry.example.com":                 {"registry.example.com", "registry.example.com", nil},
		"https://Registry.Example.com/":        {"registry.example.com", "registry.example.com", stored("registry.example.com")},
		"http://registry.example.com":          {"registry.example.com", "registry.example.com", stored("registry.example.com")},
		"registry.example.com/":                {"registry.example.com", "registry.example.com", stored("registry.example.com")},
		"registry.example.com/v1/":             {"registry.example.com", "registry.example.com", stored("registry.example.com")},
		"https://registry.example.com/v2/":     {"registry.example.com", "registry.example.com", stored("registry.example.com")},
		"docker.io":                            {hub, "docker.io", hubWarning},
		"https://docker.io":                    {hub, "docker.io", hubWarning},
		"index.docker.io":                      {hub, "docker.io", hubWarning},
		"https://index.docker.io/v1/":          {hub, "docker.io", nil},
		"https://index.docker.io/v1":           {hub, "docker.io", hubWarning},
		"index.docker.io/v2/":                  {hub, "docker.io", hubWarning},
		"registry-1.docker.io":                 {hub, "docker.io", hubWarning},
		"https://registry-1.docker.io/v2/":     {hub, "docker.io", hubWarning},
		"registry.example.com:5000":            {"registry.example.com:5000", "registry.example.com:5000", nil},
		"registry.example.com\n":               {"registry.example.com", "registry.example.com", stored("registry.example.com")},
		"registry.hub.docker.com":              {hub, "docker.io", hubWarning},
		"https://hub.docker.com/r/acme/app":    {hub, "docker.io", hubWarning},
		"https://index.docker.io:443/v1/":      {hub, "docker.io", hubWarning},
		"registry.example.com:443":             {"registry.example.com:443", "registry.example.com:443", []string{`registry: "registry.example.com:443" has the port 443, and kubelet compares ports`}},
		"localhost:5000":                       {"localhost:5000", "localhost:5000", nil},
		"[::1]:5000":                           {"[::1]:5000", "[::1]:5000", nil},
		"registry.example.com/team":            {"registry.example.com/team", "registry.example.com/team", []string{`registry: "registry.example.com/team" is limited to a path`}},
		"*.example.com":                        {"*.example.com", "*.example.com", []string{`registry: "*.example.com" has a '*', which only kubelet matches`}},
		"registry":                             {"registry", "registry", []string{`registry: "registry" has neither a '.' nor a port`}},
		"https://registry.example.com/v2/Team": {"registry.example.com/team", "registry.example.com/team", []string{`registry: stored as "registry.example.com/team"`, `registry: "registry.example.com/team" is limited to a path`}},
	} {
		t.Run(input, func(t *testing.T) {
			warnings := write(t, v.Client, "regcred/roles/app", credential(fields{"registry": input}))
			begins := cmp.Comparer(func(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) })
			if diff := cmp.Diff(want.warnings, warnings, begins, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]any{want.key}, read(t, v.Client, "regcred/roles/app")["registries"]); diff != "" {
				t.Errorf("registries (-want +got):\n%s", diff)
			}
			if got := read(t, v.Client, "regcred/creds/app")["registry"]; got != want.registry {
				t.Errorf("registry: want %q, got %q", want.registry, got)
			}
		})
	}
}

func TestTrailingNewlineOfAPasswordIsRemovedWithAWarning(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	for input, want := range map[string]string{
		marker + "\n":        marker,
		marker + "\r\n":      marker,
		"{\n  \"a\": 1\n}\n": "{\n  \"a\": 1\n}",
	} {
		warnings := write(t, v.Client, "regcred/roles/app", credential(fields{"password": input}))
		if diff := cmp.Diff([]string{"password: its trailing newline was removed"}, warnings); diff != "" {
			t.Errorf("warnings for %q (-want +got):\n%s", input, diff)
		}
		if got := read(t, v.Client, "regcred/creds/app")["password"]; got != want {
			t.Errorf("password %q: want %q, got %q", input, want, got)
		}
	}
}

func TestAThousandRegistries(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	config := manyRegistries(t, 1000)
	for form, text := range map[string]string{"json": config, "base64": base64.StdEncoding.EncodeToString([]byte(config))} {
		if warnings := write(t, v.Client, "regcred/roles/all", dockerConfig(text)); warnings != nil {
			t.Errorf("%s: want no warning, got %v", form, warnings)
		}
		data := read(t, v.Client, "regcred/creds/all")
		if diff := cmp.Diff(config, data[".dockerconfigjson"]); diff != "" {
			t.Errorf("%s: the pull secret differs from what was written (-want +got):\n%s", form, diff)
		}
		if names := []string{"registry", "username", "password"}; data[names[0]] != nil || data[names[1]] != nil || data[names[2]] != nil {
			t.Errorf("%s: want none of %v for several registries", form, names)
		}
		if again := read(t, v.Client, "regcred/creds/all"); !cmp.Equal(data, again) {
			t.Errorf("%s: a second read gave other bytes", form)
		}
	}
	if got := len(read(t, v.Client, "regcred/roles/all")["registries"].([]any)); got != 1000 {
		t.Errorf("read-back: want 1000 registries, got %d", got)
	}
}

// manyRegistries returns a Docker config in the bytes that the engine writes.
func manyRegistries(t testing.TB, n int) string {
	t.Helper()
	type entry struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Auth     string `json:"auth"`
	}
	auths := map[string]entry{}
	for i := range n {
		user, password := fmt.Sprintf("user%d", i), fmt.Sprintf("%s-%d", marker, i)
		auths[fmt.Sprintf("registry-%04d.example.com", i)] = entry{user, password, base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
	}
	encoded, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}
