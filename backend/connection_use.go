// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// connectionUse counts what keeps a connection from being deleted.
type connectionUse struct {
	roles   []string
	leased  int // leased credentials
	waiting int // credentials waiting to be revoked

	unfinished bool // a rotate-root still has a root credential to revoke
}

// String describes the use. It is empty if there is none.
func (u connectionUse) String() string {
	var parts []string
	if n := len(u.roles); n > 0 {
		shown := u.roles[:min(n, maxQuotedFields)]
		more := ""
		if n > len(shown) {
			more = fmt.Sprintf(" and %d more", n-len(shown))
		}
		parts = append(parts, "roles "+strings.Join(shown, ", ")+more)
	}
	if u.leased > 0 {
		parts = append(parts, fmt.Sprintf("%d leased credentials", u.leased))
	}
	if u.waiting > 0 {
		parts = append(parts, fmt.Sprintf("%d credentials waiting to be revoked", u.waiting))
	}
	if u.unfinished {
		parts = append(parts, "a root credential that an unfinished rotate-root still has to revoke")
	}
	return strings.Join(parts, ", ")
}

func (b *backend) connectionUse(ctx context.Context, storage logical.Storage, connection string) (connectionUse, error) {
	var use connectionUse
	names, err := storage.List(ctx, connectionRolesPrefix+connection+"/")
	if err != nil {
		return use, fmt.Errorf("listing the roles of connection %q: %w", connection, err)
	}
	for _, name := range names {
		r, err := b.role(ctx, storage, name)
		if err != nil {
			return use, err
		}
		if r != nil && r.Dynamic != nil && r.Dynamic.Connection == connection {
			use.roles = append(use.roles, name)
		}
	}
	leases, err := storage.List(ctx, leasePrefix(connection))
	if err != nil {
		return use, fmt.Errorf("listing the leases of connection %q: %w", connection, err)
	}
	use.leased = len(leases)
	if use.waiting, err = b.waitingFor(ctx, storage, connection); err != nil {
		return use, err
	}
	left, err := b.leftWith(ctx, storage, connection, use.roles)
	use.waiting += left
	return use, err
}

// leftWith counts the credentials of the connection that are stored for shared
// roles which no longer use it. using names the roles that still do.
func (b *backend) leftWith(ctx context.Context, storage logical.Storage, connection string, using []string) (count int, err error) {
	names, err := storage.List(ctx, sharedStoragePrefix)
	if err != nil {
		return 0, fmt.Errorf("listing the shared credentials: %w", err)
	}
	for _, name := range names {
		if slices.Contains(using, name) {
			continue
		}
		s, err := b.shared(ctx, storage, name)
		if err != nil {
			return 0, err
		}
		for _, m := range s.all() {
			if m.Connection == connection {
				count++
			}
		}
	}
	return count, nil
}

// waitingFor counts the write-ahead entries that name the connection.
func (b *backend) waitingFor(ctx context.Context, storage logical.Storage, connection string) (int, error) {
	ids, err := framework.ListWAL(ctx, storage)
	if err != nil {
		return 0, fmt.Errorf("listing the write-ahead entries: %w", err)
	}
	count := 0
	for _, id := range ids {
		entry, err := framework.GetWAL(ctx, storage, id)
		if err != nil {
			return 0, fmt.Errorf("reading a write-ahead entry: %w", err)
		}
		if entry == nil {
			continue
		}
		if data, ok := entry.Data.(map[string]any); ok && data["connection"] == connection {
			count++
		}
	}
	return count, nil
}

// forgetLeases deletes the lease index of a connection.
func (b *backend) forgetLeases(ctx context.Context, storage logical.Storage, connection string) error {
	if err := logical.ClearView(ctx, logical.NewStorageView(storage, leasePrefix(connection))); err != nil {
		return fmt.Errorf("forgetting the leases of connection %q: %w", connection, err)
	}
	return nil
}
