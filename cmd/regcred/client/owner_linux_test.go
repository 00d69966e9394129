// SPDX-License-Identifier: MPL-2.0

package client

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestRootsFilesAreUsedInAUserNamespace: rootless podman runs credential helpers in one.
// This test runs itself there, without a root of the machine, and looks at root's file.
func TestRootsFilesAreUsedInAUserNamespace(t *testing.T) {
	if path := os.Getenv("REGCRED_TEST_FILE"); path != "" {
		if err := CheckOwner(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("only root has a file of root to look at, and another user to become")
	}
	dir, err := os.MkdirTemp("", "regcred")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	// Where the other user reaches it.
	program, file := filepath.Join(dir, "test"), filepath.Join(dir, "docker.yaml")
	for path, content := range map[string][]byte{program: binary, file: []byte("role: my_app\n")} {
		if err := os.WriteFile(path, content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o644, 0o666} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "-test.run=^TestRootsFilesAreUsedInAUserNamespace$")
		cmd.Env, cmd.Dir = []string{"REGCRED_TEST_FILE=" + file}, dir
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 4711, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 4711, Size: 1}},
			Credential:  &syscall.Credential{NoSetGroups: true},
		}
		out, err := cmd.CombinedOutput()
		if err != nil && len(out) == 0 {
			t.Skipf("this machine allows no user namespaces: %v", err)
		}
		if used := err == nil; used != (mode == 0o644) {
			t.Errorf("mode %o: %v\n%s", mode, err, out)
		}
		if mode == 0o666 && !bytes.Contains(out, []byte("can be written by others (mode 0666)")) {
			t.Errorf("want a refusal, got %s", out)
		}
	}
}
