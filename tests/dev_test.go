// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestDevPrintsWhatWorks runs the scripts behind "make dev-registries" in a copy of the
// repository, and types each command that they print.
func TestDevPrintsWhatWorks(t *testing.T) {
	t.Parallel()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"scripts":    filepath.Join(servers.Repo(), "scripts"),
		"bin":        filepath.Join(servers.Repo(), "bin"),
		".bin/vault": servers.Bin(t, "vault"),
	} {
		copied := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(copied), 0o700); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), "cp", "-RL", target, copied).CombinedOutput(); err != nil {
			t.Fatalf("copying %s: %v\n%s", target, err, out)
		}
	}
	// What else is built there, such as the client, is no plugin.
	if err := os.WriteFile(filepath.Join(root, "bin", "regcred"), []byte("#!/bin/sh\necho no plugin\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(root, ".bin", "standins"), "./tools/standins")
	build.Dir = filepath.Join(servers.Repo(), "tests")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the registries: %v\n%s", err, out)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = root
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + root, "VAULT_CLI_NO_COLOR=1", "VAULT_NAMESPACE=of-another-server", "BAO_TOKEN=of-another-server"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", name, args, err, out)
		}
		return string(out)
	}
	t.Cleanup(func() { run("scripts/dev.sh", "stop") })
	printed := run("scripts/dev.sh", "start") + run("scripts/dev.sh", "registries")
	again := run("scripts/dev.sh", "start") + run("scripts/dev.sh", "registries")
	if printed != again {
		t.Errorf("a second call must find what runs, and printed:\n%s\n--- in place of\n%s", again, printed)
	}
	var typed []string
	for line := range strings.Lines(printed) {
		if command, indented := strings.CutPrefix(line, "    "); indented {
			typed = append(typed, strings.TrimSpace(command))
		}
	}
	if len(typed) < 15 {
		t.Fatalf("found %d commands:\n%s", len(typed), printed)
	}
	out := run("bash", "-c", "set -e\n"+strings.Join(typed, "\n"))
	if !regexp.MustCompile(`verdict\s+ok\b`).MatchString(out) {
		t.Errorf("want the verdict ok, got\n%s", out)
	}
	for _, want := range []string{
		`{"auths":{"registry.gitlab.com":`, "gitlab+deploy-token-", "pending_revocations    [map[name:regcred-team-app-",
		"lease_id", "All revocation operations queued", "connections/gitlab/rotate-root", "robot$apps+regcred-harbor-app-",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the commands do not print %q:\n%s", want, out)
		}
	}

	// One token and one address: another VAULT_TOKEN counts, on OpenBao too.
	if env := run("bash", "-c", ". .dev/env.sh; env"); strings.Contains(env, "BAO_") || strings.Contains(env, "VAULT_NAMESPACE") || strings.Count(env, "_TOKEN=") != 1 {
		t.Errorf("want VAULT_ADDR and VAULT_TOKEN, and no other variable of a server, got\n%s", env)
	}
	log, err := os.ReadFile(filepath.Join(root, ".dev", "registries.log"))
	if err != nil || !strings.Contains(string(log), "gitlab: POST /api/v4/projects/") || !strings.Contains(string(log), "harbor: POST /api/v2.0/robots") {
		t.Errorf("want a line for each request, got %v\n%s", err, log)
	}

	var pids []string
	for _, file := range []string{"pid", "registries.pid"} {
		pid, err := os.ReadFile(filepath.Join(root, ".dev", file))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, strings.TrimSpace(string(pid)))
	}
	run("scripts/dev.sh", "stop")
	for _, pid := range pids {
		if err := exec.Command("kill", "-0", pid).Run(); err == nil {
			t.Errorf("the process %s still runs", pid)
		}
	}
	if _, err := os.Stat(filepath.Join(root, ".dev")); !os.IsNotExist(err) {
		t.Errorf("want no folder .dev, got %v", err)
	}
}
