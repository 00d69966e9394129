// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// What depends on an entry that is written is looked at in the background. Marks before
// a name in the index of what needs attention say what that is; no name begins with one.
const (
	bundlesMark = "+" // the bundles that join a role
	rolesMark   = "~" // the roles of a connection, and the bundles that join these

	// configMark stands for config in the index of what needs attention.
	configMark = ".config"

	// verdictsMark stands for the verdicts of all roles that fail among the doubts.
	verdictsMark = ".verdicts"

	// everything is the work on all roles. It has no key: attentionCompleteKey is
	// missing instead.
	everything = "*"

	// refreshed is the same work from time to time, during which status is complete.
	refreshed = "*refresh"
)

// attentions is what the active node has in memory of what needs attention, and the
// numbers of status. The first use after a start fills it from lists; from then on
// those who write to storage keep it right.
type attentions struct {
	mu sync.Mutex

	// listed says that all keys of the index are in subjects, and all numbers are
	// right. Until then there may be keys that nobody has seen.
	listed bool

	// subjects are the roles, and the connections after connectionMark, of which
	// something is known, by the name that they have in the index.
	subjects map[string]*subject

	roles, leases *nameSet // all roles by type; all keys of the index of leases

	connections map[string]string              // types of all connections, by name; "" if it cannot be read
	rootChecked map[string]time.Time           // when the root credential of a connection was last to be checked; zero: check it now
	unrevoked   map[string]map[string][]string // leased credentials whose revocation failed, by connection and name: their keys in the index

	retired int // former credentials that are not revoked yet

	// What expires is in subjects if it needs attention before keepUntil. Since the
	// last look at the index of expiries that is all until lookedUntil.
	keepUntil, lookedUntil time.Time
	settings               int // grows with each change of expiry_warning

	staleTypes map[string]bool // keys of the index of types without a role

	work     map[string]*announced // by key; see announce
	jobs     int                   // number of the last job
	lookedAt time.Time             // when all roles were last looked at
	doubts   map[string]bool       // subjects of which a write failed
	version  uint64                // grows with each change of what is shown
}

// subject is what is known of a role or a connection. It is changed only while the
// role is locked, or in renewConnection.
type subject struct {
	indexed bool                 // storage has a key
	extra   bool                 // the key has a kind too many, which is right again
	since   map[string]time.Time // by kind: when the engine noticed it, as the key says
	items   []attention
	retired int
}

func (s *subject) isEmpty() bool { return !s.indexed && len(s.items) == 0 && s.retired == 0 }

// announced is work on what depends on an entry that is about to be written. Storage has
// a key for it from before that write until the work is done.
type announced struct {
	open    int // writes in progress
	wanted  int // writes done
	running bool
}

func newAttentions() *attentions {
	a := &attentions{roles: newNameSet(), leases: newNameSet()}
	a.forget()
	return a
}

// forget empties the memory, on a node that is not the active one.
func (a *attentions) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listed, a.keepUntil, a.lookedUntil, a.lookedAt, a.retired = false, time.Time{}, time.Time{}, time.Time{}, 0
	a.staleTypes, a.rootChecked = map[string]bool{}, map[string]time.Time{}
	a.subjects, a.connections, a.unrevoked = map[string]*subject{}, map[string]string{}, map[string]map[string][]string{}
	a.roles.clear()
	a.leases.clear()
	a.work, a.doubts = map[string]*announced{}, map[string]bool{}
	a.version++
}

// get returns what is known of a subject, and whether that is all there is: if not,
// storage may have a key for it.
func (a *attentions) get(key string) (s subject, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if held := a.subjects[key]; held != nil {
		copied := *held
		copied.since = maps.Clone(held.since)
		return copied, true
	}
	return subject{}, a.listed
}

func (a *attentions) set(key string, s subject) {
	a.mu.Lock()
	defer a.mu.Unlock()
	former := a.subjects[key]
	if former != nil {
		a.retired -= former.retired
	}
	a.retired += s.retired
	if former != nil && len(former.items) > 0 || len(s.items) > 0 {
		a.version++
	}
	if s.isEmpty() {
		delete(a.subjects, key)
		return
	}
	a.subjects[key] = &s
}

// doubt has a subject looked at again: it is not known whether a write of it happened.
func (a *attentions) doubt(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.doubts[key] = true
}

func (a *attentions) takeDoubts() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	keys := slices.Sorted(maps.Keys(a.doubts))
	clear(a.doubts)
	return keys
}

// owes reports whether something has to be looked at again, because storage failed.
func (a *attentions) owes() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.doubts) > 0 || len(a.staleTypes) > 0
}

func (a *attentions) isListed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.listed
}

// setUnrevoked notes that a key of the index is of a leased credential whose revocation
// failed, or is gone. It reports whether it is the first of the credential, or was the last.
func (a *attentions) setUnrevoked(connection, name, key string, fails bool) (changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := a.unrevoked[connection]
	keys := names[name]
	if slices.Contains(keys, key) == fails {
		return false
	}
	if fails {
		if names == nil {
			names = map[string][]string{}
			a.unrevoked[connection] = names
		}
		names[name] = append(keys, key)
		return len(keys) == 0
	}
	keys = slices.DeleteFunc(slices.Clone(keys), func(other string) bool { return other == key })
	if len(keys) > 0 {
		names[name] = keys
		return false
	}
	if delete(names, name); len(names) == 0 {
		delete(a.unrevoked, connection)
	}
	return true
}

// unrevokedKeys returns the keys of a leased credential whose revocation failed, and
// whether these are all: if not, storage may have more.
func (a *attentions) unrevokedKeys(connection, name string) (keys []string, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.unrevoked[connection][name]), a.listed
}

// countUnrevoked returns how many leased credentials of a connection could not be revoked.
func (a *attentions) countUnrevoked(connection string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.unrevoked[connection])
}

// setConnection notes the type of a connection that is stored.
func (a *attentions) setConnection(name, connectionType string, there bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	if there {
		a.connections[name] = connectionType
	} else {
		delete(a.connections, name)
		delete(a.rootChecked, name)
	}
}

func (a *attentions) connectionNames() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.connections))
}

func (a *attentions) hasStaleType(roleType, name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.staleTypes[roleTypeKey(roleType, name)]
}

func (a *attentions) setStaleType(roleType, name string, stale bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if key := roleTypeKey(roleType, name); stale {
		a.staleTypes[key] = true
	} else {
		delete(a.staleTypes, key)
	}
}

// want notes work that is to be done, though nothing announces it now.
func (a *attentions) want(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.work[key] == nil {
		a.work[key] = &announced{wanted: 1}
	}
}

// announcedWork returns the keys of the work that is to be done.
func (a *attentions) announcedWork() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.work))
}

// finished forgets work that is done.
func (a *attentions) finished(key string, w *announced, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.work[key] == w {
		delete(a.work, key)
	}
	if key == everything || key == refreshed {
		a.lookedAt = now
	}
	a.version++
}

func (a *attentions) lastLook() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lookedAt
}

func (a *attentions) setListed(lookedAt time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listed, a.lookedAt = true, lookedAt
	a.version++
}

// keeps reports whether something that an expiry decides is kept in memory.
func (a *attentions) keeps(item attention) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !item.Since.After(a.keepUntil)
}

func (a *attentions) lookedAtExpiries() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lookedUntil
}

// beginExpiries begins a look at the index of expiries.
func (a *attentions) beginExpiries(until time.Time) (settings int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keepUntil = until
	return a.settings
}

func (a *attentions) finishExpiries(until time.Time, settings int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.settings == settings {
		a.lookedUntil = until
	}
}

// forgetExpiries has the index of expiries looked at again, because expiry_warning has
// changed.
func (a *attentions) forgetExpiries() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settings++
	a.lookedUntil = time.Time{}
}

// timed returns the roles of which an expiry decides something.
func (a *attentions) timed() (names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, s := range a.subjects {
		if checkName(name) == nil && slices.ContainsFunc(s.items, func(item attention) bool { return item.isTimed }) {
			names = append(names, name)
		}
	}
	return names
}

func roleTypeKey(roleType, name string) string { return roleTypesPrefix + roleType + "/" + name }

// rootsToCheck returns the connections whose root credential is to be checked now. Those
// that were never checked are spread over the first period.
func (a *attentions) rootsToCheck(period time.Duration, now time.Time) (names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.connections {
		last, known := a.rootChecked[name]
		switch {
		case known && last.IsZero(): // somebody wants it
		case period == 0 || known && !last.After(now) && now.Sub(last) < period:
			continue
		case !known:
			a.rootChecked[name] = now.Add(-time.Duration(phaseOf(name, int64(period))))
			continue
		}
		a.rootChecked[name] = now
		names = append(names, name)
	}
	return names
}

// checkRootSoon has the root credential of a connection checked in the next minute.
func (a *attentions) checkRootSoon(connection string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rootChecked[connection] = time.Time{}
}

// has reports whether a subject has something of a kind.
func (a *attentions) has(key, kind string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.subjects[key]
	return s != nil && slices.ContainsFunc(s.items, func(item attention) bool { return item.Kind == kind })
}
