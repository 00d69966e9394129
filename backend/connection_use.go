// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/errgroup"
)

// A connection that is to be deleted is asked for what it minted: for at most
// maxLookedFor credentials, lookAtOnce at a time, and no longer than lookLimit.
const (
	maxLookedFor = 1000
	lookAtOnce   = 4
	lookLimit    = 20 * time.Second
)

// connectionUse counts what keeps a connection from being deleted.
type connectionUse struct {
	roles   []string
	leased  int // leased credentials
	failed  int // of these, those whose revocation failed, as far as the index was read
	waiting int // credentials waiting to be revoked

	unfinished bool // a rotate-root still has a root credential to revoke
}

// String describes the use. It is empty if there is none.
func (u connectionUse) String() string {
	var parts []string
	if n := len(u.roles); n > 0 {
		shown := u.roles[:min(n, maxQuotedFields)]
		more := ""
		if n > len(shown) {
			more = fmt.Sprintf(" and %d more", n-len(shown))
		}
		parts = append(parts, "roles "+strings.Join(shown, ", ")+more)
	}
	if leased := u.leased - u.failed; leased > 0 {
		parts = append(parts, fmt.Sprintf("%d leased credentials", leased))
	}
	if u.failed > 0 {
		parts = append(parts, fmt.Sprintf("%d credentials whose revocation failed and is tried again", u.failed))
	}
	if u.waiting > 0 {
		parts = append(parts, fmt.Sprintf("%d credentials waiting to be revoked", u.waiting))
	}
	if u.unfinished {
		parts = append(parts, "a root credential that an unfinished rotate-root still has to revoke")
	}
	return strings.Join(parts, ", ")
}

// refusal says why a connection cannot be deleted. It is nil if it can.
func (u connectionUse) refusal(connection string, force bool) error {
	if u.String() == "" || force && len(u.roles) == 0 {
		return nil
	}
	return refusef("connection %q is in use: %s; %s; force=true gives up credentials that can no longer be revoked", connection, u, u.remedy())
}

// remedy says how to make the connection deletable.
func (u connectionUse) remedy() string {
	if len(u.roles) == 0 && u.leased > 0 {
		return "revoke the leases first; credentials without a lease are ended within two minutes after their ttl"
	}
	return "delete the roles and revoke the leases first"
}

// connectionUse looks at what the indexes have of a connection. unindexed is what
// leftUnindexed returned a moment ago.
func (b *backend) connectionUse(ctx context.Context, storage logical.Storage, connection string, unindexed int) (connectionUse, error) {
	var use connectionUse
	left := unindexed
	names, err := storage.List(ctx, connectionRolesPrefix+connection+"/")
	if err != nil {
		return use, fmt.Errorf("listing the roles of connection %q: %w", connection, err)
	}
	for _, name := range names {
		r, err := b.role(ctx, storage, name)
		if err != nil {
			return use, err
		}
		if r.connection() == connection {
			use.roles = append(use.roles, name)
			continue
		}
		count, err := b.leftWith(ctx, storage, connection, name)
		if err != nil {
			return use, err
		}
		left += count
	}
	// What is minted goes from a write-ahead entry to the index, or to a shared
	// role, and from there to a write-ahead entry again.
	before, err := b.waitingFor(ctx, storage, connection)
	if err != nil {
		return use, err
	}
	leases, err := storage.List(ctx, leasePrefix(connection))
	if err != nil {
		return use, fmt.Errorf("listing the leases of connection %q: %w", connection, err)
	}
	use.leased = len(leases)
	after, err := b.waitingFor(ctx, storage, connection)
	use.waiting = left + max(before, after)
	return use, err
}

// leftWith counts the credentials of a connection that are stored for a shared
// role which does not use it any more.
func (b *backend) leftWith(ctx context.Context, storage logical.Storage, connection, name string) (count int, err error) {
	s, err := b.shared(ctx, storage, name)
	for _, m := range s.all() {
		if m.Connection == connection {
			count++
		}
	}
	return count, err
}

// leftUnindexed does so for the roles that an earlier build has stored, and that
// the index of the connection does not have. None of their entries comes to hold
// a credential of the connection without a key in the index, so mints need not
// wait while they are read.
func (b *backend) leftUnindexed(ctx context.Context, storage logical.Storage, connection string) (count int, err error) {
	names, err := b.unindexed(ctx, storage)
	if err != nil || len(names) == 0 {
		return 0, err
	}
	indexed, err := storage.List(ctx, connectionRolesPrefix+connection+"/")
	if err != nil {
		return 0, fmt.Errorf("listing the roles of connection %q: %w", connection, err)
	}
	known := make(map[string]bool, len(indexed))
	for _, name := range indexed {
		known[name] = true
	}
	for _, name := range names {
		if known[name] {
			continue
		}
		left, err := b.leftWith(ctx, storage, connection, name)
		if err != nil {
			return 0, err
		}
		count += left
	}
	return count, nil
}

// waitingFor counts the write-ahead entries that name the connection.
func (b *backend) waitingFor(ctx context.Context, storage logical.Storage, connection string) (int, error) {
	ids, err := framework.ListWAL(ctx, storage)
	if err != nil {
		return 0, fmt.Errorf("listing the write-ahead entries: %w", err)
	}
	count := 0
	for _, id := range ids {
		if of := connectionOfWAL(id); of != connection && of != "" {
			continue
		}
		entry, err := framework.GetWAL(ctx, storage, id)
		if err != nil {
			return 0, fmt.Errorf("reading a write-ahead entry: %w", err)
		}
		if entry == nil {
			continue
		}
		if data, ok := entry.Data.(map[string]any); ok && data["connection"] == connection {
			count++
		}
	}
	return count, nil
}

// forgetGoneLeases asks the registry for the credentials in the index of a
// connection, and takes those out that are gone: their leases were revoked
// without the index, or they never had one. It looks at as many as it can in a
// short time, and returns how many of the others wait for a revocation that
// failed.
func (b *backend) forgetGoneLeases(ctx context.Context, storage logical.Storage, c *connection) (failed int, err error) {
	leases, err := listLeases(ctx, storage, c.Name)
	if err != nil {
		return 0, err
	}
	limit, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	var looking errgroup.Group
	looking.SetLimit(lookAtOnce)
	var waiting atomic.Int64
	for _, l := range leases[:min(len(leases), maxLookedFor)] {
		looking.Go(func() error {
			stored, err := b.storedLease(ctx, storage, l.key)
			if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
				return nil
			}
			if err != nil || stored == nil {
				return err
			}
			gone := false
			if limit.Err() == nil && c.can().Find && c.minted(stored.credentialRef) {
				gone = b.isGone(limit, c, stored.credentialRef, cancel)
			}
			if gone {
				return b.forgetKey(ctx, storage, l.key)
			}
			if stored.isRevoking() {
				waiting.Add(1)
			}
			return nil
		})
	}
	err = looking.Wait()
	return int(waiting.Load()), err
}

// isGone reports whether the registry certainly has no such credential. If it
// cannot be asked, it is not asked for the others.
func (b *backend) isGone(ctx context.Context, c *connection, m credentialRef, giveUp func()) bool {
	found, err := b.find(ctx, c, m)
	if err != nil {
		b.Logger().Debug("a leased credential could not be looked for", "connection", c.Name, "name", m.Name, "error", err)
		giveUp()
	}
	return err == nil && len(found) == 0
}

// scheduleRolesOf has the shared roles of a connection maintained soon, because
// their credentials are no longer what the roles are for.
func (b *backend) scheduleRolesOf(ctx context.Context, storage logical.Storage, connection string) {
	names, err := storage.List(ctx, connectionRolesPrefix+connection+"/")
	if err != nil {
		b.Logger().Warn("roles of a connection that was changed are replaced when they are next read", "connection", connection, "error", err)
		return
	}
	for _, name := range names {
		b.schedule(name, b.now())
	}
}

// forgetLeases deletes the lease index of a connection.
func (b *backend) forgetLeases(ctx context.Context, storage logical.Storage, connection string) error {
	leases, err := listLeases(ctx, storage, connection)
	if err != nil {
		return err
	}
	for _, l := range leases {
		err = errors.Join(err, b.forgetKey(ctx, storage, l.key)) // one that stays keeps no other
	}
	if err != nil {
		return err
	}
	// What no build can read as a key goes, too.
	if err := logical.ClearView(ctx, logical.NewStorageView(storage, leasePrefix(connection))); err != nil {
		return fmt.Errorf("forgetting the leases of connection %q: %w", connection, err)
	}
	return nil
}
