// SPDX-License-Identifier: MPL-2.0

//go:build e2e && linux

package e2e

import (
	"testing"

	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestSystemClientsPullThroughTheDockerHelper has docker, podman and buildah pull
// from a real registry through the credential helper.
func TestSystemClientsPullThroughTheDockerHelper(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	clients.PullThroughHelper(t, v, v.Addr, clients.SystemPullers)
}
