// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"strings"
	"testing"
)

// RawStorage is a line for the Settings of [RaftOptions]. It opens Vault's
// storage to [Vault.RawKeys], [Vault.RawRead] and [Vault.RawWrite].
const RawStorage = "raw_storage_endpoint = true"

// RawMount returns the prefix in Vault's storage of the engine at a path.
func (v *Vault) RawMount(t testing.TB, path string) string {
	t.Helper()
	mounts, err := v.Client.Sys().ListMounts()
	if err != nil {
		t.Fatal(err)
	}
	return "logical/" + mounts[path+"/"].UUID + "/"
}

// RawKeys returns all keys below a prefix, without the prefix.
func (v *Vault) RawKeys(t testing.TB, prefix string) []string {
	t.Helper()
	secret, err := v.Client.Logical().List("sys/raw/" + prefix)
	if err != nil {
		t.Fatalf("listing %s: %v", prefix, err)
	}
	if secret == nil {
		return nil
	}
	var keys []string
	for _, key := range secret.Data["keys"].([]any) {
		if folder := key.(string); strings.HasSuffix(folder, "/") {
			for _, below := range v.RawKeys(t, prefix+folder) {
				keys = append(keys, folder+below)
			}
		} else {
			keys = append(keys, folder)
		}
	}
	return keys
}

// RawRead returns the value of a key.
func (v *Vault) RawRead(t testing.TB, key string) string {
	t.Helper()
	// Vault does not compress the values that the tests read, and without this
	// parameter it refuses to read an empty value.
	secret, err := v.Client.Logical().ReadWithData("sys/raw/"+key, map[string][]string{"compressed": {"false"}})
	if err != nil || secret == nil {
		t.Fatalf("reading %s from the storage: %v, %v", key, secret, err)
	}
	return secret.Data["value"].(string)
}

// RawWrite writes the value of a key.
func (v *Vault) RawWrite(t testing.TB, key, value string) {
	t.Helper()
	if _, err := v.Client.Logical().Write("sys/raw/"+key, map[string]any{"value": value}); err != nil {
		t.Fatalf("writing %s to the storage: %v", key, err)
	}
}

// KeysForEver are the keys of a mount that stay in storage when everything is deleted: the
// fence, which is written before anything is ended, and the marks that the indexes of
// bundles and of attention are complete.
var KeysForEver = []string{"fence", "bundles-indexed", "attention/.complete"}
