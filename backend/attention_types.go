// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/logical"
)

// listRoleTypes counts the roles by type, from three lists. It reads only roles that have
// keys of two types.
func (b *backend) listRoleTypes(ctx context.Context, storage logical.Storage) error {
	b.attentions.roles.begin()
	typed := map[string]nameKind{}
	var unclear []string
	for _, kind := range []nameKind{isBundle, isDynamic} {
		names, err := storage.List(ctx, roleTypesPrefix+roleKindNames[kind]+"/")
		if err != nil {
			return fmt.Errorf("listing the types of the roles: %w", err)
		}
		for _, name := range names {
			if _, twice := typed[name]; twice {
				unclear = append(unclear, name)
			}
			typed[name] = kind
		}
	}
	names, err := storage.List(ctx, roleStoragePrefix)
	if err != nil {
		return fmt.Errorf("listing the roles: %w", err)
	}
	b.attentions.roles.fill(func(yield func(string, nameKind) bool) {
		for _, name := range names {
			kind, found := typed[name]
			if !found {
				kind = isStatic
			}
			if !yield(name, kind) {
				return
			}
		}
	})
	for _, name := range names {
		delete(typed, name)
	}
	unclear = slices.AppendSeq(unclear, maps.Keys(typed)) // those without a role
	for _, name := range unclear {
		if err := b.clearRoleType(ctx, storage, name); err != nil {
			return err
		}
	}
	return nil
}

// clearRoleType deletes the keys that a role has too many in the index of types.
func (b *backend) clearRoleType(ctx context.Context, storage logical.Storage, name string) error {
	defer b.lockRole(name)()
	r, err := b.role(ctx, storage, name)
	if isUnreadable(err) {
		return nil // it keeps them until somebody mends it
	} else if err != nil {
		return err
	}
	roleType := ""
	if r != nil {
		roleType = r.roleType()
	}
	for _, other := range []string{typeBundle, typeDynamic} {
		if other == roleType {
			continue
		}
		if err := storage.Delete(ctx, roleTypeKey(other, name)); err != nil {
			return fmt.Errorf("deleting the former type of role %q: %w", name, err)
		}
	}
	if r == nil {
		b.attentions.roles.remove(name)
	} else {
		b.attentions.roles.set(name, kindOfRole(roleType))
	}
	return nil
}

// putRoleType has the index of types say what a new role is. Static roles have no key.
func (b *backend) putRoleType(ctx context.Context, storage logical.Storage, name, roleType string) error {
	listed := b.attentions.isListed()
	for _, other := range []string{typeBundle, typeDynamic} {
		if other != roleType && (!listed || b.attentions.hasStaleType(other, name)) {
			if err := storage.Delete(ctx, roleTypeKey(other, name)); err != nil {
				return fmt.Errorf("deleting the former type of role %q: %w", name, err)
			}
			b.attentions.setStaleType(other, name, false)
		}
	}
	if roleType == typeStatic {
		return nil
	}
	if err := storage.Put(ctx, &logical.StorageEntry{Key: roleTypeKey(roleType, name)}); err != nil {
		b.attentions.setStaleType(roleType, name, true)
		return fmt.Errorf("adding role %q to the index of types: %w", name, err)
	}
	return nil
}

// deleteRoleType takes a deleted role out of the index of types. The role is locked.
func (b *backend) deleteRoleType(ctx context.Context, storage logical.Storage, name string, old *role) {
	b.attentions.roles.remove(name)
	for _, roleType := range []string{typeBundle, typeDynamic} {
		if old != nil && old.roleType() != roleType {
			continue
		}
		if err := storage.Delete(ctx, roleTypeKey(roleType, name)); err != nil {
			b.Logger().Warn("the type of a deleted role stays in the index", "role", name, "error", err)
			b.attentions.setStaleType(roleType, name, true)
		}
	}
}

// indexRoleType has the index of types say what a role is that an earlier build has
// stored.
func (b *backend) indexRoleType(ctx context.Context, storage logical.Storage, name string) error {
	defer b.lockRole(name)()
	r, err := b.role(ctx, storage, name)
	if isUnreadable(err) || err == nil && r == nil {
		return nil
	} else if err != nil {
		return err
	}
	return b.indexRoleTypeLocked(ctx, storage, name, r)
}

// indexRoleTypeLocked is indexRoleType for a role that is locked.
func (b *backend) indexRoleTypeLocked(ctx context.Context, storage logical.Storage, name string, r *role) error {
	kind, known := b.attentions.roles.kindOf(name)
	isRight := known && roleKindNames[kind] == r.roleType()
	if isRight && r.roleType() != typeStatic { // memory may have it from a write, and the index not
		entry, err := storage.Get(ctx, roleTypeKey(r.roleType(), name))
		if err != nil {
			return fmt.Errorf("reading the type of role %q: %w", name, err)
		}
		isRight = entry != nil
	}
	if !isRight {
		for _, other := range []string{typeBundle, typeDynamic} {
			if other != r.roleType() {
				b.attentions.setStaleType(other, name, true) // whatever an earlier build has left
			}
		}
		if err := b.putRoleType(ctx, storage, name, r.roleType()); err != nil {
			return err
		}
	}
	b.attentions.roles.set(name, kindOfRole(r.roleType()))
	return nil
}
