// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	// sharedStoragePrefix has an entry for each shared role that has, or had, a
	// credential.
	sharedStoragePrefix = "shared/"

	// A rotation that failed is tried again after firstRetry, and twice as long
	// each time, up to lastRetry. A read that has nothing to serve waits for
	// firstRetry only.
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute

	// longestWait is the most that a registry is heeded which asks to be left
	// alone: it may name any time.
	longestWait = time.Hour

	// A revocation that failed is tried again after a minute, and twice as long
	// each time, up to lastRevokeRetry.
	firstRevokeRetry = time.Minute
	lastRevokeRetry  = time.Hour

	// maxRetired is how many credentials may wait to be revoked before no new
	// one is minted: they stand in one entry of limited size.
	maxRetired = 4 * maxOverlap
)

// shared is what a shared role serves and will revoke. The zero value is that
// of a role that was never read.
type shared struct {
	Current *sharedCredential
	Retired []retired

	LastError  string
	FailedAt   time.Time
	Failures   int           // since the last success
	RetryAfter time.Duration // that the registry asked for
}

// sharedCredential is the one that reads are given.
type sharedCredential struct {
	minted
	Docker    dockerconfig.Config
	MintedAt  time.Time
	ExpiresAt time.Time // at the registry; zero: never
}

// retired is a credential that was replaced.
type retired struct {
	minted
	RevokeAt  time.Time `json:"revoke_at"`
	TriedAt   time.Time `json:"tried_at,omitzero"`
	Attempts  int       `json:"attempts,omitempty"`
	LastError string    `json:"last_error,omitempty"`
}

// storedShared is a shared as it stands in storage.
type storedShared struct {
	unprintable
	SchemaVersion int                     `json:"schema_version"`
	Current       *storedSharedCredential `json:"current,omitempty"`
	Retired       []retired               `json:"retired,omitempty"`
	LastError     string                  `json:"last_error,omitempty"`
	FailedAt      time.Time               `json:"failed_at,omitzero"`
	Failures      int                     `json:"failures,omitempty"`
	RetryAfter    int64                   `json:"retry_after,omitempty"` // seconds
}

type storedSharedCredential struct {
	unprintable
	Minted    minted           `json:"minted"`
	Docker    *json.RawMessage `json:"dockerconfig"`
	MintedAt  time.Time        `json:"minted_at"`
	ExpiresAt time.Time        `json:"expires_at,omitzero"`
}

// shared returns the zero value where there is nothing yet. What it returns must
// not be changed in place.
func (b *backend) shared(ctx context.Context, storage logical.Storage, name string) (shared, error) {
	return getDecoded(ctx, b.cache, storage, sharedStoragePrefix+name, shared{}, func(entry *logical.StorageEntry) (shared, error) {
		return decodeShared(entry, name)
	})
}

func decodeShared(entry *logical.StorageEntry, name string) (shared, error) {
	var stored storedShared
	if err := decodeEntry(entry, &stored, &stored.SchemaVersion); err != nil {
		return shared{}, err
	}
	s := shared{Retired: stored.Retired, LastError: stored.LastError, FailedAt: stored.FailedAt, Failures: stored.Failures, RetryAfter: ofSeconds(stored.RetryAfter)}
	if c := stored.Current; c != nil {
		if c.Docker == nil {
			return shared{}, unreadablef("the credential of role %q: the stored entry is damaged", name)
		}
		docker, err := dockerconfig.Decode(*c.Docker)
		if err != nil {
			return shared{}, unreadablef("the credential of role %q: %w", name, err)
		}
		s.Current = &sharedCredential{minted: c.Minted, Docker: docker, MintedAt: c.MintedAt, ExpiresAt: c.ExpiresAt}
	}
	return s, nil
}

func (b *backend) putShared(ctx context.Context, storage logical.Storage, name string, s shared) error {
	stored := storedShared{SchemaVersion: schemaVersion, Retired: s.Retired, LastError: s.LastError, FailedAt: s.FailedAt, Failures: s.Failures, RetryAfter: inSeconds(s.RetryAfter)}
	if c := s.Current; c != nil {
		docker := json.RawMessage(c.Docker.JSON())
		stored.Current = &storedSharedCredential{Minted: c.minted, Docker: &docker, MintedAt: c.MintedAt, ExpiresAt: c.ExpiresAt}
	}
	return putEntry(ctx, storage, sharedStoragePrefix+name, stored)
}

// all returns all credentials that may be alive.
func (s shared) all() []minted {
	var all []minted
	if s.Current != nil {
		all = append(all, s.Current.minted)
	}
	for _, r := range s.Retired {
		all = append(all, r.minted)
	}
	return all
}

// isFor reports whether the current credential is what the role is for.
func (s shared) isFor(d *dynamicRole) bool {
	return s.Current != nil && s.Current.Connection == d.Connection && maps.Equal(s.Current.For, d.For)
}

// serves reports whether the current credential is what the role is for, and
// works.
func (s shared) serves(d *dynamicRole, now time.Time) bool {
	return s.isFor(d) && (s.Current.ExpiresAt.IsZero() || now.Before(s.Current.ExpiresAt))
}

// rotateAt is when the current credential is to be replaced: after the rotation
// period, and so early that what was read just before works for a grace period.
func (s shared) rotateAt(d *dynamicRole) time.Time {
	c := s.Current
	at := c.MintedAt.Add(d.RotationPeriod)
	if c.ExpiresAt.IsZero() {
		return at
	}
	// A registry may give less than it was asked for: then half of that.
	latest := later(c.ExpiresAt.Add(-d.GracePeriod), c.MintedAt.Add(c.ExpiresAt.Sub(c.MintedAt)/2))
	return earlier(at, latest)
}

// retryAt is when a rotation that failed is to be tried again.
func (s shared) retryAt() time.Time {
	if s.Failures == 0 {
		return time.Time{}
	}
	return s.FailedAt.Add(max(backOff(firstRetry, lastRetry, s.Failures), s.RetryAfter))
}

// readsRetryAt is the same for a read that has nothing to serve.
func (s shared) readsRetryAt() time.Time {
	if s.Failures == 0 {
		return time.Time{}
	}
	return s.FailedAt.Add(max(firstRetry, s.RetryAfter))
}

// backOff doubles the first pause with each failure, up to the last.
func backOff(first, last time.Duration, failures int) time.Duration {
	if failures > 20 {
		return last
	}
	return min(last, first<<max(0, failures-1))
}

func (r retired) tryAt() time.Time {
	if r.Attempts == 0 {
		return r.RevokeAt
	}
	return r.TriedAt.Add(backOff(firstRevokeRetry, lastRevokeRetry, r.Attempts))
}

// nextAt is when there is something to be done for the role; zero if nothing.
func (s shared) nextAt(d *dynamicRole) time.Time {
	var next time.Time
	if s.Current != nil {
		next = later(s.rotateAt(d), s.retryAt())
	}
	for _, r := range s.Retired {
		if at := r.tryAt(); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
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

// rotation is what the fields of that name say to those who read.
type rotation struct {
	Last   time.Time
	Period time.Duration
	Next   time.Time
}

// fields returns last_vault_rotation, rotation_period and ttl. Of the last two
// none is ever below 1, which tools take for an error: what is overdue is to be
// read again in a moment.
func (r rotation) fields(now time.Time) map[string]any {
	return map[string]any{
		"last_vault_rotation": formatTime(r.Last),
		"rotation_period":     max(1, inSeconds(r.Period)),
		"ttl":                 max(1, inSeconds(r.Next.Sub(now)+time.Second-1)),
	}
}

// joinRotations returns what to say of several: what changes next, and when
// something last did.
func joinRotations(a, b *rotation) *rotation {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	joined := *a
	if b.Next.Before(a.Next) {
		joined = *b
	}
	joined.Last = later(a.Last, b.Last)
	return &joined
}

// rotation returns nil where there is no credential yet.
func (s shared) rotation(d *dynamicRole, now time.Time) *rotation {
	if s.Current == nil {
		return nil
	}
	next := s.rotateAt(d)
	if retry := s.retryAt(); !next.After(now) && retry.After(now) {
		next = retry
	}
	return &rotation{Last: s.Current.MintedAt, Period: d.RotationPeriod, Next: next}
}

// readBack describes the state of a shared role.
func (s shared) readBack(d *dynamicRole) map[string]any {
	data := map[string]any{}
	if c := s.Current; c != nil {
		data["username"] = c.Docker.Credentials()[0].Username
		data["last_vault_rotation"] = formatTime(c.MintedAt)
		data["next_rotation"] = formatTime(later(s.rotateAt(d), s.retryAt()))
	}
	if s.Failures > 0 {
		data["last_error"], data["last_error_at"] = s.LastError, formatTime(s.FailedAt)
	}
	if len(s.Retired) > 0 {
		waiting := make([]map[string]any, len(s.Retired))
		for i, r := range s.Retired {
			waiting[i] = map[string]any{"name": r.Name, "revoke_at": formatTime(r.RevokeAt)}
			if r.LastError != "" {
				waiting[i]["last_error"] = r.LastError
			}
		}
		data["pending_revocations"] = waiting
	}
	return data
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
		if at := s.nextAt(r.Dynamic); !at.After(now) && b.ownsShared() {
			b.tendSoon(storage, name)
		}
		return s, nil
	}
	if !b.ownsShared() {
		return shared{}, logical.ErrReadOnly // has the active node of the primary do it
	}
	return b.rotate(ctx, storage, name, whenNothingServes)
}

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
		if err := b.checkAnswers(r.Dynamic.Connection); err != nil {
			return s, err // which is no failure of its own: it is tried a minute later
		}
	}
	made, err := b.mintFor(ctx, storage, name, r, r.Dynamic.lifetime)
	b.noteSilence(r.Dynamic.Connection, err)
	if err != nil {
		// What Vault's own storage does says nothing about the registry, and a
		// read that is refused need not be told the same for a while.
		if issuer.IsError(err) || isBadGateway(err) || isInputError(err) && why != whenNothingServes {
			b.rememberFailure(ctx, storage, name, err)
		}
		return shared{}, registryError(err)
	}
	s, err = b.serve(ctx, storage, name, r.Dynamic, made)
	if errors.Is(err, errNotServed) {
		b.abandon(ctx, storage, made) // with the role unlocked, because the registry may take long
	} else {
		made.done()
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
func (b *backend) serve(ctx context.Context, storage logical.Storage, name string, d *dynamicRole, made *issued) (shared, error) {
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
	if c := s.Current; c != nil && (c.ID != "" || made.revocable) {
		s.Retired = append(slices.Clone(s.Retired), retired{minted: c.minted, RevokeAt: now.Add(r.Dynamic.GracePeriod)})
	}
	s.Current = &sharedCredential{minted: made.minted, Docker: made.Docker, MintedAt: made.MintedAt, ExpiresAt: made.ExpiresAt}
	s.LastError, s.FailedAt, s.Failures, s.RetryAfter = "", time.Time{}, 0, 0
	if err := b.putShared(ctx, storage, name, s); err != nil {
		// Whether it is stored is not known: the write-ahead entry stays, and
		// finds out.
		return shared{}, err
	}
	b.deleteWAL(ctx, storage, made.wal)
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
func (b *backend) startAnew(ctx context.Context, storage logical.Storage, name string, d *dynamicRole) {
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
		if r.tryAt().After(b.now()) || b.checkAnswers(r.Connection) != nil {
			continue
		}
		err := b.revoke(ctx, storage, r.minted)
		b.noteSilence(r.Connection, err)
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
	var dropped []*issued
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
		dropped = append(dropped, &issued{minted: m, wal: wal, done: b.underway(m.Name)})
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
func (b *backend) keptByShared(ctx context.Context, storage logical.Storage, m minted) (bool, error) {
	defer b.lockRole(m.Role)()
	s, err := b.shared(ctx, storage, m.Role)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(s.all(), func(held minted) bool { return held.Name == m.Name }), nil
}

// placeholders are the registries of a connection as a Docker config without
// credentials, for what only describes a role.
func placeholders(c *connection) (dockerconfig.Config, error) {
	credentials := make([]dockerconfig.Credential, len(c.Registries))
	for i, key := range c.Registries {
		credentials[i] = dockerconfig.Credential{Registry: key}
	}
	return dockerconfig.New(credentials...)
}
