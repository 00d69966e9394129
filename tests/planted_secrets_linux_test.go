// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// dieWhileMinting ends the plugin while it mints: once killed, and once with a
// dump of its goroutines, like that of a panic.
func (p *planting) dieWhileMinting(s *gitlabtest.Server) {
	p.t.Helper()
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGQUIT} {
		pid := p.PluginPID(p.t)
		minting := make(chan struct{}, 1)
		s.InjectFault(1, s.MintMatch, func(w http.ResponseWriter, r *http.Request, act http.Handler) {
			minting <- struct{}{}
			issuertest.HangAfterActing(w, r, act)
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = p.Client.Logical().Read("regcred/creds/held") // fails with the process
		}()
		servers.Receive(p.t, minting, "nothing is minted")
		if err := syscall.Kill(pid, signal); err != nil {
			p.t.Fatal(err)
		}
		<-done
		p.WaitUntilServed(p.t)
		s.ClearFaults()
	}
	servers.Eventually(p.t, func() error {
		if !strings.Contains(p.Log(), "goroutine ") || !strings.Contains(p.Log(), "mintFor") {
			return errors.New("the log has no dump of the plugin's goroutines")
		}
		return nil
	})
}

// lookAtProcess searches what every user of the machine can see of the plugin's
// process.
func (p *planting) lookAtProcess() {
	p.t.Helper()
	for _, file := range []string{"cmdline", "environ"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PluginPID(p.t), file))
		if err != nil || len(content) == 0 {
			p.t.Fatalf("%s of the plugin: %v", file, err)
		}
		p.holdsNone("/proc/…/"+file, string(content))
	}
}
