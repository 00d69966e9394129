// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// answer turns the caller's own mistakes into a response with status 400, and
// leaves every other error to Vault, which logs it and hides it from callers.
func answer(err error) (*logical.Response, error) {
	if isInputError(err) {
		return logical.ErrorResponse(err.Error()), nil
	}
	return nil, err
}

// withWarnings adds warnings to a response, making one where there is none.
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

// formatTime gives the one form in which times leave the engine.
func formatTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// sendEvent tells Vault's event bus that what dataPath reads has changed. It
// is best effort: not every server has a bus, and a write that is stored must
// not fail for it.
func (b *backend) sendEvent(ctx context.Context, req *logical.Request, event, dataPath string) {
	b.sendEventOf(ctx, event, req.Path, dataPath, req.Operation)
}

// sendEventOf does the same for what no request, or one of another path, does.
func (b *backend) sendEventOf(ctx context.Context, event, path, dataPath string, op logical.Operation) {
	err := logical.SendEvent(ctx, b, operationPrefix+"/"+event,
		logical.EventMetadataPath, path,
		logical.EventMetadataDataPath, dataPath,
		logical.EventMetadataOperation, string(op),
		logical.EventMetadataModified, "true",
	)
	if err != nil {
		b.Logger().Trace("event not sent", "event", event, "path", path, "error", err)
	}
}

// forwarded returns a write operation. Writes always go to the active node of
// the cluster that owns the mount, where the locks are.
func forwarded(op framework.PathOperation) *framework.PathOperation {
	op.ForwardPerformanceStandby = true
	op.ForwardPerformanceSecondary = true
	return &op
}

// operationPrefix starts the OpenAPI operation IDs of all paths.
const operationPrefix = "regcred"

func okResponse(description string, fields map[string]*framework.FieldSchema) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusOK: {{Description: description, Fields: fields}}}
}

// stored describes the answers to a write that may come with warnings.
func writeResponses(description string) map[int][]framework.Response {
	return map[int][]framework.Response{
		http.StatusNoContent: {{Description: description}},
		http.StatusOK:        {{Description: description + " There are warnings."}},
	}
}

func noContent(description string) map[int][]framework.Response {
	return map[int][]framework.Response{http.StatusNoContent: {{Description: description}}}
}

// registryError is the error of a call to a registry's API: neither the
// caller's mistake nor Vault's. It has status 502.
func registryError(err error) error {
	if issuer.IsError(err) {
		return badGateway(err)
	}
	return err
}

// badGateway marks what the registry, not Vault or the caller, is to blame for.
func badGateway(err error) error { return logical.CodedError(http.StatusBadGateway, err.Error()) }

func isBadGateway(err error) bool {
	var coded logical.HTTPCodedError
	return errors.As(err, &coded) && coded.Code() == http.StatusBadGateway
}

// rotationFields are those that say when a credential is replaced.
func rotationFields(required bool) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"last_vault_rotation": {Type: framework.TypeString, Required: required, Description: "When the credential was last replaced by the engine, RFC 3339."},
		"rotation_period":     {Type: framework.TypeInt64, Required: required, Description: "How often it is replaced, in seconds."},
		"ttl":                 {Type: framework.TypeInt64, Required: required, Description: "In how many seconds it is replaced next; at least 1."},
	}
}

func noSuchRole(name string) error {
	return logical.CodedError(http.StatusNotFound, fmt.Sprintf("role %q does not exist; a write to roles/%s creates it", name, name))
}

func noSuchConnection(name string) error {
	return logical.CodedError(http.StatusNotFound, fmt.Sprintf("connection %q does not exist; a write to connections/%s creates it", name, name))
}
