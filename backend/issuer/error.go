// SPDX-License-Identifier: MPL-2.0

package issuer

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/neterror"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	// maxMessage is how many runes of what a registry said an error repeats.
	maxMessage = 300

	// maxText is how many runes of all else there are.
	maxText = 600
)

// Error is a call that the registry refused, or that failed.
type Error struct {
	// Status is the HTTP status of the answer, 0 if there was none, or none
	// that could be understood.
	Status int

	// RetryAfter is how long the registry asks to wait, 0 if it does not say.
	RetryAfter time.Duration

	definite  bool
	message   string // what happened, in our own words; the registry's are marked
	untrusted string // what the registry said, as it said it
	secrets   []dockerconfig.Secret
}

// Error implements error. It is one line and holds none of the secrets of the
// connection, whatever the registry said.
func (e *Error) Error() string {
	secrets := reveal(e.secrets)
	text := redact.Truncate(redact.Sanitize(e.message, secrets), maxText)
	if said := redact.Redact(redact.Clean(e.untrusted), secrets); said != "" {
		text += ": " + redact.Truncate(said, maxMessage)
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf("; it can be asked again in %s", e.RetryAfter)
	}
	return text
}

// Definite reports whether it is certain that the call that failed has changed
// nothing at the registry, now and later.
func Definite(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.definite
}

// IsError reports whether an error is about a call to a registry.
func IsError(err error) bool {
	var e *Error
	return errors.As(err, &e)
}

// StatusOf returns the HTTP status that an error is about, 0 if none.
func StatusOf(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// RetryAfter returns how long the registry asks to wait, 0 if it does not say.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// Answered is the error of an answer with a status that is not of success.
// said is the registry's own message, of which nothing else is repeated than
// what is fit to be shown; empty if there is none.
func Answered(status int, header http.Header, said string) error {
	e := &Error{
		Status: status,
		// What a server of the 5xx kind has done before it failed is its secret.
		definite:  status >= 400 && status < 500 && status != http.StatusRequestTimeout,
		message:   fmt.Sprintf("answered %d %s", status, http.StatusText(status)),
		untrusted: said,
	}
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		e.RetryAfter = neterror.RetryAfter(header, time.Now())
	}
	if status >= 300 && status < 400 {
		e.message = fmt.Sprintf("answered %d, a redirect, which is not followed because it could send the root credential to another host; set url to the address it leads to", status)
		e.untrusted = ""
	}
	return e
}

// Refusedf is the error of a registry that could be understood and that does
// not do what was asked, without a status that says so. What the registry said
// is given marked, with [redact.Untrusted].
func Refusedf(format string, args ...any) error {
	return &Error{definite: true, message: fmt.Sprintf(format, args...)}
}

// Malformedf is the error of an answer of success that lacks what it must have.
// What the registry said is given as to [Refusedf].
func Malformedf(format string, args ...any) error {
	return &Error{message: fmt.Sprintf(format, args...)}
}

// Failed is the error of a call without an answer that could be understood.
// Nothing of err is repeated that may hold what was sent.
func Failed(err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &Error{message: describeFailure(err), definite: notSent(err)}
}

// notSent reports whether the failure came before a connection was made.
func notSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

func describeFailure(err error) string {
	text := cmp.Or(neterror.Describe(err), "the answer could not be understood")
	if neterror.IsUntrustedCertificate(err) {
		text += "; ca_pem of the connection takes the certificates of a private CA"
	}
	return text
}
