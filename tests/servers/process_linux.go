// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"os/exec"
	"syscall"
)

// endWithParent makes the kernel end the server if the tests die without
// cleaning up. It uses SIGTERM, at which Vault still ends its plugins.
func endWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
}
