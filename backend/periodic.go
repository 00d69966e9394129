// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
)

const (
	// maintainAtOnce is how many roles are maintained at the same time.
	maintainAtOnce = 8

	// maintainTimeout limits the maintenance that a read has begun.
	maintainTimeout = 2 * time.Minute
)

// periodic is called by Vault once a minute, on every node. What ends what is
// left over comes last, and is limited in time, so that it does not delay
// rotations.
func (b *backend) periodic(ctx context.Context, req *logical.Request) error {
	if b.onStandby() {
		b.next.forgetSweep()
		return nil
	}
	var rotating error
	if b.WriteSafeReplicationState() {
		rotating = b.rotateDue(ctx, req.Storage)
	}
	var sweeping error
	if b.next.sweepIsDue(b.now()) {
		sweeping = b.sweepLeases(ctx, req.Storage)
	}
	return errors.Join(rotating, sweeping, b.rollBackFound(ctx, req.Storage))
}

// rotateDue does what is due for root credentials and shared roles.
func (b *backend) rotateDue(ctx context.Context, storage logical.Storage) error {
	if err := b.fillSchedule(ctx, storage); err != nil {
		return err
	}
	if err := b.finishRootRotations(ctx, storage); err != nil {
		return err
	}
	var maintaining errgroup.Group
	maintaining.SetLimit(maintainAtOnce)
	for _, name := range b.next.due(b.now()) {
		maintaining.Go(func() error {
			b.maintain(ctx, storage, name)
			return nil
		})
	}
	return maintaining.Wait()
}

// fillSchedule reads when each shared role is to be maintained: once, and again
// after the clock has gone back, because times of a wrong clock may lie far in
// the future.
func (b *backend) fillSchedule(ctx context.Context, storage logical.Storage) error {
	if !b.next.begin(b.now()) {
		return nil
	}
	names, err := storage.List(ctx, sharedStoragePrefix)
	if err != nil {
		b.next.forget()
		return fmt.Errorf("listing the shared credentials: %w", err)
	}
	for _, name := range names {
		b.schedule(name, b.now()) // maintaining it finds out when it is due
	}
	return nil
}

// maintain does what is due for a shared role, and notes when it is to be
// maintained next. Failures are stored with the role.
func (b *backend) maintain(ctx context.Context, storage logical.Storage, name string) {
	next, err := b.runDue(ctx, storage, name)
	if err != nil {
		b.Logger().Warn("a shared role could not be maintained", "role", name, "error", err)
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
	s, err := b.sharedStatus(ctx, storage, name, r.Dynamic)
	if err != nil {
		return time.Time{}, err
	}
	if needed, _ := s.needsRotation(whenDue, s.Rotations); needed {
		// Its failure is stored, and says when to try again.
		if _, err := b.rotate(ctx, storage, name, whenDue); err != nil {
			b.Logger().Debug("a rotation failed", "role", name, "error", err)
		}
		if s, err = b.sharedStatus(ctx, storage, name, r.Dynamic); err != nil {
			return time.Time{}, err
		}
	}
	return s.nextAt(), nil
}

// errRoleChanged is about a role that was written while a read of it waited.
// The read can be repeated at once.
var errRoleChanged = logical.CodedError(http.StatusServiceUnavailable, "the role, or its connection, was changed while it was read; try again")

// sharedToServe returns the status of a shared role, which serves. Reads do not
// wait for a rotation that is due, but begin it. Only where there is nothing to
// serve does a read mint, and all others wait for it.
func (b *backend) sharedToServe(ctx context.Context, storage logical.Storage, name string, r *role) (sharedStatus, error) {
	s, err := b.sharedStatus(ctx, storage, name, r.Dynamic)
	if err != nil {
		return sharedStatus{}, err
	}
	if s.serves() {
		if !s.nextAt().After(s.now) && b.WriteSafeReplicationState() {
			b.runDueInBackground(storage, name)
		}
		return s, nil
	}
	if !b.WriteSafeReplicationState() {
		return sharedStatus{}, logical.ErrReadOnly // Vault forwards the read to the active node of the primary
	}
	served, err := b.rotate(ctx, storage, name, whenNothingServes)
	if err != nil {
		return sharedStatus{}, err
	}
	// The rotation was of the role as it is stored now, and the caller may have
	// read an earlier one.
	if s, err = b.status(ctx, storage, served, r.Dynamic); err == nil && !s.serves() {
		err = errRoleChanged
	}
	return s, err
}

// runDueInBackground maintains a role while nobody waits for it.
func (b *backend) runDueInBackground(storage logical.Storage, name string) {
	if _, running := b.maintaining.LoadOrStore(name, nil); running {
		return
	}
	b.background.Go(func() {
		defer b.maintaining.Delete(name)
		ctx, cancel := context.WithTimeout(b.lifetime, maintainTimeout)
		defer cancel()
		b.maintain(ctx, storage, name)
	})
}

// stop ends what goes on in the background, and forgets what is in memory.
func (b *backend) stop(context.Context) {
	b.end()
	b.background.Wait()
	b.cache.End()
}
