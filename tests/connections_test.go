// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// connect writes a connection, with the fields that a test's server gives and
// with others, which take precedence.
func connect(t testing.TB, client *api.Client, path, kind string, c issuer.Connection, others fields) {
	t.Helper()
	var registries []string
	for _, key := range c.Registries {
		registries = append(registries, key.ImageName())
	}
	data := fields{"type": kind, "url": c.URL, "registry": strings.Join(registries, ",")}
	for field, value := range c.Settings {
		data[field] = value
	}
	for field, secret := range c.Secrets {
		data[field] = secret.Reveal()
	}
	maps.Copy(data, others)
	write(t, client, path, data)
}

// dynamic returns the fields of a dynamic role: those of role and others, which
// take precedence.
func dynamic(connection string, role issuer.Settings, others fields) fields {
	data := fields{"connection": connection}
	for field, value := range role {
		data[field] = value
	}
	maps.Copy(data, others)
	return data
}

// countMints counts the requests that mint from now on, also those that the
// server refuses.
func countMints(s *issuertest.Server, mints func(*http.Request) bool) *atomic.Int64 {
	var count atomic.Int64
	s.Watch(func(r *http.Request) {
		if mints(r) {
			count.Add(1)
		}
	}, nil)
	return &count
}

// withToken returns the client with another token.
func withToken(t testing.TB, client *api.Client, token string) *api.Client {
	t.Helper()
	clone, err := client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	clone.SetToken(token)
	return clone
}

// credentialOf returns the credential in an answer of creds/.
func credentialOf(data fields) issuer.Credential {
	return issuer.Credential{
		Username: data["username"].(string),
		Password: dockerconfig.NewSecret(data["password"].(string)),
	}
}

// leasesBelow returns the IDs of the leases of a path, without the path.
func leasesBelow(t testing.TB, client *api.Client, path string) []string {
	t.Helper()
	secret, err := client.Logical().List("sys/leases/lookup/" + path)
	if err != nil {
		t.Fatalf("listing the leases of %s: %v", path, err)
	}
	var ids []string
	if secret != nil {
		for _, key := range secret.Data["keys"].([]any) {
			ids = append(ids, key.(string))
		}
	}
	return ids
}

// revokeNow returns options that make Vault answer once the lease is revoked.
func revokeNow(lease string) *api.RevokeOptions {
	return &api.RevokeOptions{LeaseID: lease, Sync: true}
}

func same(a, b issuer.Credential) bool {
	return a.Username == b.Username && a.Password.Equal(b.Password)
}
