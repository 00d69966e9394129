// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"vault-plugin-secrets-regcred/backend/neterror"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	maxMessage     = 300 // runes
	maxDiagnostics = 3   // errors of one answer that are shown
)

// failure is an error with a verdict and a message. What a server said is marked in
// the message.
type failure struct {
	verdict Verdict
	message string
}

func (f *failure) Error() string { return f.message }

// Marked returns the message with the marks; see [neterror.Describe].
func (f *failure) Marked() string { return f.message }

func failf(verdict Verdict, format string, args ...any) error {
	return &failure{verdict, fmt.Sprintf(format, args...)}
}

// toResult turns an error into a Result. It does not quote errors of unknown text:
// some of go-containerregistry's contain whole answers, and some of net/http's
// contain URLs with tokens in them.
func (s *session) toResult(err error) Result {
	var known *failure
	if errors.As(err, &known) {
		return Result{Verdict: known.verdict, Message: known.message}
	}
	verdict := Unreachable
	switch statusOf(err) {
	case 0:
		return Result{Verdict: verdict, Message: describeFailure(err)}
	case http.StatusUnauthorized, http.StatusForbidden:
		verdict = Denied
	case http.StatusNotFound:
		if s.repository.path != "" {
			verdict = NotFound
		}
	}
	return Result{Verdict: verdict, Message: s.describe(err)}
}

func describeFailure(err error) string {
	text := cmp.Or(neterror.Describe(err), "the answer is not that of a registry")
	if neterror.IsUntrustedCertificate(err) {
		text += "; ca_pem of config takes the certificates of a private CA: vault write regcred/config ca_pem=@ca.pem"
	}
	return text
}

// statusOf returns the HTTP status of an error, 0 if it has none.
func statusOf(err error) int {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

// describe returns the status of an answer, and the codes and messages in it. It
// leaves out details, and bodies of any other form, because they may contain
// anything.
func (s *session) describe(err error) string {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return ""
	}
	text := fmt.Sprintf("%s answered %d %s", s.serverName(answer.Request), answer.StatusCode, http.StatusText(answer.StatusCode))
	var own []string
	for _, d := range answer.Errors[:min(len(answer.Errors), maxDiagnostics)] {
		own = append(own, redact.Join(": ", string(d.Code), d.Message))
	}
	if own = slices.DeleteFunc(own, func(text string) bool { return text == "" }); len(own) > 0 {
		text += ": " + strings.Join(own, "; ")
	}
	if wait := s.guard.retryAfter; wait > 0 {
		text += fmt.Sprintf("; it can be asked again in %s", wait)
	}
	return text
}

// serverName returns the name of the server that a request went to.
func (s *session) serverName(req *http.Request) string {
	switch {
	case req == nil || originOf(req.URL) == s.guard.registry:
		return "the registry"
	case originOf(req.URL) == s.guard.realm:
		return "the token server " + untrusted(req.URL.Host)
	}
	return untrusted(req.URL.Host)
}

// untrusted marks text from a server, which may contain what the server was sent.
func untrusted(text string) string { return redact.Untrusted(text) }

// sanitize makes a message fit to be shown: one line, short, and without the secrets
// in any encoding that a server may have returned. known are texts in which a secret is
// no secret.
func sanitize(message string, secrets, known []string) string {
	return redact.Truncate(redact.Sanitize(message, secrets, known), maxMessage)
}
