// SPDX-License-Identifier: MPL-2.0

// Package crash kills the plugin at every step of its work at a registry, and
// checks what is left. "make crash" builds what it needs and runs it.
package crash

import (
	"os"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

func TestMain(m *testing.M) {
	servers.CleanEnv()
	os.Exit(m.Run())
}
