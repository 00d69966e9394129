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
	unreachableFor = 50 * time.Second
)

// walRootEntry is about a root credential that is being made.
type walRootEntry struct {
	SchemaVersion int `json:"schema_version"`

	Connection string `json:"connection"`
	Name       string `json:"name"`
}

// minted is what is needed to find and revoke a credential. It stands in
// write-ahead entries, in leases and in the entries of shared roles, and holds
// no secret.
type credentialRef struct {
	Connection string          `json:"connection"`
	Role       string          `json:"role"`
	Name       string          `json:"name"`         // at the registry
	ID         string          `json:"id,omitempty"` // at the registry, once minted
	For        issuer.Settings `json:"for,omitempty"`
}

// storedWAL is a write-ahead entry of the kind walCredential.
type storedWAL struct {
	SchemaVersion int `json:"schema_version"`
	credentialRef
}

var errInProgress = errors.New("a request is still at work on it")

// underway marks a name as being worked on, until the function that it returns
// is called.
func (b *backend) markInProgress(name string) (done func()) {
	b.inProgress.Store(name, nil)
	return func() { b.inProgress.Delete(name) }
}

func (b *backend) putWAL(ctx context.Context, storage logical.Storage, m credentialRef) (string, error) {
	id, err := framework.PutWAL(ctx, storage, walCredential, storedWAL{schemaVersion, m})
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

// noteSilence remembers whether a registry answered.
func (b *backend) recordReachability(connection string, err error) {
	switch {
	case err == nil:
		b.unreachable.Delete(connection)
	case issuer.IsError(err) && issuer.StatusOf(err) == 0:
		b.unreachable.Store(connection, b.now())
	}
}

// checkAnswers refuses to call a registry that did not answer a moment ago. It
// is for what is done for many in a row, of which those of other registries
// must not wait for each of its.
func (b *backend) skipIfUnreachable(connection string) error {
	if at, silent := b.unreachable.Load(connection); silent && b.now().Sub(at.(time.Time)) < unreachableFor {
		return badGateway(fmt.Errorf("the registry of connection %q did not answer a moment ago", connection))
	}
	return nil
}
