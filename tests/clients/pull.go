// SPDX-License-Identifier: MPL-2.0

// Package clients pulls images and looks up credentials in pull secrets, as the
// real tools do.
package clients

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"vault-plugin-secrets-regcred/tests/servers"
)

// Pullers pull an image from a registry with plain http. Each is a real client,
// which has the credentials of a Docker config and no others.
var Pullers = map[string]func(t testing.TB, image, config string) (output string, err error){
	"crane": func(t testing.TB, image, config string) (string, error) {
		return run(t, config, servers.Bin(t, "crane"), "pull", "--insecure", image, filepath.Join(t.TempDir(), "image.tar"))
	},
	"skopeo": func(t testing.TB, image, config string) (string, error) {
		return run(t, config, servers.Bin(t, "skopeo"), "copy", "--insecure-policy", "--src-tls-verify=false",
			"docker://"+image, "dir:"+t.TempDir())
	},
}

func run(t testing.TB, config, program string, args ...string) (string, error) {
	t.Helper()
	home := t.TempDir()
	file := filepath.Join(home, "config.json")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = []string{
		"HOME=" + home, "TMPDIR=" + t.TempDir(), "XDG_RUNTIME_DIR=" + home, "PATH=" + os.Getenv("PATH"),
		"DOCKER_CONFIG=" + home, "REGISTRY_AUTH_FILE=" + file,
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Push pushes an image with random content.
func Push(t testing.TB, image, username, password string) {
	t.Helper()
	tag, err := name.NewTag(image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	content, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	auth := remote.WithAuth(&authn.Basic{Username: username, Password: password})
	if err := remote.Write(tag, content, auth, remote.WithContext(t.Context())); err != nil {
		t.Fatalf("pushing %s: %v", image, err)
	}
}
