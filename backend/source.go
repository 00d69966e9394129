// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// source is a role whose credentials go into a pull secret, with its name.
type source struct {
	name string
	*role

	// load fills these:
	docker    dockerconfig.Config
	expiresAt time.Time
	shared    shared    // of a shared role
	rotation  *rotation // nil if the engine does not replace the credential
}

// pullSecret is the pull secret that a role serves.
type pullSecret struct {
	Docker    dockerconfig.Config
	ExpiresAt time.Time // the earliest of its credentials; zero if not known
	Rotation  *rotation // nil if the engine replaces none of its credentials
	Warnings  []string

	sources  []source // the roles that it is joined from
	settings config   // the settings of the mount that were applied
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
	for i, member := range r.Bundle.Members {
		m, err := b.role(ctx, storage, member)
		if err != nil {
			return nil, err
		}
		if m == nil || m.Bundle != nil || m.isLeased() || !m.allowsBundle(name) {
			return nil, refusef("members: role %q cannot be joined: there is no such role, or it is a bundle or leased, or its allowed_bundles does not name %q", member, name)
		}
		sources[i] = source{name: member, role: m}
	}
	return sources, nil
}

// join joins the Docker configs of all sources into one. Their order does not
// matter.
func join(sources []source) (dockerconfig.Config, error) {
	if len(sources) == 1 {
		return sources[0].docker, nil
	}
	var all []dockerconfig.Credential
	owner := map[dockerconfig.Key]string{}
	for _, s := range sources {
		for _, c := range s.docker.Credentials() {
			if other, twice := owner[c.Registry]; twice {
				return dockerconfig.Config{}, refusef("members: roles %q and %q both hold registry %q, but a pull secret holds one credential per registry", other, s.name, c.Registry)
			}
			owner[c.Registry] = s.name
			all = append(all, c)
		}
	}
	joined, err := dockerconfig.New(all...)
	if err != nil {
		return dockerconfig.Config{}, refuse(fmt.Errorf("members: %w", err))
	}
	return joined, nil
}
