// SPDX-License-Identifier: MPL-2.0

// Package neterror says in one sentence why an HTTP request failed, and reads
// the Retry-After header. What mints and what verifies share its words, so that
// an operator reads one failure in one wording.
package neterror

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"vault-plugin-secrets-regcred/backend/redact"
)

// Describe says why a request got no complete answer. It returns "" for any
// other error, because the text of that error may hold what was sent. Text that
// a server can influence is marked with [redact.Untrusted].
func Describe(err error) string {
	var (
		timeout net.Error
		dns     *net.DNSError
		cert    *tls.CertificateVerificationError
		op      *net.OpError
		large   *http.MaxBytesError
	)
	switch {
	case errors.Is(err, context.Canceled):
		return "the request was cancelled"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "there was no complete answer within the time limit"
	case errors.As(err, &cert):
		return "the TLS certificate is not trusted: " + redact.Untrusted(cert.Err.Error())
	case errors.As(err, &dns):
		return "the name cannot be resolved: " + redact.Untrusted(dns.Error())
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the server answered an https request with plain http, which is accepted only from localhost and loopback addresses"
	case errors.As(err, &op):
		return "the connection failed: " + redact.Untrusted(op.Error())
	case errors.As(err, &large):
		return fmt.Sprintf("the answer is longer than %d bytes", large.Limit)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed in the middle of the answer"
	}
	return ""
}

// IsUntrustedCertificate reports whether a request failed because the server's
// TLS certificate is not trusted.
func IsUntrustedCertificate(err error) bool {
	var cert *tls.CertificateVerificationError
	return errors.As(err, &cert)
}

// RetryAfter returns how long a Retry-After header asks to wait, in seconds or
// until a date; 0 if there is none or it cannot be read.
func RetryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now).Round(time.Second))
	}
	return 0
}
