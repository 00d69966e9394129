// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	// soonExpiring is how long before it needs attention what expires is in memory, and
	// how often the index of expiries is listed.
	soonExpiring = 2 * time.Hour

	// completeFor is how often all roles are looked at: an earlier build, to which
	// somebody went back for a while, has kept no index.
	completeFor = 24 * time.Hour
)

// keepAttention does each minute what keeps status right: it fills the memory after a
// start, and goes on with what failed.
func (b *backend) keepAttention(ctx context.Context, storage logical.Storage) error {
	if err := b.listAttention(ctx, storage); err != nil {
		return err
	}
	if b.failing.hasUnknown() {
		b.attentions.doubt(verdictsMark)
	}
	var failed error
	for _, key := range b.attentions.takeDoubts() {
		if err := b.settleDoubt(ctx, storage, key); err != nil { // one that fails stops no other
			b.attentions.doubt(key)
			failed = errors.Join(failed, err)
		}
	}
	if last := b.attentions.lastLook(); b.now().After(last.Add(completeFor)) || last.After(b.now().Add(clockSkew)) {
		b.attentions.want(refreshed)
	}
	for _, key := range b.attentions.announcedWork() {
		b.doAnnounced(storage, key)
	}
	return errors.Join(failed, b.checkRoots(ctx, storage), b.lookAtExpiries(ctx, storage))
}

// checkRoots has the root credential of each connection checked, as often as the mount's
// verify_period says, and at once if a registry seems to refuse it.
func (b *backend) checkRoots(ctx context.Context, storage logical.Storage) error {
	settings, err := b.readableConfig(ctx, storage)
	if err != nil {
		return err
	}
	for _, name := range b.attentions.rootsToCheck(settings.VerifyPeriod.Duration, b.now()) {
		b.addJob(cleaningLane(name), cleaningAtOnce, "check of "+name, func(ctx context.Context) {
			ctx = withUrgency(ctx, cleaning)
			c, err := b.connection(ctx, storage, name)
			if err != nil || c == nil {
				return
			}
			status, err := b.askAbout(ctx, c, issuer.Root{})
			if err := b.noteRootCheck(ctx, storage, c, status, err); err != nil && ctx.Err() == nil {
				b.Logger().Debug("the answer to a root credential is not stored", "connection", name, "error", err)
			}
		})
	}
	return nil
}

// withConfigAttention has write change the config.
func (b *backend) withConfigAttention(ctx context.Context, storage logical.Storage, next config, write func() error) error {
	former, err := b.readableConfig(ctx, storage)
	if err != nil {
		return err
	}
	if !slices.Equal(former.AllowedRegistries, next.AllowedRegistries) {
		done, err := b.announce(ctx, storage, everything)
		if err != nil {
			return err
		}
		defer done()
	}
	if former.ExpiryWarning != next.ExpiryWarning {
		defer func() {
			b.attentions.forgetExpiries()
			b.soonKeepAttention(storage)
		}()
	}
	if former.VerifyPeriod != next.VerifyPeriod { // roles may not be verified any more
		defer func() {
			b.attentions.doubt(verdictsMark)
			b.soonKeepAttention(storage)
		}()
	}
	if err := write(); err != nil {
		return err
	}
	if err := b.lookAtConfig(ctx, storage); err != nil {
		b.attentions.doubt(configMark)
	}
	return nil
}

// lookAtConfig finds out whether the config can be read.
func (b *backend) lookAtConfig(ctx context.Context, storage logical.Storage) error {
	_, err := b.config(ctx, storage)
	var items []attention
	if isUnreadable(err) {
		items = []attention{{
			Kind:    kindUnreadable,
			Message: "the stored entry of config cannot be read: it is damaged, or of a newer plugin; until then no pull secret can be read",
			Action:  "run the newer plugin, restore the entry, or delete config and write it anew",
		}}
	} else if err != nil {
		return err
	}
	s, err := b.putAttention(ctx, storage, configMark, items, 0)
	if err != nil {
		return err
	}
	b.settleAttention(ctx, storage, configMark, s)
	return nil
}

// soonKeepAttention is keepAttention in the background.
func (b *backend) soonKeepAttention(storage logical.Storage) {
	b.addJob("attention", 1, "attention", func(ctx context.Context) {
		if err := b.keepAttention(ctx, storage); err != nil && ctx.Err() == nil {
			b.Logger().Debug("what needs attention is looked at again in a minute", "error", err)
		}
	})
}

func (b *backend) settleDoubt(ctx context.Context, storage logical.Storage, key string) error {
	switch {
	case key == verdictsMark:
		return b.loadVerdicts(ctx, storage)
	case key == configMark:
		return b.lookAtConfig(ctx, storage)
	case strings.HasPrefix(key, leaseIndexPrefix):
		return b.lookAtLease(ctx, storage, key)
	case strings.HasPrefix(key, connectionMark):
		return b.renewConnection(ctx, storage, strings.TrimPrefix(key, connectionMark))
	}
	defer b.lockRole(key)()
	if err := b.renewAttentionLocked(ctx, storage, key); err != nil {
		return err
	}
	r, err := b.role(ctx, storage, key)
	switch {
	case isUnreadable(err):
		return nil
	case err != nil:
		return err
	case r == nil:
		b.attentions.roles.remove(key)
		return nil
	}
	return b.indexRoleTypeLocked(ctx, storage, key, r)
}

// lookAtExpiries looks at the roles that expire soon, from time to time.
func (b *backend) lookAtExpiries(ctx context.Context, storage logical.Storage) error {
	now := b.now()
	if now.Before(b.attentions.lookedAtExpiries().Add(-soonExpiring / 2)) {
		return nil
	}
	settings, err := b.readableConfig(ctx, storage)
	if err != nil {
		return err
	}
	until := now.Add(soonExpiring)
	generation := b.attentions.beginExpiries(until)
	keys, err := storage.List(ctx, expiryStoragePrefix)
	if err != nil {
		return fmt.Errorf("listing the expiries: %w", err)
	}
	names := b.attentions.timed()
	for _, key := range keys {
		if at, name, ok := parseExpiryKey(key); ok && !at.After(until.Add(settings.ExpiryWarning.Duration)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if err := b.lookAt(ctx, storage, slices.Compact(names), nil); err != nil {
		return err
	}
	for _, name := range b.attentions.connectionNames() {
		if err := b.renewConnection(ctx, storage, name); err != nil {
			return err
		}
	}
	b.attentions.finishExpiries(until, generation)
	return nil
}

// listAttention fills the memory from the indexes.
func (b *backend) listAttention(ctx context.Context, storage logical.Storage) error {
	if b.attentions.isListed() {
		return nil
	}
	unlock, err := b.announcing.lock(ctx, "list")
	if err != nil {
		return err
	}
	defer unlock()
	if b.attentions.isListed() {
		return nil // somebody else has, meanwhile
	}
	if err := b.listRoleTypes(ctx, storage); err != nil {
		return err
	}
	if err := b.listLeaseKeys(ctx, storage); err != nil {
		return err
	}
	connections, err := storage.List(ctx, connectionStoragePrefix)
	if err != nil {
		return fmt.Errorf("listing the connections: %w", err)
	}
	for _, name := range connections {
		if err := b.renewConnection(ctx, storage, name); err != nil {
			return err
		}
	}
	if !b.waiting.isKnown() {
		ids, err := framework.ListWAL(ctx, storage)
		if err != nil {
			return fmt.Errorf("listing the write-ahead entries: %w", err)
		}
		b.waiting.know(ids)
	}
	if err := b.lookAtConfig(ctx, storage); err != nil {
		return err
	}
	keys, err := storage.List(ctx, attentionPrefix)
	if err != nil {
		return fmt.Errorf("listing what needs attention: %w", err)
	}
	var names []string
	for _, key := range keys {
		switch {
		case strings.HasPrefix(key, bundlesMark), strings.HasPrefix(key, rolesMark):
			b.attentions.want(key)
		case strings.HasPrefix(key, connectionMark):
			if err := b.renewConnection(ctx, storage, strings.TrimPrefix(key, connectionMark)); err != nil {
				return err
			}
		case checkName(key) == nil:
			names = append(names, key)
		}
	}
	if err := b.lookAt(ctx, storage, names, nil); err != nil {
		return err
	}
	if err := b.lookAtExpiries(ctx, storage); err != nil {
		return err
	}
	var mark completeMark
	found, err := getEntry(ctx, storage, attentionCompleteKey, &mark, &mark.SchemaVersion)
	if err != nil && !isUnreadable(err) {
		return err
	}
	if !found || err != nil || mark.Version != b.RunningVersion {
		b.attentions.want(everything)
	}
	if err := b.loadVerdicts(ctx, storage); err != nil {
		return err
	}
	b.attentions.setListed(mark.At)
	return nil
}

// loadVerdicts has the memory hold the verdicts of the roles that fail, and the registries
// that cannot be reached.
func (b *backend) loadVerdicts(ctx context.Context, storage logical.Storage) error {
	if err := errors.Join(b.loadOutages(ctx, storage), b.checkFailing(ctx, storage)); err != nil && !isUnreadable(err) {
		return err
	}
	for name := range b.failing.byRole.Range {
		_, err := b.failingVerdict(ctx, storage, name.(string), func() string { return "" })
		if err != nil {
			return err
		}
	}
	return nil
}
