// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// answer turns an error that the caller can correct into a response with status
// 400. It leaves every other error to Vault, which logs it and hides it from
// callers.
func answer(err error) (*logical.Response, error) {
	if isInputError(err) {
		return logical.ErrorResponse(err.Error()), nil
	}
	return nil, err
}

// withWarnings adds warnings to a response. It creates the response if resp is
// nil.
func withWarnings(resp *logical.Response, warnings []string) *logical.Response {
	if len(warnings) == 0 {
		return resp
	}
	if resp == nil {
		resp = &logical.Response{}
	}
	for _, w := range warnings {
		resp.AddWarning(w)
	}
	return resp
}

// formatTime formats a time as all responses have it.
func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// sendEvent tells Vault's event bus that a read of dataPath returns something new.
// A failure is only logged: not every server has an event bus, and a write that
// is stored must not fail because of it.
func (b *backend) sendEvent(ctx context.Context, req *logical.Request, event, dataPath string) {
	b.sendEventOf(ctx, event, req.Path, dataPath, req.Operation)
}

// sendEventOf is sendEvent for a change that was made without a request, or by a
// request for another path.
func (b *backend) sendEventOf(ctx context.Context, event, path, dataPath string, op logical.Operation) {
	b.sendEventAbout(ctx, event, path, dataPath, op, true)
}

// sendEventAbout is sendEventOf for what need not be a change of dataPath.
func (b *backend) sendEventAbout(ctx context.Context, event, path, dataPath string, op logical.Operation, modified bool) {
	err := logical.SendEvent(ctx, b, operationPrefix+"/"+event,
		logical.EventMetadataPath, path,
		logical.EventMetadataDataPath, dataPath,
		logical.EventMetadataOperation, string(op),
		logical.EventMetadataModified, strconv.FormatBool(modified),
	)
	if err != nil {
		b.Logger().Trace("event not sent", "event", event, "path", path, "error", err)
	}
}

// forwarded returns a write operation that Vault forwards to the active node of
// the cluster that owns the mount, because the locks are there.
func forwarded(op framework.PathOperation) *framework.PathOperation {
	op.ForwardPerformanceStandby = true
	op.ForwardPerformanceSecondary = true
	return &op
}

// operationPrefix is the prefix of all OpenAPI operation IDs and event types.
const operationPrefix = "regcred"

func okResponse(description string, fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: description, Fields: answered(fields)}}}
}

// answered returns fields as they stand in a response: durations are numbers, and there
// are no defaults.
func answered(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	all := map[string]*framework.FieldSchema{}
	for name, field := range fields {
		clone := *field
		clone.Default = nil
		if clone.Type == framework.TypeDurationSecond {
			clone.Type = framework.TypeInt64
			clone.Description += " In seconds."
		}
		all[name] = &clone
	}
	return all
}

// writeResponses describes the responses to a write, with and without warnings.
func writeResponses(description string) map[int][]framework.Response {
	return map[int][]framework.Response{
		http.StatusNoContent: {{Description: description}},
		http.StatusOK:        {{Description: description + " The response has warnings."}},
	}
}

func noContent(description string) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusNoContent: {{Description: description}}}
}

// registryError gives an error of a call to a registry's API status 502, because
// neither the caller nor Vault caused it. It returns other errors as they are.
func registryError(err error) error {
	if issuer.IsError(err) {
		return badGateway(err)
	}
	return err
}

// badGateway returns err with status 502.
func badGateway(err error) error { return logical.CodedError(http.StatusBadGateway, err.Error()) }

func isBadGateway(err error) bool {
	var coded logical.HTTPCodedError
	return errors.As(err, &coded) && coded.Code() == http.StatusBadGateway
}

// rotationFields are the response fields that say when a credential is replaced,
// and for how long a former one works.
func rotationFields(required bool) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"last_vault_rotation": {Type: framework.TypeString, Required: required, Description: "When the engine last replaced the credential, RFC 3339."},
		"rotation_period":     {Type: framework.TypeInt64, Required: required, Description: "How often the engine replaces the credential, in seconds."},
		"ttl":                 {Type: framework.TypeInt64, Required: required, Description: "Seconds until the engine replaces the credential; at least 1."},
		"grace_period":        {Type: framework.TypeInt64, Required: required, Description: "How long a replaced credential goes on working, in seconds; the shortest time, if several are replaced."},
	}
}

func noSuchRole(name string) error {
	return logical.CodedError(http.StatusNotFound, fmt.Sprintf("role %q does not exist; a write to roles/%s creates it", name, name))
}

func noSuchConnection(name string) error {
	return logical.CodedError(http.StatusNotFound, fmt.Sprintf("connection %q does not exist; a write to connections/%s creates it", name, name))
}

// listPath is a path that lists the names of all entries of a kind. plural is the
// path, and itemType is one of its entries. after and limit are named, and mean, what
// they do in lists of OpenBao.
func listPath(plural, itemType, prefix string) *framework.Path {
	list := func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		names, err := req.Storage.List(ctx, prefix)
		if err != nil {
			return nil, fmt.Errorf("listing %s: %w", prefix, err)
		}
		return logical.ListResponse(pageOf(names, data.Get("after").(string), data.Get("limit").(int))), nil
	}
	return &framework.Path{
		Pattern: plural + "/?$",
		Fields: map[string]*framework.FieldSchema{
			"after": {
				Type: framework.TypeString, Query: true,
				Description: "Begin the list after this name, which need not exist.",
			},
			"limit": {
				Type: framework.TypeInt, Query: true,
				Description: "How many names to return. 0, the default, and less: all.",
			},
		},
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: plural, Navigation: true, ItemType: itemType},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: &framework.PathOperation{
				Callback: list,
				Summary:  "List the names of the " + plural + ".",
				Responses: okResponse("The names of the "+plural+".", map[string]*framework.FieldSchema{
					"keys": {Type: framework.TypeStringSlice, Description: "Names of the " + plural + ", sorted."},
				}),
			},
		},
		HelpSynopsis:    "The names of the " + plural + ".",
		HelpDescription: "Lists the names of all " + plural + " of this mount, whatever their type; with limit, as many of them, and with after, those that follow a name.",
	}
}

// pageOf returns at most limit of the names that follow a name, all if limit is 0 or
// less. The names are sorted. The page is a part of them, not a copy.
func pageOf(names []string, after string, limit int) []string {
	if after != "" {
		start, found := slices.BinarySearch(names, after)
		if found {
			start++
		}
		names = names[start:]
	}
	if limit > 0 && limit < len(names) {
		names = names[:limit:limit]
	}
	return names
}
