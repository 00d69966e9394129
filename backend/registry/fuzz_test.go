// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/redact"
)

// fuzzedPassword must not appear in messages. It is longer than any text that a fuzzer
// finds by itself.
const fuzzedPassword = "Q7wKx2Zr9TbNm4Vc"

// maxFuzzedCalls is how often a fuzzed registry answers before it closes.
const maxFuzzedCalls = 24

var (
	fuzzedBasic = base64.StdEncoding.EncodeToString([]byte(username + ":" + fuzzedPassword))
	namedRealm  = regexp.MustCompile(`(?i)realm="?([^",]*)`)
)

type fuzzedAnswer struct {
	status uint16
	header string
	body   string
}

// fuzzedRegistry gives the answers in turn, repeats the last one, and then fails. It
// checks each request and where it goes.
type fuzzedRegistry struct {
	t       *testing.T
	host    string
	answers []fuzzedAnswer
	calls   int
	found   bool // it has answered 200
	realms  []string
}

// RoundTrip implements [http.RoundTripper].
func (f *fuzzedRegistry) RoundTrip(r *http.Request) (*http.Response, error) {
	plain := IsLoopback(r.URL.Hostname()) || strings.HasPrefix(f.host, "localhost")
	if r.URL.Scheme != "https" && (r.URL.Scheme != "http" || !plain) || r.Method != http.MethodGet && r.Method != http.MethodHead {
		f.t.Errorf("a request that must not be made: %s %s", r.Method, r.URL)
	}
	if addr, err := netip.ParseAddr(r.URL.Hostname()); err == nil && forbidden(addr) {
		f.t.Errorf("a request to %s", addr)
	}
	for _, name := range []string{"Cookie", "Referer", "Proxy-Authorization"} {
		if r.Header.Get(name) != "" {
			f.t.Errorf("sends %s to %s", name, r.URL.Host)
		}
	}
	if sent := r.Header.Get("Authorization"); sent != "" && !strings.EqualFold(r.URL.Host, f.host) && !slices.Contains(f.realms, originOf(r.URL).host) {
		f.t.Errorf("sends a credential to %s, which is neither the registry %s nor a token server that it named %q", r.URL.Host, f.host, f.realms)
	}
	if f.calls++; f.calls > maxFuzzedCalls {
		return nil, io.ErrUnexpectedEOF
	}
	a := f.answers[min(f.calls, len(f.answers))-1]
	said := strings.NewReplacer("{secret}", fuzzedPassword, "{basic}", fuzzedBasic, "{host}", f.host)
	resp := &http.Response{
		StatusCode: 200 + int(a.status)%400, Header: http.Header{},
		Body: io.NopCloser(strings.NewReader(said.Replace(a.body))), ContentLength: -1, Request: r,
	}
	resp.Status = fmt.Sprintf("%d %s", resp.StatusCode, fuzzedPassword)
	for line := range strings.Lines(a.header) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		resp.Header.Add(name, strings.TrimSpace(said.Replace(value)))
	}
	f.found = f.found || resp.StatusCode == http.StatusOK
	if strings.EqualFold(r.URL.Host, f.host) {
		for _, challenge := range resp.Header.Values("WWW-Authenticate") {
			for _, realm := range namedRealm.FindAllStringSubmatch(challenge, -1) {
				if u, err := url.Parse(strings.TrimSpace(realm[1])); err == nil {
					f.realms = append(f.realms, originOf(u).host)
				}
			}
		}
	}
	return resp, nil
}

// FuzzVerify fuzzes the answers of a registry and of the token server that it names.
// Whatever they answer, credentials go nowhere else, every request only reads, and
// the verdict has a message fit to be shown.
func FuzzVerify(f *testing.F) {
	const (
		basic  = "WWW-Authenticate: Basic realm=\"x\"\n"
		bearer = "WWW-Authenticate: Bearer realm=\"https://auth.example.com/token\",service=\"s\",scope=\"repository:team/app:pull\"\n"
		image  = "Content-Type: application/vnd.oci.image.manifest.v1+json\n"
	)
	for _, conversation := range [][]fuzzedAnswer{
		{{0, "", ""}},
		{{201, basic, ""}, {0, image, ""}},
		{{201, bearer, ""}, {0, "", `{"token":"t"}`}, {0, image, ""}},
		{{201, bearer, ""}, {0, "", `{"access_token":"t","token":null,"expires_in":-1}`}, {204, "", `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"{secret}"}]}`}},
		{{201, basic, ""}, {204, "", ""}, {0, "", `{"tags":["1.4","{secret}"]}`}},
		{{201, basic, ""}, {204, "", ""}, {0, "", `{"tags":null}`}},
		{{201, basic, ""}, {201, bearer, `{"errors":[{"code":"{basic}","message":"{secret}"}]}`}},
		{{201, "WWW-Authenticate: Bearer realm=\"http://169.254.169.254/\"", ""}},
		{{201, "WWW-Authenticate: Bearer realm=\"//auth.example.com\",,=,\"", ""}},
		{{201, "WWW-Authenticate: Negotiate\nWWW-Authenticate: {secret}", ""}},
		{{107, "Location: https://{host}/v2/", ""}, {201, basic, ""}},
		{{107, "Location: http://{host}/v2/", ""}},
		{{107, "Location: https://evil.example.com/{secret}", ""}, {201, basic, ""}},
		{{201, basic, ""}, {107, "Location: https://evil.example.com/{basic}", ""}, {0, image, ""}},
		{{201, bearer, ""}, {107, "Location: https://evil.example.com/token", ""}, {201, bearer, ""}},
		{{0, "Content-Type: text/html", "<html>{secret}"}},
		{{229, "Retry-After: {secret}", `{"errors":null}`}},
		{{303, "Retry-After: 99999", `{"errors":[{"code":"A","message":"team/app {secret}"},{},{},{},{}]}`}},
	} {
		for len(conversation) < 3 {
			conversation = append(conversation, conversation[len(conversation)-1])
		}
		a, b, c := conversation[0], conversation[1], conversation[2]
		for _, repository := range []string{"team/app", "team/app:1.4", ""} {
			f.Add("registry.example.com", repository, a.status, a.header, a.body, b.status, b.header, b.body, c.status, c.header, c.body)
		}
		f.Add("localhost:5000", "team/app", a.status, a.header, a.body, b.status, b.header, b.body, c.status, c.header, c.body)
		f.Add("docker.io", "app", a.status, a.header, a.body, b.status, b.header, b.body, c.status, c.header, c.body)
	}
	f.Fuzz(func(t *testing.T, registry, repository string, status1 uint16, header1, body1 string, status2 uint16, header2, body2 string, status3 uint16, header3, body3 string) {
		key, _, err := dockerconfig.ParseKey(registry)
		if err != nil || strings.Contains(registry+repository, fuzzedPassword) {
			return
		}
		credential := dockerconfig.Credential{Registry: key, Username: username, Password: dockerconfig.NewSecret(fuzzedPassword)}
		s := New(Options{}).newSession(t.Context(), credential)
		target, _, err := newTarget(key, repository)
		if err != nil {
			target, _, _ = newTarget(key, "")
		}
		server := &fuzzedRegistry{t: t, host: target.RegistryStr(), answers: []fuzzedAnswer{{status1, header1, body1}, {status2, header2, body2}, {status3, header3, body3}}}
		s.guard.inner = server
		result := s.verify(context.Background(), repository)
		message := sanitize(result.Message, s.secrets(), s.known())
		if !slices.Contains([]Verdict{OK, Denied, NotFound, Unreachable, Unverified}, result.Verdict) || result.Verdict != OK && message == "" {
			t.Errorf("want a verdict, with the reason, got %+v", result)
		}
		if result.Verdict == OK && !server.found {
			t.Error("want no OK of a registry that never answered 200")
		}
		if message != redact.Clean(message) || len([]rune(message)) > maxMessage {
			t.Errorf("want one line of at most %d runes, got %q", maxMessage, message)
		}
		for _, secret := range []string{fuzzedPassword, fuzzedBasic} {
			if slices.ContainsFunc(redact.Forms(secret), func(form string) bool { return strings.Contains(message, form) }) {
				t.Errorf("message %q holds a secret", message)
			}
		}
	})
}

// FuzzForbidden fuzzes the host of a URL.
func FuzzForbidden(f *testing.F) {
	for _, seed := range []string{
		"169.254.169.254", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "2852039166", "0xa9.0xfe.43518", "0251.0376.0251.0376", "127.0.0.1", "[::1]", "[fe80::1%25eth0]",
		"registry.example.com", "registry.example.com.", "1.example", "example.1", "[2002:a9fe:a9fe::1]", "0.0.0.0", "[::]", "255.255.255.255", "224.0.0.1", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		u, err := url.Parse("https://" + host + "/v2/")
		if err != nil || u.Host == "" {
			return
		}
		refused := CheckURL(u) != nil
		addr, err := netip.ParseAddr(u.Hostname())
		if err != nil {
			return
		}
		dialled := refuseForbidden(netip.AddrPortFrom(addr, 443).String()) != nil
		if refused != dialled || refused != forbidden(addr) {
			t.Errorf("%s: refused in a URL %v, and when dialled %v", addr, refused, dialled)
		}
		if mapped := netip.AddrFrom16(addr.As16()); addr.Is4() && forbidden(addr) != forbidden(mapped) {
			t.Errorf("%s is treated in another way than %s", addr, mapped)
		}
		if addr.WithZone("").Unmap().IsLinkLocalUnicast() && !refused {
			t.Errorf("%s is link-local", addr)
		}
	})
}
