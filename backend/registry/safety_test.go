// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// wantOnlyTheCredential fails the test unless the basic credential is the only
// credential that the server received.
func wantOnlyTheCredential(t *testing.T, f *fake) {
	t.Helper()
	got := f.credentials()
	if len(got) == 0 || slices.ContainsFunc(got, func(c string) bool { return c != "Basic "+basicAuth }) {
		t.Errorf("%s was sent %q; want the credential and nothing else", f.host, got)
	}
}

func wantNotAsked(t *testing.T, f *fake) {
	t.Helper()
	if got := f.log(); len(got) > 0 {
		t.Errorf("%s was asked %q; want nothing", f.host, got)
	}
}

func redirectTo(location string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, location, http.StatusTemporaryRedirect)
	}
}

func manifestHandler(w http.ResponseWriter, _ *http.Request) { writeManifest(w) }

func TestManifestMayBeElsewhereButGetsNoCredential(t *testing.T) {
	auth := newTLS(t, "auth.example.com", tokenHandler)
	for kind, realm := range map[string]string{"basic": "", "bearer": "https://" + auth.host + "/token"} {
		for name, host := range map[string]string{
			"other host, other port":     "cdn.example.com",
			"same host, other port":      "registry.example.com",
			"subdomain of the registry":  "cdn.registry.example.com",
			"same host in another case":  "Registry.Example.com",
			"same host, trailing dot":    "registry.example.com.",
			"address of the same server": "127.0.0.1",
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				other := newTLS(t, host, manifestHandler)
				f := newTLS(t, "registry.example.com", nil)
				f.Config.Handler = recording(f, redirecting(registryHandler(options{realm: realm}), "https://"+other.host+"/blob?X-Signature=1"))
				v := newVerifier(t, nil)
				verify(t, v, f.host, "team/app") // the certificate does not cover all of these names
				other.wantNothingSecret(t)
				if len(f.credentials()) == 0 {
					t.Error("the registry was sent no credential, so the test proves nothing")
				}
				if name == "other host, other port" && len(other.log()) == 0 {
					t.Error("the redirect was not followed")
				}
			})
		}
	}
}

// redirecting redirects authenticated requests for manifests.
func redirecting(next http.HandlerFunc, location string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") && r.Header.Get("Authorization") != "" {
			http.Redirect(w, r, location, http.StatusTemporaryRedirect)
			return
		}
		next(w, r)
	}
}

// recording sets the handler of a fake whose handler needs its address.
func recording(f *fake, handler http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r)
		f.bodies = append(f.bodies, "")
		f.mu.Unlock()
		handler(w, r)
	})
}

func TestRedirectWithinTheRegistryKeepsTheCredential(t *testing.T) {
	f := newTLS(t, "registry.example.com", loginThen(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/manifest" {
			writeManifest(w)
			return
		}
		http.Redirect(w, r, "/manifest", http.StatusTemporaryRedirect)
	}))
	wantResult(t, verify(t, newVerifier(t, nil), f.host, "team/app"), OK, true)
	if got := f.credentials(); len(got) != 2 {
		t.Errorf("credentials %q; want one before and one after the redirect", got)
	}
}

func TestRelativeRedirectBeforeTheChallenge(t *testing.T) {
	f := newTLS(t, "registry.example.com", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			http.Redirect(w, r, "/v2/home", http.StatusTemporaryRedirect)
			return
		}
		loginThen(manifestHandler)(w, r)
	})
	wantResult(t, verify(t, newVerifier(t, nil), f.host, "team/app"), OK, true)
}

func TestRedirectsThatAreNotFollowed(t *testing.T) {
	plain := newPlain(t, "registry.example.com", manifestHandler)
	for name, row := range map[string]struct{ location, part string }{
		"to plain http":                {"http://" + plain.host + "/", "plain http at " + plain.host},
		"to cloud metadata":            {"https://169.254.169.254/latest/meta-data/", "an address that no registry has"},
		"to cloud metadata, unusual":   {"https://2852039166/", "an address that no registry has"},
		"to cloud metadata by NAT64":   {"https://[64:ff9b::a9fe:a9fe]/", "an address that no registry has"},
		"to something else than http":  {"gopher://registry.example.com/", "neither https nor http"},
		"to itself":                    {"", "redirects more than"},
		"to a name of cloud metadata":  {"https://metadata.example.com/", "169.254.169.254:443 is an address that no registry has"},
		"to an address without a host": {"https:///path", ""},
	} {
		for where, wrap := range map[string]func(http.HandlerFunc) http.HandlerFunc{
			"before the challenge": func(h http.HandlerFunc) http.HandlerFunc { return h },
			"after the login":      loginThen,
		} {
			t.Run(name+" "+where, func(t *testing.T) {
				f := newTLS(t, "registry.example.com", wrap(redirectTo(row.location)))
				v := newVerifier(t, map[string]func() netip.Addr{"metadata.example.com": func() netip.Addr { return netip.MustParseAddr("169.254.169.254") }})
				wantResult(t, verify(t, v, f.host, "team/app"), Unreachable, false, row.part)
			})
		}
	}
	wantNotAsked(t, plain)
}

func TestChallengeOfAnotherHostIsNotFollowed(t *testing.T) {
	for name, challenge := range map[string]string{"basic": `Basic realm="x"`, "bearer": "bearer"} {
		t.Run(name, func(t *testing.T) {
			auth := newTLS(t, "auth.evil.example.com", tokenHandler)
			if challenge == "bearer" {
				challenge = fmt.Sprintf(`Bearer realm="https://%s/token"`, auth.host)
			}
			evil := newTLS(t, "evil.example.com", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("WWW-Authenticate", challenge)
				w.WriteHeader(http.StatusUnauthorized)
			})
			for where, handler := range map[string]http.HandlerFunc{
				"before the challenge": redirectTo("https://" + evil.host + "/v2/"),
				"after the login":      loginThen(redirectTo("https://" + evil.host + "/v2/")),
			} {
				f := newTLS(t, "registry.example.com", handler)
				result := verify(t, newVerifier(t, nil), f.host, "team/app")
				wantResult(t, result, Unreachable, false, evil.host, "which asks for a credential")
				if len(evil.log()) == 0 {
					t.Errorf("%s: the redirect was not followed, so the test proves nothing", where)
				}
			}
			evil.wantNothingSecret(t)
			wantNotAsked(t, auth)
		})
	}
}

// A token server is not the registry. If a manifest request is redirected to it, its
// challenge is not followed either.
func TestChallengeOfTheTokenServerIsNotFollowed(t *testing.T) {
	evil := newTLS(t, "evil.example.com", tokenHandler)
	auth := newTLS(t, "auth.example.com", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			tokenHandler(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="https://%s/token"`, evil.host))
		w.WriteHeader(http.StatusUnauthorized)
	})
	f := newTLS(t, "registry.example.com", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			http.Redirect(w, r, "https://"+auth.host+"/elsewhere", http.StatusTemporaryRedirect)
			return
		}
		registryHandler(options{realm: "https://" + auth.host + "/token"})(w, r)
	})
	if result := verify(t, newVerifier(t, nil), f.host, "team/app"); result.Verdict == OK {
		t.Errorf("got %+v; want no OK", result)
	}
	wantOnlyTheCredential(t, auth)
	wantNotAsked(t, evil)
}

func TestHostileTokenServers(t *testing.T) {
	plain := newPlain(t, "auth.example.com", tokenHandler)
	metadata := map[string]func() netip.Addr{"metadata.example.com": func() netip.Addr { return netip.MustParseAddr("169.254.169.254") }}
	for name, row := range map[string]struct{ realm, part string }{
		"plain http":                   {"http://" + plain.host + "/token", "plain http at " + plain.host},
		"plain http, other case":       {"HTTP://" + plain.host + "/token", "plain http at " + plain.host},
		"cloud metadata":               {"https://169.254.169.254/latest", "169.254.169.254 is an address that no registry has"},
		"cloud metadata by plain http": {"http://169.254.169.254/latest", "plain http at 169.254.169.254"},
		"cloud metadata, IPv4-mapped":  {"https://[::ffff:169.254.169.254]/", "an address that no registry has"},
		"cloud metadata, hexadecimal":  {"https://0xa9fea9fe/", "an address that no registry has"},
		"cloud metadata by name":       {"https://metadata.example.com/", "169.254.169.254:443 is an address that no registry has"},
		"unspecified":                  {"https://0.0.0.0/", "an address that no registry has"},
		"zone":                         {"https://[fe80::1%25eth0]/", "an address that no registry has"},
		"another scheme":               {"ftp://" + plain.host, "neither https nor http"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTLS(t, "registry.example.com", registryHandler(options{realm: row.realm}))
			wantResult(t, verify(t, newVerifier(t, metadata), f.host, "team/app"), Unreachable, false, row.part)
			f.wantNothingSecret(t)
		})
	}
	wantNotAsked(t, plain)
}

func TestTokenServerThatRedirects(t *testing.T) {
	plain := newPlain(t, "auth.example.com", tokenHandler)
	other := newTLS(t, "other.example.com", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	for name, row := range map[string]struct {
		location string
		verdict  Verdict
		part     string
	}{
		"to another host":               {"https://" + other.host + "/token", Denied, other.host + " answered 403"},
		"to plain http":                 {"http://" + plain.host + "/token", Unreachable, "plain http at " + plain.host},
		"to cloud metadata":             {"https://169.254.169.254/", Unreachable, "an address that no registry has"},
		"without end":                   {"", Unreachable, "redirects more than"},
		"to an address of a link":       {"https://[fe80::1]/", Unreachable, "an address that no registry has"},
		"to another port, same name":    {"https://auth.example.com:" + port(other) + "/token", Denied, "answered 403"},
		"to a user at the other server": {"https://user:secret@" + other.host + "/token", Denied, "answered 403"},
	} {
		t.Run(name, func(t *testing.T) {
			auth := newTLS(t, "auth.example.com", redirectTo(row.location))
			f := newTLS(t, "registry.example.com", registryHandler(options{realm: "https://" + auth.host + "/token"}))
			wantResult(t, verify(t, newVerifier(t, nil), f.host, "team/app"), row.verdict, false, row.part)
			wantOnlyTheCredential(t, auth)
			f.wantNothingSecret(t)
		})
	}
	other.wantNothingSecret(t)
	wantNotAsked(t, plain)
}

func port(f *fake) string {
	_, port, _ := net.SplitHostPort(f.host)
	return port
}

func TestTokenServerOfAPlainHTTPRegistryGetsNoDowngrade(t *testing.T) {
	plain := newPlain(t, "auth.example.com", tokenHandler)
	auth := newTLS(t, "auth.example.com", redirectTo("http://"+plain.host+"/token"))
	f := newPlain(t, "127.0.0.1", registryHandler(options{realm: "https://" + auth.host + "/token"}))
	if result := verify(t, newVerifier(t, nil), f.host, "team/app"); result.Verdict == OK {
		t.Errorf("got %+v; want no OK", result)
	}
	wantOnlyTheCredential(t, auth)
	plain.wantNothingSecret(t)
}

func TestPlainHTTPRegistryMayNotLeadElsewhereBeforeItsChallenge(t *testing.T) {
	other := newPlain(t, "127.0.0.1", loginThen(manifestHandler))
	f := newPlain(t, "127.0.0.1", redirectTo("http://"+other.host+"/v2/"))
	wantResult(t, verify(t, newVerifier(t, nil), f.host, "team/app"), Unreachable, false, "plain http at "+other.host)
	wantNotAsked(t, other)
}

// firstBytes is a server that records the first bytes of each connection.
type firstBytes struct {
	mu  sync.Mutex
	all []string
}

func (f *firstBytes) add(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, string(b))
}

func (f *firstBytes) wantTLSOnly(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, b := range f.all {
		if !strings.HasPrefix(b, "\x16\x03") {
			t.Errorf("a connection began with %q; want TLS only", b)
		}
	}
	if len(f.all) == 0 {
		t.Error("there was no connection, so the test proves nothing")
	}
}

// seen passes a connection on and records its first bytes.
type seen struct {
	net.Conn
	once  sync.Once
	bytes *firstBytes
}

func (s *seen) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.once.Do(func() { s.bytes.add(b[:min(n, 8)]) })
	return n, err
}

func TestPlainHTTPIsNotTriedWhereItMustNotBe(t *testing.T) {
	server := newTLS(t, "127.0.0.1", nil)
	config := server.TLS
	for name, row := range map[string]struct {
		host  string
		serve func(net.Conn)
		trust bool
	}{
		"a name": {"registry.example.com", func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1024))
			fmt.Fprintf(c, "HTTP/1.0 400 Bad Request\r\n\r\n")
		}, true},
		"TLS with a certificate that is not trusted": {"127.0.0.1", func(c net.Conn) {
			_ = tls.Server(c, config).Handshake()
		}, false},
		"TLS that ends after the handshake": {"127.0.0.1", func(c net.Conn) {
			_ = tls.Server(c, config).Handshake()
		}, true},
		"TLS that refuses the handshake": {"127.0.0.1", func(c net.Conn) {
			_ = tls.Server(c, &tls.Config{Certificates: config.Certificates, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}).Handshake()
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var first firstBytes
			addr := listen(t, func(c net.Conn) { row.serve(&seen{Conn: c, bytes: &first}) })
			_, port, _ := net.SplitHostPort(addr)
			v := newVerifier(t, nil)
			if !row.trust {
				v.cas = nil
			}
			wantResult(t, verify(t, v, row.host+":"+port, "team/app"), Unreachable, false)
			first.wantTLSOnly(t)
		})
	}
}

func TestAddressesAreCheckedWhenDialled(t *testing.T) {
	loopback, metadata := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("169.254.169.254")
	t.Run("name of the registry", func(t *testing.T) {
		v := newVerifier(t, map[string]func() netip.Addr{"registry.example.com": func() netip.Addr { return metadata }})
		wantResult(t, verify(t, v, "registry.example.com", ""), Unreachable, false, "169.254.169.254:443 is an address that no registry has")
	})
	t.Run("answer that changes", func(t *testing.T) {
		f := newTLS(t, "registry.example.com", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close")
			loginThen(manifestHandler)(w, r)
		})
		asked := 0
		v := newVerifier(t, map[string]func() netip.Addr{"registry.example.com": func() netip.Addr {
			if asked++; asked == 1 {
				return loopback
			}
			return metadata
		}})
		wantResult(t, verify(t, v, f.host, "team/app"), Unreachable, false, "169.254.169.254:", "an address that no registry has")
		f.wantNothingSecret(t)
	})
	t.Run("name of this machine", func(t *testing.T) {
		v := newVerifier(t, map[string]func() netip.Addr{"registry.localhost": func() netip.Addr { return netip.MustParseAddr("198.51.100.7") }})
		wantResult(t, verify(t, v, "registry.localhost:5000", "team/app"), Unreachable, false, "registry.localhost is a name of this machine and leads to 198.51.100.7:5000")
	})
	t.Run("address as the key", func(t *testing.T) {
		for _, key := range []string{"169.254.169.254", "169.254.169.254:5000", "[fe80::1]:5000", "[::]:5000", "0.0.0.0:5000", "100.100.100.200", "2852039166", "[::ffff:a9fe:a9fe]:443"} {
			wantResult(t, verify(t, newVerifier(t, nil), key, "team/app"), Unreachable, false, "an address that no registry has")
		}
	})
}

// With a proxy, the dialer sees only the proxy.
func TestProxyIsNotAskedForForbiddenAddresses(t *testing.T) {
	proxy := newPlain(t, "127.0.0.1", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	v := newVerifier(t, nil)
	v.proxy = func(*http.Request) (*url.URL, error) { return url.Parse("http://" + proxy.host) }
	for _, key := range []string{"169.254.169.254", "0xa9.0xfe.43518", "[fd00:ec2::254]:443", "168.63.129.16:80"} {
		wantResult(t, verify(t, v, key, "team/app"), Unreachable, false, "an address that no registry has")
	}
	wantNotAsked(t, proxy)
	wantResult(t, verify(t, v, "registry.example.com", "team/app"), Unreachable, false)
	if got := proxy.log(); len(got) == 0 {
		t.Error("the proxy was not used at all, so the test proves nothing")
	}
	proxy.wantNothingSecret(t)
}

func TestGuardOnlyReads(t *testing.T) {
	g := &guard{}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if err := g.check(method, &url.URL{Scheme: "https", Host: "registry.example.com"}); err == nil {
			t.Errorf("%s was let through", method)
		}
	}
}

// roundTripper is a function as [http.RoundTripper].
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// go-containerregistry has rules of its own for this, on which the guard must not
// depend.
func TestGuardKeepsCredentialsFromOthers(t *testing.T) {
	for target, want := range map[string]bool{
		"https://registry.example.com/v2/":          true,
		"https://registry.example.com:443/v2/":      true,
		"https://REGISTRY.example.com/other":        true,
		"https://auth.example.com:8443/token":       true,
		"http://registry.example.com/v2/":           false,
		"http://registry.example.com:443/v2/":       false,
		"https://registry.example.com:8443/v2/":     false,
		"https://auth.example.com/token":            false,
		"http://auth.example.com:8443/token":        false,
		"https://registry.example.com.evil.example": false,
		"https://x.registry.example.com/":           false,
		"https://example.com/":                      false,
		"https://registry.example.com@evil.example": false,
		"https://127.0.0.1/":                        false,
	} {
		var sent http.Header
		g := &guard{
			plain:    anywhere,
			registry: origin{"https", "registry.example.com", "443"},
			realm:    origin{"https", "auth.example.com", "8443"},
			inner: roundTripper(func(r *http.Request) (*http.Response, error) {
				sent = r.Header
				return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody, Request: r}, nil
			}),
		}
		request := httptest.NewRequest(http.MethodGet, target, nil)
		request.Header.Set("Authorization", "Basic "+basicAuth)
		if _, err := g.RoundTrip(request); err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		if got := sent.Get("Authorization") != ""; got != want {
			t.Errorf("%s got the credential: %t; want %t", target, got, want)
		}
	}
}

// A registry that returns the credential that it was sent, in several encodings.
func TestMessagesHoldNoSecretThatWasSentBack(t *testing.T) {
	echo := func(r *http.Request) string {
		_, sent, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		return strings.Join([]string{"you sent", sent, password, url.QueryEscape(password), strings.ToLower(url.PathEscape(password)), fmt.Sprintf("%q", password), "p\u0000" + password[1:]}, " ")
	}
	for name, handler := range map[string]http.HandlerFunc{
		"in an error": func(w http.ResponseWriter, r *http.Request) {
			writeError(w, http.StatusForbidden, "DENIED", echo(r))
		},
		"in the code of an error": func(w http.ResponseWriter, r *http.Request) {
			writeError(w, http.StatusForbidden, echo(r), "")
		},
		"in a body": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "%s", echo(r))
		},
		"in a redirect": func(w http.ResponseWriter, r *http.Request) {
			redirectTo("http://"+basicAuth+".example.com/"+token)(w, r)
		},
		"in a challenge": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", basicAuth)
			w.WriteHeader(http.StatusUnauthorized)
		},
		"in a delay": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", token)
			w.WriteHeader(http.StatusTooManyRequests)
		},
		"in a status line": func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			fmt.Fprintf(conn, "HTTP/1.1 %s\r\n\r\n", token)
			conn.Close()
		},
	} {
		auth := newTLS(t, "auth.example.com", handler)
		good := newTLS(t, "auth.example.com", tokenHandler)
		for where, h := range map[string]http.HandlerFunc{
			"registry":     loginThen(handler),
			"token server": registryHandler(options{realm: "https://" + auth.host}),
			"with a token": func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/manifests/") {
					handler(w, r)
					return
				}
				registryHandler(options{realm: "https://" + good.host})(w, r)
			},
		} {
			t.Run(where+" "+name, func(t *testing.T) {
				result := verify(t, newVerifier(t, nil), newTLS(t, "registry.example.com", h).host, "team/app")
				if wantsRedacted := strings.HasSuffix(name, " error"); wantsRedacted && !strings.Contains(result.Message, redacted) {
					t.Errorf("message %q; want %s in it", result.Message, redacted)
				}
				if result.Verdict == OK || result.Message == "" {
					t.Errorf("got %+v; want a fault with a message", result)
				}
			})
		}
	}
}
