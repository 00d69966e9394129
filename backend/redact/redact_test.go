// SPDX-License-Identifier: MPL-2.0

package redact_test

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"slices"
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
		if got := redact.Redact("before "+form+" after", []string{"", "other", secret}, []string{"before", "p"}); got != redact.Redacted {
			t.Errorf("%s: want nothing of the text, got %q", name, got)
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

func TestRedactLeavesTextWithoutASecretAlone(t *testing.T) {
	if got := redact.Redact("it is hunter2\x00hunter3", []string{"hunter4"}, nil); got != "it is hunter2hunter3" {
		t.Errorf("got %q", got)
	}
}

// Otherwise whoever names a repository, or has the password "denied" to guess, sees by
// the redaction that the guess is right.
func TestRedactKeepsWhatIsKnownAnyway(t *testing.T) {
	for name, row := range map[string]struct {
		said, secret string
		known        []string
		want         string
	}{
		"a name that was given":                {"no project group/app here", "group", []string{"group/app"}, "no project group/app here"},
		"the name itself":                      {"no project app", "app", []string{"app"}, "no project app"},
		"the name, escaped":                    {"no project group%2Fapp", "group%2fapp", []string{"group/app"}, "no project group%2Fapp"},
		"what servers say":                     {"DENIED: requested access to the resource is denied", "denied", nil, "DENIED: requested access to the resource is denied"},
		"a letter of it":                       {"UNAUTHORIZED: authentication required", "c", nil, "UNAUTHORIZED: authentication required"},
		"beyond a name":                        {"no project group/app", "group/app2", []string{"group/app"}, "no project group/app"},
		"a name and more":                      {"bot-secret is wrong", "bot-secret", []string{"bot"}, redact.Redacted},
		"in front of a name":                   {"both", "both", []string{"bot"}, redact.Redacted},
		"half in a name":                       {"bothunter", "thunter", []string{"both"}, redact.Redacted},
		"in a name and outside":                {"app, app and apt", "ap", []string{"app"}, redact.Redacted},
		"so often in a name that it is enough": {strings.Repeat("app ", 1000) + "ap", "ap", []string{"app"}, redact.Redacted},
	} {
		if got := redact.Redact(row.said, []string{row.secret}, row.known); got != row.want {
			t.Errorf("%s: got %q, want %q", name, got, row.want)
		}
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
	if got := redact.Sanitize(text, []string{"hunter2"}, nil); got != "hunter2 said [redacted] and no" {
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
		got := redact.Redact(said, []string{one, two}, nil)
		for _, form := range forms {
			inCommon := func(text string) bool {
				return strings.Contains(strings.ToLower(text), strings.ToLower(redact.Clean(form)))
			}
			if got != redact.Redacted && !slices.ContainsFunc(redact.CommonTexts, inCommon) {
				t.Fatalf("%q of the secrets %q and %q is left in %q", form, one, two, got)
			}
		}
		if shown := redact.Sanitize(redact.Untrusted(said), []string{one, two}, nil); shown != redact.Clean(shown) {
			t.Fatalf("%q is not clean", shown)
		}
		if short := []rune(redact.Truncate(got, 20)); len(short) > 20 {
			t.Fatalf("%q is longer than 20 characters", string(short))
		}
	})
}

func TestOursLeavesOutWhatOthersSaid(t *testing.T) {
	for text, want := range map[string]string{
		"it failed": "it failed",
		"it said " + redact.Untrusted("hello, robot") + ", at\n" + redact.Untrusted("x") + " last": "it said …, at … last",
		redact.Untrusted("robot"): "…",
		"":                        "",
	} {
		if got := redact.Ours(text); got != want {
			t.Errorf("%q: want %q, got %q", text, want, got)
		}
	}
}
