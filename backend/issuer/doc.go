// SPDX-License-Identifier: MPL-2.0

// Package issuer is what all registries that mint credentials have in common.
// A folder below it for each type holds what that registry is, and nothing
// else: which fields it has, and which calls of its API mint, find, check and
// revoke. It knows nothing of Vault's storage, roles or leases.
//
// A credential is minted under a name that is chosen before ([NewName]), so
// that after a crash, or an answer that never came, it can be found by that
// name and revoked. What a call that failed may have done all the same is what
// [Definite] tells.
package issuer
