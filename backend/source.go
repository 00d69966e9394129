// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

const (
	// maxMembersSize caps the bytes that the members of a bundle have together, which a
	// read of the bundle decodes. Members that could be written do not reach it: they
	// have at most 8 KiB of allowed_bundles each, and 1 MiB of credentials together.
	maxMembersSize = 16 << 20

	// largeMember is the size of a member from which its allowed_bundles are dropped
	// once they were checked. Smaller roles are in memory anyway.
	largeMember = 4 << 10

	// maxAllowedBundles caps the bytes of one allowed_bundles.
	maxAllowedBundles = 8 << 10
)

// source is a role whose credentials go into a pull secret, with its name.
type source struct {
	name string
	*role

	registries []dockerconfig.Key // sorted
	expiresAt  time.Time
	shared     sharedStatus // of a shared role
	rotation   *rotation    // nil if the engine does not replace the credential

	// docker holds the credentials. In a description it is empty, except for a
	// static role.
	docker dockerconfig.Config
	isNew  bool // just minted: the registry may not accept it at once
}

// description describes a role's pull secret without its credentials.
type description struct {
	Registries []dockerconfig.Key
	ExpiresAt  time.Time // the earliest of its credentials; zero if not known
	Rotation   *rotation // nil if the engine replaces none of its credentials
	Warnings   []string

	sources  []source // the roles that it is joined from
	isBundle bool     // they are the members of a bundle
	settings config   // the settings of the mount that were applied
}

// pullSecret is the pull secret that a role serves.
type pullSecret struct {
	Docker dockerconfig.Config
	description
}

// subjectOf says which credentials some sources hold, as long as none is written or
// replaced. It holds nothing that was made of a secret.
func subjectOf(sources ...source) string {
	var held []byte
	for _, s := range sources {
		held = fmt.Appendf(held, "%s %d", s.name, s.credentialAt().UnixNano())
		if c := s.shared.Current; c != nil {
			held = fmt.Append(held, " ", c.Name)
		}
		held = fmt.Appendln(held)
	}
	sum := sha256.Sum256(held)
	return hex.EncodeToString(sum[:16])
}

// sources returns the roles whose credentials a role serves: itself, or the members
// of a bundle. Every write and every read of a bundle comes through here, and only
// here is it checked that each member allows the bundle. A member that does not
// exist gives the same error as one that does not allow it: otherwise anyone who
// can write bundles could find out which roles exist.
func (b *backend) sources(ctx context.Context, storage logical.Storage, name string, r *role) ([]source, error) {
	if r.Bundle == nil {
		return []source{{name: name, role: r}}, nil
	}
	sources := make([]source, len(r.Bundle.Members))
	size, credentials := 0, 0 // bytes
	for i, member := range r.Bundle.Members {
		m, err := b.role(ctx, storage, member)
		if err != nil {
			return nil, err
		}
		if m == nil || m.Bundle != nil || m.isLeased() || !m.allowsBundle(name) {
			return nil, refusef("members: role %q cannot be joined: there is no such role, or it is a bundle or leased, or its allowed_bundles does not name %q", member, name)
		}
		ofMember := m.size()
		size += ofMember
		credentials += m.credentialsSize()
		switch {
		case size > maxMembersSize:
			return nil, refusef("members: the roles up to %q have more than %d MiB in total; shorten their allowed_bundles, for example with a pattern such as team-*", member, maxMembersSize>>20)
		case credentials > dockerconfig.MaxSize:
			return nil, refusef("members: the credentials of the roles up to %q have more than %d bytes in total, Kubernetes' limit for a Secret", member, dockerconfig.MaxSize)
		}
		if ofMember > largeMember {
			m = m.withoutBundles()
		}
		sources[i] = source{name: member, role: m}
	}
	return sources, nil
}

// checkDistinct refuses sources that hold the same registry.
func checkDistinct(sources []source) error {
	if len(sources) == 1 {
		return nil
	}
	owner := map[dockerconfig.Key]string{}
	for _, s := range sources {
		for _, key := range s.registries {
			if other, twice := owner[key]; twice {
				return refusef("members: roles %q and %q both hold registry %q, but a pull secret holds one credential per registry", other, s.name, key)
			}
			owner[key] = s.name
		}
	}
	return nil
}

// join joins the credentials of all sources into one Docker config. Their order
// does not matter.
func join(sources []source) (dockerconfig.Config, error) {
	if len(sources) == 1 {
		return sources[0].docker, nil
	}
	var all []dockerconfig.Credential
	for _, s := range sources {
		all = slices.AppendSeq(all, s.docker.All())
	}
	joined, err := dockerconfig.New(all...)
	if err != nil {
		return dockerconfig.Config{}, refuse(fmt.Errorf("members: %w", err))
	}
	return joined, nil
}

func (s *source) setCredential(docker dockerconfig.Config, expiresAt time.Time, r *rotation) {
	s.docker, s.registries, s.expiresAt, s.rotation = docker, docker.Keys(), expiresAt, r
}

// registriesOf returns the registries of a role, and none for what cannot be
// read of it.
func (b *backend) registriesOf(ctx context.Context, storage logical.Storage, r *role) (keys []dockerconfig.Key) {
	switch {
	case r == nil:
	case r.Static != nil:
		keys = r.Static.Docker.Keys()
	case r.Dynamic != nil:
		if c, err := b.connectionFacts(ctx, storage, r.Dynamic.Connection); err == nil && c != nil {
			keys = c.Registries
		}
	case r.Bundle != nil:
		for _, name := range r.Bundle.Members {
			if member, err := b.role(ctx, storage, name); err == nil && member != nil && member.Bundle == nil {
				keys = append(keys, b.registriesOf(ctx, storage, member)...)
			}
		}
	}
	return keys
}
