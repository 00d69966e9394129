// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// faulty is a registry that accepts the credential, and then answers with the handler
// of a test.
func faulty(answer func(w http.ResponseWriter, r *http.Request)) http.HandlerFunc {
	return loginThen(answer)
}

func TestFaults(t *testing.T) {
	drip := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for range 1000 {
			if _, err := io.WriteString(w, " "); err != nil || r.Context().Err() != nil {
				return
			}
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		chunk := strings.Repeat(" ", 1<<16)
		for range 1 << 8 { // 16 MiB count as endless
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
	}
	page := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<html><title>Log in</title>")
	}
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	status := func(status int, body string, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			fmt.Fprintf(w, "%s", body)
		}
	}
	challenge := func(value string) http.HandlerFunc { return status(401, "", "WWW-Authenticate", value) }
	tooMany := `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down","detail":"detail-of-the-error"}]}`

	for _, row := range []struct {
		name    string
		handler http.HandlerFunc
		verdict Verdict
		parts   []string
	}{
		{"hangs", hang, Unreachable, []string{"time limit"}},
		{"hangs after the login", faulty(hang), Unreachable, []string{"time limit"}},
		{"drips its challenge", drip, Unreachable, []string{}},
		{"drips its answer", faulty(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			drip(w, r)
		}), Unreachable, []string{"time limit"}},
		{"answers without end", faulty(endless), Unreachable, []string{"longer than 1048576 bytes"}},
		{"has endless headers", func(w http.ResponseWriter, _ *http.Request) {
			for i := range 100 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("x", 1<<10))
			}
		}, Unreachable, []string{"the answer is not that of a registry"}},
		{"is a web page", page, Unreachable, []string{"web page"}},
		{"is a web page after the login", faulty(page), Unreachable, []string{"not with a manifest"}},
		{"answers 200 to anything", status(200, "ok"), Unreachable, []string{"not with a manifest"}},
		{"is no registry", status(404, "<html>"), Unreachable, []string{"answered 404 at /v2/", "no registry"}},
		{"breaks off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, Unreachable, []string{"closed"}},
		{"breaks off after the login", faulty(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), Unreachable, []string{"closed"}},
		{"fails", status(500, "secret-of-the-server"), Unreachable, []string{"the registry answered 500 Internal Server Error"}},
		{"fails after the login", faulty(status(503, `{"errors":[{"code":"UNAVAILABLE","message":"in maintenance"}]}`, "Retry-After", time.Now().UTC().Add(time.Hour).Format(http.TimeFormat))), Unreachable, []string{"503 Service Unavailable: UNAVAILABLE: in maintenance; it can be asked again in "}},
		{"limits the rate", status(429, tooMany, "Retry-After", "90"), Unreachable, []string{"429 Too Many Requests: TOOMANYREQUESTS: slow down; it can be asked again in 1m30s"}},
		{"limits the rate after the login", faulty(status(429, tooMany, "Retry-After", "90")), Unreachable, []string{"429 Too Many Requests; it can be asked again in 1m30s"}},
		{"limits the rate until something else", status(429, "", "Retry-After", "<script>"), Unreachable, []string{"the registry answered 429 Too Many Requests"}},
		{"refuses before it asks", status(403, ""), Unreachable, []string{"the registry answered 403 Forbidden, before it was given the credential"}},
		{"refuses before it asks, and says why", status(403, `{"errors":[{"code":"DENIED","message":"not from this network"}]}`), Unreachable, []string{"the registry answered 403 Forbidden: DENIED: not from this network, before it was given the credential"}},
		{"refuses with a web page after the login", faulty(status(403, "<html>", "Content-Type", "text/html; charset=utf-8")), Unreachable, []string{"registry.example.com", "answered 403 Forbidden with a web page", "firewall"}},
		{"refuses its tags with a web page", faulty(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/tags/list") {
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(http.StatusForbidden)
				return
			}
			w.WriteHeader(http.StatusNotFound)
		}), Unreachable, []string{"answered 403 Forbidden with a web page"}},
		{"refuses HEAD, and GET with a web page", faulty(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				w.Header().Set("Content-Type", "text/html")
			}
			w.WriteHeader(http.StatusForbidden)
		}), Unreachable, []string{"answered 403 Forbidden with a web page"}},
		{"refuses HEAD only, and answers GET with a web page", faulty(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			page(w, r)
		}), Denied, []string{"the registry answered 403 Forbidden"}},
		{"refuses with no page after the login", faulty(status(403, "no", "Content-Type", "text/plain")), Denied, []string{"the registry answered 403 Forbidden"}},
		{"refuses a password with a web page", faulty(status(401, "<html>", "Content-Type", "text/html", "WWW-Authenticate", `Basic realm="tests"`)), Denied, []string{"the registry answered 401 Unauthorized"}},
		{"answers 400", faulty(status(400, "")), Unreachable, []string{"400 Bad Request"}},
		{"answers 401 without challenge", status(401, ""), Unreachable, []string{"without saying how"}},
		{"asks for Negotiate", challenge("Negotiate"), Unreachable, []string{`by "negotiate"`, "only basic and bearer"}},
		{"asks for Negotiate before Basic in one line", challenge(`Negotiate, Basic realm="tests"`), Unreachable, []string{`by "negotiate"`, "after it in the same header line"}},
		{"asks for nonsense", challenge("???"), Unreachable, []string{"only basic and bearer"}},
		{"names no realm", challenge("Bearer"), Unreachable, []string{"does not name its token server by a URL"}},
		{"names an empty realm", challenge(`Bearer realm=""`), Unreachable, []string{"does not name its token server by a URL"}},
		{"names a path", challenge(`Bearer realm="/token"`), Unreachable, []string{"does not name its token server by a URL"}},
		{"names no URL", challenge(`Bearer realm="https://%zz/"`), Unreachable, []string{"does not name its token server by a URL"}},
		{"names a file", challenge(`Bearer realm="file://registry.example.com/etc/passwd"`), Unreachable, []string{"neither https nor http"}},
		{"redirects to nowhere", status(307, ""), Unreachable, []string{"without saying where"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, nil)
			v.timeout = 700 * time.Millisecond
			if !strings.Contains(row.name, "hang") && !strings.Contains(row.name, "drip") {
				v.timeout = time.Minute // so that a slow machine does not fail the test
			}
			result := verify(t, v, newTLS(t, "registry.example.com", row.handler).host, "team/app")
			wantResult(t, result, row.verdict, false, row.parts...)
			if strings.Contains(result.Message, "secret-of-the-server") || strings.Contains(result.Message, "<") {
				t.Errorf("message %q holds the raw body", result.Message)
			}
		})
	}
}

func TestFaultsOfTheTokenServer(t *testing.T) {
	for _, row := range []struct {
		name    string
		handler http.HandlerFunc
		parts   []string
	}{
		{"hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, []string{"time limit"}},
		{"is a web page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "<html>") }, []string{"the token server auth.example.com", "without a token"}},
		{"has no token", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"refresh_token":%q}`, token)
		}, []string{"without a token"}},
		{"has a token without end", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"token":%q}`, strings.Repeat("x", 1<<21))
		}, []string{"without a token"}},
		{"has a token with a newline", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"token":%q}`, token+"\r\nX-Injected: 1")
		}, []string{"not that of a registry"}},
		{"is not there", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, []string{"the token server auth.example.com", "answered 404"}},
		{"fails", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, []string{"the token server auth.example.com", "502 Bad Gateway"}},
		{"refuses with a web page", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, "<html>")
		}, []string{"auth.example.com", "answered 403 Forbidden with a web page"}},
		{"limits the rate", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "5")
			w.WriteHeader(http.StatusTooManyRequests)
		}, []string{"429 Too Many Requests", "in 5s"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, nil)
			v.timeout = time.Minute
			if row.name == "hangs" {
				v.timeout = 500 * time.Millisecond
			}
			auth := newTLS(t, "auth.example.com", row.handler)
			f := newTLS(t, "registry.example.com", registryHandler(options{realm: "https://" + auth.host + "/token"}))
			wantResult(t, verify(t, v, f.host, "team/app"), Unreachable, false, row.parts...)
			f.wantNothingSecret(t)
		})
	}
}

// listen starts a TCP server that does not speak HTTP.
func listen(t *testing.T, serve func(net.Conn)) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return listener.Addr().String()
}

func TestServersThatAreNotHTTP(t *testing.T) {
	for name, row := range map[string]struct {
		serve func(net.Conn)
		part  string
	}{
		"never answers the TLS handshake": {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, "time limit"},
		"closes at once":                  {func(c net.Conn) {}, ""},
		"speaks something else":           {func(c net.Conn) { fmt.Fprintf(c, "220 mail.example.com ESMTP\r\n"); _, _ = io.Copy(io.Discard, c) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, nil)
			v.timeout = 700 * time.Millisecond
			addr := listen(t, row.serve)
			_, port, _ := net.SplitHostPort(addr)
			for _, host := range []string{addr, "registry.example.com:" + port} {
				wantResult(t, verify(t, v, host, "team/app"), Unreachable, false, row.part)
			}
		})
	}
}

func TestRegistryThatIsDown(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := listener.Addr().String()
	listener.Close()
	wantResult(t, verify(t, newVerifier(t, nil), addr, "team/app"), Unreachable, false, "connection refused")
}

func TestNameThatDoesNotResolve(t *testing.T) {
	v := newVerifier(t, nil)
	v.resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, fmt.Errorf("no name server")
	}}
	wantResult(t, verify(t, v, "registry.example.com", "team/app"), Unreachable, false, "the name cannot be resolved", "registry.example.com")
}

func TestCallerMayCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := newTLS(t, "registry.example.com", func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	wantResult(t, newVerifier(t, nil).Verify(ctx, credentialFor(f.host), ""), Unreachable, false, "cancelled")
}

// Vault runs for years, so connections that a registry leaves open must not
// accumulate.
func TestNothingIsLeftBehind(t *testing.T) {
	hang := newTLS(t, "registry.example.com", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	good := newTLS(t, "registry.example.com", registryHandler(content))
	silent := listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	v := newVerifier(t, nil)
	v.timeout = 100 * time.Millisecond
	verify(t, v, good.host, "team/app")
	before := runtime.NumGoroutine()
	for range 5 {
		verify(t, v, good.host, "team/app")
		verify(t, v, hang.host, "team/app")
		verify(t, v, silent, "team/app")
	}
	for deadline := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > before; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines; want at most the %d of before", runtime.NumGoroutine(), before)
		}
	}
}

func TestDiallingEndsWithTheSession(t *testing.T) {
	session, end := context.WithCancel(t.Context())
	ended := make(chan error, 10)
	c := &connections{ctx: session, dialer: net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		end()
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}}}}
	// http.Transport does not cancel the dial of an abandoned request.
	if _, err := c.dial(context.Background(), "tcp", "registry.example.com:443"); err == nil {
		t.Error("dialled without a name server")
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("dialling ended with %v; want the end of the session", err)
	}
}

func TestConnectionThatComesTooLateIsClosed(t *testing.T) {
	c := &connections{ctx: t.Context()}
	c.close()
	addr := listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	if conn, err := c.dial(t.Context(), "tcp", addr); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, %v; want a closed connection", conn, err)
	}
}

func TestTimeLimitIsTenSecondsUnlessGiven(t *testing.T) {
	if got := New(Options{}).timeout; got != 10*time.Second {
		t.Errorf("time limit %s; want 10s", got)
	}
	if got := New(Options{Timeout: time.Second}).timeout; got != time.Second {
		t.Errorf("time limit %s; want 1s", got)
	}
}

// What is told to those who ask with another credential has none of the server's words.
func TestFailureIsInOurOwnWords(t *testing.T) {
	for name, row := range map[string]struct {
		handler http.HandlerFunc
		want    Result
	}{
		"an answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "90")
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down, robot"}]}`)
		}, Result{
			Verdict: Unreachable, Message: "the registry answered 429 Too Many Requests: TOOMANYREQUESTS: slow down, robot; it can be asked again in 1m30s",
			Failure: "the registry answered 429 Too Many Requests: …: …; it can be asked again in 1m30s", RetryAfter: 90 * time.Second,
		}},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://robot.example.com/", http.StatusTemporaryRedirect)
		}, Result{
			Verdict: Unreachable, Message: "the registry leads to plain http at robot.example.com; nothing was sent there",
			Failure: "the registry leads to plain http at …; nothing was sent there",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTLS(t, "registry.example.com", row.handler)
			if got := verify(t, newVerifier(t, nil), f.host, "team/app"); got != row.want {
				t.Errorf("got  %+v\nwant %+v", got, row.want)
			}
		})
	}
}
