// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
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
