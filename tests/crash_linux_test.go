// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
		killed := killPlugin(t, v)
		waitUntilServed(t, v)
		if diff := cmp.Diff(before, read(t, v.Client, "regcred/creds/app")); diff != "" {
			t.Errorf("after kill -9 (-before +after):\n%s", diff)
		}
		if pids := pluginPIDs(t, v); len(pids) != 1 || pids[0] == killed {
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
		waitUntilServed(t, v)
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		killPlugin(t, v)
	}
	ended.Store(true)
	running.Wait()
	waitUntilServed(t, v)

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
	// The index of expiries is written beside the roles, and may have keys too
	// many, which find nothing, and none too few.
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

// killPlugin sends SIGKILL to the plugin's process, once it serves requests,
// and returns its id.
func killPlugin(t *testing.T, v *servers.Vault) int {
	t.Helper()
	waitUntilServed(t, v)
	pids := pluginPIDs(t, v)
	if len(pids) != 1 {
		t.Fatalf("want one plugin process, got %v", pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	return pids[0]
}

// waitUntilServed reads until there is an answer: requests fail until Vault
// has noticed that the process is gone, and the next one starts it again.
func waitUntilServed(t *testing.T, v *servers.Vault) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if _, err = v.Client.Logical().Read("regcred/config"); err == nil {
			return
		}
	}
	t.Fatalf("the plugin does not come back: %v", err)
}

// pluginPIDs finds the plugin's processes among the children of Vault.
func pluginPIDs(t *testing.T, v *servers.Vault) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, stat := range stats {
		content, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended meanwhile
		}
		// pid (name) state ppid …; the name may have spaces.
		_, rest, _ := strings.Cut(string(content), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[0] == "Z" || fields[1] != strconv.Itoa(v.PID()) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}
