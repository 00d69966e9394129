// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// kubelet is the kubelet's own code, with the client as its credential provider.
type kubelet struct {
	*clientWorld
	in  io.Writer
	out *json.Decoder
	log *logFile
}

// logFile is the log of a process. It is a file, so that everything is in it that
// was written before the process went on.
type logFile struct {
	*os.File
	read int64
}

// take returns what was written since the last call.
func (f *logFile) take() string {
	content, _ := io.ReadAll(io.NewSectionReader(f, f.read, 1<<30))
	f.read += int64(len(content))
	return string(content)
}

// pod is what the kubelet knows when it pulls.
type pod struct {
	Image          string            `json:"image"`
	Namespace      string            `json:"namespace"`
	Pod            string            `json:"pod"`
	ServiceAccount string            `json:"service_account"`
	Annotations    map[string]string `json:"annotations"`
	Token          string            `json:"token"`
}

// tries is what the kubelet would try.
type tries struct {
	Credentials []clients.Login `json:"credentials"`
	Audience    string          `json:"audience"`
}

// startKubelet starts the kubelet's code with the example's configuration, and
// with further arguments for the provider.
func (w *clientWorld) startKubelet(args ...string) *kubelet {
	w.Helper()
	config := w.kubeletConfig()
	list, _ := json.Marshal(append([]string{"-config=" + config}, args...))
	images := "    matchImages:\n"
	for _, image := range w.images {
		images += "      - \"" + image + "\"\n"
	}
	provider := exampleOf(w, "kubelet-provider/credential-provider.yaml", "    matchImages:\n", "    args: "+string(list)+"\n"+images)
	path := filepath.Join(w.TempDir(), "credential-provider.yaml")
	if err := os.WriteFile(path, []byte(provider), 0o600); err != nil {
		w.Fatal(err)
	}
	cmd := exec.CommandContext(w.Context(), servers.Bin(w, "ask-provider"), path, servers.ClientAs(w, "regcred-credential-provider"))
	cmd.Env = []string{"HOME=" + w.TempDir(), "PATH=/none"}
	in, err := cmd.StdinPipe()
	if err != nil {
		w.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	file, err := os.Create(filepath.Join(w.TempDir(), "log"))
	if err != nil {
		w.Fatal(err)
	}
	k := &kubelet{clientWorld: w, in: in, out: json.NewDecoder(bufio.NewReader(out)), log: &logFile{File: file}}
	cmd.Stderr = file
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
		_ = file.Close()
	})
	return k
}

// kubeletConfig writes the example's kubelet.yaml, with the address of the
// gateway.
func (w *clientWorld) kubeletConfig() string {
	w.Helper()
	path := filepath.Join(w.TempDir(), "kubelet.yaml")
	config := exampleOf(w, "kubelet-provider/kubelet.yaml", "https://vault.example.com:8200", w.gateway.URL, "caFile: /etc/regcred/vault-ca.pem\n", "")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		w.Fatal(err)
	}
	return path
}

func (w *clientWorld) podOf(namespace, image string) pod {
	return pod{Image: image, Namespace: namespace, Pod: "p", ServiceAccount: "web", Token: w.token(namespace, "web")}
}

// pull returns what the kubelet would try for a pod, and what it has logged.
func (k *kubelet) pull(p pod) (tries, string) {
	k.Helper()
	encoded, err := json.Marshal(p)
	if err != nil {
		k.Fatal(err)
	}
	if _, err := k.in.Write(append(encoded, '\n')); err != nil {
		k.Fatalf("the kubelet's code has ended: %v\n%s", err, k.log.take())
	}
	var got tries
	if err := k.out.Decode(&got); err != nil {
		k.Fatalf("the kubelet's code has ended: %v\n%s", err, k.log.take())
	}
	log := k.log.take()
	k.quiet("the kubelet's log", log)
	return got, log
}

// gets checks which passwords the kubelet would try, and which requests that took.
func (k *kubelet) gets(p pod, username string, passwords, requests []string) {
	k.Helper()
	want := tries{Credentials: []clients.Login{}, Audience: "vault"}
	if p.ServiceAccount == "" {
		want.Audience = ""
	}
	for _, password := range passwords {
		want.Credentials = append(want.Credentials, clients.Login{Username: username, Password: password})
	}
	got, log := k.pull(p)
	if diff := cmp.Diff(want, got); diff != "" {
		k.Errorf("%s of %s/%s (-want +got):\n%s\n%s", p.Image, p.Namespace, p.ServiceAccount, diff, log)
	}
	if asked := k.gateway.asked(); !slices.Equal(asked, requests) {
		k.Errorf("%s of %s/%s: want the requests %q, got %q", p.Image, p.Namespace, p.ServiceAccount, requests, asked)
	}
}

func loginAnd(path string) []string { return []string{"auth/jwt/login", "regcred/creds/" + path} }

// TestKubeletGetsWhatThePodMayRead has pods of two namespaces pull from three
// registries, with no Secret anywhere.
func TestKubeletGetsWhatThePodMayRead(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t)
	a := w.role("team-a", "registry.gitlab.com", "ghcr.io", "docker.io")
	b := w.role("team-b", "ghcr.io/team-b")
	mine := w.role("team-a.web", "ghcr.io")
	k := w.startKubelet()

	k.gets(w.podOf("team-a", "registry.gitlab.com/group/app:1"), "team-a", a[:1], loginAnd("team-a"))
	// One run serves all three registries, each under the key that kubelet finds.
	k.gets(w.podOf("team-a", "ghcr.io/acme/app"), "team-a", a[1:2], nil)
	k.gets(w.podOf("team-a", "nginx"), "team-a", a[2:], nil)
	k.gets(w.podOf("team-b", "ghcr.io/team-b/app"), "team-b", b, loginAnd("team-b"))
	k.gets(w.podOf("team-b", "ghcr.io/other/app"), "team-b", nil, nil)
	// Images that matchImages does not name are none of the provider's business.
	got, _ := k.pull(w.podOf("team-a", "quay.io/acme/app"))
	if len(got.Credentials) > 0 || len(w.gateway.asked()) > 0 {
		t.Errorf("quay.io: got %v", got)
	}

	annotated := w.podOf("team-a", "ghcr.io/acme/app")
	annotated.Annotations = map[string]string{"regcred.example.com/role": "team-a.web"}
	k.gets(annotated, "team-a.web", mine, loginAnd("team-a.web"))
	// An annotation only chooses: Vault's policy decides.
	annotated.Annotations = map[string]string{"regcred.example.com/role": "team-b"}
	annotated.Image = "ghcr.io/team-b/app"
	got, log := k.pull(annotated)
	for _, said := range []string{"permission denied", "role team-b, chosen by annotation regcred.example.com/role", "its policies do not allow to read regcred/creds/team-b"} {
		if len(got.Credentials) > 0 || !strings.Contains(log, said) {
			t.Errorf("another team's role: want nothing, and a log with %q, got %v\n%s", said, got, log)
		}
	}
	// A token of another cluster, another audience, or none.
	for what, p := range map[string]pod{
		"another cluster":  {Token: w.foreignToken("team-c", "web")},
		"another audience": {Token: w.token("team-c", "web", func(c map[string]any) { c["aud"] = []string{"other"} })},
		"expired":          {Token: w.token("team-c", "web", func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() })},
	} {
		p.Image, p.Namespace, p.Pod, p.ServiceAccount = "ghcr.io/a", "team-c", what, "web"
		got, log := k.pull(p)
		if len(got.Credentials) > 0 || !strings.Contains(log, "check role regcred-kubelet of auth/jwt") {
			t.Errorf("%s: got %v\n%s", what, got, log)
		}
	}
	w.gateway.asked()
	static := pod{Image: "ghcr.io/acme/app", Namespace: "kube-system", Pod: "static"}
	k.gets(static, "", nil, nil)
	w.quiet("Vault's log", w.vault.Log())
}

// TestKubeletOutlastsFaultsOfVault has Vault fail in every way. Each time the pull
// goes on without a credential, the log says why in one line, and the next pull
// works.
func TestKubeletOutlastsFaultsOfVault(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t)
	password := w.role("team-a", "ghcr.io")
	k := w.startKubelet("-timeout=2s", "-max-cache-duration=0s")
	for what, fault := range gatewayFaults {
		w.gateway.fail(fault)
		got, log := k.pull(w.podOf("team-a", "ghcr.io/acme/app"))
		if len(got.Credentials) > 0 || !strings.Contains(log, "regcred: role team-a, chosen by template {namespace}: login at auth/jwt/login: ") {
			t.Errorf("%s: want nothing, and a log that says why, got %v\n%s", what, got, log)
		}
		w.gateway.fail(nil)
		w.gateway.asked()
		k.gets(w.podOf("team-a", "ghcr.io/acme/app"), "team-a", password, loginAnd("team-a"))
	}
}

// TestKubeletKeepsRotatedCredentialsForTheirGrace has the kubelet keep shared
// credentials across a rotation: for as long as the former one works, and no longer.
func TestKubeletKeepsRotatedCredentialsForTheirGrace(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t)
	lab := gitlabtest.New(t)
	connect(t, w.vault.Client, "regcred/connections/lab", "gitlab", lab.Connection(), fields{"allowed_roles": "team-*"})
	write(t, w.vault.Client, "regcred/roles/team-a", dynamic("lab", lab.Role(), fields{"rotation_period": "1h", "grace_period": "20m"}))
	write(t, w.vault.Client, "regcred/roles/team-b", dynamic("lab", lab.Role(), fields{"mode": "leased", "ttl": "15m"}))
	write(t, w.vault.Client, "regcred/roles/team-c", dynamic("lab", lab.Role(), fields{"rotation_period": "1h", "grace_period": "1s"}))
	host := lab.Host()
	w.images = []string{host}
	k := w.startKubelet()
	password := func(namespace string) string {
		got, log := k.pull(w.podOf(namespace, host+"/group/my_app"))
		if len(got.Credentials) != 1 {
			t.Fatalf("want a credential of %s, got %v\n%s", namespace, got, log)
		}
		return got.Credentials[0].Password
	}
	long, short := password("team-a"), password("team-c")
	ask := func(namespace string) ran {
		return w.run(w.request(namespace, host+"/group/app"), nil, filepath.Join(servers.ClientAs(t, "regcred-credential-provider"), "regcred-credential-provider"), "-config="+w.kubeletConfig())
	}
	first := w.answered(ask("team-a"))
	if first.CacheDuration != "5m0s" || first.Auth[host].Password != read(t, w.vault.Client, "regcred/creds/team-a")["password"] {
		t.Errorf("want the password of creds/team-a for 5m, got %s, %v", first.CacheDuration, first.Auth)
	}
	write(t, w.vault.Client, "regcred/rotate/team-a", nil)
	write(t, w.vault.Client, "regcred/rotate/team-c", nil)
	if password("team-a") != long {
		t.Error("within the grace period, want the former credential from the kubelet's cache")
	}
	servers.Eventually(t, func() error {
		if password("team-c") == short {
			return errors.New("after the grace period, want the new credential")
		}
		return nil
	})
	if second := w.answered(ask("team-a")); second.Auth[host] == first.Auth[host] {
		t.Error("after a rotation: want another password")
	}
	if !lab.Pulls(parsed(t, configFor(host, first.Auth[host].Username, first.Auth[host].Password)), gitlabtest.Project) {
		t.Error("the former credential must work for the grace period")
	}

	leased := ask("team-b")
	if !leased.failed || leased.stdout != "" || !strings.Contains(leased.stderr, "the role is leased, so each pull would mint a credential; use a role with mode=shared") || strings.Count(leased.stderr, "\n") != 1 {
		t.Errorf("leased role: want one line, got %+v", leased)
	}
}

// request is what a kubelet writes to the provider.
func (w *clientWorld) request(namespace, image string) string {
	encoded, err := json.Marshal(map[string]any{
		"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderRequest",
		"image": image, "serviceAccountToken": w.token(namespace, "web"),
	})
	if err != nil {
		w.Fatal(err)
	}
	return string(encoded)
}

type providerAnswer struct {
	Kind, APIVersion            string
	CacheKeyType, CacheDuration string
	Auth                        map[string]clients.Login
}

func (w *clientWorld) answered(r ran) providerAnswer {
	w.Helper()
	var a providerAnswer
	if err := json.Unmarshal([]byte(r.stdout), &a); err != nil || r.failed || r.stderr != "" {
		w.Fatalf("want an answer, got %+v, %v", r, err)
	}
	return a
}

func configFor(host, username, password string) string {
	return fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, host, username, password)
}

// TestHundredProvidersAtOnce starts as many providers as a node may that boots.
// None fails.
func TestHundredProvidersAtOnce(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t)
	w.role("team-a", "ghcr.io")
	program := filepath.Join(servers.ClientAs(t, "regcred-credential-provider"), "regcred-credential-provider")
	config, request := w.kubeletConfig(), w.request("team-a", "ghcr.io/acme/app")
	var group sync.WaitGroup
	for range 100 {
		group.Go(func() {
			cmd := exec.CommandContext(t.Context(), program, "-config="+config)
			cmd.Env, cmd.Stdin = []string{}, strings.NewReader(request)
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), `"ghcr.io":{"username":"team-a"`) {
				t.Errorf("want an answer, got %v", err)
				w.quiet("the output", string(out))
			}
		})
	}
	group.Wait()
}

// TestCheckOfTheKubeletSaysWhatIsWrong types the commands of the page against a
// real Vault.
func TestCheckOfTheKubeletSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t)
	w.role("team-a", "ghcr.io")
	program := filepath.Join(servers.ClientAs(t, "regcred"), "regcred")
	check := func(namespace string, more ...string) ran {
		r := w.run(w.token(namespace, "web"), nil, program, append([]string{"check", "kubelet", "-config=" + w.kubeletConfig(), "-image=ghcr.io/acme/app", "-token-file=-"}, more...)...)
		w.quiet("check", r.stdout+r.stderr)
		return r
	}
	if r := check("team-a", "-service-account=team-a/web"); r.failed || !strings.Contains(r.stdout, "ok    login          auth/jwt, for 5m0s, with the policies regcred-kubelet\n") ||
		!strings.Contains(r.stdout, "ok    answer         for the kubelet: 1 registries, kept for 5m0s by Global\n") || strings.Contains(r.stdout, "batch") {
		t.Errorf("got %+v", r)
	}
	if r := check("team-b"); !r.failed || !strings.Contains(r.stdout, `there is no role "team-b" at regcred/`) {
		t.Errorf("no role: got %+v", r)
	}
	if r := check("team-a", "-annotation=regcred.example.com/role=team-b"); !r.failed || !strings.Contains(r.stdout, "its policies do not allow to read regcred/creds/team-b") {
		t.Errorf("another team's role: got %+v", r)
	}
	w.vault.CLI(t, "", "operator", "seal")
	if r := check("team-a"); !r.failed || !strings.Contains(r.stdout, "is sealed") {
		t.Errorf("sealed: got %+v", r)
	}
}

// TestCheckKnowsWhatTheKubeletRefuses compares what check says of a file of the
// kubelet with what the kubelet's own code does with it: whether it starts, and
// whether it runs the program for an image.
func TestCheckKnowsWhatTheKubeletRefuses(t *testing.T) {
	t.Parallel()
	w := newClientWorld(t)
	w.role("team-a", "ghcr.io", "docker.io")
	programs := servers.ClientAs(t, "regcred-credential-provider")
	program := filepath.Join(servers.ClientAs(t, "regcred"), "regcred")
	config := w.kubeletConfig()
	whole := exampleOf(t, "kubelet-provider/credential-provider.yaml", "    matchImages:\n", "    args: [\"-config="+config+"\"]\n    matchImages:\n")
	token := w.token("team-a", "web")
	type outcome struct{ starts, runs bool }
	for name, c := range map[string]struct {
		old, new, image string
		want            outcome
	}{
		"as it is":               {want: outcome{true, true}},
		"Docker Hub":             {image: "acme/app", want: outcome{true, true}},
		"another registry":       {image: "quay.io/acme/app", want: outcome{true, false}},
		"with a port":            {image: "ghcr.io:443/acme/app", want: outcome{true, false}},
		"with a scheme":          {old: "- ghcr.io", new: "- https://ghcr.io", want: outcome{true, false}},
		"with a tag":             {old: "- ghcr.io", new: "- ghcr.io/acme/app:1", want: outcome{true, false}},
		"a path":                 {old: "- ghcr.io", new: "- ghcr.io/acme", want: outcome{true, true}},
		"another path":           {old: "- ghcr.io", new: "- ghcr.io/other", want: outcome{true, false}},
		"a glob":                 {old: "- ghcr.io", new: "- \"*.io\"", want: outcome{true, true}},
		"index.docker.io":        {old: "- docker.io", new: "- index.docker.io", image: "acme/app", want: outcome{true, false}},
		"invalid pattern":        {old: "- ghcr.io", new: "- \"ghcr.io:x\"", want: outcome{false, false}},
		"unknown field":          {old: "cacheType:", new: "cacheTyp:", want: outcome{false, false}},
		"field in another case":  {old: "defaultCacheDuration:", new: "DefaultCacheDuration:", want: outcome{false, false}},
		"a star for all":         {old: "- ghcr.io", new: "- \"*\"", want: outcome{true, false}},
		"cacheType":              {old: "cacheType: ServiceAccount", new: "cacheType: Pod", want: outcome{false, false}},
		"no cacheType":           {old: "      cacheType: ServiceAccount\n", want: outcome{false, false}},
		"no audience":            {old: "      serviceAccountTokenAudience: vault\n", want: outcome{false, false}},
		"no requirement":         {old: "      requireServiceAccount: true\n", want: outcome{false, false}},
		"no duration":            {old: "    defaultCacheDuration: 0s\n", want: outcome{false, false}},
		"apiVersion":             {old: "credentialprovider.kubelet.k8s.io/v1", new: "credentialprovider.kubelet.k8s.io/v1beta1", want: outcome{false, false}},
		"apiVersion of the file": {old: "kubelet.config.k8s.io/v1\n", new: "kubelet.config.k8s.io/v2\n", want: outcome{false, false}},
		"kind":                   {old: "kind: CredentialProviderConfig", new: "kind: KubeletConfiguration", want: outcome{false, false}},
		"no program":             {old: "name: regcred-credential-provider", new: "name: regcred-credential-provider-b", want: outcome{false, false}},
		"required annotation":    {old: "optionalServiceAccountAnnotationKeys", new: "requiredServiceAccountAnnotationKeys", want: outcome{true, false}},
		"both":                   {old: "      optional", new: "      requiredServiceAccountAnnotationKeys: [regcred.example.com/role]\n      optional", want: outcome{false, false}},
		"required and none":      {old: "true\n      optional", new: "false\n      required", want: outcome{false, false}},
	} {
		if c.image == "" {
			c.image = "ghcr.io/acme/app"
		}
		file := filepath.Join(t.TempDir(), "providers.yaml")
		if !strings.Contains(whole, c.old) {
			t.Fatalf("%s: the example has no %q", name, c.old)
		}
		if err := os.WriteFile(file, []byte(strings.Replace(whole, c.old, c.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		p := w.podOf("team-a", c.image)
		p.Token = token
		line, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		w.gateway.asked()
		r := w.run(string(line)+"\n", []string{"HOME=" + t.TempDir()}, servers.Bin(t, "ask-provider"), file, programs)
		if got := (outcome{!r.failed, len(w.gateway.asked()) > 0}); got != c.want {
			t.Errorf("%s: want the kubelet's code to do %+v, got %+v\n%s", name, c.want, got, r.stderr)
		}
		check := w.run(token, nil, program, "check", "kubelet", "-image-credential-provider-config="+file, "-image-credential-provider-bin-dir="+programs, "-image="+c.image, "-token-file=-")
		w.quiet("check", check.stdout+check.stderr)
		if check.failed == c.want.runs {
			t.Errorf("%s: want check to know %+v, got\n%s", name, c.want, check.stdout)
		}
		if !c.want.starts && !strings.Contains(check.stdout, "the kubelet does not start") && !strings.Contains(check.stdout, "in which the kubelet passes no tokens") && !strings.Contains(check.stdout, "has no provider called") {
			t.Errorf("%s: want check to say that the kubelet does not start, got\n%s", name, check.stdout)
		}
	}
}
