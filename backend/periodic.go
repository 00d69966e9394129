// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/queue"
	"golang.org/x/sync/errgroup"
)

// tendAtOnce is how many roles are tended at the same time.
const maintainAtOnce = 8

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
	if !b.WriteSafeReplicationState() {
		return nil
	}
	if err := b.fillSchedule(ctx, req.Storage); err != nil {
		return err
	}
	if err := b.finishRootRotations(ctx, req.Storage); err != nil {
		return err
	}
	var maintaining errgroup.Group
	maintaining.SetLimit(maintainAtOnce)
	for _, name := range b.next.due(b.now()) {
		maintaining.Go(func() error {
			b.maintain(ctx, req.Storage, name)
			return nil
		})
	}
	return maintaining.Wait()
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
func (b *backend) maintain(ctx context.Context, storage logical.Storage, name string) {
	next, err := b.runDue(ctx, storage, name)
	if err != nil {
		b.Logger().Warn("a shared role could not be tended", "role", name, "error", err)
		next = b.now().Add(firstRevokeRetry)
	}
	b.schedule(name, next)
}

func (b *backend) runDue(ctx context.Context, storage logical.Storage, name string) (next time.Time, err error) {
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

// sharedToServe returns the state of a shared role with a credential that
// works. Reads do not wait for a rotation, but one is begun for them; only
// where there is nothing to serve does one mint, and all others wait for it.
func (b *backend) sharedToServe(ctx context.Context, storage logical.Storage, name string, r *role) (shared, error) {
	s, err := b.shared(ctx, storage, name)
	if err != nil {
		return shared{}, err
	}
	now := b.now()
	if s.serves(r.Dynamic, now) {
		if at := s.nextAt(r.Dynamic); !at.After(now) && b.WriteSafeReplicationState() {
			b.runDueInBackground(storage, name)
		}
		return s, nil
	}
	if !b.WriteSafeReplicationState() {
		return shared{}, logical.ErrReadOnly // Vault forwards the read to the active node of the primary
	}
	return b.rotate(ctx, storage, name, whenNothingServes)
}

// tendSoon tends a role without having a read wait for it.
func (b *backend) runDueInBackground(storage logical.Storage, name string) {
	if _, tended := b.maintaining.LoadOrStore(name, nil); tended {
		return
	}
	b.background.Go(func() {
		defer b.maintaining.Delete(name)
		ctx, cancel := context.WithTimeout(b.lifetime, maintainTimeout)
		defer cancel()
		b.maintain(ctx, storage, name)
	})
}

// tendTimeout limits what a read has begun.
const maintainTimeout = 2 * time.Minute

// stop ends what goes on in the background, and forgets what is in memory.
func (b *backend) stop(context.Context) {
	b.end()
	b.background.Wait()
	b.cache.End()
}
