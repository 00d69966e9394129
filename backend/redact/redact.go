// SPDX-License-Identifier: MPL-2.0

// Package redact makes texts from servers fit to be shown: one line, short, and
// without secrets in any encoding that a server may have returned.
//
// Only text that came from a server is searched for secrets. Our own words hold none,
// and a message must not change with the secret: otherwise its readers could guess a
// short password by what is redacted.
package redact

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Redacted stands in place of a text that repeats a secret.
const Redacted = "[redacted]"

// Truncate shortens a text to at most limit runes.
func Truncate(text string, limit int) string {
	runes := []rune(text)
	if len(runes) > limit {
		return strings.TrimSpace(string(runes[:limit-1])) + "…"
	}
	return text
}

// beginUntrusted and endUntrusted enclose untrusted text. They are control
// characters, so no other text contains them.
const beginUntrusted, endUntrusted = "\x02", "\x03"

// Untrusted marks text from a server, which may contain what the server was sent.
func Untrusted(text string) string {
	return beginUntrusted + strings.NewReplacer(beginUntrusted, "", endUntrusted, "").Replace(text) + endUntrusted
}

// Join marks each of the texts from a server, and joins those that are not empty. What
// stands between them is ours. Nothing must be cut off from a text before it is marked:
// a part of a secret would not be found.
func Join(separator string, texts ...string) string {
	var marked []string
	for _, text := range texts {
		if Clean(text) != "" {
			marked = append(marked, Untrusted(text))
		}
	}
	return strings.Join(marked, separator)
}

// Sanitize cleans a text, and replaces each part that [Untrusted] has marked and that
// repeats a secret. It searches no other part: a redaction in our own words, or in a
// name that the caller gave, would reveal the secret. For the same reason it replaces a
// part as a whole, and only if the secret stands outside of what is known anyway: the
// texts in known, such as names that the caller gave, and what servers say to everyone.
func Sanitize(text string, secrets, known []string) string {
	var shown strings.Builder
	for text != "" {
		ours, rest, _ := strings.Cut(text, beginUntrusted)
		said, after, _ := strings.Cut(rest, endUntrusted)
		shown.WriteString(ours + Redact(said, secrets, known))
		text = after
	}
	return Clean(shown.String())
}

// Ours cleans a text, and leaves out each part that [Untrusted] has marked.
func Ours(text string) string {
	var shown strings.Builder
	for text != "" {
		ours, rest, marked := strings.Cut(text, beginUntrusted)
		_, after, _ := strings.Cut(rest, endUntrusted)
		shown.WriteString(ours)
		if marked {
			shown.WriteString("…")
		}
		text = after
	}
	return Clean(shown.String())
}

// Clean turns a text into one line without characters that control a terminal.
func Clean(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsGraphic(r):
			return r
		}
		return -1
	}, strings.ToValidUTF8(text, "\uFFFD"))
	return strings.Join(strings.Fields(text), " ")
}

// Redact returns a cleaned text from a server, or [Redacted] if it repeats one of the
// secrets in any encoding.
func Redact(said string, secrets, known []string) string {
	// Clean comes first, because a secret with control characters in between becomes
	// a plain secret by it.
	said = Clean(said)
	if said == "" {
		return ""
	}
	shown := variants(known)
	for _, secret := range variants(secrets) {
		if holds(said, secret, shown) {
			return Redacted
		}
	}
	return said
}

// variants returns all forms of texts in which a server may have returned them.
// Servers change the case of host names and authentication schemes.
func variants(texts []string) []string {
	var all []string
	for _, text := range texts {
		for _, form := range Forms(text) {
			form = Clean(form)
			all = append(all, form, strings.ToLower(form), strings.ToUpper(form))
		}
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(s string) bool { return s == "" })
}

// maxOccurrences caps how often a secret may stand inside of known texts.
const maxOccurrences = 100

// holds reports whether a secret stands in a text outside of the known texts.
func holds(said, secret string, known []string) bool {
	for n, begin := 0, 0; ; n++ {
		i := strings.Index(said[begin:], secret)
		if i < 0 {
			return false
		}
		begin += i
		end := begin + len(secret)
		inside := func(text string) bool {
			return len(text) >= len(secret) &&
				strings.Contains(said[max(0, end-len(text)):min(len(said), begin+len(text))], text)
		}
		if n == maxOccurrences || !slices.ContainsFunc(known, inside) && !slices.ContainsFunc(commonTexts, inside) {
			return true
		}
		begin++
	}
}

// hexEscapes matches escapes that some programs write in upper case and others in
// lower case.
var hexEscapes = regexp.MustCompile(`%[0-9A-F]{2}|\\u[0-9a-f]{4}`)

// Forms returns the common encodings of a text, including the text itself.
func Forms(secret string) []string {
	if secret == "" {
		return nil
	}
	escaped := []string{
		url.QueryEscape(secret),
		url.PathEscape(secret),
		(&url.URL{Path: secret}).EscapedPath(),
		html.EscapeString(secret),
		inJSON(secret, true),
		inJSON(secret, false),
		unquote(strconv.Quote(secret)),
		unquote(strconv.QuoteToASCII(secret)),
	}
	all := []string{secret}
	for _, s := range escaped {
		lower := hexEscapes.ReplaceAllStringFunc(s, strings.ToLower)
		upper := hexEscapes.ReplaceAllStringFunc(s, func(e string) string { return e[:2] + strings.ToUpper(e[2:]) })
		all = append(all, s, lower, upper)
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		all = append(all, encoding.EncodeToString([]byte(secret)))
	}
	return all
}

func inJSON(s string, escapeHTML bool) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(escapeHTML)
	_ = encoder.Encode(s)
	return unquote(strings.TrimSuffix(b.String(), "\n"))
}

func unquote(s string) string { return s[1 : len(s)-1] }
