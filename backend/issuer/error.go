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
	// maxMessage caps the registry's own message in an error, in runes.
	maxMessage = 300

	// maxText caps the rest of an error, in runes.
	maxText = 600
)

// Error is the error of a call that the registry refused, or that failed.
type Error struct {
	// Status is the HTTP status of the answer; 0 if there was no answer, or it
	// could not be understood.
	Status int

	// RetryAfter is how long the registry asks to wait; 0 if it does not say.
	RetryAfter time.Duration

	proof      Proof
	definite   bool
	unanswered bool
	message    string // in our own words; text of the registry in it is marked
	said       string // the registry's own message, marked
	hint       string // what to do, in our own words
	secrets    []dockerconfig.Secret
	known      []string // texts in which a secret is no secret
}

// Error implements error. The text is one line, and holds no secret of the
// connection even if the registry repeats one.
func (e *Error) Error() string {
	secrets := reveal(e.secrets)
	text := redact.Truncate(redact.Sanitize(e.message, secrets, e.known), maxText)
	if said := redact.Sanitize(e.said, secrets, e.known); said != "" {
		text += ": " + redact.Truncate(said, maxMessage)
	}
	if e.hint != "" {
		text += " (" + redact.Sanitize(e.hint, secrets, e.known) + ")"
	}
	if e.RetryAfter > 0 {
		text += fmt.Sprintf("; it can be asked again in %s", e.RetryAfter)
	}
	return text
}

// Proof is what an answer proves. An answer counts only if it is the registry's own,
// in the registry's own form, and about the very thing that was asked for: proxies
// answer 404 and 401 too, and so do registries whose database is down. Each issuer has
// one function that says what an answer proves.
type Proof int

// The proofs.
const (
	ProvesNothing Proof = iota
	ProvesGone          // what was asked for does not exist
	ProvesRefused       // the registry refuses the root credential
)

// Proving returns an [Error] with what its answer proves. Any other error is returned
// as it is.
func Proving(proof Proof, err error) error {
	var e *Error
	if errors.As(err, &e) {
		e.proof = proof
	}
	return err
}

// IsGone reports whether an error proves that what was asked for does not exist.
func IsGone(err error) bool { return proofOf(err) == ProvesGone }

// IsRefused reports whether an error proves that the registry refuses the root
// credential.
func IsRefused(err error) bool { return proofOf(err) == ProvesRefused }

func proofOf(err error) Proof {
	var e *Error
	if errors.As(err, &e) {
		return e.proof
	}
	return ProvesNothing
}

// Hint adds to an [Error] what its reader can do, "" for nothing. Text from the
// registry must be marked as for [Refusedf].
func Hint(err error, hint string) error {
	var e *Error
	if errors.As(err, &e) {
		e.hint = hint
	}
	return err
}

// Indefinite returns an [Error] that proves nothing and is not definite, because of
// what the hint says as for [Hint].
func Indefinite(err error, hint string) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	copied := *e
	copied.Status, copied.definite, copied.proof, copied.hint = 0, false, ProvesNothing, hint
	return &copied
}

// NothingDone returns an [Error] as a definite one. It is for a call that fails before the
// one that would change something is made.
func NothingDone(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	copied := *e
	copied.definite = true
	return &copied
}

// Gonef is the error of an answer that proves, although no status says so, that what
// was asked for has ended. Text from the registry must be marked as for [Refusedf].
func Gonef(format string, args ...any) error {
	return Proving(ProvesGone, Refusedf(format, args...))
}

// discardUnproven takes the status from an answer that looks like a refusal of the root
// credential and does not prove it.
func (e *Error) discardUnproven() {
	if e.Status == http.StatusUnauthorized && e.proof != ProvesRefused {
		e.Status = 0
		e.message += ", which does not prove that the root credential is refused"
	}
}

// explainUnproven says why an answer to an attempt to end something is an error.
func explainUnproven(err error) error {
	var answered *Error
	if !errors.As(err, &answered) || answered.Status != http.StatusNotFound || answered.proof == ProvesGone {
		return err
	}
	e := *answered
	e.message += ", which does not prove that the credential is gone"
	return &e
}

// Definite reports whether the failed call certainly changed nothing at the
// registry, and will not change anything later.
func Definite(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.definite
}

// IsError reports whether an error is the failure of a call to a registry.
func IsError(err error) bool {
	var e *Error
	return errors.As(err, &e)
}

// IsUnanswered reports whether there was no answer, or not all of one: no connection,
// a broken one, or a time limit.
func IsUnanswered(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.unanswered
}

// StatusOf returns the HTTP status of an error, 0 if it has none.
func StatusOf(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// RetryAfter returns how long the registry asks to wait; 0 if it does not say.
func RetryAfter(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// StatusError is the error of an answer whose status is not success. said are the
// parts of the registry's own message, whole and as received; each is redacted, and
// they are joined by colons and shortened before they are shown.
func StatusError(status int, header http.Header, said ...string) error {
	e := &Error{
		Status: status,
		// A server may have acted before it answered 5xx.
		definite: status >= 400 && status < 500 && status != http.StatusRequestTimeout,
		message:  fmt.Sprintf("answered %d %s", status, http.StatusText(status)),
		said:     redact.Join(": ", said...),
	}
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		e.RetryAfter = neterror.RetryAfter(header, time.Now())
	}
	if status >= 300 && status < 400 {
		e.message = fmt.Sprintf("answered %d, a redirect, which is not followed because it could send the root credential to another host; set url to the address it leads to", status)
		e.said = ""
	}
	return e
}

// Refusedf is the error of a registry that clearly does not do what was asked,
// although no status says so. Text from the registry must be marked with
// [redact.Untrusted].
func Refusedf(format string, args ...any) error {
	return &Error{definite: true, message: fmt.Sprintf(format, args...)}
}

// Malformedf is the error of a success whose body lacks a required part. Text
// from the registry must be marked as for [Refusedf].
func Malformedf(format string, args ...any) error {
	return &Error{message: fmt.Sprintf(format, args...)}
}

// Failed is the error of a call without an answer, or whose answer could not be
// decoded. An err that is an [Error] already, or nil, is returned as it is. The
// text of any other err is not repeated where it may hold what was sent.
func Failed(err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &Error{message: describeFailure(err), definite: notSent(err), unanswered: neterror.Describe(err) != ""}
}

// notSent reports whether the call failed before a connection existed.
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
