// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	goversion "github.com/hashicorp/go-version"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestVersionOfABuild runs scripts/version.sh in a repository at each state. Vault,
// which compares versions with the same package, takes each, and those of later
// commits are higher.
func TestVersionOfABuild(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script, err := os.ReadFile(filepath.Join(servers.Repo(), "scripts", "version.sh"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(path, content string) {
		t.Helper()
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put("source/scripts/version.sh", string(script))
	run := func(program string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir = filepath.Join(dir, "source")
		cmd.Env = append(os.Environ(), "HOME="+dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir),
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", program, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git := func(args ...string) { t.Helper(); run("git", args...) }
	commit := func() { t.Helper(); git("commit", "-q", "--allow-empty", "-m", "more") }

	var last *goversion.Version
	is := func(want string) {
		t.Helper()
		got := run(filepath.Join("scripts", "version.sh"))
		if !regexp.MustCompile(`^` + want + `$`).MatchString(got) {
			t.Errorf("want %s, got %s", want, got)
		}
		version, err := goversion.NewSemver(got)
		if err != nil {
			t.Fatalf("%s is no semantic version: %v", got, err)
		}
		if strings.HasSuffix(got, ".dirty") {
			return
		}
		if last != nil && version.LessThan(last) {
			t.Errorf("%s is lower than %s, which was before", version, last)
		}
		last = version
	}

	is(`v0\.1\.0-dev`)
	run("git", "init", "-q", "..") // the source is unpacked in somebody's repository
	is(`v0\.1\.0-dev`)
	git("init", "-q")
	is(`v0\.1\.0-dev`)
	git("add", ".")
	commit()
	is(`v0\.1\.0-dev\.1\.g[0-9a-f]{7}`)
	git("tag", "nightly")
	put("source/scripts/version.sh", string(script)+"# changed\n")
	is(`v0\.1\.0-dev\.1\.g[0-9a-f]{7}\.dirty`)
	git("commit", "-q", "-a", "-m", "changed")
	is(`v0\.1\.0-dev\.2\.g[0-9a-f]{7}`)
	git("tag", "-a", "-m", "first", "v0.1.0")
	is(`v0\.1\.0`)
	put("source/scripts/version.sh", string(script))
	is(`v0\.1\.1-dev\.0\.g[0-9a-f]{7}\.dirty`)
	git("checkout", "-q", ".")
	for range 10 {
		commit()
	}
	is(`v0\.1\.1-dev\.10\.g[0-9a-f]{7}`)
	git("tag", "v0.2.0-rc.1")
	is(`v0\.2\.0-rc\.1`)
	commit()
	is(`v0\.2\.0-rc\.1\.1\.g[0-9a-f]{7}`)
	git("tag", "v0.2.0")
	is(`v0\.2\.0`)
}
