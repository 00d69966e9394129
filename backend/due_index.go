// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// followAfter is when the index follows a connection that was changed. Until
	// then most of its roles are maintained, and have keys that are right.
	followAfter = 10 * time.Minute
)

// putShared stores what a shared role serves, and in the index when there is
// something to be done for it. The role is locked.
func (b *backend) putShared(ctx context.Context, storage logical.Storage, name string, s shared) error {
	return b.putSharedDue(ctx, storage, name, s, b.nextOf(ctx, storage, name, s))
}

// nextOf returns when there is something to be done for a role as it is stored;
// now if that cannot be told, so that it is found out.
func (b *backend) nextOf(ctx context.Context, storage logical.Storage, name string, s shared) time.Time {
	r, err := b.role(ctx, storage, name)
	if err != nil || r == nil || !r.isShared() {
		return b.now()
	}
	return b.nextFor(ctx, storage, s, r)
}

// nextFor is the same for a role that is given.
func (b *backend) nextFor(ctx context.Context, storage logical.Storage, s shared, r *role) time.Time {
	status, err := b.status(ctx, storage, s, r.Dynamic)
	if err != nil {
		return b.now()
	}
	return status.nextAt()
}

func (b *backend) putSharedDue(ctx context.Context, storage logical.Storage, name string, s shared, next time.Time) error {
	former := s.Due
	s.Due = dueTimesOf(next, b.now())
	if err := putDue(ctx, storage, s.Due, name); err != nil {
		return err
	}
	// Its own connection has the key of the role.
	foreign := s.connections()
	r, err := b.role(ctx, storage, name)
	if err == nil {
		foreign = except(foreign, r.connection())
	}
	for _, connection := range foreign {
		if err := b.putConnectionRole(ctx, storage, connection, name); err != nil {
			return err
		}
	}
	before, beforeErr := b.shared(ctx, storage, name)
	stored := b.withAttention(ctx, storage, name, roleChange{shared: &s}, func() error {
		return putEntry(ctx, storage, sharedStoragePrefix+name, s.stored())
	})
	if stored != nil {
		return stored // whether it has happened is not known: all keys stay
	}
	if former != (dueTimes{}) && dueKey(former, name) != dueKey(s.Due, name) {
		b.deleteDue(ctx, storage, former, name)
	}
	if err == nil && beforeErr == nil {
		for _, connection := range except(before.connections(), append(s.connections(), r.connection())...) {
			b.deleteConnectionRole(ctx, storage, connection, name)
		}
	}
	return nil
}

// leaveConnection takes a role out of the index of a connection that it does not
// use any more, unless a credential of that connection is still to be revoked
// for it. The role is locked.
func (b *backend) leaveConnection(ctx context.Context, storage logical.Storage, connection, name string) {
	s, err := b.shared(ctx, storage, name)
	if err == nil && !slices.Contains(s.connections(), connection) {
		b.deleteConnectionRole(ctx, storage, connection, name)
	}
}

// forgetShared takes what a shared role had out of the indexes, after its entry
// was deleted. The role itself is still there.
func (b *backend) forgetShared(ctx context.Context, storage logical.Storage, name string, s shared) {
	b.unstored.Delete(name)
	if s.Due != (dueTimes{}) {
		b.deleteDue(ctx, storage, s.Due, name)
	}
	if r, err := b.role(ctx, storage, name); err == nil {
		for _, connection := range except(s.connections(), r.connection()) {
			b.deleteConnectionRole(ctx, storage, connection, name)
		}
	}
}

// except returns the names that are not among others.
func except(names []string, others ...string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(others, name) })
}

// advanceDue moves the key of a role to an earlier time, if there is earlier
// something to be done for the role as it is about to be written. The role is
// locked. Once it is written, renewDueLocked sets the key right.
func (b *backend) advanceDue(ctx context.Context, storage logical.Storage, name string, r *role) error {
	s, err := b.shared(ctx, storage, name)
	if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
		return nil
	}
	if err != nil || s.Due == (dueTimes{}) {
		return err
	}
	// A key whose time is over is written anew, too: this clock may be ahead.
	next := b.nextFor(ctx, storage, s, r)
	if next.IsZero() || next.After(b.now()) && !s.Due.At.After(wholeSeconds(next)) {
		return nil
	}
	return b.putSharedDue(ctx, storage, name, s, next)
}

// renewDue has the index say when there is something to be done for a role, and
// schedules the role for that time. It deletes the keys that the role has too
// many.
func (b *backend) renewDue(ctx context.Context, storage logical.Storage, name string) error {
	defer b.lockRole(name)()
	return b.renewDueLocked(ctx, storage, name, false)
}

// renewDueLocked is renewDue for a role that is locked. With changed, it does not
// rely on a key whose time is over: what is due may have become so since the key
// was written, and this clock may be ahead.
func (b *backend) renewDueLocked(ctx context.Context, storage logical.Storage, name string, changed bool) error {
	r, err := b.role(ctx, storage, name)
	if err != nil {
		return err
	}
	s, err := b.shared(ctx, storage, name)
	if err != nil {
		return err
	}
	for _, t := range b.next.takeExtra(name) {
		if dueKey(t, name) != dueKey(s.Due, name) {
			b.deleteDue(ctx, storage, t, name)
		}
	}
	if r == nil || !r.isShared() {
		b.schedule(name, time.Time{})
		return nil
	}
	status, err := b.status(ctx, storage, s, r.Dynamic)
	if err != nil {
		return err
	}
	next := status.nextAt()
	isDue := !next.IsZero() && !next.After(status.now)
	if s.Due != (dueTimes{}) && (changed && isDue || !s.Due.isRight(next, status.now)) {
		if err := b.putSharedDue(ctx, storage, name, s, next); err != nil {
			return err
		}
	}
	b.schedule(name, next)
	return nil
}

// isRight reports whether a key comes up when there is something to be done. One
// that has come up may stay until that is done.
func (t dueTimes) isRight(next, now time.Time) bool {
	want := dueTimesOf(next, now).At
	return !t.isAhead(now) && (t.At.Equal(want) || t.At.Before(want) && !want.After(wholeSeconds(now)))
}

// isAhead reports whether the key was written by a clock that was ahead: then
// its times say nothing.
func (t dueTimes) isAhead(now time.Time) bool { return t.WrittenAt.After(now.Add(clockSkew)) }

// comesUp returns when the key comes up; the zero time: not at all.
func (t dueTimes) comesUp(now time.Time) time.Time {
	switch {
	case t.isAhead(now):
		return now
	case !t.At.Before(nothingDue):
		return time.Time{}
	}
	return t.At
}

// listDue reads the index: two lists, and no entry. It returns when each role,
// and each connection, is to be maintained, and which keys are to be deleted
// then.
func (b *backend) listDue(ctx context.Context, storage logical.Storage) (at map[string]time.Time, extra map[string][]dueTimes, err error) {
	keys, err := storage.List(ctx, dueIndexPrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("listing what is due: %w", err)
	}
	// After the index: what is stored meanwhile seems to have no key, and not one
	// too many.
	names, err := storage.List(ctx, sharedStoragePrefix)
	if err != nil {
		return nil, nil, fmt.Errorf("listing the shared credentials: %w", err)
	}
	now := b.now()
	at, extra = make(map[string]time.Time, len(names)), map[string][]dueTimes{}
	for _, name := range names {
		at[name] = now // unless it has a key
	}
	indexed := make(map[string]dueTimes, len(keys))
	for _, key := range keys {
		t, name, ok := parseDueKey(key)
		if !ok {
			continue
		}
		_, hasEntry := at[name]
		other, several := indexed[name]
		switch {
		case strings.HasPrefix(name, connectionMark) || !hasEntry:
			extra[name] = append(extra[name], t)
		case several && extra[name] == nil:
			extra[name] = []dueTimes{other, t}
		case several:
			extra[name] = append(extra[name], t)
		}
		indexed[name] = t
	}
	for name, t := range indexed {
		at[name] = now
		if extra[name] == nil {
			at[name] = t.comesUp(now)
		}
	}
	return at, extra, nil
}

// unindexed returns the roles whose entries earlier builds wrote.
func (b *backend) unindexed(ctx context.Context, storage logical.Storage) ([]string, error) {
	names, err := storage.List(ctx, sharedStoragePrefix)
	if err != nil {
		return nil, fmt.Errorf("listing the shared credentials: %w", err)
	}
	// After the names: what is stored meanwhile has a key.
	keys, err := storage.List(ctx, dueIndexPrefix)
	if err != nil {
		return nil, fmt.Errorf("listing what is due: %w", err)
	}
	indexed := make(map[string]bool, len(keys))
	for _, key := range keys {
		if _, name, ok := parseDueKey(key); ok {
			indexed[name] = true
		}
	}
	return slices.DeleteFunc(names, func(name string) bool { return indexed[name] }), nil
}

// announceConnection has the index name a connection that is about to be changed
// in a way that makes something due for its roles.
func (b *backend) announceConnection(ctx context.Context, storage logical.Storage, connection string) error {
	name, t := connectionMark+connection, dueTimesOf(b.now(), b.now())
	if err := putDue(ctx, storage, t, name); err != nil {
		return err
	}
	b.next.addExtra(name, t)
	b.next.setBy(name, b.now().Add(followAfter))
	return nil
}

// followConnection renews the keys of all roles of a connection that was
// changed.
func (b *backend) followConnection(ctx context.Context, storage logical.Storage, connection string) error {
	keys := b.next.takeExtra(connectionMark + connection) // first: a change that comes meanwhile has a key of its own
	if err := b.renewDueOf(ctx, storage, connection); err != nil {
		b.next.addExtra(connectionMark+connection, keys...)
		return err
	}
	b.deleteKeys(ctx, storage, connectionMark+connection, keys)
	return nil
}

// forgetConnection deletes the keys of a connection that is deleted, as far as
// they are known.
func (b *backend) forgetConnection(ctx context.Context, storage logical.Storage, connection string) {
	b.deleteKeys(ctx, storage, connectionMark+connection, b.next.takeExtra(connectionMark+connection))
}

func (b *backend) deleteKeys(ctx context.Context, storage logical.Storage, name string, keys []dueTimes) {
	for _, t := range keys {
		b.deleteDue(ctx, storage, t, name)
	}
}

func (b *backend) renewDueOf(ctx context.Context, storage logical.Storage, connection string) error {
	names, err := storage.List(ctx, connectionRolesPrefix+connection+"/")
	if err != nil {
		return fmt.Errorf("listing the roles of connection %q: %w", connection, err)
	}
	for _, name := range names {
		unlock := b.lockRole(name)
		err := b.renewDueLocked(ctx, storage, name, true)
		unlock()
		if unreadable := (unreadableError{}); err != nil && !errors.As(err, &unreadable) {
			return err
		}
	}
	return nil
}
