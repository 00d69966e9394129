// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
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
	if err = withoutGivenUp(err); err != nil {
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
	if err != nil {
		return err
	}
	if c == nil || c.ID != entry.ConnectionID {
		b.Logger().Warn("a root credential that rotate-root may have made is given up: its connection does not lead to that registry any more; delete it there",
			"connection", entry.Connection, "name", entry.Name)
		return nil
	}
	if c.Root.Name == entry.Name {
		return nil
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
	if err := b.fence(ctx, storage); err != nil {
		return err
	}
	return client.DiscardRoot(ctx, entry.Name)
}

// rollBackFound ends the credentials of write-ahead entries that Vault does not
// roll back yet, if they are at the registry already: nobody was given them, so
// they need not live for minutes. A credential that is not there may still come,
// so its entry stays.
func (b *backend) rollBackFound(ctx context.Context, storage logical.Storage) error {
	ids, err := framework.ListWAL(ctx, storage)
	if err != nil {
		return fmt.Errorf("listing the write-ahead entries: %w", err)
	}
	limit, cancel := context.WithTimeout(ctx, sweepLimit)
	defer cancel()
	for _, id := range ids {
		if limit.Err() != nil {
			break
		}
		entry, err := framework.GetWAL(ctx, storage, id)
		if err != nil {
			return fmt.Errorf("reading a write-ahead entry: %w", err)
		}
		if entry == nil || entry.Kind != walCredential {
			continue
		}
		var wal storedWAL
		if decodeWAL(entry.Data, &wal, &wal.SchemaVersion) != nil {
			continue // the rollback says what is wrong with it
		}
		age := b.now().Sub(wal.WrittenAt)
		if wal.WrittenAt.IsZero() || age < walFirstTry || age > walMinAge {
			continue
		}
		if err := b.rollBackIfFound(ctx, storage, id, wal.credentialRef); err != nil {
			b.Logger().Debug("a credential of a request that ended could not be ended yet", "connection", wal.Connection, "name", wal.Name, "error", err)
		}
	}
	return nil
}

func (b *backend) rollBackIfFound(ctx context.Context, storage logical.Storage, id string, m credentialRef) error {
	if _, working := b.inProgress.Load(m.Name); working {
		return nil
	}
	if err := b.skipIfUnreachable(m.Connection); err != nil {
		return err
	}
	c, err := b.usableConnection(ctx, storage, m.Connection)
	if err != nil || c == nil || !c.minted(m) || c.Type.NoRevocation {
		return err // the rollback gives it up
	}
	var found []string
	err = b.callRegistry(c, func(client *issuer.Client) (err error) {
		found, err = client.Find(ctx, m.For, m.Name)
		return err
	})
	b.recordReachability(m.Connection, err)
	if err != nil || len(found) == 0 {
		return err
	}
	if err := b.rollBackCredential(ctx, storage, m); err != nil {
		return err
	}
	b.deleteWAL(ctx, storage, id)
	return nil
}
