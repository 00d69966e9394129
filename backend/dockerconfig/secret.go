// SPDX-License-Identifier: MPL-2.0

package dockerconfig

import (
	"fmt"
	"io"
)

const redacted = "[redacted]"

// Secret holds a text that must not reach a log, an error or a read-back.
// Whatever formats or marshals it gets "[redacted]"; only [Secret.Reveal]
// gives the text. The zero Secret is the empty text.
type Secret struct {
	// A pointer, because fmt does not call methods on unexported fields: a
	// struct that holds a Secret in one would print a plain string, but
	// prints only the address of this one.
	text *string
}

// NewSecret wraps text.
func NewSecret(text string) Secret { return Secret{text: &text} }

// Reveal returns the text.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Equal reports whether both hold the same text.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

// Format implements [fmt.Formatter] for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText implements [encoding.TextMarshaler], and so covers JSON and
// structured logs.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
