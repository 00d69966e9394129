// SPDX-License-Identifier: MPL-2.0

package leaktest_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/leaktest"
)

// everyByte writes each byte of a text in a format.
func everyByte(format, text string) string {
	var b strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&b, format, c)
	}
	return b.String()
}

func inJSON(t *testing.T, value any) string {
	t.Helper()
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

func TestEveryFormIsFound(t *testing.T) {
	for name, special := range map[string]string{"letters and digits": "", "with characters that are escaped": `<&>"\'é %+/~` + "\n\x00😀"} {
		var marks leaktest.Marks
		secret := marks.New("the field")
		if special != "" {
			secret = secret[:14] + special + secret[14:]
			marks.Add("the other field", secret)
		}
		for form, text := range map[string]string{
			"as it is":                          secret,
			"in lower case":                     strings.ToLower(secret),
			"in upper case":                     strings.ToUpper(secret),
			"its first piece":                   secret[:8],
			"its last piece":                    secret[len(secret)-8:],
			"a piece in the middle":             secret[5:13],
			"in JSON":                           inJSON(t, secret),
			"in JSON in JSON":                   inJSON(t, inJSON(t, map[string]string{"a": secret})),
			"in JSON, each escaped":             everyByte(`\u%04x`, secret),
			"quoted":                            strconv.Quote(secret),
			"quoted in ASCII":                   strconv.QuoteToASCII(secret),
			"each escaped as Go does":           everyByte(`\x%02x`, secret),
			"each escaped as C does":            everyByte(`\%03o`, secret),
			"in a query":                        url.QueryEscape(secret),
			"in a path":                         url.PathEscape(secret),
			"in a URL, each escaped":            everyByte("%%%02X", secret),
			"in a URL, each escaped lower":      everyByte("%%%02x", secret),
			"in a URL in JSON":                  inJSON(t, "https://a/?b="+url.QueryEscape(inJSON(t, secret))),
			"in HTML":                           html.EscapeString(secret),
			"in HTML, each escaped":             everyByte("&#%d;", secret),
			"in hexadecimal":                    hex.EncodeToString([]byte(secret)),
			"in hexadecimal, upper case":        strings.ToUpper(hex.EncodeToString([]byte(secret))),
			"in hexadecimal, a piece":           hex.EncodeToString([]byte(secret[3:11])),
			"%x":                                fmt.Sprintf("%x", secret),
			"% x":                               fmt.Sprintf("% x", secret),
			"% X":                               fmt.Sprintf("% X", secret),
			"%v of bytes":                       fmt.Sprintf("%v", []byte(secret)),
			"%d of bytes with more around them": fmt.Sprintf("%d", []byte("ab"+secret+"cd")),
			"bytes in JSON":                     strings.ReplaceAll(fmt.Sprintf("%d", []byte(secret)), " ", ","),
			"%#v":                               fmt.Sprintf("%#v", map[string]string{"a": secret}),
			"cut at the start":                  secret[9:],
			"cut at the end":                    secret[:len(secret)-9],
		} {
			for _, embedded := range []string{text, "before " + text + " after", "x" + text + "x"} {
				if marks.In(embedded) == nil {
					t.Errorf("%s, %s: not found in %q", name, form, embedded)
				}
			}
		}
		for encoding, with := range map[string]*base64.Encoding{
			"standard": base64.StdEncoding, "raw": base64.RawStdEncoding, "URL": base64.URLEncoding, "raw URL": base64.RawURLEncoding,
		} {
			for offset := range 4 {
				for after := range 4 {
					for _, part := range []string{secret, secret[:8], secret[6:14], secret[len(secret)-8:]} {
						text := with.EncodeToString([]byte(strings.Repeat("?", offset) + part + strings.Repeat(">", after)))
						if marks.In(text) == nil {
							t.Errorf("%s: %q in %s base64, %d bytes in and %d before the end, not found in %q", name, part, encoding, offset, after, text)
						}
					}
				}
			}
		}
	}
}

func TestWhatIsNoSecretIsNotFound(t *testing.T) {
	var marks leaktest.Marks
	if found := marks.In("anything"); found != nil {
		t.Errorf("want nothing of no marks, got %q", found)
	}
	secret := marks.New("the field")
	var other leaktest.Marks
	for _, text := range []string{"", secret[:7], secret[len(secret)-7:], "[redacted]", strings.Repeat("the registry answered 401 ", 10_000), other.New("elsewhere"), secret[:7] + " " + secret[7:14]} {
		if found := marks.In(text); found != nil {
			t.Errorf("found in %.50q: %q", text, found)
		}
	}
	// These are not found, because no tested program writes them.
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte(secret))
	_ = w.Close()
	for _, text := range []string{zipped.String()[:4], base32.StdEncoding.EncodeToString([]byte(secret))} {
		if found := marks.In(text); found != nil {
			t.Errorf("found in %q: %q", text, found)
		}
	}
}

// A leak is reported once for each secret, with the place where it was planted and the
// text around it.
func TestLeaksAreTold(t *testing.T) {
	var marks leaktest.Marks
	one, two := marks.New("password of roles/app"), marks.New("token of connections/app")
	found := marks.In("error: bad token " + two + " and " + one + ", " + one)
	if len(found) != 2 {
		t.Fatalf("want two leaks, got %q", found)
	}
	for i, where := range []string{"token of connections/app, as it is: …error: bad token ", "password of roles/app, as it is: …error: bad token "} {
		if !strings.HasPrefix(found[i], where) {
			t.Errorf("want a leak that begins with %q, got %q", where, found[i])
		}
	}
	if one == two || len(one) < 24 {
		t.Errorf("want different secrets of 24 characters and more, got %q and %q", one, two)
	}
}

func TestShortSecretsAreFoundWhole(t *testing.T) {
	var marks leaktest.Marks
	marks.Add("the pin", "77-31")
	if marks.In("it is 77-31.") == nil || marks.In("it is 77-3") != nil {
		t.Error("want a short secret found as a whole, and not in part")
	}
}
