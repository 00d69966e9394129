// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const (
	credsPrefix = "creds/"

	// readTries is how often a read begins anew because a role was written while
	// the read waited for a mint.
	readTries = 3
)

// pathCreds has no list operation, so that a tool that searches for all secrets
// below a path cannot copy every credential.
func (b *backend) pathCreds() []*framework.Path {
	var paths []*framework.Path
	for _, format := range b.credsFormats() {
		paths = append(paths, &framework.Path{
			Pattern: credsPrefix + nameRegex + format.suffix,
			Fields: map[string]*framework.FieldSchema{
				roleField: roleNameField(),
				"version": {
					Type: framework.TypeStringSlice, Query: true, // this type accepts any value
					Description: "Accepted and ignored, for clients that ask every engine for a version.",
				},
			},
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: format.operationSuffix},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback:  b.readCreds(format),
					Summary:   format.summary,
					Responses: okResponse("The pull secret.", format.fields),
				},
			},
			HelpSynopsis:    format.synopsis,
			HelpDescription: strings.TrimSpace(format.details),
		})
	}
	return paths
}

func (b *backend) readCreds(format credsFormat) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		name, err := roleName(data)
		if err != nil {
			return answer(err)
		}
		for try := 1; ; try++ {
			r, err := b.role(ctx, req.Storage, name)
			if err != nil || r == nil {
				return nil, err
			}
			if r.isLeased() {
				return b.readLeased(ctx, req, name, r, format)
			}
			secret, err := b.pullSecret(ctx, req.Storage, name, r)
			if errors.Is(err, errRoleChanged) && try < readTries {
				continue
			}
			if err != nil {
				return answer(registryError(err))
			}
			fields, err := format.answer(secret)
			if err != nil {
				return nil, err
			}
			return withWarnings(&logical.Response{Data: fields}, secret.Warnings), nil
		}
	}
}
