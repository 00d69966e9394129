// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/neterror"
)

// connect finds out whether the registry uses https or plain http, and returns its
// challenge.
//
// Plain http is allowed at loopback only, and only if the server does not use TLS.
// Elsewhere, anyone who can interrupt a TLS handshake would receive the credential.
// go-containerregistry's own detection is not used: it also allows private
// addresses, and there plain http wins if TLS takes more than 0.3 s or has a wrong
// certificate.
func (s *session) connect(ctx context.Context) (*transport.Challenge, error) {
	var tlsSpoken atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err == nil {
				tlsSpoken.Store(true)
			}
		},
	})
	s.setScheme("https", never)
	challenge, err := s.probe(traced, http.MethodGet, s.url(""))
	if IsLoopback(s.url("").Hostname()) && !tlsSpoken.Load() && speaksNoTLS(err) {
		s.setScheme("http", registryOnly)
		challenge, err = s.probe(ctx, http.MethodGet, s.url(""))
	}
	if err != nil {
		return nil, err
	}
	// The answer may have come by a redirect from plain http to TLS.
	if challenge.Insecure {
		s.setScheme("http", anywhere)
	} else {
		s.setScheme("https", never)
	}
	return challenge, nil
}

// IsLoopback reports whether a host is localhost or a loopback address.
func IsLoopback(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap().IsLoopback()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

func (s *session) setScheme(scheme string, plain plainHTTP) {
	s.scheme, s.guard.plain = scheme, plain
	s.guard.registry = originOf(s.url(""))
}

// url returns the URL of an endpoint of the registry's API.
func (s *session) url(endpoint string) *url.URL {
	return &url.URL{Scheme: s.scheme, Host: s.registry.RegistryStr(), Path: "/v2/" + endpoint}
}

// speaksNoTLS reports whether an error shows that nothing listens at an address, or
// that the server there does not use TLS. A server with an untrusted certificate,
// or with a handshake that hangs, does use TLS.
func speaksNoTLS(err error) bool {
	var record tls.RecordHeaderError
	if errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record) ||
		errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return true
	}
	var refused *failure
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && !errors.As(err, &refused)
}

// probe sends an unauthenticated request and returns the challenge in the answer. The
// challenge is empty if the registry requires no authentication.
func (s *session) probe(ctx context.Context, method string, u *url.URL) (*transport.Challenge, error) {
	s.guard.status = 0
	challenge, err := transport.Ping(ctx, pingTarget, &pingTransport{guard: s.guard, method: method, url: u})
	switch status := statusOf(err); {
	case status == http.StatusNotFound || status == http.StatusMethodNotAllowed:
		return nil, failf(Unreachable, "%s answered %d at %s: there is no registry", untrusted(u.Host), status, u.Path)
	case status == http.StatusForbidden: // a firewall does, or a proxy, that refuses Vault and not the nodes
		return nil, failf(Unreachable, "%s, before it was given the credential: that says nothing about it", s.describe(err))
	case err != nil:
		return nil, err
	case s.guard.isWebPage() && s.guard.status == http.StatusOK:
		return nil, failf(Unreachable, "%s answered with a web page: there is no registry, or a proxy or login page in front of it", untrusted(u.Host))
	case s.guard.status == http.StatusUnauthorized && s.guard.answered != s.guard.registry:
		return nil, failf(Unreachable, "the registry redirects to another server for its challenge, which is not followed")
	case s.guard.status == http.StatusUnauthorized && challenge.Scheme == "":
		return nil, failf(Unreachable, "the registry answered 401 without saying how to authenticate")
	}
	return challenge, nil
}

func isAnonymous(challenge *transport.Challenge) bool { return challenge.Scheme == "" }

// pingTarget is the registry that go-containerregistry is asked to ping.
// [pingTransport] redirects the ping, so that [session.connect] chooses the scheme.
var pingTarget, _ = name.NewRegistry("registry.invalid")

// pingTransport sends requests for pingTarget to url instead.
type pingTransport struct {
	guard  *guard
	method string
	url    *url.URL
}

// RoundTrip implements [http.RoundTripper].
func (p *pingTransport) RoundTrip(in *http.Request) (*http.Response, error) {
	out := in.Clone(in.Context())
	if in.URL.Host == pingTarget.RegistryStr() {
		out.Method, out.URL, out.Host = p.method, p.url, ""
		out.Header.Set("Accept", acceptedManifests)
	}
	resp, err := p.guard.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	// Made absolute here, where it is relative to the registry, not to pingTarget.
	if location, err := resp.Location(); err == nil {
		resp.Header.Set("Location", location.String())
	}
	return resp, nil
}

// authenticate follows a challenge and returns a client that authenticates its
// requests to the registry. scopes is used for bearer tokens only.
func (s *session) authenticate(ctx context.Context, challenge *transport.Challenge, scopes ...string) (*http.Client, error) {
	switch strings.ToLower(challenge.Scheme) {
	case "":
		return &http.Client{Transport: s.guard}, nil
	case "basic":
		inner, err := transport.FromToken(s.registry, s.authenticator(), s.guard, challenge, nil)
		return &http.Client{Transport: inner}, err
	case "bearer":
		token, err := s.token(ctx, challenge, scopes)
		return &http.Client{Transport: &bearerTransport{guard: s.guard, token: dockerconfig.NewSecret(token)}}, err
	}
	if slices.ContainsFunc(s.guard.header.Values("WWW-Authenticate"), supportedIsSecond.MatchString) {
		return nil, failf(Unreachable, "the registry asks for authentication by %s, and names basic or bearer only after it in the same header line, where kubelet, Docker and podman do not look; it must send a header line for each", untrusted(strconv.Quote(challenge.Scheme)))
	}
	return nil, failf(Unreachable, "the registry asks for authentication by %s; only basic and bearer are supported", untrusted(strconv.Quote(challenge.Scheme)))
}

// supportedIsSecond matches a header line with several challenges, such as "Negotiate,
// Basic". The parser that container runtimes share reads only the first one.
var supportedIsSecond = regexp.MustCompile(`(?i),\s*(basic|bearer)\b`)

// token exchanges the credential for a token at the token server named in the
// challenge.
func (s *session) token(ctx context.Context, challenge *transport.Challenge, scopes []string) (string, error) {
	realm, err := url.Parse(challenge.Parameters["realm"])
	if err != nil || realm.Host == "" {
		return "", failf(Unreachable, "the registry does not name its token server by a URL")
	}
	if err := s.guard.check(http.MethodGet, realm); err != nil {
		return "", err
	}
	// go-containerregistry refuses token servers at loopback and private addresses
	// other than the registry's own. Passing the token server itself as the
	// registry avoids that; the guard has already checked the address.
	server, err := name.NewRegistry(realm.Host)
	if err != nil {
		return "", failf(Unreachable, "the registry does not name its token server by a URL")
	}
	s.guard.realm = originOf(realm)
	token, err := transport.Exchange(ctx, server, s.authenticator(), s.guard, scopes, challenge)
	switch {
	case statusOf(err) == http.StatusNotFound:
		return "", failf(Unreachable, "the token server %s answered 404", untrusted(realm.Host))
	case err != nil && s.guard.status == http.StatusOK && neterror.Describe(err) == "":
		return "", failf(Unreachable, "the token server %s answered without a token", untrusted(realm.Host))
	case err != nil:
		return "", err
	}
	return cmp.Or(token.AccessToken, token.Token), nil
}

// bearerTransport adds a token to requests to the registry, and to no others.
// go-containerregistry's own transport is not used: if the token is refused, it
// requests another one, and does not allow a realm at a private address.
type bearerTransport struct {
	guard *guard
	token dockerconfig.Secret
}

// RoundTrip implements [http.RoundTripper].
func (b *bearerTransport) RoundTrip(in *http.Request) (*http.Response, error) {
	out := in.Clone(in.Context())
	if originOf(in.URL) == b.guard.registry {
		out.Header.Set("Authorization", "Bearer "+b.token.Reveal())
	}
	return b.guard.RoundTrip(out)
}
