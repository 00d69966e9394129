// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"os"
	"strings"
)

// CleanEnv unsets the variables that the user has set for other servers, so
// that they do not reach the programs under test. Each TestMain calls it.
func CleanEnv() {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "VAULT_") || strings.HasPrefix(name, "BAO_") {
			_ = os.Unsetenv(name)
		}
	}
	for _, name := range []string{"DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "KUBECONFIG"} {
		_ = os.Unsetenv(name)
	}
}
