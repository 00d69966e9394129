// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"os/exec"
	"testing"
)

// StartVaultAgent starts "vault agent" with a configuration file and an
// environment. It does not wait: the agent is ready when it has made what the
// configuration says.
func StartVaultAgent(t testing.TB, config string, env []string) *Process {
	t.Helper()
	cmd := exec.Command(Bin(t, "vault"), "agent", "-config="+config)
	cmd.Env = env
	return start(t, "vault agent", cmd, func() error { return nil })
}
