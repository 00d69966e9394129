// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// defaultTimeout is the time limit of one [Verifier.Verify].
const defaultTimeout = 10 * time.Second

// Verdict says what a registry made of a credential.
type Verdict string

// The verdicts.
const (
	OK          Verdict = "ok"          // the manifest can be pulled
	Denied      Verdict = "denied"      // the registry or its token server answered 401 or 403
	NotFound    Verdict = "not_found"   // the credential may pull, but there is no such manifest
	Unreachable Verdict = "unreachable" // no answer, or none that settles it
	Unverified  Verdict = "unverified"  // there was no single registry or no repository to try
)

// Result is the outcome of one [Verifier.Verify].
type Result struct {
	Verdict  Verdict
	Message  string // one line for a person, at most 300 runes, possibly empty; never a secret
	Accepted bool   // the registry accepted the credential: OK, or Unverified for want of a repository
}

// Options of [New]. The zero value is valid.
type Options struct {
	// CAs are the root CAs to trust, nil for the system's. They replace the
	// system's: to add to those, start from [x509.SystemCertPool].
	CAs *x509.CertPool

	// Timeout limits one Verify in all that it does; 0 means 10 s.
	Timeout time.Duration
}

// Verifier verifies credentials. It keeps no state between calls and may be
// used by many goroutines at once.
type Verifier struct {
	cas      *x509.CertPool
	timeout  time.Duration
	proxy    func(*http.Request) (*url.URL, error)
	resolver *net.Resolver // nil, but in tests
}

// New returns a Verifier.
func New(options Options) *Verifier {
	v := &Verifier{cas: options.CAs, timeout: options.Timeout, proxy: http.ProxyFromEnvironment}
	if v.timeout <= 0 {
		v.timeout = defaultTimeout
	}
	return v
}

// Verify tries to pull from a repository with a credential: "group/app",
// "group/app:1.4" or "group/app@sha256:…". Without a tag it is the tag latest
// or, where there is none, any other. With an empty repository only the
// credential itself is tried, as "docker login" does.
//
// It never returns an error: what goes wrong is a verdict.
func (v *Verifier) Verify(ctx context.Context, c dockerconfig.Credential, repository string) Result {
	ctx, cancel := context.WithTimeout(ctx, v.timeout)
	defer cancel()
	s := v.newSession(ctx, c)
	defer s.opened.close()
	result := s.verify(ctx, repository)
	result.Accepted = result.Accepted || result.Verdict == OK
	result.Message = sanitize(result.Message, s.secrets())
	return result
}
