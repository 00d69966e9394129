// SPDX-License-Identifier: MPL-2.0

package neterror_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
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
			if got := redact.Sanitize(neterror.Describe(err), nil); got != row.want {
				t.Errorf("got  %q\nwant %q", got, row.want)
			}
			if got := neterror.IsUntrustedCertificate(err); got != (row.name == "certificate") {
				t.Errorf("IsUntrustedCertificate: got %v", got)
			}
		})
	}
}

func TestDescribeMarksWhatTheServerCanInfluence(t *testing.T) {
	text := neterror.Describe(&tls.CertificateVerificationError{Err: errors.New("valid for hunter2.example.com")})
	want := "the TLS certificate is not trusted: valid for [redacted].example.com"
	if got := redact.Sanitize(text, []string{"hunter2"}); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
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
