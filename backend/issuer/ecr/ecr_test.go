// SPDX-License-Identifier: MPL-2.0

package ecr_test

import (
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/ecr"
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

func subject(s *ecrtest.Server, c issuer.Connection, role issuer.Settings) issuertest.Subject {
	return issuertest.Subject{
		Type:       ecr.Type(),
		Connection: c,
		Role:       role,
		Server:     s.Server,
		Pulls:      func(c issuer.Credential) bool { return s.Pulls(c, "team/app") },
		Mints:      s.MintMatch,
		BadSecrets: issuer.Secrets{"secret_access_key": dockerconfig.NewSecret("wrong-wrong-wrong-wrong")},
	}
}

func TestConformsWithARole(t *testing.T) {
	issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
		s := ecrtest.New(t)
		return subject(s, s.Connection(), s.Role())
	})
}

func TestConformsWithAUser(t *testing.T) {
	issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
		s := ecrtest.New(t)
		return subject(s, s.WithKey(s.AddUser("puller", ecrtest.Everything())), nil)
	})
}

func TestConformsWithIdentityTokens(t *testing.T) {
	issuertest.Conform(t, func(t *testing.T) issuertest.Subject {
		s := ecrtest.New(t)
		return subject(s, s.Trusting(&issuertest.Vault{}), s.Role())
	})
}
