// SPDX-License-Identifier: MPL-2.0

package kubelet

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/cmd/regcred/client"
	"vault-plugin-secrets-regcred/cmd/regcred/internal/vaulttest"
)

const hub = "https://index.docker.io/v1/"

// tokenOf returns a token as the API server makes them. Nothing here checks its
// signature.
func tokenOf(namespace, name string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode(fmt.Appendf(nil, `{"sub":"system:serviceaccount:%s:%s","aud":["vault"]}`, namespace, name)) + "." + vaulttest.Marker
}

func request(image, token string, annotations map[string]string) string {
	encoded, _ := json.Marshal(map[string]any{
		"apiVersion": apiVersion, "kind": requestKind, "image": image, "ofANewerKubelet": true,
		"serviceAccountToken": token, "serviceAccountAnnotations": annotations,
	})
	return string(encoded)
}

func newVault(t *testing.T) *vaulttest.Server {
	t.Helper()
	s := vaulttest.New(t)
	t.Setenv("VAULT_ADDR", s.URL)
	t.Setenv("VAULT_MAX_RETRIES", "0")
	s.PullSecret("team-a", [][3]string{{"ghcr.io", "robot", vaulttest.Marker}, {hub, "hub", vaulttest.Marker + "2"}})
	return s
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubelet.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serve returns the answer, or the line of the error.
func serve(t *testing.T, in string, args ...string) (out, failure string) {
	t.Helper()
	var stdout bytes.Buffer
	err := Serve(t.Context(), Program, args, strings.NewReader(in), &stdout)
	if err == nil {
		return stdout.String(), ""
	}
	line := client.Line(err)
	if stdout.Len() > 0 || strings.Contains(line, "\n") || strings.Contains(line, vaulttest.Marker) {
		t.Errorf("want no answer, and one line without a secret, got %q, %q", stdout.String(), line)
	}
	return "", line
}

func TestAnswerHasEveryRegistryOfThePullSecret(t *testing.T) {
	s := newVault(t)
	s.PullSecret("rotated", [][3]string{{"ghcr.io", "robot", vaulttest.Marker}}, `"rotation_period":600`, `"grace_period":90`)
	s.PullSecret("overdue", [][3]string{{"ghcr.io", "robot", vaulttest.Marker}}, `"rotation_period":600`, `"grace_period":0`)
	const both = `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Global","cacheDuration":%q,"auth":{%s}}`
	ghcr := `"ghcr.io":{"username":"robot","password":"` + vaulttest.Marker + `"}`
	for name, want := range map[string]string{
		"team-a":  fmt.Sprintf(both, "5m0s", ghcr+`,"https://index.docker.io/v1/":{"username":"hub","password":"`+vaulttest.Marker+`2"}`),
		"rotated": fmt.Sprintf(both, "45s", ghcr),
		"overdue": fmt.Sprintf(both, "0s", ghcr),
	} {
		out, failure := serve(t, request("ghcr.io/acme/app", tokenOf(name, "web"), nil), "-auth-role=pull", "-role={namespace}")
		if out != want {
			t.Errorf("%s: want\n%s, got\n%s%s", name, want, out, failure)
		}
	}
	if want := fmt.Sprintf(`PUT auth/jwt/login {"jwt":%q,"role":"pull"}`, tokenOf("team-a", "web")); !slices.Contains(s.Requests(), want) {
		t.Errorf("want the request %s, got %q", want, s.Requests())
	}
	out, _ := serve(t, request("ghcr.io/acme/app", tokenOf("team-a", "web"), nil), "-auth-role=pull", "-role={namespace}", "-max-cache-duration=0s")
	if !strings.Contains(out, `"cacheDuration":"0s"`) {
		t.Errorf("want nothing kept, got %s", out)
	}
}

const everyWay = `
auth: {method: kubernetes, mount: cluster-a, role: pull}
role:
  annotation: regcred.example.com/role
  rules:
    - {namespace: team-*, images: ["quay.io/*"], role: quay}
    - {namespace: kube-system, serviceAccount: "*-agent", role: agents}
  template: "{namespace}.{serviceAccount}"
node: {auth: {method: cert, certFile: %s}, role: node}
`

func TestRoleIsChosenByAnnotationThenRulesThenTemplate(t *testing.T) {
	vaulttest.CleanEnv(t)
	c, err := parseFlags(Program, []string{"-config", writeConfig(t, fmt.Sprintf(everyWay, "/none.pem"))}, nil)
	if err != nil {
		t.Fatal(err)
	}
	annotated := map[string]string{"regcred.example.com/role": "mine", "other": "x"}
	for _, q := range []struct {
		namespace, name, image string
		annotations            map[string]string
		want                   string
	}{
		{"team-a", "web", "ghcr.io/a", nil, "team-a.web"},
		{"team-a", "web", "quay.io/a", nil, "quay"},
		{"team-a", "web", "quay.io/a", annotated, "mine"},
		{"kube-system", "node-agent", "quay.io/a", nil, "agents"},
		{"kube-system", "agent-x", "quay.io/a", map[string]string{"regcred.example.com/role": ""}, "kube-system.agent-x"},
	} {
		if got := c.choose(account{q.namespace, q.name}, q.annotations, q.image); got.role != q.want {
			t.Errorf("%+v: want %s, got %+v", q, q.want, got)
		}
	}
	if !c.dependsOnImage() {
		t.Error("rules with images make the answer depend on the image")
	}
}

// TestNodeLogsInWithItsCertificate has a Vault with TLS that asks for the client's
// certificate, as the kubelet's file has it: certificate and key in one.
func TestNodeLogsInWithItsCertificate(t *testing.T) {
	s := newVault(t)
	var presented []string
	tlsVault := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, c := range r.TLS.PeerCertificates {
			presented = append(presented, c.Subject.CommonName)
		}
		s.Config.Handler.ServeHTTP(w, r)
	}))
	tlsVault.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	tlsVault.StartTLS()
	defer tlsVault.Close()
	t.Setenv("VAULT_ADDR", "")
	dir := t.TempDir()
	for name, content := range map[string][]byte{
		"ca.pem":   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tlsVault.Certificate().Raw}),
		"node.pem": newCertificate(t, "system:node:one"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.PullSecret("nodes", [][3]string{{"ghcr.io", "node", vaulttest.Marker}})
	config := fmt.Sprintf("address: %s\ncaFile: %s/ca.pem\nauth: {role: pull}\nrole: {template: x}\nnode: {role: nodes, auth: {method: cert, role: nodes, certFile: %s/node.pem}}\n", tlsVault.URL, dir, dir)
	path := writeConfig(t, config)
	out, failure := serve(t, request("ghcr.io/a", "", nil), "-config", path)
	if !strings.Contains(out, `"ghcr.io":{"username":"node"`) || !slices.Equal(presented, []string{"system:node:one", "system:node:one"}) {
		t.Errorf("want the role of the node, with its certificate, got %s%s, %q", out, failure, presented)
	}
	if want := `PUT auth/cert/login {"name":"nodes"}`; s.Requests()[0] != want {
		t.Errorf("want %s, got %q", want, s.Requests())
	}
	if err := os.Chmod(filepath.Join(dir, "node.pem"), 0o606); err != nil {
		t.Fatal(err)
	}
	if _, failure := serve(t, request("ghcr.io/a", "", nil), "-config", path); !strings.Contains(failure, "can be written by others") {
		t.Errorf("a certificate that others can write: got %q", failure)
	}
	if err := os.Remove(filepath.Join(dir, "node.pem")); err != nil {
		t.Fatal(err)
	}
	if _, failure := serve(t, request("ghcr.io/a", "", nil), "-config", path); !strings.Contains(failure, "node.pem does not exist") {
		t.Errorf("no certificate: got %q", failure)
	}
	if _, failure := serve(t, request("ghcr.io/a", tokenOf("a", "b"), nil), "-config", writeConfig(t, strings.Replace(config, "caFile: "+dir+"/ca.pem\n", "", 1))); !strings.Contains(failure, "the TLS certificate is not trusted") {
		t.Errorf("another CA: got %q", failure)
	}
}

// newCertificate returns a certificate and its key, in PEM form.
func newCertificate(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
}

func TestRulesWithImagesAreCachedByImage(t *testing.T) {
	newVault(t)
	path := writeConfig(t, `{auth: {role: pull}, role: {rules: [{images: ["ghcr.io/*"], role: team-a}]}}`)
	for image, entries := range map[string]bool{"ghcr.io/acme/app": true, "quay.io/acme/app": false} {
		out, _ := serve(t, request(image, tokenOf("x", "y"), nil), "-config", path)
		if !strings.Contains(out, `"cacheKeyType":"Image"`) || strings.Contains(out, `"auth"`) != entries {
			t.Errorf("%s: got %s", image, out)
		}
	}
}

// A pod that needs nothing gets an answer without entries, which the kubelet must
// not keep, and Vault is not asked.
func TestNothingForAPodIsAnEmptyAnswer(t *testing.T) {
	s := newVault(t)
	rules := writeConfig(t, `{auth: {role: pull}, role: {annotation: a, rules: [{namespace: team-b, role: x}]}}`)
	const want = `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Global","cacheDuration":"0s"}`
	for what, in := range map[string]string{
		"no rule":                 request("ghcr.io/a", tokenOf("team-a", "web"), map[string]string{"b": "x"}),
		"static pod, no \"node\"": request("ghcr.io/a", "", nil),
	} {
		if out, failure := serve(t, in, "-config", rules); out != want {
			t.Errorf("%s: want %s, got %s%s", what, want, out, failure)
		}
	}
	if got := s.Requests(); len(got) > 0 {
		t.Errorf("want no requests, got %q", got)
	}
}

func TestFailuresAreSaid(t *testing.T) {
	s := newVault(t)
	good := request("ghcr.io/acme/app", tokenOf("team-a", "web"), nil)
	args := []string{"-auth-role=pull", "-role={namespace}"}
	for what, c := range map[string]struct{ in, want string }{
		"no request":      {"", "the standard input holds no CredentialProviderRequest"},
		"garbage":         {vaulttest.Marker, "the standard input holds no CredentialProviderRequest"},
		"old version":     {strings.Replace(good, "k8s.io/v1", "k8s.io/v1beta1", 1), "set apiVersion: credentialprovider.kubelet.k8s.io/v1"},
		"no token at all": {request("x", vaulttest.Marker, nil), "is not that of a service account"},
		"user's token":    {request("x", "a."+base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"jane"}`))+".c", nil), "is not that of a service account"},
		"no such role":    {request("x", tokenOf("team-z", "web"), nil), `role team-z, chosen by template {namespace}: reading regcred/creds/team-z: there is no role "team-z"`},
	} {
		if _, failure := serve(t, c.in, args...); !strings.Contains(failure, c.want) {
			t.Errorf("%s: want %q, got %q", what, c.want, failure)
		}
	}
	for _, annotation := range []string{"../../sys/raw/x", "a/b", "a?x=y", "\n", strings.Repeat("x", 300)} {
		in := request("x", tokenOf("team-a", "web"), map[string]string{"a": annotation})
		if _, failure := serve(t, in, append(args, "-role-annotation=a")...); !strings.Contains(failure, "service account team-a/web: annotation a: ") {
			t.Errorf("annotation %q: got %q", annotation, failure)
		}
	}
	s.Fail(vaulttest.Echo(403))
	if _, failure := serve(t, good, args...); !strings.Contains(failure, "login at auth/jwt/login") || !strings.Contains(failure, "check role pull of auth/jwt") {
		t.Errorf("got %q", failure)
	}
}

// TestCheckChoosesByTheImageAsTheKubeletNamesIt: the kubelet passes an image with its
// host, and without tag and digest.
func TestCheckChoosesByTheImageAsTheKubeletNamesIt(t *testing.T) {
	s := newVault(t)
	s.PullSecret("hub", [][3]string{{hub, "hub", vaulttest.Marker}})
	file := writeConfig(t, "auth: {role: pull}\nrole: {rules: [{images: [docker.io/library/nginx], role: hub}], template: '{namespace}'}\n")
	check := func(image string) string {
		var out bytes.Buffer
		Check(t.Context(), Program, []string{"-config=" + file, "-image=" + image, "-token-file=-"}, strings.NewReader(tokenOf("team-a", "web")), &client.Steps{Out: &out})
		return out.String()
	}
	digest := "@sha256:" + strings.Repeat("a", 64)
	for _, image := range []string{"nginx", "nginx:1.27", "docker.io/nginx", "library/nginx" + digest, "index.docker.io/library/nginx:1" + digest} {
		if out := check(image); !strings.Contains(out, "ok    role           hub, by rules\n") {
			t.Errorf("%s: got\n%s", image, out)
		}
	}
	for _, image := range []string{"https://ghcr.io/acme/app", "ghcr.io/Acme/app", "ghcr.io/acme/app:1:2"} {
		if out := check(image); !strings.HasPrefix(out, "FAIL  image          "+image+" is no image that a pod can have: ") {
			t.Errorf("%s: got\n%s", image, out)
		}
	}
}

// The kubelet would wait for a minute, and the pod with it.
func TestNothingMakesTheKubeletWait(t *testing.T) {
	s := newVault(t)
	args := []string{"-auth-role=pull", "-role={namespace}", "-timeout=100ms"}
	never, writer := io.Pipe()
	defer writer.Close()
	for what, c := range map[string]struct {
		in   io.Reader
		fail http.HandlerFunc
	}{
		"no request comes":  {never, nil},
		"login hangs":       {nil, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		"answer never ends": {nil, func(w http.ResponseWriter, r *http.Request) { drip(w, r) }},
	} {
		s.Fail(c.fail)
		in := c.in
		if in == nil {
			in = strings.NewReader(request("ghcr.io/a", tokenOf("team-a", "web"), nil))
		}
		ended := make(chan error, 1)
		go func() { ended <- Serve(t.Context(), Program, args, in, io.Discard) }()
		select {
		case err := <-ended:
			if err == nil || client.Line(err) == "an internal error" {
				t.Errorf("%s: want a failure that says why, got %v", what, err)
			}
		case <-time.After(30 * time.Second): // of a limit of 100 ms: only a hang takes as long
			t.Fatalf("%s: the provider hangs", what)
		}
	}
}

func drip(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		_, _ = w.Write([]byte(" "))
		w.(http.Flusher).Flush()
		time.Sleep(5 * time.Millisecond)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	vaulttest.CleanEnv(t)
	role := "role: {template: x}\n"
	for text, want := range map[string]string{
		"auth: {role: r}": "role: nothing says which role to read",
		role:              "auth.role: must name the role of auth/jwt",
		"auth: {role: r, method: token}\n" + role:                                     "auth.method: must be jwt, kubernetes or cert",
		"auth: {role: r, name: x}\n" + role:                                           `unknown field "auth.name"`,
		"auth: {role: r}\nrole: {rules: [{namespace: a}]}":                            "role.rules[0].role: must be the name of a role",
		"auth: {role: r}\nrole: {rules: [{images: ['https://ghcr.io/*'], role: a}]}":  `role.rules[0].images: "https://ghcr.io/*" matches no image`,
		"auth: {role: r}\nrole: {rules: [{images: ['ghcr.io/acme/app:*'], role: a}]}": `role.rules[0].images: "ghcr.io/acme/app:*" matches no image`,
		"auth: {role: r}\nrole: {rules: [{images: ['ghcr.io/acme/app@*'], role: a}]}": `role.rules[0].images: "ghcr.io/acme/app@*" matches no image`,
		"auth: {role: r}\nrole: {template: 'a/{namespace}'}":                          "role.template: must be the name of a role",
		"auth: {role: r}\nrole: {template: '{pod}'}":                                  "role.template: must be the name of a role",
		"auth: {role: r}\nrole: {template: '{namespace}.{namespace}'}":                "twice",
		"auth: {role: r}\nrole: {template: '{namespace}-{serviceAccount}'}":           "two service accounts can have the same role",
		"auth: {role: r}\nrole: {template: '{serviceAccount}x{namespace}'}":           "two service accounts can have the same role",
		"auth: {role: r}\nnode: {role: nodes, auth: {method: jwt, role: r}}":          "node.auth.method: must be cert",
		"auth: {role: r}\nnode: {role: nodes, auth: {method: cert}}":                  "node.auth.certFile",
		"auth: {role: r}\nnode: {role: n, auth: {method: cert, certFile: c}}":         "node.role must be text, not a bool: write it in quotes",
		"auth: {role: r}\nnode: {role: '', auth: {method: cert, certFile: c}}":        "node.role",
		"auth: {role: r}\nmaxCacheDuration: -1s\n" + role:                             "maxCacheDuration: must not be negative",
		"auth: {role: r}\ntimeout: 11s\n" + role:                                      "timeout: must be more than 0 and at most 10s",
	} {
		_, err := parseFlags(Program, []string{"-config", writeConfig(t, text)}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", text, want, err)
		}
	}
	for _, template := range []string{"pull", "{namespace}", "{serviceAccount}", "{namespace}-pull", "{namespace}.{serviceAccount}", "{serviceAccount}_in_{namespace}"} {
		if _, err := parseFlags(Program, []string{"-auth-role=r", "-role", template}, nil); err != nil {
			t.Errorf("%s: %v", template, err)
		}
	}
	for _, args := range [][]string{{"-none"}, {"-timeout=x"}, {"get"}, {"-config=/none.yaml"}} {
		if _, err := parseFlags(Program, args, nil); err == nil {
			t.Errorf("%q must be refused", args)
		}
	}
}

func TestFlagsGoBeforeTheFile(t *testing.T) {
	vaulttest.CleanEnv(t)
	path := writeConfig(t, `{address: "https://file:8200", mount: file, auth: {role: file}, role: {template: file}, maxCacheDuration: 1h}`)
	c, err := parseFlags(Program, []string{"-config", path, "-mount=flag", "-auth-role=flag", "-role=flag", "-max-cache-duration=1s", "-address=https://flag:8200"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Address, c.Mount, c.Auth.Role, c.Role.Template, c.MaxCacheDuration.Duration); got != "https://flag:8200flagflagflag1s" {
		t.Errorf("got %s", got)
	}
}

func TestCoversAsTheKubeletMatches(t *testing.T) {
	for _, c := range []struct {
		key, image string
		want       bool
	}{
		{hub, "nginx", true},
		{hub, "docker.io/acme/app:1", true},
		{hub, "ghcr.io/acme/app", false},
		{"ghcr.io", "ghcr.io/acme/app@sha256:" + strings.Repeat("a", 64), true},
		{"ghcr.io/acme", "ghcr.io/acme/app", true},
		{"ghcr.io/acme", "ghcr.io/other/app", false},
		{"*.example.com", "registry.example.com/a", true},
		{"*.example.com", "a.registry.example.com/a", false},
		{"registry.example.com", "registry.example.com:5000/a", false},
		{"registry.example.com:5000", "registry.example.com:5000/a", true},
	} {
		if got := covers(dockerconfig.Key(c.key), c.image); got != c.want {
			t.Errorf("%s for %s: want %v, got %v", c.key, c.image, c.want, got)
		}
	}
}

func TestCheckShowsEachStep(t *testing.T) {
	s := newVault(t)
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(tokenOf("team-a", "web")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	check := func(stdin string, args ...string) (string, bool) {
		var out bytes.Buffer
		steps := &client.Steps{Out: &out}
		Check(t.Context(), Program, append([]string{"-auth-role=pull", "-role={namespace}", "-role-annotation=a"}, args...), strings.NewReader(stdin), steps)
		if strings.Contains(out.String(), vaulttest.Marker) {
			t.Errorf("%q: a secret is shown: %s", args, out.String())
		}
		return out.String(), !steps.Failed()
	}
	want := `ok    configuration  from arguments and environment
ok    token          of service account team-a/web
ok    role           team-a, by template {namespace}
ok    Vault          ADDRESS answers, version 1.21.0
note                 the address is http: tokens and passwords travel in the clear, unless Vault is on this machine
ok    login          auth/jwt, for 5m0s, with the policies default, pull
ok    read           regcred/creds/team-a
note                 ghcr.io as robot
note                 https://index.docker.io/v1/ as hub
ok    image          nginx is pulled with the credential of https://index.docker.io/v1/
ok    answer         for the kubelet: 2 registries, kept for 5m0s by Global
`
	if out, ok := check("", "-image=nginx", "-token-file="+file, "-service-account=team-a/web"); !ok || out != strings.Replace(want, "ADDRESS", s.URL, 1) {
		t.Errorf("got\n%s", out)
	}
	if out, ok := check(tokenOf("team-a", "web"), "-image=nginx", "-token-file=-"); !ok {
		t.Errorf("got\n%s", out)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"FAIL  image          the pull secret has no registry for quay.io/a", []string{"-image=quay.io/a", "-token-file=" + file}},
		{"FAIL  token          it is a token of team-a/web, not of team-a/other", []string{"-token-file=" + file, "-service-account=team-a/other"}},
		{"FAIL  token          the token in /none cannot be read", []string{"-token-file=/none"}},
		{"FAIL  token          -token-file is the token itself", []string{"-token-file=" + tokenOf("team-a", "web")}},
		{"FAIL  login          not tried, because there is no token of the service account\n                     what to do: kubectl -n team-a create token web", []string{"-service-account=team-a/web"}},
		{"FAIL  role           no role is chosen for this pod", nil},
		{"ok    role           mine, by annotation a\n", []string{"-token-file=" + file, "-annotation=a=mine"}},
		{`FAIL  read           reading regcred/creds/mine: there is no role "mine"`, []string{"-token-file=" + file, "-annotation=a=mine"}},
		{"FAIL  configuration  arguments: ", []string{"-annotation=a"}},
	} {
		if out, ok := check("", c.args...); ok || !strings.Contains(out, c.want) {
			t.Errorf("%q: want %q, got\n%s", c.args, c.want, out)
		}
	}
	s.Answer("auth/jwt/login", `{"auth":{"client_token":"hvs.`+vaulttest.Marker+`","token_policies":["pull"],"lease_duration":300}}`)
	if out, _ := check("", "-token-file="+file); !strings.Contains(out, "it is no batch token") {
		t.Errorf("want a note about the service token, got\n%s", out)
	}
}

// panics is an input that reading makes panic, with what was being worked on.
type panics struct{}

func (panics) Read([]byte) (int, error) { panic(vaulttest.Marker) }

// TestPanicReachesTheCaller: Go would print it, with its value, and end the process.
func TestPanicReachesTheCaller(t *testing.T) {
	newVault(t)
	defer func() {
		if said := recover(); said == nil || strings.Contains(fmt.Sprint(said), vaulttest.Marker) {
			t.Errorf("want a panic without its value, got %v", said)
		}
	}()
	_ = Serve(t.Context(), Program, []string{"-auth-role=pull", "-role={namespace}"}, panics{}, io.Discard)
}
