// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"sync/atomic"
	"time"
)

// progress is when the last call of some work ended: what takes several calls is waited
// for as long as they are answered, whichever registries they go to. It is nil for work
// that nobody waits for.
type progress struct{ at atomic.Pointer[time.Time] }

type progressKey struct{}

func progressOf(ctx context.Context) *progress {
	p, _ := ctx.Value(progressKey{}).(*progress)
	return p
}

func (p *progress) note() {
	if p != nil {
		now := time.Now()
		p.at.Store(&now)
	}
}

// since returns the time of the last progress, or the time at which the wait began.
func (p *progress) since(began time.Time) time.Time {
	if at := p.at.Load(); at != nil {
		return later(began, *at)
	}
	return began
}
