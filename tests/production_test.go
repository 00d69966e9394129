// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/tests/servers"
)

func TestRolesSurviveSealAndRestart(t *testing.T) {
	t.Parallel()
	v := servers.StartRaftVault(t)
	write(t, v.Client, "regcred/config", fields{"allowed_registries": "registry.example.com,docker.io", "expiry_warning": "24h"})
	write(t, v.Client, "regcred/roles/one", credential(fields{"email": "ops@example.com", "expires_at": "2027-01-31T00:00:00Z"}))
	write(t, v.Client, "regcred/roles/two", dockerConfig(`{"auths":{"docker.io":{"auth":"dTpw"},"registry.example.com":{"auth":"dTpw"}}}`))
	paths := []string{"regcred/config", "regcred/roles/one", "regcred/roles/two", "regcred/creds/one", "regcred/creds/two"}
	before := readAll(t, v.Client, paths)

	if err := v.Client.Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Client.Logical().Read("regcred/creds/one"); !isStatus(err, 503) {
		t.Errorf("reading from a sealed Vault: want status 503, got %v", err)
	}
	v.Unseal(t)
	if diff := cmp.Diff(before, readAll(t, v.Client, paths)); diff != "" {
		t.Errorf("after seal and unseal (-before +after):\n%s", diff)
	}

	v.Restart(t)
	v.Unseal(t)
	if diff := cmp.Diff(before, readAll(t, v.Client, paths)); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
}

// TestRegisterReloadAndUpgrade follows the plugin on a production server:
// registered by checksum and version, reloaded, and upgraded to a second build.
func TestRegisterReloadAndUpgrade(t *testing.T) {
	t.Parallel()
	v := servers.StartRaftVault(t)
	write(t, v.Client, "regcred/roles/app", credential(nil))
	before := read(t, v.Client, "regcred/creds/app")
	unchanged := func(after string) {
		t.Helper()
		if diff := cmp.Diff(before, read(t, v.Client, "regcred/creds/app")); diff != "" {
			t.Errorf("after %s (-before +after):\n%s", after, diff)
		}
	}

	// Vault never runs a binary that is not the registered one.
	if err := os.WriteFile(filepath.Join(v.PluginDir, "tampered"), []byte("#!/bin/sh\nexit 0\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := v.Client.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: "tampered", Type: api.PluginTypeSecrets, Command: "tampered", SHA256: strings.Repeat("ab", 32),
	}); err == nil {
		if err := v.Client.Sys().Mount("tampered", &api.MountInput{Type: "tampered"}); err == nil {
			t.Error("a plugin with another checksum must not start")
		}
	}

	reload(t, v)
	unchanged("a reload")

	const version = "v9.9.9"
	v.Register(t, buildPlugin(t, version), servers.PluginName+"-"+version, version)
	tune(t, v, version)
	reload(t, v)
	if got := runningVersion(t, v); got != version {
		t.Errorf("running version after the upgrade: want %q, got %q", version, got)
	}
	unchanged("an upgrade")
	write(t, v.Client, "regcred/roles/new", credential(nil))

	v.Restart(t)
	v.Unseal(t)
	if got := runningVersion(t, v); got != version {
		t.Errorf("running version after a restart: want %q, got %q", version, got)
	}
	unchanged("a restart of the upgraded engine")
}

// reload makes Vault start a new process of the plugin.
func reload(t *testing.T, v *servers.Vault) {
	t.Helper()
	// OpenBao has no -type.
	if out := v.CLI(t, "", "plugin", "reload", "-plugin="+servers.PluginName); !strings.Contains(out, "Success!") {
		t.Fatalf("reloading: %s", out)
	}
}

func tune(t *testing.T, v *servers.Vault, version string) {
	t.Helper()
	v.CLI(t, "", "secrets", "tune", "-plugin-version="+version, servers.Mount)
}

// runningVersion returns the version that the plugin reports.
func runningVersion(t *testing.T, v *servers.Vault) string {
	t.Helper()
	mounts, err := v.Client.Sys().ListMounts()
	if err != nil {
		t.Fatal(err)
	}
	return mounts[servers.Mount+"/"].RunningVersion
}

// buildPlugin builds the plugin with another version or other flags.
func buildPlugin(t *testing.T, version string, flags ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), servers.PluginName)
	args := append([]string{"build", "-trimpath", "-ldflags=-X main.version=" + version, "-o", binary}, flags...)
	cmd := exec.Command("go", append(args, "./cmd/vault-plugin-secrets-regcred")...)
	cmd.Dir = servers.Repo()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the plugin: %v\n%s", err, out)
	}
	return binary
}

func TestPluginTellsItsVersion(t *testing.T) {
	t.Parallel()
	binary := buildPlugin(t, "v1.2.3")
	for flag, want := range map[string]string{"-version": "v1.2.3\n", "--version": "v1.2.3\n"} {
		out, err := exec.Command(binary, flag).Output()
		if err != nil || string(out) != want {
			t.Errorf("%s: want %q, got %q, %v", flag, want, out, err)
		}
	}
	// Run by hand, it says what it is instead of waiting forever.
	out, err := exec.Command(binary).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "plugin") {
		t.Errorf("run by hand: want an error that speaks of a plugin, got %v\n%s", err, out)
	}
}

func sumOf(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(content))
}

func readAll(t testing.TB, client *api.Client, paths []string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, path := range paths {
		all[path] = read(t, client, path)
	}
	return all
}
