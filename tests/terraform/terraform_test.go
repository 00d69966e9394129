// SPDX-License-Identifier: MPL-2.0

// Package terraform applies examples/terraform with real programs: OpenTofu,
// and release 1.9.0 of the provider for Vault, the last one that can be built
// from its Go module. That release lacks vault_plugin and plugin_version, so
// the test registers the plugin itself; the rest is applied unchanged. "make
// e2e-terraform" builds what it needs and runs it.
package terraform

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

func TestMain(m *testing.M) {
	servers.CleanEnv()
	os.Exit(m.Run())
}

// TestTerraform applies the examples with their policies: it installs, changes,
// repairs and removes. After each apply, a plan must be empty.
func TestTerraform(t *testing.T) {
	v := servers.StartVault(t)
	if err := v.Client.Sys().Unmount(servers.Mount); err != nil {
		t.Fatal(err)
	}
	lab := gitlabtest.New(t)
	const password = "gl\"dt\\-<&>'$9"
	admin := lab.Connection().Secrets["token"].Reveal()
	tf := newTerraform(t, v, strings.NewReplacer("https://gitlab.example.com", lab.URL, "registry.example.com", lab.Host()))
	tf.set("password", password)
	tf.set("token", admin)

	tf.run("apply", "-auto-approve")
	tf.changesNothing()
	if got := readField(t, v, "regcred/creds/team_app", "username"); !strings.HasPrefix(got, "gitlab+deploy-token-") {
		t.Errorf("creds/team_app: username %q", got)
	}
	if got := readField(t, v, "regcred/creds/my_app", "password"); got != password {
		t.Errorf("creds/my_app: want the password %q, got %q", password, got)
	}
	if !tf.stateHas(admin) {
		t.Error("the state does not have the token: the page says that it does")
	}

	// As the page says: after an apply without the token, the state no longer
	// has it, and the connection keeps working with the token that rotate-root
	// made.
	tf.unset("token")
	tf.run("apply", "-auto-approve")
	tf.changesNothing()
	if tf.stateHas(admin) {
		t.Error("without the token, the state still has it")
	}
	v.CLI(t, "", "write", "regcred/connections/gitlab", "service_account_group=group")
	v.CLI(t, "", "write", "-f", "regcred/connections/gitlab/rotate-root")
	tf.changesNothing()

	// A change in the examples, and one by somebody else.
	tf.edit("connection.tf", `["group/*"]`, `["group/*", "other/*"]`)
	tf.edit("dynamic-role.tf", "86400", "43200")
	tf.run("apply", "-auto-approve")
	tf.changesNothing()
	if got := readField(t, v, "regcred/roles/team_app", "rotation_period"); got != "43200" {
		t.Errorf("rotation_period: %s", got)
	}
	if _, err := v.Client.Logical().Delete("regcred/roles/my_app"); err != nil {
		t.Fatal(err)
	}
	v.CLI(t, "", "write", "regcred/config", "expiry_warning=1h")
	if tf.plan() == 0 {
		t.Error("the plan does not see that a role was deleted and a setting changed")
	}
	tf.run("apply", "-auto-approve")
	tf.changesNothing()
	if got := readField(t, v, "regcred/creds/my_app", "password"); got != password {
		t.Errorf("creds/my_app after it was deleted: want the password %q, got %q", password, got)
	}

	tf.run("destroy", "-auto-approve")
	mounts, err := v.Client.Sys().ListMounts()
	if err != nil || mounts[servers.Mount+"/"] != nil {
		t.Errorf("destroyed, the mount is still there: %v", err)
	}
	if living := lab.Living(); len(living) > 0 {
		t.Errorf("destroyed, credentials live on at the registry: %q", living)
	}
}

func readField(t *testing.T, v *servers.Vault, path, field string) string {
	t.Helper()
	return strings.TrimSuffix(v.CLI(t, "", "read", "-field="+field, path), "\n")
}

// terraform is a folder with the examples, and how to run the program in it.
type terraform struct {
	*testing.T
	program, dir string
	env          []string
	variables    map[string]string
}

func newTerraform(t *testing.T, v *servers.Vault, stands *strings.Replacer) *terraform {
	t.Helper()
	tf := &terraform{T: t, program: servers.Bin(t, "tofu"), dir: t.TempDir(), variables: map[string]string{}}
	const version = "v0.0.0-dev"
	example := func(name string) string {
		content, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", "terraform", name))
		if err != nil {
			t.Fatal(err)
		}
		return stands.Replace(string(content))
	}
	for _, name := range []string{"install.tf", "config.tf", "connection.tf", "dynamic-role.tf", "role.tf"} {
		content := example(name)
		if name == "install.tf" {
			content = forOldProvider(t, content)
		}
		tf.write(name, content)
	}
	// As the page says for a role beside the mount.
	tf.edit("role.tf", `"regcred/roles`, `"${vault_mount.regcred.path}/roles`)
	tf.write("provider.tf", "provider \"vault\" {\n  address         = \""+v.Addr+"\"\n  skip_tls_verify = false\n}\n")
	// The old provider always creates a token of its own for each run, and
	// lists all mounts to read one.
	policies := `
path "auth/token/create" { capabilities = ["update"] }
path "auth/token/lookup-self" { capabilities = ["read"] }
path "sys/mounts" { capabilities = ["read"] }
`
	for _, name := range []string{"install-policy.hcl", "connection-policy.hcl", "role-policy.hcl"} {
		policies += "\n" + example(name)
	}
	if err := v.Client.Sys().PutPolicy("terraform", policies); err != nil {
		t.Fatal(err)
	}
	token, err := v.NewToken("terraform")
	if err != nil {
		t.Fatal(err)
	}
	// With the version that it reports, as vault_plugin would.
	if err := v.Client.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: servers.PluginName, Type: api.PluginTypeSecrets, Command: servers.PluginName,
		SHA256: v.CopyPlugin(t, servers.Plugin(t), servers.PluginName),
	}); err != nil {
		t.Fatal(err)
	}

	plugins := filepath.Join(t.TempDir(), "plugins")
	if err := os.Mkdir(plugins, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(servers.Bin(t, "terraform-provider-vault"), filepath.Join(plugins, "terraform-provider-vault")); err != nil {
		t.Fatal(err)
	}
	tf.write("cli.tfrc", "disable_checkpoint = true\nprovider_installation {\n  dev_overrides {\n    \"hashicorp/vault\" = \""+plugins+"\"\n  }\n  direct {}\n}\n")
	tf.env = []string{
		"HOME=" + tf.dir, "TMPDIR=" + t.TempDir(), "PATH=" + os.Getenv("PATH"),
		"TF_CLI_CONFIG_FILE=" + filepath.Join(tf.dir, "cli.tfrc"), "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1",
		"VAULT_ADDR=" + v.Addr, "VAULT_TOKEN=" + token,
	}
	tf.set("regcred", `{version="`+version+`",sha256=""}`)
	return tf
}

// forOldProvider removes from install.tf what release 1.9.0 does not know.
func forOldProvider(t *testing.T, content string) string {
	t.Helper()
	file, diagnostics := hclwrite.ParseConfig([]byte(content), "install.tf", hcl.InitialPos)
	if diagnostics.HasErrors() {
		t.Fatal(diagnostics)
	}
	plugin := file.Body().FirstMatchingBlock("resource", []string{"vault_plugin", "regcred"})
	mount := file.Body().FirstMatchingBlock("resource", []string{"vault_mount", "regcred"})
	if plugin == nil || mount == nil || mount.Body().RemoveAttribute("plugin_version") == nil || !file.Body().RemoveBlock(plugin) {
		t.Fatal("install.tf has no vault_plugin.regcred, or no vault_mount.regcred with its version")
	}
	return strings.ReplaceAll(string(file.Bytes()), "vault_plugin.regcred.name", `"`+servers.PluginName+`"`)
}

func (tf *terraform) write(name, content string) {
	tf.Helper()
	if err := os.WriteFile(filepath.Join(tf.dir, name), []byte(content), 0o600); err != nil {
		tf.Fatal(err)
	}
}

func (tf *terraform) edit(name, from, to string) {
	tf.Helper()
	content, err := os.ReadFile(filepath.Join(tf.dir, name))
	if err != nil || !bytes.Contains(content, []byte(from)) {
		tf.Fatalf("%s has no %q: %v", name, from, err)
	}
	tf.write(name, strings.Replace(string(content), from, to, 1))
}

func (tf *terraform) set(variable, value string) { tf.variables[variable] = value }

func (tf *terraform) unset(variable string) { delete(tf.variables, variable) }

func (tf *terraform) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(tf.Context(), tf.program, append(args, "-no-color", "-input=false")...)
	cmd.Dir, cmd.Env = tf.dir, tf.env
	for variable, value := range tf.variables {
		cmd.Env = append(cmd.Env, "TF_VAR_"+variable+"="+value)
	}
	return cmd
}

// run runs a command. "init" is not needed, because the configuration says
// where the provider is.
func (tf *terraform) run(args ...string) {
	tf.Helper()
	if out, err := tf.command(args...).CombinedOutput(); err != nil {
		tf.Fatalf("tofu %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// plan returns 0 if nothing is to change, and 2 if something is.
func (tf *terraform) plan() int {
	tf.Helper()
	out, err := tf.command("plan", "-detailed-exitcode").CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() == 2:
		tf.Logf("tofu plan:\n%s", out)
		return 2
	}
	tf.Fatalf("tofu plan: %v\n%s", err, out)
	return 1
}

func (tf *terraform) changesNothing() {
	tf.Helper()
	if tf.plan() != 0 {
		tf.Fatal("the next plan is not empty")
	}
}

func (tf *terraform) stateHas(secret string) bool {
	tf.Helper()
	state, err := os.ReadFile(filepath.Join(tf.dir, "terraform.tfstate"))
	if err != nil {
		tf.Fatal(err)
	}
	return bytes.Contains(state, []byte(secret))
}
