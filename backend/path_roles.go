// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

const (
	roleStoragePrefix = "roles/"
	typeStatic        = "static"
)

// role is what roles/<role> defines and creds/<role> reads.
type role struct {
	Static    *staticRole
	UpdatedAt time.Time
}

// storedRole is a role as it stands in storage.
type storedRole struct {
	unprintable
	SchemaVersion int       `json:"schema_version"`
	Type          string    `json:"type"`
	UpdatedAt     time.Time `json:"updated_at"`
	// Docker is a pointer because fmt's %p prints a struct without asking it.
	Docker    *json.RawMessage `json:"dockerconfig"`
	ExpiresAt time.Time        `json:"expires_at,omitzero"`
}

// role returns nil where there is none of that name.
func (b *backend) role(ctx context.Context, storage logical.Storage, name string) (*role, error) {
	stored := storedRole{Docker: new(json.RawMessage)}
	found, err := getEntry(ctx, storage, roleStoragePrefix+name, &stored, &stored.SchemaVersion)
	if err != nil || !found {
		return nil, err
	}
	if stored.Type != typeStatic {
		return nil, fmt.Errorf("role %q has the unknown type %q", name, stored.Type)
	}
	if stored.Docker == nil {
		return nil, fmt.Errorf("role %q has no Docker config", name)
	}
	docker, err := dockerconfig.Decode(*stored.Docker)
	if err != nil {
		return nil, fmt.Errorf("role %q: %w", name, err)
	}
	return &role{
		Static:    &staticRole{Docker: docker, ExpiresAt: stored.ExpiresAt},
		UpdatedAt: stored.UpdatedAt,
	}, nil
}

func (b *backend) putRole(ctx context.Context, storage logical.Storage, name string, r *role) error {
	docker := json.RawMessage(r.Static.Docker.JSON())
	return putEntry(ctx, storage, roleStoragePrefix+name, storedRole{
		SchemaVersion: schemaVersion,
		Type:          typeStatic,
		UpdatedAt:     r.UpdatedAt,
		Docker:        &docker,
		ExpiresAt:     r.Static.ExpiresAt,
	})
}

// readBack returns all of a role but its passwords and what derives from them.
func (r *role) readBack() map[string]any {
	data := map[string]any{
		"type":       typeStatic,
		"updated_at": formatTime(r.UpdatedAt),
	}
	if !r.Static.ExpiresAt.IsZero() {
		data["expires_at"] = formatTime(r.Static.ExpiresAt)
	}
	credentials := r.Static.Docker.Credentials()
	registries := make([]string, len(credentials))
	described := make([]map[string]any, len(credentials))
	for i, c := range credentials {
		registries[i] = string(c.Registry)
		described[i] = map[string]any{"registry": c.Registry.ImageName(), "username": c.Username}
		if c.Email != "" {
			described[i]["email"] = c.Email
		}
	}
	data["registries"] = registries
	if len(described) == 1 {
		maps.Copy(data, described[0])
	} else {
		data["credentials"] = described
	}
	return data
}

func (b *backend) pathRoles() []*framework.Path {
	fields := staticFields()
	fields[roleField] = roleNameField()
	return []*framework.Path{
		{
			Pattern:      "roles/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "roles", Navigation: true, ItemType: "Role"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback: b.listRoles,
					Summary:  "List the names of the roles.",
					Responses: okResponse("The names of the roles.", map[string]*framework.FieldSchema{
						"keys": {Type: framework.TypeStringSlice, Description: "Names of the roles, sorted."},
					}),
				},
			},
			HelpSynopsis:    "The names of the roles.",
			HelpDescription: "Lists the names of all roles of this mount, whatever their type.",
		},
		{
			Pattern:        "roles/" + nameRegex,
			Fields:         fields,
			ExistenceCheck: b.roleExists,
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "role", ItemType: "Role"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback:  b.readRole,
					Summary:   "Read a role, without its passwords.",
					Responses: okResponse("The role, without its passwords.", roleReadBackFields()),
				},
				logical.CreateOperation: forwarded(framework.PathOperation{
					Callback:  b.writeRole,
					Summary:   "Create a role.",
					Responses: noContent("The role is stored."),
				}),
				logical.UpdateOperation: forwarded(framework.PathOperation{
					Callback:  b.writeRole,
					Summary:   "Create a role, or change the named fields of an existing one.",
					Responses: noContent("The role is stored."),
				}),
				logical.PatchOperation: forwarded(framework.PathOperation{
					Callback:  b.writeRole,
					Summary:   "Change the named fields of an existing role; null empties a field.",
					Responses: noContent("The role is stored."),
				}),
				logical.DeleteOperation: forwarded(framework.PathOperation{
					Callback:  b.deleteRole,
					Summary:   "Delete a role.",
					Responses: noContent("There is no such role any more."),
				}),
			},
			HelpSynopsis:    "Defines the pull secret that creds/<role> reads.",
			HelpDescription: strings.TrimSpace(roleHelp),
		},
	}
}

func roleNameField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Name of the role: letters, digits and '_', with '.' or '-' inside. Case counts.",
		Required:     true,
		DisplayAttrs: &framework.DisplayAttributes{Identifier: true},
	}
}

func roleReadBackFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"type":        {Type: framework.TypeString, Required: true, Description: "Type of the role: static.", AllowedValues: []any{typeStatic}},
		"registries":  {Type: framework.TypeStringSlice, Required: true, Description: "Keys under auths that the pull secret has, sorted."},
		"registry":    {Type: framework.TypeString, Description: "Registry as in image names, where the role holds one."},
		"username":    {Type: framework.TypeString, Description: "User name, where the role holds one registry."},
		"email":       {Type: framework.TypeString, Description: "Email, where the role holds one registry and has an email."},
		"credentials": {Type: framework.TypeSlice, Description: "Where the role holds several registries: registry, username and email of each."},
		"expires_at":  {Type: framework.TypeString, Description: "When the credential stops working at the registry, RFC 3339, where known."},
		"updated_at":  {Type: framework.TypeString, Required: true, Description: "When the role was last written, RFC 3339."},
	}
}

func (b *backend) roleExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	name := data.Get(roleField).(string)
	if checkName(name) != nil {
		return false, nil //nolint:nilerr // the write itself says what is wrong
	}
	entry, err := req.Storage.Get(ctx, roleStoragePrefix+name)
	return entry != nil, err
}

func (b *backend) listRoles(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := req.Storage.List(ctx, roleStoragePrefix)
	if err != nil {
		return nil, fmt.Errorf("listing the roles: %w", err)
	}
	return logical.ListResponse(names), nil
}

func (b *backend) readRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(roleField).(string)
	if err := checkName(name); err != nil {
		return answer(refuse(err))
	}
	r, err := b.role(ctx, req.Storage, name)
	if err != nil || r == nil {
		return nil, err
	}
	settings, err := b.config(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	warnings := expiryWarnings(name, r.Static.ExpiresAt, b.now(), settings.ExpiryWarning)
	if err := settings.checkAllowed(r.Static.Docker); err != nil {
		warnings = append(warnings, fmt.Sprintf("creds/%s is refused: %s", name, err))
	}
	return withWarnings(&logical.Response{Data: r.readBack()}, warnings), nil
}

// writeRole creates, updates and patches: an update and a patch keep the
// fields they do not name, and only a patch needs the role to exist.
func (b *backend) writeRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(roleField).(string)
	if err := checkName(name); err != nil {
		return answer(refuse(err))
	}
	lock := locksutil.LockForKey(b.roleLocks, name)
	lock.Lock()
	defer lock.Unlock()

	r, err := b.role(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		if req.Operation == logical.PatchOperation {
			return nil, logical.CodedError(http.StatusNotFound, fmt.Sprintf("role %q does not exist; a write creates it", name))
		}
		r = &role{}
	}
	static, warnings, err := input{data}.applyStatic(r.Static, b.now())
	if err != nil {
		return answer(err)
	}
	settings, err := b.config(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if err := settings.checkAllowed(static.Docker); err != nil {
		return answer(err)
	}
	if err := b.putRole(ctx, req.Storage, name, &role{Static: static, UpdatedAt: b.now()}); err != nil {
		return nil, err
	}
	b.sendEvent(ctx, req, "role-write", "creds/"+name)
	return withWarnings(nil, warnings), nil
}

func (b *backend) deleteRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name := data.Get(roleField).(string)
	if err := checkName(name); err != nil {
		return answer(refuse(err))
	}
	lock := locksutil.LockForKey(b.roleLocks, name)
	lock.Lock()
	defer lock.Unlock()

	existed, err := b.roleExists(ctx, req, data)
	if err != nil {
		return nil, fmt.Errorf("deleting role %q: %w", name, err)
	}
	if !existed {
		return nil, nil
	}
	if err := req.Storage.Delete(ctx, roleStoragePrefix+name); err != nil {
		return nil, fmt.Errorf("deleting role %q: %w", name, err)
	}
	b.sendEvent(ctx, req, "role-delete", "creds/"+name)
	return nil, nil
}

const roleHelp = `
A static role holds the credential of a registry:

    registry, username, password, and email where the registry wants one

or, in dockerconfigjson, a whole Docker config with any number of registries.
hostname means the same as registry.

A write to an existing role keeps the fields that it does not name, so that
"vault write regcred/roles/my_app password=..." rotates a password; "vault
patch" does the same and fails where there is no such role. What is wrong with
a value is said with the field's name and changes nothing; what was changed on
the way in is a warning.

Reading a role never returns a password.
`
