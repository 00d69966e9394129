// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	// leaseMargin is how long after the end of a lease the sweep ends the
	// credential: Vault tries first. Vault calls the sweep once a minute, so a
	// credential without a lease ends within two minutes after its ttl.
	leaseMargin = 30 * time.Second
)

// indexLease writes a leased credential into the index under the end of its
// lease.
func (b *backend) indexLease(ctx context.Context, storage logical.Storage, ends time.Time, stored storedLease) error {
	// An earlier build has no key for an attempt that failed.
	if keys, _ := b.attentions.unrevokedKeys(stored.Connection, stored.Name); stored.isRevoking() && len(keys) == 0 {
		if err := b.putLeaseAttention(ctx, storage, stored.Connection, stored.Name); err != nil {
			return err
		}
	}
	stored.WrittenAt = b.now()
	key := leaseKey(stored.Connection, ends, stored.Name)
	if err := putEntry(ctx, storage, key, stored); err != nil {
		return err
	}
	b.noteLeaseKey(ctx, storage, key, &stored)
	b.next.sweepBy(ends.Add(leaseMargin))
	return nil
}

// retryLater notes that a revocation failed. The sweep tries again after a
// pause, which doubles with each attempt.
func (b *backend) retryLater(ctx context.Context, storage logical.Storage, key string, stored storedLease) error {
	stored.Attempts, stored.TriedAt = stored.Attempts+1, b.now()
	ends := stored.TriedAt.Add(backOff(firstRevokeRetry, lastRevokeRetry, stored.Attempts) - leaseMargin)
	if err := b.indexLease(ctx, storage, ends, stored); err != nil {
		return err
	}
	if leaseKey(stored.Connection, ends, stored.Name) == key {
		return nil
	}
	return b.forgetKey(ctx, storage, key)
}

func (b *backend) forgetKey(ctx context.Context, storage logical.Storage, key string) error {
	if err := storage.Delete(ctx, key); err != nil {
		return fmt.Errorf("forgetting a lease: %w", err)
	}
	b.noteLeaseKey(ctx, storage, key, nil)
	return nil
}

// forgetEnded takes a leased credential that has ended out of the index, with all its
// keys: a crash or a failure of storage may have left one beside that of its last attempt.
func (b *backend) forgetEnded(ctx context.Context, storage logical.Storage, connection, name, key string) error {
	keys, err := b.unrevokedKeys(ctx, storage, connection, name)
	if err != nil {
		return err
	}
	for _, other := range keys {
		if other == key {
			continue
		}
		if err := b.forgetKey(ctx, storage, other); err != nil {
			return err
		}
	}
	return b.forgetKey(ctx, storage, key)
}

// unrevokedKeys returns the keys of a leased credential whose revocation has failed.
func (b *backend) unrevokedKeys(ctx context.Context, storage logical.Storage, connection, name string) ([]string, error) {
	keys, known := b.attentions.unrevokedKeys(connection, name)
	if known {
		return keys, nil
	}
	mark, err := storage.Get(ctx, leaseAttentionKey(connection, name))
	if err != nil || mark == nil {
		return nil, err
	}
	leases, err := leasesNamed(ctx, storage, connection, name)
	for _, l := range leases {
		keys = append(keys, l.key)
	}
	return keys, err
}

// forgetLease takes a credential that was never leased out of the index.
func (b *backend) forgetLease(ctx context.Context, storage logical.Storage, m credentialRef) error {
	leases, err := leasesNamed(ctx, storage, m.Connection, m.Name)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if err := b.forgetKey(ctx, storage, l.key); err != nil {
			return err
		}
	}
	return nil
}

// sweepLeases has the credentials ended that Vault should have ended: those without a
// lease, and those whose revocation failed.
func (b *backend) sweepLeases(ctx context.Context, storage logical.Storage) error {
	now := b.now()
	b.next.beginSweep(now)
	connections, err := storage.List(ctx, leaseIndexPrefix)
	if err != nil {
		b.next.sweepBy(now)
		return fmt.Errorf("listing the leases: %w", err)
	}
	for _, connection := range connections {
		connection = strings.TrimSuffix(connection, "/")
		added := b.addJob(cleaningLane(connection), cleaningAtOnce, "leases of "+connection, func(ctx context.Context) {
			finished, err := b.sweepConnection(withUrgency(ctx, cleaning), storage, connection)
			if !finished {
				b.next.sweepBy(now)
			}
			if err != nil && ctx.Err() == nil {
				b.Logger().Warn("what was minted for leases that are over could not be ended", "connection", connection, "error", err)
			}
		})
		if !added {
			b.next.sweepBy(now)
		}
	}
	return nil
}

// sweepConnection reports whether nothing is left to be done now. It ends when the
// registry is left alone, or when this node cannot write.
func (b *backend) sweepConnection(ctx context.Context, storage logical.Storage, connection string) (finished bool, err error) {
	leases, err := listLeases(ctx, storage, connection)
	if err != nil {
		return false, err
	}
	if leases, err = b.redateLeases(ctx, storage, leases); err != nil {
		return false, err
	}
	last := make(map[string]string, len(leases))
	for _, l := range leases {
		last[l.name] = l.key
	}
	sweeping, stopped := errgroup.WithContext(ctx)
	sweeping.SetLimit(cleaningAtOnce)
	var skipped atomic.Bool
	for _, l := range leases {
		if due := l.ends.Add(leaseMargin); due.After(b.now()) {
			b.next.sweepBy(due)
			break
		}
		if stopped.Err() != nil {
			break
		}
		sweeping.Go(func() error {
			err := b.sweepLease(ctx, storage, l, last[l.name] != l.key)
			if err == nil {
				return nil
			}
			skipped.Store(true)
			if left := (leftAloneError{}); errors.As(err, &left) || errors.Is(err, errNotActive) || ctx.Err() != nil {
				return err // the others would meet with the same
			}
			b.Logger().Warn("an entry in the index of leases cannot be read or written", "key", l.key, "error", err)
			return nil
		})
	}
	err = sweeping.Wait()
	if left := (leftAloneError{}); errors.As(err, &left) {
		err = nil
	}
	return err == nil && !skipped.Load(), err
}

// redateLeases moves the keys that were written while the clock was ahead. Only
// keys that are later than any that is written now are read for that. It returns
// the leases, by time.
func (b *backend) redateLeases(ctx context.Context, storage logical.Storage, leases []indexedLease) ([]indexedLease, error) {
	latest := b.now().Add(b.System().MaxLeaseTTL() + clockSkew)
	for i, l := range slices.Backward(leases) {
		if !l.ends.After(latest) {
			break
		}
		var err error
		if leases[i], err = b.redateLease(ctx, storage, l); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(leases, func(a, b indexedLease) int { return a.ends.Compare(b.ends) })
	return leases, nil
}

// redateLease moves the key of a lease, unless a clock that was right wrote it, when the
// mount's maximum was longer, or the lease is being renewed or revoked.
func (b *backend) redateLease(ctx context.Context, storage logical.Storage, l indexedLease) (indexedLease, error) {
	unlock, free := b.leaseLocks.tryLock(l.name)
	if !free {
		return l, nil
	}
	defer unlock()
	stored, err := b.storedLease(ctx, storage, l.key)
	if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
		return l, nil
	}
	now := b.now()
	if err != nil || stored == nil || !stored.WrittenAt.After(now.Add(clockSkew)) {
		return l, err
	}
	ends := wholeSeconds(now.Add(l.ends.Sub(stored.WrittenAt)))
	if stored.Redated == nil {
		stored.Redated = &redatedLease{Ends: l.ends, WrittenAt: stored.WrittenAt}
	}
	if err := b.indexLease(ctx, storage, ends, *stored); err != nil {
		return l, err
	}
	return indexedLease{leaseKey(stored.Connection, ends, stored.Name), ends, stored.Name}, b.forgetKey(ctx, storage, l.key)
}

// sweepLease ends a credential whose time is over, unless the lease was renewed:
// a crash in a renewal leaves the former key beside the later one. What the
// registry does not let end now is tried again later, so that it does not stop
// those behind it.
func (b *backend) sweepLease(ctx context.Context, storage logical.Storage, l indexedLease, hasLaterKey bool) error {
	unlock, err := b.leaseLocks.lock(ctx, l.name)
	if err != nil {
		return err
	}
	defer unlock()
	stored, err := b.storedLease(ctx, storage, l.key)
	if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
		b.Logger().Warn("an entry in the index of leases cannot be read", "error", err)
		return nil
	}
	if err != nil || stored == nil {
		return err
	}
	if hasLaterKey && !stored.isRevoking() {
		return b.forgetKey(ctx, storage, l.key)
	}
	if before := stored.Redated; before != nil && !stored.isRevoking() && !b.now().Add(clockSkew).Before(before.WrittenAt) {
		// The clock had gone back for a while, and is where it was.
		stored.Redated = nil
		if err := b.indexLease(ctx, storage, before.Ends, *stored); err != nil {
			return err
		}
		return b.forgetKey(ctx, storage, l.key)
	}
	err = b.revoke(ctx, storage, stored.credentialRef)
	switch {
	case withoutGivenUp(err) == nil:
		return b.forgetEnded(ctx, storage, stored.Connection, stored.Name, l.key)
	case ctx.Err() != nil || !issuer.IsError(err):
		return err
	}
	b.Logger().Warn("a credential whose lease has ended could not be revoked", "connection", stored.Connection, "name", stored.Name, "attempts", stored.Attempts+1, "error", err)
	return b.retryLater(ctx, storage, l.key, *stored)
}
