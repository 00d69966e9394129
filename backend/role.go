// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"

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

	// VerifyPeriod is how often the engine verifies the role by itself, 0 for not at
	// all. It is nil if the role has the period of the mount.
	VerifyPeriod *seconds

	UpdatedAt time.Time

	// CredentialAt is when a write last changed what a verification tries. It is zero
	// if that was at UpdatedAt; see credentialAt.
	CredentialAt time.Time
}

// credentialAt returns when a write last changed what a verification tries. A tool that
// writes the same role again and again changes nothing.
func (r *role) credentialAt() time.Time {
	if r.CredentialAt.IsZero() {
		return r.UpdatedAt
	}
	return r.CredentialAt
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

// isSharedRole is isShared for a role that need not exist.
func (r *role) isSharedRole() bool { return r != nil && r.isShared() }

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

// ownVerifyPeriod returns the period that a role has itself, 0 if it has none.
func (r *role) ownVerifyPeriod() time.Duration {
	if r == nil || r.VerifyPeriod == nil {
		return 0
	}
	return r.VerifyPeriod.Duration
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

// verifiesAs reports whether a verification tries the same for both roles.
func (r *role) verifiesAs(other *role) bool {
	return other != nil && r.VerifyRepository == other.VerifyRepository && r.samePullSecret(other)
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
