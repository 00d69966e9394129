// SPDX-License-Identifier: MPL-2.0

package client

import (
	"errors"
	"fmt"
	"io"

	"vault-plugin-secrets-regcred/backend/redact"
)

// Steps prints what "regcred check" finds out, a line for each step.
type Steps struct {
	Out   io.Writer
	first error // the first failure
}

// OK says that a step went well.
func (s *Steps) OK(step, format string, args ...any) {
	s.line("ok", step, fmt.Sprintf(format, args...))
}

// Note says what somebody should know about the step before.
func (s *Steps) Note(format string, args ...any) { s.line("note", "", fmt.Sprintf(format, args...)) }

// Fail says why a step failed, and what to do.
func (s *Steps) Fail(step string, err error) {
	if s.first == nil {
		s.first = err
	}
	var f *Failure
	if !errors.As(err, &f) {
		s.line("FAIL", step, Line(err))
		return
	}
	s.line("FAIL", step, f.What)
	if f.Do != "" {
		s.line("", "", "what to do: "+f.Do)
	}
}

// Failed reports whether a step has failed.
func (s *Steps) Failed() bool { return s.first != nil }

// FirstFailure returns why the first step failed that did.
func (s *Steps) FirstFailure() error { return s.first }

func (s *Steps) line(result, step, text string) {
	_, _ = fmt.Fprintf(s.Out, "%-5s %-14s %s\n", result, step, redact.Clean(text))
}

// ShowPullSecret says what a pull secret holds, without its secrets.
func (s *Steps) ShowPullSecret(v *Vault, role string, p PullSecret) {
	s.OK("read", "%s/creds/%s", v.Mount(), role)
	for _, c := range p.Docker.Credentials() {
		s.Note("%s as %s", c.Registry, c.Username)
	}
	if p.Rotates {
		s.Note("the engine replaces the credential; a former one works for %s", p.GracePeriod)
	}
	if !p.ExpiresAt.IsZero() {
		s.Note("it expires at %s", p.ExpiresAt.Format("2006-01-02T15:04:05Z07:00"))
	}
	for _, warning := range p.Warnings {
		s.Note("Vault warns: %s", warning)
	}
}
