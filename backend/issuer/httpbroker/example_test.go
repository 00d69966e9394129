// SPDX-License-Identifier: MPL-2.0

package httpbroker_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// exampleBroker is the program in examples/http-broker, behind a server that can be made
// to fail.
type exampleBroker struct {
	*issuertest.Server
	htpasswd string
	token    string
}

// buildExample builds the program, and returns its file.
func buildExample(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "http-broker")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if out, err := exec.Command("go", "build", "-o", program, "../../../examples/http-broker").CombinedOutput(); err != nil {
		t.Fatalf("building the broker: %v\n%s", err, out)
	}
	return program
}

const (
	other = "someone:$2a$04$abcdefghijklmnopqrstuuWmQpC5AT0fQ3Yk5O1o0P7uGPGzF9HVK"

	exampleRegistry = "registry.example.com"
)

// startExample starts a broker with an htpasswd file that has other lines, too.
func startExample(t *testing.T, program string) *exampleBroker {
	t.Helper()
	dir := t.TempDir()
	b := &exampleBroker{htpasswd: filepath.Join(dir, "htpasswd"), token: rand.Text()}
	tokens := filepath.Join(dir, "tokens")
	for path, text := range map[string]string{b.htpasswd: "# people\n\n" + other + "\n", tokens: fmt.Sprintf("vault:%x\n", sha256.Sum256([]byte(b.token)))} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	var log bytes.Buffer
	cmd := exec.Command(program, "-listen="+address, "-htpasswd="+b.htpasswd, "-tokens="+tokens, "-registry="+exampleRegistry)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text := log.String(); text != "" {
			t.Logf("the broker says: %s", text)
		}
	})
	for try := 0; ; try++ {
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			break
		} else if try == 3000 {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Server = issuertest.NewServer(t, httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address}))
	return b
}

// users returns the hashes in the htpasswd file by user.
func (b *exampleBroker) users(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(b.htpasswd)
	if err != nil {
		t.Fatal(err)
	}
	users := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, hash, found := strings.Cut(strings.TrimSpace(line), ":"); found && !strings.HasPrefix(line, "#") {
			users[name] = hash
		}
	}
	return users
}

func (b *exampleBroker) subject(t *testing.T) issuertest.Subject {
	return issuertest.Subject{
		Type: httpbroker.Type(),
		Connection: issuer.Connection{
			URL: b.URL, Registries: []dockerconfig.Key{exampleRegistry},
			Secrets:  issuer.Secrets{"token": dockerconfig.NewSecret(b.token)},
			Declared: issuer.Settings{"operations": "mint,find,revoke,check"},
		},
		Server: b.Server,
		Pulls: func(c issuer.Credential) bool {
			return bcrypt.CompareHashAndPassword([]byte(b.users(t)[c.Username]), []byte(c.Password.Reveal())) == nil
		},
		Mints: func(r *http.Request) bool { return r.Method == http.MethodPost },
		Living: func() []string {
			var names []string
			for name := range b.users(t) {
				if name != "someone" {
					names = append(names, name)
				}
			}
			slices.Sort(names)
			return names
		},
		BadSecrets: badSecrets,
	}
}

func TestExampleConforms(t *testing.T) {
	program := buildExample(t)
	issuertest.Conform(t, func(t *testing.T) issuertest.Subject { return startExample(t, program).subject(t) })
}

// Other lines of the file stay, what has expired goes, and what the example cannot limit
// it refuses.
func TestExampleKeepsItsFile(t *testing.T) {
	b := startExample(t, buildExample(t))
	before, err := os.ReadFile(b.htpasswd)
	if err != nil {
		t.Fatal(err)
	}
	s := b.subject(t)
	o := open(t, s)
	if _, err := o.Mint(t.Context(), issuer.Request{Name: "regcred-brief", ExpiresAt: time.Now().Add(2 * time.Second)}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Mint(t.Context(), issuer.Request{Name: "regcred-app", For: issuer.Settings{"scopes": "team"}, ExpiresAt: time.Now().Add(time.Hour)}); err == nil || !strings.Contains(err.Error(), "scopes must be empty") {
		t.Errorf("want scopes refused, got %v", err)
	}
	_, err = o.Mint(t.Context(), issuer.Request{Name: "regcred-brief", ExpiresAt: time.Now().Add(time.Hour)})
	if err == nil || issuer.Definite(err) {
		t.Errorf("want an error that is not definite for a name that is taken, got %v", err)
	}
	for try := 0; len(s.Living()) > 0; try++ { // the program looks every five seconds
		if try == 6000 {
			t.Fatalf("want what has expired to go, got %q", s.Living())
		}
		time.Sleep(10 * time.Millisecond)
	}
	after, err := os.ReadFile(b.htpasswd)
	if err != nil || string(after) != string(before) {
		t.Errorf("want the file as before, %q, got %q, %v", before, after, err)
	}
	if err := os.Remove(b.htpasswd); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Check(t.Context()); err == nil || issuer.IsRefused(err) || issuer.StatusOf(err) != http.StatusServiceUnavailable {
		t.Errorf("without the file: want status 503, got %v", err)
	}
}

// The example is to be read.
func TestExampleIsShort(t *testing.T) {
	text, err := os.ReadFile("../../../examples/http-broker/main.go")
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(text, []byte("\n")); lines >= 200 {
		t.Errorf("want fewer than 200 lines, got %d", lines)
	}
}
