// SPDX-License-Identifier: MPL-2.0

package clients

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

// ignoringCredsStore are the clients that ask the helpers in credHelpers only, as
// docs/client/docker.md says.
var ignoringCredsStore = []string{"skopeo", "podman", "buildah"}

// PullThroughHelper has clients pull from a registry with passwords through the
// credential helper, which asks the Vault at an address. It tries what goes wrong
// as well: then each client must say why, and must not pull without a credential.
func PullThroughHelper(t *testing.T, v *servers.Vault, address string, pullers map[string]func(testing.TB, Helped, string) (string, error)) {
	t.Helper()
	const username, password = "robot$team+puller", `p"4\ss:<&>$`
	registry := servers.StartRegistry(t, username, password)
	image := registry.Addr + "/team/app:1"
	Push(t, image, username, password)
	policy, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", "docker-helper", "policy.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Client.Sys().PutPolicy("docker-helper", string(policy)); err != nil {
		t.Fatal(err)
	}
	for role, secret := range map[string]string{"other_app": password, "my_app": "of another registry"} {
		host := registry.Addr
		if role == "my_app" {
			host = "ghcr.io"
		}
		if _, err := v.Client.Logical().Write("regcred/roles/"+role, map[string]any{"registry": host, "username": username, "password": secret}); err != nil {
			t.Fatal(err)
		}
	}
	token, err := v.NewToken("docker-helper")
	if err != nil {
		t.Fatal(err)
	}
	other, err := v.NewToken("default")
	if err != nil {
		t.Fatal(err)
	}
	config := "role: my_app\nroles: {\"" + registry.Addr + "\": other_app}\n"
	env := []string{"VAULT_ADDR=" + address, "VAULT_MAX_RETRIES=0"}

	for client, pull := range pullers {
		t.Run(client, func(t *testing.T) {
			for _, host := range []string{registry.Addr, ""} { // credHelpers, credsStore
				h := NewHelped(t, host, append(env, "VAULT_TOKEN="+token)...)
				h.Write(t, ".config/regcred/docker.yaml", config)
				out, err := pull(t, h, image)
				if ignored := host == "" && slices.Contains(ignoringCredsStore, client); ignored != (err != nil) {
					t.Errorf("pulling with the helper for %q: %v\n%s", host, err, out)
				}
			}
			for what, c := range map[string]struct {
				config, want string
				env          []string
			}{
				"no policy":       {config, "its policies do not allow to read regcred/creds/other_app", []string{"VAULT_TOKEN=" + other}},
				"expired token":   {config, "the token has expired", []string{"VAULT_TOKEN=hvs.expired"}},
				"no token":        {config, "vault login", nil},
				"Vault is down":   {config, "connection refused", []string{"VAULT_TOKEN=" + token, "VAULT_ADDR=http://127.0.0.1:1"}},
				"no such role":    {strings.Replace(config, "other_app", "other_ap", 1), "regcred/creds/other_ap", []string{"VAULT_TOKEN=" + token}},
				"no config":       {"", "no role is configured", []string{"VAULT_TOKEN=" + token}},
				"no role for it":  {"role: my_app\n", "", []string{"VAULT_TOKEN=" + token}}, // the registry refuses
				"misspelt config": {"rolle: my_app\n", "unknown field", []string{"VAULT_TOKEN=" + token}},
			} {
				h := NewHelped(t, registry.Addr, append(append([]string{}, env...), c.env...)...)
				if c.config != "" {
					h.Write(t, ".config/regcred/docker.yaml", c.config)
				}
				out, err := pull(t, h, image)
				switch {
				case err == nil:
					t.Errorf("%s: the pull must fail\n%s", what, out)
				case c.want != "" && !strings.Contains(out, c.want):
					t.Errorf("%s: want the reason, with %q, got\n%s", what, c.want, out)
				case c.want == "" && !isRefusal(out):
					t.Errorf("%s: want a refusal by the registry, got\n%s", what, out)
				case strings.Contains(out, token), strings.Contains(out, other), strings.Contains(out, password):
					t.Errorf("%s: a secret is shown:\n%s", what, out)
				}
			}
		})
	}
}

func isRefusal(out string) bool {
	out = strings.ToLower(out)
	return strings.Contains(out, "unauthorized") || strings.Contains(out, "authentication required") || strings.Contains(out, "no basic auth credentials")
}
