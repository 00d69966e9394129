// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// periodic is called by Vault once a minute, on every node. Vault waits for it before
// it reloads the plugin, so it does nothing itself.
func (b *backend) periodic(req *logical.Request) {
	if b.onStandby() {
		b.next.forgetSweep()
		return
	}
	immediate := isImmediate(req)
	b.addJob("the minute", 1, "the minute", func(ctx context.Context) { b.minute(ctx, req.Storage, immediate) })
}

// isImmediate reports whether write-ahead entries of any age are to be rolled back, and
// the request waits for it. Vault does not ask for that; its test helpers and ours do.
func isImmediate(req *logical.Request) bool {
	_, immediate := req.Data["immediate"]
	return immediate
}

// minute finds out what is to be done, and has it done.
func (b *backend) minute(ctx context.Context, storage logical.Storage, immediate bool) {
	var err error
	if b.WriteSafeReplicationState() {
		err = errors.Join(b.rotateDue(ctx, storage), b.finishRootRotations(ctx, storage))
	}
	if b.next.sweepIsDue(b.now()) {
		err = errors.Join(err, b.sweepLeases(ctx, storage))
	}
	err = errors.Join(err, b.rollBackEntries(ctx, storage, immediate))
	if err != nil && ctx.Err() == nil {
		b.Logger().Warn("a part of the minute's work could not be done", "error", err)
	}
}

// rotateDue does what is due for shared roles.
func (b *backend) rotateDue(ctx context.Context, storage logical.Storage) error {
	if err := b.fillSchedule(ctx, storage); err != nil {
		return err
	}
	for _, name := range b.next.due(b.now()) {
		b.maintain(ctx, storage, name)
	}
	return nil
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

// maintain has done what is due for a shared role. Failures are stored with the role.
func (b *backend) maintain(ctx context.Context, storage logical.Storage, name string) {
	r, err := b.role(ctx, storage, name)
	if err != nil {
		b.Logger().Warn("a shared role could not be maintained", "role", name, "error", err)
		b.schedule(name, b.now().Add(firstRevokeRetry))
		return
	}
	if r != nil && r.isShared() {
		b.maintainShared(storage, name, r.Dynamic.Connection)
	}
}

func (b *backend) maintainShared(storage logical.Storage, name, connection string) {
	b.addJob(rotationLane(connection), rotationsAtOnce, "rotation of "+name, func(ctx context.Context) {
		next, err := b.runDue(ctx, storage, name)
		if err != nil && ctx.Err() == nil {
			b.Logger().Warn("a shared role could not be maintained", "role", name, "error", err)
			next = b.now().Add(firstRevokeRetry)
		}
		b.schedule(name, next)
	})
}

// runDue rotates a role if that is due, has revoked what is to be revoked, and returns
// when the role is to be maintained next.
func (b *backend) runDue(ctx context.Context, storage logical.Storage, name string) (next time.Time, err error) {
	r, err := b.role(ctx, storage, name)
	if err != nil || r == nil || !r.isShared() {
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
	if s.mayRevoke() {
		b.addJob(cleaningLane(r.Dynamic.Connection), cleaningAtOnce, "revocations of "+name, func(ctx context.Context) {
			if err := b.revokeDue(withUrgency(ctx, cleaning), storage, name, r.Dynamic); err != nil && ctx.Err() == nil {
				b.Logger().Warn("a shared role could not be maintained", "role", name, "error", err)
			}
		})
	}
	return s.nextAt(), nil
}

// revokeDue revokes the former credentials of a role whose time has come.
func (b *backend) revokeDue(ctx context.Context, storage logical.Storage, name string, d *dynamicRole) error {
	if err := b.revokeRetired(ctx, storage, name); err != nil {
		return err
	}
	s, err := b.sharedStatus(ctx, storage, name, d)
	if err != nil {
		return err
	}
	b.schedule(name, s.nextAt())
	if needed, _ := s.needsRotation(whenDue, s.Rotations); needed { // it waited for the revocations
		b.maintainShared(storage, name, d.Connection)
	}
	return nil
}

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
			b.maintainShared(storage, name, r.Dynamic.Connection)
		}
		return s, nil
	}
	if !b.WriteSafeReplicationState() {
		return sharedStatus{}, logical.ErrReadOnly // Vault forwards the read to the active node of the primary
	}
	served, err := b.rotateAttended(ctx, storage, name, r, whenNothingServes)
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

// stop ends what goes on in the background, and forgets what is in memory.
func (b *backend) stop(context.Context) {
	b.background.end()
	b.end()
	b.background.Wait()
	b.cache.End()
}
