// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"vault-plugin-secrets-regcred/tests/servers"
)

// podParts are what an example adds to the pod of a Vault server.
type podParts struct {
	InitContainers []struct {
		Name            string         `json:"name"`
		Image           string         `json:"image"`
		Args            []string       `json:"args"`
		SecurityContext map[string]any `json:"securityContext"`
		VolumeMounts    []volumeMount  `json:"volumeMounts"`
	} `json:"initContainers"`
	Volumes    []map[string]any `json:"volumes"`
	Containers []struct {
		Name         string        `json:"name"`
		VolumeMounts []volumeMount `json:"volumeMounts"`
	} `json:"containers"`
}

type volumeMount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	ReadOnly  bool   `json:"readOnly"`
}

// TestKubernetesExamplesPutTheProgramInPlace does what the init container of the
// examples does, with its arguments and the plugin directory of a real Vault, and
// installs the engine with the checksum that it prints.
func TestKubernetesExamplesPutTheProgramInPlace(t *testing.T) {
	t.Parallel()
	values, raftConfig := helmValues(t)
	patched := statefulSetPatch(t)
	if diff := cmp.Diff(values, patched); diff != "" {
		t.Fatalf("values.yaml and init-container.yaml give the pod different things (-values +patch):\n%s", diff)
	}
	configured := regexp.MustCompile(`(?m)^\s*plugin_directory\s*=\s*"([^"]+)"`).FindStringSubmatch(raftConfig)
	if configured == nil {
		t.Fatalf("values.yaml: the configuration of the server has no plugin_directory:\n%s", raftConfig)
	}
	directory := configured[1]
	if len(values.Volumes) != 1 || len(values.InitContainers) != 1 || len(values.Containers) != 1 {
		t.Fatalf("want one volume, one init container and one container, got %+v", values)
	}
	volume, _ := values.Volumes[0]["name"].(string)
	init := values.InitContainers[0]
	for of, mounts := range map[string][]volumeMount{"the init container": init.VolumeMounts, "the server": values.Containers[0].VolumeMounts} {
		if want := []volumeMount{{volume, directory, of == "the server"}}; !cmp.Equal(want, mounts) {
			t.Errorf("%s: want the mounts %+v, got %+v", of, want, mounts)
		}
	}

	const version = "v0.1.0"
	if !strings.HasSuffix(init.Image, ":"+version) || len(init.Args) != 1 || !strings.HasPrefix(init.Args[0], "-install="+directory+"/") {
		t.Fatalf("want an image of version %s that installs to %s, got %s %q", version, directory, init.Image, init.Args)
	}
	v := servers.StartRaftVaultWith(t, servers.RaftOptions{Empty: true})
	file := strings.Replace(strings.TrimPrefix(init.Args[0], "-install="), directory, v.PluginDir, 1)
	program := buildPlugin(t, version)
	out, err := exec.CommandContext(t.Context(), program, "-install="+file).Output()
	if err != nil || string(out) != sumOf(t, program)+"  "+file+"\n" {
		t.Fatalf("want the checksum and the file, got %q, %v", out, err)
	}
	sum, _, _ := strings.Cut(string(out), " ")
	v.CLI(t, "", "plugin", "register", "-sha256="+sum, "-command="+filepath.Base(file), "-version="+version, "secret", servers.PluginName)
	v.CLI(t, "", "secrets", "enable", "-path="+servers.Mount, "-plugin-version="+version, servers.PluginName)
	write(t, v.Client, "regcred/roles/app", credential(nil))
	read(t, v.Client, "regcred/creds/app")
}

// TestInstallReplacesAFileOrSaysWhyNot runs -install as an init container does
// that starts anew, and with wrong arguments.
func TestInstallReplacesAFileOrSaysWhyNot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := servers.Plugin(t)
	install := func(file string) (string, error) {
		out, err := exec.CommandContext(t.Context(), program, "-install="+file).CombinedOutput()
		return string(out), err
	}
	file := filepath.Join(dir, "plugin")
	if err := os.WriteFile(file, []byte("an older one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if out, err := install(file); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if got, want := sumOf(t, file), sumOf(t, program); got != want {
		t.Errorf("want the checksum %s, got %s", want, got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o755 {
		t.Errorf("want a file that everybody can execute, got %v, %v", info.Mode(), err)
	}
	for file, want := range map[string]string{
		dir:                                "is a directory; name the file in it",
		filepath.Join(dir, "no", "plugin"): "no such file or directory",
	} {
		if out, err := install(file); err == nil || !strings.Contains(out, "-install: ") || !strings.Contains(out, want) {
			t.Errorf("-install=%s: want an error with %q, got %v\n%s", file, want, err, out)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("want nothing but the file, got %v, %v", left, err)
	}
}

// helmValues returns what the chart makes of examples/helm/values.yaml, as its
// template server-statefulset.yaml does (0.34.1), and the server's configuration.
func helmValues(t *testing.T) (parts podParts, raftConfig string) {
	t.Helper()
	var values struct {
		Server struct {
			ExtraInitContainers any `json:"extraInitContainers"`
			Volumes             any `json:"volumes"`
			VolumeMounts        any `json:"volumeMounts"`
			HA                  struct {
				Enabled  bool `json:"enabled"`
				Replicas int  `json:"replicas"`
				Raft     struct {
					Enabled   bool   `json:"enabled"`
					SetNodeID bool   `json:"setNodeId"`
					Config    string `json:"config"`
				} `json:"raft"`
			} `json:"ha"`
		} `json:"server"`
	}
	decodeExample(t, "helm/values.yaml", &values)
	s := values.Server
	pod, err := yaml.Marshal(map[string]any{
		"initContainers": s.ExtraInitContainers,
		"volumes":        s.Volumes,
		"containers":     []any{map[string]any{"name": "vault", "volumeMounts": s.VolumeMounts}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(pod, &parts); err != nil {
		t.Fatalf("values.yaml: %v", err)
	}
	return parts, s.HA.Raft.Config
}

func statefulSetPatch(t *testing.T) podParts {
	t.Helper()
	var patch struct {
		Spec struct {
			Template struct {
				Spec podParts `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	decodeExample(t, "helm/init-container.yaml", &patch)
	return patch.Spec.Template.Spec
}

func decodeExample(t *testing.T, name string, into any) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(content, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
