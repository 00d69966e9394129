// SPDX-License-Identifier: MPL-2.0

// Package leaktest finds planted secrets in the output of tests: whole or in pieces,
// and in any encoding that a program may have used.
package leaktest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

const (
	// fragment is how many consecutive bytes of a secret count as a leak.
	fragment = 8

	// maxUnescapes is how often a text is unescaped, such as JSON in JSON in a URL.
	maxUnescapes = 3

	// contextBytes is how many bytes are shown before and after a leak.
	contextBytes = 60
)

// Marks are planted secrets. The zero value is ready to use, and safe for concurrent
// use.
type Marks struct {
	mu    sync.Mutex
	exact index // forms whose case matters, such as base64
	fold  index // all other forms, in lower case
	short []form
}

// index finds forms by their first bytes. Each form has at least fragment bytes.
type index map[string][]form

// form is a text that reveals a secret.
type form struct{ where, name, text string }

// New returns a new secret to plant, of letters and digits only. where says where it
// is planted.
func (m *Marks) New(where string) string {
	secret := "Mk" + rand.Text()
	m.Add(where, secret)
	return secret
}

// Add adds a secret that New did not create.
func (m *Marks) Add(where, secret string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.exact == nil {
		m.exact, m.fold = index{}, index{}
	}
	for _, f := range formsOf(secret) {
		f.where = where
		into := m.fold
		if strings.HasPrefix(f.name, "in base64") {
			into = m.exact
		} else {
			f.text = lowered(f.text)
		}
		if len(f.text) < fragment {
			m.short = append(m.short, f)
			continue
		}
		into[f.text[:fragment]] = append(into[f.text[:fragment]], f)
	}
}

// formsOf returns the texts that reveal a secret: its fragments in each encoding that
// unescape cannot undo. A secret that is shorter than a fragment is one fragment.
func formsOf(secret string) []form {
	var forms []form
	numbers := func(text string) string { return strings.Trim(fmt.Sprintf("%d", []byte(text)), "[]") }
	for start := 0; start == 0 || start+fragment <= len(secret); start++ {
		part := secret[start:min(start+fragment, len(secret))]
		forms = append(
			forms,
			form{name: "as it is", text: part},
			form{name: "in hexadecimal", text: hex.EncodeToString([]byte(part))},
			form{name: "in hexadecimal, spaced", text: fmt.Sprintf("% x", part)},
			form{name: "as bytes", text: numbers(part)},
			form{name: "as bytes with commas", text: strings.ReplaceAll(numbers(part), " ", ",")},
		)
		for offset := range 3 {
			// The bytes before and after the fragment change its first and last
			// characters, so these are left out.
			encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", offset) + part))
			inner := encoded[(offset*8+5)/6 : (offset+len(part))*8/6]
			forms = append(forms, form{name: "in base64", text: inner}, form{name: "in base64 for URLs", text: strings.NewReplacer("+", "-", "/", "_").Replace(inner)})
		}
	}
	return forms
}

// In returns the secrets found in a text, each with the place where it was planted.
func (m *Marks) In(text string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []string
	seen := map[string]bool{}
	for round := 0; ; round++ {
		tell := func(f form, at int) {
			if seen[f.where] {
				return
			}
			seen[f.where] = true
			near := strings.ToValidUTF8(text[max(0, at-contextBytes):min(len(text), at+len(f.text)+contextBytes)], "?")
			found = append(found, fmt.Sprintf("%s, %s: …%s…", f.where, f.name, near))
		}
		// Byte by byte, so that offsets stay the same.
		lower := lowered(text)
		m.exact.in(text, tell)
		m.fold.in(lower, tell)
		for _, f := range m.short {
			if at := strings.Index(lower, f.text); at >= 0 && !strings.HasPrefix(f.name, "in base64") {
				tell(f, at)
			} else if at := strings.Index(text, f.text); at >= 0 {
				tell(f, at)
			}
		}
		unescaped := unescape(text)
		if round == maxUnescapes || unescaped == text {
			return found
		}
		text = unescaped
	}
}

func (x index) in(text string, tell func(form, int)) {
	if len(x) == 0 {
		return
	}
	for at := 0; at+fragment <= len(text); at++ {
		for _, f := range x[text[at:at+fragment]] {
			if strings.HasPrefix(text[at:], f.text) {
				tell(f, at)
			}
		}
	}
}

// lowered returns the text with its ASCII letters in lower case.
func lowered(text string) string {
	b := []byte(text)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// escapes matches the escapes of URLs, JSON, Go and shells.
var escapes = regexp.MustCompile(`%[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\[0-7]{3}|\\["'\\/]`)

// unescape undoes one layer of every known escape.
func unescape(text string) string {
	if !strings.ContainsAny(text, `%\&`) {
		return text
	}
	text = escapes.ReplaceAllStringFunc(text, func(escape string) string {
		switch {
		case len(escape) == 2:
			return escape[1:]
		case escape[0] == '%':
			raw, _ := hex.DecodeString(escape[1:])
			return string(raw)
		}
		if unquoted, err := strconv.Unquote(`"` + escape + `"`); err == nil {
			return unquoted
		}
		return escape // half of a surrogate pair
	})
	return html.UnescapeString(text)
}
