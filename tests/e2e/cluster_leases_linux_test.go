// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	leasesEach = 200 // for each kind of disturbance

	leaseTTL   = 20 * time.Second
	leaseRenew = leaseTTL * 2 / 5

	// leasePause is longer than a lease, so that for a leader that was paused all
	// of them have ended when it wakes.
	leasePause = leaseTTL + 5*time.Second

	// leaseWakes is for a leader that wakes, to find out that it leads no more.
	leaseWakes = 5 * time.Second

	// leaseEnded is how long after its ttl nothing is left of a lease that nobody
	// has.
	leaseEnded = 2 * time.Minute

	leaseRequest = 5 * time.Second

	leasedRole = "ci"
)

// TestClusterKeepsLeases has clients read and renew leases through any node of a
// cluster, while its leaders are paused and killed, plugins are killed alone, and
// clients hang up. All of this must hold:
//
//   - The credential of a lease works for as long as Vault has said at the last
//     renewal, whatever a former leader believes that wakes up.
//   - What was minted and has no lease is ended at the registry within two minutes
//     after its ttl, though it could have been renewed for a day.
//   - The connection can be deleted then.
func TestClusterKeepsLeases(t *testing.T) {
	w := newLeaseWorld(t)
	stop := w.renewAll()
	for n := range 2 {
		w.pauseLeader(n%2 == 0)
	}
	w.whileReading("leaders killed", 3, w.killLeader)
	w.whileReading("plugins killed", 5, w.killPlugin)
	w.hangUp()
	w.nothingIsLeft()
	stop()
	if !t.Failed() {
		w.deleteAll()
	}
}

type leaseWorld struct {
	*testing.T
	cluster *servers.Cluster
	lab     *recordedLab

	mu    sync.Mutex
	held  map[string]*heldLease // by user name
	dead  map[string]bool       // names of credentials that had to live
	count map[string]int        // of what has happened
}

// heldLease is a lease that is renewed.
type heldLease struct {
	id     string
	until  time.Time // Vault has promised
	latest time.Time // the latest end that a renewal, answered or not, can have given it
	busy   bool      // a client is renewing it
	lost   bool      // it ended, because there was no leader to renew it
}

func newLeaseWorld(t *testing.T) *leaseWorld {
	w := &leaseWorld{T: t, lab: newRecordedLab(t), cluster: servers.StartCluster(t), held: map[string]*heldLease{}, dead: map[string]bool{}, count: map[string]int{}}
	c := w.lab.Connection()
	role := map[string]any{"connection": "gitlab", "mode": "leased", "ttl": leaseTTL.String(), "max_ttl": "24h"}
	for field, text := range w.lab.Role() {
		role[field] = text
	}
	w.must("connections/gitlab", map[string]any{
		"type": "gitlab", "url": c.URL, "registry": string(c.Registries[0]), "token": c.Secrets["token"].Reveal(), "allowed_roles": "*",
	})
	w.must("roles/"+leasedRole, role)
	return w
}

// must writes, or deletes if there is no data.
func (w *leaseWorld) must(path string, data map[string]any) {
	w.Helper()
	servers.Eventually(w.T, func() error {
		vault := w.cluster.WaitUntilServed(w.T).Client.Logical()
		var err error
		if data == nil {
			_, err = vault.Delete(at(path))
		} else {
			_, err = vault.Write(at(path), data)
		}
		if err != nil && !saysNoLeader(err) {
			w.Fatalf("%s: %v", path, err)
		}
		return err
	})
}

func (w *leaseWorld) counted(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count[what]++
}

// node returns one that runs.
func (w *leaseWorld) node() *servers.Vault {
	running := w.cluster.Running()
	return running[rand.IntN(len(running))]
}

// read reads a lease within a time, if it can.
func (w *leaseWorld) read(limit time.Duration) (username string, lease *heldLease) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	sent := time.Now()
	secret, err := w.node().Client.Logical().ReadWithContext(ctx, at("creds/"+leasedRole))
	if err != nil || secret == nil {
		w.counted("reads that failed")
		return "", nil
	}
	w.counted("reads")
	return fmt.Sprint(secret.Data["username"]), &heldLease{id: secret.LeaseID, until: promised(sent, secret), latest: time.Now().Add(leaseTTL)}
}

// promised returns when a lease ends at the earliest: Vault says it in whole
// seconds.
func promised(sent time.Time, lease *api.Secret) time.Time {
	return sent.Add(time.Duration(lease.LeaseDuration-1) * time.Second)
}

// hold reads until there are enough leases to be renewed.
func (w *leaseWorld) hold() {
	w.Helper()
	servers.Eventually(w.T, func() error {
		var reading sync.WaitGroup
		for range 8 {
			reading.Go(func() {
				for w.holds() < leasesEach {
					username, lease := w.read(leaseRequest)
					if lease == nil {
						return
					}
					w.mu.Lock()
					w.held[username] = lease
					w.mu.Unlock()
				}
			})
		}
		reading.Wait()
		if n := w.holds(); n < leasesEach {
			return fmt.Errorf("want %d leases, got %d", leasesEach, n)
		}
		return nil
	})
}

// holds counts the leases that are renewed.
func (w *leaseWorld) holds() (count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.held {
		if !l.lost {
			count++
		}
	}
	return count
}

// renewAll has clients renew the leases that are held, and looks whether their
// credentials live, until the function that it returns is called.
func (w *leaseWorld) renewAll() (stop func()) {
	ended := make(chan struct{})
	var clients sync.WaitGroup
	every := func(pause time.Duration, step func()) {
		clients.Go(func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(pause):
					step()
				}
			}
		})
	}
	for range 8 {
		every(clusterPause, w.renewNext)
	}
	every(10*clusterPause, w.look)
	return sync.OnceFunc(func() {
		close(ended)
		clients.Wait()
	})
}

// next returns a lease whose time has come to be renewed, nil if there is none.
func (w *leaseWorld) next() *heldLease {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.held {
		switch left := time.Until(l.until); {
		case l.busy || l.lost || left > leaseTTL-leaseRenew:
		case left <= 0:
			l.lost = true
			w.count["leases that nobody could renew in time"]++
		default:
			l.busy = true
			return l
		}
	}
	return nil
}

func (w *leaseWorld) renewNext() {
	l := w.next()
	if l == nil {
		return
	}
	asked := leaseTTL
	data := map[string]any{"lease_id": l.id}
	if rand.IntN(2) == 0 {
		asked += time.Duration(rand.IntN(5)) * time.Second
		data["increment"] = int(asked.Seconds())
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaseRequest)
	defer cancel()
	sent := time.Now()
	secret, err := w.node().Client.Logical().WriteWithContext(ctx, "sys/leases/renew", data)
	w.mu.Lock()
	defer w.mu.Unlock()
	l.busy = false
	if latest := time.Now().Add(asked); latest.After(l.latest) {
		l.latest = latest
	}
	switch {
	case err == nil:
		w.count["renewals"]++
		if until := promised(sent, secret); until.After(l.until) {
			l.until = until
		}
	case strings.Contains(err.Error(), "lease expired"): // says a leader that wakes; whether it acts so is seen at the registry
		w.count["renewals that a former leader refused"]++
	case errors.Is(err, context.DeadlineExceeded) || saysNoLeader(err) || noLeader.MatchString(err.Error()) || pluginDied(err) || !time.Now().Before(l.until):
		// Vault answers with status 400 to any renewal that fails.
		w.count["renewals that failed"]++
	default:
		w.Errorf("renewing a lease that has %s left: %v", time.Until(l.until), err)
	}
}

// pluginDied reports whether an error is that of a request that the plugin, or
// the leader to which it was forwarded, did not survive.
func pluginDied(err error) bool {
	return slices.ContainsFunc([]string{"rpc error", "error during forwarding", "plugin is shut down", "connection is shutting down"}, func(sign string) bool {
		return strings.Contains(err.Error(), sign)
	})
}

// look judges whether the credentials live that have a lease.
func (w *leaseWorld) look() {
	now := time.Now()
	w.mu.Lock()
	until := map[string]time.Time{}
	for username, l := range w.held {
		until[username] = l.until
	}
	w.mu.Unlock()
	for _, token := range w.lab.of(leasedRole) {
		left := until[token.username].Sub(now)
		if token.ended.IsZero() || left <= 0 {
			continue
		}
		w.mu.Lock()
		if !w.dead[token.name] {
			w.dead[token.name] = true
			w.Errorf("%s was ended, though its lease has %s left", token.name, left.Round(time.Millisecond))
		}
		w.mu.Unlock()
	}
}

// pauseLeader stops the leader, with its plugin or alone, for longer than a lease
// lasts, while its leases are renewed at the next leader.
func (w *leaseWorld) pauseLeader(withPlugin bool) {
	w.cluster.WaitUntilWhole(w.T)
	w.hold()
	leader := w.cluster.WaitUntilWhole(w.T)
	w.cluster.Pause(w.T, leader, withPlugin)
	paused := time.Now()
	w.cluster.WaitUntilServed(w.T)
	w.Logf("node %s paused, with its plugin: %t; another one leads after %.1f s", leader.Name(), withPlugin, time.Since(paused).Seconds())
	time.Sleep(time.Until(paused.Add(leasePause)))
	w.cluster.Resume(w.T, leader)
	time.Sleep(leaseWakes)
	w.Logf("node %s goes on; %d leases are held", leader.Name(), w.holds())
	w.counted("leaders paused")
}

// whileReading disturbs the cluster several times while clients read leases that
// they do not renew.
func (w *leaseWorld) whileReading(what string, times int, disturb func()) {
	var reads atomic.Int64
	var clients sync.WaitGroup
	ended := make(chan struct{})
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(2 * clusterPause):
				}
				if _, lease := w.read(leaseRequest); lease != nil {
					reads.Add(1)
				}
			}
		})
	}
	for n := range times {
		time.Sleep(time.Duration(500+rand.IntN(1000)) * time.Millisecond)
		disturb()
		w.counted(what)
		w.Logf("%s: %d, after %d reads", what, n+1, reads.Load())
	}
	servers.Eventually(w.T, func() error {
		if n := reads.Load(); n < leasesEach {
			return fmt.Errorf("want %d leases, got %d", leasesEach, n)
		}
		return nil
	})
	close(ended)
	clients.Wait()
}

func (w *leaseWorld) killLeader() {
	leader := w.cluster.WaitUntilServed(w.T)
	w.cluster.Kill(w.T, leader)
	w.cluster.EndOrphans(w.T)
	w.cluster.WaitUntilServed(w.T)
	w.cluster.Revive(w.T, leader)
	w.cluster.WaitUntilWhole(w.T)
}

func (w *leaseWorld) killPlugin() {
	leader := w.cluster.WaitUntilServed(w.T)
	leader.KillPlugin(w.T)
	w.cluster.WaitUntilServed(w.T)
}

// hangUp has clients give up at any time of a request.
func (w *leaseWorld) hangUp() {
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range leasesEach / 2 {
				w.read(time.Duration(rand.IntN(80)) * time.Millisecond)
				w.counted("requests that a client may have given up")
			}
		})
	}
	clients.Wait()
}

// nothingIsLeft waits until the registry has nothing but what is renewed.
func (w *leaseWorld) nothingIsLeft() {
	for wait := time.Now().Add(leaseTTL + leaseEnded); time.Now().Before(wait) && w.alive() > 0; {
		time.Sleep(time.Second)
	}
	lingered := 0
	tokens := w.lab.of(leasedRole)
	for _, token := range tokens {
		over, renewed := w.over(token)
		switch ended := token.ended; {
		case renewed:
		case ended.IsZero():
			w.Errorf("%s has no lease since %s, and is alive", token.name, time.Since(over).Round(time.Second))
		case ended.Sub(over) > leaseEnded:
			w.Errorf("%s has lived for %s without a lease", token.name, ended.Sub(over).Round(time.Second))
		case ended.Sub(over) > 20*time.Second:
			lingered++ // Vault did not know it
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Printf("%6d credentials minted; %d without a lease were ended by the engine\n", len(tokens), lingered)
	for _, what := range slices.Sorted(maps.Keys(w.count)) {
		fmt.Printf("%6d %s\n", w.count[what], what)
	}
}

// over returns when the lease of a credential has ended at the latest, and
// whether it is still renewed.
func (w *leaseWorld) over(t token) (ended time.Time, renewed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.held[t.username]
	if l == nil {
		return t.minted.Add(leaseTTL), false
	}
	return l.latest, !l.lost
}

// alive counts the credentials that nobody renews.
func (w *leaseWorld) alive() (count int) {
	for _, token := range w.lab.of(leasedRole) {
		if _, renewed := w.over(token); !renewed && token.ended.IsZero() {
			count++
		}
	}
	return count
}

// deleteAll revokes what is left, and deletes the connection, which needs no
// force. A build for tests rolls write-ahead entries back that are not yet old,
// though nothing was minted for them.
func (w *leaseWorld) deleteAll() {
	if err := w.cluster.WaitUntilWhole(w.T).Client.Sys().RevokePrefix(at("creds/" + leasedRole)); err != nil {
		w.Errorf("revoking what is renewed: %v", err)
	}
	servers.Eventually(w.T, func() error {
		if living := w.lab.Living(); len(living) > 0 {
			return fmt.Errorf("%d credentials are alive", len(living))
		}
		return nil
	})
	w.must("roles/"+leasedRole, nil)
	w.cluster.ReplacePlugin(w.T, servers.Bin(w.T, "regcred-killpoints"))
	servers.Eventually(w.T, func() error {
		_, err := w.node().Client.Logical().Write(pathRollback, map[string]any{})
		return err
	})
	w.must("connections/gitlab", nil)
}
