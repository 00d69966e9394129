// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// describe returns what is known of the role's pull secret, whether or not its
// registries are allowed. It mints nothing.
func (b *backend) describe(ctx context.Context, storage logical.Storage, name string, r *role) (description, error) {
	d, err := b.resolve(ctx, storage, name, r, func(s *source) (err error) {
		if s.isShared() {
			if s.shared, err = b.sharedStatus(ctx, storage, s.name, s.Dynamic); err != nil {
				return err
			}
		}
		return b.describeSource(ctx, storage, s)
	})
	if err != nil {
		return description{}, err
	}
	if r.Bundle != nil { // together, the credentials of static roles may be too large
		static := slices.DeleteFunc(slices.Clone(d.sources), func(s source) bool { return s.Static == nil })
		if len(static) > 1 {
			_, err = join(static)
		}
	}
	return d, err
}

// describeSource finds the registries of a source, and the times of its
// credential if that is what the role is for.
func (b *backend) describeSource(ctx context.Context, storage logical.Storage, s *source) error {
	if s.Static != nil {
		s.setCredential(s.Static.Docker, s.Static.ExpiresAt, nil)
		return nil
	}
	if c := s.shared.Current; s.shared.current {
		s.registries, s.expiresAt, s.rotation = c.Docker.Keys(), c.ExpiresAt, s.shared.rotation()
		return nil
	}
	c, err := b.connectionFacts(ctx, storage, s.Dynamic.Connection)
	if err != nil {
		return err
	}
	if c == nil {
		return refusef("connection %q does not exist", s.Dynamic.Connection)
	}
	s.registries = slices.Sorted(slices.Values(c.Registries))
	return nil
}

// checkServed returns why a read of creds/ is refused, as far as that is known
// without a question to a registry: a registry that is no longer allowed, or a
// connection that mints no longer for a role that has no credential to serve.
func (b *backend) checkServed(ctx context.Context, storage logical.Storage, d description) error {
	if err := d.settings.checkRegistries(d.Registries); err != nil {
		return err
	}
	for _, s := range d.sources {
		if s.Dynamic == nil || s.isShared() && s.shared.serves() {
			continue
		}
		c, err := b.connectionFacts(ctx, storage, s.Dynamic.Connection)
		if err != nil {
			return err
		}
		if err := c.checkRole(s.Dynamic.Connection, s.name); err != nil {
			return err
		}
		if _, err := c.target(s.Dynamic.For); err != nil {
			return err
		}
	}
	return nil
}

// pullSecret returns what reading the role gives. An error that is the caller's
// says why it is refused.
func (b *backend) pullSecret(ctx context.Context, storage logical.Storage, name string, r *role) (pullSecret, error) {
	return b.pullSecretOf(ctx, storage, name, r, func(s *source) (err error) {
		if s.shared, err = b.sharedToServe(ctx, storage, s.name, s.role); err != nil {
			return err
		}
		c := s.shared.Current
		s.setCredential(c.Docker, c.ExpiresAt, s.shared.rotation())
		return nil
	})
}

// pullSecretOf joins the credentials of a role's sources; minted sets the
// credential of a shared one.
func (b *backend) pullSecretOf(ctx context.Context, storage logical.Storage, name string, r *role, minted func(*source) error) (pullSecret, error) {
	d, err := b.resolve(ctx, storage, name, r, func(s *source) error {
		if s.Static != nil {
			s.setCredential(s.Static.Docker, s.Static.ExpiresAt, nil)
			return nil
		}
		return minted(s)
	})
	if err != nil {
		return pullSecret{}, err
	}
	if err := d.settings.checkRegistries(d.Registries); err != nil {
		return pullSecret{}, err
	}
	secret := pullSecret{description: d}
	secret.Docker, err = join(d.sources)
	return secret, err
}

// resolve finds the sources of a role, has each of them loaded, and checks what
// they are together.
func (b *backend) resolve(ctx context.Context, storage logical.Storage, name string, r *role, load func(*source) error) (description, error) {
	var d description
	var err error
	if d.settings, err = b.config(ctx, storage); err != nil {
		return description{}, err
	}
	if d.sources, err = b.sources(ctx, storage, name, r); err != nil {
		return description{}, err
	}
	for i := range d.sources {
		if err := load(&d.sources[i]); err != nil {
			return description{}, err
		}
	}
	if err := checkDistinct(d.sources); err != nil {
		return description{}, err
	}
	d.isBundle = r.Bundle != nil
	for _, s := range d.sources {
		d.Registries = append(d.Registries, s.registries...)
		if d.ExpiresAt.IsZero() || !s.expiresAt.IsZero() && s.expiresAt.Before(d.ExpiresAt) {
			d.ExpiresAt = s.expiresAt
		}
		d.Rotation = joinRotations(d.Rotation, s.rotation)
		d.Warnings = append(d.Warnings, b.sourceWarnings(s, d.settings)...)
		failing, err := b.failingWarnings(ctx, storage, s.name, s)
		if err != nil {
			return description{}, err
		}
		d.Warnings = append(d.Warnings, failing...)
	}
	if d.isBundle && b.failing.has(name) { // seldom, and it takes memory
		failing, err := b.failingWarnings(ctx, storage, name, verifiedWithBundle(d.sources, d.settings)...)
		if err != nil {
			return description{}, err
		}
		d.Warnings = append(d.Warnings, failing...)
	}
	slices.Sort(d.Registries)
	return d, nil
}

// sourceWarnings are what a reader should know about a credential.
func (b *backend) sourceWarnings(s source, settings config) []string {
	if s.Static != nil {
		return expiryWarnings(s.name, s.expiresAt, b.now(), settings.ExpiryWarning.Duration)
	}
	if s.rotation == nil || s.shared.Failures == 0 && !s.shared.RotationAsked || s.shared.rotateAt().After(s.shared.now) {
		return nil
	}
	if s.shared.RotationAsked {
		return []string{fmt.Sprintf("the credential of role %q is not yet replaced, though rotate/%s was written; it works until %s, and roles/%s says why", s.name, s.name, untilWhen(s.expiresAt), s.name)}
	}
	return []string{fmt.Sprintf("the credential of role %q is overdue for rotation since %s, and works until %s; roles/%s says why", s.name, formatTime(s.shared.rotateAt()), untilWhen(s.expiresAt), s.name)}
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

// humanDuration rounds down to the unit in which a person plans.
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
