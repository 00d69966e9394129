// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
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
