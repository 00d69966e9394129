// SPDX-License-Identifier: MPL-2.0

//go:build linux && e2e && e2e_kubelet

package e2e

import (
	"fmt"
	"iter"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"vault-plugin-secrets-regcred/backend/leaktest"
	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestCredentialProvider has a real kubelet pull with the client as its credential
// provider, set up with the files of examples/kubelet-provider. There is no Secret
// in the cluster.
func TestCredentialProvider(t *testing.T) {
	t.Parallel()
	w := newProviderWorld(t)
	t.Run("nodes need the right to the audience", w.run(testProviderNeedsAudience))
	t.Run("pods", func(t *testing.T) {
		parallel := func(name string, test func(*testing.T, *providerWorld)) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, w)
			})
		}
		parallel("run images of three registries", testProviderServesThreeRegistries)
		parallel("have what check says", testProviderCheck)
		parallel("get no role that the policy does not reach", testProviderIsHeldToThePolicy)
		parallel("choose with an annotation among their own roles only", testProviderAnnotation)
	})
	w.configure(t, "maxCacheDuration: "+keptFor.String())
	t.Run("credentials", func(t *testing.T) {
		t.Run("rotate while pods start", func(t *testing.T) {
			t.Parallel()
			testProviderRotation(t, w)
		})
		t.Run("that are revoked too early", func(t *testing.T) {
			t.Parallel()
			testProviderRevokedEarly(t, w)
		})
	})
	t.Run("Vault is down", w.run(testProviderWithoutVault))

	if secrets := w.k.Kubectl(t, "", "get", "secrets", "--all-namespaces", "--output=name"); secrets != "" {
		t.Errorf("want no Secret in the cluster, got\n%s", secrets)
	}
	for _, p := range []*servers.Process{w.node.Process, w.node.Containerd, w.vault.Process} {
		if found := w.secrets.In(p.Log()); len(found) > 0 {
			t.Errorf("a log shows secrets: %q", found)
		}
	}
}

// providerWorld is a cluster with one node, whose kubelet has the client as its
// credential provider, and a Vault that trusts the cluster.
type providerWorld struct {
	k     *servers.Kubernetes
	node  *servers.Node
	vault *servers.Vault

	programs string // folder of the kubelet's credential providers
	config   string // kubelet.yaml, as in the example
	secrets  leaktest.Marks

	// The registries have the names of the example. containerd finds them on
	// loopback.
	gitlab, hub *servers.Registry
	ghcr        *servers.TokenRegistry
	ghcrUsers   map[string]servers.TokenUser
	gitea       *servers.Gitea
}

// The images of the registries that ask for a user name and password, at
// registry.gitlab.com and docker.io, and of the one with tokens.
const (
	gitlabImage = "registry.gitlab.com/group/app:1"
	hubImage    = "acme/app:1"
	ghcrImage   = "ghcr.io/acme/app:1"
	teamBImage  = "ghcr.io/team-b/app:1"
)

// kubeletSettings let a test start many pods at once.
var kubeletSettings = []string{"serializeImagePulls: false", "maxParallelImagePulls: 4", "registryPullQPS: 0"}

func newProviderWorld(t *testing.T) *providerWorld {
	t.Helper()
	listener, address, ca := servers.TLSListener(t)
	w := &providerWorld{
		k:        servers.StartKubernetes(t),
		vault:    servers.StartRaftVaultWith(t, servers.RaftOptions{LogLevel: "debug", Settings: []string{listener}}),
		gitea:    servers.StartGitea(t),
		programs: servers.ClientAs(t, "regcred-credential-provider"),
		// Beside what the example has, a rule that leads to a role that the policy does not allow.
		config: example(t, "kubelet-provider/kubelet.yaml", "https://vault.example.com:8200", address,
			"  template:", "  rules: [{namespace: team-d, role: everyone}]\n  template:"),
	}
	w.trustCluster(t)
	w.startRegistries(t)
	w.node = servers.StartNodeWith(t, w.k, servers.NodeOptions{
		Flags: []string{
			"--image-credential-provider-config=" + servers.ClientFolder + "/credential-provider.yaml",
			"--image-credential-provider-bin-dir=" + w.programs,
			"--vmodule=plugin=5", // say when a provider is run
		},
		Settings: kubeletSettings,
		Client: map[string]string{
			"credential-provider.yaml": example(t, "kubelet-provider/credential-provider.yaml", "      - docker.io\n", "      - docker.io\n      - "+w.gitea.Host+"\n"),
			"kubelet.yaml":             w.config,
			"vault-ca.pem":             ca,
		},
	})
	for registry, addr := range map[string]string{
		"registry.gitlab.com": w.gitlab.Addr, "docker.io": w.hub.Addr, "ghcr.io": w.ghcr.Addr, w.gitea.Host: w.gitea.Host,
	} {
		w.node.PullFrom(t, registry, addr)
	}
	return w
}

// trustCluster does in Vault what docs/client/kubelet.md says, with the key with
// which the API server signs tokens.
func (w *providerWorld) trustCluster(t *testing.T) {
	t.Helper()
	w.vault.CLI(t, "", "auth", "enable", "jwt")
	w.vault.CLI(t, w.k.PublicKey, "write", "auth/jwt/config", "bound_issuer="+w.k.Issuer, "jwt_validation_pubkeys=-")
	accessor := strings.TrimSpace(w.vault.CLI(t, "", "read", "-field=accessor", "sys/auth/jwt"))
	w.vault.CLI(t, example(t, "kubelet-provider/policy.hcl", "ACCESSOR", accessor), "policy", "write", "regcred-kubelet", "-")
	w.vault.CLI(t, example(t, "kubelet-provider/jwt-role.json"), "write", "auth/jwt/role/regcred-kubelet", "-")
}

// startRegistries starts three registries, and pushes an image to each.
func (w *providerWorld) startRegistries(t *testing.T) {
	t.Helper()
	login := func(name string) clients.Login {
		return clients.Login{Username: name, Password: w.secrets.New("password of " + name)}
	}
	gitlab, hub, pusher := login("gitlab-puller"), login("hub-puller"), login("pusher")
	teamA, teamB := login("team-a"), login("team-b")
	w.gitlab = servers.StartRegistry(t, gitlab.Username, gitlab.Password)
	w.hub = servers.StartRegistry(t, hub.Username, hub.Password)
	w.ghcrUsers = map[string]servers.TokenUser{
		pusher.Username: {Password: pusher.Password, Push: []string{"acme/app", "acme/loop", "team-b/app"}},
		teamA.Username:  {Password: teamA.Password, Pull: []string{"acme/app"}},
		teamB.Username:  {Password: teamB.Password, Pull: []string{"team-b/app"}},
	}
	w.ghcr = servers.StartTokenRegistry(t, w.ghcrUsers)

	for _, image := range []string{"group/app:1", "group/next:1", "group/fresh:1", "group/hang:1"} {
		pushPause(t, w.gitlab.Addr+"/"+image, gitlab)
	}
	pushPause(t, w.hub.Addr+"/acme/app:1", hub)
	for _, image := range []string{"acme/app:1", "acme/loop:1", "team-b/app:1"} {
		pushPause(t, w.ghcr.Addr+"/"+image, pusher)
	}
	all := map[string]clients.Login{"registry.gitlab.com": gitlab, "docker.io": hub, "ghcr.io": teamA}
	for _, role := range []string{"audience", "checked", "team-a", "team-c.web", "everyone", "down"} {
		w.role(t, role, all)
	}
	w.role(t, "team-b", map[string]clients.Login{"ghcr.io": teamB})
}

// role writes a static role.
func (w *providerWorld) role(t *testing.T, role string, logins map[string]clients.Login) {
	t.Helper()
	auths := make([]string, 0, len(logins))
	for registry, login := range logins {
		auths = append(auths, fmt.Sprintf(`%q:{"username":%q,"password":%q}`, registry, login.Username, login.Password))
	}
	w.vault.CLI(t, `{"auths":{`+strings.Join(auths, ",")+`}}`, "write", "regcred/roles/"+role, "dockerconfigjson=-")
}

// configure writes the kubelet.yaml of the example, with further lines.
func (w *providerWorld) configure(t *testing.T, lines ...string) {
	t.Helper()
	w.node.WriteClientFile(t, "kubelet.yaml", w.config+strings.Join(lines, "\n")+"\n")
}

func (w *providerWorld) run(test func(*testing.T, *providerWorld)) func(*testing.T) {
	return func(t *testing.T) { test(t, w) }
}

// namespace creates a namespace with service accounts.
func (w *providerWorld) namespace(t *testing.T, name string, accounts ...string) *servers.Kubernetes {
	t.Helper()
	k := w.k.Namespace(t, name)
	for _, account := range accounts {
		k.Kubectl(t, "", "create", "serviceaccount", account)
	}
	return k
}

// pod is a pod, with a container for each image.
type pod struct {
	name, account string
	images        []string
	always        bool // pull also what is there
}

// manifest describes the pod. There are no pull secrets in it.
func (p pod) manifest() string {
	policy := "IfNotPresent"
	if p.always {
		policy = "Always"
	}
	text := fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: node
  hostNetwork: true
  serviceAccountName: %s
  terminationGracePeriodSeconds: 1
  containers:
`, p.name, p.account)
	for i, image := range p.images {
		name := "app"
		if i > 0 {
			name = fmt.Sprintf("app-%d", i)
		}
		text += fmt.Sprintf("  - {name: %s, image: %q, imagePullPolicy: %s}\n", name, image, policy)
	}
	return text
}

func startPods(t *testing.T, k *servers.Kubernetes, pods ...pod) {
	t.Helper()
	text := ""
	for _, p := range pods {
		text += p.manifest()
	}
	k.Kubectl(t, text, "apply", "-f", "-")
}

// logged returns nil when the kubelet has logged, in one entry about a pod, why it
// has no credential for it.
func (w *providerWorld) logged(pod string, said ...string) error {
	said = append(said, "Failed to provide credentials for image", `pod="`+pod+`"`)
	for entry := range w.kubeletLog() {
		if !slices.ContainsFunc(said, func(text string) bool { return !strings.Contains(entry, text) }) {
			return nil
		}
	}
	return fmt.Errorf("want an entry of the kubelet's log with %q", said)
}

// kubeletLog returns the entries of the kubelet's log. One whose error ends with a
// newline is written in several lines.
func (w *providerWorld) kubeletLog() iter.Seq[string] {
	return strings.Lines(strings.NewReplacer("err=<\n\t", "err=", "\n >", "").Replace(w.node.Log()))
}

// pushPause pushes an image whose container prints its name and waits.
func pushPause(t *testing.T, image string, login clients.Login) {
	t.Helper()
	tag, err := name.NewTag(image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	auth := remote.WithAuth(&authn.Basic{Username: login.Username, Password: login.Password})
	if err := remote.Write(tag, servers.PauseImage(t, image), auth, remote.WithContext(t.Context())); err != nil {
		t.Fatalf("pushing %s: %v", image, err)
	}
}

// testProviderNeedsAudience starts a pod before the API server allows nodes to ask
// for the tokens.
func testProviderNeedsAudience(t *testing.T, w *providerWorld) {
	k := w.namespace(t, "audience", "web")
	startPods(t, k, pod{name: "app", account: "web", images: []string{gitlabImage}})
	servers.Eventually(t, func() error { return w.logged("audience/app", "failed to get service account token", "audience") })
	w.k.Kubectl(t, example(t, "kubelet-provider/rbac.yaml"), "apply", "-f", "-")
	servers.Eventually(t, func() error { return runs(k, "app") })
}

// testProviderServesThreeRegistries has two teams pull with what each may read. At
// ghcr.io, neither can pull the other's image.
func testProviderServesThreeRegistries(t *testing.T, w *providerWorld) {
	a, b := w.namespace(t, "team-a", "web"), w.namespace(t, "team-b", "web")
	startPods(
		t, a,
		pod{name: "three", account: "web", images: []string{gitlabImage, hubImage, ghcrImage}},
		pod{name: "foreign", account: "web", images: []string{teamBImage}},
	)
	startPods(
		t, b,
		pod{name: "own", account: "web", images: []string{teamBImage}},
		pod{name: "foreign", account: "web", images: []string{ghcrImage}},
		pod{name: "other", account: "web", images: []string{gitlabImage}},
	)
	servers.Eventually(t, func() error { return runs(a, "three") })
	servers.Eventually(t, func() error { return refused(a, "foreign", "authorization failed") })
	servers.Eventually(t, func() error { return runs(b, "own") })
	servers.Eventually(t, func() error { return refused(b, "foreign", "authorization failed") })
	servers.Eventually(t, func() error { return refused(b, "other", unauthorized) })
}

// testProviderCheck runs "regcred check kubelet" on the node, for an image that a
// pod then runs and for one that it does not.
func testProviderCheck(t *testing.T, w *providerWorld) {
	k := w.namespace(t, "checked", "web")
	token := k.Kubectl(t, "", "create", "token", "web", "--audience=vault")
	check := func(image string) (string, error) {
		cmd := exec.CommandContext(
			t.Context(), filepath.Join(servers.ClientAs(t, "regcred"), "regcred"), "check", "kubelet",
			"-image-credential-provider-config="+w.node.ClientFile("credential-provider.yaml"), "-image-credential-provider-bin-dir="+w.programs,
			"-config="+w.node.ClientFile("kubelet.yaml"), "-ca-file="+w.node.ClientFile("vault-ca.pem"),
			"-image="+image, "-service-account=checked/web", "-token-file=-",
		)
		cmd.Env, cmd.Stdin = []string{}, strings.NewReader(token)
		out, err := cmd.CombinedOutput()
		if found := w.secrets.In(string(out)); len(found) > 0 || strings.Contains(string(out), strings.TrimSpace(token)) {
			t.Errorf("check shows secrets: %q", found)
		}
		return string(out), err
	}
	out, err := check(ghcrImage)
	if err != nil {
		t.Errorf("want every step to go well, got %v", err)
	}
	t.Log(out)
	for image, want := range map[string]string{
		"quay.io/acme/app:1":       "so the kubelet does not run the program",
		w.gitea.Host + "/acme/app": "the pull secret has no registry for " + w.gitea.Host + "/acme/app",
	} {
		if out, err := check(image); err == nil || !strings.Contains(out, want) {
			t.Errorf("want %q, got\n%s", want, out)
		}
	}
	startPods(t, k, pod{name: "app", account: "web", images: []string{ghcrImage}})
	servers.Eventually(t, func() error { return runs(k, "app") })
}

// testProviderIsHeldToThePolicy: the configuration on the node gives the pods of
// team-d a role that exists, and that the policy does not reach.
func testProviderIsHeldToThePolicy(t *testing.T, w *providerWorld) {
	k := w.namespace(t, "team-d", "web")
	startPods(t, k, pod{name: "app", account: "web", images: []string{gitlabImage}})
	servers.Eventually(t, func() error { return refused(k, "app", unauthorized) })
	servers.Eventually(t, func() error {
		return w.logged("team-d/app", "role everyone, chosen by rules", "permission denied", "its policies do not allow to read regcred/creds/everyone")
	})
}

// testProviderAnnotation: an annotation that names another team's role gets
// nothing, one that names another role of the same team gets that.
func testProviderAnnotation(t *testing.T, w *providerWorld) {
	k := w.namespace(t, "team-c", "own", "foreign")
	k.Kubectl(t, "", "annotate", "serviceaccount", "own", "regcred.example.com/role=team-c.web")
	k.Kubectl(t, "", "annotate", "serviceaccount", "foreign", "regcred.example.com/role=team-a")
	startPods(
		t, k,
		pod{name: "own", account: "own", images: []string{gitlabImage}},
		pod{name: "foreign", account: "foreign", images: []string{gitlabImage}},
	)
	servers.Eventually(t, func() error { return runs(k, "own") })
	servers.Eventually(t, func() error { return refused(k, "foreign", unauthorized) })
	servers.Eventually(t, func() error {
		return w.logged("team-c/foreign", "role team-a, chosen by annotation regcred.example.com/role", "permission denied", "its policies do not allow to read regcred/creds/team-a")
	})
}
