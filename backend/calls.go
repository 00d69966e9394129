// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/semaphore"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	// callsAtOnce is how many calls to registries a mount has in progress at most,
	// and callsPerRegistry how many of them may be to one registry. Half of each may
	// be calls that clean up, and a quarter of the mount's those that verify by the
	// engine's own doing.
	callsAtOnce      = 32
	callsPerRegistry = 8

	// rememberedLanes is how many lanes are remembered at least.
	rememberedLanes = 1000

	// A request waits for a registry for firstPatience after its last answer. It waits
	// for twice as long as the slowest of its latest answers took, up to
	// lastPatience. Vault waits for all requests before it reloads the plugin or seals.
	firstPatience = 1500 * time.Millisecond
	lastPatience  = 10 * time.Second

	// leastPatience is for a request that comes while the registry owes others an
	// answer. It may owe just one, and answer the request.
	leastPatience = 500 * time.Millisecond
)

// calls is what all calls to registries pass, whoever asked for them. It limits how
// many there are at once, leaves registries alone that do not answer, and knows
// how long to wait for one.
type calls struct {
	now      func() time.Time
	pause    time.Duration // firstPause, except in tests
	patience time.Duration // firstPatience, except in tests

	places, cleaningPlaces, routinePlaces *semaphore.Weighted

	inProgress atomic.Int64

	mu       sync.Mutex
	changes  uint64 // of what leftAlone returns
	lanes    map[string]*lane
	maxLanes int // from which number on the lanes are looked through
}

// lane is what is known of one registry. It is forgotten when nobody uses it and
// there is nothing to remember, or if there are many and it is not left alone.
// calls.mu guards all but the semaphores.
type lane struct {
	registry string // in words

	places, cleaningPlaces *semaphore.Weighted

	users      int
	calling    []*time.Time  // when the calls in progress began, except for those that clean up
	answeredAt time.Time     // of the process, not of the engine's clock, which may jump
	slowest    time.Duration // about how long the slowest of the latest answers took

	pause          // of all calls
	cleaning pause // of those that clean up: what they fail for may be what they are to end
}

func newCalls(now func() time.Time) *calls {
	return &calls{
		now: now, pause: firstPause, patience: firstPatience, lanes: map[string]*lane{}, maxLanes: rememberedLanes,
		places: semaphore.NewWeighted(callsAtOnce), cleaningPlaces: semaphore.NewWeighted(callsAtOnce / 2), routinePlaces: semaphore.NewWeighted(callsAtOnce / 4),
	}
}

// laneOf returns the name of the lane of a connection's registry.
func laneOf(connection string) string {
	return fmt.Sprintf("the registry of connection %q", connection)
}

// urgency says which calls may ask, and how many.
type urgency int

const (
	urgent   urgency = iota // somebody needs a credential
	cleaning                // something is to be ended
	routine                 // the engine verifies by itself, and nobody waits for it
	asked                   // an operator wants to know: a registry that is left alone is asked too
)

type urgencyKey struct{}

// withUrgency returns a context whose calls to registries have that urgency.
func withUrgency(ctx context.Context, u urgency) context.Context {
	return context.WithValue(ctx, urgencyKey{}, u)
}

func urgencyOf(ctx context.Context) urgency {
	u, _ := ctx.Value(urgencyKey{}).(urgency)
	return u
}

// leftAloneError is about a registry that is not asked, because it did not answer a
// moment ago.
type leftAloneError struct{ logical.HTTPCodedError }

// enter waits until a call to a registry may be made. leave says what came of it.
func (c *calls) enter(ctx context.Context, registry string) (leave func(error), err error) {
	l := c.join(registry)
	tried, err := c.admit(l, urgencyOf(ctx))
	if err != nil {
		c.part(l)
		return nil, err
	}
	places := []*semaphore.Weighted{l.places, c.places}
	switch urgencyOf(ctx) {
	case cleaning:
		places = []*semaphore.Weighted{l.cleaningPlaces, l.places, c.cleaningPlaces, c.places}
	case routine:
		places = []*semaphore.Weighted{c.routinePlaces, l.places, c.places}
	}
	taken := 0
	giveBack := func() {
		for _, p := range places[:taken] {
			p.Release(1)
		}
		c.mu.Lock()
		for _, p := range tried {
			p.isTried = false
		}
		c.mu.Unlock()
		c.part(l)
	}
	for _, p := range places {
		if err := p.Acquire(ctx, 1); err != nil {
			giveBack()
			return nil, err
		}
		taken++
	}
	if len(tried) == 0 {
		if tried, err = c.admit(l, urgencyOf(ctx)); err != nil { // it may have ceased to answer meanwhile
			giveBack()
			return nil, err
		}
	}
	c.inProgress.Add(1)
	began := time.Now()
	if urgencyOf(ctx) != cleaning { // nobody waits for less because something is not ended yet
		c.begin(l, &began)
	}
	return func(err error) {
		c.inProgress.Add(-1)
		c.record(l, urgencyOf(ctx), err, time.Since(began))
		c.end(l, &began)
		progressOf(ctx).note()
		giveBack()
	}, nil
}

func (c *calls) begin(l *lane, began *time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.calling = append(l.calling, began)
}

func (c *calls) end(l *lane, began *time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.calling = slices.DeleteFunc(l.calling, func(b *time.Time) bool { return b == began })
}

// silentSince returns since when a registry has answered nothing, though it was called;
// the zero time if it owes no answer.
func (l *lane) silentSince() (since time.Time) {
	for _, began := range l.calling {
		if since.IsZero() || began.Before(since) {
			since = *began
		}
	}
	if since.IsZero() {
		return since
	}
	return later(since, l.answeredAt)
}

// forgive has a registry asked again at once: what failed may be mended.
func (c *calls) forgive(registry string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.lanes[registry]; l != nil {
		l.pause, l.cleaning = pause{}, pause{}
		c.changes++
	}
}

// leftAlone returns since when a registry is left alone, and the status of its last
// answer; the zero time if it is not. It is left alone until a call succeeds, even while
// nobody calls it.
func (c *calls) leftAlone(registry string) (since time.Time, status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lanes[registry]
	if l == nil || l.length == 0 {
		return time.Time{}, 0
	}
	return l.since, l.status
}

// generation grows with each change of what leftAlone returns.
func (c *calls) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changes
}

// join returns a lane, until part.
func (c *calls) join(registry string) *lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lanes[registry]
	if l == nil {
		c.forgetLanes()
		l = &lane{registry: registry, places: semaphore.NewWeighted(callsPerRegistry), cleaningPlaces: semaphore.NewWeighted(callsPerRegistry / 2)}
		c.lanes[registry] = l
	}
	l.users++
	return l
}

// forgetLanes forgets lanes if there are many: whoever may write roles can have any
// number of hosts asked that do not answer. c.mu is held.
func (c *calls) forgetLanes() {
	if len(c.lanes) < c.maxLanes {
		return
	}
	now := c.now()
	c.changes++
	maps.DeleteFunc(c.lanes, func(_ string, l *lane) bool { return l.users == 0 && l.isOver(now) && l.cleaning.isOver(now) })
	c.maxLanes = max(rememberedLanes, 2*len(c.lanes))
}

func (c *calls) part(l *lane) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.users--
	if l.users == 0 && l.failures == 0 && l.cleaning.failures == 0 && l.slowest < firstPatience/2 {
		delete(c.lanes, l.registry)
	}
}

// admit returns a leftAloneError for a registry that is left alone. tried are the pauses
// after which the call is the one that tries the registry again.
func (c *calls) admit(l *lane, u urgency) (tried []*pause, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pauses, now := []*pause{&l.pause}, c.now()
	if u == cleaning {
		pauses = append(pauses, &l.cleaning)
	}
	for _, p := range pauses {
		if p.length > 0 && u != asked && (p.isTried || !p.isOver(now)) {
			return nil, l.leftAlone(p, now)
		}
	}
	tried = slices.DeleteFunc(pauses, func(p *pause) bool { return p.length == 0 || p.isTried })
	for _, p := range tried {
		p.isTried = true
	}
	return tried, nil
}

func (l *lane) leftAlone(p *pause, now time.Time) error {
	again := later(p.until(now), now.Add(time.Second))
	return leftAloneError{logical.CodedError(http.StatusBadGateway, fmt.Sprintf("%s fails, and is asked again at %s: %s", l.registry, formatTime(again), p.lastError))}
}

// record notes what came of a call. Errors that are not of the registry say nothing
// about it. If it answers that it cannot end something, what is due is not delayed.
func (c *calls) record(l *lane, u urgency, err error, took time.Duration) {
	var pull unansweredError
	isUnanswered := issuer.IsUnanswered(err) || errors.As(err, &pull)
	if err != nil && !issuer.IsError(err) && !isUnanswered {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !isUnanswered {
		l.answeredAt = time.Now()
		l.slowest = max(took, l.slowest*9/10)
	}
	wait := min(max(issuer.RetryAfter(err), pull.retryAfter), longestWait)
	if status := issuer.StatusOf(err); !isUnanswered && status < 500 && status != http.StatusTooManyRequests {
		if l.length > 0 {
			c.changes++
		}
		l.clear()
		if u == cleaning {
			l.cleaning.clear()
		}
		return
	}
	p := &l.pause
	if u == cleaning && !isUnanswered && wait == 0 {
		p = &l.cleaning
	}
	if p.length > 0 && wait == 0 && time.Now().Add(-took).Before(p.notedAt) {
		return // the call began before the pause, and makes it no longer
	}
	if p.failures++; p.failures == 1 {
		p.since = c.now()
	}
	c.changes++
	p.status = issuer.StatusOf(err)
	p.failedAt, p.notedAt, p.lastError = c.now(), time.Now(), failureOf(err)
	failures := p.failures
	if !isUnanswered {
		failures -= errorsTolerated - 1
	}
	if failures > 0 {
		wait = max(wait, backOff(c.pause, lastPause, failures))
	}
	p.length = wait
}

// failureOf says in our own words how a call failed. Whoever may read one role of a
// connection is told so, and what the registry said may be about another role.
func failureOf(err error) string {
	if status := issuer.StatusOf(err); status != 0 {
		return fmt.Sprintf("it answered %d %s", status, http.StatusText(status))
	}
	return err.Error()
}

// unansweredError is about a registry that did not answer as a registry does when it
// was asked to give an image.
type unansweredError struct{ retryAfter time.Duration }

func (unansweredError) Error() string { return "it gave no answer of a registry" }
