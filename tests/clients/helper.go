// SPDX-License-Identifier: MPL-2.0

package clients

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"vault-plugin-secrets-regcred/tests/servers"
)

// Helped is a machine on which credential helpers are asked: a home folder, the
// folder of the helpers, and further variables.
type Helped struct {
	Home, Helpers string
	Env           []string
}

// NewHelped makes a machine on which the helper "regcred" is asked for a host, or
// for all if the host is empty.
func NewHelped(t testing.TB, host string, env ...string) Helped {
	t.Helper()
	h := Helped{Home: t.TempDir(), Helpers: servers.ClientAs(t, "docker-credential-regcred"), Env: env}
	config := map[string]any{"credsStore": "regcred"}
	if host != "" {
		config = map[string]any{"credHelpers": map[string]string{host: "regcred"}}
	}
	encoded, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	h.Write(t, ".docker/config.json", string(encoded))
	return h
}

// Write writes a file below the home folder.
func (h Helped) Write(t testing.TB, path, content string) {
	t.Helper()
	file := filepath.Join(h.Home, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Run runs a program on the machine, and returns all that it prints.
func (h Helped) Run(t testing.TB, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = h.Home
	cmd.Env = append([]string{
		"PATH=" + h.Helpers + string(os.PathListSeparator) + os.Getenv("PATH"),
		"HOME=" + h.Home, "TMPDIR=" + h.Home, "XDG_RUNTIME_DIR=" + h.Home,
		"DOCKER_CONFIG=" + filepath.Join(h.Home, ".docker"),
	}, h.Env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// HelpedPullers pull an image from a registry with plain http. Each is a real
// client, which asks the credential helpers of the machine.
var HelpedPullers = map[string]func(t testing.TB, h Helped, image string) (output string, err error){
	"crane": func(t testing.TB, h Helped, image string) (string, error) {
		return h.Run(t, servers.Bin(t, "crane"), "pull", "--insecure", image, filepath.Join(t.TempDir(), "image.tar"))
	},
	"skopeo": func(t testing.TB, h Helped, image string) (string, error) {
		return h.Run(t, servers.Bin(t, "skopeo"), "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+image, "dir:"+t.TempDir())
	},
}

// SystemPullers are those that come from the system's packages.
var SystemPullers = map[string]func(t testing.TB, h Helped, image string) (output string, err error){
	"docker": func(t testing.TB, h Helped, image string) (string, error) {
		h.Env = append(h.Env, "DOCKER_HOST="+startDaemon(t))
		return h.Run(t, servers.Bin(t, "docker"), "pull", image)
	},
	"docker manifest": func(t testing.TB, h Helped, image string) (string, error) {
		return h.Run(t, servers.Bin(t, "docker"), "manifest", "inspect", "--insecure", image)
	},
	"podman": func(t testing.TB, h Helped, image string) (string, error) {
		run, err := os.MkdirTemp("", "podman") // podman refuses a longer path
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(run) })
		return h.Run(t, servers.Bin(t, "podman"), "--root="+h.Home+"/root", "--runroot="+run, "--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=file", "pull", "--tls-verify=false", image)
	},
	"buildah": func(t testing.TB, h Helped, image string) (string, error) {
		return h.Run(t, servers.Bin(t, "buildah"), "--root="+h.Home+"/root", "--runroot="+h.Home+"/run", "--storage-driver=vfs", "pull", "--tls-verify=false", image)
	},
}

// startDaemon starts the part of a Docker daemon that "docker pull" talks to: it
// pulls with the credential that the command line sends. It returns its address.
func startDaemon(t testing.TB) string {
	t.Helper()
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		if !strings.HasSuffix(r.URL.Path, "/images/create") {
			_, _ = fmt.Fprint(w, "OK")
			return
		}
		image := r.URL.Query().Get("fromImage") + ":" + r.URL.Query().Get("tag")
		status := map[string]any{"status": "pulled " + image}
		if err := pullFor(image, r.Header.Get("X-Registry-Auth")); err != nil {
			status = map[string]any{"error": err.Error(), "errorDetail": map[string]string{"message": err.Error()}}
		}
		_ = json.NewEncoder(w).Encode(status)
	}))
	t.Cleanup(daemon.Close)
	return "tcp://" + daemon.Listener.Addr().String()
}

func pullFor(image, header string) error {
	var login struct{ Username, Password, ServerAddress string }
	decoded, err := base64.URLEncoding.DecodeString(header)
	if err == nil && len(bytes.TrimSpace(decoded)) > 0 {
		err = json.Unmarshal(decoded, &login)
	}
	if err != nil {
		return err
	}
	auth := authn.Anonymous
	if login.Username != "" {
		auth = &authn.Basic{Username: login.Username, Password: login.Password}
	}
	ref, err := name.ParseReference(image, name.Insecure)
	if err != nil {
		return err
	}
	pulled, err := remote.Image(ref, remote.WithAuth(auth))
	if err != nil {
		return err
	}
	_, err = pulled.Digest()
	return err
}
