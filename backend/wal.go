// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// A write-ahead entry says that something may be at a registry that must not
// stay there. It is written before what it is about is made, and deleted once
// that is stored, leased or certainly not there.
const (
	walCredential = "credential" // data: minted
	walRoot       = "root"       // data: walRootEntry

	// walMinAge is how old an entry is before it is rolled back: more than any
	// request can last that is still at work on what it is about.
	walMinAge = 5 * time.Minute

	// silentFor is how long a registry that did not answer is left alone by
	// rollback and by the periodic function.
	silentFor = 50 * time.Second
)

// walRootEntry is about an administrative credential that is being made.
type walRootEntry struct {
	SchemaVersion int `json:"schema_version"`

	Connection string `json:"connection"`
	Name       string `json:"name"`
}

var errUnderway = errors.New("a request is still at work on it")

// underway marks a name as being worked on, until the function that it returns
// is called.
func (b *backend) underway(name string) (done func()) {
	b.inHand.Store(name, nil)
	return func() { b.inHand.Delete(name) }
}

func (b *backend) deleteWAL(ctx context.Context, storage logical.Storage, id string) {
	if id == "" {
		return
	}
	// An entry too many is found to have nothing to do.
	if err := framework.DeleteWAL(ctx, storage, id); err != nil {
		b.Logger().Warn("a write-ahead entry stays", "id", id, "error", err)
	}
}

// walRollback undoes what a crash, or a registry that did not answer, left
// behind. An error has it called again a minute later.
func (b *backend) walRollback(ctx context.Context, req *logical.Request, kind string, data any) error {
	err := b.rollBack(ctx, req.Storage, kind, data)
	if err != nil && !errors.Is(err, errUnderway) {
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
		return b.rollBackCredential(ctx, storage, entry.minted)
	case walRoot:
		var entry walRootEntry
		if err := decodeWAL(data, &entry, &entry.SchemaVersion); err != nil {
			return err
		}
		return b.rollBackRoot(ctx, storage, entry)
	}
	return fmt.Errorf("this plugin does not know the kind %q; run the newer plugin that wrote it", kind)
}

// decodeWAL reads the data of an entry as getEntry does.
func decodeWAL(data, entry any, version *int) error {
	encoded, err := json.Marshal(data)
	if err == nil {
		err = json.Unmarshal(encoded, entry)
	}
	if *version > schemaVersion {
		return fmt.Errorf("the write-ahead entry has schema version %d and this plugin knows up to %d; run the newer plugin that wrote it", *version, schemaVersion)
	}
	if err != nil || *version < 1 {
		return errors.New("the write-ahead entry is damaged")
	}
	return nil
}

// rollBackCredential revokes what was minted under a name, unless it has come
// to be what a shared role serves or will revoke.
func (b *backend) rollBackCredential(ctx context.Context, storage logical.Storage, m minted) error {
	if _, working := b.inHand.Load(m.Name); working {
		return errUnderway
	}
	kept, err := b.keptByShared(ctx, storage, m)
	if err != nil || kept {
		return err
	}
	if err := b.checkAnswers(m.Connection); err != nil {
		return err
	}
	err = b.revokeNamed(ctx, storage, m)
	b.noteSilence(m.Connection, err)
	if err != nil {
		return err
	}
	return b.forgetLease(ctx, storage, m)
}

// noteSilence remembers whether a registry answered.
func (b *backend) noteSilence(connection string, err error) {
	switch {
	case err == nil:
		b.silent.Delete(connection)
	case issuer.IsError(err) && issuer.StatusOf(err) == 0:
		b.silent.Store(connection, b.now())
	}
}

// checkAnswers refuses to call a registry that did not answer a moment ago. It
// is for what is done for many in a row, of which those of other registries
// must not wait for each of its.
func (b *backend) checkAnswers(connection string) error {
	if at, silent := b.silent.Load(connection); silent && b.now().Sub(at.(time.Time)) < silentFor {
		return badGateway(fmt.Errorf("the registry of connection %q did not answer a moment ago", connection))
	}
	return nil
}

// rollBackRoot ends what was prepared under a name, unless it has come to be
// the connection's.
func (b *backend) rollBackRoot(ctx context.Context, storage logical.Storage, entry walRootEntry) error {
	if _, working := b.inHand.Load(entry.Name); working {
		return errUnderway
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
		return errUnderway // some registries could not tell the two apart
	}
	client, err := b.open(c, issuer.Root{})
	if err != nil {
		return err
	}
	defer client.Close()
	return client.DiscardRoot(ctx, entry.Name)
}

// waitingFor counts the write-ahead entries about a connection.
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
		if about, ok := entry.Data.(map[string]any); ok && about["connection"] == connection {
			count++
		}
	}
	return count, nil
}
