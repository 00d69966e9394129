// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/leaktest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// clientWorld is a Vault that trusts a cluster, as docs/client/kubelet.md sets it
// up, behind a gateway that can fail.
type clientWorld struct {
	testing.TB
	vault   *servers.Vault
	gateway *gateway
	key     ed25519.PrivateKey // of the cluster
	images  []string           // that the kubelet asks the provider for, beside those of the example

	// secrets must be in no output, except in answers.
	secrets leaktest.Marks
}

// exampleOf returns a file of examples/, with replacements.
func exampleOf(t testing.TB, file string, oldnew ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", file))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(string(content), oldnew[i]) {
			t.Fatalf("examples/%s has no %q", file, oldnew[i])
		}
	}
	return strings.NewReplacer(oldnew...).Replace(string(content))
}

func newClientWorld(t testing.TB) *clientWorld {
	t.Helper()
	w := &clientWorld{TB: t, vault: servers.StartVault(t)}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.key = private
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	w.vault.CLI(t, "", "auth", "enable", "jwt")
	w.vault.CLI(t, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), "write", "auth/jwt/config", "bound_issuer="+clusterIssuer, "jwt_validation_pubkeys=-")
	accessor := strings.TrimSpace(w.vault.CLI(t, "", "read", "-field=accessor", "sys/auth/jwt"))
	w.vault.CLI(t, exampleOf(t, "kubelet-provider/policy.hcl", "ACCESSOR", accessor), "policy", "write", "regcred-kubelet", "-")
	w.vault.CLI(t, exampleOf(t, "kubelet-provider/jwt-role.json"), "write", "auth/jwt/role/regcred-kubelet", "-")
	w.gateway = newGateway(t, w.vault.Addr)
	return w
}

const clusterIssuer = "https://kubernetes.default.svc.cluster.local"

// token returns a token of a service account, as the cluster's API server signs
// them.
func (w *clientWorld) token(namespace, name string, change ...func(map[string]any)) string {
	w.Helper()
	claims := map[string]any{
		"iss": clusterIssuer, "sub": "system:serviceaccount:" + namespace + ":" + name, "aud": []string{"vault"},
		"iat": time.Now().Add(-time.Minute).Unix(), "nbf": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		"kubernetes.io": map[string]any{"namespace": namespace, "serviceaccount": map[string]string{"name": name, "uid": "1"}},
	}
	for _, c := range change {
		c(claims)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		w.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"EdDSA","typ":"JWT"}`)) + "." + encode(payload)
	signature := encode(ed25519.Sign(w.key, []byte(signed)))
	w.secrets.Add("signature of a token of "+namespace+"/"+name, signature)
	return signed + "." + signature
}

// foreignToken returns a token that another cluster has signed.
func (w *clientWorld) foreignToken(namespace, name string) string {
	w.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		w.Fatal(err)
	}
	own := w.key
	defer func() { w.key = own }()
	w.key = key
	return w.token(namespace, name)
}

// role writes a static role with a credential for each registry, and returns the
// passwords.
func (w *clientWorld) role(name string, registries ...string) []string {
	w.Helper()
	auths := map[string]map[string]string{}
	var passwords []string
	for _, registry := range registries {
		password := w.secrets.New("password of " + name + " for " + registry)
		passwords = append(passwords, password)
		auths[registry] = map[string]string{"username": name, "password": password}
	}
	config, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		w.Fatal(err)
	}
	write(w, w.vault.Client, "regcred/roles/"+name, fields{"dockerconfigjson": string(config)})
	return passwords
}

// quiet checks that a text shows no secret.
func (w *clientWorld) quiet(what, text string) {
	w.Helper()
	if found := w.secrets.In(text); len(found) > 0 {
		w.Errorf("%s shows secrets: %q in\n%s", what, found, text)
	}
}

// gateway is a proxy between the client and Vault.
type gateway struct {
	*httptest.Server
	pass  http.HandlerFunc // has Vault answer
	mu    sync.Mutex
	fault http.HandlerFunc
	delay func(*http.Request)
	seen  []string
}

func newGateway(t testing.TB, address string) *gateway {
	t.Helper()
	target, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	g := &gateway{pass: proxy.ServeHTTP}
	g.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.seen = append(g.seen, strings.TrimPrefix(r.URL.Path, "/v1/"))
		fault, delay := g.fault, g.delay
		g.mu.Unlock()
		if delay != nil {
			delay(r)
		}
		if fault != nil {
			fault(rw, r)
			return
		}
		proxy.ServeHTTP(rw, r)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) fail(fault http.HandlerFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault = fault
}

// before has a function see each request before it is passed on, and delay it.
func (g *gateway) before(delay func(*http.Request)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.delay = delay
}

// asked returns the paths that were asked for since the last call.
func (g *gateway) asked() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := g.seen
	g.seen = nil
	return seen
}

// gatewayFaults are answers that no healthy Vault gives. Those that can repeat what
// they were sent.
var gatewayFaults = map[string]http.HandlerFunc{
	"sealed": func(rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, `{"errors":["Vault is sealed"]}`, http.StatusServiceUnavailable)
	},
	"echoes": func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		said, _ := json.Marshal(fmt.Sprint(r.Header, string(body)))
		rw.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(rw, `{"errors":[%s]}`, said)
	},
	"echoes as html": func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "<html>%v\n%s", r.Header, body)
	},
	"closes": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	"empty":  func(http.ResponseWriter, *http.Request) {},
	"hangs": func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the server notices that the client is gone
		<-r.Context().Done()
	},
}

// ran is how a run of the client has ended.
type ran struct {
	stdout, stderr string
	failed         bool
}

// run runs a program with an environment of its own.
func (w *clientWorld) run(stdin string, env []string, program string, args ...string) ran {
	w.Helper()
	cmd := exec.CommandContext(w.Context(), program, args...)
	cmd.Stdin, cmd.Env = strings.NewReader(stdin), env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return ran{stdout.String(), stderr.String(), err != nil}
}

// TestExamplesOfTheClientStandOnItsPages compares the files with the pages.
func TestExamplesOfTheClientStandOnItsPages(t *testing.T) {
	t.Parallel()
	for folder, page := range map[string]string{"kubelet-provider": "kubelet.md", "docker-helper": "docker.md", "import": "import.md"} {
		files, err := os.ReadDir(filepath.Join(servers.Repo(), "examples", folder))
		if err != nil || len(files) < 3 {
			t.Fatalf("examples/%s: want 3 files, got %d, %v", folder, len(files), err)
		}
		for _, file := range files {
			content := exampleOf(t, filepath.Join(folder, file.Name()))
			if !slices.ContainsFunc(blocksOf(t, filepath.Join("docs", "client", page)), func(b block) bool { return b.text == content }) {
				t.Errorf("docs/client/%s does not show examples/%s/%s as it is", page, folder, file.Name())
			}
		}
	}
	values, err := filepath.Glob(filepath.Join(servers.Repo(), "deploy", "values", "*.yaml"))
	if err != nil || len(values) < 5 {
		t.Fatalf("deploy/values: %q, %v", values, err)
	}
	for _, file := range values {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		page := filepath.Join("docs", "client", strings.TrimSuffix(name, "-folder")+".md")
		if !slices.ContainsFunc(blocksOf(t, page), func(b block) bool { return b.text == string(content) }) {
			t.Errorf("%s does not show deploy/values/%s.yaml as it is", page, name)
		}
	}
}
