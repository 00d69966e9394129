// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/neterror"
)

const (
	maxBody      = 1 << 20 // bytes of one answer
	maxHeader    = 64 << 10
	maxRedirects = 8 // in one session
	userAgent    = "vault-plugin-secrets-regcred"
)

// plainHTTP says which requests may use plain http.
type plainHTTP int

const (
	never        plainHTTP = iota
	registryOnly           // to the registry, to find out whether it uses plain http
	anywhere               // the registry uses plain http, so its token server may too
)

// guard is the [http.RoundTripper] below go-containerregistry's, so that every
// request passes it, including those caused by a redirect or a challenge. It serves
// one session, whose requests do not overlap.
type guard struct {
	inner http.RoundTripper

	plain    plainHTTP
	registry origin
	realm    origin // of the token server; zero until the registry names one

	redirects  int
	answered   origin                // of the last answer
	status     int                   // of the last answer
	header     http.Header           // of the last answer
	retryAfter time.Duration         // 0 if the registry said nothing usable
	sent       []dockerconfig.Secret // credentials and tokens in the requests so far
}

// RoundTrip implements [http.RoundTripper].
func (g *guard) RoundTrip(in *http.Request) (*http.Response, error) {
	if err := g.check(in.Method, in.URL); err != nil {
		return nil, err
	}
	out := in.Clone(in.Context())
	out.Header.Del("Referer") // may contain the query of a signed URL
	out.Header.Set("User-Agent", userAgent)
	if g.trusts(in.URL) {
		if _, credential, sends := strings.Cut(out.Header.Get("Authorization"), " "); sends {
			g.sent = append(g.sent, dockerconfig.NewSecret(credential))
		}
	} else {
		out.Header.Del("Authorization")
	}

	resp, err := g.inner.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxBody)
	g.answered, g.status, g.header = originOf(in.URL), resp.StatusCode, resp.Header
	if err := g.checkAnswer(resp); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// trusts reports whether credentials may go to a URL.
func (g *guard) trusts(u *url.URL) bool {
	o := originOf(u)
	return o == g.registry || o == g.realm
}

func (g *guard) check(method string, u *url.URL) error {
	switch {
	case method != http.MethodGet && method != http.MethodHead:
		return failf(Unreachable, "the registry's way of authentication needs a %s request, and verifying only reads", method)
	case u.Scheme == "https":
	case u.Scheme != "http":
		return failf(Unreachable, "the registry leads to a URL that is neither https nor http; nothing was sent there")
	case g.plain == never, g.plain == registryOnly && originOf(u) != g.registry:
		return failf(Unreachable, "the registry leads to plain http at %s; nothing was sent there", untrusted(u.Host))
	}
	return CheckURL(u)
}

// checkAnswer checks a redirect before it is followed, and refuses what only something in
// front of a server answers. The clients above would refuse some redirects too, but give the
// reason only as text.
func (g *guard) checkAnswer(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		g.retryAfter = neterror.RetryAfter(resp.Header, time.Now())
	case http.StatusUnauthorized:
		if !g.trusts(resp.Request.URL) {
			return failf(Unreachable, "the registry leads to %s, which asks for a credential; it goes only to the registry and its token server", untrusted(resp.Request.URL.Host))
		}
	case http.StatusForbidden:
		if g.isWebPage() {
			return failf(Unreachable, "%s answered 403 Forbidden with a web page, as a firewall or a proxy does; that says nothing about the credential", untrusted(resp.Request.URL.Host))
		}
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		location, err := resp.Location()
		if err != nil {
			return failf(Unreachable, "the registry answered %d without saying where to go", resp.StatusCode)
		}
		if g.redirects++; g.redirects > maxRedirects {
			return failf(Unreachable, "the registry redirects more than %d times", maxRedirects)
		}
		return g.check(resp.Request.Method, location)
	}
	return nil
}

// origin is what a credential is bound to.
type origin struct{ scheme, host, port string }

func originOf(u *url.URL) origin {
	scheme := strings.ToLower(u.Scheme)
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[scheme])
	return origin{scheme, strings.ToLower(u.Hostname()), port}
}

// isWebPage reports whether the last answer is a web page, such as that of a login
// portal or a proxy.
func (g *guard) isWebPage() bool {
	mediaType, _, _ := strings.Cut(g.header.Get("Content-Type"), ";")
	return slices.Contains([]string{"text/html", "application/xhtml+xml"}, strings.ToLower(strings.TrimSpace(mediaType)))
}
