// SPDX-License-Identifier: MPL-2.0

package dockerconfig

import (
	"fmt"
	"io"
)

const redacted = "[redacted]"

// Secret holds a text that must not reach a log, an error or a read-back. Formatting
// or marshalling it gives "[redacted]"; only [Secret.Reveal] returns the text. The
// zero Secret is the empty text.
type Secret struct {
	// text is a pointer, because fmt does not call methods on unexported fields. If
	// a struct holds a Secret in one, fmt prints a string field as it is, and a
	// pointer only as an address.
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

// MarshalText implements [encoding.TextMarshaler], which JSON and structured logs
// use.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
