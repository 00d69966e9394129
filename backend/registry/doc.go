// SPDX-License-Identifier: MPL-2.0

// Package registry proves that a credential can pull from an OCI registry, as a
// container runtime would: it follows the registry's own challenge (basic, or
// bearer through a token server) and asks for a manifest. It only reads, and knows
// nothing of Vault.
//
// Anyone who may start a verification can name any registry, and that registry can
// direct requests anywhere: by a redirect, by its token server, or by the address
// of its name. So go-containerregistry's client does not use
// [http.DefaultTransport] here, but a transport that
//
//   - refuses addresses that no registry has, such as those of cloud metadata
//     services, by the address that is really dialled,
//   - sends a credential or token only to the origin (scheme, host and port) of the
//     registry and of the token server that it names,
//   - uses plain http only at loopback, and only if the registry does not use TLS,
//   - limits time, size and redirects, and keeps no connection.
//
// Loopback and private addresses are allowed, because registries run there. A proxy
// from the environment is used. It resolves names itself, so with a proxy only
// addresses that stand literally in a URL can be refused.
package registry
