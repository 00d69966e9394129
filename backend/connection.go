// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// connection is a registry whose API mints credentials, with the root credential
// for that API.
type connection struct {
	Name string
	Type issuer.Type

	// ID is random, and tells the connection from every other one that has or
	// had its name. A connection that moves to another host gets a new one.
	// Connections that were stored before there were IDs have none.
	ID string

	URL        string
	Registries []dockerconfig.Key
	Settings   issuer.Settings
	Secrets    issuer.Secrets
	CAPEM      string

	// Declared is what the registry declared when the connection was last checked.
	Declared issuer.Settings

	// AllowedRoles are names and globs of the roles that may use the connection.
	// Empty: none may.
	AllowedRoles []string

	// AllowedTargets are globs of what these roles may mint for. Empty: anything.
	AllowedTargets []string

	UpdatedAt time.Time
	Root      rootRotation
}

// storedConnection is the stored form of a connection.
type storedConnection struct {
	unprintable
	SchemaVersion  int                 `json:"schema_version"`
	Type           string              `json:"type"`
	ID             string              `json:"id,omitempty"`
	UpdatedAt      time.Time           `json:"updated_at"`
	URL            string              `json:"url,omitempty"`
	Registries     []dockerconfig.Key  `json:"registries"`
	Settings       issuer.Settings     `json:"settings,omitempty"`
	Secrets        *map[string]string  `json:"secrets,omitempty"` // a pointer, as storedRole.Docker is
	CAPEM          string              `json:"ca_pem,omitempty"`
	Declared       issuer.Settings     `json:"declared,omitempty"`
	AllowedRoles   []string            `json:"allowed_roles,omitempty"`
	AllowedTargets []string            `json:"allowed_targets,omitempty"`
	Root           *storedRootRotation `json:"root,omitempty"`
}

// connection reads a connection from storage. It returns nil if there is none of
// that name.
func (b *backend) connection(ctx context.Context, storage logical.Storage, name string) (*connection, error) {
	entry, err := storage.Get(ctx, connectionStoragePrefix+name)
	if err != nil {
		return nil, fmt.Errorf("reading %s%s: %w", connectionStoragePrefix, name, err)
	}
	if entry == nil {
		return nil, nil
	}
	return decodeConnection(entry, name)
}

// connectionFacts returns a connection without its root credential, from the cache
// if it is there. It returns nil if there is none of that name. Other requests
// share the connection: copy it before a change.
func (b *backend) connectionFacts(ctx context.Context, storage logical.Storage, name string) (*connection, error) {
	return cache.Decoded(ctx, b.cache, storage, connectionStoragePrefix+name, nil, func(entry *logical.StorageEntry) (*connection, error) {
		return decodeConnectionFacts(entry, name)
	})
}

func decodeConnectionFacts(entry *logical.StorageEntry, name string) (*connection, error) {
	c, err := decodeConnection(entry, name)
	if err != nil {
		return nil, err
	}
	c.Secrets, c.Root = nil, rootRotation{}
	return c, nil
}

func decodeConnection(entry *logical.StorageEntry, name string) (*connection, error) {
	var stored storedConnection
	if err := decodeEntry(entry, &stored, &stored.SchemaVersion); err != nil {
		return nil, err
	}
	t, known := issuerType(stored.Type)
	if !known {
		return nil, unreadablef("connection %q: this plugin does not know its type %q", name, stored.Type)
	}
	if len(stored.Registries) == 0 {
		return nil, unreadablef("connection %q: the stored entry names no registry", name)
	}
	return &connection{
		Name:           name,
		Type:           t,
		ID:             stored.ID,
		URL:            stored.URL,
		Registries:     stored.Registries,
		Settings:       stored.Settings,
		Secrets:        hidden(stored.Secrets),
		CAPEM:          stored.CAPEM,
		Declared:       stored.Declared,
		AllowedRoles:   stored.AllowedRoles,
		AllowedTargets: stored.AllowedTargets,
		UpdatedAt:      stored.UpdatedAt,
		Root:           stored.Root.rotation(),
	}, nil
}

func (b *backend) putConnection(ctx context.Context, storage logical.Storage, c *connection) error {
	if !c.Root.isFinished() {
		b.roots.note(c.Name, true)
	}
	return putEntry(ctx, storage, connectionStoragePrefix+c.Name, storedConnection{
		SchemaVersion:  connectionSchemaVersion,
		Type:           c.Type.Name,
		ID:             c.ID,
		UpdatedAt:      c.UpdatedAt,
		URL:            c.URL,
		Registries:     c.Registries,
		Settings:       c.Settings,
		Secrets:        revealed(c.Secrets),
		CAPEM:          c.CAPEM,
		Declared:       c.Declared,
		AllowedRoles:   c.AllowedRoles,
		AllowedTargets: c.AllowedTargets,
		Root:           c.Root.stored(),
	})
}

// minted reports whether a credential was minted at the registry to which the
// connection leads. Elsewhere its ID, and even its name, may be those of
// somebody else's credential.
func (c *connection) minted(ref credentialRef) bool {
	return ref.Connection == c.Name && ref.ConnectionID == c.ID && (ref.URL == "" || ref.URL == apiRoot(c.URL))
}

// origin returns the scheme and host of a URL.
func origin(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	host := strings.TrimSuffix(u.Host, map[string]string{"https": ":443", "http": ":80"}[u.Scheme])
	return u.Scheme + "://" + host
}

// apiRoot returns the URL of an API in the form in which two can be compared: one
// host may serve several registries below different paths.
func apiRoot(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	return origin(text) + strings.TrimRight(u.EscapedPath(), "/")
}

// allowsRole reports whether a role of that name may use the connection.
func (c *connection) allowsRole(role string) bool {
	return matchesAny(c.AllowedRoles, role)
}

// allowsTarget reports whether allowed_targets covers all names of a target.
func (c *connection) allowsTarget(target issuer.Target) bool {
	return len(c.AllowedTargets) == 0 || !slices.ContainsFunc(target.Names, func(name string) bool {
		return !matchesAny(c.AllowedTargets, name)
	})
}

// connectionFor returns the connection for a role, if the role may use it. A
// connection that does not exist gives the same error as one that is not allowed:
// otherwise anyone who can write roles could find out which connections exist.
func (b *backend) connectionFor(ctx context.Context, storage logical.Storage, name, role string) (*connection, error) {
	c, err := b.connection(ctx, storage, name)
	if err != nil {
		return nil, err
	}
	return c, c.checkRole(name, role)
}

// checkRole refuses a role that may not use the connection. c is nil if there is
// no connection of that name.
func (c *connection) checkRole(name, role string) error {
	if c == nil || !c.allowsRole(role) {
		return refusef("connection: role %q cannot use connection %q: there is no such connection, or its allowed_roles does not name the role", role, name)
	}
	return nil
}

// lockConnection locks a connection for a write. The lock is also held while a
// write asks the registry, so a request waits for it no longer than for that.
func (b *backend) lockConnection(ctx context.Context, name string) (unlock func(), err error) {
	if isInBackground(ctx) {
		return b.connectionLocks.lock(ctx, name)
	}
	limited, cancel := context.WithTimeout(ctx, b.calls.patience)
	defer cancel()
	if unlock, err = b.connectionLocks.lock(limited, name); err != nil && ctx.Err() == nil {
		err = logical.CodedError(http.StatusServiceUnavailable, fmt.Sprintf("connection %q is being changed, or its root credential replaced; try again in a moment", name))
	}
	return unlock, err
}

func sameSecrets(a, b issuer.Secrets) bool { return maps.EqualFunc(a, b, dockerconfig.Secret.Equal) }

// holdConnection keeps a connection from being deleted until it is unlocked. Hold
// it until the use of the connection is stored, and never during a call to a
// registry. Many can hold it at the same time.
func (b *backend) holdConnection(name string) (unlock func()) {
	lock := locksutil.LockForKey(b.connectionUses, name)
	lock.RLock()
	return lock.RUnlock
}

// closeConnection waits until nobody holds a connection. Until it is unlocked,
// nobody can hold it.
func (b *backend) closeConnection(name string) (unlock func()) {
	lock := locksutil.LockForKey(b.connectionUses, name)
	lock.Lock()
	return lock.Unlock
}

// described returns a connection in the form that an issuer's type takes, without
// the parts for calls to the registry.
func (c *connection) described() issuer.Connection {
	return issuer.Connection{URL: c.URL, Registries: c.Registries, Settings: c.Settings, Secrets: c.Secrets, Declared: c.Declared}
}

// isAt reports whether two connections of a type mint at the same place.
func (c *connection) isAt(other *connection) bool {
	for _, field := range c.Type.PlaceFields {
		if c.Settings[field] != other.Settings[field] {
			return false
		}
	}
	return apiRoot(c.URL) == apiRoot(other.URL)
}

// can returns what the registry can do with what it has minted.
func (c *connection) can() issuer.Abilities { return c.Type.AbilitiesOf(c.described()) }

// sameTarget reports whether the settings of two roles name the same target.
func (c *connection) sameTarget(a, b issuer.Settings) bool {
	targetA, errA := c.Type.Target(c.described(), a)
	targetB, errB := c.Type.Target(c.described(), b)
	return errA == nil && errB == nil && maps.Equal(targetA.Settings, targetB.Settings)
}

// callRegistry makes one call to the registry of a connection. root replaces the stored
// root credential, unless it is empty. A call that has begun goes on if the request ends.
func (b *backend) callRegistry(ctx context.Context, c *connection, root issuer.Root, do func(context.Context, *issuer.Client) error) error {
	leave, err := b.calls.enter(ctx, laneOf(c.Name))
	if err != nil {
		return err
	}
	err = b.callEntered(ctx, c, root, do)
	leave(err)
	return err
}

// callEntered is callRegistry for what has entered already.
func (b *backend) callEntered(ctx context.Context, c *connection, root issuer.Root, do func(context.Context, *issuer.Client) error) error {
	client, err := b.open(c, root)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := b.detached(ctx)
	defer cancel()
	return do(ctx, client)
}

// refusesCredential reports whether an answer refuses the root credential.
func refusesCredential(err error) bool {
	status := issuer.StatusOf(err)
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// open opens a connection. root replaces the stored root credential, unless it is
// empty.
func (b *backend) open(c *connection, root issuer.Root) (*issuer.Client, error) {
	cas, err := parseCAs(c.CAPEM)
	if err != nil {
		return nil, err
	}
	opened := c.described()
	opened.HTTP, opened.Now, opened.IdentityToken = b.newHTTP(cas), b.now, b.identityTokens(c.Settings)
	client, err := issuer.Open(c.Type, opened.With(root))
	if err != nil {
		return nil, refuse(err)
	}
	return client, nil
}

// target returns what a role mints for, if the connection allows it.
func (c *connection) target(settings issuer.Settings) (issuer.Target, error) {
	target, err := c.Type.Target(c.described(), settings)
	if err != nil {
		return issuer.Target{}, refuse(err)
	}
	if !c.allowsTarget(target) {
		return issuer.Target{}, refusef("connection: the allowed_targets of connection %q do not cover all of: %s", c.Name, strings.Join(target.Names, ", "))
	}
	return target, nil
}

// readBack returns the fields of a connection, without its secrets.
func (c *connection) readBack() map[string]any {
	data := map[string]any{
		"type":       c.Type.Name,
		"registry":   c.registryText(),
		"updated_at": formatTime(c.UpdatedAt),
	}
	if c.URL != "" {
		data["url"] = c.URL
	}
	if c.CAPEM != "" {
		data["ca_pem"] = c.CAPEM
	}
	data["allowed_roles"], data["allowed_targets"] = listed(c.AllowedRoles), listed(c.AllowedTargets)
	maps.Copy(data, readBackSettings(c.Type.ConnectionFields, c.Settings))
	maps.Copy(data, readBackSettings(c.Type.DeclaredFields, c.Declared))
	maps.Copy(data, c.Root.readBack())
	return data
}

// registryText is the field registry as text, in a form that a write accepts.
func (c *connection) registryText() string {
	names := make([]string, len(c.Registries))
	for i, key := range c.Registries {
		names[i] = key.ImageName()
	}
	return strings.Join(names, ",")
}

// listed returns an empty list for nil, because the response must show that the
// list is empty.
func listed(list []string) []string { return append([]string{}, list...) }
