// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"vault-plugin-secrets-regcred/backend/neterror"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	maxMessage     = 300 // runes
	maxDiagnostics = 3   // errors that one answer may list
)

// failure is an error that has its verdict and message already.
type failure struct {
	verdict Verdict
	message string
}

func (f *failure) Error() string { return f.message }

func failf(verdict Verdict, format string, args ...any) error {
	return &failure{verdict, fmt.Sprintf(format, args...)}
}

// toResult turns an error into a Result. Errors whose text is not known to be
// harmless are not quoted: some of go-containerregistry's hold whole answers,
// and some of net/http's hold URLs with tokens in them.
func (s *session) toResult(err error) Result {
	var known *failure
	if errors.As(err, &known) {
		return Result{Verdict: known.verdict, Message: known.message}
	}
	verdict := Unreachable
	switch statusOf(err) {
	case 0:
		return Result{Verdict: verdict, Message: cmp.Or(neterror.Describe(err), "the answer is not that of a registry")}
	case http.StatusUnauthorized, http.StatusForbidden:
		verdict = Denied
	case http.StatusNotFound:
		if s.repository.path != "" {
			verdict = NotFound
		}
	}
	return Result{Verdict: verdict, Message: s.describe(err)}
}

// statusOf returns the HTTP status that an error is about, 0 if none.
func statusOf(err error) int {
	var answer *transport.Error
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

// describe says what was answered: the status, and codes and messages of the
// registry's own. Details and bodies of another form are left out, because
// these may hold anything.
func (s *session) describe(err error) string {
	var answer *transport.Error
	if !errors.As(err, &answer) {
		return ""
	}
	text := fmt.Sprintf("%s answered %d %s", s.serverName(answer.Request), answer.StatusCode, http.StatusText(answer.StatusCode))
	var own []string
	for _, d := range answer.Errors[:min(len(answer.Errors), maxDiagnostics)] {
		message := d.Message
		if s.repository.isMentionedIn(message) {
			// What is redacted in it would tell whoever named the repository
			// whether that is the password.
			message = ""
		}
		own = append(own, strings.Trim(fmt.Sprintf("%s: %s", d.Code, message), ": "))
	}
	if len(own) > 0 {
		text += ": " + untrusted(strings.Join(own, "; "))
	}
	if wait := s.guard.retryAfter; wait > 0 {
		text += fmt.Sprintf("; it can be asked again in %s", wait)
	}
	return text
}

// serverName names the server that a request went to.
func (s *session) serverName(req *http.Request) string {
	switch {
	case req == nil || originOf(req.URL) == s.guard.registry:
		return "the registry"
	case originOf(req.URL) == s.guard.realm:
		return "the token server " + untrusted(req.URL.Host)
	}
	return untrusted(req.URL.Host)
}

// untrusted marks a text that came from a server, and may hold what it was sent.
func untrusted(text string) string { return redact.Untrusted(text) }

// sanitize makes a message fit to be shown: one line, short, and free of the
// secrets in any form in which a server may have given them back.
func sanitize(message string, secrets []string) string {
	return redact.Truncate(redact.Sanitize(message, secrets), maxMessage)
}
