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

var (
	version   = os.Getenv("VERSION")
	platforms = strings.Fields(os.Getenv("PLATFORMS")) // such as linux/amd64
)

// product is a program that is released, with its archives and its image.
type product struct {
	program   string
	module    string            // whose program it is, as its bill of materials names it
	documents map[string]string // in its archives, by name: where they are in the repository
	image     string            // what the name of the image has after that of the plugin's
}

var (
	plugin = product{
		program: "vault-plugin-secrets-regcred", module: "vault-plugin-secrets-regcred",
		documents: map[string]string{"LICENSE": "LICENSE", "README.md": "README.md", "CHANGELOG.md": "CHANGELOG.md", "preflight.sh": "scripts/preflight.sh"},
	}
	client = product{
		program: "regcred", module: "vault-plugin-secrets-regcred/cmd/regcred",
		documents: map[string]string{"LICENSE": "LICENSE", "README.md": "docs/client/README.md", "CHANGELOG.md": "CHANGELOG.md"},
		image:     "-client",
	}
	products = []product{plugin, client}
	chart    = "regcred-node-" + strings.TrimPrefix(version, "v") + ".tgz"
)

// each runs a test for both products.
func each(t *testing.T, test func(*testing.T, product)) {
	t.Helper()
	for _, p := range products {
		t.Run(p.program, func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

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

func (p product) released() string { return p.program + "_" + strings.TrimPrefix(version, "v") }

// binary returns the name of the program on a platform.
func (p product) binary(platform string) string {
	if strings.HasPrefix(platform, "windows/") {
		return p.program + ".exe"
	}
	return p.program
}

// archive returns the name of a platform's archive.
func (p product) archive(platform string) string {
	if strings.HasPrefix(platform, "windows/") {
		return p.released() + "_" + folder(platform) + ".zip"
	}
	return p.released() + "_" + folder(platform) + ".tar.gz"
}

// bill returns the name of a platform's bill of materials.
func (p product) bill(platform string) string {
	return p.released() + "_" + folder(platform) + ".cdx.json"
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
