// SPDX-License-Identifier: MPL-2.0

// Package leaktest is for tests that plant secrets and look for them where they
// must not be: whole or in pieces, and in whatever form a program may have
// written them.
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
	// fragment is how many bytes of a mark in a row give it away.
	fragment = 8

	// maxUnescapes is how often a text is unescaped: JSON in JSON in a URL.
	maxUnescapes = 3

	// contextBytes is how many bytes are shown in front of a leak and behind it.
	contextBytes = 60
)

// Marks are secrets that were planted. The zero value is ready to use, also by
// many goroutines at once.
type Marks struct {
	mu    sync.Mutex
	exact index // of what has letters in either case, such as base64
	fold  index // of all else, in lower case
	short []form
}

// index finds forms by their first bytes, of which each has a piece at least.
type index map[string][]form

// form is a text that gives a secret away.
type form struct{ where, name, text string }

// New returns a secret that is found again. where says where it is planted. It
// is made of letters and digits, so that it can stand anywhere.
func (m *Marks) New(where string) string {
	secret := "Mk" + rand.Text()
	m.Add(where, secret)
	return secret
}

// Add has a secret looked for that came from elsewhere.
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

// formsOf returns what gives a secret away: its pieces in each encoding that
// cannot be undone in the text that is searched. A secret that is shorter than
// a piece is one itself.
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
			// What stands in front of the piece and behind it changes the first
			// and the last characters.
			encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", offset) + part))
			inner := encoded[(offset*8+5)/6 : (offset+len(part))*8/6]
			forms = append(forms, form{name: "in base64", text: inner}, form{name: "in base64 for URLs", text: strings.NewReplacer("+", "-", "/", "_").Replace(inner)})
		}
	}
	return forms
}

// In returns what of the secrets is in a text, each with where it was planted:
// nothing is what is wanted.
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
		// Of bytes, so that what stands at a place stays there.
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

// lowered is the text with the letters of ASCII in lower case.
func lowered(text string) string {
	b := []byte(text)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// escapes are those of URLs, JSON, Go and shells.
var escapes = regexp.MustCompile(`%[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\[0-7]{3}|\\["'\\/]`)

// unescape undoes one layer of all escapes that are known.
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
