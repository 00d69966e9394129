// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// walRollback undoes what a crash, or a registry that did not answer, left
// behind. An error has it called again a minute later.
func (b *backend) walRollback(ctx context.Context, req *logical.Request, kind string, data any) error {
	err := b.rollBack(ctx, req.Storage, kind, data)
	if err != nil && !errors.Is(err, errInProgress) {
		b.Logger().Warn("what may be left at a registry could not be ended yet", "kind", kind, "error", err) // Vault does not log it
	}
	return err
}

func (b *backend) rollBack(ctx context.Context, storage logical.Storage, kind string, data any) error {
	switch kind {
	case walCredential:
		var entry storedWAL
		if err := decodeWAL(data, &entry, &entry.SchemaVersion); err != nil {
			return err
		}
		return b.rollBackCredential(ctx, storage, entry.credentialRef)
	case walRoot:
		var entry walRootEntry
		if err := decodeWAL(data, &entry, &entry.SchemaVersion); err != nil {
			return err
		}
		return b.rollBackRoot(ctx, storage, entry)
	}
	return fmt.Errorf("this plugin does not know the kind %q; run the newer plugin that wrote it", kind)
}

// rollBackCredential revokes what was minted under a name, unless it has come
// to be what a shared role serves or will revoke.
func (b *backend) rollBackCredential(ctx context.Context, storage logical.Storage, m credentialRef) error {
	if _, working := b.inProgress.Load(m.Name); working {
		return errInProgress
	}
	kept, err := b.keptByShared(ctx, storage, m)
	if err != nil || kept {
		return err
	}
	if err := b.skipIfUnreachable(m.Connection); err != nil {
		return err
	}
	err = b.revokeNamed(ctx, storage, m)
	b.recordReachability(m.Connection, err)
	if err != nil {
		return err
	}
	return b.forgetLease(ctx, storage, m)
}

// rollBackRoot ends what was prepared under a name, unless it has come to be
// the connection's.
func (b *backend) rollBackRoot(ctx context.Context, storage logical.Storage, entry walRootEntry) error {
	if _, working := b.inProgress.Load(entry.Name); working {
		return errInProgress
	}
	defer b.lockConnection(entry.Connection)()
	c, err := b.connection(ctx, storage, entry.Connection)
	if err != nil || c == nil || c.Root.Name == entry.Name {
		return err
	}
	if c.Root.Pending != nil {
		if c.Root.Pending.Name == entry.Name {
			return nil
		}
		return errInProgress // some registries could not tell the two apart
	}
	client, err := b.open(c, issuer.Root{})
	if err != nil {
		return err
	}
	defer client.Close()
	return client.DiscardRoot(ctx, entry.Name)
}
