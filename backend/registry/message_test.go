// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/redact"
)

const redacted = redact.Redacted

func TestSanitize(t *testing.T) {
	long := strings.Repeat("ü", 400)
	for _, row := range []struct{ name, message, want string }{
		{"nothing", "", ""},
		{"as it is", "the registry answered 403 Forbidden: DENIED: no", "the registry answered 403 Forbidden: DENIED: no"},
		{"many lines", " one\r\ntwo\n\n\tthree\u2028four ", "one two three four"},
		{"control characters", "a\x1b[31mb\x00c\x7f\u009bd\u202ee\u200bf\ufefff", "a[31mbcdeff"},
		{"not UTF-8", "a\xffb", "a\uFFFDb"},
		{"too long", long, long[:2*299] + "…"},
		{"just short enough", long[:2*300], long[:2*300]},
		{"the secret", "it is hunter2!", "[redacted]"},
		{"with control characters in it", "h\x00unter2", "[redacted]"},
		{"at the end of what fits", strings.Repeat("x", 298) + "hunter2", "[redacted]"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := sanitize(untrusted(row.message), []string{"hunter2"}, nil); got != row.want {
				t.Errorf("got  %q\nwant %q", got, row.want)
			}
		})
	}
}

// A redaction in our own words, or in a name that the caller gave, would reveal the
// secret.
func TestSanitizeLeavesOurOwnWordsAlone(t *testing.T) {
	message := "the registry hunter2 answered: " + untrusted("hunter2 \x02hunter2\x03") + " and hunter2 " + untrusted("no")
	want := "the registry hunter2 answered: [redacted] and hunter2 no"
	if got := sanitize(message, []string{"hunter2"}, nil); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := sanitize("there was no complete answer", []string{"p"}, nil); got != "there was no complete answer" {
		t.Errorf("our own words were redacted: %q", got)
	}
}

// Whoever names a repository must not see by a redaction that its name, or a part of
// it, is the password.
func TestSanitizeKeepsTheNamesThatWereGiven(t *testing.T) {
	s := &session{
		credential: dockerconfig.Credential{Registry: "registry.example.com", Username: "robot"},
		repository: repository{path: "group/sub/app", tag: "1.4"},
	}
	for _, name := range []string{"group/sub/app", "group/sub", "group", "sub", "sub/app", "app", "1.4", "robot", "registry.example.com"} {
		text := "there is no " + name + " here"
		if got := sanitize(untrusted(text), []string{name}, s.known()); got != text {
			t.Errorf("%q: got %q", text, got)
		}
	}
}

func TestPlainHTTPIsForThisMachineOnly(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "a.localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true, "::ffff:127.0.0.1": true,
		"10.0.0.1": false, "192.168.1.1": false, "172.16.0.1": false, "fd00::1": false, "registry.local": false,
		"localhost.example.com": false, "127.0.0.1.example.com": false, "registry.example.com": false, "": false,
	} {
		if got := IsLoopback(host); got != want {
			t.Errorf("%q: got %v", host, got)
		}
	}
}

func FuzzSanitizeHidesTheSecret(f *testing.F) {
	f.Add("before ", "secret", " after")
	f.Add(`{"a":"`, `p"4\ss:<&>$ ü/%+`, `"}`)
	f.Add("x", "multi\nline\nkey", "y")
	f.Add("", "👩‍👩‍👧", "\x00")
	f.Fuzz(func(t *testing.T, before, secret, after string) {
		if len(secret) < 6 || !utf8.ValidString(secret) || strings.ContainsRune(secret, 0) || redact.Clean(secret) == "" || strings.Contains(redacted, redact.Clean(secret)) {
			return // not a password, or a text that any message may contain
		}
		encoded, err := json.Marshal(secret)
		if err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{
			secret, redact.Clean(secret), string(encoded), strconv.Quote(secret), html.EscapeString(secret),
			url.QueryEscape(secret), url.PathEscape(secret), strings.ToLower(url.PathEscape(secret)),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
		} {
			got := sanitize(untrusted(before+form+after), []string{secret}, nil)
			if !strings.Contains(before+after, secret) && strings.Contains(got, secret) && !strings.Contains(redacted, secret) {
				t.Errorf("%q holds the secret %q", got, secret)
			}
			if got != redact.Clean(got) || utf8.RuneCountInString(got) > maxMessage {
				t.Errorf("%q is not one line of at most %d runes", got, maxMessage)
			}
		}
	})
}
