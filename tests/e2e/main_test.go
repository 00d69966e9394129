// SPDX-License-Identifier: MPL-2.0

//go:build e2e

// Package e2e proves that the tools that read pull secrets get one that pulls.
// Each tool is the real program, in or beside a real Kubernetes API server.
// Every manifest is the one in examples; only addresses and file paths are
// replaced. The package also tests what a cluster of Vaults guarantees when its
// leaders die.
package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestConsumers uses one cluster for all tests; each test has a Vault, a
// registry and namespaces of its own.
func TestConsumers(t *testing.T) {
	k := servers.StartKubernetes(t)
	servers.StartExternalSecrets(t, k)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *servers.Kubernetes)
	}{
		// Tests that wait for an interval come first.
		{"a changed password reaches every consumer", testRotation},
		{"Vault Agent supervises a child", testVaultAgentSupervisor},
		{"kubectl makes a Secret that pulls", testKubectlMakesSecret},
		{"kubectl leaves no copy behind after a plain apply", testKubectlAfterPlainApply},
		{"kubectl says what is wrong with a Secret", testKubectlRefusals},
		{"Helm values and a patch put the program into the pods of Vault", testHelmValues},
		{"the chart puts the kubelet provider onto nodes of each distribution", testNodeChart},
		{"the way from Secrets to the kubelet provider", testFromSecrets},
		{"External Secrets makes a Secret with nothing but the key asked for", testExternalSecretsMinimal},
		{"External Secrets copies all fields of creds", testExternalSecretsAllFields},
		{"External Secrets decodes base64", testExternalSecretsBase64},
		{"External Secrets is held to its policy", testExternalSecretsPolicy},
		{"External Secrets deletes a Secret where the page says so", testExternalSecretsDeletion},
		{"External Secrets serves labelled namespaces and no other", testExternalSecretsWholeCluster},
		{"External Secrets needs every line of the examples", testExternalSecretsExamplesAreMinimal},
		{"regcred import brings the Secrets of a cluster into roles", testImport},
		{"Vault Agent writes config.json", testVaultAgentConfigJSON},
		{"Vault Agent applies a Secret", testVaultAgentSecret},
		{"Vault Agent needs every line of the examples", testVaultAgentExamplesAreMinimal},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, k)
		})
	}
}

func TestMain(m *testing.M) {
	servers.CleanEnv()
	os.Exit(m.Run())
}

// world is a registry with a private image, and a Vault whose role my_app has
// the password for it.
type world struct {
	vault    *servers.Vault
	registry *servers.Registry
	image    string
	login    clients.Login
}

func newWorld(t *testing.T) *world {
	t.Helper()
	login := clients.Login{Username: "robot$team+puller", Password: `p"4\ss:<&>$`}
	registry := servers.StartRegistry(t, login.Username, login.Password)
	w := &world{vault: servers.StartVault(t), registry: registry, image: registry.Addr + "/team/app:1", login: login}
	clients.Push(t, w.image, login.Username, login.Password)
	w.vault.CLI(t, login.Password, "write", "regcred/roles/my_app", "registry="+registry.Addr, "username="+login.Username, "password=-")
	return w
}

// changePassword replaces the password at the registry and in Vault.
func (w *world) changePassword(t *testing.T, password string) {
	t.Helper()
	w.login.Password = password
	w.registry.SetPassword(t, w.login.Username, password)
	w.vault.CLI(t, "", "write", "regcred/roles/my_app", "password="+password)
}

// usePolicy sets the policy my_app.
func (w *world) usePolicy(t *testing.T, policy string) {
	t.Helper()
	w.vault.CLI(t, policy, "policy", "write", "my_app", "-")
}

// creds returns the fields of a path under creds/.
func (w *world) creds(t *testing.T, path string) map[string]string {
	t.Helper()
	return creds(t, w.vault, path)
}

func creds(t *testing.T, vault *servers.Vault, path string) map[string]string {
	t.Helper()
	secret, err := vault.Client.Logical().Read("regcred/creds/" + path)
	if err != nil || secret == nil {
		t.Fatalf("reading creds/%s: %v, %v", path, secret, err)
	}
	data := map[string]string{}
	for name, value := range secret.Data {
		data[name] = fmt.Sprint(value)
	}
	return data
}

// pulls proves that a Docker config can pull the image, and that the kubelet
// finds the credential in it.
func (w *world) pulls(t *testing.T, config string) {
	t.Helper()
	for client, pull := range clients.Pullers {
		if out, err := pull(t, w.image, config); err != nil {
			t.Errorf("%s cannot pull: %v\n%s", client, err, out)
		}
	}
	want := []clients.Found{{Credentials: []clients.Login{w.login}}}
	got := clients.Ask(t, "read-kubelet", []clients.LookUp{{Config: config, Image: w.image}})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the kubelet finds for the image (-want +got):\n%s", diff)
	}
}

// isRefused proves that the registry refuses a Docker config.
func (w *world) isRefused(t *testing.T, config string) {
	t.Helper()
	for client, pull := range clients.Pullers {
		out, err := pull(t, w.image, config)
		if err == nil || !strings.Contains(strings.ToLower(out), "unauthorized") && !strings.Contains(out, "authentication required") {
			t.Errorf("%s: want a refusal by the registry, got %v\n%s", client, err, out)
		}
	}
}

// kubernetesSecret is the part of a Secret that tools do not annotate.
type kubernetesSecret struct {
	Type string
	Data map[string]string
}

// pullSecret returns a Secret of the type that a pod's imagePullSecrets must
// have.
func pullSecret(data map[string]string) kubernetesSecret {
	return kubernetesSecret{Type: "kubernetes.io/dockerconfigjson", Data: data}
}

// getSecret reads the Secret that all examples make.
func getSecret(k *servers.Kubernetes) (kubernetesSecret, error) { return getSecretNamed(k, "regcred") }

func getSecretNamed(k *servers.Kubernetes, name string) (kubernetesSecret, error) {
	out, err := k.TryKubectl("", "get", "secret", name, "-o", "json")
	if err != nil {
		return kubernetesSecret{}, err
	}
	var object struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
		Type string            `json:"type"`
		Data map[string][]byte `json:"data"`
	}
	if err := json.Unmarshal([]byte(out), &object); err != nil {
		return kubernetesSecret{}, fmt.Errorf("reading kubectl's output: %w", err)
	}
	if copied := object.Metadata.Annotations["kubectl.kubernetes.io/last-applied-configuration"]; copied != "" {
		return kubernetesSecret{}, fmt.Errorf("an annotation holds a copy of the Secret: %s", copied)
	}
	secret := kubernetesSecret{Type: object.Type, Data: map[string]string{}}
	for key, value := range object.Data {
		secret.Data[key] = string(value)
	}
	return secret, nil
}

// compareSecret compares a whole Secret.
func compareSecret(got, want kubernetesSecret) error {
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("the Secret (-want +got):\n%s", diff)
	}
	return nil
}

// dockerConfig returns the Docker config in the Secret regcred, which must hold
// nothing else.
func dockerConfig(k *servers.Kubernetes) (string, error) {
	secret, err := getSecret(k)
	if err != nil {
		return "", err
	}
	config := secret.Data[".dockerconfigjson"]
	return config, compareSecret(secret, pullSecret(map[string]string{".dockerconfigjson": config}))
}

// example returns a file of examples with strings replaced, as
// strings.NewReplacer does. Each of them must be in the file.
func example(t *testing.T, path string, oldnew ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", path))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(string(content), oldnew[i]) {
			t.Fatalf("examples/%s does not contain %q", path, oldnew[i])
		}
	}
	return strings.NewReplacer(oldnew...).Replace(string(content))
}

// linesToCut returns names for the lines of a text that have a meaning, by
// number. Line 0 stands for no line.
func linesToCut(text string) map[int]string {
	names := map[int]string{0: "nothing"}
	number := 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line != "}" && line != "---" {
			names[number] = fmt.Sprintf("line %d: %s", number, line)
		}
	}
	return names
}

func withoutLine(text string, line int) string {
	if line == 0 {
		return text
	}
	lines := slices.Collect(strings.Lines(text))
	return strings.Join(slices.Delete(lines, line-1, line), "")
}

// cutLimit returns how long to wait for an example without a line: 10 seconds,
// because most never work. The whole example, line 0, has the time that the test
// has left, and a second if none is: kubectl takes a negative one for a week.
func cutLimit(t *testing.T, line int) time.Duration {
	t.Helper()
	if line == 0 {
		return max(time.Until(servers.Limit(t)), time.Second)
	}
	return 10 * time.Second
}

// wantNeeded judges the outcome of an example without a line. With line 0
// removed it must work, or the test proves nothing.
func wantNeeded(t *testing.T, line int, err error) {
	t.Helper()
	switch {
	case line == 0 && err != nil:
		t.Errorf("the whole example fails: %v", err)
	case line != 0 && err == nil:
		t.Error("the example works without the line")
	}
}
