// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// storedAttention is an entry of the index of what needs attention. What needs it, and
// why, is in the entries of the role or connection.
type storedAttention struct {
	SchemaVersion int                  `json:"schema_version"`
	Since         map[string]time.Time `json:"since,omitempty"` // by kind: when the engine noticed it
}

// roleChange is what a write is about to change of a role. nil: it stays.
type roleChange struct {
	role    *role
	deleted bool
	shared  *shared
}

// withAttention has write change an entry of a role. The index has the role before an
// entry says that it needs attention, and until after it no longer does. The role is
// locked.
func (b *backend) withAttention(ctx context.Context, storage logical.Storage, name string, c roleChange, write func() error) error {
	f, err := b.roleFacts(ctx, storage, name, c)
	if err != nil {
		return err
	}
	items := f.attention()
	s, err := b.putAttention(ctx, storage, name, items, len(f.shared.Retired))
	if err != nil {
		return err
	}
	if err := write(); err != nil {
		b.attentions.doubt(name) // there may be a key too many
		return err
	}
	b.settleAttention(ctx, storage, name, s)
	return nil
}

// renewAttention looks at a role as it is stored.
func (b *backend) renewAttention(ctx context.Context, storage logical.Storage, name string) error {
	defer b.lockRole(name)()
	return b.renewAttentionLocked(ctx, storage, name)
}

func (b *backend) renewAttentionLocked(ctx context.Context, storage logical.Storage, name string) error {
	return b.withAttention(ctx, storage, name, roleChange{}, func() error { return nil })
}

// putAttention has the index name a role or connection if some of the items need it, and
// returns what there is to know of it.
func (b *backend) putAttention(ctx context.Context, storage logical.Storage, key string, items []attention, retired int) (subject, error) {
	former, known := b.attentions.get(key)
	var err error
	if !known {
		if former, err = readAttention(ctx, storage, key); err != nil {
			return subject{}, err
		}
	}
	next := subject{indexed: former.indexed, since: map[string]time.Time{}, retired: retired}
	needed, isNew := retired > 0, false
	for _, item := range items {
		if item.isTimed && item.Role != "" && !b.attentions.keeps(item) {
			continue
		}
		if !item.isTimed { // the index of expiries has those that are
			since, noticed := former.since[item.Kind]
			if !noticed {
				since, isNew = b.now(), true
			}
			if next.since[item.Kind] = since; item.Since.IsZero() {
				item.Since = since
			}
			needed = true
		}
		next.items = append(next.items, item)
	}
	next.extra = former.extra
	for kind := range former.since {
		if _, stays := next.since[kind]; !stays {
			next.extra = true
		}
	}
	if needed && (isNew || !former.indexed) {
		if err := putEntry(ctx, storage, attentionPrefix+key, storedAttention{SchemaVersion: schemaVersion, Since: next.since}); err != nil {
			return subject{}, err
		}
		next.indexed, next.extra = true, false
	}
	return next, nil
}

func readAttention(ctx context.Context, storage logical.Storage, key string) (subject, error) {
	var stored storedAttention
	found, err := getEntry(ctx, storage, attentionPrefix+key, &stored, &stored.SchemaVersion)
	if isUnreadable(err) {
		return subject{indexed: true}, nil // it is written anew
	}
	return subject{indexed: found, since: stored.Since}, err
}

// settleAttention notes what is known of a role or connection once its entry says so. It
// deletes a key that is not needed any more, and a kind that is right again from one that
// is: if it goes wrong once more, that is new.
func (b *backend) settleAttention(ctx context.Context, storage logical.Storage, key string, s subject) {
	if s.indexed && len(s.since) == 0 && s.retired == 0 {
		if err := storage.Delete(ctx, attentionPrefix+key); err != nil {
			b.Logger().Warn("a key in the index of what needs attention stays for now", "name", key, "error", err)
		} else {
			s.indexed, s.extra = false, false
		}
	} else if s.indexed && s.extra {
		if err := putEntry(ctx, storage, attentionPrefix+key, storedAttention{SchemaVersion: schemaVersion, Since: s.since}); err != nil {
			b.Logger().Warn("a key in the index of what needs attention stays for now", "name", key, "error", err)
		} else {
			s.extra = false
		}
	}
	b.attentions.set(key, s)
}

// roleFacts reads all on which it depends whether a role needs attention, as it will be
// after a change.
func (b *backend) roleFacts(ctx context.Context, storage logical.Storage, name string, c roleChange) (roleFacts, error) {
	f := roleFacts{name: name}
	if c.deleted {
		return f, nil
	}
	var err error
	if f.role = c.role; c.role == nil {
		f.role, err = b.role(ctx, storage, name)
	}
	if f.unreadable = isUnreadable(err); err != nil && !f.unreadable || f.role == nil && err == nil {
		return f, err
	}
	if f.unreadable || f.role.isShared() {
		if c.shared != nil {
			f.shared = *c.shared
		} else if f.shared, err = b.shared(ctx, storage, name); isUnreadable(err) {
			f.unreadable = true
		} else if err != nil {
			return f, err
		}
		if unstored, found := b.unstored.Load(name); found {
			f.shared.setFailure(unstored.(failure))
		}
	}
	if f.unreadable {
		return f, nil
	}
	if f.settings, err = b.readableConfig(ctx, storage); err != nil {
		return f, err
	}
	switch {
	case f.role.Static != nil:
		f.registries = f.role.Static.Docker.Keys()
	case f.role.Bundle != nil:
		f.registries, err = b.joinedRegistries(ctx, storage, name, f.role)
	default:
		f.registries, err = b.mintedRegistries(ctx, storage, name, f.role.Dynamic)
	}
	if isInputError(err) {
		f.refusal, err = err.Error(), nil
	}
	return f, err
}

// mintedRegistries returns the registries for which a dynamic role has credentials
// minted, and why its connection does not mint for it.
func (b *backend) mintedRegistries(ctx context.Context, storage logical.Storage, name string, d *dynamicRole) ([]dockerconfig.Key, error) {
	c, err := b.connectionFacts(ctx, storage, d.Connection)
	if isUnreadable(err) {
		return nil, nil // the connection needs attention
	} else if err != nil {
		return nil, err
	}
	if err := c.checkRole(d.Connection, name); err != nil {
		return nil, err
	}
	_, err = c.target(d.For)
	return slices.Sorted(slices.Values(c.Registries)), err
}

// joinedRegistries returns the registries of a bundle, and why it cannot be joined. What
// its members serve does not count: they need attention themselves.
func (b *backend) joinedRegistries(ctx context.Context, storage logical.Storage, name string, r *role) ([]dockerconfig.Key, error) {
	sources, err := b.sources(ctx, storage, name, r)
	if isUnreadable(err) {
		return nil, refusef("a member cannot be read")
	} else if err != nil {
		return nil, err
	}
	var keys []dockerconfig.Key
	for i := range sources {
		s := &sources[i]
		if s.Static != nil {
			s.setCredential(s.Static.Docker, s.Static.ExpiresAt, nil)
		} else if c, err := b.connectionFacts(ctx, storage, s.Dynamic.Connection); err == nil && c != nil {
			s.registries = slices.Sorted(slices.Values(c.Registries))
		} else if err != nil && !isUnreadable(err) {
			return nil, err
		}
		keys = append(keys, s.registries...)
	}
	if err := checkDistinct(sources); err != nil {
		return nil, err
	}
	static := slices.DeleteFunc(slices.Clone(sources), func(s source) bool { return s.Static == nil })
	if len(static) > 1 {
		_, err = join(static)
	}
	return keys, err
}
