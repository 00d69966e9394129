// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestPull pulls from a registry that asks for a password, with the pull
// secret as Vault gives it and nothing else.
func TestPull(t *testing.T) {
	t.Parallel()
	const username, password = "robot$team+puller", `p"4\ss:<&>$`
	registry := servers.StartRegistry(t, username, password)
	image := registry.Addr + "/team/app:1"
	pushImage(t, image, username, password)

	v := servers.StartVault(t)
	write(t, v.Client, "regcred/roles/right", fields{"registry": registry.Addr, "username": username, "password": password})
	write(t, v.Client, "regcred/roles/wrong", fields{"registry": registry.Addr, "username": username, "password": "wrong"})

	for client, pull := range pullers {
		for form, field := range map[string]string{"kubernetes": ".dockerconfigjson", "docker": "config.json"} {
			t.Run(client+" with "+field, func(t *testing.T) {
				secret := func(role string) string {
					return read(t, v.Client, "regcred/creds/"+role+"/"+form)[field].(string)
				}
				if out, err := pull(t, image, secret("right")); err != nil {
					t.Errorf("pulling with the right password: %v\n%s", err, out)
				}
				out, err := pull(t, image, secret("wrong"))
				if err == nil {
					t.Fatal("pulling with a wrong password must fail")
				}
				if !strings.Contains(strings.ToLower(out), "unauthorized") && !strings.Contains(out, "authentication required") {
					t.Errorf("want a refusal by the registry, got\n%s", out)
				}
			})
		}
	}
}

// pullers pull an image with a Docker config, each with a real client.
var pullers = map[string]func(t *testing.T, image, config string) (output string, err error){
	"crane": func(t *testing.T, image, config string) (string, error) {
		return run(t, config, servers.Bin(t, "crane"), "pull", "--insecure", image, filepath.Join(t.TempDir(), "image.tar"))
	},
	"skopeo": func(t *testing.T, image, config string) (string, error) {
		return run(t, config, servers.Bin(t, "skopeo"), "copy", "--insecure-policy", "--src-tls-verify=false",
			"docker://"+image, "dir:"+t.TempDir())
	},
}

// run runs a client whose only credentials are those of the Docker config.
func run(t *testing.T, config, program string, args ...string) (string, error) {
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

func pushImage(t testing.TB, image, username, password string) {
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
