// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"
)

// dropShared deletes what a shared role serves, and returns all that the role has
// minted, with write-ahead entries for what can be revoked. Revoke it once the role is
// deleted. The role is locked.
func (b *backend) dropShared(ctx context.Context, storage logical.Storage, name string) (dropped []*newCredential, err error) {
	s, err := b.shared(ctx, storage, name)
	if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
		b.Logger().Warn("what a role has minted stays at the registry, because its entry cannot be read", "role", name, "error", err)
	} else if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, d := range dropped {
				d.done()
			}
			dropped = nil
		}
	}()
	for _, m := range s.all() {
		d := &newCredential{credentialRef: m, revocable: m.ID != ""}
		if d.revocable {
			if d.wal, err = b.putCredentialWAL(ctx, storage, m); err != nil {
				return dropped, err
			}
		}
		d.done = b.markInProgress(m.Name)
		dropped = append(dropped, d)
	}
	if err = storage.Delete(ctx, sharedStoragePrefix+name); err != nil {
		return dropped, fmt.Errorf("deleting the credential of role %q: %w", name, err)
	}
	b.forgetShared(ctx, storage, name, s)
	return dropped, nil
}

// revokeDropped revokes what a deleted role has minted, and returns how many
// credentials are not revoked yet.
func (b *backend) revokeDropped(ctx context.Context, storage logical.Storage, dropped []*newCredential) (left int) {
	if len(dropped) == 0 {
		return 0
	}
	left, err := attend(ctx, b, laneOf(dropped[0].Connection), work[int]{
		goesOn: true,
		do: func(ctx context.Context) (left int, _ error) {
			for _, d := range dropped {
				if !b.abandon(withUrgency(ctx, cleaning), storage, d) {
					left++
				}
			}
			return left, nil
		},
	})
	if err != nil {
		return len(dropped)
	}
	return left
}
