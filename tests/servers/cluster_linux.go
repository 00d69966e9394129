// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// askLimit is for one answer of a node.
const askLimit = 5 * time.Second

// Cluster is one Vault of three nodes, with integrated storage. One node leads
// at a time, and the others forward requests to it.
type Cluster struct {
	Nodes []*Vault

	orphans []int // plugin processes whose node was killed

	mu     sync.Mutex
	killed map[*Vault]bool
	paused map[*Vault][]int // processes of nodes that are paused
}

// StartCluster starts a cluster. Each node has the plugin in its plugin
// directory; it is registered with its checksum and enabled at [Mount]. For the
// nodes' clients, a redirect to the leader is an error.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	options := RaftOptions{LogLevel: "debug"}
	first := StartRaftVaultWith(t, options)
	c := &Cluster{Nodes: []*Vault{first}, killed: map[*Vault]bool{}, paused: map[*Vault][]int{}}
	// Not with the client's own method, which sends fields that only Vault
	// Enterprise accepts.
	soon := map[string]any{"server_stabilization_time": "1s"}
	if _, err := first.Client.Logical().Write("sys/storage/raft/autopilot/configuration", soon); err != nil {
		t.Fatalf("having nodes vote soon after they join: %v", err)
	}
	for _, name := range []string{"two", "three"} {
		v := newVault(t, Plugin(t))
		v.node, v.options = name, options
		v.launchRaft(t)
		v.connect(t)
		if _, err := v.Client.Sys().RaftJoin(&api.RaftJoinRequest{LeaderAPIAddr: first.Addr}); err != nil {
			t.Fatalf("node %s: joining: %v", name, err)
		}
		v.Token, v.unseal = first.Token, first.unseal
		v.unsealWithKey(t)
		c.Nodes = append(c.Nodes, v)
	}
	for _, v := range c.Nodes {
		v.connectStrictly(t)
	}
	t.Cleanup(func() { c.EndOrphans(t) })
	c.WaitUntilWhole(t)
	return c
}

// Name is the name of a node in the cluster.
func (v *Vault) Name() string { return v.node }

// connectStrictly replaces the client by one that follows no redirect.
func (v *Vault) connectStrictly(t testing.TB) {
	t.Helper()
	v.connect(t)
	config := v.Client.CloneConfig()
	config.HttpClient.Transport = strict{config.HttpClient.Transport}
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(v.Token)
	v.Client = client
}

// ErrRedirected says that a node has named the leader instead of forwarding.
var ErrRedirected = errors.New("redirected to the leader")

// strict turns redirects into errors. Vault's client would follow them, or else
// take them for empty answers.
type strict struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (s strict) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.RoundTripper.RoundTrip(r)
	if err == nil && resp.StatusCode >= 300 && resp.StatusCode < 400 {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: status %d", ErrRedirected, resp.StatusCode)
	}
	return resp, err
}

// Running returns the nodes that were neither killed nor paused.
func (c *Cluster) Running() []*Vault {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(v *Vault) bool { return c.killed[v] || c.paused[v] != nil })
}

// Pause stops a node with SIGSTOP, as if its machine had no time for it, and its
// plugin with it or not.
func (c *Cluster) Pause(t testing.TB, v *Vault, withPlugin bool) {
	t.Helper()
	pids := []int{v.PID()}
	if withPlugin {
		pids = append(pids, v.PluginPIDs(t)...)
	}
	c.mu.Lock()
	c.paused[v] = pids
	c.mu.Unlock()
	t.Cleanup(func() { c.Resume(t, v) }) // so that it can be stopped
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatalf("pausing node %s: %v", v.node, err)
		}
	}
}

// Resume has a node go on that was paused. It does nothing the second time.
func (c *Cluster) Resume(t testing.TB, v *Vault) {
	t.Helper()
	c.mu.Lock()
	pids := c.paused[v]
	delete(c.paused, v)
	c.mu.Unlock()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Errorf("resuming node %s: %v", v.node, err)
		}
	}
}

// Leader returns the node that leads, and since when; nil if none leads now.
func (c *Cluster) Leader() (leader *Vault, since time.Time) {
	for _, v := range c.Running() {
		if said, err := v.Client.Sys().Leader(); err == nil && said.IsSelf {
			return v, said.ActiveTime
		}
	}
	return nil, time.Time{}
}

// Kill ends a node with SIGKILL, as if it had run out of memory. Its plugin
// lives on, until [Cluster.EndOrphans].
func (c *Cluster) Kill(t testing.TB, v *Vault) {
	t.Helper()
	c.orphans = append(c.orphans, v.PluginPIDs(t)...)
	c.setKilled(v, true)
	if !KillProcess(t, v.PID()) {
		t.Fatalf("node %s does not die", v.node)
	}
	<-v.done
}

// EndOrphans kills the plugin processes of killed nodes.
func (c *Cluster) EndOrphans(t testing.TB) {
	for _, pid := range c.orphans {
		KillProcess(t, pid)
	}
	c.orphans = nil
}

// Revive starts a killed node again and unseals it.
func (c *Cluster) Revive(t testing.TB, v *Vault) {
	t.Helper()
	v.launchRaft(t)
	v.unsealWithKey(t)
	c.setKilled(v, false)
}

func (c *Cluster) setKilled(v *Vault, killed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed[v] = killed
}

// WaitUntilServed waits until one node leads and all running nodes serve, and
// returns the leader.
func (c *Cluster) WaitUntilServed(t testing.TB) (leader *Vault) {
	t.Helper()
	Eventually(t, func() error {
		if leader, _ = c.Leader(); leader == nil {
			return errors.New("no node leads")
		}
		return c.serve()
	})
	return leader
}

// serve sends a request to each running node.
func (c *Cluster) serve() error {
	for _, v := range c.Running() {
		// A node may wait long for a leader that is paused.
		ctx, cancel := context.WithTimeout(context.Background(), askLimit)
		_, err := v.Client.Logical().ReadWithContext(ctx, Mount+"/config")
		cancel()
		if err != nil {
			return fmt.Errorf("node %s: %w", v.node, err)
		}
	}
	return nil
}

// WaitUntilWhole waits until all nodes run, vote, serve, and have applied
// everything that was stored when it was called. It returns the leader.
func (c *Cluster) WaitUntilWhole(t testing.TB) (leader *Vault) {
	t.Helper()
	var stored uint64
	Eventually(t, func() error {
		leader = c.WaitUntilServed(t)
		return c.whole(leader, &stored)
	})
	return leader
}

// whole returns why the cluster is not whole. stored is the index that each
// node's log must reach; if it is 0, whole sets it.
func (c *Cluster) whole(leader *Vault, stored *uint64) error {
	state, err := leader.Client.Sys().RaftAutopilotState()
	if err != nil {
		return fmt.Errorf("asking node %s who votes: %w", leader.node, err)
	}
	if len(state.Voters) != len(c.Nodes) {
		return fmt.Errorf("only these vote: %q", state.Voters)
	}
	said, err := leader.Client.Sys().Leader()
	if err != nil {
		return fmt.Errorf("asking node %s how far it is: %w", leader.node, err)
	}
	if *stored == 0 {
		*stored = said.RaftCommittedIndex
	}
	for _, v := range c.Nodes {
		said, err := v.Client.Sys().Leader()
		if err != nil {
			return fmt.Errorf("asking node %s how far it is: %w", v.node, err)
		}
		if said.RaftAppliedIndex < *stored {
			return fmt.Errorf("node %s is at %d of %d", v.node, said.RaftAppliedIndex, *stored)
		}
	}
	return nil
}

// unsealWithKey unseals a node, whether it leads afterwards or not. At its
// first unseal a node can answer the leader's challenge, and joins by itself.
func (v *Vault) unsealWithKey(t testing.TB) {
	t.Helper()
	if _, err := v.Client.Sys().Unseal(v.unseal); err != nil {
		t.Fatalf("node %s: unsealing: %v", v.node, err)
	}
	Eventually(t, func() error {
		status, err := v.Client.Sys().SealStatus()
		if err == nil && status.Sealed {
			err = fmt.Errorf("node %s is sealed: %+v", v.node, status)
		}
		return err
	})
}

// ReplacePlugin makes all nodes run another binary of the plugin.
func (c *Cluster) ReplacePlugin(t testing.TB, binary string) {
	t.Helper()
	const name = PluginName + "-replaced"
	for _, v := range c.Nodes {
		v.CopyPlugin(t, binary, name)
	}
	leader := c.WaitUntilWhole(t)
	leader.Register(t, binary, name, "")
	if _, err := leader.Client.Sys().ReloadPlugin(&api.ReloadPluginInput{Mounts: []string{Mount + "/"}}); err != nil {
		t.Fatalf("reloading the plugin: %v", err)
	}
}
