// SPDX-License-Identifier: MPL-2.0

// Package neterror says in one sentence why an HTTP request failed, and reads
// the Retry-After header. What mints and what verifies share its words, so that
// an operator reads one failure in one wording.
package neterror

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
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
		return "the TLS certificate is not trusted: " + describeCertificate(cert.Err)
	case errors.As(err, &dns):
		return "the name cannot be resolved: " + describeLookup(dns)
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the server answered an https request with plain http, which is accepted only from localhost and loopback addresses"
	case errors.As(err, &op):
		return "the connection failed: " + describeOperation(op)
	case errors.As(err, &large):
		return fmt.Sprintf("the answer is longer than %d bytes", large.Limit)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed in the middle of the answer"
	}
	return ""
}

// describeCertificate marks the names in a certificate, which the server chose. All
// else are words of crypto/x509, and times.
func describeCertificate(err error) string {
	var (
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &authority):
		return "x509: certificate signed by unknown authority"
	case errors.As(err, &host):
		return "x509: certificate is valid for " + redact.Untrusted(namesIn(host.Certificate)) + ", not " + redact.Untrusted(host.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return invalid.Error()
	}
	return redact.Untrusted(err.Error())
}

// namesIn returns the names that a certificate is valid for.
func namesIn(certificate *x509.Certificate) string {
	if certificate == nil {
		return "no name"
	}
	names := slices.Clone(certificate.DNSNames)
	for _, address := range certificate.IPAddresses {
		names = append(names, address.String())
	}
	return cmp.Or(strings.Join(names, ", "), "no name")
}

// describeLookup marks the name that was looked up, which a server may have named.
func describeLookup(dns *net.DNSError) string {
	server := ""
	if dns.Server != "" {
		server = " on " + dns.Server
	}
	return "lookup " + redact.Untrusted(dns.Name) + server + ": " + dns.Err
}

// describeOperation marks the cause of a failure, unless it is known to be in words of
// this machine, or says by a method Marked what of it is from a server.
func describeOperation(op *net.OpError) string {
	var (
		errno   syscall.Errno
		record  tls.RecordHeaderError
		marked  interface{ Marked() string }
		message string
	)
	switch {
	case op.Err == nil:
		message = "failed"
	case errors.As(op.Err, &marked):
		message = marked.Marked()
	case errors.As(op.Err, &errno), errors.As(op.Err, &record), strings.HasSuffix(op.Op, " error"): // a TLS alert
		message = op.Err.Error()
	default:
		message = redact.Untrusted(op.Err.Error())
	}
	described := *op
	described.Err = errors.New(message)
	return described.Error()
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
