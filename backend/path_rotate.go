// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathRotate() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "rotate/" + nameRegex,
		Fields:       map[string]*framework.FieldSchema{roleField: roleNameField()},
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "role"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: forwarded(framework.PathOperation{
				Callback:  b.rotateRole,
				Summary:   "Replace the credential of a shared role now.",
				Responses: okResponse("The new credential is served.", rotationFields(true)),
			}),
		},
		HelpSynopsis:    "Replaces the credential of a shared role now.",
		HelpDescription: strings.TrimSpace(rotateHelp),
	}}
}

func (b *backend) rotateRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := roleName(data)
	if err != nil {
		return answer(err)
	}
	r, err := b.role(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	switch {
	case r == nil:
		return nil, noSuchRole(name)
	case r.Static != nil:
		return answer(refusef("role %q is static: the engine cannot replace its credential; write the new password to roles/%s", name, name))
	case r.Bundle != nil:
		return answer(refusef("role %q is a bundle; rotate its members", name))
	case !r.isShared():
		return answer(refusef("role %q is leased: each read mints a new credential; to end one, revoke its lease", name))
	}
	rotated, err := b.rotateAttended(ctx, req.Storage, name, r, whenAsked)
	if err != nil {
		return answer(err)
	}
	s, err := b.status(ctx, req.Storage, rotated, r.Dynamic)
	if err != nil {
		return nil, err
	}
	if !s.serves() {
		return nil, errRoleChanged
	}
	return &logical.Response{Data: s.rotation().fields(s.now)}, nil
}

const rotateHelp = `
The engine mints a new credential, stores it, and serves it from then on. It
revokes the former one when the role's grace_period is over. If minting fails,
the engine keeps serving the former one, and the error says why.
`
