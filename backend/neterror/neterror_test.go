// SPDX-License-Identifier: MPL-2.0

package neterror_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/neterror"
	"vault-plugin-secrets-regcred/backend/redact"
)

func TestDescribe(t *testing.T) {
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	for _, row := range []struct {
		name string
		err  error
		want string
	}{
		{"cancelled", context.Canceled, "the request was cancelled"},
		{"deadline", context.DeadlineExceeded, "there was no complete answer within the time limit"},
		{"timeout of the connection", &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "there was no complete answer within the time limit"},
		{"certificate", &tls.CertificateVerificationError{Err: errors.New("unknown authority")}, "the TLS certificate is not trusted: unknown authority"},
		{"name", &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "registry.invalid"}}, "the name cannot be resolved: lookup registry.invalid: no such host"},
		{"plain http", http.ErrSchemeMismatch, "the server answered an https request with plain http, which is accepted only from localhost and loopback addresses"},
		{"connection", dial, "the connection failed: dial tcp: connection refused"},
		{"large", &http.MaxBytesError{Limit: 5}, "the answer is longer than 5 bytes"},
		{"closed", io.EOF, "the connection was closed in the middle of the answer"},
		{"cut", io.ErrUnexpectedEOF, "the connection was closed in the middle of the answer"},
		{"anything else", errors.New("secret"), ""},
		{"none", nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := row.err
			if err != nil {
				err = fmt.Errorf("wrapped: %w", &url.Error{Op: "Get", URL: "https://registry.example.com", Err: err})
			}
			if got := redact.Sanitize(neterror.Describe(err), nil, nil); got != row.want {
				t.Errorf("got  %q\nwant %q", got, row.want)
			}
			if got := neterror.IsUntrustedCertificate(err); got != (row.name == "certificate") {
				t.Errorf("IsUntrustedCertificate: got %v", got)
			}
		})
	}
}

func TestDescribeMarksWhatTheServerCanInfluence(t *testing.T) {
	names := &x509.Certificate{DNSNames: []string{"hunter2.example.com"}, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}}
	for _, row := range []struct {
		err  error
		want string
	}{
		{&tls.CertificateVerificationError{Err: errors.New("valid for hunter2.example.com")}, "the TLS certificate is not trusted: [redacted]"},
		{&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: names, Host: "registry.example.com"}}, "the TLS certificate is not trusted: x509: certificate is valid for [redacted], not registry.example.com"},
		{&net.DNSError{Err: "no such host", Name: "hunter2.example.com"}, "the name cannot be resolved: lookup [redacted]: no such host"},
		{&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("hunter2")}, "the connection failed: dial tcp: [redacted]"},
	} {
		if got := redact.Sanitize(neterror.Describe(row.err), []string{"hunter2"}, nil); got != row.want {
			t.Errorf("got  %q\nwant %q", got, row.want)
		}
	}
}

// marked is an error that says by itself what of it is from a server.
type marked struct{ error }

func (m marked) Marked() string { return "it leads to " + redact.Untrusted("elsewhere") }

// A message must not change with the secret, or its readers could guess the secret by
// what is redacted.
func TestDescribeKeepsOurOwnWordsWhateverTheSecretIs(t *testing.T) {
	address := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443}
	for _, err := range []error{
		context.Canceled,
		os.ErrDeadlineExceeded,
		io.ErrUnexpectedEOF,
		http.ErrSchemeMismatch,
		&net.OpError{Op: "dial", Net: "tcp", Addr: address, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)},
		&net.OpError{Op: "read", Net: "tcp", Addr: address, Err: syscall.ECONNRESET},
		&net.OpError{Op: "remote error", Err: errors.New("tls: handshake failure")},
		&net.OpError{Op: "dial", Net: "tcp", Addr: address, Err: tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}},
		&net.OpError{Op: "dial", Net: "tcp", Addr: address},
		&net.OpError{Op: "dial", Net: "tcp", Addr: address, Err: fmt.Errorf("refused: %w", marked{errors.New("")})},
		&net.DNSError{Err: "no such host", Name: "registry.invalid", Server: "192.0.2.53:53"},
		&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}},
		&tls.CertificateVerificationError{Err: x509.HostnameError{Certificate: &x509.Certificate{}, Host: "registry.invalid"}},
		&tls.CertificateVerificationError{Err: x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time is after"}},
	} {
		text := neterror.Describe(err)
		known := []string{"registry.invalid", "elsewhere", "no name"}
		want := redact.Sanitize(text, nil, nil)
		for i := range want {
			for j := i + 1; j <= len(want); j++ {
				if got := redact.Sanitize(text, []string{want[i:j]}, known); got != want {
					t.Fatalf("with the secret %q: got  %q\nwant %q", want[i:j], got, want)
				}
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 10, 21, 7, 28, 0, 400_000_000, time.UTC)
	for value, want := range map[string]time.Duration{
		"0":                             0,
		"90":                            90 * time.Second,
		"Wed, 21 Oct 2026 07:29:30 GMT": 90 * time.Second,
		"Wed, 21 Oct 2026 07:00:00 GMT": 0,
		"":                              0,
		"-1":                            0,
		"1.5":                           0,
		"soon":                          0,
		"99999999999":                   0,
		"90; drop table":                0,
	} {
		if got := neterror.RetryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	}
	if got := neterror.RetryAfter(nil, now); got != 0 {
		t.Errorf("without a header: got %v, want 0", got)
	}
}
