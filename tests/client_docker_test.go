// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestPullThroughTheDockerHelper has crane and skopeo pull through the helper from
// a real registry, with a token that has only the policy of the page.
func TestPullThroughTheDockerHelper(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t)
	clients.PullThroughHelper(t, w.vault, w.gateway.URL, clients.HelpedPullers)
}

// TestDockerHelperOutlastsFaultsOfVault has Vault fail in every way. The helper
// never says that there is no credential, and shows no secret.
func TestDockerHelperOutlastsFaultsOfVault(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t)
	w.role("my_app", "ghcr.io", "docker.io")
	token, err := w.vault.NewToken("root")
	if err != nil {
		t.Fatal(err)
	}
	w.secrets.Add("token of Vault", token)
	program := filepath.Join(servers.ClientAs(t, "docker-credential-regcred"), "docker-credential-regcred")
	env := []string{"HOME=" + t.TempDir(), "VAULT_ADDR=" + w.gateway.URL, "VAULT_TOKEN=" + token, "VAULT_MAX_RETRIES=0", "REGCRED_ROLE=my_app"}
	for what, fault := range gatewayFaults {
		if what == "hangs" {
			continue // the limit is 10 s; the provider's test has a shorter one
		}
		w.gateway.fail(fault)
		r := w.run("ghcr.io", env, program, "get")
		if !r.failed || !strings.HasPrefix(r.stdout, "regcred: reading regcred/creds/my_app: ") || strings.Count(r.stdout, "\n") != 1 {
			t.Errorf("%s: want one line that says why, got %+v", what, r)
		}
		w.quiet(what, r.stdout+r.stderr)
		if r := w.run("", env, program, "list"); r.failed || r.stdout != "{}\n" || !strings.Contains(r.stderr, "left out of the list") {
			t.Errorf("%s: want an empty list with a warning, got %+v", what, r)
		}
		w.gateway.fail(nil)
	}
	r := w.run("https://index.docker.io/v1/", env, program, "get")
	var got map[string]string
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil || r.failed || got["Username"] != "my_app" || got["ServerURL"] != "https://index.docker.io/v1/" {
		t.Errorf("want the credential of Docker Hub, got %v", err)
	}
	r = w.run("", env, filepath.Join(servers.ClientAs(t, "regcred"), "regcred"), "check", "docker", "ghcr.io")
	w.quiet("check", r.stdout+r.stderr)
	if r.failed || !strings.HasSuffix(r.stdout, "ok    credential     ghcr.io as my_app\n") {
		t.Errorf("check: got %+v", r)
	}
}
