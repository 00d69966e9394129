// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// A root credential is replaced in steps, and after each step storage holds one
// that works. First the new one is stored beside the old (Pending): the registry
// has made it under a name that a write-ahead entry holds, or the engine has
// chosen it. Then it is put in force and tried. Then it takes the place of the
// old one, which is kept (Retired) until the registry has ended it.
// finishRootRotation does what a crash has left, before the connection is next
// used or from the periodic function.
const (
	// rootTries and rootPause are for registries that refuse a new credential
	// for some seconds, such as AWS.
	rootTries = 16
	rootPause = time.Second
)

// prepareRoot has a new root credential made and stores it beside the one in
// use. The connection is locked.
func (b *backend) prepareRoot(ctx context.Context, storage logical.Storage, c *connection) error {
	name := issuer.NewName(c.Name)
	defer b.markInProgress(name)()
	wal, err := b.putWAL(ctx, storage, walRoot, c.Name, walRootEntry{SchemaVersion: schemaVersion, Connection: c.Name, ConnectionID: c.ID, Name: name})
	if err != nil {
		return err
	}
	var root issuer.Root
	err = b.callRegistry(ctx, c, issuer.Root{}, func(ctx context.Context, client *issuer.Client) (err error) {
		root, err = client.PrepareRoot(ctx, name)
		return err
	})
	if err != nil {
		if errors.Is(err, issuer.ErrRootNotRotatable) || errors.Is(err, issuer.ErrNothingToRotate) {
			err = refuse(err)
		}
		if issuer.Definite(err) || isInputError(err) {
			b.deleteWAL(ctx, storage, wal)
		}
		return err
	}
	c.Root.Pending = &pendingRoot{name, root}
	if err := b.putConnectionAttended(ctx, storage, c); err != nil {
		return err // rollback finds it by the write-ahead entry, and ends it
	}
	b.deleteWAL(ctx, storage, wal)
	return nil
}

// finishRootRotation puts a pending root credential in force, tries it, and ends
// the former one. The connection is locked.
func (b *backend) finishRootRotation(ctx context.Context, storage logical.Storage, c *connection) error {
	if c.Root.Pending != nil {
		if err := b.promoteRoot(ctx, storage, c); err != nil {
			return err
		}
	}
	if c.Root.Retired == nil {
		return nil
	}
	err := b.endAtRegistry(ctx, storage, c, func(ctx context.Context, client *issuer.Client) error {
		return client.RetireRoot(ctx, *c.Root.Retired)
	})
	if err != nil {
		return fmt.Errorf("the new root credential is in use, and the former one could not be ended yet, which is tried again every minute: %w", err)
	}
	c.Root.Retired = nil
	return b.putConnectionAttended(ctx, storage, c)
}

// promoteRoot puts the pending credential in the place of the old one, which
// stays until it is ended.
func (b *backend) promoteRoot(ctx context.Context, storage logical.Storage, c *connection) error {
	pending := *c.Root.Pending
	var status issuer.Status
	err := b.endAtRegistry(ctx, storage, c, func(ctx context.Context, client *issuer.Client) error {
		return client.ActivateRoot(ctx, pending.Root) // which may end the former one
	})
	if err == nil {
		status, err = b.tryRoot(ctx, storage, c, pending.Root)
	}
	if err != nil {
		return b.giveUpRoot(ctx, storage, c, err)
	}
	retired := issuer.Root{Settings: c.Settings, Secrets: c.Secrets}
	merged := issuer.Connection{Settings: c.Settings, Secrets: c.Secrets}.With(pending.Root)
	c.Settings, c.Secrets = merged.Settings, merged.Secrets
	c.Root = rootRotation{RotatedAt: b.now(), Name: pending.Name, Retired: &retired}
	if err := b.putRootCheck(ctx, storage, c, status, nil); err != nil {
		return err
	}
	return b.putConnectionAttended(ctx, storage, c)
}

// tryRoot asks the registry about a new root credential, more than once if the
// registry refuses it at first.
func (b *backend) tryRoot(ctx context.Context, storage logical.Storage, c *connection, root issuer.Root) (issuer.Status, error) {
	for try := 1; ; try++ {
		status, err := b.askAbout(ctx, c, root)
		if err == nil || try == rootTries || !refusesCredential(err) {
			return status, err
		}
		b.sleep(ctx, rootPause)
		if err := b.fence(ctx, storage); err != nil { // another node may have finished meanwhile
			return status, err
		}
	}
}

// giveUpRoot ends a pending root credential if it is certain that it is not in
// force, and that the old one is. Otherwise both are kept, and tried again.
func (b *backend) giveUpRoot(ctx context.Context, storage logical.Storage, c *connection, cause error) error {
	if !issuer.IsError(cause) {
		return cause
	}
	_, err := b.askAbout(ctx, c, issuer.Root{})
	if err != nil || !issuer.Definite(cause) {
		return fmt.Errorf("the new root credential could not be put in use, which is tried again every minute: %w", cause)
	}
	err = b.endAtRegistry(ctx, storage, c, func(ctx context.Context, client *issuer.Client) error {
		return client.DiscardRoot(ctx, c.Root.Pending.Name)
	})
	if err != nil {
		return fmt.Errorf("the new root credential is refused, and could not be ended yet, which is tried again every minute: %w", err)
	}
	c.Root.Pending = nil
	if err := b.putConnectionAttended(ctx, storage, c); err != nil {
		return err
	}
	return fmt.Errorf("the root credential stays as it was: %w", cause)
}

// askAbout asks the registry about a root credential.
func (b *backend) askAbout(ctx context.Context, c *connection, root issuer.Root) (status issuer.Status, err error) {
	err = b.callRegistry(ctx, c, root, func(ctx context.Context, client *issuer.Client) (err error) {
		status, err = client.Check(ctx)
		return err
	})
	return status, err
}

// endAtRegistry makes a call that ends something at the registry.
func (b *backend) endAtRegistry(ctx context.Context, storage logical.Storage, c *connection, do func(context.Context, *issuer.Client) error) error {
	return b.callRegistry(ctx, c, issuer.Root{}, func(ctx context.Context, client *issuer.Client) error {
		if err := b.fence(ctx, storage); err != nil {
			return err
		}
		return do(ctx, client)
	})
}

// usableConnection returns a connection with a root credential that works: it
// finishes a rotate-root that was interrupted, or waits for one in progress. If that
// fails, the former root credential is used, and others do not try again at once. A
// performance secondary cannot store what it would do, and leaves it to the primary.
func (b *backend) usableConnection(ctx context.Context, storage logical.Storage, name string) (*connection, error) {
	c, err := b.connection(ctx, storage, name)
	if err != nil || c == nil || c.Root.Pending == nil || !b.roots.isDue(name, b.now()) || !b.WriteSafeReplicationState() {
		return c, err
	}
	err = b.finishRootRotationOf(ctx, storage, name)
	if errors.Is(err, errNotActive) || ctx.Err() != nil {
		return nil, err
	}
	return b.connection(ctx, storage, name)
}

// finishRootRotations finishes the interrupted rotate-root of each connection.
func (b *backend) finishRootRotations(ctx context.Context, storage logical.Storage) error {
	names, err := b.unfinishedConnections(ctx, storage)
	if err != nil {
		return err
	}
	for _, name := range names {
		b.addJob(cleaningLane(name), cleaningAtOnce, "rotate-root of "+name, func(ctx context.Context) {
			_ = b.finishRootRotationOf(withUrgency(ctx, cleaning), storage, name) // it is logged
		})
	}
	return nil
}

// unfinishedConnections returns the connections that have, or may have, a
// rotate-root to finish. The first time it looks at all of them.
func (b *backend) unfinishedConnections(ctx context.Context, storage logical.Storage) ([]string, error) {
	if names, known := b.roots.names(); known {
		return names, nil
	}
	names, err := storage.List(ctx, connectionStoragePrefix)
	if err != nil {
		return nil, fmt.Errorf("listing the connections: %w", err)
	}
	for _, name := range names {
		b.roots.note(name, true)
	}
	b.roots.know()
	return names, nil
}

// finishRootRotationOf finishes the rotate-root of a connection, if there is one to
// finish, and logs why it cannot.
func (b *backend) finishRootRotationOf(ctx context.Context, storage logical.Storage, name string) error {
	unlock, err := b.lockConnection(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := b.connection(ctx, storage, name)
	if err == nil && (c == nil || c.Root.isFinished()) {
		b.roots.note(name, false)
		return nil
	}
	if err == nil && !b.roots.isDue(name, b.now()) {
		return nil // somebody has tried meanwhile
	}
	if err == nil {
		err = b.finishRootRotation(ctx, storage, c)
	}
	if err != nil && ctx.Err() == nil {
		b.roots.failed(name, b.now())
		b.Logger().Warn("a rotate-root could not be finished", "connection", name, "error", err)
	}
	return err
}

// replaceRoot notes that the root credential was replaced by hand. A pending one
// is not wanted any more, and rollback ends it by a write-ahead entry; a retired
// one is still to be ended, unless it is the one that was written.
func (b *backend) replaceRoot(ctx context.Context, storage logical.Storage, c, old *connection) error {
	if old == nil || sameSecrets(c.Secrets, old.Secrets) {
		return nil
	}
	c.Root.Name = ""
	if c.Root.Retired != nil && sameSecrets(c.Secrets, c.Root.Retired.Secrets) {
		c.Root.Retired = nil
	}
	if c.Root.Pending == nil {
		return nil
	}
	if c.Root.Retired == nil { // the new root credential may not find what another account has prepared
		pending := issuer.Connection{Settings: old.Settings, Secrets: old.Secrets}.With(c.Root.Pending.Root)
		c.Root.Retired = &issuer.Root{Settings: pending.Settings, Secrets: pending.Secrets}
	}
	entry := walRootEntry{SchemaVersion: schemaVersion, Connection: c.Name, ConnectionID: old.ID, Name: c.Root.Pending.Name}
	if _, err := b.putWAL(ctx, storage, walRoot, c.Name, entry); err != nil {
		return err
	}
	c.Root.Pending = nil
	return nil
}
