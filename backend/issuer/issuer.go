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

// Type describes one type of registry.
type Type struct {
	Name string // value of the field "type" of a connection: lower case letters

	// Description says in one sentence what the type mints.
	Description string

	// ConnectionFields are the connection's fields in addition to url, registry
	// and ca_pem. Each is a [framework.TypeString], a
	// [framework.TypeCommaStringSlice] or a [framework.TypeDurationSecond]. Fields
	// with DisplayAttrs.Sensitive are secrets and never read back. Those of
	// [WithIdentityToken] are for a type that takes plugin identity tokens.
	ConnectionFields map[string]*framework.FieldSchema

	// RoleFields are the role's fields, which say what its credential may do.
	RoleFields map[string]*framework.FieldSchema

	// URLOptional allows a connection without url.
	URLOptional bool

	// WholeURL says that the url may be what is called, and not only what it begins with: a
	// slash at its end is kept.
	WholeURL bool

	// DefaultURL and DefaultRegistry are the url and the registry of a connection that
	// is created without them. They are for a registry that there is only one of.
	DefaultURL, DefaultRegistry string

	// PlaceFields are the ConnectionFields that say, with the url, where at the registry a
	// connection mints, and so finds and revokes. A connection in which one of them changes
	// is another connection: what it has minted before is given up in sight, because its
	// absence at the new place would prove nothing.
	PlaceFields []string

	// DeclaredFields are the fields of a connection's read-back that the registry
	// declares ([Status.Declared]). Their types are those of ConnectionFields.
	DeclaredFields map[string]*framework.FieldSchema

	// Can returns what the registry of a connection can do with what it has minted. It
	// makes no call. Nil: everything. See [Type.AbilitiesOf].
	Can func(c Connection) Abilities

	// Target checks and normalises the fields of a role. Its errors are for the
	// person who wrote them, and begin with the field's name and a colon.
	Target func(c Connection, fields Settings) (Target, error)

	// New opens a connection. It checks the fields and makes no call. Its errors
	// have the form of Target's.
	New func(c Connection) (Issuer, error)
}

// Abilities are what a registry can do with a credential that it has minted. What it
// cannot do is not asked for.
type Abilities struct {
	// Revoke: it can end a credential early. Otherwise the engine stores nothing for
	// that, and each credential must have an end.
	Revoke bool

	// Find: it finds credentials by their names. Otherwise what was minted in a call
	// whose answer was lost lives until it expires.
	Find bool
}

// AbilitiesOf returns what the registry of a connection can do.
func (t Type) AbilitiesOf(c Connection) Abilities {
	if t.Can == nil {
		return Abilities{Revoke: true, Find: true}
	}
	return t.Can(c)
}

// Settings are values by field name. List elements are joined by commas, and durations
// are whole seconds. A field that is not set is absent.
type Settings map[string]string

// Secrets are the values of the sensitive fields of a connection.
type Secrets map[string]dockerconfig.Secret

// Connection is what an [Issuer] is opened with.
type Connection struct {
	// URL is the API's: https, or http to loopback, without user, query or fragment, and
	// without trailing slash unless WholeURL is set. It is empty only with URLOptional.
	URL string

	// Registries are the registry keys of the credentials; at least one.
	Registries []dockerconfig.Key

	Settings Settings
	Secrets  Secrets

	// Declared is what the registry declared when the connection was last checked
	// ([Status.Declared]); nil if it never was at this URL.
	Declared Settings

	// IdentityToken asks Vault for a plugin identity token: a JWT that says which mount
	// asks, for the audience in Settings. It is a secret that is for one exchange, and is
	// never kept. The engine keeps it out of errors. It is nil if there is no audience;
	// see [WithIdentityToken].
	IdentityToken func(context.Context) (dockerconfig.Secret, error)

	// HTTP is the client for every call. It retries what is safe to repeat,
	// limits time and size, and follows no redirect.
	HTTP *http.Client

	// Now returns the current time.
	Now func() time.Time
}

// Target is what a credential is minted for.
type Target struct {
	// Settings are the role's fields, normalised; defaults are filled in.
	Settings Settings

	// Names are the projects, groups, users or repositories. The connection's
	// allowed_targets must cover each of them.
	Names []string

	// MaxLifetime is the registry's limit for the life of such a credential; 0 if
	// there is none.
	MaxLifetime time.Duration

	// MinLifetime is the shortest life that the registry gives such a credential; 0 if
	// there is none. Mint makes one that is to end sooner live that long.
	MinLifetime time.Duration

	// Warnings are for the person who wrote the role.
	Warnings []string
}

// Request asks for a credential.
type Request struct {
	Name string   // from NewName; Find looks for it
	For  Settings // of the target

	// ExpiresAt is the earliest time at which the credential may end. A registry
	// that counts whole days gets a later one.
	ExpiresAt time.Time
}

// Credential is a newly minted credential.
type Credential struct {
	ID       string // for Revoke; empty if the registry cannot
	Username string
	Password dockerconfig.Secret

	// ExpiresAt is when the registry itself ends the credential; zero: never.
	ExpiresAt time.Time
}

// Status is the result of [Issuer.Check]. Text from the registry is marked with
// [redact.Untrusted]; [Client.Check] redacts it.
type Status struct {
	Identity  string    // account of the root credential, for a person
	ExpiresAt time.Time // of the root credential; zero if not known
	Warnings  []string  // such as permissions that are not needed

	// Declared is what the registry says about itself that must be known without asking
	// it, by [Type.DeclaredFields]. A write of the connection stores it.
	Declared Settings
}

// Issuer mints credentials at one registry. Its errors come from [StatusError],
// [Failed], [Refusedf] or [Malformedf].
type Issuer interface {
	// Check asks the registry whether the root credential works and, as far as
	// can be known without minting, whether it may mint.
	Check(ctx context.Context) (Status, error)

	// Mint creates a credential. A second call with the same name follows only if
	// the registry refused the root credential in the first.
	Mint(ctx context.Context, r Request) (Credential, error)

	// Find returns the IDs of the credentials with exactly this name.
	Find(ctx context.Context, target Settings, name string) ([]string, error)

	// Revoke ends the credential that has this name and this ID. A credential
	// with the ID and another name is somebody else's, and is left alone: a
	// registry that was reinstalled or restored counts its IDs anew. A credential
	// counts as revoked only if the registry itself says, in its own form, that
	// there is none.
	Revoke(ctx context.Context, target Settings, name, id string) error
}

// RootRotator is an [Issuer] that can replace its root credential in such steps
// that a working credential is known at all times. RetireRoot is called on an issuer
// that was opened with the new one, all other methods on one with the old one.
type RootRotator interface {
	// PrepareRoot returns the new root credential. If that is created at the
	// registry, it has the given name. The old one keeps working.
	PrepareRoot(ctx context.Context, name string) (Root, error)

	// ActivateRoot makes the new root credential work if PrepareRoot did not, such
	// as a password that replaces the old one. It may be called again.
	ActivateRoot(ctx context.Context, root Root) error

	// DiscardRoot ends what PrepareRoot created under the name, if anything.
	DiscardRoot(ctx context.Context, name string) error

	// RetireRoot ends the old root credential, after the new one was found to
	// work. It may be called again. That the old one is refused is no proof that it
	// has ended, because registries refuse working ones while their database is
	// down: the new one must be accepted, and where the registry has a list, the old
	// one must not be in it.
	RetireRoot(ctx context.Context, old Root) error
}

// Root is a root credential: the connection's fields that it replaces.
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

// Reveal returns the texts of all secrets, for redaction.
func (s Secrets) Reveal() []string {
	var texts []string
	for _, field := range slices.Sorted(maps.Keys(s)) {
		texts = append(texts, s[field].Reveal())
	}
	return texts
}
