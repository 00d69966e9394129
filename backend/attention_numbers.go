// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"hash/maphash"
	"iter"
	"maps"
	"sync"
)

// nameKind is the type of a role in one byte. Leases have kind 0.
type nameKind byte

const (
	isStatic nameKind = iota
	isBundle
	isDynamic
	allNameKinds
)

var roleKindNames = [allNameKinds]string{typeStatic, typeBundle, typeDynamic}

func kindOfRole(roleType string) nameKind {
	switch roleType {
	case typeBundle:
		return isBundle
	case typeDynamic:
		return isDynamic
	}
	return isStatic
}

// nameSet counts names by kind. It has 64 bits of a hash of each: 20 to 40 bytes a name,
// and the chance that two of a million names share a hash is one in 37 million.
type nameSet struct {
	mu    sync.Mutex
	seed  maphash.Seed
	kinds map[uint64]nameKind
	count [allNameKinds]int

	// changed are the names that changed since a list of all was begun; nil if none is.
	changed map[uint64]bool
}

func newNameSet() *nameSet {
	return &nameSet{seed: maphash.MakeSeed(), kinds: map[uint64]nameKind{}}
}

func (s *nameSet) hash(name string) uint64 { return maphash.String(s.seed, name) }

// set notes a name that is stored.
func (s *nameSet) set(name string, kind nameKind) { s.change(s.hash(name), kind, true) }

// remove notes a name that is not stored any more.
func (s *nameSet) remove(name string) { s.change(s.hash(name), 0, false) }

func (s *nameSet) change(hash uint64, kind nameKind, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		s.changed[hash] = true
	}
	if former, found := s.kinds[hash]; found {
		s.count[former]--
		delete(s.kinds, hash)
	}
	if there {
		s.kinds[hash] = kind
		s.count[kind]++
	}
}

func (s *nameSet) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds, s.count, s.changed = map[uint64]nameKind{}, [allNameKinds]int{}, nil
}

// begin begins to take in a list of all names: those that change from now on are known
// better than from the list.
func (s *nameSet) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed = map[uint64]bool{}
}

// fill takes in a list of all names.
func (s *nameSet) fill(all iter.Seq2[string, nameKind]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.kinds, func(hash uint64, _ nameKind) bool { return !s.changed[hash] })
	for name, kind := range all {
		if hash := s.hash(name); !s.changed[hash] {
			s.kinds[hash] = kind
		}
	}
	s.changed, s.count = nil, [allNameKinds]int{}
	for _, kind := range s.kinds {
		s.count[kind]++
	}
}

func (s *nameSet) kindOf(name string) (kind nameKind, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kind, known = s.kinds[s.hash(name)]
	return kind, known
}

func (s *nameSet) numbers() [allNameKinds]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}
