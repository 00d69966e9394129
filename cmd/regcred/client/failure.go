// SPDX-License-Identifier: MPL-2.0

package client

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/neterror"
	"vault-plugin-secrets-regcred/backend/redact"
)

// maxSaid is how many characters of a server's own message an error repeats.
const maxSaid = 300

// Failure is an error whose text is one line without a secret.
type Failure struct {
	What string // what failed, and why
	Do   string // what to do about it; may be empty

	Status int // HTTP status of Vault's answer; 0: there was none, or it is about no request
}

// Error returns what failed and what to do.
func (f *Failure) Error() string {
	if f.Do == "" {
		return f.What
	}
	return f.What + "; " + f.Do
}

// failf returns a failure whose text is formatted in our own words.
func failf(format string, args ...any) *Failure {
	return &Failure{What: redact.Clean(fmt.Sprintf(format, args...))}
}

// do adds what to do about the failure.
func (f *Failure) do(format string, args ...any) *Failure {
	f.Do = redact.Clean(fmt.Sprintf(format, args...))
	return f
}

// Line returns the text of any error as one line. The text of an error that is no
// [Failure] is not repeated, because it may hold what was sent.
func Line(err error) string {
	var f *Failure
	if errors.As(err, &f) {
		return f.Error()
	}
	return "an internal error"
}

// status returns the HTTP status that Vault answered with, or 0.
func status(err error) int {
	var answer *api.ResponseError
	if errors.As(err, &answer) {
		return answer.StatusCode
	}
	return 0
}

// reason says in one line why a request to Vault failed. It repeats what Vault
// has said, without the secrets that the request held.
func (v *Vault) reason(err error) string { return v.reasonWithout(err, nil) }

// reasonWithout is reason for a request that held more secrets.
func (v *Vault) reasonWithout(err error, more []string) string {
	secrets := slices.Concat(v.secrets, more)
	var answer *api.ResponseError
	if !errors.As(err, &answer) {
		why := neterror.Describe(err)
		switch {
		case errors.Is(err, errRedirected):
			why = errRedirected.Error()
		case why == "":
			why = "the answer is not one of Vault"
		}
		return fmt.Sprintf("no answer of Vault at %s: %s", v.address, redact.Sanitize(why, secrets, nil))
	}
	said := http.StatusText(answer.StatusCode)
	if len(answer.Errors) > 0 {
		// Redacted before it is cut: part of a secret would not be recognised.
		said = redact.Truncate(redact.Sanitize(redact.Untrusted(strings.Join(answer.Errors, "; ")), secrets, nil), maxSaid)
	}
	return fmt.Sprintf("Vault at %s answered with status %d: %s", v.address, answer.StatusCode, said)
}
