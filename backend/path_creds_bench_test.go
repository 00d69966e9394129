// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// BenchmarkReadCreds measures a read inside the plugin, without Vault and without
// the round trip. "make bench" measures those.
func BenchmarkReadCreds(b *testing.B) {
	e := newEngine(b)
	e.write("connections/app", e.connectionSample())
	e.write("roles/shared", fields{"connection": "app", "project": "group/app", "allowed_bundles": "bundle"})
	for _, name := range []string{"static", "other"} {
		e.write("roles/"+name, fields{"registry": name + ".example.com", "username": "me", "password": password, "allowed_bundles": "bundle"})
	}
	e.write("roles/bundle", fields{"members": "static,other,shared"})
	for _, name := range []string{"static", "shared", "bundle"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				resp, err := e.HandleRequest(b.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/" + name, Storage: e.storage})
				if err != nil || resp.IsError() {
					b.Fatal(resp, err)
				}
			}
		})
	}
}

// BenchmarkDecodeRole measures what a read of a role that is not held decoded does more.
func BenchmarkDecodeRole(b *testing.B) {
	e := newEngine(b)
	e.write("roles/app", fields{"registry": "registry.example.com", "username": "gitlab+deploy-token-910431", "password": "gldt-x9Qm7"})
	entry, err := e.storage.Get(b.Context(), "roles/app")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decodeRole(entry, "app"); err != nil {
			b.Fatal(err)
		}
	}
}
