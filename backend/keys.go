// SPDX-License-Identifier: MPL-2.0

package backend

const (
	configStorageKey        = "config"
	roleStoragePrefix       = "roles/"
	connectionStoragePrefix = "connections/"

	// sharedStoragePrefix has an entry for each shared role that has, or had, a
	// credential.
	sharedStoragePrefix = "shared/"

	// connectionRolesPrefix is the index of the roles that use a connection, one
	// storage key for each. A key is written before the role and deleted after it,
	// so a crash in between leaves a key too many and never one too few: readers
	// compare with the role itself.
	connectionRolesPrefix = "connection-roles/"

	// Roles that expire are found through an index, one storage key for each with
	// the time in front of the name, so that one listing finds the next of any
	// number of roles. A key is written before the role that it is for and deleted
	// after it, so a crash in between leaves a key too many and never one too few:
	// readers compare with the role itself.
	expiryStoragePrefix = "expiries/"

	// leaseIndexPrefix is the index of leased credentials, one storage key for
	// each with the time of its end in front of the name. Vault revokes them.
	// The index is for what Vault does not know: an answer that was lost with
	// its lease by a crash, and a lease that it gave up on. And it keeps a
	// connection from being deleted before what it minted.
	leaseIndexPrefix = "leases/"
)

// schemaVersion is written into every stored entry. It grows when an older
// plugin could not read, or would misread, what this one writes.
const schemaVersion = 1
