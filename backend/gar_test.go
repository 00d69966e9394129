// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gar/gartest"
)

// newGoogleEngine has a connection to a Google in memory, whose tokens live for an hour
// at most.
func newGoogleEngine(t *testing.T) (*engine, *gartest.Server) {
	t.Helper()
	e, google := newEngine(t), gartest.New(t)
	e.clock.at = time.Now() // Google refuses what was signed at another time
	google.SetNow(e.clock.now)
	e.newHTTP = issuer.NewHTTP
	c := google.Connection()
	e.write("connections/google", fields{
		"type": "gar", "url": c.URL, "registry": google.Host(), "service_account": gartest.Puller,
		"service_account_key": c.Secrets["service_account_key"].Reveal(), "allowed_roles": "*", "verify_connection": false,
	})
	return e, google
}

// pullsAtGoogle reports whether an answer of creds/ can pull now.
func pullsAtGoogle(google *gartest.Server, read fields) bool {
	return google.Pulls(issuer.Credential{Username: read["username"].(string), Password: dockerconfig.NewSecret(read["password"].(string))}, gartest.Repository)
}

func TestThousandReadersOfGoogleAreOneMintAndNothingIsKept(t *testing.T) {
	e, google := newGoogleEngine(t)
	e.write("roles/app", fields{"connection": "google", "rotation_period": "30m", "grace_period": "15m"})
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() { e.read("creds/app") })
	}
	all.Wait()
	if got := google.Minted(); got != 1 {
		t.Fatalf("want one mint for all readers, got %d", got)
	}
	// Served until it is due, replaced then, and never served once it has ended.
	for _, step := range []struct {
		after time.Duration
		mints int
	}{{29 * time.Minute, 1}, {2 * time.Minute, 2}, {2 * time.Hour, 3}} {
		e.clock.advance(step.after)
		if read := e.read("creds/app"); !pullsAtGoogle(google, read) {
			t.Errorf("%s later: want a credential that pulls", step.after)
		}
		e.minute()
		if got := google.Minted(); got != step.mints {
			t.Errorf("%s later: want %d mints in all, got %d", step.after, step.mints, got)
		}
	}
	if read := e.read("roles/app"); read["pending_revocations"] != nil {
		t.Errorf("want nothing that waits to be revoked, got %v", read["pending_revocations"])
	}
	for key := range e.snapshot() {
		if strings.HasPrefix(key, "wal/") {
			t.Errorf("want no write-ahead entry, got %s", key)
		}
	}
	calls := google.Calls()
	e.must("delete", "roles/app", nil)
	e.mustRollBack()
	if now := google.Calls(); !slices.Equal(now, calls) {
		t.Errorf("want no call for a role that is deleted, got %q", now[len(calls):])
	}
}

func TestPeriodsOfARoleAtGoogleFitIntoAnHour(t *testing.T) {
	e, _ := newGoogleEngine(t)
	e.refused("create", "roles/app", fields{"connection": "google", "rotation_period": "50m", "grace_period": "15m"},
		"rotation_period: rotation_period and grace_period together must be at most 1h0m0s, the longest lifetime that the registry allows")
	e.write("roles/app", fields{"connection": "google"})
	checkSame(t, "the default periods", []any{int64(1800), int64(900)}, []any{e.read("roles/app")["rotation_period"], e.read("roles/app")["grace_period"]})
	e.write("connections/google", fields{"token_lifetime": "12h", "verify_connection": false})
	e.write("roles/app", fields{"rotation_period": "11h", "grace_period": "1h"})
}
