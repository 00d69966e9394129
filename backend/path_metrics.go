// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathMetrics() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "metrics",
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "metrics"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  b.readMetrics,
				Summary:   "Read the numbers of status, and counters, for Prometheus.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "Metrics in Prometheus' text format.", MediaType: "text/plain"}}},
			},
		},
		HelpSynopsis:    "The numbers of status, and counters, for Prometheus.",
		HelpDescription: strings.TrimSpace(metricsHelp),
	}}
}

func (b *backend) readMetrics(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	if err := b.prepareStatus(ctx, req.Storage); err != nil {
		return nil, err
	}
	text, err := b.metrics().encode()
	if err != nil {
		return nil, fmt.Errorf("encoding the metrics: %w", err)
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPContentType: string(metricsFormat),
		logical.HTTPRawBody:     text,
		logical.HTTPStatusCode:  http.StatusOK,
	}}, nil
}

const metricsHelp = `
Prometheus scrapes this path from Vault itself, with a Vault token as the bearer
token. The answer is text, which the Vault CLI cannot show:

    curl -H "X-Vault-Token: $VAULT_TOKEN" $VAULT_ADDR/v1/regcred/metrics

Counters begin at 0 when the process of the plugin begins. Names of roles stand
only in regcred_attention_since_timestamp_seconds, which has at most 1,000 series.
`
