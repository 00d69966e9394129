// SPDX-License-Identifier: MPL-2.0

package issuer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"vault-plugin-secrets-regcred/backend/neterror"
	"vault-plugin-secrets-regcred/backend/registry"
)

const (
	// CallTimeout limits one call of an [Issuer], retries included.
	CallTimeout = 30 * time.Second

	maxBody      = 4 << 20 // bytes of one answer
	maxHeader    = 64 << 10
	retryMax     = 3
	retryMin     = 200 * time.Millisecond
	maxRetryWait = 5 * time.Second // a longer Retry-After is returned as an error
	userAgent    = "vault-plugin-secrets-regcred"
)

// NewHTTP returns a client for the API of a registry. It retries what is safe to
// repeat: any call that the registry did not accept (no connection, 429), and
// reads and deletions after other failures. It follows no redirect, because that
// would send the root credential to another host, and refuses addresses that no
// registry has. cas replaces the system's CAs; nil keeps them.
func NewHTTP(cas *x509.CertPool) *http.Client {
	inner := &http.Transport{
		Proxy: registry.ProxyFromEnvironment(),
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return registry.Dial(ctx, net.Dialer{Timeout: 10 * time.Second}, network, address)
		},
		TLSClientConfig:        &tls.Config{RootCAs: cas, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        5 * time.Second,
		DisableCompression:     true, // a small answer must not unfold into a large one
	}
	return &http.Client{
		Transport: &transport{
			idempotent:    retrying(inner, retryIdempotent),
			nonIdempotent: retrying(inner, retryUnsent),
			inner:         inner,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type onceKey struct{}

// Once returns a context for a request that makes something, although its method is one
// that is safe to repeat. The request is repeated only if the registry did not accept it.
func Once(ctx context.Context) context.Context { return context.WithValue(ctx, onceKey{}, true) }

// transport chooses the retry policy by the method.
type transport struct {
	idempotent, nonIdempotent http.RoundTripper
	inner                     *http.Transport
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(in *http.Request) (*http.Response, error) {
	if err := registry.CheckURL(in.URL); err != nil {
		return nil, Refusedf("%s", err)
	}
	out := in.Clone(in.Context())
	out.Header.Set("User-Agent", userAgent)
	next := t.nonIdempotent
	switch in.Method {
	case http.MethodGet, http.MethodHead, http.MethodDelete:
		if in.Context().Value(onceKey{}) == nil {
			next = t.idempotent
		}
	}
	resp, err := next.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	resp.Body = limited(in.Context(), http.MaxBytesReader(nil, resp.Body, maxBody))
	return resp, nil
}

// CloseIdleConnections is called by [http.Client.CloseIdleConnections].
func (t *transport) CloseIdleConnections() { t.inner.CloseIdleConnections() }

func retrying(inner http.RoundTripper, policy retryablehttp.CheckRetry) http.RoundTripper {
	client := retryablehttp.NewClient()
	client.HTTPClient = &http.Client{
		Transport:     inner,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	client.Logger = nil
	client.RetryMax, client.RetryWaitMin, client.RetryWaitMax = retryMax, retryMin, maxRetryWait
	client.CheckRetry = policy
	client.ErrorHandler = retryablehttp.PassthroughErrorHandler
	return &retryablehttp.RoundTripper{Client: client}
}

func retryUnsent(ctx context.Context, resp *http.Response, err error) (bool, error) {
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		return notSent(err), nil
	}
	return resp.StatusCode == http.StatusTooManyRequests && waitIsAcceptable(resp), nil
}

func retryIdempotent(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	retry, err := retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	if resp != nil {
		return retry && waitIsAcceptable(resp), nil
	}
	return retry, err
}

func waitIsAcceptable(resp *http.Response) bool {
	return neterror.RetryAfter(resp.Header, time.Now()) <= maxRetryWait
}
