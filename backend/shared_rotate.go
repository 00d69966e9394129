// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
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
	whenRefused                    // the registry refuses the credential
)

// rotateAttended is rotate for a request. Those that want the same wait for the same
// rotation.
func (b *backend) rotateAttended(ctx context.Context, storage logical.Storage, name string, r *role, why cause) (shared, error) {
	s, err := attend(ctx, b, laneOf(r.Dynamic.Connection), work[shared]{
		key: fmt.Sprintf("rotation of %s, %d", name, why),
		do:  func(ctx context.Context) (shared, error) { return b.rotate(ctx, storage, name, why) },
	})
	if errors.Is(err, errRoleChanged) {
		err = errRoleChanged
	}
	return s, err
}

// errRoleChanged is about a role that was written while a read of it waited.
// The read can be repeated at once.
var errRoleChanged = logical.CodedError(http.StatusServiceUnavailable, "the role, or its connection, was changed while it was read; try again")

// rotate replaces the credential of a shared role, unless somebody else has done
// so while it waited, and returns what the role serves.
func (b *backend) rotate(ctx context.Context, storage logical.Storage, name string, why cause) (shared, error) {
	before, err := b.shared(ctx, storage, name)
	if err != nil {
		return shared{}, err
	}
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
	s, err := b.sharedStatus(ctx, storage, name, r.Dynamic)
	if err != nil {
		return shared{}, err
	}
	if needed, err := s.needsRotation(why, before.Rotations); err != nil || !needed {
		return s.shared, err
	}
	if why == whenAsked {
		ctx = withUrgency(ctx, asked)
	}
	minted, err := b.mintFor(ctx, storage, name, r, r.Dynamic.lifetime)
	if err != nil {
		// A failure of Vault's own storage says nothing about the registry, and a
		// read that is refused can be repeated at once. Neither does the end of the
		// engine, or a registry that is left alone.
		if left := (leftAloneError{}); errors.As(err, &left) || ctx.Err() != nil {
			return shared{}, err
		}
		if issuer.IsError(err) || isBadGateway(err) || isInputError(err) && why != whenNothingServes {
			b.rememberFailure(ctx, storage, name, why, err)
		}
		return shared{}, registryError(err)
	}
	served, err := b.serve(ctx, storage, name, r.Dynamic, minted)
	if errors.Is(err, errNotServed) {
		b.abandon(ctx, storage, minted) // with the role unlocked, because the registry may take long
		return served, err
	}
	minted.done()
	if err != nil {
		b.rememberUnstored(ctx, storage, minted, why, err)
	}
	return served, err
}

// rememberUnstored notes that a new credential could not be stored. Otherwise each
// read would mint another one.
func (b *backend) rememberUnstored(ctx context.Context, storage logical.Storage, minted *newCredential, why cause, reason error) {
	s, err := b.shared(ctx, storage, minted.Role)
	if err == nil && s.Current != nil && s.Current.Name == minted.Name {
		return // it is stored after all
	}
	b.rememberFailure(ctx, storage, minted.Role, why, fmt.Errorf("the new credential could not be stored: %w", reason))
}

// errNotServed is about a new credential that is certainly not stored.
var errNotServed = errors.New("the new credential is not served")

// needsRotation decides after all others are done. rotations is how many there
// had been when the rotation was asked for.
func (s sharedStatus) needsRotation(why cause, rotations int) (bool, error) {
	switch {
	case why == whenAsked, why == whenRefused:
		if s.serves() && s.Rotations != rotations {
			return false, nil
		}
		if s.serves() && len(s.Retired) >= maxRetiredAsked {
			return false, refusef("rotate: %d former credentials of role %q wait for the end of their grace_period, or could not be revoked yet; rotate/ is refused from %d on, so that rotations that are due have room; wait until some are revoked, which roles/%s shows as pending_revocations", len(s.Retired), s.Current.Role, maxRetiredAsked, s.Current.Role)
		}
	case why == whenDue:
		if s.Current == nil || s.rotateAt().After(s.now) || s.retryAt().After(s.now) {
			return false, nil
		}
	case s.serves():
		return false, nil
	case s.now.Before(s.readsRetryAt()):
		return false, badGateway(fmt.Errorf("%s (tried at %s; it is tried again at the next read from %s on)", s.LastError, formatTime(s.FailedAt), formatTime(s.readsRetryAt())))
	}
	if len(s.Retired) >= maxRetired {
		return false, badGateway(fmt.Errorf("%d former credentials wait to be revoked; the role's read-back says why", len(s.Retired)))
	}
	return true, nil
}

// serve stores a new credential as the current one, and the former one as
// retired, in one write. From then on reads return the new one.
func (b *backend) serve(ctx context.Context, storage logical.Storage, name string, d *dynamicRole, minted *newCredential) (shared, error) {
	ctx = context.WithoutCancel(ctx)
	defer b.lockRole(name)()
	r, err := b.role(ctx, storage, name)
	if err != nil {
		return shared{}, fmt.Errorf("%w: %w", errNotServed, err)
	}
	if r == nil || !r.isShared() || r.Dynamic.Connection != d.Connection || !maps.Equal(r.Dynamic.For, d.For) {
		return shared{}, fmt.Errorf("%w: %w", errNotServed, errRoleChanged)
	}
	s, err := b.shared(ctx, storage, name)
	if err != nil {
		return shared{}, fmt.Errorf("%w: %w", errNotServed, err)
	}
	if c := s.Current; c != nil && (c.ID != "" || minted.revocable) {
		now := b.now()
		s.Retired = append(slices.Clone(s.Retired), retired{credentialRef: c.credentialRef, MintedAt: c.MintedAt, RetiredAt: now, RevokeAt: now.Add(r.Dynamic.GracePeriod.Duration)})
	}
	s.Current = &sharedCredential{credentialRef: minted.credentialRef, Docker: minted.Docker, MintedAt: minted.MintedAt, ExpiresAt: minted.ExpiresAt}
	s.Rotations++
	s.RotationAsked = false
	s.clearFailures()
	if err := b.putShared(ctx, storage, name, s); err != nil {
		// Whether it is stored is not known: the write-ahead entry stays, and
		// finds out.
		return shared{}, err
	}
	if _, found := b.unstored.LoadAndDelete(name); found {
		if err := b.renewAttentionLocked(ctx, storage, name); err != nil {
			b.attentions.doubt(name)
		}
	}
	b.deleteWAL(ctx, storage, minted.wal)
	b.scheduleShared(ctx, storage, name, s, r.Dynamic)
	b.followCredential(ctx, storage, name, r, minted.proved)
	b.counters.count(d.Connection, rotated)
	b.sendEventOf(ctx, "credential-rotate", "rotate/"+name, "creds/"+name, logical.UpdateOperation)
	return s, nil
}

func (s *shared) clearFailures() { s.setFailure(failure{}) }

// rememberFailure stores why a rotation failed, for the role's read-back and
// for the next try; in memory if storage does not take it. A rotation that somebody
// asked for stays due.
func (b *backend) rememberFailure(ctx context.Context, storage logical.Storage, name string, why cause, reason error) {
	ctx = context.WithoutCancel(ctx)
	defer b.lockRole(name)()
	r, err := b.role(ctx, storage, name)
	if err != nil || r == nil || !r.isShared() {
		return
	}
	b.counters.count(r.Dynamic.Connection, rotationFailed)
	s, err := b.shared(ctx, storage, name)
	f := failure{reason.Error(), b.now(), s.Failures + 1, issuer.StatusOf(reason), min(issuer.RetryAfter(reason), longestWait)}
	if unstored, found := b.unstored.Load(name); found {
		f.Failures = max(f.Failures, unstored.(failure).Failures+1)
	}
	if err == nil {
		s.setFailure(f)
		s.RotationAsked = s.RotationAsked || why == whenAsked && s.Current != nil
		err = b.putShared(ctx, storage, name, s)
	}
	if err != nil {
		b.unstored.Store(name, f)
		b.attentions.doubt(name)
		b.Logger().Warn("a failed rotation could not be stored", "role", name, "error", err)
		return
	}
	b.unstored.Delete(name)
	b.Logger().Warn("a rotation failed", "role", name, "failures", s.Failures, "error", reason)
	b.scheduleShared(ctx, storage, name, s, r.Dynamic)
	b.sendEventOf(ctx, "credential-rotate-fail", "rotate/"+name, "creds/"+name, logical.UpdateOperation)
}

// clearFailures forgets that rotating a role failed, because the role was
// written and that may have mended the cause. The role is locked.
func (b *backend) clearFailures(ctx context.Context, storage logical.Storage, name string) {
	_, unstored := b.unstored.LoadAndDelete(name)
	s, err := b.shared(ctx, storage, name)
	if err == nil && s.Failures > 0 {
		s.clearFailures()
		err = b.putShared(ctx, storage, name, s)
	} else if err == nil && unstored {
		err = b.renewAttentionLocked(ctx, storage, name)
	}
	if err == nil {
		err = b.renewDueLocked(ctx, storage, name, false)
	}
	if err != nil {
		b.Logger().Warn("the credential of a role that was written could not be read or stored", "role", name, "error", err)
	}
}

// forgetGivenUp forgets which credentials of a role were given up. The role is locked.
func (b *backend) forgetGivenUp(ctx context.Context, storage logical.Storage, name string) error {
	s, err := b.shared(ctx, storage, name)
	if err != nil || len(s.GivenUp) == 0 {
		return err
	}
	s.GivenUp = nil
	return b.putShared(ctx, storage, name, s)
}

// scheduleShared notes when a shared role is to be maintained next.
func (b *backend) scheduleShared(ctx context.Context, storage logical.Storage, name string, s shared, d *dynamicRole) {
	status, err := b.status(ctx, storage, s, d)
	if err != nil { // maintaining it finds out what is wrong
		b.schedule(name, b.now())
		return
	}
	b.schedule(name, status.nextAt())
}

// revokeRetired revokes the credentials whose grace period is over.
func (b *backend) revokeRetired(ctx context.Context, storage logical.Storage, name string) error {
	s, err := b.shared(ctx, storage, name)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(s.Retired, func(r retired) bool { return r.isMisdated(b.now()) }) {
		if s, err = b.redateRetired(ctx, storage, name); err != nil {
			return err
		}
	}
	results := map[string]error{} // by the credential's name; nil: it is gone
	for _, r := range s.Retired {
		if r.tryAt(b.now()).After(b.now()) {
			continue
		}
		err := b.revoke(ctx, storage, r.credentialRef)
		if left := (leftAloneError{}); ctx.Err() != nil || errors.As(err, &left) {
			continue
		}
		results[r.Name] = err
	}
	if len(results) == 0 {
		return nil
	}

	defer b.lockRole(name)()
	if s, err = b.shared(ctx, storage, name); err != nil || s.Current == nil && len(s.Retired) == 0 {
		return err // deleted meanwhile
	}
	revoked := s.settleRetired(results, b.now())
	for _, r := range s.Retired {
		if err := results[r.Name]; err != nil {
			b.Logger().Warn("a credential could not be revoked", "role", name, "name", r.Name, "attempts", r.Attempts, "error", err)
		}
	}
	if err := b.putShared(ctx, storage, name, s); err != nil {
		return err
	}
	if revoked {
		b.sendEventOf(ctx, "credential-revoke", "rotate/"+name, "creds/"+name, logical.UpdateOperation)
	}
	return nil
}

// settleRetired notes what came of revoking, and reports whether something was
// revoked.
func (s *shared) settleRetired(results map[string]error, now time.Time) (revoked bool) {
	before := s.Retired
	s.Retired = nil
	s.GivenUp = slices.Clone(s.GivenUp)
	for _, r := range before {
		err, tried := results[r.Name]
		switch {
		case !tried:
			s.Retired = append(s.Retired, r)
		case err == nil:
			revoked = true
		case errors.Is(err, errGivenUp):
			s.GivenUp = append(s.GivenUp, givenUp{Name: r.Name, URL: r.URL, At: now})
		default:
			r.TriedAt, r.Attempts, r.LastError = now, r.Attempts+1, err.Error()
			s.Retired = append(s.Retired, r)
		}
	}
	s.GivenUp = s.GivenUp[max(0, len(s.GivenUp)-maxGivenUp):]
	return revoked
}

// redateRetired has grace periods that seem to begin in the future begin now.
func (b *backend) redateRetired(ctx context.Context, storage logical.Storage, name string) (shared, error) {
	defer b.lockRole(name)()
	s, err := b.shared(ctx, storage, name)
	if err != nil {
		return shared{}, err
	}
	s.Retired = slices.Clone(s.Retired)
	for i, r := range s.Retired {
		if r.isMisdated(b.now()) {
			s.Retired[i].RetiredAt, s.Retired[i].RevokeAt = b.now(), b.now().Add(r.RevokeAt.Sub(r.RetiredAt))
		}
	}
	return s, b.putShared(ctx, storage, name, s)
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
