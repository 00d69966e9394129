// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// Cluster is one Vault of three nodes, with integrated storage. At any time one
// of them leads, and the others forward to it what they are asked.
type Cluster struct {
	Nodes []*Vault

	orphans []int // processes of plugins whose node was killed
}

// StartCluster starts a cluster with the plugin in the plugin directory of each
// node, registered with its checksum, and enabled at [Mount]. The clients of
// the nodes take it for an error if they are redirected to the leader.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	options := RaftOptions{LogLevel: "debug"}
	first := StartRaftVaultWith(t, options)
	c := &Cluster{Nodes: []*Vault{first}}
	// Not by the client's own method, which sends what only Enterprise takes.
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

// Name is what the cluster calls a node.
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

// ErrRedirected is that a node has named the leader in place of forwarding.
var ErrRedirected = errors.New("redirected to the leader")

// strict makes errors of redirects. The client of Vault would follow them, and
// if told not to, would take them for answers with nothing in them.
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

// Leader returns the node that leads, and since when; nil if none does now.
func (c *Cluster) Leader() (leader *Vault, since time.Time) {
	for _, v := range c.Nodes {
		if v.Ended() {
			continue
		}
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
	if !KillProcess(t, v.PID()) {
		t.Fatalf("node %s does not die", v.node)
	}
	<-v.done
}

// EndOrphans ends, with SIGKILL, the plugins of nodes that were killed.
func (c *Cluster) EndOrphans(t testing.TB) {
	for _, pid := range c.orphans {
		KillProcess(t, pid)
	}
	c.orphans = nil
}

// Revive starts a node again that was killed, and unseals it.
func (c *Cluster) Revive(t testing.TB, v *Vault) {
	t.Helper()
	v.launchRaft(t)
	v.unsealWithKey(t)
}

// WaitUntilServed waits until one of the nodes leads, and all that run serve,
// and returns the leader.
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

// serve asks all nodes that run.
func (c *Cluster) serve() error {
	for _, v := range c.Nodes {
		if v.Ended() {
			continue
		}
		if _, err := v.Client.Logical().Read(Mount + "/config"); err != nil {
			return fmt.Errorf("node %s: %w", v.node, err)
		}
	}
	return nil
}

// WaitUntilWhole waits until all nodes run, vote, serve, and have all that had
// been stored when it began to wait, and returns the leader.
func (c *Cluster) WaitUntilWhole(t testing.TB) (leader *Vault) {
	t.Helper()
	var stored uint64
	Eventually(t, func() error {
		leader = c.WaitUntilServed(t)
		return c.whole(leader, &stored)
	})
	return leader
}

// whole reports why the cluster is not whole. stored is how far the log was at
// first, which is found out if it is 0.
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

// unsealWithKey unseals a node, whether it comes to lead or not. The first
// time, it has the answer to the leader's challenge and joins by itself.
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

// ReplacePlugin has all nodes run another binary of the plugin.
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
