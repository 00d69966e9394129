// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// bundleRole is a role that joins the credentials of other roles.
type bundleRole struct {
	Members []string // names of roles, sorted, each once
}

// bundleFields are the fields of roles/<role> that make a role a bundle.
func bundleFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"members": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Names of the roles to join into one pull secret. Each must name this role in its allowed_bundles.",
		},
	}
}

// memberFields are the fields of roles/<role> that every type but a bundle has.
func memberFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"allowed_bundles": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Names of the bundle roles that may join this role; '*' stands for any characters. Empty: none may.",
		},
		"verify_repository": {
			Type:        framework.TypeString,
			Description: "Repository that verify/<role> pulls from, such as group/my_app or group/my_app:1.4; where the role holds several registries, with the registry in front.",
		},
	}
}

// applyBundle returns the bundle as the write makes it.
func (in input) applyBundle(name string, old *bundleRole) (*bundleRole, error) {
	if old != nil && !in.has("members") {
		return old, nil
	}
	members := slices.Clone(in.Get("members").([]string))
	slices.Sort(members)
	if len(members) == 0 {
		return nil, refusef("members: must name at least one role")
	}
	if len(members) > dockerconfig.MaxRegistries {
		return nil, refusef("members: must name at most %d roles, not %d", dockerconfig.MaxRegistries, len(members))
	}
	for i, member := range members {
		if err := checkName(member); err != nil {
			return nil, refuse(fieldError("members", fieldError("role", err)))
		}
		if i > 0 && member == members[i-1] {
			return nil, refusef("members: must name role %q once", member)
		}
		if member == name {
			return nil, refusef("members: a bundle cannot join itself")
		}
	}
	return &bundleRole{Members: members}, nil
}

// allowsBundle reports whether a bundle of that name may join the role.
func (r *role) allowsBundle(bundle string) bool {
	return matchesAny(r.AllowedBundles, bundle)
}

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
				return dockerconfig.Config{}, refusef("members: roles %q and %q both hold registry %q, and a pull secret has one credential for each", other, s.name, c.Registry)
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
