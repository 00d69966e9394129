// SPDX-License-Identifier: MPL-2.0

// Package redact makes texts from servers fit to be shown: one line, short, and
// without secrets in any encoding that a server may have returned.
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

// Redacted replaces a secret.
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

// Sanitize cleans a text, and redacts the secrets in the parts that [Untrusted] has
// marked. It searches no other part: a redaction in our own words, or in a name that
// the caller gave, would reveal the secret.
func Sanitize(text string, secrets []string) string {
	var shown strings.Builder
	for text != "" {
		ours, rest, _ := strings.Cut(text, beginUntrusted)
		said, after, _ := strings.Cut(rest, endUntrusted)
		// Clean comes first, because a secret with control characters in between
		// becomes a plain secret by it.
		shown.WriteString(ours + Redact(Clean(said), secrets))
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

// Redact replaces every encoding of the secrets in a cleaned text.
func Redact(text string, secrets []string) string {
	var all []string
	for _, secret := range secrets {
		for _, form := range Forms(secret) {
			form = Clean(form)
			// Servers change the case of host names and authentication schemes.
			all = append(all, form, strings.ToLower(form), strings.ToUpper(form))
		}
	}
	slices.Sort(all)
	all = slices.DeleteFunc(slices.Compact(all), func(s string) bool { return s == "" })
	// The longest comes first, so that no part of a longer one remains.
	slices.SortStableFunc(all, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range all {
		pairs = append(pairs, s, Redacted)
	}
	return strings.NewReplacer(pairs...).Replace(text)
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
