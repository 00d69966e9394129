// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// shared is what a shared role serves and will revoke. The zero value is that
// of a role that was never read.
type shared struct {
	Current *sharedCredential
	Retired []retired
	GivenUp []givenUp // oldest first

	// Rotations counts the credentials that the role has had. It tells whether
	// somebody has rotated meanwhile, whatever the clocks say.
	Rotations int

	// RotationAsked says that rotate/ was written, and that it failed.
	RotationAsked bool

	LastError    string
	FailedAt     time.Time
	Failures     int           // since the last success
	FailedStatus int           // of the registry's last answer; 0: there was none, or the failure was another
	RetryAfter   time.Duration // that the registry asked for

	// Due has the times of the role's key in the index of what is due. It is zero
	// in what an earlier build stored, which has no key.
	Due dueTimes
}

// sharedCredential is the credential that reads return.
type sharedCredential struct {
	credentialRef
	Docker    dockerconfig.Config
	MintedAt  time.Time
	ExpiresAt time.Time // at the registry; zero: never
}

// retired is a credential that was replaced.
type retired struct {
	credentialRef
	MintedAt  time.Time `json:"minted_at,omitzero"` // zero in entries of the first builds, as RetiredAt
	RetiredAt time.Time `json:"retired_at,omitzero"`
	RevokeAt  time.Time `json:"revoke_at"`
	TriedAt   time.Time `json:"tried_at,omitzero"`
	Attempts  int       `json:"attempts,omitempty"`
	LastError string    `json:"last_error,omitempty"`
}

// givenUp is a credential that stays at its registry, because the connection
// does not lead there any more.
type givenUp struct {
	Name string    `json:"name"`
	URL  string    `json:"host,omitempty"`
	At   time.Time `json:"at"`
}

// storedShared is a shared as it stands in storage. What credentials were minted
// for may be long, and is mostly the same: it stands once, in Targets, and each
// credential has its place there. Up to schema version 2 each credential had its
// own.
type storedShared struct {
	unprintable
	SchemaVersion int                     `json:"schema_version"`
	Due           dueTimes                `json:"due,omitzero"`
	Targets       []issuer.Settings       `json:"targets,omitempty"`
	Current       *storedSharedCredential `json:"current,omitempty"`
	Retired       []storedRetired         `json:"retired,omitempty"`
	GivenUp       []givenUp               `json:"given_up,omitempty"`
	Rotations     int                     `json:"rotations,omitempty"`
	RotationAsked bool                    `json:"rotation_asked,omitempty"`
	LastError     string                  `json:"last_error,omitempty"`
	FailedAt      time.Time               `json:"failed_at,omitzero"`
	Failures      int                     `json:"failures,omitempty"`
	FailedStatus  int                     `json:"failed_status,omitempty"`
	RetryAfter    seconds                 `json:"retry_after,omitzero"`
}

type storedSharedCredential struct {
	unprintable
	Minted    storedRef        `json:"minted"`
	Docker    *json.RawMessage `json:"dockerconfig"`
	MintedAt  time.Time        `json:"minted_at"`
	ExpiresAt time.Time        `json:"expires_at,omitzero"`
}

// storedRef is a credentialRef of which Targets has the settings.
type storedRef struct {
	credentialRef
	Target *int `json:"target,omitempty"`
}

type storedRetired struct {
	retired
	Target *int `json:"target,omitempty"`
}

// putTarget moves the settings of a credential to the targets.
func (stored *storedShared) putTarget(ref *credentialRef) (target *int) {
	if len(ref.For) == 0 {
		return nil
	}
	at := slices.IndexFunc(stored.Targets, func(t issuer.Settings) bool { return maps.Equal(t, ref.For) })
	if at < 0 {
		at = len(stored.Targets)
		stored.Targets = append(stored.Targets, ref.For)
	}
	ref.For = nil
	return &at
}

// takeTarget is the inverse of putTarget.
func (stored *storedShared) takeTarget(ref *credentialRef, target *int) error {
	switch {
	case target == nil:
		return nil
	case *target < 0 || *target >= len(stored.Targets):
		return unreadablef("the credentials of role %q: the stored entry is damaged", ref.Role)
	}
	ref.For = stored.Targets[*target]
	return nil
}

// shared returns the zero value where there is nothing yet. What it returns must
// not be changed in place.
func (b *backend) shared(ctx context.Context, storage logical.Storage, name string) (shared, error) {
	return cache.Decoded(ctx, b.cache, storage, sharedStoragePrefix+name, shared{}, func(entry *logical.StorageEntry) (shared, error) {
		return decodeShared(entry, name)
	})
}

func decodeShared(entry *logical.StorageEntry, name string) (shared, error) {
	var stored storedShared
	if err := decodeEntry(entry, &stored, &stored.SchemaVersion); err != nil {
		return shared{}, err
	}
	s := shared{
		Due:           stored.Due,
		GivenUp:       stored.GivenUp,
		Rotations:     stored.Rotations,
		RotationAsked: stored.RotationAsked,
		LastError:     stored.LastError,
		FailedAt:      stored.FailedAt,
		Failures:      stored.Failures,
		FailedStatus:  stored.FailedStatus,
		RetryAfter:    stored.RetryAfter.Duration,
	}
	for _, r := range stored.Retired {
		if err := stored.takeTarget(&r.credentialRef, r.Target); err != nil {
			return shared{}, err
		}
		s.Retired = append(s.Retired, r.retired)
	}
	if c := stored.Current; c != nil {
		if c.Docker == nil {
			return shared{}, unreadablef("the credential of role %q: the stored entry is damaged", name)
		}
		docker, err := dockerconfig.Decode(*c.Docker)
		if err != nil {
			return shared{}, unreadablef("the credential of role %q: %w", name, err)
		}
		if err := stored.takeTarget(&c.Minted.credentialRef, c.Minted.Target); err != nil {
			return shared{}, err
		}
		s.Current = &sharedCredential{credentialRef: c.Minted.credentialRef, Docker: docker, MintedAt: c.MintedAt, ExpiresAt: c.ExpiresAt}
	}
	return s, nil
}

// stored returns the stored form.
func (s shared) stored() storedShared {
	stored := storedShared{
		SchemaVersion: sharedSchemaVersion,
		Due:           s.Due,
		GivenUp:       s.GivenUp,
		Rotations:     s.Rotations,
		RotationAsked: s.RotationAsked,
		LastError:     s.LastError,
		FailedAt:      s.FailedAt,
		Failures:      s.Failures,
		FailedStatus:  s.FailedStatus,
		RetryAfter:    seconds{s.RetryAfter},
	}
	if c := s.Current; c != nil {
		ref, docker := c.credentialRef, json.RawMessage(c.Docker.JSON())
		target := stored.putTarget(&ref)
		stored.Current = &storedSharedCredential{Minted: storedRef{ref, target}, Docker: &docker, MintedAt: c.MintedAt, ExpiresAt: c.ExpiresAt}
	}
	for _, r := range s.Retired {
		target := stored.putTarget(&r.credentialRef)
		stored.Retired = append(stored.Retired, storedRetired{r, target})
	}
	return stored
}

// failure is why the last rotation of a shared role failed.
type failure struct {
	LastError  string
	FailedAt   time.Time
	Failures   int
	Status     int // as shared.FailedStatus
	RetryAfter time.Duration
}

// setFailure notes a failure in place of what is known of an earlier one.
func (s *shared) setFailure(f failure) {
	s.LastError, s.FailedAt, s.Failures, s.FailedStatus, s.RetryAfter = f.LastError, f.FailedAt, f.Failures, f.Status, f.RetryAfter
}

// connections returns the names of the connections that minted the credentials.
func (s shared) connections() []string {
	var names []string
	for _, m := range s.all() {
		if !slices.Contains(names, m.Connection) {
			names = append(names, m.Connection)
		}
	}
	return names
}

// all returns all credentials that may be alive.
func (s shared) all() []credentialRef {
	var all []credentialRef
	if s.Current != nil {
		all = append(all, s.Current.credentialRef)
	}
	for _, r := range s.Retired {
		all = append(all, r.credentialRef)
	}
	return all
}
