// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// cause says why a credential is replaced.
type cause int

const (
	whenDue           cause = iota // the rotation period is over
	whenNothingServes              // a read has nothing to be given
	whenAsked                      // somebody wrote rotate/<role>
)

// rotate replaces the credential of a shared role, if after waiting for others
// who do so that is still to be done, and returns what the role serves.
func (b *backend) rotate(ctx context.Context, storage logical.Storage, name string, why cause) (shared, error) {
	asked := b.now()
	unlock, err := b.rotating.lock(ctx, name)
	if err != nil {
		return shared{}, err
	}
	defer unlock()

	r, err := b.role(ctx, storage, name)
	if err != nil {
		return shared{}, err
	}
	if r == nil || !r.isShared() {
		return shared{}, noSuchRole(name)
	}
	s, err := b.shared(ctx, storage, name)
	if err != nil {
		return shared{}, err
	}
	if needed, err := s.needsRotation(r.Dynamic, why, asked, b.now()); err != nil || !needed {
		return s, err
	}
	if why == whenDue {
		if err := b.skipIfUnreachable(r.Dynamic.Connection); err != nil {
			return s, err // which is no failure of its own: it is tried a minute later
		}
	}
	minted, err := b.mintFor(ctx, storage, name, r, r.Dynamic.lifetime)
	b.recordReachability(r.Dynamic.Connection, err)
	if err != nil {
		// What Vault's own storage does says nothing about the registry, and a
		// read that is refused need not be told the same for a while.
		if issuer.IsError(err) || isBadGateway(err) || isInputError(err) && why != whenNothingServes {
			b.rememberFailure(ctx, storage, name, err)
		}
		return shared{}, registryError(err)
	}
	s, err = b.serve(ctx, storage, name, r.Dynamic, minted)
	if errors.Is(err, errNotServed) {
		b.abandon(ctx, storage, minted) // with the role unlocked, because the registry may take long
	} else {
		minted.done()
	}
	return s, err
}

// errNotServed is about a new credential that is certainly not stored.
var errNotServed = errors.New("the new credential is not served")

// needsRotation decides after all others are done.
func (s shared) needsRotation(d *dynamicRole, why cause, asked, now time.Time) (bool, error) {
	works := s.serves(d, now)
	switch {
	case why == whenAsked:
		if works && s.Current.MintedAt.After(asked) {
			return false, nil
		}
	case why == whenDue:
		if s.Current == nil || s.rotateAt(d).After(now) || s.retryAt().After(now) {
			return false, nil
		}
	case works:
		return false, nil
	case now.Before(s.readsRetryAt()):
		return false, badGateway(fmt.Errorf("%s (tried at %s; it is tried again at the next read from %s on)", s.LastError, formatTime(s.FailedAt), formatTime(s.readsRetryAt())))
	}
	if len(s.Retired) >= maxRetired {
		return false, badGateway(fmt.Errorf("%d former credentials wait to be revoked; the role's read-back says why", len(s.Retired)))
	}
	return true, nil
}

// serve stores what was minted as the current credential, and the former one as
// retired, in one write. From then on reads are given it.
func (b *backend) serve(ctx context.Context, storage logical.Storage, name string, d *dynamicRole, minted *newCredential) (shared, error) {
	ctx = context.WithoutCancel(ctx)
	defer b.lockRole(name)()
	r, err := b.role(ctx, storage, name)
	if err != nil {
		return shared{}, fmt.Errorf("%w: %w", errNotServed, err)
	}
	if r == nil || !r.isShared() || r.Dynamic.Connection != d.Connection || !maps.Equal(r.Dynamic.For, d.For) {
		return shared{}, fmt.Errorf("%w: %w", errNotServed, refusef("role %q was changed while it was minted; try again", name))
	}
	s, err := b.shared(ctx, storage, name)
	if err != nil {
		return shared{}, fmt.Errorf("%w: %w", errNotServed, err)
	}
	now := b.now()
	if c := s.Current; c != nil && (c.ID != "" || minted.revocable) {
		s.Retired = append(slices.Clone(s.Retired), retired{credentialRef: c.credentialRef, RevokeAt: now.Add(r.Dynamic.GracePeriod.Duration)})
	}
	s.Current = &sharedCredential{credentialRef: minted.credentialRef, Docker: minted.Docker, MintedAt: minted.MintedAt, ExpiresAt: minted.ExpiresAt}
	s.LastError, s.FailedAt, s.Failures, s.RetryAfter = "", time.Time{}, 0, 0
	if err := b.putShared(ctx, storage, name, s); err != nil {
		// Whether it is stored is not known: the write-ahead entry stays, and
		// finds out.
		return shared{}, err
	}
	b.deleteWAL(ctx, storage, minted.wal)
	b.schedule(name, s.nextAt(r.Dynamic))
	b.sendEventOf(ctx, "credential-rotate", "rotate/"+name, "creds/"+name, logical.UpdateOperation)
	return s, nil
}

// rememberFailure stores why a rotation failed, for the role's read-back and
// for the next try.
func (b *backend) rememberFailure(ctx context.Context, storage logical.Storage, name string, cause error) {
	ctx = context.WithoutCancel(ctx)
	defer b.lockRole(name)()
	r, err := b.role(ctx, storage, name)
	if err != nil || r == nil || !r.isShared() {
		return
	}
	s, err := b.shared(ctx, storage, name)
	if err == nil {
		s.LastError, s.FailedAt, s.Failures, s.RetryAfter = cause.Error(), b.now(), s.Failures+1, min(issuer.RetryAfter(cause), longestWait)
		err = b.putShared(ctx, storage, name, s)
	}
	if err != nil {
		b.Logger().Warn("a failed rotation could not be stored", "role", name, "error", err)
		return
	}
	b.Logger().Warn("a rotation failed", "role", name, "failures", s.Failures, "error", cause)
	b.schedule(name, s.nextAt(r.Dynamic))
	b.sendEventOf(ctx, "credential-rotate-fail", "rotate/"+name, "creds/"+name, logical.UpdateOperation)
}

// startAnew has a role that was written rotated by what it says now, and forgets
// that rotating failed before, because the write may have mended why. The role
// is locked.
func (b *backend) clearFailures(ctx context.Context, storage logical.Storage, name string, d *dynamicRole) {
	s, err := b.shared(ctx, storage, name)
	if err == nil && s.Failures > 0 {
		s.LastError, s.FailedAt, s.Failures, s.RetryAfter = "", time.Time{}, 0, 0
		err = b.putShared(ctx, storage, name, s)
	}
	if err != nil {
		b.Logger().Warn("the credential of a role that was written could not be looked at", "role", name, "error", err)
		return
	}
	b.schedule(name, s.nextAt(d))
}

// revokeRetired revokes what has come to the end of its grace period.
func (b *backend) revokeRetired(ctx context.Context, storage logical.Storage, name string) error {
	s, err := b.shared(ctx, storage, name)
	if err != nil {
		return err
	}
	failed := map[string]error{}
	for _, r := range s.Retired {
		if r.tryAt().After(b.now()) || b.skipIfUnreachable(r.Connection) != nil {
			continue
		}
		err := b.revoke(ctx, storage, r.credentialRef)
		b.recordReachability(r.Connection, err)
		failed[r.Name] = err
	}
	if len(failed) == 0 {
		return nil
	}

	defer b.lockRole(name)()
	if s, err = b.shared(ctx, storage, name); err != nil || s.Current == nil && len(s.Retired) == 0 {
		return err // deleted meanwhile
	}
	before := len(s.Retired)
	s.Retired = slices.DeleteFunc(slices.Clone(s.Retired), func(r retired) bool {
		err, tried := failed[r.Name]
		return tried && err == nil
	})
	for i, r := range s.Retired {
		if err := failed[r.Name]; err != nil {
			b.Logger().Warn("a credential could not be revoked", "role", name, "name", r.Name, "attempts", r.Attempts+1, "error", err)
			s.Retired[i].TriedAt, s.Retired[i].Attempts, s.Retired[i].LastError = b.now(), r.Attempts+1, err.Error()
		}
	}
	if err := b.putShared(ctx, storage, name, s); err != nil {
		return err
	}
	if len(s.Retired) < before {
		b.sendEventOf(ctx, "credential-revoke", "rotate/"+name, "creds/"+name, logical.UpdateOperation)
	}
	return nil
}

// dropShared has everything that a shared role has minted revoked, and returns
// what to do about it once the role is deleted, which tells how many could not
// be revoked yet. The role is locked.
func (b *backend) dropShared(ctx context.Context, storage logical.Storage, name string) (revoke func() int, err error) {
	s, err := b.shared(ctx, storage, name)
	if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
		b.Logger().Warn("what a role has minted is left at the registry, because it cannot be read", "role", name, "error", err)
	} else if err != nil {
		return nil, err
	}
	var dropped []*newCredential
	defer func() {
		if err != nil {
			for _, d := range dropped {
				d.done()
			}
		}
	}()
	for _, m := range s.all() {
		wal, err := b.putWAL(ctx, storage, m)
		if err != nil {
			return nil, err
		}
		dropped = append(dropped, &newCredential{credentialRef: m, wal: wal, done: b.markInProgress(m.Name)})
	}
	if err = storage.Delete(ctx, sharedStoragePrefix+name); err != nil {
		return nil, fmt.Errorf("deleting the credential of role %q: %w", name, err)
	}
	return func() (left int) {
		for _, d := range dropped {
			if !b.abandon(ctx, storage, d) {
				left++
			}
		}
		return left
	}, nil
}

// keptByShared reports whether a shared role serves a credential, or will
// revoke it by itself.
func (b *backend) keptByShared(ctx context.Context, storage logical.Storage, m credentialRef) (bool, error) {
	defer b.lockRole(m.Role)()
	s, err := b.shared(ctx, storage, m.Role)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(s.all(), func(held credentialRef) bool { return held.Name == m.Name }), nil
}
