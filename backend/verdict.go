// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/registry"
)

// confirmAfter is how long after a bad verdict the next one confirms it: once may be
// chance.
const confirmAfter = 30 * time.Second

// verdict is what verifying a role has found last, as it is stored. It holds no secret
// and no user name.
type verdict struct {
	SchemaVersion int `json:"schema_version"`

	// Subject says for which credentials the verdict is; see subjectOf. It says nothing
	// about others.
	Subject string `json:"subject"`

	finding
	At    time.Time `json:"at"`    // of the last verification
	Since time.Time `json:"since"` // of the first in a row with this verdict

	// Confirmed says that a bad verdict was found at least twice in a row.
	Confirmed bool `json:"confirmed,omitempty"`

	// Alarmed says that a bad verdict was announced, and that no good one came since, of
	// whichever credentials.
	Alarmed bool `json:"alarmed,omitempty"`

	// Replaced counts how often a refused credential of a shared role was replaced since
	// the last good verdict, and ReplacedAt is when that was last tried.
	Replaced   int       `json:"replaced,omitempty"`
	ReplacedAt time.Time `json:"replaced_at,omitzero"`
}

// finding is what one verification has found.
type finding struct {
	Verdict  registry.Verdict `json:"verdict"`
	Registry string           `json:"registry"` // as in image names; of several, the one with the worst verdict
	Message  string           `json:"message,omitempty"`
}

// next returns the verdict after a verification.
func (v verdict) next(subject string, found finding, now time.Time) verdict {
	n := verdict{SchemaVersion: schemaVersion, Subject: subject, finding: found, At: now, Since: now, Replaced: v.Replaced, ReplacedAt: v.ReplacedAt}
	if v.Subject == subject && v.Verdict == found.Verdict && !v.Since.After(now) {
		n.Since = v.Since
	}
	if !isBad(found.Verdict) {
		n.Replaced, n.ReplacedAt = 0, time.Time{}
		return n
	}
	n.Confirmed = v.Subject == subject && isBad(v.Verdict) && (v.Confirmed || now.Sub(v.At) >= confirmAfter || v.At.After(now))
	n.Alarmed = v.Alarmed || n.Confirmed
	return n
}

// isSettled reports whether a verdict needs no second look.
func (v verdict) isSettled() bool { return !isBad(v.Verdict) || v.Confirmed }

// isFresh reports whether another verification would be too early: there was one in this
// turn, or just before it. slot is when the turn began.
func (v verdict) isFresh(subject string, slot time.Time, period time.Duration, now time.Time) bool {
	switch {
	case v.Subject != subject || v.At.After(now):
		return false
	case !v.isSettled():
		return now.Sub(v.At) < confirmAfter
	}
	return !v.At.Before(slot) || now.Sub(v.At) < period/8
}

// mayReplace reports whether a refused credential may be replaced: at once, and then less
// and less often while the registry refuses each new one too.
func (v verdict) mayReplace(now time.Time) bool {
	return v.Replaced == 0 || v.ReplacedAt.After(now) || now.Sub(v.ReplacedAt) >= backOff(time.Hour, 24*time.Hour, v.Replaced)
}

// verdict returns the zero value for a role of which nothing is known.
func (b *backend) verdict(ctx context.Context, storage logical.Storage, name string) (verdict, error) {
	var v verdict
	_, err := getEntry(ctx, storage, verdictStoragePrefix+name, &v, &v.SchemaVersion)
	if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
		return verdict{}, nil // it is replaced by the next one
	}
	return v, err
}

// putVerdict stores a verdict, and keeps the index of the roles that fail. The role is
// locked.
func (b *backend) putVerdict(ctx context.Context, storage logical.Storage, name string, v verdict) error {
	if v.Confirmed {
		if err := storage.Put(ctx, &logical.StorageEntry{Key: failingIndexPrefix + name}); err != nil {
			return fmt.Errorf("adding role %q to the index of those that fail: %w", name, err)
		}
	}
	if err := putEntry(ctx, storage, verdictStoragePrefix+name, v); err != nil {
		b.failing.changed(name) // whether it is stored is not known
		return err
	}
	if v.Confirmed {
		b.failing.set(name, v)
		return nil
	}
	b.settleFailing(ctx, storage, name)
	return nil
}

// settleFailing takes a role out of the index of those that fail. A failure is logged,
// and an extra key does no harm. The role is locked.
func (b *backend) settleFailing(ctx context.Context, storage logical.Storage, name string) {
	if !b.failing.has(name) {
		return
	}
	if err := storage.Delete(ctx, failingIndexPrefix+name); err != nil {
		b.Logger().Warn("a role stays in the index of those that fail", "role", name, "error", err)
	}
	b.failing.clear(name)
}

// deleteVerdict forgets what is known of a role that is about to be deleted. The role is
// locked.
func (b *backend) deleteVerdict(ctx context.Context, storage logical.Storage, name string) error {
	if err := storage.Delete(ctx, verdictStoragePrefix+name); err != nil {
		return fmt.Errorf("deleting the verdict of role %q: %w", name, err)
	}
	b.settleFailing(ctx, storage, name)
	return nil
}

// failingRoles has the confirmed bad verdicts, by role, so that reads need no storage
// for them. A role whose verdict is to be looked up first has unknownVerdict.
type failingRoles struct {
	byRole  sync.Map
	changes atomic.Uint64
}

var unknownVerdict = &verdict{}

func (f *failingRoles) set(name string, v verdict) {
	f.byRole.Store(name, &v)
	f.changes.Add(1)
}

func (f *failingRoles) clear(name string) {
	f.byRole.Delete(name)
	f.changes.Add(1)
}

// hasUnknown reports whether a verdict is to be looked up.
func (f *failingRoles) hasUnknown() (found bool) {
	f.byRole.Range(func(_, held any) bool {
		found = held.(*verdict) == unknownVerdict
		return !found
	})
	return found
}

// known returns the verdicts that need not be looked up.
func (f *failingRoles) known() iter.Seq2[string, verdict] {
	return func(yield func(string, verdict) bool) {
		f.byRole.Range(func(name, held any) bool {
			v := held.(*verdict)
			return v == unknownVerdict || yield(name.(string), *v)
		})
	}
}

func (f *failingRoles) has(name string) bool {
	_, found := f.byRole.Load(name)
	return found
}

// lookUp has the verdict of a role looked up when it is next needed, unless it is known.
func (f *failingRoles) lookUp(name string) { f.byRole.LoadOrStore(name, unknownVerdict) }

// changed has the verdict of a role looked up again.
func (f *failingRoles) changed(name string) { f.byRole.Store(name, unknownVerdict) }

// failingVerdict returns the confirmed bad verdict of a role for its credentials, if there
// is one. Only for roles that fail does it need subject, and seldom the storage.
func (b *backend) failingVerdict(ctx context.Context, storage logical.Storage, name string, subject func() string) (*verdict, error) {
	held, found := b.failing.byRole.Load(name)
	if !found {
		return nil, nil
	}
	v := held.(*verdict)
	if v == unknownVerdict {
		stored, err := b.verdict(ctx, storage, name)
		if err != nil {
			return nil, err
		}
		v = &stored
		if v.Confirmed {
			b.failing.byRole.CompareAndSwap(name, unknownVerdict, v)
			b.failing.changes.Add(1)
		} else {
			b.failing.byRole.CompareAndDelete(name, unknownVerdict)
		}
	}
	if !v.Confirmed || v.Subject != subject() {
		return nil, nil
	}
	return v, nil
}

// loadFailing finds out which roles fail: one list, and no entry.
func (b *backend) loadFailing(ctx context.Context, storage logical.Storage) error {
	names, err := storage.List(ctx, failingIndexPrefix)
	if err != nil {
		return fmt.Errorf("listing the roles that fail: %w", err)
	}
	for _, name := range names {
		b.failing.lookUp(name)
	}
	return nil
}
