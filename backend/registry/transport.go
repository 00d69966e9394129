// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// newTransport returns a transport for one session, and the connections that it
// opens. It has no HTTP/2, compression or connection reuse across sessions: a few
// small requests do not profit from them.
func (v *Verifier) newTransport(ctx context.Context) (*http.Transport, *connections) {
	opened := &connections{
		ctx:    ctx,
		dialer: net.Dialer{Resolver: v.resolver},
	}
	return &http.Transport{
		Proxy:                  v.proxy,
		DialContext:            opened.dial,
		TLSClientConfig:        &tls.Config{RootCAs: v.cas, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    v.timeout,
		MaxResponseHeaderBytes: maxHeader,
		DisableCompression:     true, // a small answer must not unfold into a large one
	}, opened
}

// connections closes every connection that a session opened. [http.Transport] alone
// continues to dial, and keeps the new connection, after a request was cancelled.
type connections struct {
	ctx    context.Context // of the session, which outlives the requests
	dialer net.Dialer

	mu     sync.Mutex
	open   []net.Conn
	closed bool
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	conn, err := Dial(ctx, c.dialer, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	c.open = append(c.open, conn)
	return conn, nil
}

func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, conn := range c.open {
		_ = conn.Close()
	}
}
