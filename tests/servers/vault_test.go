// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"slices"
	"strings"
	"testing"
)

func TestServerIsKnownByItsVersion(t *testing.T) {
	for version, want := range map[string]bool{
		"OpenBao v2.6.2 (dd9c19c37a878cf4a81b18efb8d6f0599c7da923), committed 2026-08-18T15:43:05Z\n": true,
		"OpenBao (version unknown)\n": true,
		"Vault v1.21.0 (818ca8b3575ea937ca48b640baf35e1b2ede1833), built 2025-10-22T02:33:18Z\n": false,
	} {
		if got := isOpenBao(version); got != want {
			t.Errorf("%q: want OpenBao %t, got %t", version, want, got)
		}
	}
}

// OpenBao prefers variables that begin with BAO_, so a test that replaces
// VAULT_TOKEN must find none of them.
func TestEnvironmentSetsOneToken(t *testing.T) {
	env := (&Vault{Token: "root"}).Env()
	if at := slices.IndexFunc(env, func(variable string) bool { return strings.HasPrefix(variable, "BAO_") }); at >= 0 {
		t.Errorf("want no variable of OpenBao, got %s", strings.SplitN(env[at], "=", 2)[0])
	}
}
