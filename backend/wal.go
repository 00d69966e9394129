// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
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

	// maxWaiting is how many entries may wait for one connection before nothing
	// more is minted with it.
	maxWaiting = 100

	// walFirstTry is how old an entry of a credential is before the engine looks
	// for the credential. The entry stays if there is none yet.
	walFirstTry = 30 * time.Second
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

// waitingEntries counts the write-ahead entries of each connection.
type waitingEntries struct {
	mu    sync.Mutex
	known bool
	ids   map[string]map[string]bool // by connection; false: it is being written
}

// The ID of an entry begins with its connection, so that a list of them is enough to
// count those of each. Earlier builds wrote other IDs.
func newWALID(connection string) string { return connection + walIDSeparator + rand.Text() }

const walIDSeparator = "."

// connectionOfWAL returns the connection that an entry is about; "" if its ID does not
// say so.
func connectionOfWAL(id string) string {
	if i := strings.LastIndex(id, walIDSeparator); i > 0 {
		return id[:i]
	}
	return ""
}

// note counts an entry, or not any more.
func (w *waitingEntries) note(id string, waits bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	connection := connectionOfWAL(id)
	if !waits {
		delete(w.ids[connection], id)
		return
	}
	w.set(connection, id, true)
}

// writing counts an entry that is being written: no list need have it.
func (w *waitingEntries) writing(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.set(connectionOfWAL(id), id, false)
}

func (w *waitingEntries) set(connection, id string, written bool) {
	if w.ids[connection] == nil {
		if w.ids == nil {
			w.ids = map[string]map[string]bool{}
		}
		w.ids[connection] = map[string]bool{}
	}
	w.ids[connection][id] = written
}

// written returns the entries that a list must have.
func (w *waitingEntries) written() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, ids := range w.ids {
		for id, written := range ids {
			if written {
				all = append(all, id)
			}
		}
	}
	return all
}

// isKnown reports whether the entries that were there at the start are counted.
func (w *waitingEntries) isKnown() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.known
}

func (w *waitingEntries) know(ids []string) {
	for _, id := range ids {
		w.note(id, true)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known = true
}

// total returns how many entries there are.
func (w *waitingEntries) total() (total int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ids := range w.ids {
		total += len(ids)
	}
	return total
}

// count returns how many entries there are of a connection.
func (w *waitingEntries) count(connection string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ids[connection])
}

// checkWaiting refuses to mint with a connection of which too many entries wait.
func (b *backend) checkWaiting(ctx context.Context, storage logical.Storage, connection string) error {
	if !b.waiting.isKnown() {
		ids, err := framework.ListWAL(ctx, storage)
		if err != nil {
			return fmt.Errorf("listing the write-ahead entries: %w", err)
		}
		b.waiting.know(ids)
	}
	if n := b.waiting.count(connection); n >= maxWaiting {
		return badGateway(fmt.Errorf("nothing is minted with connection %q for now, because %d write-ahead entries wait: its registry failed as many times when a credential may have been made; the engine looks for them every minute", connection, n))
	}
	return nil
}

// listWAL returns the IDs of all entries. What is counted and not there any more, because
// the storage failed in a write or a delete, is not counted from then on.
func (b *backend) listWAL(ctx context.Context, storage logical.Storage) ([]string, error) {
	written := b.waiting.written()
	ids, err := framework.ListWAL(ctx, storage)
	if err != nil {
		return nil, fmt.Errorf("listing the write-ahead entries: %w", err)
	}
	listed := map[string]bool{}
	for _, id := range ids {
		listed[id] = true
	}
	for _, id := range written {
		if !listed[id] {
			b.waiting.note(id, false)
		}
	}
	return ids, nil
}

// putWAL writes an entry of a kind about a connection, and returns its ID.
func (b *backend) putWAL(ctx context.Context, storage logical.Storage, kind, connection string, data any) (string, error) {
	id := newWALID(connection)
	encoded, err := json.Marshal(&framework.WALEntry{ID: id, Kind: kind, Data: data, CreatedAt: b.now().UTC().Unix()})
	if err != nil {
		return "", errors.New("writing ahead: the entry cannot be encoded")
	}
	b.waiting.writing(id)
	defer b.waiting.note(id, true) // after a failure too, because it may be there
	if err := storage.Put(ctx, &logical.StorageEntry{Key: framework.WALPrefix + id, Value: encoded}); err != nil {
		return "", fmt.Errorf("writing ahead: %w", err)
	}
	return id, nil
}

func (b *backend) putCredentialWAL(ctx context.Context, storage logical.Storage, m credentialRef) (string, error) {
	return b.putWAL(ctx, storage, walCredential, m.Connection, storedWAL{SchemaVersion: schemaVersion, credentialRef: m, WrittenAt: b.now()})
}

func (b *backend) deleteWAL(ctx context.Context, storage logical.Storage, id string) {
	if id == "" {
		return
	}
	// An entry too many is found to have nothing to do.
	if err := b.tryDeleteWAL(ctx, storage, id); err != nil {
		b.Logger().Warn("a write-ahead entry stays", "id", id, "error", err)
	}
}

func (b *backend) tryDeleteWAL(ctx context.Context, storage logical.Storage, id string) error {
	if err := framework.DeleteWAL(ctx, storage, id); err != nil {
		return fmt.Errorf("deleting a write-ahead entry: %w", err)
	}
	b.waiting.note(id, false)
	return nil
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
