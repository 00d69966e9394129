// SPDX-License-Identifier: MPL-2.0

// Package issuer holds what all registries that mint credentials have in
// common. Each type has a folder below it, which says only which fields the type
// has, and which API calls mint, find, check and revoke. This package knows
// nothing of Vault's storage, roles or leases.
//
// The name of a credential is chosen before it is minted ([NewName]). After a
// crash or a lost answer, the credential can be found by that name and revoked.
// [Definite] tells whether a failed call may have changed something.
package issuer
