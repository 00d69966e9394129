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
	"vault-plugin-secrets-regcred/backend/redact"
)

// defaultTimeout is the time limit of one [Verifier.Verify].
const defaultTimeout = 10 * time.Second

// Verdict is the result of trying a credential at a registry.
type Verdict string

// The verdicts.
const (
	OK          Verdict = "ok"          // the manifest can be pulled
	Denied      Verdict = "denied"      // the registry or its token server answered 401 or 403 to the credential
	NotFound    Verdict = "not_found"   // the credential may pull, but there is no such manifest
	Unreachable Verdict = "unreachable" // no answer, or one that proves nothing
	Unverified  Verdict = "unverified"  // no single registry, or no repository, to try
)

// Result is the outcome of one [Verifier.Verify].
type Result struct {
	Verdict  Verdict
	Message  string // one line for a person, at most 300 runes, possibly empty; never a secret
	Accepted bool   // the registry accepted the credential: OK, or Unverified without a repository

	// Failure says in words of this package, with nothing that a server said, why the
	// verdict is Unreachable. It may be told to those who ask with another credential.
	Failure string

	RetryAfter time.Duration // for how long the registry asked to be left alone; 0: not at all
}

// Options of [New]. The zero value is valid.
type Options struct {
	// CAs replaces the system's root CAs; nil keeps them. To add to the system's
	// CAs, start from [x509.SystemCertPool].
	CAs *x509.CertPool

	// Timeout limits one Verify as a whole; 0 means 10 s.
	Timeout time.Duration
}

// Verifier verifies credentials. It keeps no state between calls and may be
// used by many goroutines at once.
type Verifier struct {
	cas      *x509.CertPool
	timeout  time.Duration
	proxy    func(*http.Request) (*url.URL, error)
	resolver *net.Resolver // nil, except in tests
}

// New returns a Verifier.
func New(options Options) *Verifier {
	v := &Verifier{cas: options.CAs, timeout: options.Timeout, proxy: ProxyFromEnvironment()}
	if v.timeout <= 0 {
		v.timeout = defaultTimeout
	}
	return v
}

// Verify tries to pull from a repository with a credential. The repository has the
// form "group/app", "group/app:1.4" or "group/app@sha256:…". Without a tag, Verify
// tries the tag latest, and any other tag if there is no latest. With an empty
// repository, it tries only the credential itself, as "docker login" does.
//
// Every failure is a verdict, not an error.
func (v *Verifier) Verify(ctx context.Context, c dockerconfig.Credential, repository string) Result {
	ctx, cancel := context.WithTimeout(ctx, v.timeout)
	defer cancel()
	s := v.newSession(ctx, c)
	defer s.opened.close()
	result := s.verify(ctx, repository)
	result.Accepted = result.Accepted || result.Verdict == OK
	if result.Verdict == Unreachable {
		result.Failure, result.RetryAfter = redact.Truncate(redact.Ours(result.Message), maxMessage), s.guard.retryAfter
	}
	result.Message = sanitize(result.Message, s.secrets(), s.known())
	return result
}
