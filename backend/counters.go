// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"maps"
	"sync"
	"time"

	"vault-plugin-secrets-regcred/backend/registry"
)

// processStarted is when the counters began.
var processStarted = time.Now()

// counted is what is counted for each connection.
type counted int

const (
	rotated counted = iota
	rotationFailed
	mintedOnce
	mintFailed
	revoked
	revocationFailed
	allCounted
)

// counterNames are the names of the counters, and what they count.
var counterNames = [allCounted]struct{ name, help string }{
	rotated:          {"regcred_rotations_total", "Rotations of shared roles that succeeded"},
	rotationFailed:   {"regcred_rotation_failures_total", "Rotations of shared roles that failed"},
	mintedOnce:       {"regcred_mints_total", "Credentials that a registry has minted"},
	mintFailed:       {"regcred_mint_failures_total", "Calls to mint a credential that failed"},
	revoked:          {"regcred_revocations_total", "Credentials that were revoked at their registry"},
	revocationFailed: {"regcred_revocation_failures_total", "Calls to revoke a credential that failed"},
}

// sinceStart ends the help of each counter.
const sinceStart = ", since the start of the process."

// counters count what the engine has done since the process began. They are in memory.
type counters struct {
	mu            sync.Mutex
	byConnection  map[string]*[allCounted]uint64
	verifications map[verified]uint64
}

// verified is what is counted of verifications. The connection is empty for static roles
// and bundles.
type verified struct {
	connection string
	verdict    registry.Verdict
}

func newCounters() *counters {
	return &counters{byConnection: map[string]*[allCounted]uint64{}, verifications: map[verified]uint64{}}
}

// count counts something that was done with a connection.
func (c *counters) count(connection string, what counted) {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := c.byConnection[connection]
	if counts == nil {
		counts = &[allCounted]uint64{}
		c.byConnection[connection] = counts
	}
	counts[what]++
}

// countResult counts a success or a failure.
func (c *counters) countResult(connection string, success, failure counted, err error) {
	if err != nil {
		success = failure
	}
	c.count(connection, success)
}

// countVerified counts one verdict.
func (c *counters) countVerified(connection string, verdict registry.Verdict) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verifications[verified{connection, verdict}]++
}

// forget forgets a connection that was deleted.
func (c *counters) forget(connection string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byConnection, connection)
	maps.DeleteFunc(c.verifications, func(v verified, _ uint64) bool { return v.connection == connection && connection != "" })
}

// keep forgets all connections except some, so that the counters have a bound.
func (c *counters) keep(connections map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.byConnection, func(name string, _ *[allCounted]uint64) bool { return !connections[name] })
	maps.DeleteFunc(c.verifications, func(v verified, _ uint64) bool { return v.connection != "" && !connections[v.connection] })
}
