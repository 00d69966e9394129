// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathStatus() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "status",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "status"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: b.readStatus,
				Summary:  "Read what needs somebody's attention, and the numbers of the mount.",
				Responses: okResponse("What needs attention, and the numbers of the mount.", map[string]*framework.FieldSchema{
					"attention":           {Type: framework.TypeSlice, Required: true, Description: "What needs attention, the most urgent first, at most 1,000: kind, role or connection, registry where one is meant, since (RFC 3339), message, and action."},
					"attention_count":     {Type: framework.TypeInt, Required: true, Description: "How many things need attention."},
					"complete":            {Type: framework.TypeBool, Required: true, Description: "False while roles are still being looked at, after an upgrade or a change on which many of them depend."},
					"roles":               {Type: framework.TypeMap, Required: true, Description: "Number of roles of each type: static, bundle, dynamic."},
					"connections":         {Type: framework.TypeMap, Required: true, Description: "Number of connections of each type that there is."},
					"leases":              {Type: framework.TypeInt, Required: true, Description: "Leased credentials that are not ended yet, of connections that can revoke."},
					"retired_credentials": {Type: framework.TypeInt, Required: true, Description: "Former credentials of shared roles that are not revoked yet."},
					"write_ahead_entries": {Type: framework.TypeInt, Required: true, Description: "Credentials that may be at a registry and that the engine looks for, or is about to store."},
				}),
			},
		},
		HelpSynopsis:    "Says what needs somebody's attention in this mount.",
		HelpDescription: strings.TrimSpace(statusHelp),
	}}
}

func (b *backend) readStatus(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	if err := b.prepareStatus(ctx, req.Storage); err != nil {
		return nil, err
	}
	v, n := b.viewAttention(), b.numbers()
	return &logical.Response{Data: map[string]any{
		"attention":           v.fields,
		"attention_count":     v.count,
		"complete":            n.isComplete,
		"roles":               n.roles,
		"connections":         n.connections,
		"leases":              n.leases,
		"retired_credentials": n.retired,
		"write_ahead_entries": n.ahead,
	}}, nil
}

// errNotListed is about a node that has just become the active one.
var errNotListed = logical.CodedError(http.StatusServiceUnavailable, "what needs attention is still being read from storage; try again in a moment")

// prepareStatus has the memory filled if it is not. Only the active node of the primary
// has it: Vault forwards requests there.
func (b *backend) prepareStatus(ctx context.Context, storage logical.Storage) error {
	if b.attentions.isListed() && b.now().Before(b.attentions.lookedAtExpiries()) {
		return nil
	}
	if b.onStandby() || !b.WriteSafeReplicationState() {
		return logical.ErrReadOnly
	}
	_, err := attend(ctx, b, "storage", work[struct{}]{
		key: "what needs attention", // however many wait for it
		do:  func(ctx context.Context) (struct{}, error) { return struct{}{}, b.keepAttention(ctx, storage) },
	})
	if wait := (noAnswerYetError{}); !errors.As(err, &wait) {
		return err
	}
	if !b.attentions.isListed() {
		return errNotListed
	}
	return nil
}

const statusHelp = `
One read says what somebody should look at: rotations that fail, credentials that
could not be revoked, root credentials that end or are refused, static credentials
that end or were refused by their registry, roles and bundles that cannot be read,
and registries that do not answer. Each entry says since when, and what to do. An
entry goes away by itself once its cause is mended.

    vault read -format=json -field=attention regcred/status

The engine keeps the answer in memory and reads nothing for it, however many roles
there are. It holds names and messages of the engine, and no secret, no user name
and no text of a registry. "metrics" has the same as numbers, for Prometheus.
`
