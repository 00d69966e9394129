// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Broker is a running examples/http-broker, which mints users of a registry.
type Broker struct {
	*Process
	URL   string
	Token string
}

// StartBroker starts a broker for the htpasswd file of a registry.
func StartBroker(t testing.TB, r *Registry) *Broker {
	t.Helper()
	dir := t.TempDir()
	program, tokens := filepath.Join(dir, "http-broker"), filepath.Join(dir, "tokens")
	build := exec.Command("go", "build", "-o", program, "./examples/http-broker")
	build.Dir = Repo()
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the broker: %v\n%s", err, out)
	}
	b := &Broker{Token: rand.Text()}
	if err := os.WriteFile(tokens, fmt.Appendf(nil, "vault:%x\n", sha256.Sum256([]byte(b.Token))), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := FreeAddr(t)
	b.URL = "http://" + addr
	b.Process = start(t, "http-broker", exec.Command(program, "-listen="+addr, "-htpasswd="+r.htpasswd, "-tokens="+tokens, "-registry="+r.Addr), func() error { return dial(addr) })
	return b
}
