// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// announce has storage say that what depends on an entry must be looked at. done is called
// when the entry was written, or may have been.
func (b *backend) announce(ctx context.Context, storage logical.Storage, key string) (done func(), err error) {
	unlock, err := b.lockWork(ctx, key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	a := b.attentions
	a.mu.Lock()
	w := a.work[key]
	if w == nil {
		w = &announced{}
		a.work[key] = w
	}
	w.open++
	a.mu.Unlock()
	if err = setAnnounced(ctx, storage, key, true); err != nil {
		b.announcementDone(storage, key)
		return nil, err
	}
	return func() { b.announcementDone(storage, key) }, nil
}

// lockWork locks the key of some work in storage.
func (b *backend) lockWork(ctx context.Context, key string) (unlock func(), err error) {
	if key == refreshed {
		key = everything
	}
	return b.announcing.lock(ctx, key)
}

// setAnnounced writes or deletes the key of some work.
func setAnnounced(ctx context.Context, storage logical.Storage, key string, there bool) (err error) {
	switch {
	case key == everything && there:
		err = storage.Delete(ctx, attentionCompleteKey)
	case there:
		err = storage.Put(ctx, &logical.StorageEntry{Key: attentionPrefix + key})
	default:
		err = storage.Delete(ctx, attentionPrefix+key)
	}
	if err != nil {
		return fmt.Errorf("writing to the index of what needs attention: %w", err)
	}
	return nil
}

func (b *backend) announcementDone(storage logical.Storage, key string) {
	a := b.attentions
	a.mu.Lock()
	if w := a.work[key]; w != nil { // it was not forgotten
		w.open--
		w.wanted++
	}
	a.mu.Unlock()
	b.doAnnounced(storage, key)
}

// doAnnounced has some work done in the background, unless it is being done.
func (b *backend) doAnnounced(storage logical.Storage, key string) {
	a := b.attentions
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.work[key]
	if w == nil || w.running || w.wanted == 0 {
		return
	}
	a.jobs++
	w.running = b.addJob("attention", 1, fmt.Sprintf("attention %d", a.jobs), func(ctx context.Context) {
		if err := b.workOn(ctx, storage, key, w); err != nil && ctx.Err() == nil {
			b.Logger().Warn("what depends on an entry that was written could not be looked at", "what", key, "error", err)
		}
	})
}

// workOn does some work until nothing was written meanwhile.
func (b *backend) workOn(ctx context.Context, storage logical.Storage, key string, w *announced) error {
	for {
		b.attentions.mu.Lock()
		wanted := w.wanted
		b.attentions.mu.Unlock()
		err := b.follow(ctx, storage, key)
		finished := false
		if err == nil {
			finished, err = b.finishAnnounced(ctx, storage, key, w, wanted)
		}
		if err != nil {
			b.attentions.mu.Lock()
			defer b.attentions.mu.Unlock()
			w.running = false // the minute goes on
			return err
		}
		if finished {
			return nil
		}
	}
}

// finishAnnounced deletes the key of some work unless more was announced. It reports
// whether the work is to end for now.
func (b *backend) finishAnnounced(ctx context.Context, storage logical.Storage, key string, w *announced, wanted int) (bool, error) {
	unlock, err := b.lockWork(ctx, key) // nothing more is announced meanwhile
	if err != nil {
		return false, err
	}
	defer unlock()
	a := b.attentions
	a.mu.Lock()
	if w.open > 0 || w.wanted != wanted {
		defer a.mu.Unlock()
		w.running = w.open == 0 // the end of the write begins it anew
		return w.open > 0, nil
	}
	_, more := a.work[everything]
	a.mu.Unlock()
	switch {
	case key == everything || key == refreshed && !more:
		err = putEntry(ctx, storage, attentionCompleteKey, completeMark{SchemaVersion: schemaVersion, Version: b.RunningVersion, At: b.now()})
	case key != refreshed:
		err = setAnnounced(ctx, storage, key, false)
	}
	if err != nil {
		return false, err
	}
	a.finished(key, w, b.now())
	return true, nil
}

// completeMark is the entry of attentionCompleteKey.
type completeMark struct {
	SchemaVersion int       `json:"schema_version"`
	Version       string    `json:"version"` // of the plugin: another one may read other entries
	At            time.Time `json:"at"`
}

// follow looks at all that depends on what was written.
func (b *backend) follow(ctx context.Context, storage logical.Storage, key string) error {
	switch {
	case key == everything, key == refreshed:
		return b.lookAtAll(ctx, storage)
	case strings.HasPrefix(key, bundlesMark):
		return b.lookAtBundles(ctx, storage, strings.TrimPrefix(key, bundlesMark))
	}
	connection := strings.TrimPrefix(key, rolesMark)
	names, err := storage.List(ctx, connectionRolesPrefix+connection+"/")
	if err != nil {
		return fmt.Errorf("listing the roles of connection %q: %w", connection, err)
	}
	return b.lookAt(ctx, storage, names, func(name string) error {
		return b.lookAtBundles(ctx, storage, name)
	})
}

func (b *backend) lookAtBundles(ctx context.Context, storage logical.Storage, member string) error {
	names, err := storage.List(ctx, bundleIndexPrefix+member+"/")
	if err != nil {
		return fmt.Errorf("listing the bundles that join role %q: %w", member, err)
	}
	return b.lookAt(ctx, storage, names, nil)
}

// lookAt looks at roles, some at a time, and does something after each.
func (b *backend) lookAt(ctx context.Context, storage logical.Storage, names []string, then func(name string) error) error {
	for i, name := range names {
		if err := b.pace(ctx, i); err != nil {
			return err
		}
		if err := b.renewAttention(ctx, storage, name); err != nil {
			return err
		}
		if then == nil {
			continue
		}
		if err := then(name); err != nil {
			return err
		}
	}
	return nil
}

// lookAtAll looks at all roles and leases, and adds those to the indexes that an earlier
// build has stored.
func (b *backend) lookAtAll(ctx context.Context, storage logical.Storage) error {
	names, err := storage.List(ctx, roleStoragePrefix)
	if err != nil {
		return fmt.Errorf("listing the roles: %w", err)
	}
	if err := b.lookAt(ctx, storage, names, func(name string) error { return b.indexRoleType(ctx, storage, name) }); err != nil {
		return err
	}
	return b.lookAtLeases(ctx, storage)
}

// announceBundles announces a write of a role if that may decide whether bundles can
// join it.
func (b *backend) announceBundles(ctx context.Context, storage logical.Storage, name string, r, old *role) (done func(), err error) {
	none := func() {}
	if !mattersToBundles(r, old) {
		return none, nil
	}
	bundles, err := storage.List(ctx, bundleIndexPrefix+name+"/")
	if err != nil {
		return nil, fmt.Errorf("listing the bundles that join role %q: %w", name, err)
	}
	if len(bundles) == 0 {
		return none, nil
	}
	return b.announce(ctx, storage, bundlesMark+name)
}

// mattersToBundles reports whether a write of a role, or its deletion, may decide whether
// bundles can join it.
func mattersToBundles(r, old *role) bool {
	if r == nil || old == nil {
		return true
	}
	if len(r.AllowedBundles) == 0 && len(old.AllowedBundles) == 0 {
		return false
	}
	if !slices.Equal(r.AllowedBundles, old.AllowedBundles) || r.connection() != old.connection() || r.size() != old.size() {
		return true
	}
	return r.Static != nil && !slices.Equal(r.Static.Docker.Keys(), old.Static.Docker.Keys())
}

// putRoleAttended stores a role as putRole does, with what else has to know of it. The
// role is locked.
func (b *backend) putRoleAttended(ctx context.Context, storage logical.Storage, name string, r, old *role) error {
	done, err := b.announceBundles(ctx, storage, name, r, old)
	if err != nil {
		return err
	}
	defer done()
	if old == nil {
		if err := b.putRoleType(ctx, storage, name, r.roleType()); err != nil {
			return err
		}
	}
	err = b.withAttention(ctx, storage, name, roleChange{role: r}, func() error { return b.putRole(ctx, storage, name, r, old) })
	if err != nil {
		b.attentions.setStaleType(r.roleType(), name, old == nil)
		return err
	}
	b.attentions.roles.set(name, kindOfRole(r.roleType()))
	return nil
}

// announceRoles announces a write of a connection if that may decide whether its roles
// can be minted for, or bundles joined.
func (b *backend) announceRoles(ctx context.Context, storage logical.Storage, c, old *connection) (done func(), err error) {
	if old != nil && slices.Equal(c.Registries, old.Registries) && slices.Equal(c.AllowedRoles, old.AllowedRoles) && slices.Equal(c.AllowedTargets, old.AllowedTargets) &&
		c.Type.Name == old.Type.Name && c.URL == old.URL && maps.Equal(c.Settings, old.Settings) {
		return func() {}, nil
	}
	names, err := storage.List(ctx, connectionRolesPrefix+c.Name+"/")
	if err != nil {
		return nil, fmt.Errorf("listing the roles of connection %q: %w", c.Name, err)
	}
	if len(names) == 0 {
		return func() {}, nil
	}
	return b.announce(ctx, storage, rolesMark+c.Name)
}
