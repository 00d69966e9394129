// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr/acrtest"
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/gar/gartest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestIdentityTokensNeedVaultEnterprise writes connections with identity tokens to a Vault
// of the community edition, which refuses the plugin a token over gRPC. The error says what
// to use instead, and nothing is stored.
func TestIdentityTokensNeedVaultEnterprise(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	vault := &issuertest.Vault{}
	azure := acrtest.New(t)
	for kind, tc := range map[string]struct {
		connection issuer.Connection
		secret     string
	}{
		"acr": {azure.Trusting(vault, azure.Connection()), "client_secret"},
		"ecr": {ecrtest.New(t).Trusting(vault), "secret_access_key"},
		"gar": {gartest.New(t).Trusting(vault), "service_account_key"},
	} {
		for _, verify := range []bool{true, false} {
			data := fields{"type": kind, "url": tc.connection.URL, "registry": tc.connection.Registries[0].ImageName(), "verify_connection": verify}
			for field, value := range tc.connection.Settings {
				data[field] = value
			}
			_, err := v.Client.Logical().Write("regcred/connections/cloud", data)
			want := "* identity_token_audience: this server gives plugins no identity tokens, which needs Vault Enterprise; leave it out, and write " + tc.secret + ", or let the connection use the identity of the machine or pod that Vault runs on"
			if message := refusal(t, err); !strings.HasSuffix(strings.TrimSpace(message), want) {
				t.Errorf("%s, verify_connection=%v: want %q, got\n%s", kind, verify, want, message)
			}
			if stored, err := v.Client.Logical().Read("regcred/connections/cloud"); stored != nil || err != nil {
				t.Errorf("%s, verify_connection=%v: want nothing stored, got %+v, %v", kind, verify, stored, err)
			}
		}
	}
}
