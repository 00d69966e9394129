// SPDX-License-Identifier: MPL-2.0

package docker

import (
	"context"
	"fmt"

	"github.com/docker/docker-credential-helpers/credentials"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// Check does what get does for a registry, and says how each step went.
func Check(ctx context.Context, program, registry string, steps *client.Steps) {
	host, err := hostOf(registry)
	if err != nil {
		steps.Fail("registry", err)
		return
	}
	steps.OK("registry", "%s", host)
	c, err := load(program)
	if err != nil {
		steps.Fail("configuration", err)
		return
	}
	if c.path == "" {
		steps.OK("configuration", "from the environment; there is no file %v", Paths(program))
	} else {
		steps.OK("configuration", "%s", c.path)
	}
	role, named := c.roleFor(host)
	switch {
	case role == "":
		steps.Fail("role", &client.Failure{
			What: "no role covers " + host + ": Docker pulls from it without a credential of this helper",
			Do:   "add the host below roles",
		})
		return
	case named:
		steps.OK("role", "%s, because roles names %s", role, host)
	default:
		steps.OK("role", "%s, the role for all registries", role)
	}
	vault, err := c.open()
	if err != nil {
		steps.Fail("Vault", err)
		return
	}
	if !client.CheckHealth(ctx, vault, steps) {
		return
	}
	if vault.HasToken() {
		steps.OK("token", "as of the Vault CLI")
	} else {
		steps.Note("there is no token: only a Vault Agent that adds one can help")
	}
	secret, err := vault.Read(ctx, role)
	if err != nil {
		steps.Fail("read", err)
		return
	}
	steps.ShowPullSecret(vault, role, secret)
	found, err := credentialFor(secret, role, host, named)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
		steps.Fail("credential", &client.Failure{
			What: fmt.Sprintf("role %s has no credential for %s: Docker pulls from it without a credential of this helper", role, host),
			Do:   "use another role, or add the host below roles",
		})
	case err != nil:
		steps.Fail("credential", err)
	default:
		steps.OK("credential", "%s as %s", host, found.Username)
	}
}
