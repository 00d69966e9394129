// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/canonical"
	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// maxScanned is the size of the largest entry that scanStaticRole decodes.
const maxScanned = 4 << 10

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
	VerifyPeriod     *seconds         `json:"verify_period,omitempty"`
	CredentialAt     time.Time        `json:"credential_at,omitzero"`
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
		VerifyPeriod:     stored.VerifyPeriod,
		UpdatedAt:        stored.UpdatedAt,
		CredentialAt:     stored.CredentialAt,
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
	if t.Take(`,"verify_period":`) {
		r.VerifyPeriod = &seconds{time.Duration(t.Int()) * time.Second}
	}
	if t.Take(`,"credential_at":`) {
		r.CredentialAt = scanTime(t)
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
		VerifyPeriod:     r.VerifyPeriod,
		CredentialAt:     r.CredentialAt,
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
	if err := putVerifyPeriod(ctx, storage, r.ownVerifyPeriod(), name); err != nil {
		return err
	}
	if err := putEntry(ctx, storage, roleStoragePrefix+name, stored); err != nil {
		return err
	}
	b.deleteBundleKeys(ctx, storage, name, namesWithout(old.members(), r.members()))
	if before := old.expiresAt(); expiryKey(before, name) != expiryKey(r.expiresAt(), name) {
		b.deleteExpiry(ctx, storage, before, name)
	}
	if before := old.ownVerifyPeriod(); before != r.ownVerifyPeriod() {
		b.deleteVerifyPeriod(ctx, storage, before, name)
	}
	return nil
}
