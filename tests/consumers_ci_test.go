// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestGitHubActions follows hashicorp/vault-action 3.
func TestGitHubActions(t *testing.T) {
	c := newConsumer(t, "github-actions")
	c.does("policy.hcl", []string{"workflow.yaml"}, func(r *attempt) error {
		type action struct {
			URL       string `json:"url"`
			Method    string `json:"method"`
			Role      string `json:"role"`
			ExportEnv *bool  `json:"exportEnv"`
			Secrets   string `json:"secrets"`
		}
		type step struct {
			ID   string            `json:"id"`
			Uses string            `json:"uses"`
			With action            `json:"with"`
			Run  string            `json:"run"`
			Env  map[string]string `json:"env"`
		}
		var workflow struct {
			On          string            `json:"true"` // YAML 1.1 reads "on" as true
			Permissions map[string]string `json:"permissions"`
			Jobs        map[string]struct {
				RunsOn string `json:"runs-on"`
				Steps  []step `json:"steps"`
			} `json:"jobs"`
		}
		if err := r.parse("workflow.yaml", &workflow); err != nil {
			return err
		}
		job := workflow.Jobs["pull"]
		if len(job.Steps) != 2 || job.Steps[0].With.ExportEnv == nil {
			return errors.New("something is missing")
		}
		vault, shell := job.Steps[0], job.Steps[1]
		if err := errors.Join(
			want("workflow", "push ubuntu-latest map[id-token:write]", fmt.Sprint(workflow.On, " ", job.RunsOn, " ", workflow.Permissions)),
			want("action", "hashicorp/vault-action@v3 "+exampleAddress+" jwt my_app false",
				fmt.Sprint(vault.Uses, " ", vault.With.URL, " ", vault.With.Method, " ", vault.With.Role, " ", *vault.With.ExportEnv))); err != nil {
			return err
		}
		// As parseSecretsInput in src/action.js.
		spec, output, found := strings.Cut(vault.With.Secrets, "|")
		parts := strings.Fields(spec)
		if !found || len(parts) != 2 || strings.Contains(parts[1], ".") {
			return errors.New("You must provide a valid path and key")
		}
		value, err := vaultAction(r, parts[0], parts[1])
		if err != nil {
			return err
		}
		outputs := map[string]string{fmt.Sprintf("${{ steps.%s.outputs.%s }}", vault.ID, strings.TrimSpace(output)): value}
		var env []string
		for name, expression := range shell.Env {
			env = append(env, name+"="+outputs[expression])
		}
		return r.shell(shell.Run, env)
	})
	c.Run("config.json arrives with backslashes", func(t *testing.T) {
		r := c.asRoot()
		got, err := vaultAction(r, "regcred/creds/my_app/docker", "config.json")
		if err != nil || !strings.HasPrefix(got, `{\"auths\":`) {
			t.Errorf("docs/consumers/github-actions.md says that backslashes are in it, got %q, %v", got, err)
		}
	})
	c.Run("fields", func(t *testing.T) { c.plainFields(t, "data") })
	c.Run("no such role", func(t *testing.T) {
		r := c.asRoot()
		if _, err := vaultAction(r, "regcred/creds/none", "dockerconfigjson"); err == nil || !strings.Contains(err.Error(), "it was not found") {
			t.Errorf("want an error that says so, got %v", err)
		}
	})
}

// vaultAction does what getSecrets and selectData of src/secrets.js do for one
// field.
func vaultAction(r *attempt, path, field string) (string, error) {
	status, body, err := r.getJSON(path, nil)
	switch {
	case err != nil:
		return "", err
	case status == http.StatusNotFound:
		return "", fmt.Errorf("Unable to retrieve result for %q because it was not found", path)
	case status != http.StatusOK:
		return "", fmt.Errorf("Response code %d", status)
	}
	data, ok := body["data"].(map[string]any)
	if !ok {
		return "", errors.New("no data")
	}
	if _, found := data["data"]; found {
		return "", errors.New("taken for version 2 of KV")
	}
	text, ok := data[field].(string)
	if !ok {
		return "", fmt.Errorf("Unable to retrieve result for data.%q. No match data was found", field)
	}
	if json.Valid([]byte(text)) { // vault-action escapes JSON and does not undo it
		quoted, err := json.Marshal(text)
		return strings.Trim(string(quoted), `"`), err
	}
	return text, nil
}

// shell runs a script in an empty home and with the given environment only, and
// returns what Docker then finds for the registry.
func (r *attempt) shell(script string, env []string) error {
	home, err := os.MkdirTemp("", "consumer")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(home) }()
	cmd := exec.Command("bash", "-e", "-c", script)
	cmd.Env = slices.Concat(env, []string{"HOME=" + home, "PATH=" + filepath.Join(servers.Repo(), ".bin") + ":" + os.Getenv("PATH")})
	cmd.Dir = home
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	file := filepath.Join(home, ".docker", "config.json")
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := want("mode", os.FileMode(0o600), info.Mode()); err != nil {
		return err
	}
	return dockerFinds(string(content))
}

// dockerFinds reads a config.json with the library of the Docker CLI.
func dockerFinds(config string) error {
	if !json.Valid([]byte(config)) {
		return fmt.Errorf("not JSON: %s", config)
	}
	file := configfile.New("config.json")
	if err := file.LoadFromReader(strings.NewReader(config)); err != nil {
		return err
	}
	found, err := file.GetAuthConfig(exampleRegistry)
	if err != nil {
		return err
	}
	return want("what Docker finds", clients.Login{Username: exampleUsername, Password: examplePassword}, clients.Login{Username: found.Username, Password: found.Password})
}

// TestGitLabCI follows GitLab Runner 19.4.
func TestGitLabCI(t *testing.T) {
	c := newConsumer(t, "gitlab-ci")
	c.does("policy.hcl", []string{"gitlab-ci.yml"}, func(r *attempt) error {
		var pipeline map[string]struct {
			Image     string            `json:"image"`
			Variables map[string]string `json:"variables"`
			IDTokens  map[string]struct {
				Aud string `json:"aud"`
			} `json:"id_tokens"`
			Secrets map[string]struct {
				Vault struct {
					Engine struct {
						Name string `json:"name"`
						Path string `json:"path"`
					} `json:"engine"`
					Path  string `json:"path"`
					Field string `json:"field"`
				} `json:"vault"`
				File  *bool  `json:"file"`
				Token string `json:"token"`
			} `json:"secrets"`
			Script []string `json:"script"`
		}
		if err := r.parse("gitlab-ci.yml", &pipeline); err != nil {
			return err
		}
		job := pipeline["pull"]
		s, found := job.Secrets["DOCKER_AUTH_CONFIG"]
		if !found || s.File == nil || *s.File {
			return errors.New("DOCKER_AUTH_CONFIG must be a variable, and holds the path of a file by default")
		}
		if err := errors.Join(
			want("variables", map[string]string{"VAULT_SERVER_URL": exampleAddress, "VAULT_AUTH_ROLE": "my_app"}, job.Variables),
			want("audience", exampleAddress, job.IDTokens[strings.TrimPrefix(s.Token, "$")].Aud),
			want("token", "$VAULT_ID_TOKEN", s.Token),
			want("job", "registry.gitlab.com/team/builder [make]", fmt.Sprint(job.Image, " ", job.Script))); err != nil {
			return err
		}
		// As helpers/vault/secret_engines/generic/engine.go. kv-v1 is the same
		// engine; kv-v2 inserts data/.
		if s.Vault.Engine.Name != "generic" {
			return fmt.Errorf("factory for engine %s not registered", s.Vault.Engine.Name)
		}
		response, err := r.get(path.Join(s.Vault.Engine.Path, s.Vault.Path), nil)
		if err != nil {
			return err
		}
		// As helpers/secrets/resolvers/vault/resolver.go: a missing field and a
		// missing path are the same error.
		if response == nil || response.Data[s.Vault.Field] == nil {
			return errors.New("secret not found")
		}
		return dockerFinds(fmt.Sprintf("%v", response.Data[s.Vault.Field])) // helpers/docker/auth/auth.go
	})
	c.Run("no dollar that a variable could expand", func(t *testing.T) {
		if config := read(t, c.vault.Client, "regcred/creds/my_app/docker")["config.json"].(string); strings.Contains(config, "$") {
			t.Errorf("got %s", config)
		}
	})
	c.Run("no such role", c.absent)
}

// TestDocker runs the example with the real vault program, and reads the file
// that it wrote with the libraries of Docker (which BuildKit uses too), podman
// and skopeo.
func TestDocker(t *testing.T) {
	c := newConsumer(t, "docker")
	c.does("policy.hcl", []string{"config.sh"}, func(r *attempt) error {
		r.asked["regcred/creds/my_app/docker"] = true
		return r.shell(r.files["config.sh"], []string{"VAULT_ADDR=" + r.vault.Addr, "VAULT_TOKEN=" + r.Token()})
	})
	c.Run("a refusal leaves the file as it was", func(t *testing.T) {
		again := "\nVAULT_TOKEN=none\n"
		script, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", "docker", "config.sh"))
		if err != nil {
			t.Fatal(err)
		}
		r := c.asRoot()
		if err := r.shell(string(script)+again+strings.TrimSpace(string(script))+" || true", []string{"VAULT_ADDR=" + r.vault.Addr, "VAULT_TOKEN=" + r.Token()}); err != nil {
			t.Error(err)
		}
	})
	config := read(t, c.vault.Client, "regcred/creds/my_app/docker")["config.json"].(string)
	found := clients.Ask(t, "read-containers", []clients.LookUp{{Config: config, Image: exampleRegistry + "/team/app"}})
	wanted := []clients.Found{{Credentials: []clients.Login{{Username: exampleUsername, Password: examplePassword}}}}
	if diff := cmp.Diff(wanted, found); diff != "" {
		t.Errorf("what podman and skopeo find (-want +got):\n%s", diff)
	}
}

// TestDockerReadsItsEnvironment sets DOCKER_AUTH_CONFIG, in which the Docker
// CLI accepts only the field "auth".
func TestDockerReadsItsEnvironment(t *testing.T) {
	v := servers.StartVault(t)
	write(t, v.Client, "regcred/roles/my_app", fields{"registry": exampleRegistry, "username": exampleUsername, "password": examplePassword})
	for form, field := range map[string]string{"docker": "config.json", "kubernetes": ".dockerconfigjson"} {
		t.Setenv(configfile.DockerEnvConfigKey, read(t, v.Client, "regcred/creds/my_app/"+form)[field].(string))
		found, err := configfile.New("none").GetAuthConfig(exampleRegistry)
		if err != nil {
			t.Fatal(err)
		}
		if got := found.Password == examplePassword; got != (form == "docker") {
			t.Errorf("creds/my_app/%s: found the password: %t", form, got)
		}
	}
}
