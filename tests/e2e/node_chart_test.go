// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"vault-plugin-secrets-regcred/tests/servers"
)

// chartValues are the values that have no default.
var chartValues = []string{
	"--set=image.repository=registry.example.com/regcred-client", "--set=image.tag=v0.1.0",
	"--set=config.address=https://vault.example.com:8200", "--set=provider.matchImages={ghcr.io,registry.gitlab.com}",
}

// helm runs helm, which finds no cluster and no files of the user.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), servers.Bin(t, "helm"), args...)
	cmd.Dir = filepath.Join(servers.Repo(), "deploy")
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// nodeFiles are the files in deploy/values, "" for none, and what a node has of
// which they speak.
func nodeFiles(t *testing.T) map[string]map[string]string {
	t.Helper()
	const ecr = `{"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [{"name": "ecr-credential-provider",
		"matchImages": ["*.dkr.ecr.*.amazonaws.com"], "defaultCacheDuration": "12h", "apiVersion": "credentialprovider.kubelet.k8s.io/v1"}]}`
	other := func(name string) string {
		return "# Written by the cloud.\napiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n  - name: " + name +
			"\n    apiVersion: credentialprovider.kubelet.k8s.io/v1\n    matchImages: [\"*.example.com\"]\n    defaultCacheDuration: 1m\n"
	}
	files := map[string]map[string]string{
		"":             {},
		"kubeadm.yaml": {},
		"k3s.yaml":     {},
		"eks.yaml": {
			"/etc/eks/image-credential-provider/config.json":             ecr,
			"/etc/eks/image-credential-provider/ecr-credential-provider": "a program",
		},
		"eks-folder.yaml": {
			"/etc/eks/image-credential-provider/config.json":             ecr,
			"/etc/eks/image-credential-provider/ecr-credential-provider": "a program",
		},
		"aks.yaml": {
			"/var/lib/kubelet/credential-provider-config.yaml":             other("acr-credential-provider"),
			"/var/lib/kubelet/credential-provider/acr-credential-provider": "a program",
		},
		"gke.yaml": {
			"/etc/srv/kubernetes/cri_auth_config.yaml": other("auth-provider-gcp"),
			"/home/kubernetes/bin/auth-provider-gcp":   "a program",
		},
	}
	shipped, err := filepath.Glob(filepath.Join(servers.Repo(), "deploy", "values", "*.yaml"))
	if err != nil || len(shipped) != len(files)-1 {
		t.Fatalf("deploy/values has %q, %v", shipped, err)
	}
	return files
}

// render returns the manifests of the chart with a file of deploy/values.
func render(t *testing.T, values string, more ...string) string {
	t.Helper()
	args := slices.Concat([]string{"template", "regcred-node", "regcred-node", "--namespace=regcred-node"}, chartValues, more)
	if values != "" {
		args = append(args, "--values=values/"+values)
	}
	out, err := helm(t, args...)
	if err != nil {
		t.Fatalf("helm %q: %v\n%s", args, err, out)
	}
	return out
}

// podSpec is what these tests read of the DaemonSet's pods.
type podSpec struct {
	ImagePullSecrets []struct{ Name string }
	InitContainers   []container
	Containers       []container
	Volumes          []struct {
		Name     string
		HostPath *struct{ Path string }
	}
	all any
}

type container struct {
	Image        string
	Args         []string
	VolumeMounts []struct{ Name, MountPath string }
}

// objects returns the DaemonSet and the ConfigMap that it mounts.
func objects(t *testing.T, manifests string) (pod podSpec, files map[string]string) {
	t.Helper()
	for _, manifest := range strings.Split(manifests, "\n---\n") {
		var object struct {
			Kind string
			Spec struct{ Template struct{ Spec any } }
			Data map[string]string // of the ConfigMap
		}
		if err := yaml.Unmarshal([]byte(manifest), &object); err != nil {
			t.Fatal(err)
		}
		switch object.Kind {
		case "DaemonSet":
			text, err := yaml.Marshal(object.Spec.Template.Spec)
			if err == nil {
				err = yaml.Unmarshal(text, &pod)
			}
			if err != nil {
				t.Fatal(err)
			}
			pod.all = object.Spec.Template.Spec
		case "ConfigMap":
			files = object.Data
		}
	}
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 || len(files) < 2 {
		t.Fatalf("want a DaemonSet with two containers, and a ConfigMap, got\n%s", manifests)
	}
	return pod, files
}

// testNodeChart has kube-apiserver check what the chart makes, with the values of
// each distribution, and does what its pods do to the files of such a node. The
// kubelet's own code reads the result.
func testNodeChart(t *testing.T, k *servers.Kubernetes) {
	baseline := k.Namespace(t, "baseline")
	k = k.Namespace(t, "regcred-node")
	k.Kubectl(t, "", "label", "namespace", "regcred-node", "pod-security.kubernetes.io/enforce=privileged")
	baseline.Kubectl(t, "", "label", "namespace", "baseline", "pod-security.kubernetes.io/enforce=baseline")
	dryRun := []string{"create", "--dry-run=server", "--validate=strict", "--filename=-"}
	for values, node := range nodeFiles(t) {
		t.Run("with "+values, func(t *testing.T) {
			t.Parallel()
			lint := append([]string{"lint", "--strict", "regcred-node"}, chartValues...)
			if values != "" {
				lint = append(lint, "--values=values/"+values)
			}
			if out, err := helm(t, lint...); err != nil {
				t.Errorf("helm lint: %v\n%s", err, out)
			}
			manifests := render(t, values)
			k.Kubectl(t, manifests, dryRun...)
			if _, err := k.TryKubectl(strings.Replace(manifests, "hostPath:", "hostPaths:", 1), dryRun...); err == nil {
				t.Error("a misspelt field is accepted, so the dry run proves nothing")
			}

			// The one thing for which the pods need a privileged namespace.
			pod, files := objects(t, manifests)
			single, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "p"}, "spec": pod.all})
			if err != nil {
				t.Fatal(err)
			}
			k.Kubectl(t, string(single), dryRun...)
			_, err = baseline.TryKubectl(string(single), dryRun...)
			if want := `violates PodSecurity "baseline:latest": hostPath volumes (`; err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "), ") {
				t.Errorf("in a namespace with the level baseline: want %q and no other reason, got %v", want, err)
			}

			onNode(t, values, node, pod, files)
		})
	}
	testChartRefusals(t)
}

// onNode runs the containers of the DaemonSet on a node that is a folder, with the
// kubelet's own code in place of the kubelet.
func onNode(t *testing.T, values string, before map[string]string, pod podSpec, files map[string]string) {
	t.Helper()
	root, from := t.TempDir(), t.TempDir()
	write := func(path, content string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	for path, content := range before {
		write(root+path, content, map[bool]os.FileMode{true: 0o755, false: 0o644}[content == "a program"])
	}
	for name, content := range files {
		write(filepath.Join(from, name), content, 0o644)
	}
	var mounted []string
	for _, mount := range pod.InitContainers[0].VolumeMounts {
		for _, volume := range pod.Volumes {
			if volume.Name != mount.Name || volume.HostPath == nil {
				continue
			}
			if volume.HostPath.Path != mount.MountPath {
				t.Errorf("%s of the node is %s in the container: messages would name a file that is not there", volume.HostPath.Path, mount.MountPath)
			}
			mounted = append(mounted, mount.MountPath)
		}
	}
	run := func(args []string) string {
		t.Helper()
		var translated []string
		for _, arg := range args {
			flag, path, found := strings.Cut(arg, "=/")
			switch {
			case arg == "-from=/files":
				arg = "-from=" + from
			case found:
				if !slices.ContainsFunc(mounted, func(m string) bool { return strings.HasPrefix("/"+path, m+"/") || "/"+path == m }) {
					t.Errorf("%s is not mounted, only %q", arg, mounted)
				}
				arg = flag + "=" + filepath.Join(root, path)
			}
			translated = append(translated, arg)
		}
		out, err := exec.CommandContext(t.Context(), filepath.Join(servers.ClientAs(t, "regcred"), "regcred"), translated...).CombinedOutput()
		if err != nil {
			t.Fatalf("regcred %q: %v\n%s", translated, err, out)
		}
		return string(out)
	}
	args := pod.InitContainers[0].Args
	if want := append(slices.Clone(args), "-every=1m"); !slices.Equal(want, pod.Containers[0].Args) {
		t.Errorf("the second container does something else than the first again and again: %q", pod.Containers[0].Args)
	}
	if out := run(args); !strings.Contains(out, "restart the kubelet") {
		t.Errorf("installing says\n%s", out)
	}
	if out := run(args); strings.Contains(out, "restart the kubelet") {
		t.Errorf("installing again says\n%s", out)
	}

	binDir, config := root+argument(t, args, "-bin-dir="), root+argument(t, args, "-config=")
	kubelet := func(config string) (string, error) {
		out, err := exec.CommandContext(t.Context(), servers.Bin(t, "ask-provider"), config, binDir).CombinedOutput()
		return string(out), err
	}
	if out, err := kubelet(config); err != nil {
		t.Errorf("the kubelet does not start with %s: %v\n%s", config, err, out)
	}
	if strings.Contains(values, "folder") {
		if out, err := kubelet(filepath.Dir(config)); err != nil {
			t.Errorf("the kubelet does not start with the folder of %s: %v\n%s", config, err, out)
		}
	}
	content, err := os.ReadFile(filepath.Join(root, argument(t, args, "-to="), "kubelet.yaml"))
	if err != nil || string(content) != files["kubelet.yaml"] {
		t.Errorf("kubelet.yaml: %v\n%s", err, content)
	}

	// And off again.
	manifests := render(t, values, "--set=remove=true")
	pod, _ = objects(t, manifests)
	args = pod.InitContainers[0].Args
	if len(before) == 0 || strings.Contains(values, "folder") {
		// There is no other provider in the file.
		args = append(args, "-delete-empty")
	}
	run(args)
	left := map[string]string{}
	err = filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		left[strings.TrimPrefix(path, root)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, left); diff != "" {
		t.Errorf("a node from which all was removed (-before +after):\n%s", diff)
	}
}

func argument(t *testing.T, args []string, flag string) string {
	t.Helper()
	for _, arg := range args {
		if value, found := strings.CutPrefix(arg, flag); found {
			return value
		}
	}
	t.Fatalf("no %s in %q", flag, args)
	return ""
}

// testChartRefusals: what is forgotten or misspelt is an error that says what would
// be right, and never a manifest.
func testChartRefusals(t *testing.T) {
	t.Run("refusals", func(t *testing.T) {
		t.Parallel()
		for want, more := range map[string][]string{
			"image.repository must name the client's image in your registry": {"--set=image.repository="},
			"config.address must be the address of Vault":                    {"--set=config.address="},
			"provider.matchImages must name the registries":                  {"--set=provider.matchImages=null"},
			"/provider/matchImages/0":                                        {"--set=provider.matchImages={https://ghcr.io}"},
			"additional properties 'adience' not allowed":                    {"--set=provider.adience=x"},
			"/kubelet/configFile":                                            {"--set=kubelet.configFile=/etc/credential-providers"},
			"/etc cannot be mounted into the pod":                            {"--set=kubelet.configFile=/etc/config.yaml"},
			"/vaultCA":                                                       {"--set=vaultCA=/etc/ca.pem"},
			"incompatible with Kubernetes v1.33.4":                           {"--kube-version=1.33.4"},
		} {
			out, err := helm(t, slices.Concat([]string{"template", "regcred-node", "regcred-node"}, chartValues, more)...)
			if err == nil || !strings.Contains(out, want) || strings.Contains(out, "kind:") {
				t.Errorf("%q: want %q, got %v\n%s", more, want, err, out)
			}
		}

		// Everything that a value can change is in the manifests.
		manifests := render(t, "k3s.yaml", "--set=provider.instance=prod", "--set=vaultCA=-----BEGIN CERTIFICATE-----\nabc", "--set=provider.env.HTTPS_PROXY=http://proxy:3128",
			"--set=image.digest=sha256:"+strings.Repeat("0", 64), "--set=imagePullSecrets[0].name=first", "--set=seLinuxOptions.type=spc_t",
			"--set=provider.audience=vault-prod", "--set=provider.requireServiceAccount=false", "--set=networkPolicy.create=false")
		pod, files := objects(t, manifests)
		if names := slices.Sorted(maps.Keys(files)); !slices.Equal(names, []string{"credential-provider.yaml", "kubelet-prod.yaml", "vault-ca-prod.pem"}) {
			t.Errorf("files %q", names)
		}
		for _, want := range []string{
			"name: regcred-credential-provider-prod\n", "caFile: /etc/regcred/vault-ca-prod.pem\n", `{name: "HTTPS_PROXY", value: "http://proxy:3128"}`,
			`resources: ["vault-prod"]`, `serviceAccountTokenAudience: "vault-prod"`, "requireServiceAccount: false\n", "type: spc_t\n",
		} {
			if !strings.Contains(manifests, want) {
				t.Errorf("no %q in\n%s", want, manifests)
			}
		}
		if image := pod.Containers[0].Image; image != "registry.example.com/regcred-client@sha256:"+strings.Repeat("0", 64) || pod.ImagePullSecrets[0].Name != "first" || strings.Contains(manifests, "NetworkPolicy") {
			t.Errorf("image %s, %v", image, pod.ImagePullSecrets)
		}
	})
}
