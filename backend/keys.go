// SPDX-License-Identifier: MPL-2.0

package backend

import "strings"

const (
	configStorageKey        = "config"
	roleStoragePrefix       = "roles/"
	connectionStoragePrefix = "connections/"

	// sharedStoragePrefix holds one entry for each shared role that has, or had,
	// a credential.
	sharedStoragePrefix = "shared/"

	// connectionRolesPrefix is the index of the roles that use a connection, or
	// serve or will revoke a credential that it minted, with one key per role. A key
	// is written before the role, or the entry with the credential, and deleted
	// after it. A crash in between can leave an extra key, but never a missing one,
	// so readers compare with the role and the entry. Entries that earlier builds
	// wrote may hold credentials of connections that have no key for it; they are
	// those without a key in dueIndexPrefix.
	connectionRolesPrefix = "connection-roles/"

	// bundleIndexPrefix is the index of the bundles that join a role, with one key for
	// each member and bundle. Keys are written and deleted as those of
	// connectionRolesPrefix are. Reads of creds/ do not use it.
	bundleIndexPrefix = "bundle-members/"

	// bundlesIndexedKey is written once the bundles that an earlier build has stored
	// are in bundleIndexPrefix.
	bundlesIndexedKey = "bundles-indexed"

	// expiryStoragePrefix is the index of the roles that expire, with one key per
	// role. The time stands in front of the name, so that one listing finds the
	// roles that expire next. Keys are written and deleted as those of
	// connectionRolesPrefix are.
	expiryStoragePrefix = "expiries/"

	// dueIndexPrefix is the index of shared roles by the time at which there is
	// something to be done for them, so that the first run after a start reads
	// lists, and no entry for each role. A key has that time, the time at which the
	// key was written, and the role's name. Keys with the name of a connection,
	// after connectionMark, are for all roles of it.
	//
	// The entry of a role (sharedStoragePrefix) says which key is its own. The key
	// is written before the entry, and the former key is deleted after it. A crash
	// in between can leave an extra key, which is deleted when it comes up, but
	// never a missing or a late one. Entries that earlier builds wrote have no key.
	// Their roles are looked at after each start, until the entry is written again.
	dueIndexPrefix = "due/"

	// verifyPeriodsPrefix is the index of the roles that have a verify_period of their
	// own, by that period in seconds, with one key per role: a start reads it, and no
	// entry for each role. Keys are written and deleted as those of
	// connectionRolesPrefix are.
	verifyPeriodsPrefix = "verify-periods/"

	// verdictStoragePrefix holds what verifying each role found last. An entry is
	// deleted before its role, and says for which credential it is: one that is left
	// behind by an earlier build says nothing about a later role of the same name.
	verdictStoragePrefix = "verdicts/"

	// failingIndexPrefix is the index of the roles whose last verdict is bad and
	// confirmed, with one key per role, so that a start reads no entry of the others.
	// A key is written before the verdict, and deleted after the verdict that says
	// otherwise. A crash in between can leave an extra key, but never a missing one.
	failingIndexPrefix = "failing/"

	// outageStoragePrefix holds one entry for each registry that could not be reached
	// when its roles were to be verified, under a hash of its host.
	outageStoragePrefix = "unreachable/"

	// connectionMark stands before the name of a connection in the indexes of what
	// is due and of what needs attention. No role's name begins with it.
	connectionMark = "@"

	// leaseIndexPrefix is the index of leased credentials, with one key per
	// credential and the current end of its lease in front of the name. Vault
	// revokes leases; the index is for credentials that Vault does not revoke,
	// because a crash lost the response with the lease or because Vault gave the
	// lease up. The index also keeps a connection from being deleted while
	// credentials that it minted are leased.
	leaseIndexPrefix = "leases/"

	// attentionPrefix is the index of what may need somebody's attention, with one key
	// for each role, and for each connection after connectionMark. A key is written
	// before the entry that needs attention, and deleted after the entry that no longer
	// does. A crash in between can leave an extra key, which finds nothing, but never a
	// missing one. What an expires_at decides is in expiryStoragePrefix only.
	//
	// A key after bundlesMark or rolesMark is for all bundles that join a role, or all
	// roles of a connection, that is about to be written. It is deleted once these were
	// looked at.
	attentionPrefix = "attention/"

	// attentionCompleteKey says when all roles were last looked at. It is deleted before
	// a write on which all of them depend. Without it, the index is built anew.
	attentionCompleteKey = attentionPrefix + ".complete"

	// leaseAttentionPrefix is the index of leased credentials whose revocation failed,
	// with one key for each. Keys are written and deleted as those of attentionPrefix.
	leaseAttentionPrefix = "lease-attention/"

	// roleTypesPrefix is the index of dynamic roles and bundles by type, with one key
	// per role, so that they can be counted from lists. A key is written before the role
	// and deleted after it. A key without a role is deleted before a role of another
	// type gets its name.
	roleTypesPrefix = "role-types/"

	// rootChecksPrefix has what the registry last said of the root credential of each
	// connection.
	rootChecksPrefix = "root-checks/"

	// fenceStorageKey is written before anything is ended at a registry; see
	// fence.
	fenceStorageKey = "fence"
)

const (
	// schemaVersion is written into stored entries. Increase it when an older
	// plugin could not read, or would misread, an entry of this one.
	schemaVersion = 1

	// connectionSchemaVersion is written into the entries of connections. A plugin
	// that knows only version 1 would lose where a credential was minted, and could
	// then revoke somebody else's with the same ID. So it was with the entries of
	// shared credentials.
	connectionSchemaVersion = 2

	// sharedSchemaVersion is written into the entries of shared credentials. A
	// plugin that knows only version 2 would not find for what a credential was
	// minted, and could then not revoke it. Nor would it keep the key in
	// dueIndexPrefix: as it can write none of these entries, each has its key, also
	// after a roll-back.
	sharedSchemaVersion = 3
)

// schemaVersionOf returns the schema version of the entry of a key.
func schemaVersionOf(key string) int {
	switch {
	case strings.HasPrefix(key, connectionStoragePrefix):
		return connectionSchemaVersion
	case strings.HasPrefix(key, sharedStoragePrefix):
		return sharedSchemaVersion
	}
	return schemaVersion
}
