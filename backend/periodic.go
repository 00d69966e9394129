// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// periodic is called by Vault once a minute, on every node. Vault waits for it before
// it reloads the plugin, so it does nothing itself.
func (b *backend) periodic(req *logical.Request) {
	if b.onStandby() {
		b.next.forgetSweep()
		b.attentions.forget()
		return
	}
	name, immediate := "the minute", isImmediate(req)
	if immediate { // it must not join one that lets young entries be
		name = "the minute, at once"
	}
	b.addJob("the minute", 1, name, func(ctx context.Context) { b.minute(ctx, req.Storage, immediate) })
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
		err = errors.Join(b.rotateDue(ctx, storage), b.finishRootRotations(ctx, storage), b.keepAttention(ctx, storage))
	}
	if b.next.sweepIsDue(b.now()) {
		err = errors.Join(err, b.sweepLeases(ctx, storage))
	}
	err = errors.Join(err, b.rollBackEntries(ctx, storage, immediate))
	if b.WriteSafeReplicationState() {
		err = errors.Join(err, b.verifyDue(ctx, storage))
	}
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

// fillSchedule reads when each shared role is to be maintained, from the index:
// once, and again after the clock has gone back, because times of a wrong clock
// may lie far in the future.
func (b *backend) fillSchedule(ctx context.Context, storage logical.Storage) error {
	if !b.next.begin(b.now()) {
		return nil
	}
	at, extra, err := b.listDue(ctx, storage)
	if err != nil {
		b.next.forget()
		return err
	}
	for name, keys := range extra {
		b.next.addExtra(name, keys...)
	}
	for name, next := range at {
		b.next.setBy(name, next) // a change that came meanwhile may have set another time
	}
	return nil
}

// maintain has done what is due for a shared role, or has the keys of the roles of a
// connection renewed. Failures are stored with the role.
func (b *backend) maintain(ctx context.Context, storage logical.Storage, name string) {
	if connection, ok := strings.CutPrefix(name, connectionMark); ok {
		b.addJob("keys", 1, "keys of the roles of "+connection, func(ctx context.Context) {
			b.maintained(ctx, name, b.followConnection(ctx, storage, connection))
		})
		return
	}
	r, err := b.role(ctx, storage, name)
	switch {
	case err != nil:
		b.maintained(ctx, name, err)
	case r != nil && r.isShared():
		b.maintainShared(storage, name, r.Dynamic.Connection)
	default: // the index has a key too many
		b.maintained(ctx, name, b.renewDue(ctx, storage, name))
	}
}

func (b *backend) maintainShared(storage logical.Storage, name, connection string) {
	b.addJob(rotationLane(connection), rotationsAtOnce, "rotation of "+name, func(ctx context.Context) {
		b.maintained(ctx, name, b.runDue(ctx, storage, name))
	})
}

// maintained has what failed done again a minute later.
func (b *backend) maintained(ctx context.Context, name string, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	b.Logger().Warn("a shared role could not be maintained", "role", name, "error", err)
	b.next.setBy(name, b.now().Add(firstRevokeRetry))
}

// runDue rotates a role if that is due, has revoked what is to be revoked, and
// schedules the role anew.
func (b *backend) runDue(ctx context.Context, storage logical.Storage, name string) error {
	r, err := b.role(ctx, storage, name)
	if err != nil {
		return err
	}
	if r == nil || !r.isShared() {
		return b.renewDue(ctx, storage, name)
	}
	s, err := b.sharedStatus(ctx, storage, name, r.Dynamic)
	if err != nil {
		return err
	}
	if needed, _ := s.needsRotation(whenDue, s.Rotations); needed {
		// Its failure is stored, and says when to try again.
		if _, err := b.rotate(ctx, storage, name, whenDue); err != nil {
			b.Logger().Debug("a rotation failed", "role", name, "error", err)
		}
		if s, err = b.sharedStatus(ctx, storage, name, r.Dynamic); err != nil {
			return err
		}
	}
	if s.mayRevoke() {
		b.addJob(cleaningLane(r.Dynamic.Connection), cleaningAtOnce, "revocations of "+name, func(ctx context.Context) {
			b.maintained(ctx, name, b.revokeDue(withUrgency(ctx, cleaning), storage, name, r.Dynamic))
		})
	}
	return b.renewDue(ctx, storage, name)
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
	if needed, _ := s.needsRotation(whenDue, s.Rotations); needed { // it waited for the revocations
		b.maintainShared(storage, name, d.Connection)
	}
	return b.renewDue(ctx, storage, name)
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

// initialize is called by Vault on every node before the first request. It finds out which
// roles fail, and has the bundles that an earlier build has stored added to the index, once
// for each mount.
func (b *backend) initialize(ctx context.Context, req *logical.InitializationRequest) error {
	if err := b.loadFailing(ctx, req.Storage); err != nil { // the active node tries again within a minute
		b.Logger().Debug("reads do not warn yet of roles that fail their verification", "error", err)
	}
	if b.onStandby() || !b.WriteSafeReplicationState() {
		return nil
	}
	done, err := req.Storage.Get(ctx, bundlesIndexedKey)
	if err != nil || done != nil {
		return err
	}
	b.background.start(func() {
		if err := b.indexBundles(b.lifetime, req.Storage); err != nil && b.lifetime.Err() == nil {
			b.Logger().Warn("the bundles of an earlier build are not in the index yet; it is tried again after the next start", "error", err)
		}
	})
	return nil
}

// stop ends what goes on in the background, and forgets what is in memory.
func (b *backend) stop(context.Context) {
	b.background.end()
	b.end()
	b.background.Wait()
	b.cache.End()
}
