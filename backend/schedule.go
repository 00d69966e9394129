// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/queue"
)

const (
	// sweepEvery is how often the index of leases is listed even if nothing in it is
	// known to be due.
	sweepEvery = 10 * time.Minute

	// clockSkew is how far clocks of healthy nodes may differ. A stored time that
	// lies further in the future was written by a clock that was wrong.
	clockSkew = time.Minute
)

// schedule holds when each shared role is to be maintained next, by name. It is
// in memory only. The first run of the periodic function after a start, a
// reload or a change of the active node fills it from storage.
type schedule struct {
	mu    sync.Mutex
	queue *queue.PriorityQueue // nil until filled; by time in Unix nanoseconds
	begun time.Time            // when it was last begun or looked at

	// extra are keys of the index of what is due that are to be deleted once the
	// role, or the connection, of that name was maintained, unless they are the
	// role's own.
	extra map[string][]dueTimes

	sweptAt time.Time // when the lease index was last listed; zero: not yet
	sweepAt time.Time // when an entry of it may be due
}

// sweepIsDue reports whether something in the index of leases may be due. If the
// clock went back, what is known of the index is not relied on.
func (s *schedule) sweepIsDue(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sweptAt.IsZero() || now.Before(s.sweptAt) || !now.Before(s.sweepAt)
}

// beginSweep notes that the index is listed. What is found, or written
// meanwhile, is told to sweepBy.
func (s *schedule) beginSweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweptAt, s.sweepAt = now, now.Add(sweepEvery)
}

// sweepBy notes when an entry of the index is due.
func (s *schedule) sweepBy(due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweepAt = earlier(s.sweepAt, due)
}

// forgetSweep has the index listed at the next opportunity: another node may
// have written to it.
func (s *schedule) forgetSweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweptAt = time.Time{}
}

// begin reports whether the schedule is to be filled. It begins an empty one
// then, before storage is read, so that no change is missed.
func (s *schedule) begin(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wentBack := now.Before(s.begun.Add(-clockSkew))
	s.begun = now
	if s.queue != nil && !wentBack {
		return false
	}
	s.queue, s.extra = queue.New(), map[string][]dueTimes{}
	return true
}

// forget has the schedule filled anew.
func (s *schedule) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = nil
}

// set notes when a role is to be maintained next; the zero time: not at all.
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

// setBy notes that a role is to be maintained by a time: it keeps an earlier one.
func (s *schedule) setBy(name string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue == nil || at.IsZero() {
		return
	}
	if item, _ := s.queue.PopByKey(name); item != nil && item.Priority < at.UnixNano() {
		_ = s.queue.Push(item)
		return
	}
	_ = s.queue.Push(&queue.Item{Key: name, Priority: at.UnixNano()})
}

// addExtra notes keys of the index that are to be deleted.
func (s *schedule) addExtra(name string, keys ...dueTimes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue != nil {
		s.extra[name] = append(s.extra[name], keys...)
	}
}

// takeExtra removes and returns the keys of a name that are to be deleted.
func (s *schedule) takeExtra(name string) []dueTimes {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := s.extra[name]
	delete(s.extra, name)
	return keys
}

// due removes and returns the roles that are to be maintained by now.
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

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// backOff doubles the first pause with each failure, up to the last.
func backOff(first, last time.Duration, failures int) time.Duration {
	if failures > 20 {
		return last
	}
	return min(last, first<<max(0, failures-1))
}
