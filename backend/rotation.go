// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/queue"
)

const (
	// tendAtOnce is how many roles are tended at the same time.
	tendAtOnce = 8

	// sweepEvery is how often leased credentials are looked for that Vault
	// should have revoked.
	sweepEvery = 10 * time.Minute
)

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

// ownsShared reports whether this is the one node that mints and revokes the
// credentials of shared roles.
func (b *backend) ownsShared() bool {
	return !b.onStandby() && (b.System().LocalMount() || !b.System().ReplicationState().HasState(consts.ReplicationPerformanceSecondary))
}

// periodic is called by Vault once a minute, on every node.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	if b.onStandby() {
		return nil
	}
	if b.next.sweepIsDue(b.now()) {
		if err := b.sweepLeases(ctx, req.Storage); err != nil {
			return err
		}
		b.next.swept(b.now())
	}
	if !b.ownsShared() {
		return nil
	}
	if err := b.fillSchedule(ctx, req.Storage); err != nil {
		return err
	}
	if err := b.settleRoots(ctx, req.Storage); err != nil {
		return err
	}
	var tending sync.WaitGroup
	free := make(chan struct{}, tendAtOnce)
	for _, name := range b.next.due(b.now()) {
		free <- struct{}{}
		tending.Go(func() {
			b.tend(ctx, req.Storage, name)
			<-free
		})
	}
	tending.Wait()
	return nil
}

// fillSchedule reads when each shared role is to be tended, once.
func (b *backend) fillSchedule(ctx context.Context, storage logical.Storage) error {
	b.next.mu.Lock()
	filled := b.next.queue != nil
	if !filled {
		b.next.queue = queue.New() // before reading, so that no change is missed
	}
	b.next.mu.Unlock()
	if filled {
		return nil
	}
	names, err := storage.List(ctx, sharedStoragePrefix)
	if err != nil {
		b.forgetSchedule()
		return fmt.Errorf("listing the shared credentials: %w", err)
	}
	for _, name := range names {
		// To be tended now, which finds out when it is to be.
		b.schedule(name, b.now())
	}
	return nil
}

func (b *backend) forgetSchedule() {
	b.next.mu.Lock()
	defer b.next.mu.Unlock()
	b.next.queue = nil
}

// tend does what is due for a shared role, and notes when it is to be tended
// next. Failures are stored with the role.
func (b *backend) tend(ctx context.Context, storage logical.Storage, name string) {
	next, err := b.tendNow(ctx, storage, name)
	if err != nil {
		b.Logger().Warn("a shared role could not be tended", "role", name, "error", err)
		next = b.now().Add(firstRevokeRetry)
	}
	b.schedule(name, next)
}

func (b *backend) tendNow(ctx context.Context, storage logical.Storage, name string) (next time.Time, err error) {
	r, err := b.role(ctx, storage, name)
	if err != nil || r == nil || !r.isShared() {
		return time.Time{}, err
	}
	if err := b.revokeRetired(ctx, storage, name); err != nil {
		return time.Time{}, err
	}
	s, err := b.shared(ctx, storage, name)
	if err != nil {
		return time.Time{}, err
	}
	if needed, _ := s.needsRotation(r.Dynamic, whenDue, b.now(), b.now()); needed {
		// Its failure is stored, and says when to try again.
		if _, err := b.rotate(ctx, storage, name, whenDue); err != nil {
			b.Logger().Debug("a rotation failed", "role", name, "error", err)
		}
		if s, err = b.shared(ctx, storage, name); err != nil {
			return time.Time{}, err
		}
	}
	return s.nextAt(r.Dynamic), nil
}

// tendSoon tends a role without having a read wait for it.
func (b *backend) tendSoon(storage logical.Storage, name string) {
	if _, tended := b.tended.LoadOrStore(name, nil); tended {
		return
	}
	b.background.Go(func() {
		defer b.tended.Delete(name)
		ctx, cancel := context.WithTimeout(b.lifetime, tendTimeout)
		defer cancel()
		b.tend(ctx, storage, name)
	})
}

// tendTimeout limits what a read has begun.
const tendTimeout = 2 * time.Minute

// stop ends what goes on in the background, and forgets what is in memory.
func (b *backend) stop(context.Context) {
	b.end()
	b.background.Wait()
	b.cache.end()
}
