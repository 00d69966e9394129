// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"slices"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// bundleFields are the fields of roles/<role> that make a role a bundle.
func bundleFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"members": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Names of the roles to join into one pull secret. Each must name this role in its allowed_bundles.",
		},
	}
}

// memberFields are the fields of roles/<role> that every type except a bundle has.
func memberFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"allowed_bundles": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Names of the bundle roles that may join this role; '*' matches any characters. Empty: none may.",
		},
		"verify_repository": {
			Type:        framework.TypeString,
			Description: "Repository that verify/<role> pulls from, such as group/my_app or group/my_app:1.4; if the role holds several registries, begin with the registry.",
		},
	}
}

// applyBundle returns the bundle with the write applied to it. old is nil for a
// new bundle.
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
