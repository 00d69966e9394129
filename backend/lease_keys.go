// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// storedLease is a leased credential as it stands in the index.
type storedLease struct {
	SchemaVersion int `json:"schema_version"`
	credentialRef

	// Attempts counts the revocations that failed. If there are any, the
	// credential is to be ended whatever the time in the key was before, and the
	// key has the time of the next attempt.
	Attempts int       `json:"attempts,omitempty"`
	TriedAt  time.Time `json:"tried_at,omitzero"`

	WrittenAt time.Time `json:"written_at,omitzero"` // earlier builds wrote none

	// Redated has what the key and WrittenAt were before redateLeases moved it,
	// because that clock may have been the wrong one.
	Redated *redatedLease `json:"redated,omitempty"`
}

type redatedLease struct {
	Ends      time.Time `json:"ends"`
	WrittenAt time.Time `json:"written_at"`
}

func (s storedLease) isRevoking() bool { return s.Attempts > 0 }

func leasePrefix(connection string) string { return leaseIndexPrefix + connection + "/" }

func leaseKey(connection string, ends time.Time, name string) string {
	return leasePrefix(connection) + ends.UTC().Format(expiryKeyTime) + name
}

// storedLease returns nil where the index has no such key.
func (b *backend) storedLease(ctx context.Context, storage logical.Storage, key string) (*storedLease, error) {
	var stored storedLease
	found, err := getEntry(ctx, storage, key, &stored, &stored.SchemaVersion)
	if err != nil || !found {
		return nil, err
	}
	return &stored, nil
}

// indexedLease is a key of the index.
type indexedLease struct {
	key  string
	ends time.Time
	name string
}

// listLeases returns the index of a connection, by time.
func listLeases(ctx context.Context, storage logical.Storage, connection string) ([]indexedLease, error) {
	keys, err := storage.List(ctx, leasePrefix(connection))
	if err != nil {
		return nil, fmt.Errorf("listing the leases of connection %q: %w", connection, err)
	}
	slices.Sort(keys)
	var leases []indexedLease
	for _, key := range keys {
		if ends, name, ok := parseExpiryKey(key); ok {
			leases = append(leases, indexedLease{leasePrefix(connection) + key, ends, name})
		}
	}
	return leases, nil
}

// parseLeaseKey returns what a key of the index of leases says, and of which connection it
// is.
func parseLeaseKey(key string) (connection string, l indexedLease, ok bool) {
	connection, rest, _ := strings.Cut(strings.TrimPrefix(key, leaseIndexPrefix), "/")
	ends, name, ok := parseExpiryKey(rest)
	return connection, indexedLease{key, ends, name}, ok
}

// findLease looks for a credential whose key is not known, because a crash or a
// failure of Vault came between the index and the lease. Of several keys, the
// last one counts. stored is nil if there is none.
func (b *backend) findLease(ctx context.Context, storage logical.Storage, connection, name string) (at indexedLease, stored *storedLease, err error) {
	leases, err := leasesNamed(ctx, storage, connection, name)
	if err != nil || len(leases) == 0 {
		return indexedLease{}, nil, err
	}
	at = leases[len(leases)-1]
	stored, err = b.storedLease(ctx, storage, at.key)
	return at, stored, err
}

// leasesNamed returns all keys of a leased credential, by time. After a crash there may be
// several.
func leasesNamed(ctx context.Context, storage logical.Storage, connection, name string) ([]indexedLease, error) {
	leases, err := listLeases(ctx, storage, connection)
	return slices.DeleteFunc(leases, func(l indexedLease) bool { return l.name != name }), err
}
