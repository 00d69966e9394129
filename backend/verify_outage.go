// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const (
	// outageRetry is how often a role is tried again whose registry cannot be reached.
	outageRetry = 10 * time.Minute

	// outagePause is for how long no other role of a registry is tried after one that
	// could not reach it.
	outagePause = 10 * time.Second

	// outageForgotten is after which time without a trial an outage is forgotten: no
	// role names the registry any more.
	outageForgotten = time.Hour
)

// A registry that cannot be reached is one trouble, however many roles it has. So their
// verdicts stay as they were, and the registry itself is noted.

// registryOutage is a registry that cannot be reached, as it is stored once that is confirmed.
type registryOutage struct {
	SchemaVersion int `json:"schema_version"`

	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
	Message string    `json:"message"` // in our own words: all roles of the registry show it
}

// registryHealth is what verifying knows of a registry of which a trial has failed.
type registryHealth struct {
	registryOutage
	failing    bool
	confirmed  bool
	failedAt   time.Time // last
	answeredAt time.Time // last
}

// outages has the registries, by host, and since when each role is tried in vain. It is in
// memory; what is confirmed stands in storage too.
type outages struct {
	mu         sync.Mutex
	changes    atomic.Uint64 // of what confirmedOutages returns
	registries map[string]*registryHealth
	roles      map[string]map[string]time.Time // by role and registry
}

// failed notes that a registry did not answer when a role was tried. isOwn says that it
// answers for other roles: then the trouble is the role's own. confirmed says that it
// has become certain that the registry cannot be reached.
func (o *outages) failed(role, host, message string, now time.Time) (isOwn, confirmed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.registries[host]
	if r == nil {
		r = &registryHealth{}
		if o.registries == nil {
			o.registries, o.roles = map[string]*registryHealth{}, map[string]map[string]time.Time{}
		}
		o.registries[host] = r
	}
	since, triedBefore := o.roles[role][host]
	if !triedBefore || since.After(now) {
		if o.roles[role] == nil {
			o.roles[role] = map[string]time.Time{}
		}
		o.roles[role][host] = now
	}
	if triedBefore && r.answeredAt.After(since) {
		return true, false
	}
	if !r.failing || r.Since.After(now) { // the clock may have been ahead
		r.failing, r.registryOutage = true, registryOutage{SchemaVersion: schemaVersion, Host: host, Since: now}
	}
	r.failedAt, r.Message = now, message
	if !r.confirmed && now.Sub(r.Since) >= confirmAfter {
		r.confirmed = true
		o.changes.Add(1)
		return false, true
	}
	return false, false
}

// answered notes that a registry has answered when a role was tried, and reports whether
// it was known not to.
func (o *outages) answered(role, host string, now time.Time) (ended bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forgetTrial(role, host)
	r := o.registries[host]
	if r == nil {
		return false
	}
	if ended = r.confirmed; ended {
		o.changes.Add(1)
	}
	r.failing, r.confirmed, r.answeredAt = false, false, now
	return ended
}

// of returns what is known of a registry.
func (o *outages) of(host string) registryHealth {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.registries[host]; r != nil {
		return *r
	}
	return registryHealth{}
}

// confirmedOutages returns the registries that cannot be reached.
func (o *outages) confirmedOutages() (all []registryOutage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.registries {
		if r.confirmed {
			all = append(all, r.registryOutage)
		}
	}
	return all
}

// know notes an outage that was stored.
func (o *outages) know(known registryOutage, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.registries == nil {
		o.registries, o.roles = map[string]*registryHealth{}, map[string]map[string]time.Time{}
	}
	if o.registries[known.Host] == nil {
		o.changes.Add(1)
		o.registries[known.Host] = &registryHealth{registryOutage: known, failing: true, confirmed: true, failedAt: now}
	}
}

// waiting returns the roles that were tried in vain.
func (o *outages) waiting() (names []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for name := range o.roles {
		names = append(names, name)
	}
	return names
}

// forgetTrial forgets that a role was tried in vain at a registry. o.mu is held.
func (o *outages) forgetTrial(role, host string) {
	if delete(o.roles[role], host); len(o.roles[role]) == 0 {
		delete(o.roles, role)
	}
}

func (o *outages) forgetRole(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.roles, name)
}

// forgetOld forgets registries that no role asks any more, and returns those that could
// not be reached.
func (o *outages) forgetOld(now time.Time) (ended []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for host, r := range o.registries {
		if now.Sub(later(r.failedAt, r.answeredAt)).Abs() < outageForgotten {
			continue
		}
		delete(o.registries, host)
		for role := range o.roles {
			o.forgetTrial(role, host)
		}
		if r.confirmed {
			o.changes.Add(1)
			ended = append(ended, host)
		}
	}
	return ended
}

// outageKey is the key of a registry's entry. A host may be too long for the name of a
// file in Vault's file storage.
func outageKey(host string) string {
	sum := sha256.Sum256([]byte(host))
	return outageStoragePrefix + hex.EncodeToString(sum[:16])
}

// beginOutage announces that a registry cannot be reached.
func (b *backend) beginOutage(ctx context.Context, storage logical.Storage, host string) {
	o := b.outages.of(host).registryOutage
	if err := putEntry(ctx, storage, outageKey(host), o); err != nil {
		b.Logger().Debug("a registry that cannot be reached is not noted", "registry", host, "error", err)
	}
	b.Logger().Warn("a registry cannot be reached, so its roles are not verified", "registry", host, "since", formatTime(o.Since), "error", o.Message)
}

// endOutage announces that a registry can be reached again, or is not asked any more.
func (b *backend) endOutage(ctx context.Context, storage logical.Storage, host string) {
	if err := storage.Delete(ctx, outageKey(host)); err != nil {
		b.Logger().Debug("a registry stays noted as one that cannot be reached", "registry", host, "error", err)
	}
	b.Logger().Info("a registry is not known to be unreachable any more", "registry", host)
}

// loadOutages reads which registries could not be reached before a start.
func (b *backend) loadOutages(ctx context.Context, storage logical.Storage) error {
	keys, err := storage.List(ctx, outageStoragePrefix)
	if err != nil {
		return fmt.Errorf("listing the registries that cannot be reached: %w", err)
	}
	for _, key := range keys {
		var o registryOutage
		found, err := getEntry(ctx, storage, outageStoragePrefix+key, &o, &o.SchemaVersion)
		if err == nil && found {
			b.outages.know(o, b.now())
		}
	}
	return nil
}
