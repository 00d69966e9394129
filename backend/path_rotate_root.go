// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathRotateRoot() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "connections/" + connectionRegex + "/rotate-root",
		Fields:       map[string]*framework.FieldSchema{connectionNameField: connectionNameSchema()},
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "rotate", OperationSuffix: "root-credential"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: forwarded(framework.PathOperation{
				Callback:  b.rotateRoot,
				Summary:   "Replace the root credential of a connection.",
				Responses: writeResponses("The new root credential is in use."),
			}),
		},
		HelpSynopsis:    "Replaces the root credential of a connection.",
		HelpDescription: strings.TrimSpace(rotateRootHelp),
	}}
}

func (b *backend) rotateRoot(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := connectionName(data)
	if err != nil {
		return answer(err)
	}
	handled := *req
	return attend(ctx, b, laneOf(name), work[*logical.Response]{
		key: "rotate-root of " + name,
		do:  func(ctx context.Context) (*logical.Response, error) { return b.rotateRootNow(ctx, &handled, name) },
	})
}

func (b *backend) rotateRootNow(ctx context.Context, req *logical.Request, name string) (*logical.Response, error) {
	ctx = withUrgency(ctx, asked)
	unlock, err := b.lockConnection(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	c, err := b.connection(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, noSuchConnection(name)
	}
	if err := b.finishRootRotation(ctx, req.Storage, c); err != nil {
		return answer(registryError(err))
	}
	if err := b.prepareRoot(ctx, req.Storage, c); err != nil {
		b.sendEvent(ctx, req, "root-rotate-fail", connectionStoragePrefix+name)
		return answer(registryError(err))
	}
	if err := b.finishRootRotation(ctx, req.Storage, c); err != nil {
		b.sendEvent(ctx, req, "root-rotate-fail", connectionStoragePrefix+name)
		return answer(registryError(err))
	}
	b.sendEvent(ctx, req, "root-rotate", connectionStoragePrefix+name)
	return nil, nil
}

const rotateRootHelp = `
The engine creates a new root credential, stores it, activates it and checks it.
Only then does it revoke and forget the former one, so that a crash at any point
leaves a credential that works. The engine finishes an interrupted rotate-root
before the next use of the connection, and tries every minute.
`
