// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/tests/servers"
)

func TestKilledPluginIsStartedAgain(t *testing.T) {
	t.Parallel()
	v := servers.StartRaftVault(t)
	write(t, v.Client, "regcred/roles/app", credential(nil))
	before := read(t, v.Client, "regcred/creds/app")
	for range 3 {
		killed := v.KillPlugin(t)
		v.WaitUntilServed(t)
		if diff := cmp.Diff(before, read(t, v.Client, "regcred/creds/app")); diff != "" {
			t.Errorf("after kill -9 (-before +after):\n%s", diff)
		}
		if pids := v.PluginPIDs(t); len(pids) != 1 || pids[0] == killed {
			t.Errorf("want one new plugin process in place of %d, got %v", killed, pids)
		}
	}
}

// TestKillDuringRequestsLosesNothing kills the plugin again and again while
// writers rewrite whole credentials. Afterwards each role must be one that was
// written, no older than the last write that Vault acknowledged.
func TestKillDuringRequestsLosesNothing(t *testing.T) {
	t.Parallel()
	v := servers.StartRaftVault(t)
	const (
		writers = 4
		kills   = 25
	)
	var (
		running sync.WaitGroup
		ended   atomic.Bool
		acked   [writers]int // the last generation of each role that was acknowledged
		tried   [writers]int
	)
	// Every field carries the generation, so that a mix of two shows.
	generation := func(n int) fields {
		return fields{
			"registry": fmt.Sprintf("registry-%d.example.com", n), "username": fmt.Sprintf("user-%d", n),
			"password":   fmt.Sprintf("%s-%d-%s", marker, n, strings.Repeat("x", 64<<10)),
			"expires_at": time.Date(2100, 1, 1, n, 0, 0, 0, time.UTC).Format(time.RFC3339),
		}
	}
	for i := range writers {
		role := fmt.Sprintf("regcred/roles/app%d", i)
		write(t, v.Client, role, generation(0))
		running.Go(func() {
			for n := 1; !ended.Load(); n++ {
				tried[i] = n
				if _, err := v.Client.Logical().Write(role, generation(n)); err == nil {
					acked[i] = n
				}
			}
		})
	}
	for range kills {
		v.WaitUntilServed(t)
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		v.KillPlugin(t)
	}
	ended.Store(true)
	running.Wait()
	v.WaitUntilServed(t)

	for i := range writers {
		data := read(t, v.Client, fmt.Sprintf("regcred/creds/app%d", i))
		var n int
		if _, err := fmt.Sscanf(data["username"].(string), "user-%d", &n); err != nil {
			t.Fatal(err)
		}
		if n < acked[i] || n > tried[i] {
			t.Errorf("role %d: acknowledged up to write %d of %d, and %d is stored", i, acked[i], tried[i], n)
		}
		want := generation(n)
		got := fields{"registry": data["registry"], "username": data["username"], "password": data["password"], "expires_at": data["expires_at"]}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("role %d is a mix of two writes (-want +got):\n%.500s", i, diff)
		}
		t.Logf("role %d: %d writes, of which number %d is stored", i, tried[i], n)
	}
	// The index of expiries is written beside the roles. It may have keys too
	// many, which find nothing, but none too few.
	secret, err := v.Client.Logical().ReadWithData("regcred/expiring", map[string][]string{"within": {"2000000h"}})
	if err != nil {
		t.Fatal(err)
	}
	if roles := secret.Data["roles"].([]any); len(roles) != writers {
		t.Errorf("want all %d roles to be found by their expiry, got %v", writers, roles)
	}
	if strings.Contains(v.Log(), marker) {
		t.Error("Vault's log at level trace holds a secret")
	}
}
