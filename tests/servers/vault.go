// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"
)

const (
	// PluginName is the name under which the tests register the plugin.
	PluginName = "vault-plugin-secrets-regcred"

	// Mount is the path at which dev servers have the engine.
	Mount = "regcred"
)

// Vault is a running Vault or OpenBao server.
type Vault struct {
	*Process
	OpenBao   bool   // for what is the server's own; see docs/openbao.md
	Addr      string // as in VAULT_ADDR
	Token     string // a root token
	PluginDir string
	LogDir    string // of a server with integrated storage, which logs to vault.log in it
	Client    *api.Client

	program string
	dir     string
	listen  string
	unseal  string

	// For a server with integrated storage:
	node    string // its name in the cluster
	cluster string // its address for the other nodes
	options RaftOptions
}

// openBaoSettings let tests enable audit devices by the API, as Vault does
// without them.
const openBaoSettings = "unsafe_allow_api_audit_creation = true\n"

// RaftOptions are options of a server with integrated storage.
type RaftOptions struct {
	Plugin   string   // path of its binary; empty: the one that "make build" has built
	Empty    bool     // do not register the plugin and do not enable the engine
	LogLevel string   // empty: trace
	Env      []string // further variables for the server, and so for the plugin
	Settings []string // further lines of its configuration
}

// StartVault starts a dev server, logging at level trace, with the plugin in
// its catalog and enabled at [Mount].
func StartVault(t testing.TB) *Vault {
	t.Helper()
	return StartVaultWith(t, Plugin(t))
}

// StartVaultWith is StartVault with another binary of the plugin.
func StartVaultWith(t testing.TB, plugin string) *Vault {
	t.Helper()
	v := newVault(t, plugin)
	v.Token = randomToken()
	cmd := exec.Command(v.program, "server", "-dev", "-dev-no-store-token",
		"-dev-root-token-id="+v.Token, "-dev-listen-address="+v.listen,
		"-dev-plugin-dir="+v.PluginDir, "-log-level=trace")
	if v.OpenBao {
		config := filepath.Join(v.dir, "dev.hcl")
		if err := os.WriteFile(config, []byte(openBaoSettings), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Args = append(cmd.Args, "-config="+config)
	}
	cmd.Env = v.Env()
	v.Process = start(t, "vault", cmd, v.answers)
	v.connect(t)
	v.Enable(t, Mount)
	return v
}

// StartRaftVault starts a server with integrated storage, which survives a
// [Vault.Restart]. The plugin is registered with its checksum and version and
// enabled at [Mount], as on a production server.
func StartRaftVault(t testing.TB) *Vault {
	t.Helper()
	return StartRaftVaultWith(t, RaftOptions{})
}

// StartRaftVaultWith is StartRaftVault with options.
func StartRaftVaultWith(t testing.TB, options RaftOptions) *Vault {
	t.Helper()
	if options.Plugin == "" {
		options.Plugin = Plugin(t)
	}
	v := newVault(t, options.Plugin)
	v.options = options
	v.launchRaft(t)
	v.connect(t)
	init, err := v.Client.Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		t.Fatalf("initialising: %v", err)
	}
	v.Token, v.unseal = init.RootToken, init.Keys[0]
	v.Unseal(t)
	if !options.Empty {
		v.Register(t, options.Plugin, PluginName, "")
		v.Enable(t, Mount)
	}
	return v
}

// SaveSnapshot returns a snapshot of a server with integrated storage.
func (v *Vault) SaveSnapshot(t testing.TB) []byte {
	t.Helper()
	var snapshot bytes.Buffer
	if err := v.Client.Sys().RaftSnapshot(&snapshot); err != nil {
		t.Fatalf("saving a snapshot: %v", err)
	}
	return snapshot.Bytes()
}

// RestoreSnapshot restores a snapshot and waits until the server is active
// again. It answers before that.
func (v *Vault) RestoreSnapshot(t testing.TB, snapshot []byte) {
	t.Helper()
	const active = "core: post-unseal setup complete"
	before := strings.Count(v.Log(), active)
	if err := v.Client.Sys().RaftSnapshotRestore(bytes.NewReader(snapshot), false); err != nil {
		t.Fatalf("restoring a snapshot: %v", err)
	}
	Eventually(t, func() error {
		if strings.Count(v.Log(), active) == before {
			return errors.New("not active since a snapshot was restored")
		}
		return nil
	})
}

func newVault(t testing.TB, plugin string) *Vault {
	t.Helper()
	v := &Vault{program: Bin(t, "vault"), dir: t.TempDir(), listen: FreeAddr(t), node: "one", cluster: FreeAddr(t)}
	v.Addr = "http://" + v.listen
	version, err := exec.Command(v.program, "version").Output()
	if err != nil {
		t.Fatalf("%s version: %v", v.program, err)
	}
	v.OpenBao = isOpenBao(string(version))
	v.PluginDir = filepath.Join(v.dir, "plugins")
	v.LogDir = filepath.Join(v.dir, "log")
	for _, dir := range []string{v.PluginDir, v.LogDir, filepath.Join(v.dir, "raft")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	v.CopyPlugin(t, plugin, PluginName)
	return v
}

func (v *Vault) launchRaft(t testing.TB) {
	t.Helper()
	config := filepath.Join(v.dir, "server.hcl")
	text := fmt.Sprintf(`
storage "raft" {
  path                   = %q
  node_id                = %q
  performance_multiplier = 1 # a new leader within seconds
}
listener "tcp" {
  address         = %q
  cluster_address = %q
  tls_disable     = true
}
api_addr         = %q
cluster_addr     = %q
plugin_directory = %q
disable_mlock    = true
log_level        = %q
log_file         = %q
telemetry {
  prometheus_retention_time = "1h"
  disable_hostname          = true
}
%s
`, filepath.Join(v.dir, "raft"), v.node, v.listen, v.cluster, v.Addr, "http://"+v.cluster, v.PluginDir,
		cmp.Or(v.options.LogLevel, "trace"), filepath.Join(v.LogDir, "vault.log"), strings.Join(v.options.Settings, "\n"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(v.program, "server", "-config="+config)
	cmd.Env = append(v.Env(), v.options.Env...)
	v.Process = start(t, "vault", cmd, v.answers)
}

// Restart stops a server started by [StartRaftVault] and starts it again with
// the same storage; it is sealed afterwards.
func (v *Vault) Restart(t testing.TB) {
	t.Helper()
	v.Stop(t)
	v.launchRaft(t)
}

// Unseal unseals the server and waits until it is active.
func (v *Vault) Unseal(t testing.TB) {
	t.Helper()
	if _, err := v.Client.Sys().Unseal(v.unseal); err != nil {
		t.Fatalf("unsealing: %v", err)
	}
	v.Client.SetToken(v.Token)
	Eventually(t, func() error {
		health, err := v.Client.Sys().Health()
		if err == nil && (health.Sealed || health.Standby) {
			err = fmt.Errorf("not active: %+v", health)
		}
		return err
	})
}

func (v *Vault) answers() error {
	if err := dial(v.listen); err != nil {
		return err
	}
	client, err := v.newClient()
	if err != nil {
		return err
	}
	health, err := client.Sys().Health()
	if err != nil {
		return err
	}
	if v.Token != "" && v.unseal == "" && (!health.Initialized || health.Sealed || health.Standby) {
		return fmt.Errorf("dev server is not active: %+v", health)
	}
	return nil
}

func (v *Vault) newClient() (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address = v.Addr
	config.MaxRetries, config.CheckRetry = patientRetries, saysTryAgain
	config.MinRetryWait, config.MaxRetryWait = patientPause, patientPause
	client, err := api.NewClient(config)
	if err == nil {
		client.SetToken(v.Token)
	}
	return client, err
}

func (v *Vault) connect(t testing.TB) {
	t.Helper()
	client, err := v.newClient()
	if err != nil {
		t.Fatal(err)
	}
	v.Client = client
}

// NewToken returns a new token that has the given policies and no other.
func (v *Vault) NewToken(policies ...string) (string, error) {
	secret, err := v.Client.Auth().Token().Create(&api.TokenCreateRequest{Policies: policies, NoDefaultPolicy: true})
	if err != nil {
		return "", err
	}
	return secret.Auth.ClientToken, nil
}

// Register copies a plugin binary into the plugin directory under the given
// name and registers it as [PluginName], with a version unless that is empty.
func (v *Vault) Register(t testing.TB, binary, name, version string) {
	t.Helper()
	v.register(t, binary, api.RegisterPluginInput{Name: PluginName, Command: name, Version: version})
}

// RegisterAs registers a plugin binary under a name, which its copy has too,
// with variables for its environment ("NAME=value"). Vault runs one process for
// each name.
func (v *Vault) RegisterAs(t testing.TB, binary, name string, env ...string) {
	t.Helper()
	v.register(t, binary, api.RegisterPluginInput{Name: name, Command: name, Env: env})
}

func (v *Vault) register(t testing.TB, binary string, plugin api.RegisterPluginInput) {
	t.Helper()
	plugin.Type = api.PluginTypeSecrets
	plugin.SHA256 = v.CopyPlugin(t, binary, plugin.Command)
	if err := v.Client.Sys().RegisterPlugin(&plugin); err != nil {
		t.Fatalf("registering %s: %v", plugin.Command, err)
	}
}

// CopyPlugin copies a plugin binary into the plugin directory under the given
// name, and returns its checksum.
func (v *Vault) CopyPlugin(t testing.TB, binary, name string) (sha string) {
	t.Helper()
	content, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	// Rename, because a running binary cannot be written to.
	path := filepath.Join(v.PluginDir, name)
	if err := os.WriteFile(path+".new", content, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Enable mounts the engine.
func (v *Vault) Enable(t testing.TB, path string) {
	t.Helper()
	if err := v.Client.Sys().Mount(path, &api.MountInput{Type: PluginName}); err != nil {
		t.Fatalf("enabling the engine at %s: %v", path, err)
	}
}

// Env returns the environment in which the CLI talks to this server as root.
func (v *Vault) Env() []string {
	env := []string{
		"PATH=" + filepath.Dir(v.program) + string(os.PathListSeparator) + os.Getenv("PATH"),
		"HOME=" + v.dir,
		"TMPDIR=" + v.dir,
		// OpenBao reads these too. With BAO_TOKEN beside it, a test that replaces
		// VAULT_TOKEN would go on as root there.
		"VAULT_ADDR=" + v.Addr, "VAULT_TOKEN=" + v.Token,
		"VAULT_CLI_NO_COLOR=1",
	}
	return env
}

// CLI runs the vault program against this server as root, and returns its
// standard output. It fails the test if the program fails.
func (v *Vault) CLI(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command(v.program, args...)
	cmd.Env = v.Env()
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("vault %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// isOpenBao reads what the server's program prints as its version.
func isOpenBao(version string) bool { return strings.HasPrefix(version, "OpenBao ") }

func randomToken() string { return "test-" + rand.Text() }
