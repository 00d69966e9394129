// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	leaseSecretType = "pull_secret"

	// leaseSlack is how much later than in the index a lease may end in Vault,
	// which computes its end after the engine has answered.
	leaseSlack = leaseMargin / 2
)

// lease is the internal data of a Vault lease.
//
// Earlier builds wrote no latest end, and had in Ends the latest time to which
// the lease can be renewed. They still take it for that: after a roll-back,
// leases are not renewed beyond the end that the index knows.
type lease struct {
	SchemaVersion int `json:"schema_version"` // the first builds wrote none

	credentialRef
	Ends   time.Time     `json:"ends"`            // current end, as in the index; whole seconds
	Latest time.Time     `json:"latest,omitzero"` // the latest time to which it can be renewed
	TTL    time.Duration `json:"ttl"`
}

func (l lease) indexKey() string { return leaseKey(l.Connection, l.Ends, l.Name) }

// latestEnd returns the latest time to which the lease can be renewed.
func (l lease) latestEnd() time.Time {
	if l.Latest.IsZero() {
		return l.Ends
	}
	return l.Latest
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
	handled := *req
	return attend(ctx, b, laneOf(r.Dynamic.Connection), work[*logical.Response]{
		do: func(ctx context.Context) (*logical.Response, error) {
			return b.mintLeased(ctx, &handled, name, r, settings, format)
		},
		unclaimed: func(resp *logical.Response) { b.endUnclaimed(handled.Storage, resp) },
	})
}

// mintLeased mints a credential and returns the answer that leases it.
func (b *backend) mintLeased(ctx context.Context, req *logical.Request, name string, r *role, settings config, format credsFormat) (*logical.Response, error) {
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
	l.credentialRef = minted.credentialRef
	resp, err := b.leaseMinted(ctx, req.Storage, minted, minted.pullSecret(r, settings), b.leaseMaxTTL(r.Dynamic, minted), l, format)
	if err != nil {
		return answer(err)
	}
	b.sendEvent(ctx, req, "credential-mint", "creds/"+name)
	return withWarnings(resp, warnings), nil
}

// leaseMinted returns the answer that leases a new credential. If it fails, or
// the client hung up, nobody gets the credential, and the engine ends it.
func (b *backend) leaseMinted(asked context.Context, storage logical.Storage, minted *newCredential, secret pullSecret, maxTTL time.Duration, l lease, format credsFormat) (*logical.Response, error) {
	ctx := context.WithoutCancel(asked)
	ttl := min(l.TTL, maxTTL)
	l.Ends = minted.MintedAt.Add(maxTTL)
	if minted.revocable {
		l.Latest, l.Ends = l.Ends, wholeSeconds(b.now().Add(ttl))
	}
	resp, err := b.leaseResponse(secret, l, ttl, maxTTL, format)
	if err == nil && minted.revocable {
		err = b.indexLease(ctx, storage, l.Ends, storedLease{SchemaVersion: schemaVersion, credentialRef: l.credentialRef})
	}
	if err == nil {
		err = b.commit(ctx, storage, minted) // an entry that stays would have it revoked while it is leased
	}
	if err == nil {
		err = asked.Err()
	}
	if err != nil {
		b.endUnleased(ctx, storage, minted, l)
		return nil, err
	}
	return resp, nil
}

// endUnclaimed ends the credential of an answer that nobody waits for any more.
func (b *backend) endUnclaimed(storage logical.Storage, resp *logical.Response) {
	if resp == nil || resp.Secret == nil {
		return
	}
	ctx, cancel := b.detached(withUrgency(context.Background(), cleaning))
	defer cancel()
	l, err := leaseOf(&logical.Request{Secret: resp.Secret})
	if err == nil {
		err = b.endLeased(ctx, storage, l)
	}
	if err != nil {
		b.Logger().Warn("a credential that nobody waited for could not be ended yet", "connection", l.Connection, "name", l.Name, "error", err)
	}
}

// endUnleased ends a credential that nobody was given. If the registry fails,
// the index has it ended soon: the write-ahead entry may be deleted already.
func (b *backend) endUnleased(ctx context.Context, storage logical.Storage, minted *newCredential, l lease) {
	gone := b.abandon(ctx, storage, minted)
	if !minted.revocable {
		return
	}
	var err error
	if gone {
		err = b.forgetKey(ctx, storage, l.indexKey()) // the sweep finds the credential of a key that stays gone
	} else {
		err = b.retryLater(ctx, storage, l.indexKey(), storedLease{SchemaVersion: schemaVersion, credentialRef: l.credentialRef})
	}
	if err != nil {
		b.Logger().Warn("the index of leases is not up to date", "connection", l.Connection, "name", l.Name, "error", err)
	}
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

// leaseMaxTTL returns how long the lease of a new credential can last: what the role
// and the mount say, and no longer than the registry keeps the credential.
func (b *backend) leaseMaxTTL(d *dynamicRole, minted *newCredential) time.Duration {
	_, maxTTL, _ := b.leaseTTLs(d, issuer.Target{})
	if left := minted.ExpiresAt.Sub(minted.MintedAt); !minted.ExpiresAt.IsZero() && left < maxTTL {
		maxTTL = left
	}
	return maxTTL
}

func (b *backend) leaseResponse(secret pullSecret, l lease, ttl, maxTTL time.Duration, format credsFormat) (*logical.Response, error) {
	if err := secret.settings.checkRegistries(secret.Registries); err != nil {
		return nil, err
	}
	internal, err := l.internalData()
	if err != nil {
		return nil, err
	}
	fields, err := format.answer(secret)
	if err != nil {
		return nil, err
	}
	resp := b.Secret(leaseSecretType).Response(fields, internal)
	resp.Secret.TTL, resp.Secret.MaxTTL = ttl, maxTTL
	resp.Secret.Renewable = l.TTL < maxTTL
	return resp, nil
}

// renewLease extends a lease, up to the latest end that it was given with. The
// role's ttl is the one that it has now. The index has the new end before Vault
// has it, so that it never ends the credential of a lease.
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
	now := b.now()
	ttl := b.renewedTTL(req.Secret, l, now)
	if ttl <= 0 {
		return answer(refusef("the credential has come to the end of its max_ttl; read creds/%s again", l.Role))
	}
	latest := l.latestEnd()
	moved, err := b.moveLease(ctx, req.Storage, l, wholeSeconds(now.Add(ttl)), wholeSeconds(now.Add(req.Secret.TTL)))
	if err != nil {
		return answer(err)
	}
	if !moved.Latest.IsZero() {
		// Vault takes an increment in place of the TTL, and the time at which it
		// has the answer. MaxTTL keeps it to the end that the index has.
		latest = earlier(latest, moved.Ends.Add(leaseSlack))
	}
	internal, err := moved.internalData()
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Secret.InternalData, internal) // the framework has data of its own there
	req.Secret.TTL = ttl
	req.Secret.MaxTTL = latest.Sub(issued(req.Secret, now))
	return &logical.Response{Secret: req.Secret}, nil
}

// renewedTTL returns how long Vault extends a lease for, as
// [framework.CalculateTTL] computes it from a renewal; zero or less if it cannot
// be renewed.
func (b *backend) renewedTTL(secret *logical.Secret, l lease, now time.Time) time.Duration {
	ttl := l.TTL
	if secret.Increment > 0 {
		ttl = secret.Increment
	}
	latest := earlier(l.latestEnd(), issued(secret, now).Add(b.System().MaxLeaseTTL()))
	return min(ttl, latest.Sub(now))
}

// issued returns when a lease was issued.
func issued(secret *logical.Secret, now time.Time) time.Time {
	if secret.IssueTime.IsZero() {
		return now
	}
	return secret.IssueTime
}

// moveLease moves a lease to a new end in the index, and returns it with that
// end. The new key is written before the former one is deleted, so that a crash
// in between leaves a key too many.
//
// Vault may fail to store the renewal, and then has the former end. That is the
// one in the index, or earlier: no later than now plus the former ttl. So a lease
// that is shortened moves with the next renewal.
func (b *backend) moveLease(ctx context.Context, storage logical.Storage, l lease, ends, former time.Time) (lease, error) {
	limited, cancel := context.WithTimeout(ctx, b.calls.patience)
	defer cancel()
	unlock, err := b.leaseLocks.lock(limited, l.Name)
	if err != nil {
		return l, refusef("the credential of this lease is being ended; read creds/%s again", l.Role)
	}
	defer unlock()
	at := indexedLease{l.indexKey(), l.Ends, l.Name}
	stored, err := b.storedLease(ctx, storage, at.key)
	if err == nil && stored == nil { // Vault did not store the last renewal
		at, stored, err = b.findLease(ctx, storage, l.Connection, l.Name)
	}
	switch {
	case err != nil:
		return l, err
	case stored == nil && l.Latest.IsZero():
		return l, nil // the registry cannot revoke it, or an earlier build did not index it
	case stored == nil || stored.isRevoking():
		return l, refusef("the credential of this lease was ended, or is about to be; read creds/%s again", l.Role)
	}
	l.Latest, l.Ends = l.latestEnd(), later(ends, earlier(at.ends, former))
	if l.indexKey() == at.key {
		return l, nil
	}
	if err := b.indexLease(ctx, storage, l.Ends, *stored); err != nil {
		return l, err
	}
	return l, b.forgetKey(ctx, storage, at.key)
}

func (b *backend) revokeLease(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	l, err := leaseOf(req)
	if err != nil {
		return nil, err
	}
	handled := *req
	return attend(ctx, b, laneOf(l.Connection), work[*logical.Response]{
		key: "revocation of " + l.Name,
		do: func(ctx context.Context) (*logical.Response, error) {
			err := b.endLeased(withUrgency(ctx, cleaning), handled.Storage, l)
			if err == nil {
				b.sendEvent(ctx, &handled, "credential-revoke", "creds/"+l.Role)
			}
			return nil, registryError(withoutGivenUp(err))
		},
	})
}

// endLeased ends the credential of a lease, and takes it out of the index.
// errGivenUp says that it stays at the registry.
func (b *backend) endLeased(ctx context.Context, storage logical.Storage, l lease) error {
	unlock, err := b.leaseLocks.lock(ctx, l.Name)
	if err != nil {
		return err
	}
	defer unlock()
	revoked := b.revoke(ctx, storage, l.credentialRef)
	if err := withoutGivenUp(revoked); err != nil {
		b.noteUnrevoked(ctx, storage, l, err)
		return err
	}
	if err := b.forgetEnded(ctx, storage, l.Connection, l.Name, l.indexKey()); err != nil {
		return err
	}
	return revoked
}

// noteUnrevoked has the sweep end a credential that Vault could not revoke.
// Vault may have given up the lease: revoke-force does.
func (b *backend) noteUnrevoked(ctx context.Context, storage logical.Storage, l lease, cause error) {
	if errors.Is(cause, errNotActive) {
		return // another node has the lease now
	}
	ctx = context.WithoutCancel(ctx)
	at := indexedLease{l.indexKey(), l.Ends, l.Name}
	stored, err := b.storedLease(ctx, storage, at.key)
	if err == nil && stored == nil {
		if keys, _ := b.attentions.unrevokedKeys(l.Connection, l.Name); len(keys) > 0 {
			return // the sweep tries again
		}
		at, stored, err = b.findLease(ctx, storage, l.Connection, l.Name)
	}
	if err == nil && stored != nil {
		err = b.retryLater(ctx, storage, at.key, *stored)
	}
	if err != nil {
		b.Logger().Warn("a revocation that failed is not noted", "connection", l.Connection, "name", l.Name, "error", err)
	}
}
