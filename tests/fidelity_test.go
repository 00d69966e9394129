// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dockercli "github.com/docker/cli/cli/config"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// hostileLogins are credentials that templates and hand-made JSON break on.
var hostileLogins = map[string]clients.Login{
	"plain":               {Username: "robot", Password: "p4ss"},
	"deploy token":        {Username: "gitlab+deploy-token-910431", Password: "gldt-x9Qm"},
	"Harbor robot":        {Username: "robot$team+puller", Password: "$HOME ${x} $(id) `id`"},
	"quotes":              {Username: `ro"bot'`, Password: `"double" 'single'`},
	"backslashes":         {Username: `dom\user`, Password: `\n\\ \" \u0000 \`},
	"HTML":                {Username: "<robot>&", Password: "</script>&amp;<>"},
	"percent":             {Username: "100%", Password: "%s %d %% %20"},
	"colons":              {Username: "robot", Password: "a:b::c:"},
	"spaces":              {Username: "ro bot", Password: " leading and trailing "},
	"tabs and newlines":   {Username: "robot", Password: "\ta\n\r\nb\v\f"},
	"not ASCII":           {Username: "Jürgen", Password: "пароль密码"},
	"emoji":               {Username: "🤖", Password: "🔑👩‍👩‍👧‍👦"},
	"line separators":     {Username: "robot", Password: "a\u2028b\u2029c\u0085d"},
	"other controls":      {Username: "robot", Password: "\x01\x1b[31m\x7f"},
	"JSON":                {Username: "robot", Password: `{"auths":{}}`},
	"braces of templates": {Username: "robot", Password: `{{ .Data }} #{x} <%= y %>`},
	"base64 padding":      {Username: "r", Password: "=="},
	"long":                {Username: "robot", Password: strings.Repeat("0123456789abcdef", 256)},
	"service-account key": {Username: "_json_key", Password: "{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN PRIVATE KEY-----\\nMIIE\\n-----END PRIVATE KEY-----\\n\"\n}"},
}

// keyKinds are the kinds of registry keys, each with an image that it is for and
// the readers that do not match it.
var keyKinds = []struct {
	registry string
	image    string
	not      []string
}{
	{"registry.example.com", "registry.example.com/team/app", nil},
	{"https://index.docker.io/v1/", "docker.io/library/busybox", []string{"image-updater"}}, // see TestArgoCDImageUpdater
	{"registry.example.com:5000", "registry.example.com:5000/team/app", nil},
	{"registry.example.com:443", "registry.example.com:443/team/app", nil},
	{"127.0.0.1:5000", "127.0.0.1:5000/team/app", nil},
	{"localhost:5000", "localhost:5000/app", nil},
	{"[::1]:5000", "[::1]:5000/team/app", []string{"containers"}}, // it cannot even name such an image
	{"registry.example.com/team", "registry.example.com/team/app", nil},
	{"docker.io/acme", "docker.io/acme/app", []string{"docker", "go-containerregistry", "flux", "image-updater"}},
	{"*.example.com", "registry.example.com/team/app", []string{"docker", "go-containerregistry", "containers", "image-updater"}},
}

// TestBytesAreThoseOfKubectl compares pull secrets with those of a real
// kubectl.
func TestBytesAreThoseOfKubectl(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	compare := func(what, registry string, l clients.Login, email string) {
		t.Helper()
		body := fields{"registry": registry, "username": l.Username, "password": l.Password, "email": email}
		write(t, v.Client, "regcred/roles/app", body)
		want := kubectlDockerConfig(t, registry, l, email)
		data := read(t, v.Client, "regcred/creds/app")
		if diff := cmp.Diff(want, data[".dockerconfigjson"]); diff != "" {
			t.Errorf("%s: .dockerconfigjson differs from kubectl's (-kubectl +regcred):\n%s", what, diff)
		}
		if diff := cmp.Diff(base64.StdEncoding.EncodeToString([]byte(want)), data["dockerconfigjson"]); diff != "" {
			t.Errorf("%s: dockerconfigjson is not base64 of kubectl's bytes:\n%s", what, diff)
		}
	}
	for what, l := range hostileLogins {
		compare(what, "registry.example.com", l, "")
	}
	for _, kind := range keyKinds {
		compare(kind.registry, kind.registry, hostileLogins["HTML"], `"ops" <ops@example.com>`)
	}
}

// kubectlDockerConfig returns the Docker config that kubectl makes of the same
// input.
func kubectlDockerConfig(t *testing.T, registry string, l clients.Login, email string) string {
	t.Helper()
	args := []string{
		"create", "secret", "docker-registry", "regcred", "--dry-run=client", "-o", "json",
		"--docker-server=" + registry, "--docker-username=" + l.Username, "--docker-password=" + l.Password,
	}
	if email != "" {
		args = append(args, "--docker-email="+email)
	}
	cmd := exec.Command(servers.Bin(t, "kubectl"), args...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl: %v\n%s", err, out)
	}
	var secret struct {
		Type string            `json:"type"`
		Data map[string][]byte `json:"data"`
	}
	if err := json.Unmarshal(out, &secret); err != nil {
		t.Fatalf("reading kubectl's output: %v", err)
	}
	if secret.Type != "kubernetes.io/dockerconfigjson" {
		t.Fatalf("kubectl made a Secret of type %q", secret.Type)
	}
	return string(secret.Data[".dockerconfigjson"])
}

// readers are the libraries with which tools read pull secrets, by their names
// in this test.
var readers = map[string]func(*testing.T, []clients.LookUp) []clients.Found{
	"kubelet":              func(t *testing.T, l []clients.LookUp) []clients.Found { return clients.Ask(t, "read-kubelet", l) },
	"containers":           func(t *testing.T, l []clients.LookUp) []clients.Found { return clients.Ask(t, "read-containers", l) },
	"docker":               askEach(askDocker),
	"go-containerregistry": askEach(askGoContainerRegistry),
	"flux":                 askFlux,
	"image-updater":        askImageUpdater,
}

// TestEveryReaderFindsTheCredential reads pull secrets from a real Vault and
// looks up an image in them as each tool would. It is not parallel, because
// go-containerregistry finds its file by an environment variable.
func TestEveryReaderFindsTheCredential(t *testing.T) {
	v := servers.StartVault(t)
	type question struct {
		what string
		want clients.Login
		not  []string
		clients.LookUp
	}
	forms := map[string][]question{}
	for what, l := range hostileLogins {
		for _, kind := range keyKinds {
			write(t, v.Client, "regcred/roles/app", fields{"registry": kind.registry, "username": l.Username, "password": l.Password})
			for form, config := range map[string]any{
				".dockerconfigjson": read(t, v.Client, "regcred/creds/app/kubernetes")[".dockerconfigjson"],
				"config.json":       read(t, v.Client, "regcred/creds/app/docker")["config.json"],
			} {
				forms[form] = append(forms[form], question{
					what: fmt.Sprintf("%s at %s", what, kind.registry), want: l, not: kind.not,
					LookUp: clients.LookUp{Config: config.(string), Image: kind.image},
				})
			}
		}
	}
	for form, questions := range forms {
		lookUps := make([]clients.LookUp, len(questions))
		for i, q := range questions {
			lookUps[i] = q.LookUp
		}
		for reader, ask := range readers {
			t.Run(reader+" reads "+form, func(t *testing.T) {
				answers := ask(t, lookUps)
				if len(answers) != len(questions) {
					t.Fatalf("want %d answers, got %d", len(questions), len(answers))
				}
				for i, q := range questions {
					if slices.Contains(q.not, reader) {
						if len(answers[i].Credentials) > 0 {
							t.Errorf("%s: this reader is known not to match such a key, and now does: %v", q.what, answers[i])
						}
						continue
					}
					want := clients.Found{Credentials: []clients.Login{q.want}}
					if diff := cmp.Diff(want, answers[i]); diff != "" {
						t.Errorf("%s (-want +got):\n%s", q.what, diff)
					}
				}
			})
		}
	}
}

func askEach(ask func(*testing.T, clients.LookUp) clients.Found) func(*testing.T, []clients.LookUp) []clients.Found {
	return func(t *testing.T, questions []clients.LookUp) []clients.Found {
		answers := make([]clients.Found, len(questions))
		for i, q := range questions {
			answers[i] = ask(t, q)
		}
		return answers
	}
}

// askDocker reads as the Docker CLI does, which looks up Docker Hub under the
// address of its old index.
func askDocker(_ *testing.T, q clients.LookUp) clients.Found {
	host, _, _ := strings.Cut(q.Image, "/")
	if host == "docker.io" {
		host = "https://index.docker.io/v1/"
	}
	file, err := dockercli.LoadFromReader(strings.NewReader(q.Config))
	if err != nil {
		return clients.Found{Error: err.Error()}
	}
	auth, err := file.GetAuthConfig(host)
	return foundOrError(clients.Login{Username: auth.Username, Password: auth.Password}, err)
}

// askGoContainerRegistry reads as crane, ko and kaniko do.
func askGoContainerRegistry(t *testing.T, q clients.LookUp) clients.Found {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(q.Config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	repository, err := name.NewRepository(q.Image)
	if err != nil {
		return clients.Found{Error: err.Error()}
	}
	authenticator, err := authn.DefaultKeychain.Resolve(repository)
	if err != nil {
		return clients.Found{Error: err.Error()}
	}
	auth, err := authn.Authorization(t.Context(), authenticator)
	if err != nil {
		return clients.Found{Error: err.Error()}
	}
	return foundOrError(clients.Login{Username: auth.Username, Password: auth.Password}, nil)
}

// askFlux reads as Flux does for ImageRepository and OCIRepository.
func askFlux(t *testing.T, questions []clients.LookUp) []clients.Found {
	questions = slices.Clone(questions)
	for i, q := range questions {
		questions[i].Secret, questions[i].Manifest = exampleSecretName, imageRepository(q.Image)
	}
	return withoutRead(clients.Ask(t, "read-flux", questions))
}

// askImageUpdater reads as Argo CD Image Updater does with its built-in list of
// registries.
func askImageUpdater(t *testing.T, questions []clients.LookUp) []clients.Found {
	questions = slices.Clone(questions)
	for i := range questions {
		questions[i].Secret = exampleSecretName
	}
	return withoutRead(clients.Ask(t, "read-image-updater", questions))
}

func withoutRead(answers []clients.Found) []clients.Found {
	for i := range answers {
		answers[i].Read = nil
	}
	return answers
}

func foundOrError(l clients.Login, err error) clients.Found {
	switch {
	case err != nil:
		return clients.Found{Error: err.Error()}
	case l == clients.Login{}:
		return clients.Found{}
	}
	return clients.Found{Credentials: []clients.Login{l}}
}
