// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// renewConnection looks at a connection as it is stored. Connections are few: all are
// looked at after a start, so the index only says since when they need attention.
func (b *backend) renewConnection(ctx context.Context, storage logical.Storage, name string) error {
	key := connectionMark + name
	unlock, err := b.announcing.lock(ctx, key) // who reads last is right
	if err != nil {
		return err
	}
	defer unlock()
	f := attentionOfConnection{name: name, unrevoked: b.attentions.countUnrevoked(name)}
	connectionType := ""
	f.connection, err = b.connection(ctx, storage, name)
	switch {
	case isUnreadable(err):
		f.unreadable = true
	case err != nil:
		return b.doubtConnection(name, err)
	case f.connection != nil:
		connectionType = f.connection.Type.Name
		settings, err := b.readableConfig(ctx, storage)
		if err != nil {
			return b.doubtConnection(name, err)
		}
		f.warning = settings.ExpiryWarning.Duration
		check, err := b.rootCheck(ctx, storage, name)
		if err != nil {
			return b.doubtConnection(name, err)
		}
		f.root = check.about(f.connection.rootGeneration())
	}
	s, err := b.putAttention(ctx, storage, key, f.attention(), 0)
	if err != nil {
		return b.doubtConnection(name, err)
	}
	b.settleAttention(ctx, storage, key, s)
	b.attentions.setConnection(name, connectionType, f.connection != nil || f.unreadable)
	return nil
}

func (b *backend) doubtConnection(name string, err error) error {
	b.attentions.doubt(connectionMark + name)
	return err
}

// lookAtConnection is renewConnection for a connection that was written, or of which a
// lease has changed: it does not fail what was done.
func (b *backend) lookAtConnection(ctx context.Context, storage logical.Storage, name string) {
	if err := b.renewConnection(context.WithoutCancel(ctx), storage, name); err != nil {
		b.Logger().Debug("a connection is looked at again in a minute", "connection", name, "error", err)
	}
}

// putConnectionAttended stores a connection, and looks at it.
func (b *backend) putConnectionAttended(ctx context.Context, storage logical.Storage, c *connection) error {
	err := b.putConnection(ctx, storage, c)
	b.lookAtConnection(ctx, storage, c.Name)
	return err
}

// putLeaseAttention has the index name a leased credential whose revocation has failed,
// before its entry says so.
func (b *backend) putLeaseAttention(ctx context.Context, storage logical.Storage, connection, name string) error {
	if err := storage.Put(ctx, &logical.StorageEntry{Key: leaseAttentionKey(connection, name)}); err != nil {
		return fmt.Errorf("adding a lease of connection %q to the index of what needs attention: %w", connection, err)
	}
	return nil
}

// noteLeaseKey notes what storage has under a key of the index of leases: nil is nothing.
// The connection needs attention while there is a key of a credential whose revocation has
// failed.
func (b *backend) noteLeaseKey(ctx context.Context, storage logical.Storage, key string, stored *storedLease) {
	if stored != nil {
		b.attentions.leases.set(key, 0)
	} else {
		b.attentions.leases.remove(key)
	}
	connection, l, ok := parseLeaseKey(key)
	if !ok {
		return
	}
	fails := stored != nil && stored.isRevoking()
	if !b.attentions.setUnrevoked(connection, l.name, key, fails) {
		return
	}
	if !fails {
		b.deleteLeaseAttention(ctx, storage, connection, l.name)
	}
	b.lookAtConnection(ctx, storage, connection)
}

func (b *backend) deleteLeaseAttention(ctx context.Context, storage logical.Storage, connection, name string) {
	if err := storage.Delete(ctx, leaseAttentionKey(connection, name)); err != nil {
		b.Logger().Warn("a key in the index of what needs attention stays for now", "name", name, "error", err)
	}
}

func leaseAttentionKey(connection, name string) string {
	return leaseAttentionPrefix + connection + "/" + name
}

// putRootCheck stores what a registry has said of the root credential of a connection,
// which may be about to be stored. An error that is no answer of the registry says
// nothing.
func (b *backend) putRootCheck(ctx context.Context, storage logical.Storage, c *connection, status issuer.Status, answer error) error {
	if answer != nil && !refusesCredential(answer) || b.onStandby() || !b.WriteSafeReplicationState() {
		return nil
	}
	next := rootCheck{SchemaVersion: schemaVersion, Of: c.rootGeneration(), CheckedAt: b.now(), ExpiresAt: status.ExpiresAt, Refused: answer != nil}
	if answer != nil {
		next.Status = issuer.StatusOf(answer)
	}
	stored, err := b.rootCheck(ctx, storage, c.Name)
	if err != nil {
		return err
	}
	former := stored.about(next.Of)
	if next.Refused {
		next.ExpiresAt = former.ExpiresAt // a refusal does not say
	}
	if next.Refused && former.Refused {
		next.CheckedAt = former.CheckedAt // since then
	}
	if former.says(next) {
		return nil
	}
	return b.storeRootCheck(ctx, storage, c.Name, stored, next)
}

// keepRootCheck has what is known of a root credential known of a connection that is about
// to be stored with the same one.
func (b *backend) keepRootCheck(ctx context.Context, storage logical.Storage, c, old *connection) error {
	stored, err := b.rootCheck(ctx, storage, c.Name)
	if err != nil {
		return err
	}
	known := stored.about(old.rootGeneration())
	if known.Of == "" {
		return nil
	}
	known.Of = c.rootGeneration()
	return b.storeRootCheck(ctx, storage, c.Name, stored, known)
}

// storeRootCheck stores a check instead of another one.
func (b *backend) storeRootCheck(ctx context.Context, storage logical.Storage, connection string, stored, next rootCheck) error {
	next.Before = nil
	current, err := b.connection(ctx, storage, connection)
	if err != nil && !isUnreadable(err) {
		return err
	}
	if err == nil && current != nil && current.rootGeneration() != next.Of {
		if before := stored.about(current.rootGeneration()); before.Of != "" {
			before.Before = nil
			next.Before = &before
		}
	}
	return putEntry(ctx, storage, rootChecksPrefix+connection, next)
}

// noteRootCheck is putRootCheck for a connection that is stored.
func (b *backend) noteRootCheck(ctx context.Context, storage logical.Storage, c *connection, status issuer.Status, answer error) error {
	if err := b.putRootCheck(ctx, storage, c, status, answer); err != nil {
		return err
	}
	b.lookAtConnection(ctx, storage, c.Name)
	return nil
}
