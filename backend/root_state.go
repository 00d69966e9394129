// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"maps"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// rootRotation is the state of the last rotate-root.
type rootRotation struct {
	RotatedAt time.Time
	Name      string // of the credential in use, if the engine created it
	Pending   *pendingRoot
	Retired   *issuer.Root
}

// pendingRoot is a new root credential that the connection does not use yet.
type pendingRoot struct {
	Name string // under which it can be found at the registry
	issuer.Root
}

type storedRootRotation struct {
	unprintable
	RotatedAt time.Time   `json:"rotated_at,omitzero"`
	Name      string      `json:"name,omitempty"`
	Pending   *storedRoot `json:"pending,omitempty"`
	Retired   *storedRoot `json:"retired,omitempty"`
}

type storedRoot struct {
	unprintable
	Name     string             `json:"name,omitempty"`
	Settings issuer.Settings    `json:"settings,omitempty"`
	Secrets  *map[string]string `json:"secrets,omitempty"`
}

func (r rootRotation) stored() *storedRootRotation {
	stored := &storedRootRotation{RotatedAt: r.RotatedAt, Name: r.Name}
	if r.Pending != nil {
		stored.Pending = &storedRoot{Name: r.Pending.Name, Settings: r.Pending.Settings, Secrets: revealed(r.Pending.Secrets)}
	}
	if r.Retired != nil {
		stored.Retired = &storedRoot{Settings: r.Retired.Settings, Secrets: revealed(r.Retired.Secrets)}
	}
	if stored.RotatedAt.IsZero() && stored.Pending == nil && stored.Retired == nil {
		return nil
	}
	return stored
}

func (s *storedRootRotation) rotation() rootRotation {
	if s == nil {
		return rootRotation{}
	}
	r := rootRotation{RotatedAt: s.RotatedAt, Name: s.Name}
	if s.Pending != nil {
		r.Pending = &pendingRoot{s.Pending.Name, s.Pending.root()}
	}
	if s.Retired != nil {
		retired := s.Retired.root()
		r.Retired = &retired
	}
	return r
}

func (s *storedRoot) root() issuer.Root {
	return issuer.Root{Settings: s.Settings, Secrets: hidden(s.Secrets)}
}

func (r rootRotation) readBack() map[string]any {
	data := map[string]any{}
	if !r.RotatedAt.IsZero() {
		data["last_root_rotation"] = formatTime(r.RotatedAt)
	}
	switch {
	case r.Pending != nil:
		data["pending_root"] = "a new root credential was prepared and is not in use yet"
	case r.Retired != nil:
		data["pending_root"] = "the former root credential is not revoked at the registry yet"
	}
	return data
}

// isFinished reports whether no step of a rotate-root is left to do.
func (r rootRotation) isFinished() bool { return r.Pending == nil && r.Retired == nil }

// lastRootPause is the longest time between two tries to finish a rotate-root.
const lastRootPause = time.Minute

// unfinishedRoots has the connections whose rotate-root may be unfinished, and when
// somebody last tried to finish it.
type unfinishedRoots struct {
	mu    sync.Mutex
	known bool // all connections were looked at
	tried map[string]rootTry
}

type rootTry struct {
	failures int
	at       time.Time
}

// note has a connection looked at, or not any more.
func (u *unfinishedRoots) note(name string, unfinished bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, noted := u.tried[name]; unfinished == noted {
		return
	}
	if u.tried == nil {
		u.tried = map[string]rootTry{}
	}
	if unfinished {
		u.tried[name] = rootTry{}
	} else {
		delete(u.tried, name)
	}
}

// isDue reports whether an unfinished rotate-root is to be tried again.
func (u *unfinishedRoots) isDue(name string, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	try := u.tried[name]
	return try.failures == 0 || now.Before(try.at) || !now.Before(try.at.Add(backOff(firstPause, lastRootPause, try.failures)))
}

func (u *unfinishedRoots) failed(name string, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tried == nil {
		u.tried = map[string]rootTry{}
	}
	u.tried[name] = rootTry{u.tried[name].failures + 1, now}
}

// names returns the connections, and whether all that there are were looked at.
func (u *unfinishedRoots) names() (names []string, known bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Sorted(maps.Keys(u.tried)), u.known
}

func (u *unfinishedRoots) know() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.known = true
}
