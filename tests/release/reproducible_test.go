// SPDX-License-Identifier: MPL-2.0

package release

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestReproducible builds everything a second time, as somebody else would: in
// another folder, with an empty build cache, in a repository with another
// history, with other settings of Go, another umask and another time zone. All
// files must be the same, byte for byte.
func TestReproducible(t *testing.T) {
	t.Parallel()
	copied := filepath.Join(t.TempDir(), "some", "where else")
	copySource(t, copied)
	if err := os.Symlink(filepath.Join(servers.Repo(), ".bin"), filepath.Join(copied, ".bin")); err != nil {
		t.Fatal(err)
	}
	environment := append(os.Environ(),
		"GOCACHE="+t.TempDir(), "TMPDIR="+t.TempDir(), "TZ=Pacific/Auckland", "LC_ALL=C",
		"SOURCE_DATE_EPOCH="+strconv.FormatInt(commitTime(t).Unix(), 10),
		"CGO_ENABLED=1", "GOFLAGS=-buildvcs=true", "GOAMD64=v3", "GOARM=7", "GOARM64=v8.1", "GOPPC64=power9")
	inCopy := func(command string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "bash", "-c", command)
		cmd.Dir, cmd.Env = copied, environment
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	inCopy(`git init -q && git add LICENSE &&
		git -c user.name=tests -c user.email=tests@example.com -c commit.gpgsign=false commit -q -m other --date=2001-01-01T00:00:00Z`)
	inCopy(`umask 077 && scripts/release.sh ` + version + ` ` + strings.Join(platforms, " "))

	here, there := filesBelow(t, dist()), filesBelow(t, filepath.Join(copied, "dist"))
	for name, content := range here {
		if other, built := there[name]; !built {
			t.Errorf("%s was not built the second time", name)
		} else if !bytes.Equal(content, other) {
			t.Errorf("%s is another the second time", name)
		}
		delete(there, name)
	}
	for name := range there {
		t.Errorf("%s was built the second time only", name)
	}
}

// copySource copies the files of the repository in their present state.
func copySource(t *testing.T, to string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = servers.Repo()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("asking git for the files of the repository: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		from := filepath.Join(servers.Repo(), name)
		info, err := os.Lstat(from)
		if os.IsNotExist(err) {
			continue // deleted, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if !info.Mode().IsRegular() {
			t.Fatalf("%s is not a plain file", name)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), readFile(t, from), info.Mode().Perm()&0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func filesBelow(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files[name] = readFile(t, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
