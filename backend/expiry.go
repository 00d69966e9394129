// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// Roles that expire are found through an index, one storage key for each with
// the time in front of the name, so that one listing finds the next of any
// number of roles. A key is written before the role that it is for and deleted
// after it, so a crash in between leaves a key too many and never one too few:
// readers compare with the role itself.
const (
	expiryStoragePrefix = "expiries/"
	expiryKeyTime       = "20060102T150405Z."
)

func expiryKey(at time.Time, name string) string {
	return expiryStoragePrefix + at.UTC().Format(expiryKeyTime) + name
}

// parseExpiryKey takes apart what stands behind the prefix.
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

// deleteExpiry takes a key out of the index. The role is changed already, and a
// key too many does no harm, so a failure is not one of the request.
func (b *backend) deleteExpiry(ctx context.Context, storage logical.Storage, at time.Time, name string) {
	if at.IsZero() {
		return
	}
	if err := storage.Delete(ctx, expiryKey(at, name)); err != nil {
		b.Logger().Warn("a role's former expiry stays in the index", "role", name, "error", err)
	}
}

// expiringBefore returns the names of the roles that expire before a time,
// soonest first. The warnings name those that cannot be read.
func (b *backend) expiringBefore(ctx context.Context, storage logical.Storage, before time.Time) (names []string, times map[string]time.Time, warnings []string, err error) {
	keys, err := storage.List(ctx, expiryStoragePrefix)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("listing expiries: %w", err)
	}
	slices.Sort(keys)
	names, times = []string{}, map[string]time.Time{}
	for _, key := range keys {
		at, name, ok := parseExpiryKey(key)
		if !ok {
			continue
		}
		if !at.Before(before) {
			break
		}
		r, err := b.role(ctx, storage, name)
		if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
			warnings = append(warnings, err.Error())
			continue
		}
		if err != nil {
			return nil, nil, nil, err
		}
		if r != nil && expiryKey(r.expiresAt(), name) == expiryStoragePrefix+key {
			names = append(names, name)
			times[name] = at
		}
	}
	return names, times, warnings, nil
}

func parseExpiry(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	at = at.UTC() // storage cannot hold every offset that Parse accepts
	if err != nil || at.Year() < 1 || at.Year() > 9999 {
		return time.Time{}, errors.New("must be a time as in RFC 3339, such as 2027-01-31T00:00:00Z")
	}
	return at, nil
}

// expiryWarnings warns of credentials that have stopped working at the
// registry, or will within the given time.
func expiryWarnings(name string, expiresAt, now time.Time, within time.Duration) []string {
	left := expiresAt.Sub(now)
	switch {
	case expiresAt.IsZero() || left > within:
		return nil
	case left <= 0:
		return []string{fmt.Sprintf("the credential of role %q expired at %s; write a new password and expires_at to roles/%s", name, formatTime(expiresAt), name)}
	}
	return []string{fmt.Sprintf("the credential of role %q expires at %s, in %s; write a new password and expires_at to roles/%s", name, formatTime(expiresAt), inWords(left), name)}
}

// inWords rounds down to what a person plans with.
func inWords(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
	return "less than two minutes"
}
