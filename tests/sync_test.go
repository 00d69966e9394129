// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	wantedRenderings = 4

	agentPolicy = `
path "regcred/creds/*" { capabilities = ["read"] }
`
	agentConfig = `
vault {
  address = "%[1]s"
}
auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "%[2]s/role-id"
      secret_id_file_path                 = "%[2]s/secret-id"
      remove_secret_id_file_after_reading = false
    }
  }
}
`
	// Each rendering is appended to a second file.
	agentTemplate = `
template {
  contents    = "{{ with secret ` + "`regcred/creds/%[1]s`" + ` }}{{ index .Data ` + "`.dockerconfigjson`" + ` }}{{ end }}"
  destination = "%[2]s/%[1]s.json"
  exec {
    command = ["sh", "-c", "cat %[2]s/%[1]s.json >>%[2]s/%[1]s.renderings; echo >>%[2]s/%[1]s.renderings"]
  }
}
`
)

// rendered is a role that Vault Agent renders. It has a GitLab of its own,
// which counts its mints.
type rendered struct {
	role  string
	dir   string
	lab   *gitlabtest.Server
	mints *atomic.Int64
}

// TestVaultAgentFollowsRotationsAndLeases makes Vault Agent render a shared
// role, whose credential the engine replaces, and a leased one, whose lease
// Agent renews and finally replaces. Agent must render each credential once.
func TestVaultAgentFollowsRotationsAndLeases(t *testing.T) {
	t.Parallel()
	v, dir := servers.StartVault(t), t.TempDir()
	shared := newRendered(t, v, dir, "shared", fields{"rotation_period": "5s", "grace_period": "10s"})
	leased := newRendered(t, v, dir, "leased", fields{"mode": "leased", "ttl": "6s", "max_ttl": "15s"})
	startAgentFor(t, v, dir, shared, leased)

	servers.Eventually(t, func() error { return leased.wasRendered(1) })
	lease := leasesBelow(t, v.Client, "regcred/creds/leased")[0]
	servers.Eventually(t, func() error { return isRenewed(t, v, "regcred/creds/leased/"+lease) })

	for _, r := range []*rendered{shared, leased} {
		servers.Eventually(t, func() error { return r.wasRendered(wantedRenderings) })
		r.eachOnce(t)
	}
	// The lease of the first credential has ended, and the credential with it.
	first := leased.renderings(t)[0]
	servers.Eventually(t, func() error {
		if leased.lab.Pulls(parsed(t, first), gitlabtest.Project) {
			return fmt.Errorf("the first leased credential still pulls")
		}
		return nil
	})
}

func newRendered(t *testing.T, v *servers.Vault, dir, role string, others fields) *rendered {
	t.Helper()
	r := &rendered{role: role, dir: dir, lab: gitlabtest.New(t)}
	r.mints = countMints(r.lab.Server, r.lab.MintMatch)
	connect(t, v.Client, "regcred/connections/"+role, "gitlab", r.lab.Connection(), fields{"allowed_roles": role})
	write(t, v.Client, "regcred/roles/"+role, dynamic(role, r.lab.Role(), others))
	return r
}

func startAgentFor(t *testing.T, v *servers.Vault, dir string, all ...*rendered) {
	t.Helper()
	if err := v.Client.Sys().PutPolicy("agent", agentPolicy); err != nil {
		t.Fatal(err)
	}
	v.CLI(t, "", "auth", "enable", "approle")
	v.CLI(t, "", "write", "auth/approle/role/agent", "token_policies=agent")
	config := fmt.Sprintf(agentConfig, v.Addr, dir)
	for _, r := range all {
		config += fmt.Sprintf(agentTemplate, r.role, dir)
	}
	for file, content := range map[string]string{
		"agent.hcl": config,
		"role-id":   v.CLI(t, "", "read", "-field=role_id", "auth/approle/role/agent/role-id"),
		"secret-id": v.CLI(t, "", "write", "-force", "-field=secret_id", "auth/approle/role/agent/secret-id"),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	servers.StartVaultAgent(t, filepath.Join(dir, "agent.hcl"), []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir})
}

// renderings returns the Docker configs that were rendered, in order.
func (r *rendered) renderings(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(r.dir, r.role+".renderings"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
}

// wasRendered returns nil if there were at least so many renderings.
func (r *rendered) wasRendered(times int) error {
	content, err := os.ReadFile(filepath.Join(r.dir, r.role+".renderings"))
	if err != nil {
		return err
	}
	if got := strings.Count(string(content), "\n"); got < times {
		return fmt.Errorf("want %d renderings of %s, got %d", times, r.role, got)
	}
	return nil
}

// eachOnce waits until every minted credential is rendered, and fails the test
// if one was rendered twice.
func (r *rendered) eachOnce(t *testing.T) {
	t.Helper()
	servers.Eventually(t, func() error {
		minted := int(r.mints.Load())
		if got := len(r.renderings(t)); got != minted {
			return fmt.Errorf("want as many renderings of %s as credentials were minted, %d, got %d", r.role, minted, got)
		}
		return nil
	})
	seen := map[string]bool{}
	for _, config := range r.renderings(t) {
		parsed(t, config)
		if seen[config] {
			t.Errorf("%s: rendered again without a new credential", r.role)
		}
		seen[config] = true
	}
}

// isRenewed returns nil if a lease exists and was renewed.
func isRenewed(t *testing.T, v *servers.Vault, lease string) error {
	t.Helper()
	secret, err := v.Client.Sys().Lookup(lease)
	if err != nil {
		return err
	}
	if secret.Data["last_renewal"] == nil {
		return fmt.Errorf("the lease has not been renewed: %v", secret.Data)
	}
	return nil
}

// parsed returns the one credential of a Docker config.
func parsed(t *testing.T, text string) issuer.Credential {
	t.Helper()
	config, err := dockerconfig.Decode([]byte(text))
	if err != nil || len(config.Credentials()) != 1 {
		t.Fatalf("want a Docker config with one credential, got %v", err)
	}
	c := config.Credentials()[0]
	return issuer.Credential{Username: c.Username, Password: c.Password}
}
