// SPDX-License-Identifier: MPL-2.0

// Package client reads pull secrets from the regcred engine, for the commands of
// the program regcred: it finds Vault, logs in, reads creds/<role>, and says in
// one line why that failed. It keeps nothing, and writes nothing to disk.
package client
