// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *backend) pathExpiring() []*framework.Path {
	return []*framework.Path{{
		Pattern: "expiring",
		Fields: map[string]*framework.FieldSchema{
			"within": {
				Type: framework.TypeDurationSecond, Query: true,
				Description: "How far to look ahead. Default: the mount's expiry_warning.",
			},
		},
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "expiring-roles"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: b.readExpiring,
				Summary:  "Read which roles have a credential that expires soon, or has expired.",
				Responses: okResponse("The roles, soonest first.", map[string]*framework.FieldSchema{
					"roles":      {Type: framework.TypeStringSlice, Required: true, Description: "Names of the roles, soonest first."},
					"expires_at": {Type: framework.TypeMap, Required: true, Description: "By role: when its credential stops working at the registry, RFC 3339."},
				}),
			},
		},
		HelpSynopsis:    "Finds the roles whose credentials expire soon, or have expired.",
		HelpDescription: "\"vault read regcred/expiring within=720h\" returns the roles whose expires_at lies within the next 720 hours or in the past. It lists the members of a bundle, not the bundle.",
	}}
}

func (b *backend) readExpiring(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	settings, err := b.config(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	within := settings.ExpiryWarning.Duration
	if seconds, named := data.GetOk("within"); named {
		within = time.Duration(seconds.(int)) * time.Second
	}
	names, times, warnings, err := b.expiringBefore(ctx, req.Storage, b.now().Add(within))
	if err != nil {
		return nil, err
	}
	expiresAt := make(map[string]any, len(times))
	for name, at := range times {
		expiresAt[name] = formatTime(at)
	}
	return withWarnings(&logical.Response{Data: map[string]any{"roles": names, "expires_at": expiresAt}}, warnings), nil
}

// expiringBefore returns the names of the roles that expire before a time,
// soonest first. Each role that cannot be read gives a warning.
func (b *backend) expiringBefore(ctx context.Context, storage logical.Storage, before time.Time) (names []string, times map[string]time.Time, warnings []string, err error) {
	keys, err := storage.List(ctx, expiryStoragePrefix)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("listing expiries: %w", err)
	}
	slices.Sort(keys)
	names, times = []string{}, map[string]time.Time{}
	for _, key := range keys {
		at, name, ok := parseExpiryKey(key)
		if !ok {
			continue
		}
		if !at.Before(before) {
			break
		}
		r, err := b.role(ctx, storage, name)
		if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
			warnings = append(warnings, err.Error())
			continue
		}
		if err != nil {
			return nil, nil, nil, err
		}
		if r != nil && expiryKey(r.expiresAt(), name) == expiryStoragePrefix+key {
			names = append(names, name)
			times[name] = at
		}
	}
	return names, times, warnings, nil
}
