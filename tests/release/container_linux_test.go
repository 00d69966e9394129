// SPDX-License-Identifier: MPL-2.0

package release

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"sigs.k8s.io/yaml"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestImageRunsAlone runs the entrypoint as a container would: as the image's
// user, and with nothing but the image around it.
func TestImageRunsAlone(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, p product) {
		cmd := exec.CommandContext(t.Context(), "/"+p.program, "-version")
		cmd.Dir, cmd.Env = "/", []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: unpackedImage(t, p), Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != version+"\n" {
			t.Errorf("want %q, got %q, %v", version+"\n", out, err)
		}
	})
}

// unpackedImage returns a folder with the files of the image for this platform.
func unpackedImage(t *testing.T, p product) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may change the root folder of a process")
	}
	index := imageIndex(t, p)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, descriptor := range manifest.Manifests {
		if descriptor.Platform.Architecture != runtime.GOARCH {
			continue
		}
		image, err := index.Image(descriptor.Digest)
		if err != nil {
			t.Fatal(err)
		}
		root := t.TempDir()
		if err := os.Chmod(root, 0o755); err != nil {
			t.Fatal(err)
		}
		flat := mutate.Extract(image)
		defer flat.Close()
		for name, file := range tarFiles(t, flat) {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, name), file.content, os.FileMode(file.mode)); err != nil {
				t.Fatal(err)
			}
		}
		return root
	}
	t.Fatalf("no image for linux/%s, on which the tests run", runtime.GOARCH)
	return ""
}

// TestChartInstallsFromTheImage runs what the chart of this release has its pods
// run, as they do: the program of the image, as root without any capability, with
// the mounted folders below a root folder that cannot be written.
func TestChartInstallsFromTheImage(t *testing.T) {
	t.Parallel()
	root := unpackedImage(t, client)
	cmd := exec.CommandContext(t.Context(), servers.Bin(t, "helm"), "template", "regcred-node", dist(chart),
		"--set=image.repository=registry.example.com/regcred-client", "--set=config.address=https://vault.example.com:8200", "--set=provider.matchImages={ghcr.io}")
	cmd.Env = []string{"HOME=" + t.TempDir()}
	manifests, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, manifests)
	}
	if want := "image: registry.example.com/regcred-client:" + version + "\n"; !strings.Contains(string(manifests), want) {
		t.Errorf("want %q, got\n%s", want, manifests)
	}
	var args []string
	for _, manifest := range strings.Split(string(manifests), "\n---\n") {
		var object struct {
			Kind string
			Data map[string]string
			Spec struct {
				Template struct {
					Spec struct {
						InitContainers []struct{ Args []string }
						Volumes        []struct{ HostPath struct{ Path string } }
					}
				}
			}
		}
		if err := yaml.Unmarshal([]byte(manifest), &object); err != nil {
			t.Fatal(err)
		}
		for name, content := range object.Data {
			write(t, filepath.Join(root, "files", name), content)
		}
		if object.Kind == "DaemonSet" {
			args = object.Spec.Template.Spec.InitContainers[0].Args
			for _, volume := range object.Spec.Template.Spec.Volumes {
				if err := os.MkdirAll(filepath.Join(root, volume.HostPath.Path), 0o755); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	// What the program needs of the /proc that a container has.
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "proc", "self"), 0o755), os.Symlink("/"+client.program, filepath.Join(root, "proc", "self", "exe"))); err != nil {
		t.Fatal(err)
	}
	// Without capabilities, root is held to the permissions of files like any user.
	if err := os.Chmod(root, 0o555); err != nil {
		t.Fatal(err)
	}
	// One is left, which chroot needs.
	command := append([]string{"--bounding-set=-all,+sys_chroot", "--inh-caps=-all", "--no-new-privs", "/usr/sbin/chroot", root, "/" + client.program}, args...)
	cmd = exec.CommandContext(t.Context(), "setpriv", command...)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "/opt/credential-providers/bin/regcred-credential-provider: put in place (version "+version+")\n") {
		t.Fatalf("%v\n%s", err, out)
	}
	modes := map[string]os.FileMode{}
	for _, path := range []string{"/opt/credential-providers/bin/regcred-credential-provider", "/opt/credential-providers/config.yaml", "/etc/regcred/kubelet.yaml"} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 0 || owner.Gid != 0 {
			t.Errorf("%s belongs to %d:%d", path, owner.Uid, owner.Gid)
		}
		modes[path] = info.Mode()
	}
	want := map[string]os.FileMode{
		"/opt/credential-providers/bin/regcred-credential-provider": 0o755, "/opt/credential-providers/config.yaml": 0o644, "/etc/regcred/kubelet.yaml": 0o644,
	}
	if diff := cmp.Diff(want, modes); diff != "" {
		t.Errorf("modes (-want +got):\n%s", diff)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
