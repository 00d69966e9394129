// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// listLeaseKeys counts the leases, and finds those whose revocation failed.
func (b *backend) listLeaseKeys(ctx context.Context, storage logical.Storage) error {
	b.attentions.leases.begin()
	connections, err := storage.List(ctx, leaseIndexPrefix)
	if err != nil {
		return fmt.Errorf("listing the leases: %w", err)
	}
	var all []string
	for _, connection := range connections {
		leases, err := listLeases(ctx, storage, strings.TrimSuffix(connection, "/"))
		if err != nil {
			return err
		}
		for _, l := range leases {
			all = append(all, l.key)
		}
	}
	b.attentions.leases.fill(func(yield func(string, nameKind) bool) {
		for _, key := range all {
			if !yield(key, 0) {
				return
			}
		}
	})
	if connections, err = storage.List(ctx, leaseAttentionPrefix); err != nil {
		return fmt.Errorf("listing the leases that need attention: %w", err)
	}
	for _, connection := range connections {
		if err := b.listUnrevoked(ctx, storage, strings.TrimSuffix(connection, "/")); err != nil {
			return err
		}
	}
	return nil
}

func (b *backend) listUnrevoked(ctx context.Context, storage logical.Storage, connection string) error {
	names, err := storage.List(ctx, leaseAttentionPrefix+connection+"/")
	if err != nil {
		return fmt.Errorf("listing the leases of connection %q that need attention: %w", connection, err)
	}
	leases, err := listLeases(ctx, storage, connection)
	if err != nil {
		return err
	}
	keys := map[string][]string{} // a crash may have left two of one name
	for _, l := range leases {
		keys[l.name] = append(keys[l.name], l.key)
	}
	for _, name := range names {
		if err := b.findUnrevoked(ctx, storage, connection, name, keys[name]); err != nil {
			return err
		}
	}
	return nil
}

// findUnrevoked finds out whether the revocation of a leased credential has failed. It
// does not wait for one that is being revoked, because its registry may be slow: what
// comes of that is looked at later.
func (b *backend) findUnrevoked(ctx context.Context, storage logical.Storage, connection, name string, keys []string) error {
	unlock, free := b.leaseLocks.tryLock(name)
	if free {
		defer unlock()
	}
	for _, key := range keys {
		if !free {
			b.attentions.doubt(key)
		}
		stored, err := b.storedLease(ctx, storage, key)
		switch {
		case isUnreadable(err) || err == nil && stored == nil:
		case err != nil:
			return err
		case stored.isRevoking():
			b.attentions.setUnrevoked(connection, name, key, true)
		}
	}
	if keys, _ := b.attentions.unrevokedKeys(connection, name); free && len(keys) == 0 {
		b.deleteLeaseAttention(ctx, storage, connection, name)
	}
	return nil
}

// lookAtLease looks at a key of the index of leases of which a write failed. While the
// credential is being revoked, it leaves that for later.
func (b *backend) lookAtLease(ctx context.Context, storage logical.Storage, key string) error {
	connection, l, ok := parseLeaseKey(key)
	if !ok {
		return nil
	}
	unlock, free := b.leaseLocks.tryLock(l.name)
	if !free {
		b.attentions.doubt(key)
		return nil
	}
	defer unlock()
	stored, err := b.storedLease(ctx, storage, key)
	if isUnreadable(err) {
		stored, err = &storedLease{}, nil
	}
	if err != nil {
		return err
	}
	if stored != nil && stored.isRevoking() {
		if err := b.putLeaseAttention(ctx, storage, connection, l.name); err != nil {
			return err
		}
	}
	b.noteLeaseKey(ctx, storage, key, stored)
	return nil
}

// lookAtLeases finds leased credentials whose revocation has failed and that are not known:
// an earlier build has no index of them.
func (b *backend) lookAtLeases(ctx context.Context, storage logical.Storage) error {
	connections, err := storage.List(ctx, leaseIndexPrefix)
	if err != nil {
		return fmt.Errorf("listing the leases: %w", err)
	}
	for _, connection := range connections {
		connection = strings.TrimSuffix(connection, "/")
		leases, err := listLeases(ctx, storage, connection)
		if err != nil {
			return err
		}
		for i, l := range leases {
			if known, _ := b.attentions.unrevokedKeys(connection, l.name); slices.Contains(known, l.key) {
				continue // it may be being revoked, and stays known if that fails
			}
			if err := b.pace(ctx, i); err != nil {
				return err
			}
			stored, err := b.storedLease(ctx, storage, l.key)
			if err == nil && stored != nil && stored.isRevoking() {
				err = b.lookAtLease(ctx, storage, l.key)
			}
			if err != nil && !isUnreadable(err) {
				return err
			}
		}
	}
	return nil
}
