// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/ryanuber/go-glob"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

const defaultExpiryWarning = 14 * 24 * time.Hour

// config holds the settings of the mount.
type config struct {
	SchemaVersion int `json:"schema_version"`

	// AllowedRegistries are the registries that roles may name. Empty: any.
	AllowedRegistries []dockerconfig.Key `json:"allowed_registries"`

	// ExpiryWarning is how long before a role's expires_at reads begin to warn.
	ExpiryWarning seconds `json:"expiry_warning"`

	// CAPEM holds CA certificates in PEM form. Verification trusts them in
	// addition to the system's.
	CAPEM string `json:"ca_pem,omitempty"`

	// VerifyPeriod is how often the engine verifies the roles that have no period of
	// their own; 0: not at all.
	VerifyPeriod seconds `json:"verify_period,omitzero"`
}

// allows reports whether a role may name the registry. A pattern must match its
// host, where '*' matches any characters, and have the same port or, like it, none.
// A pattern with a path allows only that path and the paths below it.
func (c config) allows(key dockerconfig.Key) bool {
	host, port := key.HostAndPort()
	for _, pattern := range c.AllowedRegistries {
		hosts, samePort := pattern.HostAndPort()
		inPath := pattern.Path() == "" || key.Path() == pattern.Path() || strings.HasPrefix(key.Path(), pattern.Path()+"/")
		if inPath && port == samePort && glob.Glob(hosts, host) {
			return true
		}
	}
	return len(c.AllowedRegistries) == 0
}

// checkRegistries refuses registries that are not allowed.
func (c config) checkRegistries(keys []dockerconfig.Key) error {
	for _, key := range keys {
		if !c.allows(key) {
			return refusef("registry %q is not among the allowed_registries of this mount's config", key)
		}
	}
	return nil
}

func defaultSettings() config { return config{ExpiryWarning: seconds{defaultExpiryWarning}} }

// config returns the settings of the mount. Other requests share them: copy
// before a change.
func (b *backend) config(ctx context.Context, storage logical.Storage) (config, error) {
	return cache.Decoded(ctx, b.cache, storage, configStorageKey, defaultSettings(), decodeConfig)
}

// readableConfig returns the defaults for a config that cannot be read.
func (b *backend) readableConfig(ctx context.Context, storage logical.Storage) (config, error) {
	c, err := b.config(ctx, storage)
	if isUnreadable(err) {
		return defaultSettings(), nil
	}
	return c, err
}

func decodeConfig(entry *logical.StorageEntry) (config, error) {
	var c config
	if err := decodeEntry(entry, &c, &c.SchemaVersion); err != nil {
		return config{}, err
	}
	return c, nil
}
