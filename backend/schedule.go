// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/queue"
)

// sweepEvery is how often leased credentials are looked for that Vault
// should have revoked.
const sweepEvery = 10 * time.Minute

// schedule is when the shared roles are to be tended next, by name. It is in
// memory only, and filled from storage by the first run of the periodic
// function after a start, a reload or a change of the active node.
type schedule struct {
	mu    sync.Mutex
	queue *queue.PriorityQueue // nil until filled; by time in Unix nanoseconds
	sweep time.Time            // when leased credentials were last swept
}

func (s *schedule) sweepIsDue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sweep.IsZero() || now.Sub(s.sweep) >= sweepEvery
}

func (s *schedule) swept(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep = now
}

// set notes when a role is to be tended next; zero: not at all.
func (s *schedule) set(name string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue == nil {
		return
	}
	_, _ = s.queue.PopByKey(name) // it may not be there
	if !at.IsZero() {
		_ = s.queue.Push(&queue.Item{Key: name, Priority: at.UnixNano()}) // fails only for a key that is there
	}
}

// due takes the roles out that are to be tended by now.
func (s *schedule) due(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for s.queue != nil {
		item, err := s.queue.Pop()
		if err != nil { // it is empty
			break
		}
		if item.Priority > now.UnixNano() {
			_ = s.queue.Push(item)
			break
		}
		names = append(names, item.Key)
	}
	return names
}

func (b *backend) schedule(name string, at time.Time) { b.next.set(name, at) }

// onStandby reports whether storage cannot be written from this node at all.
func (b *backend) onStandby() bool {
	return b.System().ReplicationState().HasState(consts.ReplicationPerformanceStandby | consts.ReplicationDRSecondary)
}
