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
	CA   string // PEM; empty with plain http

	htpasswd string
}

// StartRegistry starts a registry with plain http and htpasswd authentication.
func StartRegistry(t testing.TB, username, password string) *Registry {
	t.Helper()
	return startHtpasswdRegistry(t, username, password, nil)
}

// StartTLSRegistry starts a registry with htpasswd authentication and a
// certificate of a private CA, for 127.0.0.1 and localhost.
func StartTLSRegistry(t testing.TB, username, password string) *Registry {
	t.Helper()
	return startHtpasswdRegistry(t, username, password, newCertificate(t))
}

func startHtpasswdRegistry(t testing.TB, username, password string, cert *certificate) *Registry {
	t.Helper()
	r := &Registry{Addr: FreeAddr(t), htpasswd: filepath.Join(t.TempDir(), "htpasswd")}
	r.SetPassword(t, username, password)
	r.Process = startDistribution(t, r.Addr, cert, fmt.Sprintf(`
  htpasswd:
    realm: tests
    path: %q
`, r.htpasswd))
	if cert != nil {
		r.CA = cert.ca
	}
	return r
}

// startDistribution starts a registry whose configuration has the given member
// "auth", and waits until it asks for a credential.
func startDistribution(t testing.TB, addr string, cert *certificate, auth string) *Process {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf(`
version: 0.1
storage:
  filesystem:
    rootdirectory: %q
auth:%shttp:
  addr: %q
%s`, filepath.Join(dir, "data"), auth, addr, cert.config())
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(Bin(t, "registry"), "serve", config)
	cmd.Env = []string{"OTEL_TRACES_EXPORTER=none", "HOME=" + dir}
	client, scheme := cert.client()
	return start(t, "registry", cmd, func() error { return asksForCredential(client, scheme, addr) })
}

// SetPassword replaces the user of the registry. The next request sees it,
// because the registry reads the file again when it has changed.
func (r *Registry) SetPassword(t testing.TB, username, password string) {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	// Rename, so that the registry never reads half a file.
	if err := os.WriteFile(r.htpasswd+".new", fmt.Appendf(nil, "%s:%s\n", username, hash), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(r.htpasswd+".new", r.htpasswd); err != nil {
		t.Fatal(err)
	}
}

func asksForCredential(client *http.Client, scheme, addr string) error {
	if err := dial(addr); err != nil {
		return err
	}
	resp, err := client.Get(scheme + "://" + addr + "/v2/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("GET /v2/ without a password: want status 401, got %s", resp.Status)
	}
	return nil
}
