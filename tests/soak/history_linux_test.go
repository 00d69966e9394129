// SPDX-License-Identifier: MPL-2.0

package soak

import "sync"

// history is the states that one writer has given to something, in order. It
// knows which states a read may see: none older than one that was acknowledged,
// or seen by another read, before the read was sent; and none that was written
// after the answer.
type history[S any] struct {
	mu     sync.Mutex
	states []written[S]
	oldest int // the oldest state that a read which is sent now may see
}

type written[S any] struct {
	value   S
	refused bool // certainly never stored
}

func newHistory[S any](first S) *history[S] {
	return &history[S]{states: []written[S]{{value: first}}}
}

// last returns the last state that the writer knows of; certain says that its
// write was acknowledged.
func (h *history[S]) last() (value S, certain bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := len(h.states) - 1
	for h.states[i].refused {
		i--
	}
	return h.states[i].value, h.oldest >= i
}

// write sends a write. Until it or a later one is acknowledged, reads may see
// the old state or the new one.
func (h *history[S]) write(value S, send func() outcome) outcome {
	h.mu.Lock()
	h.states = append(h.states, written[S]{value: value})
	n := len(h.states) - 1
	h.mu.Unlock()
	came := send()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch came {
	case acknowledged:
		h.oldest = max(h.oldest, n)
	case refused:
		h.states[n].refused = true
	}
	return came
}

// sent is called before a read is sent. Its result is for the functions below,
// which are called after the answer.
func (h *history[S]) sent() (oldest int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.oldest
}

// maySee reports whether a read may see a state for which is returns true.
func (h *history[S]) maySee(oldest int, is func(S) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.first(oldest, is) >= 0
}

// saw is maySee, and records that the read saw the state: no later read may see
// an older one.
func (h *history[S]) saw(oldest int, is func(S) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.first(oldest, is)
	h.oldest = max(h.oldest, n)
	return n >= 0
}

func (h *history[S]) first(oldest int, is func(S) bool) int {
	for n := oldest; n < len(h.states); n++ {
		if !h.states[n].refused && is(h.states[n].value) {
			return n
		}
	}
	return -1
}
