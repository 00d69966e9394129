// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bytes"
	"context"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestInstallIsKilledAndRunAgain kills "regcred install" at random moments, while it
// installs, updates and removes. The kubelet's own code starts with what is there,
// and the next run finishes it.
func TestInstallIsKilledAndRunAgain(t *testing.T) {
	t.Parallel()
	root, from := t.TempDir(), t.TempDir()
	binDir, config := filepath.Join(root, "bin"), filepath.Join(root, "config.json")
	const cloud = `{"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": [{"name": "ecr-credential-provider",
		"matchImages": ["*.dkr.ecr.*.amazonaws.com"], "defaultCacheDuration": "12h", "apiVersion": "credentialprovider.kubelet.k8s.io/v1"}]}`
	write := func(path, content string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(binDir, "ecr-credential-provider"), "a program", 0o755)
	write(config, cloud, 0o644)
	write(filepath.Join(from, "kubelet.yaml"), exampleOf(t, "kubelet-provider/kubelet.yaml"), 0o644)
	entry := exampleOf(t, "kubelet-provider/credential-provider.yaml")
	program := filepath.Join(servers.ClientAs(t, "regcred"), "regcred")
	args := []string{"install", "-from=" + from, "-bin-dir=" + binDir, "-config=" + config, "-to=" + filepath.Join(root, "etc")}
	// finished reports whether the command came to its end.
	finished := func(limit time.Duration, more ...string) bool {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		out, err := exec.CommandContext(ctx, program, append(args, more...)...).CombinedOutput()
		if err != nil && ctx.Err() == nil {
			t.Fatalf("regcred %q: %v\n%s", more, err, out)
		}
		return err == nil
	}
	starts := func(when string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), servers.Bin(t, "ask-provider"), config, binDir).CombinedOutput(); err != nil {
			t.Fatalf("after %s the kubelet does not start: %v\n%s", when, err, out)
		}
	}
	killed := 0
	for i := range 60 {
		// Each round has another entry, so that there is something to do.
		write(filepath.Join(from, "credential-provider.yaml"), strings.Replace(entry, "- ghcr.io", "- ghcr.io\n      - r"+string(rune('a'+i%26))+".example.com", 1), 0o644)
		more := [][]string{nil, {"-remove"}}[i%2]
		if !finished(time.Duration(rand.Int64N(int64(40*time.Millisecond))), more...) {
			killed++
		}
		starts("a kill")
		if i%10 < 8 {
			continue
		}
		finished(time.Minute, more...)
		starts("the run after it")
		content, err := os.ReadFile(config)
		if err != nil || (i%2 == 1) != (string(content) == cloud) || bytes.Contains(content, []byte("regcred")) != (i%2 == 0) {
			t.Fatalf("round %d: %v\n%s", i, err, content)
		}
	}
	if killed == 0 {
		t.Error("no run was killed")
	}
	finished(time.Minute, "-remove")
	left := 0
	_ = filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			left++
		}
		return err
	})
	if left != 2 {
		t.Errorf("after a removal %d files are left", left)
	}
}
