// SPDX-License-Identifier: MPL-2.0

// Package registry proves that a credential can pull from an OCI registry, as
// a container runtime would: it follows the registry's own challenge (basic,
// or bearer through a token server) and asks for a manifest. It reads only,
// and knows nothing of Vault.
//
// Whoever may start a verification can name any registry, and that registry
// can lead it anywhere: by a redirect, by its token server, by what its name
// resolves to. So what is behind go-containerregistry's client here is not
// [http.DefaultTransport] but one that
//
//   - refuses to connect to addresses that no registry has, such as those of
//     cloud metadata services, looking at the address really dialled,
//   - lets a credential or token through only to the origin (scheme, host and
//     port) of the registry and of the token server that it names,
//   - uses plain http only where go-containerregistry would, and only with a
//     registry that does not answer TLS,
//   - limits time, size, redirects, and keeps no connection.
//
// Loopback and private addresses are allowed: registries are there. A proxy
// from the environment is used and resolves names itself, so behind one only
// addresses that stand literally in a URL can be refused here.
package registry
