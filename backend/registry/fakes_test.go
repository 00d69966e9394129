// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	username = "robot$team+puller"
	password = `p"4\ss:<&>$ ü/%+`
	token    = "eyJhbGciOiJub25lIn0.pull-token"
)

var basicAuth = base64.StdEncoding.EncodeToString([]byte(username + ":" + password))

// fake is a server that records its requests. Its names resolve to loopback, and its
// certificate, if it uses TLS, is valid for *.example.com.
type fake struct {
	*httptest.Server
	host string // host:port, as in image names

	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
}

func newFake(t *testing.T, name string, handler http.HandlerFunc, start func(*httptest.Server)) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.requests = append(f.requests, r)
		f.bodies = append(f.bodies, string(body))
		f.mu.Unlock()
		handler(w, r)
	}))
	f.Config.ErrorLog = log.New(io.Discard, "", 0) // refused certificates are part of the tests
	start(f.Server)
	t.Cleanup(f.Close)
	_, port, _ := net.SplitHostPort(f.Listener.Addr().String())
	f.host = name + ":" + port
	return f
}

func newTLS(t *testing.T, name string, handler http.HandlerFunc) *fake {
	t.Helper()
	return newFake(t, name, handler, (*httptest.Server).StartTLS)
}

func newPlain(t *testing.T, name string, handler http.HandlerFunc) *fake {
	t.Helper()
	return newFake(t, name, handler, (*httptest.Server).Start)
}

// log returns the requests to the server, without queries.
func (f *fake) log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, r := range f.requests {
		lines = append(lines, r.Method+" "+r.URL.Path)
	}
	return lines
}

// credentials returns the Authorization headers that the server received.
func (f *fake) credentials() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, r := range f.requests {
		all = append(all, r.Header.Values("Authorization")...)
	}
	return all
}

// wantNothingSecret fails the test if the server received a credential or token, in
// any encoding and any part of a request.
func (f *fake) wantNothingSecret(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, r := range f.requests {
		all := fmt.Sprintln(r.Method, r.RequestURI, r.Host, r.Header, f.bodies[i])
		for _, secret := range []string{password, token} {
			for _, form := range append(redact.Forms(secret), basicAuth) {
				if strings.Contains(all, form) {
					t.Errorf("%s was sent a secret: %s", f.host, all)
				}
			}
		}
		for _, header := range []string{"Authorization", "Proxy-Authorization", "Cookie", "Referer"} {
			if value := r.Header.Get(header); value != "" {
				t.Errorf("%s was sent %s %q; want none", f.host, header, value)
			}
		}
	}
}

// options of a registry without faults.
type options struct {
	realm     string            // of the token server; "": basic authentication
	manifests map[string]bool   // paths that exist, such as team/app/manifests/latest
	tags      map[string]string // JSON of tags/list by repository
	scope     string            // in the challenge, if not ""
	open      bool              // /v2/ needs no authentication
}

// registryHandler answers like a registry, with the errors of the OCI distribution
// specification.
func registryHandler(o options) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		want := "Basic " + basicAuth
		challenge := `Basic realm="tests"`
		if o.realm != "" {
			want = "Bearer " + token
			challenge = fmt.Sprintf(`Bearer realm=%q,service="tests"`, o.realm)
			if o.scope != "" {
				challenge += fmt.Sprintf(`,scope=%q`, o.scope)
			}
		}
		path := strings.TrimPrefix(r.URL.Path, "/v2/")
		repository, isList := strings.CutSuffix(path, "/tags/list")
		switch {
		case r.Header.Get("Authorization") != want && (path != "" || !o.open):
			w.Header().Set("WWW-Authenticate", challenge)
			writeError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		case path == "":
			fmt.Fprintf(w, "{}")
		case o.manifests[path]:
			writeManifest(w)
		case isList && o.tags[repository] != "":
			fmt.Fprintf(w, "%s", o.tags[repository])
		case isList:
			writeError(w, http.StatusNotFound, "NAME_UNKNOWN", "repository name not known to registry")
		default:
			writeError(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		}
	}
}

func writeManifest(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	fmt.Fprintf(w, `{"schemaVersion":2}`)
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{
		map[string]string{"code": code, "message": message, "detail": "detail-of-the-error"},
	}})
}

// tokenHandler answers like a token server with one user.
func tokenHandler(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Basic "+basicAuth {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"details":"incorrect username or password"}`)
		return
	}
	fmt.Fprintf(w, `{"token":%q}`, token)
}

// newVerifier returns a Verifier that trusts the fakes. All names resolve to loopback,
// except those given.
func newVerifier(t *testing.T, names map[string]func() netip.Addr) *Verifier {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	cas := x509.NewCertPool()
	cas.AddCert(server.Certificate())
	v := New(Options{CAs: cas})
	v.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	v.resolver = startDNS(t, names)
	return v
}

// startDNS starts a DNS server on loopback. It calls the name's function for each question,
// so that answers can change.
func startDNS(t *testing.T, names map[string]func() netip.Addr) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var message dnsmessage.Message
			if message.Unpack(buf[:n]) == nil && len(message.Questions) == 1 {
				_, _ = conn.WriteTo(answerDNS(message, names), from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func answerDNS(message dnsmessage.Message, names map[string]func() netip.Addr) []byte {
	question := message.Questions[0]
	message.Response, message.RecursionAvailable = true, true
	message.Additionals = nil
	if question.Type == dnsmessage.TypeA {
		addr := netip.MustParseAddr("127.0.0.1")
		if other := names[strings.TrimSuffix(question.Name.String(), ".")]; other != nil {
			addr = other()
		}
		message.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		}}
	}
	packed, _ := message.Pack()
	return packed
}

func credentialFor(registry string) dockerconfig.Credential {
	return dockerconfig.Credential{Registry: dockerconfig.Key(registry), Username: username, Password: dockerconfig.NewSecret(password)}
}

// verify runs Verify, and checks the rules for every Result.
func verify(t *testing.T, v *Verifier, registry, repository string) Result {
	t.Helper()
	start := time.Now()
	result := v.Verify(t.Context(), credentialFor(registry), repository)
	if took := time.Since(start); took > v.timeout+10*time.Second {
		t.Errorf("took %s; want at most the time limit of %s (and the slowness of the machine)", took, v.timeout)
	}
	wantPresentable(t, result)
	return result
}

func wantPresentable(t *testing.T, result Result) {
	t.Helper()
	if n := len([]rune(result.Message)); n > maxMessage {
		t.Errorf("the message has %d runes; want at most %d: %q", n, maxMessage, result.Message)
	}
	if result.Message != redact.Clean(result.Message) {
		t.Errorf("message %q; want one line without control characters", result.Message)
	}
	for _, secret := range []string{password, token, basicAuth} {
		for _, form := range redact.Forms(secret) {
			if strings.Contains(result.Message, form) {
				t.Errorf("message %q holds a secret", result.Message)
			}
		}
	}
	if strings.Contains(result.Message, "detail-of-the-error") {
		t.Errorf("message %q holds the details of an error", result.Message)
	}
}

func wantResult(t *testing.T, result Result, verdict Verdict, accepted bool, parts ...string) {
	t.Helper()
	if result.Verdict != verdict || result.Accepted != accepted {
		t.Errorf("verdict %q, accepted %t; want %q, %t (message %q)", result.Verdict, result.Accepted, verdict, accepted, result.Message)
	}
	for _, part := range parts {
		if !strings.Contains(result.Message, part) {
			t.Errorf("message %q; want %q in it", result.Message, part)
		}
	}
}
