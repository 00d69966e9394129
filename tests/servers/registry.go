// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// Registry is a running OCI registry that asks for a user name and password.
type Registry struct {
	*Process
	Addr string // host:port, as in image names

	htpasswd string
}

// StartRegistry starts a registry with plain http and htpasswd authentication.
func StartRegistry(t testing.TB, username, password string) *Registry {
	t.Helper()
	dir := t.TempDir()
	r := &Registry{Addr: freeAddr(t), htpasswd: filepath.Join(dir, "htpasswd")}
	r.SetPassword(t, username, password)
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf(`
version: 0.1
storage:
  filesystem:
    rootdirectory: %q
http:
  addr: %q
auth:
  htpasswd:
    realm: tests
    path: %q
`, filepath.Join(dir, "data"), r.Addr, r.htpasswd)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(Bin(t, "registry"), "serve", config)
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none", "HOME=" + dir}
	r.Process = start(t, "registry", cmd, r.answers)
	return r
}

// SetPassword replaces the user of the registry. It holds from the next request
// on, because the registry reads the file again when it has changed.
func (r *Registry) SetPassword(t testing.TB, username, password string) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	// A rename, so that the registry never reads half a file.
	if err := os.WriteFile(r.htpasswd+".new", fmt.Appendf(nil, "%s:%s\n", username, hash), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(r.htpasswd+".new", r.htpasswd); err != nil {
		t.Fatal(err)
	}
}

func (r *Registry) answers() error {
	if err := dial(r.Addr); err != nil {
		return err
	}
	resp, err := http.Get("http://" + r.Addr + "/v2/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("GET /v2/ without a password: want status 401, got %s", resp.Status)
	}
	return nil
}
