// SPDX-License-Identifier: MPL-2.0

// Package soak makes a real Vault and the plugin do everything at once, for
// half an hour by default, and checks every answer. "make soak" builds what it
// needs and runs it.
package soak

import (
	"flag"
	"os"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

var (
	soakTime = flag.Duration("soaktime", 30*time.Minute, "how long there is load")
	soakSeed = flag.Uint64("soakseed", 0, "what the choices of each worker begin with; 0: another one each time")
)

func TestMain(m *testing.M) {
	flag.Parse()
	servers.CleanEnv()
	os.Exit(m.Run())
}
