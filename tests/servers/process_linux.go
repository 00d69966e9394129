// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"os/exec"
	"sync"
	"syscall"
	"testing"
)

// endWithParent makes the kernel end the server if the tests die without
// cleaning up. It uses SIGTERM, at which Vault still ends its plugins.
func endWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
}

// Pause stops the process with SIGSTOP, so that it takes connections and answers
// none, until resume is called or the test ends.
func (p *Process) Pause(t testing.TB) (resume func()) {
	t.Helper()
	if err := syscall.Kill(p.PID(), syscall.SIGSTOP); err != nil {
		t.Fatalf("pausing %s: %v", p.name, err)
	}
	resume = sync.OnceFunc(func() {
		if err := syscall.Kill(p.PID(), syscall.SIGCONT); err != nil {
			t.Errorf("resuming %s: %v", p.name, err)
		}
	})
	t.Cleanup(resume) // so that it can be stopped
	return resume
}
