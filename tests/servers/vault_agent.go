// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"os/exec"
	"testing"
)

// StartVaultAgent starts "vault agent" with a configuration file and an
// environment. It does not wait, because only the caller knows what the
// configuration makes.
func StartVaultAgent(t testing.TB, config string, env []string) *Process {
	t.Helper()
	cmd := exec.Command(Bin(t, "vault"), "agent", "-config="+config)
	cmd.Env = env
	return start(t, "vault agent", cmd, func() error { return nil })
}
