// SPDX-License-Identifier: MPL-2.0

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// TestImageRunsAlone runs the entrypoint as a container would: as the image's
// user, and with nothing but the image around it.
func TestImageRunsAlone(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root may change the root folder of a process")
	}
	index := imageIndex(t)
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
		cmd := exec.CommandContext(t.Context(), "/"+program, "-version")
		cmd.Dir, cmd.Env = "/", []string{}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != version+"\n" {
			t.Errorf("want %q, got %q, %v", version+"\n", out, err)
		}
		return
	}
	t.Fatalf("no image for linux/%s, on which the tests run", runtime.GOARCH)
}
