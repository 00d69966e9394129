// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	leaseSecretType = "pull_secret"

	// leaseMargin is how long after its end a leased credential is revoked from
	// here: Vault has tried for long then.
	leaseMargin = time.Minute
)

// lease is the internal data of a Vault lease.
type lease struct {
	SchemaVersion int `json:"schema_version"` // the first builds wrote none

	credentialRef
	Ends time.Time     `json:"ends"` // the latest time to which it can be renewed
	TTL  time.Duration `json:"ttl"`
}

func (l lease) indexKey() string {
	return leasePrefix(l.Connection) + l.Ends.UTC().Format(expiryKeyTime) + l.Name
}

// internalData returns the lease in the form that Vault keeps.
func (l lease) internalData() (map[string]any, error) {
	encoded, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encoding a lease: %w", err)
	}
	return map[string]any{"lease": string(encoded)}, nil
}

func leaseOf(req *logical.Request) (lease, error) {
	var l lease
	text, ok := req.Secret.InternalData["lease"].(string)
	if !ok || json.Unmarshal([]byte(text), &l) != nil || l.Name == "" || l.SchemaVersion < 0 || l.SchemaVersion > schemaVersion {
		return lease{}, errors.New("the lease's internal data cannot be understood; run the plugin that wrote it, or a newer one")
	}
	return l, nil
}

func (b *backend) leasedSecrets() []*framework.Secret {
	fields := map[string]*framework.FieldSchema{}
	maps.Copy(fields, b.credsFormats()[0].fields)
	return []*framework.Secret{{Type: leaseSecretType, Fields: fields, Renew: b.renewLease, Revoke: b.revokeLease}}
}

// readLeased mints a credential and answers with it on a lease.
func (b *backend) readLeased(ctx context.Context, req *logical.Request, name string, r *role, format credsFormat) (*logical.Response, error) {
	if b.onStandby() {
		return nil, logical.ErrReadOnly
	}
	settings, err := b.config(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	l := lease{SchemaVersion: schemaVersion}
	var warnings []string
	minted, err := b.mintFor(ctx, req.Storage, name, r, func(target issuer.Target) time.Duration {
		var maxTTL time.Duration
		l.TTL, maxTTL, warnings = b.leaseTTLs(r.Dynamic, target)
		return maxTTL
	})
	if err != nil {
		return answer(registryError(err))
	}
	l.credentialRef, l.Ends = minted.credentialRef, minted.MintedAt.Add(b.leaseMaxTTL(r.Dynamic, minted))
	resp, err := b.leaseResponse(minted, l, settings, format)
	if err == nil && minted.revocable {
		err = b.rememberLease(ctx, req.Storage, l)
	}
	if err == nil {
		err = b.commit(ctx, req.Storage, minted) // an entry that stays would have it revoked while it is leased
	}
	if err != nil {
		b.abandon(ctx, req.Storage, minted)
		_ = req.Storage.Delete(ctx, l.indexKey()) // else the sweep finds nothing to do
		return answer(err)
	}
	b.sendEvent(ctx, req, "credential-mint", "creds/"+name)
	return withWarnings(resp, warnings), nil
}

// leaseTTLs returns for how long a lease is given, and for how long it can be
// renewed at most.
func (b *backend) leaseTTLs(d *dynamicRole, target issuer.Target) (ttl, maxTTL time.Duration, warnings []string) {
	maxTTL, capped := b.maxTTL(target)
	ttl = d.TTL.Duration
	if ttl == 0 {
		ttl = b.System().DefaultLeaseTTL()
	}
	if d.MaxTTL.Duration > 0 && d.MaxTTL.Duration < maxTTL {
		maxTTL, capped = d.MaxTTL.Duration, "the role's max_ttl"
	}
	if ttl > maxTTL {
		ttl = maxTTL
		if d.TTL.Duration > 0 {
			warnings = append(warnings, fmt.Sprintf("ttl: the lease lasts %s instead of %s, which is %s", maxTTL, d.TTL.Duration, capped))
		}
	}
	return ttl, maxTTL, warnings
}

// mostOf returns how long the lease of what was minted can last: what the role
// and the mount say, and no longer than the registry keeps the credential.
func (b *backend) leaseMaxTTL(d *dynamicRole, minted *newCredential) time.Duration {
	_, maxTTL, _ := b.leaseTTLs(d, issuer.Target{})
	if left := minted.ExpiresAt.Sub(minted.MintedAt); !minted.ExpiresAt.IsZero() && left < maxTTL {
		maxTTL = left
	}
	return maxTTL
}

func (b *backend) leaseResponse(minted *newCredential, l lease, settings config, format credsFormat) (*logical.Response, error) {
	if err := settings.checkAllowed(minted.Docker); err != nil {
		return nil, err
	}
	internal, err := l.internalData()
	if err != nil {
		return nil, err
	}
	maxTTL := l.Ends.Sub(minted.MintedAt)
	resp := b.Secret(leaseSecretType).Response(format.data(pullSecret{Docker: minted.Docker, ExpiresAt: minted.ExpiresAt}), internal)
	resp.Secret.TTL, resp.Secret.MaxTTL = min(l.TTL, maxTTL), maxTTL
	resp.Secret.Renewable = l.TTL < maxTTL
	return resp, nil
}

// renewLease extends a lease, up to the end that it was given with. The role's
// ttl is the one that it has now.
func (b *backend) renewLease(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := leaseOf(req)
	if err != nil {
		return nil, err
	}
	r, err := b.role(ctx, req.Storage, l.Role)
	if err != nil {
		return nil, err
	}
	if r == nil || r.Dynamic == nil || r.Dynamic.Mode != modeLeased {
		return answer(refusef("role %q is not there any more; read another role and let this lease end", l.Role))
	}
	if ttl, _, _ := b.leaseTTLs(r.Dynamic, issuer.Target{}); ttl > 0 {
		l.TTL = ttl
	}
	left := l.Ends.Sub(b.now())
	if left <= 0 {
		return answer(refusef("the credential has come to the end of its max_ttl; read creds/%s again", l.Role))
	}
	resp := &logical.Response{Secret: req.Secret}
	resp.Secret.TTL = min(l.TTL, left)
	resp.Secret.MaxTTL = l.Ends.Sub(req.Secret.IssueTime)
	return resp, nil
}

func (b *backend) revokeLease(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := leaseOf(req)
	if err != nil {
		return nil, err
	}
	if err := b.revoke(ctx, req.Storage, l.credentialRef); err != nil {
		return nil, registryError(err)
	}
	if err := req.Storage.Delete(ctx, l.indexKey()); err != nil {
		return nil, fmt.Errorf("forgetting a lease: %w", err)
	}
	b.sendEvent(ctx, req, "credential-revoke", "creds/"+l.Role)
	return nil, nil
}

// storedLease is a leased credential as it stands in the index.
type storedLease struct {
	SchemaVersion int `json:"schema_version"`
	credentialRef
}

func (b *backend) rememberLease(ctx context.Context, storage logical.Storage, l lease) error {
	return putEntry(ctx, storage, l.indexKey(), storedLease{schemaVersion, l.credentialRef})
}

// forgetLease takes a credential that was never leased out of the index.
func (b *backend) forgetLease(ctx context.Context, storage logical.Storage, m credentialRef) error {
	keys, err := storage.List(ctx, leasePrefix(m.Connection))
	if err != nil {
		return fmt.Errorf("listing the leases of connection %q: %w", m.Connection, err)
	}
	for _, key := range keys {
		if strings.HasSuffix(key, "."+m.Name) {
			if err := storage.Delete(ctx, leasePrefix(m.Connection)+key); err != nil {
				return fmt.Errorf("forgetting a lease: %w", err)
			}
		}
	}
	return nil
}

// sweepLeases revokes what Vault should have revoked long ago.
func (b *backend) sweepLeases(ctx context.Context, storage logical.Storage) error {
	connections, err := storage.List(ctx, leaseIndexPrefix)
	if err != nil {
		return fmt.Errorf("listing the leases: %w", err)
	}
	for _, connection := range connections {
		connection = strings.TrimSuffix(connection, "/")
		keys, err := storage.List(ctx, leasePrefix(connection))
		if err != nil {
			return fmt.Errorf("listing the leases of connection %q: %w", connection, err)
		}
		slices.Sort(keys) // by time
		for _, key := range keys {
			ends, _, ok := parseExpiryKey(key)
			if !ok {
				continue
			}
			if b.now().Sub(ends) < leaseMargin {
				break
			}
			if err := b.sweepLease(ctx, storage, leasePrefix(connection)+key); err != nil {
				b.Logger().Warn("a credential whose lease has ended could not be revoked", "connection", connection, "key", key, "error", err)
				if issuer.StatusOf(err) == 0 {
					break // the registry does not answer
				}
			}
		}
	}
	return nil
}

func (b *backend) sweepLease(ctx context.Context, storage logical.Storage, key string) error {
	var stored storedLease
	found, err := getEntry(ctx, storage, key, &stored, &stored.SchemaVersion)
	if err != nil || !found {
		return err
	}
	if err := b.revoke(ctx, storage, stored.credentialRef); err != nil {
		return err
	}
	return storage.Delete(ctx, key)
}
