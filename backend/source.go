// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// source is a role that holds credentials, under its name.
type source struct {
	name string
	*role

	// What load finds:
	docker    dockerconfig.Config
	expiresAt time.Time
	shared    shared    // of a shared role
	rotation  *rotation // nil where the engine does not replace it
}

// pullSecret is what a role answers with.
type pullSecret struct {
	Docker    dockerconfig.Config
	ExpiresAt time.Time // the earliest of its credentials, zero where not known
	Rotation  *rotation // nil where the engine replaces none of them
	Warnings  []string

	sources  []source // the roles that it is made of
	settings config   // of the mount, by which it is allowed
}

// sources returns the roles whose credentials the role of that name serves:
// itself, or the members of a bundle. Whether each of them allows the bundle
// is decided here and nowhere else, at every write and every read. The error
// is the same for a role that does not exist, or writers of bundles could ask
// which roles there are.
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

// join makes one Docker config of all sources, whatever their order.
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
