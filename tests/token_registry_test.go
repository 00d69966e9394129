// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

// craneWith runs crane with one credential, and makes it trust a CA unless that
// is empty.
func craneWith(t *testing.T, registry, username, password, ca string, args ...string) (string, error) {
	t.Helper()
	home := t.TempDir()
	config, err := json.Marshal(map[string]any{"auths": map[string]any{registry: map[string]string{"username": username, "password": password}}})
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{"config.json": string(config), "ca.pem": ca} {
		if err := os.WriteFile(filepath.Join(home, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), servers.Bin(t, "crane"), args...)
	cmd.Env = []string{"HOME=" + home, "DOCKER_CONFIG=" + home}
	if ca != "" {
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+filepath.Join(home, "ca.pem"))
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// pushEmpty pushes an image with an empty layer.
func pushEmpty(t *testing.T, image, username, password, ca string) {
	t.Helper()
	registry, _, _ := strings.Cut(image, "/")
	layer := filepath.Join(t.TempDir(), "empty.tar")
	if err := os.WriteFile(layer, make([]byte, 1024), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := craneWith(t, registry, username, password, ca, "append", "-f", layer, "-t", image); err != nil {
		t.Fatalf("pushing %s: %v\n%s", image, err, out)
	}
}

// TestTokenRegistry shows that a real registry and a real client work with the
// test's own token server.
func TestTokenRegistry(t *testing.T) {
	t.Parallel()
	users := map[string]servers.TokenUser{
		"pusher":  {Password: "push-password", Push: []string{"team/app"}},
		"puller":  {Password: "pull-password", Pull: []string{"team/app", "team/none"}},
		"visitor": {Password: "visit-password"},
	}
	for name, startRegistry := range map[string]func(testing.TB, map[string]servers.TokenUser) *servers.TokenRegistry{
		"plain http": servers.StartTokenRegistry,
		"TLS":        servers.StartTLSTokenRegistry,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := startRegistry(t, users)
			image := registry.Addr + "/team/app:1"
			pushEmpty(t, image, "pusher", "push-password", registry.CA)
			pull := func(image, username, password string) string {
				out, err := craneWith(t, registry.Addr, username, password, registry.CA, "pull", image, filepath.Join(t.TempDir(), "image.tar"))
				if err == nil {
					return ""
				}
				return out
			}
			for _, row := range []struct{ user, password, image, refusal string }{
				{"puller", "pull-password", image, ""},
				{"puller", "wrong", image, "incorrect username or password"},
				{"puller", "pull-password", registry.Addr + "/team/none:1", "MANIFEST_UNKNOWN"},
				{"visitor", "visit-password", image, "UNAUTHORIZED"},
			} {
				got := pull(row.image, row.user, row.password)
				if (got == "") != (row.refusal == "") || !strings.Contains(got, row.refusal) {
					t.Errorf("%s with %s pulls %s: got %q; want %q", row.user, row.password, row.image, got, row.refusal)
				}
			}
			registry.SetTokenLifetime(-5 * time.Minute)
			if got := pull(image, "puller", "pull-password"); !strings.Contains(got, "UNAUTHORIZED") {
				t.Errorf("with an expired token: got %q; want UNAUTHORIZED", got)
			}
			registry.SetUsers(map[string]servers.TokenUser{})
			if got := pull(image, "puller", "pull-password"); !strings.Contains(got, "incorrect username or password") {
				t.Errorf("after the user was removed: got %q; want a refusal", got)
			}
			requests := registry.TokenRequests()
			if first := requests[0]; first.Username != "pusher" || first.Password != "push-password" || len(first.Scopes) == 0 {
				t.Errorf("first request to the token server: %+v; want the push", first)
			}
		})
	}
}

func TestTLSRegistry(t *testing.T) {
	t.Parallel()
	registry := servers.StartTLSRegistry(t, "user", "pass-word")
	pushEmpty(t, registry.Addr+"/team/app:1", "user", "pass-word", registry.CA)
	for _, row := range []struct{ password, ca, refusal string }{
		{"pass-word", registry.CA, ""},
		{"wrong", registry.CA, "UNAUTHORIZED"},
	} {
		out, err := craneWith(t, registry.Addr, "user", row.password, row.ca, "manifest", registry.Addr+"/team/app:1")
		if (err == nil) != (row.refusal == "") || !strings.Contains(out, row.refusal) {
			t.Errorf("with %s: %v\n%s\nwant %q", row.password, err, out, row.refusal)
		}
	}
}
