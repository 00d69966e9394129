// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestPull pulls from a registry with passwords, with the pull secret that
// Vault returns and nothing else.
func TestPull(t *testing.T) {
	t.Parallel()
	const username, password = "robot$team+puller", `p"4\ss:<&>$`
	registry := servers.StartRegistry(t, username, password)
	image := registry.Addr + "/team/app:1"
	clients.Push(t, image, username, password)

	v := servers.StartVault(t)
	write(t, v.Client, "regcred/roles/right", fields{"registry": registry.Addr, "username": username, "password": password})
	write(t, v.Client, "regcred/roles/wrong", fields{"registry": registry.Addr, "username": username, "password": "wrong"})

	for client, pull := range clients.Pullers {
		for form, field := range map[string]string{"kubernetes": ".dockerconfigjson", "docker": "config.json"} {
			t.Run(client+" with "+field, func(t *testing.T) {
				secret := func(role string) string {
					return read(t, v.Client, "regcred/creds/"+role+"/"+form)[field].(string)
				}
				if out, err := pull(t, image, secret("right")); err != nil {
					t.Errorf("pulling with the right password: %v\n%s", err, out)
				}
				out, err := pull(t, image, secret("wrong"))
				if err == nil {
					t.Fatal("pulling with a wrong password must fail")
				}
				if !strings.Contains(strings.ToLower(out), "unauthorized") && !strings.Contains(out, "authentication required") {
					t.Errorf("want a refusal by the registry, got\n%s", out)
				}
			})
		}
	}
}
