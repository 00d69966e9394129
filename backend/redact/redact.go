// SPDX-License-Identifier: MPL-2.0

// Package redact makes texts that came from elsewhere fit to be shown: one
// line, short, and free of secrets in any form in which a server may have
// given them back.
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

// Redacted stands in place of a secret.
const Redacted = "[redacted]"

// Truncate cuts a text to a number of runes.
func Truncate(text string, limit int) string {
	runes := []rune(text)
	if len(runes) > limit {
		return strings.TrimSpace(string(runes[:limit-1])) + "…"
	}
	return text
}

// What others said stands between these in a text. No other text has them,
// because they are control characters.
const beginUntrusted, endUntrusted = "\x02", "\x03"

// Untrusted marks a text that came from a server, and may hold what it was sent.
func Untrusted(text string) string {
	return beginUntrusted + strings.NewReplacer(beginUntrusted, "", endUntrusted, "").Replace(text) + endUntrusted
}

// Sanitize cleans a text, and redacts in what [Untrusted] has marked. Only there
// are the secrets searched for: in our own words, or in what the caller named,
// a redaction would tell what the secret is.
func Sanitize(text string, secrets []string) string {
	var shown strings.Builder
	for text != "" {
		ours, rest, _ := strings.Cut(text, beginUntrusted)
		said, after, _ := strings.Cut(rest, endUntrusted)
		// Cleaned first, because that makes a secret of one that has control
		// characters strewn in.
		shown.WriteString(ours + Redact(Clean(said), secrets))
		text = after
	}
	return Clean(shown.String())
}

// Clean makes one line of a text and removes what a terminal could act upon.
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

// Redact replaces all forms of the secrets in a cleaned text.
func Redact(text string, secrets []string) string {
	var all []string
	for _, secret := range secrets {
		for _, form := range Forms(secret) {
			form = Clean(form)
			// Names of hosts and of ways to authenticate come in another case.
			all = append(all, form, strings.ToLower(form), strings.ToUpper(form))
		}
	}
	slices.Sort(all)
	all = slices.DeleteFunc(slices.Compact(all), func(s string) bool { return s == "" })
	// The longest first, so that no rest of one is left behind.
	slices.SortStableFunc(all, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range all {
		pairs = append(pairs, s, Redacted)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// hexEscapes are the parts of an escaped text whose case depends on who wrote it.
var hexEscapes = regexp.MustCompile(`%[0-9A-F]{2}|\\u[0-9a-f]{4}`)

// Forms are the ways in which a text is commonly written.
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
