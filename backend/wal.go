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

// A write-ahead entry says that a credential may be at a registry that must not
// stay there. It is written before the credential is made, and deleted once the
// credential is stored, leased or certainly not there.
const (
	walCredential = "credential" // data: minted
	walRoot       = "root"       // data: walRootEntry

	// walMinAge is how old an entry is before it is rolled back: older than any
	// request that may still be working on the credential, and longer than a
	// registry takes to act on a call of a process that has died.
	walMinAge = 5 * time.Minute

	// walFirstTry is how old an entry of a credential is before the engine looks
	// for the credential. The entry stays if there is none yet.
	walFirstTry = 30 * time.Second

	// unreachableFor is how long rollback and the periodic function leave a
	// registry alone that did not answer.
	unreachableFor = 50 * time.Second
)

// walRootEntry is about a root credential that is being made.
type walRootEntry struct {
	SchemaVersion int `json:"schema_version"`

	Connection   string `json:"connection"`
	ConnectionID string `json:"connection_id,omitempty"` // connection.ID when it was made
	Name         string `json:"name"`
}

// credentialRef finds a credential at the registry that minted it. It is stored
// in write-ahead entries, in leases and in the entries of shared roles, and
// holds no secret.
type credentialRef struct {
	Connection   string          `json:"connection"`
	ConnectionID string          `json:"connection_id,omitempty"` // connection.ID when it was minted
	URL          string          `json:"host,omitempty"`          // of the registry's API; see apiRoot
	Role         string          `json:"role"`
	Name         string          `json:"name"`         // at the registry
	ID           string          `json:"id,omitempty"` // at the registry, once minted
	For          issuer.Settings `json:"for,omitempty"`
}

// storedWAL is a write-ahead entry of the kind walCredential.
type storedWAL struct {
	SchemaVersion int `json:"schema_version"`
	credentialRef
	WrittenAt time.Time `json:"written_at,omitzero"` // earlier builds wrote none
}

var errInProgress = errors.New("a request is still at work on it")

// markInProgress keeps rollback from a credential that a request is working on,
// until done is called.
func (b *backend) markInProgress(name string) (done func()) {
	b.inProgress.Store(name, nil)
	return func() { b.inProgress.Delete(name) }
}

func (b *backend) putWAL(ctx context.Context, storage logical.Storage, m credentialRef) (string, error) {
	id, err := framework.PutWAL(ctx, storage, walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: m, WrittenAt: b.now()})
	if err != nil {
		return "", fmt.Errorf("writing ahead: %w", err)
	}
	return id, nil
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

// recordReachability remembers whether a registry answered.
func (b *backend) recordReachability(connection string, err error) {
	switch {
	case errors.Is(err, errGivenUp): // nobody was asked
	case err == nil:
		b.unreachable.Delete(connection)
	case issuer.IsError(err) && issuer.StatusOf(err) == 0:
		b.unreachable.Store(connection, b.now())
	}
}

// skipIfUnreachable returns an error if the registry of a connection did not
// answer a moment ago. Loops over many roles call this, so that one dead registry
// does not stall the others.
func (b *backend) skipIfUnreachable(connection string) error {
	at, unreachable := b.unreachable.Load(connection)
	if !unreachable {
		return nil
	}
	if since := b.now().Sub(at.(time.Time)); since >= 0 && since < unreachableFor {
		return badGateway(fmt.Errorf("the registry of connection %q did not answer a moment ago", connection))
	}
	return nil
}

// errGivenUp is about a credential whose connection no longer leads to the
// registry that minted it: the connection has moved, or was deleted. Nothing at
// another registry is touched for it.
var errGivenUp = errors.New("the credential is given up, because its connection does not lead to the registry that minted it any more")

// withoutGivenUp returns nil for errGivenUp, where the log line and the event say
// enough.
func withoutGivenUp(err error) error {
	if errors.Is(err, errGivenUp) {
		return nil
	}
	return err
}

// errNotActive is about a node that has ceased to be the active one, or whose
// storage fails.
var errNotActive = errors.New("nothing was ended at the registry, because this node cannot write to storage: another node may be the active one")

// fence is called before each call that ends something at a registry, except for
// a credential that nobody was given. It proves, with a write to storage, that
// this node is still the active one. A node that was paused may believe so for a
// moment after it wakes, and has leases and roles in memory that another node has
// renewed or changed since.
func (b *backend) fence(ctx context.Context, storage logical.Storage) error {
	if err := storage.Put(ctx, &logical.StorageEntry{Key: fenceStorageKey, Value: []byte(formatTime(b.now()))}); err != nil {
		return fmt.Errorf("%w: %w", errNotActive, err)
	}
	return nil
}
