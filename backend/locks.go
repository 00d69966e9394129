// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"sync"
)

// nameLocks is one lock per name, to be held during calls to a registry. Unlike
// with the striped locks of the SDK, no name waits for another, and waiting ends
// with the request. The zero value is ready to use.
type nameLocks struct {
	mu   sync.Mutex
	held map[string]*nameLock
}

type nameLock struct {
	free  chan struct{} // holds one element while the lock is free
	users int           // how many hold the lock or wait for it
}

// lock waits until the lock of the name is free, or the context ends.
func (l *nameLocks) lock(ctx context.Context, name string) (unlock func(), err error) {
	held := l.join(name)
	select {
	case <-held.free:
		return l.unlocking(name, held), nil
	case <-ctx.Done():
		l.leave(name, held)
		return nil, ctx.Err()
	}
}

// tryLock locks a name if nobody holds its lock.
func (l *nameLocks) tryLock(name string) (unlock func(), free bool) {
	held := l.join(name)
	select {
	case <-held.free:
		return l.unlocking(name, held), true
	default:
		l.leave(name, held)
		return nil, false
	}
}

func (l *nameLocks) unlocking(name string, held *nameLock) func() {
	return func() {
		held.free <- struct{}{}
		l.leave(name, held)
	}
}

func (l *nameLocks) join(name string) *nameLock {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.held[name]
	if held == nil {
		held = &nameLock{free: make(chan struct{}, 1)}
		held.free <- struct{}{}
		if l.held == nil {
			l.held = map[string]*nameLock{}
		}
		l.held[name] = held
	}
	held.users++
	return held
}

func (l *nameLocks) leave(name string, held *nameLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held.users--; held.users == 0 {
		delete(l.held, name)
	}
}
