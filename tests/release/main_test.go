// SPDX-License-Identifier: MPL-2.0

// Package release tests what "make release" left in dist/. "make release-check"
// builds that first, and what the tests need.
package release

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

const program = "vault-plugin-secrets-regcred"

var (
	version   = os.Getenv("VERSION")
	platforms = strings.Fields(os.Getenv("PLATFORMS")) // such as linux/amd64
	released  = program + "_" + strings.TrimPrefix(version, "v")
)

func TestMain(m *testing.M) {
	if version == "" || len(platforms) == 0 {
		fmt.Fprintln(os.Stderr, "VERSION and PLATFORMS must be those of \"make release\": run \"make release-check\"")
		os.Exit(1)
	}
	servers.CleanEnv()
	os.Exit(m.Run())
}

// dist returns the path of a file below dist/.
func dist(name ...string) string {
	return filepath.Join(append([]string{servers.Repo(), "dist"}, name...)...)
}

// folder returns a platform in the form that names have.
func folder(platform string) string { return strings.ReplaceAll(platform, "/", "_") }

// binary returns the name of the program on a platform.
func binary(platform string) string {
	if strings.HasPrefix(platform, "windows/") {
		return program + ".exe"
	}
	return program
}

// archive returns the name of a platform's archive.
func archive(platform string) string {
	if strings.HasPrefix(platform, "windows/") {
		return released + "_" + folder(platform) + ".zip"
	}
	return released + "_" + folder(platform) + ".tar.gz"
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
