// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// rollBackEntries has undone what a crash, or a registry that did not answer, left
// behind. immediate says that entries of any age are to be rolled back.
func (b *backend) rollBackEntries(ctx context.Context, storage logical.Storage, immediate bool) error {
	ids, err := b.listWAL(ctx, storage)
	if err != nil {
		return err
	}
	name := "write-ahead entry "
	if immediate {
		name = "write-ahead entry of any age "
	}
	for _, id := range ids {
		b.addJob(cleaningLane(connectionOfWAL(id)), cleaningAtOnce, name+id, func(ctx context.Context) {
			err := b.rollBackEntry(withUrgency(ctx, cleaning), storage, id, immediate)
			if left := (leftAloneError{}); err == nil || errors.Is(err, errInProgress) || errors.As(err, &left) || ctx.Err() != nil {
				return
			}
			b.Logger().Warn("what may be left at a registry could not be ended yet", "entry", id, "error", err)
		})
	}
	return nil
}

func (b *backend) rollBackEntry(ctx context.Context, storage logical.Storage, id string, immediate bool) error {
	entry, err := framework.GetWAL(ctx, storage, id)
	if err != nil {
		return fmt.Errorf("reading a write-ahead entry: %w", err)
	}
	if entry == nil {
		return nil
	}
	age := b.now().Sub(time.Unix(entry.CreatedAt, 0))
	if isYoung := age <= walMinAge && age >= -clockSkew; isYoung && !immediate {
		return b.rollBackIfFound(ctx, storage, id, entry)
	}
	if err := b.rollBack(ctx, storage, entry.Kind, entry.Data); err != nil {
		return err
	}
	b.deleteWAL(ctx, storage, id)
	return nil
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
	if err := withoutGivenUp(b.revokeAs(ctx, storage, m, true)); err != nil {
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
	unlock, err := b.lockConnection(ctx, entry.Connection)
	if err != nil {
		return err
	}
	defer unlock()
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
	return b.endAtRegistry(ctx, storage, c, func(ctx context.Context, client *issuer.Client) error {
		return client.DiscardRoot(ctx, entry.Name)
	})
}

// rollBackIfFound ends the credential of an entry that is too young to be rolled back,
// if it is at the registry already: nobody was given it, so it need not live for
// minutes. A credential that is not there may still come, so its entry stays.
func (b *backend) rollBackIfFound(ctx context.Context, storage logical.Storage, id string, entry *framework.WALEntry) error {
	var wal storedWAL
	if entry.Kind != walCredential || decodeWAL(entry.Data, &wal, &wal.SchemaVersion) != nil {
		return nil //nolint:nilerr // the rollback says what is wrong with it
	}
	if wal.WrittenAt.IsZero() || b.now().Sub(wal.WrittenAt) < walFirstTry {
		return nil
	}
	m := wal.credentialRef
	if _, working := b.inProgress.Load(m.Name); working {
		return nil
	}
	c, err := b.usableConnection(ctx, storage, m.Connection)
	if err != nil || c == nil || !c.minted(m) || !c.can().Find {
		return err // the rollback gives it up
	}
	found, err := b.find(ctx, c, m)
	if err != nil || len(found) == 0 {
		return err
	}
	if err := b.rollBackCredential(ctx, storage, m); err != nil {
		return err
	}
	b.deleteWAL(ctx, storage, id)
	return nil
}
