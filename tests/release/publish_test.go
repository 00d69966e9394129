// SPDX-License-Identifier: MPL-2.0

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPublish checks the arguments that scripts/publish.sh passes to cosign and
// gh. The two are replaced by programs that write down their arguments. Every
// file that the checksums name must be published, with the checksums, and no
// other file. The test does not show that GitHub or Sigstore would accept it.
func TestPublish(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	copySource(t, dir)
	link := func(name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, "dist"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "dist", name), readFile(t, dist(name)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link("SHA256SUMS")
	want := []string{"dist/SHA256SUMS", "dist/SHA256SUMS.sigstore.json"}
	for name := range checksums(t, "SHA256SUMS") {
		link(name)
		want = append(want, "dist/"+name)
	}
	changelog := "# Changelog\n\n## " + strings.TrimPrefix(version, "v") + "9\n\n- not this\n\n## " + strings.TrimPrefix(version, "v") + " (2026-11-24)\n\n- this\n\n## 0.0.9\n\n- nor this\n"
	if err := os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), []byte(changelog), 0o600); err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	for name, script := range map[string]string{
		"cosign": `[ "$*" = "sign-blob --yes --bundle=dist/SHA256SUMS.sigstore.json dist/SHA256SUMS" ] && touch dist/SHA256SUMS.sigstore.json`,
		"gh":     `printf '%s\0' "$@" >"` + programs + `/arguments"`,
	} {
		if err := os.WriteFile(filepath.Join(programs, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "scripts", "publish.sh"), version)
	cmd.Env = append(os.Environ(), "PATH="+programs+string(os.PathListSeparator)+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("publishing: %v\n%s", err, out)
	}

	arguments := strings.Split(strings.TrimSuffix(string(readFile(t, filepath.Join(programs, "arguments"))), "\x00"), "\x00")
	options := []string{"release", "create", version, "--draft", "--verify-tag", "--title=" + version, "--notes=\n- this"}
	if len(arguments) < len(options) {
		t.Fatalf("gh %q", arguments)
	}
	got, files := arguments[:len(options)], arguments[len(options):]
	if diff := cmp.Diff(options, got); diff != "" {
		t.Errorf("gh (-want +got):\n%s", diff)
	}
	slices.Sort(want)
	slices.Sort(files)
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}

	// A version that was not built is not published.
	other := exec.CommandContext(t.Context(), filepath.Join(dir, "scripts", "publish.sh"), "v99.0.0")
	other.Env = cmd.Env
	if out, err := other.CombinedOutput(); err == nil || !strings.Contains(string(out), "dist/ does not hold v99.0.0") {
		t.Errorf("publishing another version: %v, %s", err, out)
	}
}
