// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

const (
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
	credentialRef
	Docker    dockerconfig.Config
	MintedAt  time.Time
	ExpiresAt time.Time // at the registry; zero: never
}

// retired is a credential that was replaced.
type retired struct {
	credentialRef
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
	RetryAfter    seconds                 `json:"retry_after,omitzero"`
}

type storedSharedCredential struct {
	unprintable
	Minted    credentialRef    `json:"minted"`
	Docker    *json.RawMessage `json:"dockerconfig"`
	MintedAt  time.Time        `json:"minted_at"`
	ExpiresAt time.Time        `json:"expires_at,omitzero"`
}

// shared returns the zero value where there is nothing yet. What it returns must
// not be changed in place.
func (b *backend) shared(ctx context.Context, storage logical.Storage, name string) (shared, error) {
	return cache.Decoded(ctx, b.cache, storage, sharedStoragePrefix+name, shared{}, func(entry *logical.StorageEntry) (shared, error) {
		return decodeShared(entry, name)
	})
}

func decodeShared(entry *logical.StorageEntry, name string) (shared, error) {
	var stored storedShared
	if err := decodeEntry(entry, &stored, &stored.SchemaVersion); err != nil {
		return shared{}, err
	}
	s := shared{Retired: stored.Retired, LastError: stored.LastError, FailedAt: stored.FailedAt, Failures: stored.Failures, RetryAfter: stored.RetryAfter.Duration}
	if c := stored.Current; c != nil {
		if c.Docker == nil {
			return shared{}, unreadablef("the credential of role %q: the stored entry is damaged", name)
		}
		docker, err := dockerconfig.Decode(*c.Docker)
		if err != nil {
			return shared{}, unreadablef("the credential of role %q: %w", name, err)
		}
		s.Current = &sharedCredential{credentialRef: c.Minted, Docker: docker, MintedAt: c.MintedAt, ExpiresAt: c.ExpiresAt}
	}
	return s, nil
}

func (b *backend) putShared(ctx context.Context, storage logical.Storage, name string, s shared) error {
	stored := storedShared{SchemaVersion: schemaVersion, Retired: s.Retired, LastError: s.LastError, FailedAt: s.FailedAt, Failures: s.Failures, RetryAfter: seconds{s.RetryAfter}}
	if c := s.Current; c != nil {
		docker := json.RawMessage(c.Docker.JSON())
		stored.Current = &storedSharedCredential{Minted: c.credentialRef, Docker: &docker, MintedAt: c.MintedAt, ExpiresAt: c.ExpiresAt}
	}
	return putEntry(ctx, storage, sharedStoragePrefix+name, stored)
}

// all returns all credentials that may be alive.
func (s shared) all() []credentialRef {
	var all []credentialRef
	if s.Current != nil {
		all = append(all, s.Current.credentialRef)
	}
	for _, r := range s.Retired {
		all = append(all, r.credentialRef)
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
	at := c.MintedAt.Add(d.RotationPeriod.Duration)
	if c.ExpiresAt.IsZero() {
		return at
	}
	// A registry may give less than it was asked for: then half of that.
	latest := later(c.ExpiresAt.Add(-d.GracePeriod.Duration), c.MintedAt.Add(c.ExpiresAt.Sub(c.MintedAt)/2))
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
		"rotation_period":     max(1, seconds{r.Period}.count()),
		"ttl":                 max(1, seconds{r.Next.Sub(now) + time.Second - 1}.count()),
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
	return &rotation{Last: s.Current.MintedAt, Period: d.RotationPeriod.Duration, Next: next}
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
