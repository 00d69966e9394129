// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
)

// roleFields are the fields of roles/<role>.
func roleFields() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		roleField: roleNameField(),
		"verify": {
			Type:        framework.TypeBool,
			Description: "Store the role only if its credentials can pull.",
		},
		"forget_given_up": {
			Type:        framework.TypeBool,
			Description: "(dynamic) Forget the former credentials that given_up names, once you have ended them at their registry.",
		},
	}
	maps.Copy(fields, ofType("static", staticFields()))
	maps.Copy(fields, ofType("bundle", bundleFields()))
	maps.Copy(fields, ofType("dynamic", dynamicFields()))
	maps.Copy(fields, ofType("static, dynamic", memberFields()))
	maps.Copy(fields, ofType("static, bundle, shared", verifyFields()))
	return fields
}

// ofType puts the type of role in front of the descriptions of its fields, because help
// texts have the fields of all types in one list. Fields of one type of connection have
// that in front.
func ofType(roleType string, fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	for _, field := range fields {
		if !strings.HasPrefix(field.Description, "(") {
			field.Description = "(" + roleType + ") " + field.Description
		}
	}
	return fields
}

func roleReadBackFields() map[string]*framework.FieldSchema {
	fields := dynamicFields()
	maps.Copy(fields, verdictFields())
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"type":              {Type: framework.TypeString, Required: true, Description: "Type of the role: static, bundle or dynamic.", AllowedValues: []any{typeStatic, typeBundle, typeDynamic}},
		"registries":        {Type: framework.TypeStringSlice, Description: "Keys under auths in the pull secret, sorted."},
		"registry":          {Type: framework.TypeString, Description: "Static: registry as in image names, if the role holds exactly one."},
		"username":          {Type: framework.TypeString, Description: "Static: user name, if the role holds exactly one registry."},
		"email":             {Type: framework.TypeString, Description: "Static: email, if the role holds exactly one registry and has an email."},
		"credentials":       {Type: framework.TypeSlice, Description: "Static: registry, username and email of each credential, if the role holds several registries."},
		"members":           {Type: framework.TypeStringSlice, Description: "Bundle: names of the roles that it joins, sorted."},
		"allowed_bundles":   {Type: framework.TypeStringSlice, Description: "Names and globs of the bundle roles that may join this role."},
		"used_by":           {Type: framework.TypeStringSlice, Description: "Names of the bundle roles that join this role, sorted, at most 100."},
		"verify_repository": {Type: framework.TypeString, Description: "Repository that verify/<role> pulls from."},
		"expires_at":        {Type: framework.TypeString, Description: "When the credential stops working at the registry, RFC 3339, if known. For a bundle, the earliest time."},
		"updated_at":        {Type: framework.TypeString, Required: true, Description: "When the role was last written, RFC 3339."},

		"last_vault_rotation": {Type: framework.TypeString, Description: "Shared: when the credential was last replaced, RFC 3339."},
		"next_rotation":       {Type: framework.TypeString, Description: "Shared: when the next rotation is due, RFC 3339."},
		"last_error":          {Type: framework.TypeString, Description: "Shared: why the last rotation failed. Absent after a rotation that succeeded."},
		"last_error_at":       {Type: framework.TypeString, Description: "Shared: when the last rotation failed, RFC 3339."},
		"given_up":            {Type: framework.TypeSlice, Description: "Shared: name, url and given_up_at of the latest former credentials that stay at the registry, because the connection does not lead there any more."},
		"pending_revocations": {Type: framework.TypeSlice, Description: "Shared: name, revoke_at and last_error of each former credential that is not revoked yet."},
	})
	return fields
}
