// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr/acrtest"
)

// newAzureEngine has a connection to an Azure in memory.
func newAzureEngine(t *testing.T, connection func(*acrtest.Server) issuer.Connection) (*engine, *acrtest.Server) {
	t.Helper()
	e, azure := newEngine(t), acrtest.New(t)
	azure.SetNow(e.clock.now)
	e.newHTTP = issuer.NewHTTP
	c := connection(azure)
	fieldsOf := fields{"type": "acr", "url": c.URL, "registry": azure.Host(), "allowed_roles": "*", "allowed_targets": "*"}
	for field, value := range c.Settings {
		fieldsOf[field] = value
	}
	for field, secret := range c.Secrets {
		fieldsOf[field] = secret.Reveal()
	}
	e.write("connections/azure", fieldsOf)
	return e, azure
}

func TestThousandReadersOfAzureAreOneTokenAndNoneIsLeft(t *testing.T) {
	e, azure := newAzureEngine(t, (*acrtest.Server).Connection)
	e.write("roles/app", fields{"connection": "azure", "scope_map": acrtest.ScopeMap, "rotation_period": "1h", "grace_period": "10m"})
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() { e.read("creds/app") })
	}
	all.Wait()
	if living := azure.Living(); len(living) != 1 {
		t.Fatalf("want one token for all readers, got %q", living)
	}
	first := azure.Living()[0]
	e.clock.advance(61 * time.Minute)
	e.minute()
	if living := azure.Living(); len(living) != 2 {
		t.Errorf("want the replaced token to live for its grace period, got %q", living)
	}
	e.clock.advance(11 * time.Minute)
	e.minute()
	if living := azure.Living(); len(living) != 1 || living[0] == first {
		t.Errorf("want the replaced token deleted, got %q", living)
	}
	e.must("delete", "roles/app", nil)
	e.mustRollBack()
	if living := azure.Living(); len(living) != 0 {
		t.Errorf("want no token to be left by a role that is deleted, got %q", living)
	}
}

func TestExchangeAtAzureKeepsNothing(t *testing.T) {
	e, azure := newAzureEngine(t, (*acrtest.Server).Exchanging)
	checkSame(t, "what the check declared", any("1h15m0s"), e.read("connections/azure")["refresh_token_lifetime"])
	e.refused("create", "roles/app", fields{"connection": "azure", "rotation_period": "1h", "grace_period": "30m"},
		"rotation_period: rotation_period and grace_period together must be at most 1h15m0s, the longest lifetime that the registry allows")
	e.write("roles/app", fields{"connection": "azure"})
	exchanges := func() (n int) {
		for _, call := range azure.Calls() {
			if strings.HasSuffix(call, "/oauth2/exchange") {
				n++
			}
		}
		return n
	}
	before := exchanges()
	for range 5 {
		e.read("creds/app")
	}
	if got := exchanges() - before; got != 1 {
		t.Errorf("want one exchange for five reads, got %d", got)
	}
	e.clock.advance(2 * time.Hour) // Vault was down
	e.read("creds/app")
	if got := exchanges() - before; got != 2 {
		t.Errorf("want what has ended replaced at the next read, got %d exchanges", got)
	}
	for key := range e.snapshot() {
		if strings.HasPrefix(key, "wal/") {
			t.Errorf("want no write-ahead entry, got %s", key)
		}
	}
}
