// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// A rotation that failed is tried again after firstRetry, and twice as long
	// each time, up to lastRetry. A read that has nothing to serve waits for
	// firstRetry only.
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute

	// A revocation that failed is tried again after a minute, and twice as long
	// each time, up to lastRevokeRetry.
	firstRevokeRetry = time.Minute
	lastRevokeRetry  = time.Hour

	// maxRetired is how many credentials may wait to be revoked before no new
	// one is minted: they stand in one entry of limited size.
	maxRetired = 4 * maxOverlap

	// maxRetiredAsked is with how many of them rotate/ is refused. The rest is for
	// the rotations that are due, and for revocations that fail.
	maxRetiredAsked = maxRetired / 2

	// maxGivenUp is how many credentials a role's read-back names that it has
	// given up, the latest ones.
	maxGivenUp = 10
)

// sharedStatus is what the state of a shared role means at one moment.
type sharedStatus struct {
	shared
	role *dynamicRole
	now  time.Time

	// current says that the credential is what the role is for: the connection
	// that the role names minted it at the registry to which the connection
	// leads, for the same registry keys and the same target.
	current bool
}

func (b *backend) status(ctx context.Context, storage logical.Storage, s shared, d *dynamicRole) (sharedStatus, error) {
	current, err := b.isCurrent(ctx, storage, s.Current, d)
	return sharedStatus{shared: s, role: d, now: b.now(), current: current}, err
}

// sharedStatus returns the status of a shared role as it is stored.
func (b *backend) sharedStatus(ctx context.Context, storage logical.Storage, name string, d *dynamicRole) (sharedStatus, error) {
	s, err := b.shared(ctx, storage, name)
	if err != nil {
		return sharedStatus{}, err
	}
	if unstored, found := b.unstored.Load(name); found {
		s.setFailure(unstored.(failure))
	}
	return b.status(ctx, storage, s, d)
}

// isCurrent reports whether a credential is what a role is for. It compares what
// the role means, and not the text of its settings: a type may come to have new
// defaults.
func (b *backend) isCurrent(ctx context.Context, storage logical.Storage, c *sharedCredential, d *dynamicRole) (bool, error) {
	if c == nil || c.Connection != d.Connection {
		return false, nil
	}
	conn, err := b.connectionFacts(ctx, storage, d.Connection)
	if err != nil || conn == nil || !conn.minted(c.credentialRef) {
		return false, err
	}
	if !slices.Equal(slices.Sorted(slices.Values(conn.Registries)), c.Docker.Keys()) {
		return false, nil
	}
	return maps.Equal(c.For, d.For) || conn.sameTarget(c.For, d.For), nil
}

// serves reports whether the current credential is what the role is for, and
// works.
func (s sharedStatus) serves() bool {
	return s.current && (s.Current.ExpiresAt.IsZero() || s.now.Before(s.Current.ExpiresAt))
}

// rotateAt is when the current credential is to be replaced: after the rotation
// period, and so early that what was read just before works for a grace period;
// at once if it is not what the role is for, if somebody asked for it, or if its
// age cannot be told.
func (s sharedStatus) rotateAt() time.Time {
	c := s.Current
	switch {
	case s.RotationAsked && !s.FailedAt.IsZero():
		return earlier(s.FailedAt, s.now)
	case s.RotationAsked: // and the role was written since it failed
		return s.now
	case !s.current || c.MintedAt.After(s.now.Add(clockSkew)):
		return s.now
	}
	at := c.MintedAt.Add(s.role.RotationPeriod.Duration)
	if c.ExpiresAt.IsZero() {
		return at
	}
	// A registry may give less than it was asked for: then half of that.
	latest := later(c.ExpiresAt.Add(-s.role.GracePeriod.Duration), c.MintedAt.Add(c.ExpiresAt.Sub(c.MintedAt)/2))
	return earlier(at, latest)
}

// retryAt is when a rotation that failed is to be tried again.
func (s sharedStatus) retryAt() time.Time {
	return s.afterFailure(max(backOff(firstRetry, lastRetry, s.Failures), s.RetryAfter))
}

// readsRetryAt is the same for a read that has nothing to serve.
func (s sharedStatus) readsRetryAt() time.Time {
	return s.afterFailure(max(firstRetry, s.RetryAfter))
}

// afterFailure returns the end of a pause that began with the last failure; the
// zero time if there was none, or if it seems to be still to come.
func (s sharedStatus) afterFailure(pause time.Duration) time.Time {
	if s.Failures == 0 || s.FailedAt.After(s.now) {
		return time.Time{}
	}
	return s.FailedAt.Add(pause)
}

// tryAt is when a retired credential is to be revoked, or tried to be.
func (r retired) tryAt(now time.Time) time.Time {
	at := r.RevokeAt
	switch {
	case r.isMisdated(now) || r.TriedAt.After(now):
		return now
	case r.Attempts > 0:
		at = r.TriedAt.Add(backOff(firstRevokeRetry, lastRevokeRetry, r.Attempts))
	}
	if r.precedesItsMint() {
		return earlier(at, r.MintedAt) // from then on it is misdated
	}
	return at
}

// mayRevoke reports whether a former credential is to be revoked by now.
func (s sharedStatus) mayRevoke() bool {
	return slices.ContainsFunc(s.Retired, func(r retired) bool { return !r.tryAt(s.now).After(s.now) })
}

// isMisdated reports whether the grace period seems to begin in the future, or has
// begun before the credential was minted: the clock was wrong, then or now.
func (r retired) isMisdated(now time.Time) bool {
	return r.RetiredAt.After(now.Add(clockSkew)) || r.precedesItsMint() && !now.Before(r.MintedAt)
}

// precedesItsMint reports whether the grace period begins before the credential
// was minted.
func (r retired) precedesItsMint() bool {
	return !r.RetiredAt.IsZero() && r.RetiredAt.Before(r.MintedAt.Add(-clockSkew))
}

// nextAt is when there is something to be done for the role; zero if nothing.
func (s sharedStatus) nextAt() time.Time {
	var next time.Time
	if s.Current != nil {
		next = later(s.rotateAt(), s.retryAt())
	}
	for _, r := range s.Retired {
		if at := r.tryAt(s.now); next.IsZero() || at.Before(next) {
			next = at
		}
	}
	return next
}

// rotation is what the fields last_vault_rotation, rotation_period, ttl and
// grace_period say.
type rotation struct {
	Last   time.Time
	Period time.Duration
	Next   time.Time
	Grace  time.Duration // how long a former credential works
}

// fields returns the fields that [rotationFields] describes. Tools take a
// rotation_period or ttl below 1 for an error, so a credential that is overdue
// is to be read again in a second.
func (r rotation) fields(now time.Time) map[string]any {
	return map[string]any{
		"last_vault_rotation": formatTime(r.Last),
		"rotation_period":     max(1, seconds{r.Period}.count()),
		"ttl":                 max(1, seconds{r.Next.Sub(now) + time.Second - 1}.count()),
		"grace_period":        seconds{r.Grace}.count(),
	}
}

// joinRotations returns the rotation of several credentials: the one that
// changes next, the latest time at which one has changed, and the shortest time
// for which a former one works.
func joinRotations(a, b *rotation) *rotation {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	joined := *a
	if b.Next.Before(a.Next) {
		joined = *b
	}
	joined.Last = later(a.Last, b.Last)
	joined.Grace = min(a.Grace, b.Grace)
	return &joined
}

// rotation returns nil where there is no credential of the role.
func (s sharedStatus) rotation() *rotation {
	if !s.current {
		return nil
	}
	next := s.rotateAt()
	if retry := s.retryAt(); !next.After(s.now) && retry.After(s.now) {
		next = retry
	}
	grace := s.role.GracePeriod.Duration
	if ends := s.Current.ExpiresAt; !ends.IsZero() { // which may be sooner than the registry was asked for
		grace = max(0, min(grace, ends.Sub(later(next, s.now))))
	}
	return &rotation{Last: s.Current.MintedAt, Period: s.role.RotationPeriod.Duration, Next: next, Grace: grace}
}

// readBack describes the status of a shared role.
func (s sharedStatus) readBack() map[string]any {
	data := map[string]any{}
	if s.current {
		// Some registries take one token for the user name and for the password.
		if c := s.Current.Docker.Credentials()[0]; !strings.Contains(c.Username, c.Password.Reveal()) {
			data["username"] = c.Username
		}
		data["last_vault_rotation"] = formatTime(s.Current.MintedAt)
	}
	if s.Current != nil {
		data["next_rotation"] = formatTime(later(s.rotateAt(), s.retryAt()))
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
	if len(s.GivenUp) > 0 {
		left := make([]map[string]any, len(s.GivenUp))
		for i, g := range s.GivenUp {
			left[i] = map[string]any{"name": g.Name, "given_up_at": formatTime(g.At)}
			if g.URL != "" {
				left[i]["url"] = g.URL
			}
		}
		data["given_up"] = left
	}
	return data
}
