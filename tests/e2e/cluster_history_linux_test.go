// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"sync"
)

// register is a role or the mount's config, which one writer changes, one
// operation after the other, while others read it. It records which operations
// were sent and which are certainly done, and so knows which answers of a read
// are right.
//
// A failed operation may have been done or not. It is not done later than the
// next one: an operation that the dead leader did not put into the cluster's
// log is lost, and the next leader does nothing before the end of that log.
type register struct {
	path string // in the mount

	mu   sync.Mutex
	ops  []op // all that were sent; the first stands for the state before
	done int  // the last op that was acknowledged, or seen by a read
}

// op is a write, whose version is its index, or a deletion.
type op struct{ deletes bool }

// What a read without a version has found.
const (
	absent  = -1
	present = -2
)

func newRegister(path string) *register {
	return &register{path: path, ops: []op{{deletes: true}}}
}

// begin records an operation before it is sent, and returns its version.
func (r *register) begin(deletes bool) (version int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op{deletes})
	return len(r.ops) - 1
}

// isDone records that an operation was acknowledged, or seen by a read.
func (r *register) isDone(version int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = max(r.done, version)
}

// certain returns the last operation that is certainly done. A read that begins
// now must not find anything older.
func (r *register) certain() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.done
}

// deletedSince reports whether a deletion was sent after an operation.
func (r *register) deletedSince(version int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.ops[version+1:], op{deletes: true})
}

// found judges the answer of a read: a version, absent or present. certain is
// what certain returned before the read was sent.
func (r *register) found(version, certain int) error {
	r.mu.Lock()
	ops := slices.Clone(r.ops)
	r.mu.Unlock()
	if version == absent || version == present {
		after := slices.Index(ops[certain:], op{deletes: version == absent})
		if after < 0 {
			return fmt.Errorf("%s: a read finds it %s, though operation %d was certain before it began, and none after it does that", r.path, map[int]string{absent: "absent", present: "present"}[version], certain)
		}
		r.isDone(certain + after)
		return nil
	}
	switch {
	case version < 0 || version >= len(ops) || ops[version].deletes:
		return fmt.Errorf("%s: a read finds version %d, which nobody has written", r.path, version)
	case version < certain:
		return fmt.Errorf("%s: a stale read: it finds version %d, though operation %d was acknowledged, or seen by another read, before it began", r.path, version, certain)
	}
	r.isDone(version)
	return nil
}
