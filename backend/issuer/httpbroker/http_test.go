// SPDX-License-Identifier: MPL-2.0

package httpbroker_test

import (
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker/brokertest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

var badSecrets = issuer.Secrets{"token": dockerconfig.NewSecret("token-of-nobody")}

func subject(s *brokertest.Server) issuertest.Subject {
	return issuertest.Subject{
		Type:       httpbroker.Type(),
		Connection: s.Connection(),
		Role:       s.Role(),
		Server:     s.Server,
		Pulls:      func(c issuer.Credential) bool { return s.Pulls(c, brokertest.Scope+"/app") },
		Mints:      s.MintMatch,
		Living:     s.Living,
		CountAnew:  s.CountAnew,
		BadSecrets: badSecrets,
	}
}

// Brokers of all kinds conform: those that can do everything, and those that lack something.
func TestBrokersConform(t *testing.T) {
	for name, operations := range map[string][]string{
		"everything":    brokertest.All,
		"no extras":     {"mint", "find", "revoke"},
		"no find":       {"mint", "revoke", "check"},
		"only mint":     {"mint"},
		"only to check": {"mint", "check"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuertest.Conform(t, func(t *testing.T) issuertest.Subject { return subject(brokertest.New(t, operations...)) })
		})
	}
}

func TestURLsConform(t *testing.T) {
	for name, connection := range map[string]func(*brokertest.URL) issuer.Connection{
		"Docker config": (*brokertest.URL).Connection,
		"fields":        (*brokertest.URL).FieldsConnection,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
				u := brokertest.NewURL(t)
				return issuertest.Subject{
					Type: httpbroker.Type(), Connection: connection(u), Server: u.Server,
					Pulls: u.Pulls, Mints: u.MintMatch, BadSecrets: badSecrets,
				}
			})
		})
	}
}
