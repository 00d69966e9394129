// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

// agent is a Vault Agent with the configuration of an example.
type agent struct {
	example agentExample
	k       *servers.Kubernetes
	dir     string // replaces all folders that the example names
	process *servers.Process
}

// agentExample is a configuration of Vault Agent.
type agentExample struct {
	file   string
	folder string // the folder that the file names beside /etc/vault-agent
	form   string // of the pull secret: creds/<role>/<form>
	field  string
	// current returns the Docker config that the agent has delivered.
	current func(*agent) (string, error)
}

var (
	configJSON = agentExample{"config-json.hcl", "/home/ci/.docker", "docker", "config.json", func(a *agent) (string, error) {
		return readPrivate(filepath.Join(a.dir, "config.json"))
	}}
	agentSecret = agentExample{"kubernetes.hcl", "/run/vault-agent", "kubernetes", ".dockerconfigjson", func(a *agent) (string, error) {
		if _, err := readPrivate(filepath.Join(a.dir, "regcred.yaml")); err != nil {
			return "", err
		}
		return dockerConfig(a.k)
	}}
	supervisor = agentExample{"supervisor.hcl", "/usr/local/bin", "docker", "config.json", func(a *agent) (string, error) {
		return readPrivate(filepath.Join(a.dir, "environment"))
	}}
	agentExamples = []agentExample{configJSON, agentSecret, supervisor}
)

func testVaultAgentConfigJSON(t *testing.T, _ *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "vault-agent/policy.hcl"))
	w.useAppRole(t)
	a := w.startAgent(t, configJSON, nil)
	want := a.example.want(t, w, "my_app")
	w.pulls(t, want)

	// The agent can be started again, because its secret-id stays valid.
	a.process.Stop(t)
	if err := os.Remove(filepath.Join(a.dir, "config.json")); err != nil {
		t.Fatal(err)
	}
	a.start(t)
	servers.Eventually(t, func() error { return a.gives(want) })
}

func testVaultAgentSecret(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "vault-agent/policy.hcl"))
	w.useAppRole(t)
	w.startAgent(t, agentSecret, k.Namespace(t, "agent"))
	w.pulls(t, agentSecret.want(t, w, "my_app"))
}

// testVaultAgentSupervisor also proves that the child ends with the agent, and
// is replaced when the password changes.
func testVaultAgentSupervisor(t *testing.T, _ *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "vault-agent/policy.hcl"))
	w.useAppRole(t)
	a := w.startAgent(t, supervisor, nil)
	w.pulls(t, a.example.want(t, w, "my_app"))
	child := a.child(t)

	w.changePassword(t, "replaced")
	want := a.example.want(t, w, "my_app")
	servers.Eventually(t, func() error { return a.gives(want) })
	w.pulls(t, want)
	if alive(child) {
		t.Error("the child with the old password still runs")
	}

	child = a.child(t)
	a.process.Stop(t)
	servers.Eventually(t, func() error {
		if alive(child) {
			return fmt.Errorf("child %d still runs", child)
		}
		return nil
	})
}

// testVaultAgentExamplesAreMinimal removes one line of a file at a time. Each
// time something must be missing or wrong.
func testVaultAgentExamplesAreMinimal(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "vault-agent/policy.hcl", "creds/my_app", "creds/+"))
	w.useAppRole(t)
	count := 0
	for _, e := range agentExamples {
		files := []string{e.file}
		if e.file == agentSecret.file {
			files = append(files, manifestTemplate)
		}
		for _, file := range files {
			for line, name := range linesToCut(example(t, "vault-agent/"+file)) {
				count++
				role := fmt.Sprintf("cut-%d", count)
				t.Run(file+" without "+name, func(t *testing.T) {
					t.Parallel()
					a := w.newAgent(t, e, k.Namespace(t, "agent-"+role))
					a.write(t, file, withoutLine(a.read(t, file), line))
					for _, file := range files {
						a.write(t, file, strings.NewReplacer("my_app", role, `"1m"`, `"2s"`).Replace(a.read(t, file)))
					}
					wantNeeded(t, line, w.rendersAsTheExample(t, a, role, line))
				})
			}
		}
	}
}

// rendersAsTheExample starts an agent for a role and checks everything that the
// example promises. The agent reads every two seconds.
func (w *world) rendersAsTheExample(t *testing.T, a *agent, role string, line int) error {
	t.Helper()
	for i, password := range []string{"first", "second"} {
		w.vault.CLI(t, "", "write", "regcred/roles/"+role, "registry="+w.registry.Addr, "username=u", "password="+password)
		want := a.example.want(t, w, role)
		if i == 0 {
			a.start(t)
		}
		if err := servers.TryUntil(time.Now().Add(cutLimit(t, line)), func() error {
			if a.process.Ended() {
				return nil // it will deliver nothing more
			}
			return a.gives(want)
		}); err != nil {
			return err
		}
		if err := a.gives(want); err != nil {
			return err
		}
	}
	_, err := os.Stat(filepath.Join(a.dir, "secret-id"))
	return err
}

// want returns the Docker config that the agent must deliver.
func (e agentExample) want(t *testing.T, w *world, role string) string {
	t.Helper()
	return w.creds(t, role+"/"+e.form)[e.field]
}

// useAppRole makes Vault accept agents, with the policy my_app.
func (w *world) useAppRole(t *testing.T) {
	t.Helper()
	w.vault.CLI(t, "", "auth", "enable", "approle")
	w.vault.CLI(t, "", "write", "auth/approle/role/my_app", "token_policies=my_app", "token_ttl=5m")
}

const (
	manifestTemplate = "regcred.yaml.tpl"

	// childScript is the agent's child: it stores the Docker config from its
	// environment, and runs until it is stopped.
	childScript = `#!/bin/sh
umask 077
echo $$ >%[1]s/pid
printf %%s "$DOCKER_AUTH_CONFIG" >%[1]s/environment.new
mv %[1]s/environment.new %[1]s/environment
exec sleep 300
`
)

// newAgent writes the files of an agent. It does not start the agent.
func (w *world) newAgent(t *testing.T, e agentExample, k *servers.Kubernetes) *agent {
	t.Helper()
	a := &agent{example: e, k: k, dir: t.TempDir()}
	a.write(t, e.file, example(t, "vault-agent/"+e.file, exampleVault, w.vault.Addr, "/etc/vault-agent/", a.dir+"/", e.folder+"/", a.dir+"/"))
	a.write(t, manifestTemplate, example(t, "vault-agent/"+manifestTemplate))
	a.write(t, "role-id", w.vault.CLI(t, "", "read", "-field=role_id", "auth/approle/role/my_app/role-id"))
	a.write(t, "secret-id", w.vault.CLI(t, "", "write", "-force", "-field=secret_id", "auth/approle/role/my_app/secret-id"))
	a.write(t, "my-builder", fmt.Sprintf(childScript, a.dir))
	if err := os.Chmod(filepath.Join(a.dir, "my-builder"), 0o700); err != nil {
		t.Fatal(err)
	}
	return a
}

// startAgent starts an agent and waits until it has delivered the Docker
// config.
func (w *world) startAgent(t *testing.T, e agentExample, k *servers.Kubernetes) *agent {
	t.Helper()
	a := w.newAgent(t, e, k)
	a.start(t)
	want := e.want(t, w, "my_app")
	servers.Eventually(t, func() error { return a.gives(want) })
	return a
}

func (a *agent) start(t *testing.T) {
	t.Helper()
	env := []string{"PATH=" + toolPath(), "HOME=" + a.dir}
	if a.k != nil {
		env = append(a.k.Env(), "PATH="+toolPath())
	}
	a.process = servers.StartVaultAgent(t, filepath.Join(a.dir, a.example.file), env)
}

// gives returns nil when the agent has delivered this Docker config.
func (a *agent) gives(want string) error {
	got, err := a.example.current(a)
	if err == nil && got != want {
		err = fmt.Errorf("want %s, got %s", want, got)
	}
	return err
}

// child returns the process id of the agent's child.
func (a *agent) child(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(a.read(t, "pid")))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

func (a *agent) read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(a.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func (a *agent) write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(a.dir, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// readPrivate reads a file that only its owner may read.
func readPrivate(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm() != 0o600 {
		return "", fmt.Errorf("%s: want mode 0600, got %s", path, info.Mode())
	}
	content, err := os.ReadFile(path)
	return string(content), err
}
