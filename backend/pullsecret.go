// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// purpose is what a pull secret is wanted for.
type purpose int

const (
	toDescribe purpose = iota // registries and times; nothing is minted for it
	toServe                   // with credentials that work
)

// pullSecret returns what reading the role gives. An error that is the
// caller's says why it is refused.
func (b *backend) pullSecret(ctx context.Context, storage logical.Storage, name string, r *role, why purpose) (pullSecret, error) {
	var secret pullSecret
	var err error
	if secret.settings, err = b.config(ctx, storage); err != nil {
		return pullSecret{}, err
	}
	if secret.sources, err = b.sources(ctx, storage, name, r); err != nil {
		return pullSecret{}, err
	}
	for i := range secret.sources {
		if err := b.load(ctx, storage, &secret.sources[i], why); err != nil {
			return pullSecret{}, err
		}
	}
	if secret.Docker, err = join(secret.sources); err != nil {
		return pullSecret{}, err
	}
	if err := secret.settings.checkAllowed(secret.Docker); err != nil {
		return pullSecret{}, err
	}
	for _, s := range secret.sources {
		if secret.ExpiresAt.IsZero() || !s.expiresAt.IsZero() && s.expiresAt.Before(secret.ExpiresAt) {
			secret.ExpiresAt = s.expiresAt
		}
		secret.Rotation = joinRotations(secret.Rotation, s.rotation)
		secret.Warnings = append(secret.Warnings, b.sourceWarnings(s, secret.settings)...)
	}
	return secret, nil
}

// load finds the credentials of a source, and when they change.
func (b *backend) load(ctx context.Context, storage logical.Storage, s *source, why purpose) (err error) {
	if s.Static != nil {
		s.docker, s.expiresAt = s.Static.Docker, s.Static.ExpiresAt
		return nil
	}
	if s.isShared() {
		if why == toServe {
			s.shared, err = b.sharedToServe(ctx, storage, s.name, s.role)
		} else {
			s.shared, err = b.shared(ctx, storage, s.name)
		}
		if err != nil {
			return err
		}
		s.rotation = s.shared.rotation(s.Dynamic, b.now())
	}
	if c := s.shared.Current; c != nil && s.shared.isFor(s.Dynamic) {
		s.docker, s.expiresAt = c.Docker, c.ExpiresAt
		return nil
	}
	c, err := b.connection(ctx, storage, s.Dynamic.Connection)
	if err != nil {
		return err
	}
	if c == nil {
		return refusef("connection %q does not exist", s.Dynamic.Connection)
	}
	s.docker, err = placeholders(c)
	return err
}

// sourceWarnings are what somebody who reads should know of a credential.
func (b *backend) sourceWarnings(s source, settings config) []string {
	if s.Static != nil {
		return expiryWarnings(s.name, s.expiresAt, b.now(), settings.ExpiryWarning.Duration)
	}
	if s.shared.Failures > 0 && s.shared.isFor(s.Dynamic) && !s.shared.rotateAt(s.Dynamic).After(b.now()) {
		return []string{fmt.Sprintf("the credential of role %q is overdue for rotation since %s, and works until %s; roles/%s says why", s.name, formatTime(s.shared.rotateAt(s.Dynamic)), untilWhen(s.expiresAt), s.name)}
	}
	return nil
}

func untilWhen(at time.Time) string {
	if at.IsZero() {
		return "it is replaced"
	}
	return formatTime(at)
}

// expiryWarnings warns of credentials that have stopped working at the
// registry, or will within the given time.
func expiryWarnings(name string, expiresAt, now time.Time, within time.Duration) []string {
	left := expiresAt.Sub(now)
	switch {
	case expiresAt.IsZero() || left > within:
		return nil
	case left <= 0:
		return []string{fmt.Sprintf("the credential of role %q expired at %s; write a new password and expires_at to roles/%s", name, formatTime(expiresAt), name)}
	}
	return []string{fmt.Sprintf("the credential of role %q expires at %s, in %s; write a new password and expires_at to roles/%s", name, formatTime(expiresAt), humanDuration(left), name)}
}

// inWords rounds down to what a person plans with.
func humanDuration(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	}
	return "less than two minutes"
}

// placeholders are the registries of a connection as a Docker config without
// credentials, for what only describes a role.
func placeholders(c *connection) (dockerconfig.Config, error) {
	credentials := make([]dockerconfig.Credential, len(c.Registries))
	for i, key := range c.Registries {
		credentials[i] = dockerconfig.Credential{Registry: key}
	}
	return dockerconfig.New(credentials...)
}
