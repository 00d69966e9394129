// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel end the server when the tests die without
// cleaning up. With SIGTERM a Vault still ends its plugins.
func endWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
}
