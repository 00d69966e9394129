// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/canonical"
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

// maxScanned is the size of the largest entry that scanStaticRole decodes.
const maxScanned = 4 << 10

// role is defined by a write to roles/<role> and read as creds/<role>. Exactly one
// of its pointers is set, and that is its type.
type role struct {
	Static  *staticRole
	Bundle  *bundleRole
	Dynamic *dynamicRole

	// AllowedBundles are names and globs of the bundles that may join the role.
	AllowedBundles []string

	// VerifyRepository is the repository that a verification pulls from, as it was
	// written.
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

// connection is the name of the connection that a role uses, or empty.
func (r *role) connection() string {
	if r == nil || r.Dynamic == nil {
		return ""
	}
	return r.Dynamic.Connection
}

// members returns the members of a bundle, and none for every other role.
func (r *role) members() []string {
	if r == nil || r.Bundle == nil {
		return nil
	}
	return r.Bundle.Members
}

// expiresAt is when the credential of a static role stops working at the registry.
// It is zero if that is not known, and for every other type of role.
func (r *role) expiresAt() time.Time {
	if r == nil || r.Static == nil {
		return time.Time{}
	}
	return r.Static.ExpiresAt
}

// storedRole is the stored form of a role.
type storedRole struct {
	unprintable
	SchemaVersion int       `json:"schema_version"`
	Type          string    `json:"type"`
	UpdatedAt     time.Time `json:"updated_at"`
	// Docker is a pointer, because fmt's verb %p prints the fields of a struct
	// without calling its methods.
	Docker           *json.RawMessage `json:"dockerconfig,omitempty"`
	ExpiresAt        time.Time        `json:"expires_at,omitzero"`
	Members          []string         `json:"members,omitempty"`
	Dynamic          *dynamicRole     `json:"dynamic,omitempty"`
	AllowedBundles   []string         `json:"allowed_bundles,omitempty"`
	VerifyRepository string           `json:"verify_repository,omitempty"`
}

// role reads a role from storage or the cache. It returns nil if there is none of
// that name. Other requests share the role: copy it before a change.
func (b *backend) role(ctx context.Context, storage logical.Storage, name string) (*role, error) {
	return cache.Decoded(ctx, b.cache, storage, roleStoragePrefix+name, nil, func(entry *logical.StorageEntry) (*role, error) {
		return decodeRole(entry, name)
	})
}

func decodeRole(entry *logical.StorageEntry, name string) (*role, error) {
	if r := scanStaticRole(entry); r != nil {
		return r, nil
	}
	return unmarshalRole(entry, name)
}

func unmarshalRole(entry *logical.StorageEntry, name string) (*role, error) {
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

// scanStaticRole decodes the entry of a static role as putRole writes it. It returns nil
// for every other entry, and for a large one: the role has parts of the whole entry, and
// a bundle must not keep the allowed_bundles of its members. Reads of static roles that
// are not held decoded spend most of their time in decoding.
func scanStaticRole(entry *logical.StorageEntry) *role {
	if len(entry.Value) > maxScanned {
		return nil
	}
	t := canonical.Read(string(entry.Value))
	t.Must(`{"schema_version":1,"type":"static","updated_at":`)
	r := &role{UpdatedAt: scanTime(t), Static: &staticRole{}}
	t.Must(`,"dockerconfig":`)
	r.Static.Docker = dockerconfig.Scan(t)
	if t.Take(`,"expires_at":`) {
		r.Static.ExpiresAt = scanTime(t)
	}
	if t.Take(`,"allowed_bundles":[`) {
		for more := true; more && t.OK(); more = t.Take(",") {
			r.AllowedBundles = append(r.AllowedBundles, t.String())
		}
		t.Must("]")
	}
	if t.Take(`,"verify_repository":`) {
		r.VerifyRepository = t.String()
	}
	t.Must("}")
	if !t.Done() || r.Static.Docker.CheckComplete() != nil {
		return nil
	}
	return r
}

func scanTime(t *canonical.Text) (at time.Time) {
	if at.UnmarshalText([]byte(t.String())) != nil {
		t.Fail()
	}
	return at
}

// putRole stores a role. old is the role that it replaces, or nil: it stays in
// the index of its connection.
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
	if err := putBundleKeys(ctx, storage, name, namesWithout(r.members(), old.members())); err != nil {
		return err
	}
	if err := putEntry(ctx, storage, roleStoragePrefix+name, stored); err != nil {
		return err
	}
	b.deleteBundleKeys(ctx, storage, name, namesWithout(old.members(), r.members()))
	if before := old.expiresAt(); expiryKey(before, name) != expiryKey(r.expiresAt(), name) {
		b.deleteExpiry(ctx, storage, before, name)
	}
	return nil
}

// samePullSecret reports whether two roles of the same name serve the same pull
// secret. Two bundles do if they have the same members.
func (r *role) samePullSecret(other *role) bool {
	switch {
	case r.Static != nil:
		return other.Static != nil && r.Static.Docker.Equal(other.Static.Docker)
	case r.Dynamic != nil:
		return other.Dynamic != nil && r.Dynamic.equal(other.Dynamic)
	}
	return other.Bundle != nil && slices.Equal(r.Bundle.Members, other.Bundle.Members)
}

// lockRole locks a role for a write, which reads, changes and stores it.
func (b *backend) lockRole(name string) (unlock func()) {
	lock := locksutil.LockForKey(b.roleLocks, name)
	lock.Lock()
	return lock.Unlock
}

// allowsBundle reports whether a bundle of that name may join the role.
func (r *role) allowsBundle(bundle string) bool {
	return matchesAny(r.AllowedBundles, bundle)
}

// withoutBundles returns the role without its allowed_bundles. They take most of the
// memory of some roles, and a bundle has many.
func (r *role) withoutBundles() *role {
	trimmed := *r
	trimmed.AllowedBundles = nil
	return &trimmed
}

// size returns about how many bytes a role has in storage.
func (r *role) size() int {
	size := r.credentialsSize()
	for _, pattern := range r.AllowedBundles {
		size += len(pattern) + len(`"",`)
	}
	if r.Dynamic != nil {
		for _, value := range r.Dynamic.For {
			size += len(value)
		}
	}
	return size
}

// credentialsSize returns how many bytes the credentials of a static role have in a pull
// secret, 0 for other roles.
func (r *role) credentialsSize() int {
	if r.Static == nil {
		return 0
	}
	return r.Static.Docker.Size() - len(`{"auths":{}}`)
}

// bundleRole joins the credentials of other roles.
type bundleRole struct {
	Members []string // names of roles, sorted, each once
}

// staticRole holds its own credentials.
type staticRole struct {
	Docker dockerconfig.Config

	// ExpiresAt is when the credentials stop working at the registry. It is zero
	// if that is not known.
	ExpiresAt time.Time
}

// dynamicRole holds no credentials: a connection mints them.
type dynamicRole struct {
	Connection string          `json:"connection"`
	Mode       string          `json:"mode"`          // modeLeased or modeShared
	For        issuer.Settings `json:"for,omitempty"` // fields of the connection's type

	TTL    seconds `json:"ttl,omitzero"` // leased only; 0 means the value of the mount
	MaxTTL seconds `json:"max_ttl,omitzero"`

	RotationPeriod seconds `json:"rotation_period,omitzero"` // shared only
	GracePeriod    seconds `json:"grace_period,omitzero"`
}

// equal reports whether both have the same fields.
func (d *dynamicRole) equal(other *dynamicRole) bool {
	return d.Connection == other.Connection && d.Mode == other.Mode && maps.Equal(d.For, other.For) &&
		d.TTL.Duration == other.TTL.Duration && d.MaxTTL.Duration == other.MaxTTL.Duration &&
		d.RotationPeriod.Duration == other.RotationPeriod.Duration && d.GracePeriod.Duration == other.GracePeriod.Duration
}

// lifetime is the lifetime that a shared credential gets at the registry. It covers
// one rotation period and the grace period, and one more rotation period, in which
// the registry may fail to mint. A credential that is left behind, such as when
// the mount is disabled, expires after it.
func (d *dynamicRole) lifetime(target issuer.Target) time.Duration {
	lifetime := 2*d.RotationPeriod.Duration + d.GracePeriod.Duration
	if target.MaxLifetime > 0 {
		lifetime = min(lifetime, target.MaxLifetime)
	}
	return lifetime
}

// readBack returns the fields of a role, without passwords and values derived from
// them.
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
		maps.Copy(data, servedBy(r.Static.Docker.Keys(), r.Static.ExpiresAt))
	}
	if r.Dynamic != nil {
		maps.Copy(data, r.Dynamic.readBack())
	}
	return data
}

// readBack returns the fields of a static role, without passwords and values
// derived from them.
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

// readBack returns the fields of a dynamic role. The fields about its credential
// come from the shared state.
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

// servedBy describes the pull secret that a read of creds/ returns.
func servedBy(keys []dockerconfig.Key, expiresAt time.Time) map[string]any {
	registries := []string{}
	for _, key := range keys {
		registries = append(registries, string(key))
	}
	data := map[string]any{"registries": registries}
	if !expiresAt.IsZero() {
		data["expires_at"] = formatTime(expiresAt)
	}
	return data
}
