// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// maxUsedBy is how many bundles a read of a role names.
const maxUsedBy = 100

// usedBy returns the names of the bundles that join a role, sorted, at most maxUsedBy,
// and whether there are more. Bundles that the role names in full need not be in the
// index, which an earlier build does not write.
func (b *backend) usedBy(ctx context.Context, storage logical.Storage, name string, r *role) (bundles []string, more bool, err error) {
	if r == nil || r.Bundle != nil {
		return nil, false, nil
	}
	candidates, err := storage.List(ctx, bundleIndexPrefix+name+"/")
	if err != nil {
		return nil, false, fmt.Errorf("listing the bundles that join role %q: %w", name, err)
	}
	candidates = append(slices.Clone(candidates), slices.DeleteFunc(slices.Clone(r.AllowedBundles), func(pattern string) bool {
		return strings.Contains(pattern, "*")
	})...)
	slices.Sort(candidates)
	for _, bundle := range slices.Compact(candidates) {
		other, err := b.role(ctx, storage, bundle)
		if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
			continue // it joins nothing
		} else if err != nil {
			return nil, false, err
		}
		if _, joins := slices.BinarySearch(other.members(), name); !joins {
			continue
		}
		if len(bundles) == maxUsedBy {
			return bundles, true, nil
		}
		bundles = append(bundles, bundle)
	}
	return bundles, false, nil
}

// namedBundles lists the first of some bundles for a message.
func namedBundles(bundles []string, more bool) string {
	const most = 5
	switch {
	case more:
		return fmt.Sprintf("%s and more than %d others", strings.Join(bundles[:most], ", "), len(bundles)-most)
	case len(bundles) > most:
		return fmt.Sprintf("%s and %d others", strings.Join(bundles[:most], ", "), len(bundles)-most)
	}
	return strings.Join(bundles, ", ")
}

// indexBundles adds all bundles to the index.
func (b *backend) indexBundles(ctx context.Context, storage logical.Storage) error {
	names, err := storage.List(ctx, roleStoragePrefix)
	if err != nil {
		return err
	}
	for i, name := range names {
		if err := b.pace(ctx, i); err != nil {
			return err
		}
		if err := b.indexBundle(ctx, storage, name); err != nil {
			return err
		}
	}
	return putEntry(ctx, storage, bundlesIndexedKey, struct {
		SchemaVersion int `json:"schema_version"`
	}{schemaVersion})
}

// indexBundle adds a role to the index if it is a bundle. The role is locked, so that
// it is not written in between: then its former members would get the keys.
func (b *backend) indexBundle(ctx context.Context, storage logical.Storage, name string) error {
	defer b.lockRole(name)()
	entry, err := storage.Get(ctx, roleStoragePrefix+name)
	if err != nil || entry == nil {
		return err
	}
	r, err := decodeRole(entry, name)
	if err != nil {
		return nil // it joins nothing
	}
	return putBundleKeys(ctx, storage, name, r.members())
}
