// SPDX-License-Identifier: MPL-2.0

package issuer

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// Type is a kind of registry.
type Type struct {
	Name string // as in the field type of a connection: lower case letters

	// Description is one sentence on what it mints.
	Description string

	// ConnectionFields are the fields of a connection of this type beside url,
	// registry and ca_pem, all of [framework.TypeString] or
	// [framework.TypeCommaStringSlice]. Those whose DisplayAttrs say Sensitive
	// are never read back.
	ConnectionFields map[string]*framework.FieldSchema

	// RoleFields say what a role's credential may do, in the same way.
	RoleFields map[string]*framework.FieldSchema

	// URLOptional says that a connection may leave out url.
	URLOptional bool

	// NoRevocation says that the registry cannot end a credential before its
	// time, so that there is nothing to find or revoke.
	NoRevocation bool

	// Target checks and normalises the fields of a role. Its errors are for
	// who wrote them, and begin with the field's name and a colon.
	Target func(c Connection, fields Settings) (Target, error)

	// New opens a connection. It checks the fields and calls nothing; its
	// errors are as those of Target.
	New func(c Connection) (Issuer, error)
}

// Settings are values by field name; the elements of a list are joined by
// commas. A field that is not set is not in it.
type Settings map[string]string

// Secrets are the values of the sensitive fields of a connection.
type Secrets map[string]dockerconfig.Secret

// Connection is what an [Issuer] is opened with.
type Connection struct {
	// URL is that of the API: https, or http to this machine, without a
	// trailing slash, user, query or fragment; empty only if URLOptional.
	URL string

	// Registries are the keys that the credentials are for; at least one.
	Registries []dockerconfig.Key

	Settings Settings
	Secrets  Secrets

	// HTTP is the client to use for every call. It retries what is safe to be
	// repeated, limits time and size, and follows no redirect.
	HTTP *http.Client

	// Now tells the time.
	Now func() time.Time
}

// Target is what a credential is minted for.
type Target struct {
	// Settings are the role's fields, normalised; defaults are filled in.
	Settings Settings

	// Names are what a connection's allowed_targets must cover, each of them:
	// projects, groups, users or repositories.
	Names []string

	// MaxLifetime is how long the registry lets such a credential live; 0 where
	// it sets no limit.
	MaxLifetime time.Duration

	// Warnings are for who wrote the role.
	Warnings []string
}

// Request asks for a credential.
type Request struct {
	Name string // from NewName; what Find looks for
	For  Settings

	// ExpiresAt is until when the credential must work at least. The registry
	// is told this or, where it knows whole days only, the next day.
	ExpiresAt time.Time
}

// Credential is what was minted.
type Credential struct {
	ID       string // for Revoke; empty with NoRevocation
	Username string
	Password dockerconfig.Secret

	// ExpiresAt is when the registry itself ends it; zero: never.
	ExpiresAt time.Time
}

// Status is what [Issuer.Check] found out. What the registry said is marked in
// it, with [redact.Untrusted], until [Client.Check] has redacted it.
type Status struct {
	Identity  string    // whose the root credential is, for a person
	ExpiresAt time.Time // when it ends, zero where that is not known
	Warnings  []string  // for example, that it may do more than is needed
}

// Issuer mints credentials at one registry. Its errors come from [Answered],
// [Failed] or [Refusedf].
type Issuer interface {
	// Check asks the registry whether the root credential works and
	// may mint, as far as it can tell without minting.
	Check(ctx context.Context) (Status, error)

	// Mint makes a credential. With one name it is called once more only after
	// the registry has refused the root credential.
	Mint(ctx context.Context, r Request) (Credential, error)

	// Find returns the IDs of the credentials with exactly this name.
	Find(ctx context.Context, target Settings, name string) ([]string, error)

	// Revoke ends a credential. What is gone already counts as revoked; a
	// target that is gone has taken its credentials with it.
	Revoke(ctx context.Context, target Settings, id string) error
}

// RootRotator is an [Issuer] that can replace its root credential
// such that at no time neither the old nor the new one is known. All methods
// are called with the old one.
type RootRotator interface {
	// PrepareRoot returns the new one. If it is made at the registry, then
	// under the name; the old one goes on working.
	PrepareRoot(ctx context.Context, name string) (Root, error)

	// ActivateRoot puts the new one in force where preparing has not: a
	// password that replaces the old one. It may be called again.
	ActivateRoot(ctx context.Context, root Root) error

	// DiscardRoot ends what PrepareRoot made under the name, if anything.
	DiscardRoot(ctx context.Context, name string) error

	// RetireRoot ends the old one, after the new one was found to work. It may
	// be called again, when the old one is refused already: that is success.
	RetireRoot(ctx context.Context) error
}

// Root is a root credential: the fields of the connection that it
// replaces.
type Root struct {
	Settings Settings
	Secrets  Secrets
}

// With returns the connection with another root credential.
func (c Connection) With(root Root) Connection {
	c.Settings, c.Secrets = merged(c.Settings, root.Settings), merged(c.Secrets, root.Secrets)
	return c
}

func merged[M ~map[K]V, K comparable, V any](base, more M) M {
	all := M{}
	maps.Copy(all, base)
	maps.Copy(all, more)
	return all
}

// Reveal returns the texts of all secrets, for what must not repeat them.
func (s Secrets) Reveal() []string {
	var texts []string
	for _, field := range slices.Sorted(maps.Keys(s)) {
		texts = append(texts, s[field].Reveal())
	}
	return texts
}
