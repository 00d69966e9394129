// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// doubtingStorage is a storage of which each failed write is doubted: it may have
// happened, or may still happen. So what status says of the entry is looked at again.
type doubtingStorage struct {
	logical.Storage
	attentions *attentions
}

// Put implements [logical.Storage].
func (s *doubtingStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.noteFailure(entry.Key, s.Storage.Put(ctx, entry))
}

// Delete implements [logical.Storage].
func (s *doubtingStorage) Delete(ctx context.Context, key string) error {
	return s.noteFailure(key, s.Storage.Delete(ctx, key))
}

func (s *doubtingStorage) noteFailure(key string, err error) error {
	if doubt := doubtAbout(key); err != nil && doubt != "" {
		s.attentions.doubt(doubt)
	}
	return err
}

// doubtAbout returns what is to be looked at when a write of a key has failed: a role, a
// connection after connectionMark, configMark, or a key of the index of leases. It returns
// "" for a key of which status says nothing, or whose writer looks at it again itself.
func doubtAbout(key string) string {
	if key == configStorageKey {
		return configMark
	}
	prefix, name, _ := strings.Cut(key, "/")
	switch prefix + "/" {
	case leaseIndexPrefix:
		return key
	case connectionStoragePrefix, rootChecksPrefix:
		return connectionMark + name
	case roleStoragePrefix, sharedStoragePrefix:
		return name
	case attentionPrefix:
		if name == configMark || checkName(strings.TrimPrefix(name, connectionMark)) == nil {
			return name
		}
	}
	return ""
}
