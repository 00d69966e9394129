// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestPreflight runs scripts/preflight.sh, with the policy of those who run the
// mount, on a node whose program is right, and on one with each thing that can be
// wrong with it. Whatever the script accepts, Vault starts.
func TestPreflight(t *testing.T) {
	t.Parallel()
	const version = "v9.9.9"
	v := servers.StartRaftVault(t)
	write(t, v.Client, "regcred/roles/app", credential(nil))
	built := buildPlugin(t, version)
	name := servers.PluginName + "-" + version
	v.Register(t, built, name, version)
	file := filepath.Join(v.PluginDir, name)
	token := personaTokens(t, v)[platform]

	preflight := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", append([]string{filepath.Join(servers.Repo(), "scripts", "preflight.sh")}, args...)...)
		cmd.Env = append(v.Env(), "VAULT_TOKEN="+token, "BAO_TOKEN="+token)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	passes := func(want string, args ...string) {
		t.Helper()
		if out, err := preflight(args...); err != nil || !strings.HasPrefix(out, "ok: ") || !strings.Contains(out, want) {
			t.Errorf("preflight %q: want ok with %q, got %v\n%s", args, want, err, out)
		}
	}
	fails := func(want string, args ...string) {
		t.Helper()
		out, err := preflight(args...)
		if err == nil || !strings.Contains(out, "FAIL: ") || !strings.Contains(out, want) {
			t.Errorf("preflight %q: want a failure with %q, got %v\n%s", args, want, err, out)
		}
	}

	// The mount still has the version with which it was enabled.
	passes(runningVersion(t, v), v.PluginDir)
	passes(version, v.PluginDir, version)
	fails("no "+servers.PluginName+" v9.9.8", v.PluginDir, "v9.9.8")
	fails("no such directory", v.PluginDir+"-of-another-node", version)

	wrong := func(want string, spoil func() error) {
		t.Helper()
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		fails(want, v.PluginDir, version)
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
		v.CopyPlugin(t, built, name)
		passes(version, v.PluginDir, version)
	}
	wrong("no such file on this node", func() error { return os.Remove(file) })
	wrong("has the checksum", func() error { return os.WriteFile(file, []byte("#!/bin/sh\n"), 0o600) })
	wrong("chmod 0755", func() error { return os.Chmod(file, 0o600) })
	wrong("outside the plugin directory", func() error {
		if err := os.Remove(file); err != nil {
			return err
		}
		return os.Symlink(built, file)
	})
	wrong("is not a file", func() error {
		if err := os.Remove(file); err != nil {
			return err
		}
		return os.Mkdir(file, 0o700)
	})

	tune(t, v, version)
	passes(version, v.PluginDir)
	reload(t, v)
	if got := runningVersion(t, v); got != version {
		t.Errorf("want the running version %s, got %s", version, got)
	}
	if out := v.CLI(t, "", "read", "-field=registry", "regcred/creds/app"); out != "registry.example.com" {
		t.Errorf("after the reload: got %q", out)
	}
	// The failure that the script is for.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	fails("no such file on this node", v.PluginDir)
	cmd := exec.CommandContext(t.Context(), servers.Bin(t, "vault"), "plugin", "reload", "-plugin="+servers.PluginName)
	cmd.Env = v.Env()
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("a reload without the program must fail, and did not: %s", out)
	}
	if _, err := v.Client.Logical().Read("regcred/creds/app"); err == nil || !strings.Contains(err.Error(), "error verifying checksum: open ") {
		t.Errorf("want the error of a missing program, got %v", fmt.Sprint(err))
	}
	v.CopyPlugin(t, built, name)
	passes(version, v.PluginDir)
	read(t, v.Client, "regcred/creds/app")
}
