// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
)

// roleSchema returns the fields of roles/<role>.
func (e *engine) roleSchema() map[string]*framework.FieldSchema { return e.Route("roles/app").Fields }

// A field of a type would silently replace another field of the same name.
func TestFieldsOfTypesHaveUniqueNames(t *testing.T) {
	taken := func(fields ...map[string]*framework.FieldSchema) (names []string) {
		for _, f := range fields {
			names = append(names, slices.Collect(maps.Keys(f))...)
		}
		return names
	}
	ofConnections := append(taken(commonConnectionFields()), connectionNameField, "force", "updated_at", "last_root_rotation", "pending_root")
	ofRoles := append(taken(staticFields(), bundleFields(), memberFields()), roleField, "verify", "connection", "mode", "ttl", "max_ttl",
		"rotation_period", "grace_period", "type", "registries", "updated_at", "last_vault_rotation", "next_rotation", "last_error", "last_error_at", "pending_revocations")
	types := map[string]framework.FieldType{}
	for _, it := range issuerTypes {
		for name := range it.ConnectionFields {
			if slices.Contains(ofConnections, name) {
				t.Errorf("type %s: %q is a field of every connection", it.Name, name)
			}
		}
		for name := range it.DeclaredFields {
			if slices.Contains(ofConnections, name) || it.ConnectionFields[name] != nil {
				t.Errorf("type %s: %q is a field of connections that somebody writes", it.Name, name)
			}
		}
		for name, field := range it.RoleFields {
			if slices.Contains(ofRoles, name) {
				t.Errorf("type %s: %q is a field of other roles", it.Name, name)
			}
			if isSecretField(field) {
				t.Errorf("type %s: %q of a role is secret, and roles are read back", it.Name, name)
			}
		}
		for _, fields := range []map[string]*framework.FieldSchema{it.ConnectionFields, it.DeclaredFields, it.RoleFields} {
			for name, field := range fields {
				if !slices.Contains([]framework.FieldType{framework.TypeString, framework.TypeCommaStringSlice, framework.TypeDurationSecond}, field.Type) {
					t.Errorf("type %s: %q is neither a string, nor a list of strings, nor a duration", it.Name, name)
				}
				if other, known := types[name]; known && other != field.Type {
					t.Errorf("type %s: %q has another type elsewhere", it.Name, name)
				}
				types[name] = field.Type
			}
		}
	}
}
