// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// unprintable is embedded in stored structs that hold secrets: formatting them
// with any verb gives "[redacted]".
type unprintable struct{}

// Format implements [fmt.Formatter].
func (unprintable) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[redacted]") }

// unreadableError is about an entry that is there and cannot be understood. It
// can only be deleted.
type unreadableError struct{ error }

func unreadablef(format string, args ...any) error {
	return unreadableError{fmt.Errorf(format, args...)}
}

// isUnreadable reports whether an error is about such an entry.
func isUnreadable(err error) bool {
	var unreadable unreadableError
	return errors.As(err, &unreadable)
}

// getEntry reads the entry under key into stored, a pointer to a struct whose
// field for the schema version is version. It reports whether there is one.
func getEntry(ctx context.Context, storage logical.Storage, key string, stored any, version *int) (bool, error) {
	entry, err := storage.Get(ctx, key)
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", key, err)
	}
	if entry == nil {
		return false, nil
	}
	return true, decodeEntry(entry, stored, version)
}

func decodeEntry(entry *logical.StorageEntry, stored any, version *int) error {
	err := json.Unmarshal(entry.Value, stored)
	if known := schemaVersionOf(entry.Key); *version > known { // it stands first, and what follows may have another type
		return unreadablef("reading %s: the stored entry has schema version %d and this plugin knows up to %d; run the newer plugin that wrote it", entry.Key, *version, known)
	}
	if err != nil || *version < 1 {
		return unreadablef("reading %s: the stored entry is damaged", entry.Key) // err may quote a secret
	}
	return nil
}

// cachedKeys are the entries that a read of creds/ needs, and the list of the
// roles, which may be long. Of a connection the cache has what connectionFacts
// returns, which holds no root credential.
func cachedKeys() cache.Keys {
	return cache.Keys{
		Holds: func(key string) bool {
			return key == configStorageKey || strings.HasPrefix(key, roleStoragePrefix) || strings.HasPrefix(key, sharedStoragePrefix)
		},
		Decodes: func(key string) bool { return strings.HasPrefix(key, connectionStoragePrefix) },
		List:    roleStoragePrefix,
	}
}

// seconds is a duration that is stored as a whole number of seconds.
type seconds struct{ time.Duration }

// count returns the whole seconds of a duration.
func (s seconds) count() int64 { return int64(s.Duration / time.Second) }

// MarshalJSON implements [json.Marshaler].
func (s seconds) MarshalJSON() ([]byte, error) { return json.Marshal(s.count()) }

// UnmarshalJSON implements [json.Unmarshaler].
func (s *seconds) UnmarshalJSON(text []byte) error {
	var count int64
	err := json.Unmarshal(text, &count)
	s.Duration = time.Duration(count) * time.Second
	return err
}

// exists is the existence check of a path of which a field is the name under
// which an entry stands.
func exists(prefix, field string) framework.ExistenceFunc {
	return func(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
		name := data.Get(field).(string)
		if checkName(name) != nil {
			return false, nil //nolint:nilerr // the write itself says what is wrong
		}
		entry, err := req.Storage.Get(ctx, prefix+name)
		return entry != nil, err
	}
}

func putEntry(ctx context.Context, storage logical.Storage, key string, stored any) error {
	entry, err := logical.StorageEntryJSON(key, stored)
	if err != nil {
		return fmt.Errorf("writing %s: the entry cannot be encoded", key) // err may quote a secret
	}
	if err := storage.Put(ctx, entry); err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	return nil
}

// hidden wraps stored secrets so that they cannot be printed. revealed is the
// inverse.
func hidden(stored *map[string]string) issuer.Secrets {
	secrets := issuer.Secrets{}
	if stored != nil {
		for field, text := range *stored {
			secrets[field] = dockerconfig.NewSecret(text)
		}
	}
	return secrets
}

func revealed(secrets issuer.Secrets) *map[string]string {
	if len(secrets) == 0 {
		return nil
	}
	texts := map[string]string{}
	for field, secret := range secrets {
		texts[field] = secret.Reveal()
	}
	return &texts
}
