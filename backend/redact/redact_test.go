// SPDX-License-Identifier: MPL-2.0

package redact_test

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/redact"
)

func TestRedactFindsASecretInEveryForm(t *testing.T) {
	const secret = `p"a<s>s&é/ w\rd`
	inJSON, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for name, form := range map[string]string{
		"as it is": secret, "in JSON": strings.Trim(string(inJSON), `"`), "in HTML": html.EscapeString(secret),
		"in a query": url.QueryEscape(secret), "in a path": url.PathEscape(secret), "in a query, lower case": lowerEscapes(url.QueryEscape(secret)),
		"quoted": strings.Trim(strconv.Quote(secret), `"`), "quoted as ASCII": strings.Trim(strconv.QuoteToASCII(secret), `"`),
		"in lower case": strings.ToLower(secret), "in upper case": strings.ToUpper(secret),
		"in base64":          base64.StdEncoding.EncodeToString([]byte(secret)),
		"in base64, for URL": base64.RawURLEncoding.EncodeToString([]byte(secret)),
	} {
		got := redact.Redact(redact.Clean("before "+form+" after"), []string{"", "other", secret})
		if !strings.Contains(got, redact.Redacted) || strings.Contains(got, redact.Clean(form)) || !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") {
			t.Errorf("%s: want the secret out of it and all else in it, got %q", name, got)
		}
	}
}

// lowerEscapes writes percent escapes in lower case, as some servers do.
func lowerEscapes(text string) string {
	parts := strings.Split(text, "%")
	for i := range parts[1:] {
		part := parts[i+1]
		parts[i+1] = strings.ToLower(part[:2]) + part[2:]
	}
	return strings.Join(parts, "%")
}

func TestRedactLeavesNoRestOfALongerSecret(t *testing.T) {
	if got := redact.Redact("it is hunter2hunter3", []string{"hunter2", "hunter2hunter3"}); got != "it is [redacted]" {
		t.Errorf("got %q", got)
	}
}

func TestCleanMakesOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "",
		"one\r\ntwo\n\n\tthree\u2028": "one two three",
		"a\x1b[31mb\x00c\x7f\u202ed":  "a[31mbcd",
		"a\xffb":                      "a\uFFFDb",
	} {
		if got := redact.Clean(text); got != want {
			t.Errorf("%q: want %q, got %q", text, want, got)
		}
	}
}

func TestShortenCountsRunes(t *testing.T) {
	for text, want := range map[string]string{"äöü": "äöü", "äöüß": "äö…", "ab cd": "ab…"} {
		if got := redact.Truncate(text, 3); got != want {
			t.Errorf("%q: want %q, got %q", text, want, got)
		}
	}
}

func TestPresentRedactsWhatOthersSaid(t *testing.T) {
	text := "hunter2 said " + redact.Untrusted("it\nis\x02 hunter2\x03") + " and " + redact.Untrusted("no")
	if got := redact.Sanitize(text, []string{"hunter2"}); got != "hunter2 said it is [redacted] and no" {
		t.Errorf("got %q", got)
	}
}

// FuzzRedact looks for the rest of two secrets in a text that contains all encodings of
// both.
func FuzzRedact(f *testing.F) {
	for _, secret := range []string{"hunter2", `p"4\ss:<&>$ ü/%+`, "a\nb", "👩‍👩‍👧", "\x00", "[red", "", "%41", "\\u0041"} {
		f.Add("before ", secret, " after", "hunter2hunter3")
	}
	f.Fuzz(func(t *testing.T, before, one, after, two string) {
		forms := append(redact.Forms(one), redact.Forms(two)...)
		said := before + strings.Join(forms, after+"\n"+before) + after
		got := redact.Redact(redact.Clean(said), []string{one, two})
		for _, form := range forms {
			hidden, place := redact.Clean(form), redact.Redacted
			if hidden == "" || strings.ContainsAny(hidden, "[]") || strings.Contains(place, hidden) {
				continue // may be part of the replacement
			}
			if strings.Contains(got, hidden) {
				t.Fatalf("%q of the secrets %q and %q is left in %q", hidden, one, two, got)
			}
		}
		if shown := redact.Sanitize(redact.Untrusted(said), []string{one, two}); shown != redact.Clean(shown) {
			t.Fatalf("%q is not clean", shown)
		}
		if short := []rune(redact.Truncate(got, 20)); len(short) > 20 {
			t.Fatalf("%q is longer than 20 characters", string(short))
		}
	})
}
