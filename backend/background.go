// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"sync"
	"time"
)

// No request waits for a registry for long: Vault waits for all requests before it
// reloads the plugin, seals or steps down, and until then answers no others. So what
// calls a registry goes on in the background, and the request waits for it as long
// as the registry answers; see attend. What the engine does by itself are jobs.

// background counts what goes on in the background.
type background struct {
	mu      sync.Mutex
	ended   bool
	running int
	idle    chan struct{} // closed when nothing is running any more; nil while nothing is
}

// start runs work in the background. It reports false, and does nothing, after the
// end.
func (g *background) start(work func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return false
	}
	if g.running == 0 {
		g.idle = make(chan struct{})
	}
	g.running++
	go func() {
		defer g.finish()
		work()
	}()
	return true
}

func (g *background) finish() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running--; g.running == 0 {
		close(g.idle)
		g.idle = nil
	}
}

// end has nothing more started.
func (g *background) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = true
}

// Wait waits until nothing is running.
func (g *background) Wait() {
	for {
		g.mu.Lock()
		idle := g.idle
		g.mu.Unlock()
		if idle == nil {
			return
		}
		<-idle
	}
}

type backgroundKey struct{}

func isInBackground(ctx context.Context) bool { return ctx.Value(backgroundKey{}) != nil }

// detached returns a context for what goes on in the background: it ends with the
// engine, and not with the request.
func (b *backend) detached(ctx context.Context) (context.Context, context.CancelFunc) {
	detached, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(ctx), backgroundKey{}, true))
	stop := context.AfterFunc(b.lifetime, cancel)
	return detached, func() {
		stop()
		cancel()
	}
}

// scanBatch and scanPause pace those who look at many entries: each batch is followed by a
// pause.
const (
	scanBatch = 100
	scanPause = 20 * time.Millisecond
)

// pace is called before each of many entries that are looked at, and pauses now and then.
func (b *backend) pace(ctx context.Context, i int) error {
	if i%scanBatch == scanBatch-1 {
		b.sleep(ctx, scanPause)
	}
	return ctx.Err()
}

// errEnded is about a request that came after the end of the engine.
var errEnded = errors.New("the plugin is being stopped")

// work is what a request has done in the background.
type work[T any] struct {
	do func(context.Context) (T, error)

	// key joins requests for the same thing. What has a key, or goesOn, is done even
	// if nobody waits for it any more. The context of all else ends then.
	key    string
	goesOn bool

	// unclaimed is called with a result for which nobody waits any more.
	unclaimed func(T)
}

// flight is work in progress. flights.mu guards it.
type flight struct {
	done chan struct{}
	progress
	landed  bool
	value   any
	err     error
	waiting int
	cancel  context.CancelFunc
}

// flights has the flights that others can join, by the key of the work.
type flights struct {
	mu    sync.Mutex
	byKey map[string]*flight
}

// attend has work done that calls a registry, and waits for it as long as the
// registry answers. In the background it does the work itself.
func attend[T any](ctx context.Context, b *backend, registry string, w work[T]) (T, error) {
	if isInBackground(ctx) {
		return w.do(ctx)
	}
	var none T
	b.flights.mu.Lock()
	f := b.flights.byKey[w.key]
	if f == nil || w.key == "" {
		f = &flight{done: make(chan struct{})}
		flying, cancel := b.detached(context.WithValue(ctx, progressKey{}, &f.progress))
		f.cancel = cancel
		if !b.background.start(func() { fly(flying, b, f, w) }) {
			b.flights.mu.Unlock()
			cancel()
			return none, errEnded
		}
		if w.key != "" {
			b.flights.byKey[w.key] = f
		}
	}
	f.waiting++
	b.flights.mu.Unlock()

	err := b.calls.wait(ctx, registry, &f.progress, f.done)

	b.flights.mu.Lock()
	defer b.flights.mu.Unlock()
	if f.landed && ctx.Err() == nil {
		return f.value.(T), f.err
	}
	if f.landed {
		if f.err == nil && w.unclaimed != nil {
			b.background.start(func() { w.unclaimed(f.value.(T)) })
		}
		return none, ctx.Err()
	}
	if f.waiting--; f.waiting == 0 && w.key == "" && !w.goesOn {
		f.cancel()
	}
	return none, err
}

func fly[T any](ctx context.Context, b *backend, f *flight, w work[T]) {
	defer f.cancel()
	value, err := w.do(ctx)
	b.flights.mu.Lock()
	if w.key != "" {
		delete(b.flights.byKey, w.key)
	}
	f.landed, f.value, f.err = true, value, err
	unclaimed := f.waiting == 0
	close(f.done)
	b.flights.mu.Unlock()
	if unclaimed && err == nil && w.unclaimed != nil {
		w.unclaimed(value)
	}
}

// How many jobs of a lane are done at the same time. There are more rotations than
// calls, so that some write to storage while others call.
const (
	rotationsAtOnce = 3 * callsPerRegistry
	cleaningAtOnce  = callsPerRegistry / 2
)

// The lanes of the jobs of a connection. What is due does not wait for what cleans up.
func rotationLane(connection string) string { return "rotations of " + connection }

func cleaningLane(connection string) string { return "cleaning up of " + connection }

// jobs are what the engine does by itself: those of each lane in the order in which
// they came, a few at a time.
type jobs struct {
	mu    sync.Mutex
	known map[string]bool // names of jobs that wait or run
	lanes map[string]*jobLane
}

type jobLane struct {
	waiting []job
	workers int
}

type job struct {
	name string
	do   func(context.Context)
}

// addJob has a job done. It reports false, and does nothing, if there is one of that name
// already: that one may have looked before there was something to do.
func (b *backend) addJob(lane string, atOnce int, name string, do func(context.Context)) bool {
	j := &b.jobs
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.known[name] {
		return false
	}
	l := j.lanes[lane]
	if l == nil {
		l = &jobLane{}
		j.lanes[lane] = l
	}
	if l.workers < atOnce {
		if !b.background.start(func() { b.doJobs(lane, l) }) {
			return false
		}
		l.workers++
	}
	j.known[name] = true
	l.waiting = append(l.waiting, job{name, do})
	return true
}

// doJobs does jobs of a lane until none is left.
func (b *backend) doJobs(lane string, l *jobLane) {
	ctx, cancel := b.detached(context.Background())
	defer cancel()
	j := &b.jobs
	j.mu.Lock()
	defer j.mu.Unlock()
	for len(l.waiting) > 0 && ctx.Err() == nil {
		next := l.waiting[0]
		l.waiting = l.waiting[1:]
		j.mu.Unlock()
		next.do(ctx)
		j.mu.Lock()
		delete(j.known, next.name)
	}
	if l.workers--; l.workers == 0 {
		delete(j.lanes, lane)
	}
}
