// SPDX-License-Identifier: MPL-2.0

package soak

import "sync"

// history is what something was made to be by its one writer, state by state.
// It knows what a read may see: nothing older than what was acknowledged, or
// seen by another read, before the read was sent; and nothing that was not yet
// written when it was answered.
type history[S any] struct {
	mu     sync.Mutex
	states []written[S]
	oldest int // that a read which is sent now may see
}

type written[S any] struct {
	value   S
	refused bool // certainly never stored
}

func newHistory[S any](first S) *history[S] {
	return &history[S]{states: []written[S]{{value: first}}}
}

// last returns the state as far as the writer knows; certain says that the last
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

// write has a state written. Until it is acknowledged, or another one is, both
// it and what was before may be seen.
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

// sent is called before a read is sent. What it returns is for the functions
// below, which are called once it was answered.
func (h *history[S]) sent() (oldest int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.oldest
}

// maySee reports whether a read may see a state for which a function is true.
func (h *history[S]) maySee(oldest int, is func(S) bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.first(oldest, is) >= 0
}

// saw is maySee of a read that saw such a state: no later one may see an older.
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
