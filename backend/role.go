// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	typeStatic  = "static"
	typeBundle  = "bundle"
	typeDynamic = "dynamic"
	modeLeased  = "leased"
	modeShared  = "shared"
)

// role is what roles/<role> defines and creds/<role> reads. One of the pointers
// is set, and is its type.
type role struct {
	Static  *staticRole
	Bundle  *bundleRole
	Dynamic *dynamicRole

	// AllowedBundles are names and globs of the bundles that may join it.
	AllowedBundles []string

	// VerifyRepository is what a verification pulls from, as it was written.
	VerifyRepository string

	UpdatedAt time.Time
}

func (r *role) roleType() string {
	switch {
	case r.Bundle != nil:
		return typeBundle
	case r.Dynamic != nil:
		return typeDynamic
	}
	return typeStatic
}

func (r *role) isShared() bool { return r.Dynamic != nil && r.Dynamic.Mode == modeShared }

func (r *role) isLeased() bool { return r.Dynamic != nil && r.Dynamic.Mode == modeLeased }

// connection is the name of the connection that a role uses, empty for none.
func (r *role) connection() string {
	if r == nil || r.Dynamic == nil {
		return ""
	}
	return r.Dynamic.Connection
}

// expiresAt is when the role's own credential stops working at the registry;
// zero where that is not known, or where it has none of its own.
func (r *role) expiresAt() time.Time {
	if r == nil || r.Static == nil {
		return time.Time{}
	}
	return r.Static.ExpiresAt
}

// storedRole is a role as it stands in storage.
type storedRole struct {
	unprintable
	SchemaVersion int       `json:"schema_version"`
	Type          string    `json:"type"`
	UpdatedAt     time.Time `json:"updated_at"`
	// Docker is a pointer because fmt's %p prints a struct without asking it.
	Docker           *json.RawMessage `json:"dockerconfig,omitempty"`
	ExpiresAt        time.Time        `json:"expires_at,omitzero"`
	Members          []string         `json:"members,omitempty"`
	Dynamic          *dynamicRole     `json:"dynamic,omitempty"`
	AllowedBundles   []string         `json:"allowed_bundles,omitempty"`
	VerifyRepository string           `json:"verify_repository,omitempty"`
}

// role returns nil where there is none of that name. What it returns must not be
// changed.
func (b *backend) role(ctx context.Context, storage logical.Storage, name string) (*role, error) {
	return cache.Decoded(ctx, b.cache, storage, roleStoragePrefix+name, nil, func(entry *logical.StorageEntry) (*role, error) {
		return decodeRole(entry, name)
	})
}

func decodeRole(entry *logical.StorageEntry, name string) (*role, error) {
	var stored storedRole
	if err := decodeEntry(entry, &stored, &stored.SchemaVersion); err != nil {
		return nil, err
	}
	r := &role{
		AllowedBundles:   stored.AllowedBundles,
		VerifyRepository: stored.VerifyRepository,
		UpdatedAt:        stored.UpdatedAt,
	}
	switch {
	case stored.Type == typeBundle:
		r.Bundle = &bundleRole{Members: stored.Members}
	case stored.Type == typeStatic && stored.Docker != nil:
		docker, err := dockerconfig.Decode(*stored.Docker)
		if err != nil {
			return nil, unreadablef("role %q: %w", name, err)
		}
		r.Static = &staticRole{Docker: docker, ExpiresAt: stored.ExpiresAt}
	case stored.Type == typeDynamic && stored.Dynamic != nil:
		r.Dynamic = stored.Dynamic
	default:
		return nil, unreadablef("role %q: this plugin cannot read its type %q", name, stored.Type)
	}
	return r, nil
}

// putRole stores a role in place of old, which is nil for a new one.
func (b *backend) putRole(ctx context.Context, storage logical.Storage, name string, r, old *role) error {
	stored := storedRole{
		SchemaVersion:    schemaVersion,
		Type:             r.roleType(),
		UpdatedAt:        r.UpdatedAt,
		AllowedBundles:   r.AllowedBundles,
		VerifyRepository: r.VerifyRepository,
	}
	if r.Static != nil {
		docker := json.RawMessage(r.Static.Docker.JSON())
		stored.Docker, stored.ExpiresAt = &docker, r.Static.ExpiresAt
	}
	if r.Bundle != nil {
		stored.Members = r.Bundle.Members
	}
	if r.Dynamic != nil {
		stored.Dynamic = r.Dynamic
	}
	if err := b.putConnectionRole(ctx, storage, r.connection(), name); err != nil {
		return err
	}
	if err := putExpiry(ctx, storage, r.expiresAt(), name); err != nil {
		return err
	}
	if err := putEntry(ctx, storage, roleStoragePrefix+name, stored); err != nil {
		return err
	}
	if before := old.expiresAt(); expiryKey(before, name) != expiryKey(r.expiresAt(), name) {
		b.deleteExpiry(ctx, storage, before, name)
	}
	if old.connection() != r.connection() {
		b.deleteConnectionRole(ctx, storage, old.connection(), name)
	}
	return nil
}

// givesLike reports whether two roles of one type and name serve the same.
func (r *role) samePullSecret(other *role) bool {
	switch {
	case r.Static != nil:
		return r.Static.Docker.Equal(other.Static.Docker)
	case r.Dynamic != nil:
		return r.Dynamic.equal(other.Dynamic)
	}
	return false
}

// lockRole orders the writes to a role, which are a read, a change and a write.
// The function that it returns ends it.
func (b *backend) lockRole(name string) (unlock func()) {
	lock := locksutil.LockForKey(b.roleLocks, name)
	lock.Lock()
	return lock.Unlock
}

// allowsBundle reports whether a bundle of that name may join the role.
func (r *role) allowsBundle(bundle string) bool {
	return matchesAny(r.AllowedBundles, bundle)
}

// bundleRole is a role that joins the credentials of other roles.
type bundleRole struct {
	Members []string // names of roles, sorted, each once
}

// staticRole is a role that holds its own credentials.
type staticRole struct {
	Docker dockerconfig.Config

	// ExpiresAt is when the credentials stop working at the registry; zero
	// where that is not known.
	ExpiresAt time.Time
}

// dynamicRole is a role whose credential a connection mints.
type dynamicRole struct {
	Connection string          `json:"connection"`
	Mode       string          `json:"mode"`          // modeLeased or modeShared
	For        issuer.Settings `json:"for,omitempty"` // the fields of the connection's type

	TTL    seconds `json:"ttl,omitzero"` // leased; 0 is the mount's
	MaxTTL seconds `json:"max_ttl,omitzero"`

	RotationPeriod seconds `json:"rotation_period,omitzero"` // shared
	GracePeriod    seconds `json:"grace_period,omitzero"`
}

// equal reports whether both mint the same.
func (d *dynamicRole) equal(other *dynamicRole) bool {
	return d.Connection == other.Connection && d.Mode == other.Mode && maps.Equal(d.For, other.For) &&
		d.TTL.Duration == other.TTL.Duration && d.MaxTTL.Duration == other.MaxTTL.Duration &&
		d.RotationPeriod.Duration == other.RotationPeriod.Duration && d.GracePeriod.Duration == other.GracePeriod.Duration
}

// lifetime is how long a shared credential is to live at the registry: over the
// next rotation and its grace period, and so long again that a registry which
// cannot mint for a while costs nothing. One that is left behind, as by
// disabling the mount, so ends by itself.
func (d *dynamicRole) lifetime(target issuer.Target) time.Duration {
	lifetime := 2*d.RotationPeriod.Duration + d.GracePeriod.Duration
	if target.MaxLifetime > 0 {
		lifetime = min(lifetime, target.MaxLifetime)
	}
	return lifetime
}

// readBack returns all of a role but its passwords and what derives from them.
func (r *role) readBack() map[string]any {
	data := map[string]any{
		"type":       r.roleType(),
		"updated_at": formatTime(r.UpdatedAt),
	}
	if len(r.AllowedBundles) > 0 {
		data["allowed_bundles"] = r.AllowedBundles
	}
	if r.VerifyRepository != "" {
		data["verify_repository"] = r.VerifyRepository
	}
	if r.Bundle != nil {
		data["members"] = r.Bundle.Members
	}
	if r.Static != nil {
		maps.Copy(data, r.Static.readBack())
		maps.Copy(data, servedBy(r.Static.Docker, r.Static.ExpiresAt))
	}
	if r.Dynamic != nil {
		maps.Copy(data, r.Dynamic.readBack())
	}
	return data
}

// readBack returns all but the passwords and what derives from them.
func (s *staticRole) readBack() map[string]any {
	credentials := s.Docker.Credentials()
	described := make([]map[string]any, len(credentials))
	for i, c := range credentials {
		described[i] = map[string]any{"registry": c.Registry.ImageName(), "username": c.Username}
		if c.Email != "" {
			described[i]["email"] = c.Email
		}
	}
	if len(described) == 1 {
		return described[0]
	}
	return map[string]any{"credentials": described}
}

// readBack returns the fields of the role; what its credential is, the shared
// state adds.
func (d *dynamicRole) readBack() map[string]any {
	data := readBackSettings(fieldsOfTypes(roleFieldsOf), d.For)
	data["connection"], data["mode"] = d.Connection, d.Mode
	if d.Mode == modeLeased {
		data["ttl"], data["max_ttl"] = d.TTL.count(), d.MaxTTL.count()
		return data
	}
	data["rotation_period"], data["grace_period"] = d.RotationPeriod.count(), d.GracePeriod.count()
	return data
}

// servedBy describes what a read of creds/ gives.
func servedBy(docker dockerconfig.Config, expiresAt time.Time) map[string]any {
	registries := []string{}
	for _, key := range docker.Keys() {
		registries = append(registries, string(key))
	}
	data := map[string]any{"registries": registries}
	if !expiresAt.IsZero() {
		data["expires_at"] = formatTime(expiresAt)
	}
	return data
}
