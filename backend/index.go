// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
)

const expiryKeyTime = "20060102T150405Z."

func expiryKey(at time.Time, name string) string {
	return expiryStoragePrefix + at.UTC().Format(expiryKeyTime) + name
}

// parseExpiryKey parses a key of the index, without its prefix.
func parseExpiryKey(key string) (at time.Time, name string, ok bool) {
	if len(key) <= len(expiryKeyTime) {
		return time.Time{}, "", false
	}
	at, err := time.Parse(expiryKeyTime, key[:len(expiryKeyTime)])
	return at, key[len(expiryKeyTime):], err == nil
}

func putExpiry(ctx context.Context, storage logical.Storage, at time.Time, name string) error {
	if at.IsZero() {
		return nil
	}
	if err := storage.Put(ctx, &logical.StorageEntry{Key: expiryKey(at, name)}); err != nil {
		return fmt.Errorf("writing the expiry of role %q: %w", name, err)
	}
	return nil
}

// deleteExpiry deletes a key of the index. A failure is logged and does not fail
// the request: the role is already changed, and an extra key does no harm.
func (b *backend) deleteExpiry(ctx context.Context, storage logical.Storage, at time.Time, name string) {
	if at.IsZero() {
		return
	}
	if err := storage.Delete(ctx, expiryKey(at, name)); err != nil {
		b.Logger().Warn("a role's former expiry stays in the index", "role", name, "error", err)
	}
}

// wholeSeconds rounds a time up to what a key of an index can hold.
func wholeSeconds(t time.Time) time.Time {
	if whole := t.Truncate(time.Second); whole.Before(t) {
		return whole.Add(time.Second)
	}
	return t
}

// nothingDue stands in the index where there is nothing to be done. It is the
// latest time that a key can have.
var nothingDue = time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC)

// dueTimes are the times in a key of the index of what is due, in whole seconds.
type dueTimes struct {
	At        time.Time `json:"at"`
	WrittenAt time.Time `json:"written_at"`
}

// dueTimesOf returns the times of a key that is written now. The zero time says
// that nothing is due.
func dueTimesOf(at, now time.Time) dueTimes {
	if at.IsZero() || at.After(nothingDue) {
		at = nothingDue
	}
	return dueTimes{wholeSeconds(at).UTC(), now.Truncate(time.Second).UTC()}
}

func dueKey(t dueTimes, name string) string {
	return dueIndexPrefix + t.At.Format(expiryKeyTime) + t.WrittenAt.Format(expiryKeyTime) + name
}

// parseDueKey parses a key of the index, without its prefix.
func parseDueKey(key string) (t dueTimes, name string, ok bool) {
	at, rest, ok := parseExpiryKey(key)
	if !ok {
		return dueTimes{}, "", false
	}
	writtenAt, name, ok := parseExpiryKey(rest)
	return dueTimes{at, writtenAt}, name, ok
}

func putDue(ctx context.Context, storage logical.Storage, t dueTimes, name string) error {
	key := dueKey(t, name)
	if err := storage.Put(ctx, &logical.StorageEntry{Key: key}); err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	return nil
}

// deleteDue deletes a key of the index. A failure is logged and does not fail
// what is done: an extra key is deleted when it comes up.
func (b *backend) deleteDue(ctx context.Context, storage logical.Storage, t dueTimes, name string) {
	if err := storage.Delete(ctx, dueKey(t, name)); err != nil {
		b.Logger().Warn("a key in the index of what is due stays for now", "name", name, "error", err)
	}
}

func connectionRoleKey(connection, role string) string {
	return connectionRolesPrefix + connection + "/" + role
}

func (b *backend) putConnectionRole(ctx context.Context, storage logical.Storage, connection, role string) error {
	if connection == "" {
		return nil
	}
	if err := storage.Put(ctx, &logical.StorageEntry{Key: connectionRoleKey(connection, role)}); err != nil {
		return fmt.Errorf("adding role %q to the index of connection %q: %w", role, connection, err)
	}
	return nil
}

// deleteConnectionRole deletes a key of the index. A failure is logged and does
// not fail the request: the role is already changed, and an extra key does no
// harm.
func (b *backend) deleteConnectionRole(ctx context.Context, storage logical.Storage, connection, role string) {
	if connection == "" {
		return
	}
	if err := storage.Delete(ctx, connectionRoleKey(connection, role)); err != nil {
		b.Logger().Warn("a role stays in the index of its former connection", "role", role, "connection", connection, "error", err)
	}
}

// indexAtOnce is how many keys of an index are written at the same time.
const indexAtOnce = 16

func bundleKey(member, bundle string) string { return bundleIndexPrefix + member + "/" + bundle }

// putBundleKeys adds a bundle to the index of each of the members.
func putBundleKeys(ctx context.Context, storage logical.Storage, bundle string, members []string) error {
	writing, ctx := errgroup.WithContext(ctx)
	writing.SetLimit(indexAtOnce)
	for _, member := range members {
		writing.Go(func() error {
			if err := storage.Put(ctx, &logical.StorageEntry{Key: bundleKey(member, bundle)}); err != nil {
				return fmt.Errorf("adding bundle %q to the index of role %q: %w", bundle, member, err)
			}
			return nil
		})
	}
	return writing.Wait()
}

// deleteBundleKeys removes a bundle from the index of each of the members. A failure is
// logged and does not fail the request: the bundle is already changed, and an extra key
// does no harm.
func (b *backend) deleteBundleKeys(ctx context.Context, storage logical.Storage, bundle string, members []string) {
	for _, member := range members {
		if err := storage.Delete(ctx, bundleKey(member, bundle)); err != nil {
			b.Logger().Warn("a bundle stays in the index of a former member", "bundle", bundle, "role", member, "error", err)
		}
	}
}

// namesWithout returns the names that are not in the other list, which is sorted.
func namesWithout(names, sorted []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, found := slices.BinarySearch(sorted, name)
		return found
	})
}

func verifyPeriodKey(period time.Duration, name string) string {
	return fmt.Sprintf("%s%010d.%s", verifyPeriodsPrefix, int64(period/time.Second), name)
}

// parseVerifyPeriodKey parses a key of the index, without its prefix.
func parseVerifyPeriodKey(key string) (period time.Duration, name string, ok bool) {
	text, name, found := strings.Cut(key, ".")
	count, err := strconv.ParseInt(text, 10, 64)
	if !found || err != nil || count < 1 || count > math.MaxInt32 {
		return 0, "", false
	}
	return time.Duration(count) * time.Second, name, true
}

func putVerifyPeriod(ctx context.Context, storage logical.Storage, period time.Duration, name string) error {
	if period == 0 {
		return nil
	}
	if err := storage.Put(ctx, &logical.StorageEntry{Key: verifyPeriodKey(period, name)}); err != nil {
		return fmt.Errorf("writing the verify_period of role %q: %w", name, err)
	}
	return nil
}

// deleteVerifyPeriod deletes a key of the index. A failure is logged and does not fail
// the request: the role is already changed, and an extra key does no harm.
func (b *backend) deleteVerifyPeriod(ctx context.Context, storage logical.Storage, period time.Duration, name string) {
	if period == 0 {
		return
	}
	if err := storage.Delete(ctx, verifyPeriodKey(period, name)); err != nil {
		b.Logger().Warn("a role's former verify_period stays in the index", "role", name, "error", err)
	}
}
