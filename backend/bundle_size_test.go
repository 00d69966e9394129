// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
)

// largeMembers is a storage in which each role has a large entry, except the bundles. It
// makes them when they are read: together, they have more than a test should take.
type largeMembers struct {
	logical.Storage
	password       string
	allowedBundles []string
}

func (s largeMembers) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	name, isRole := strings.CutPrefix(key, roleStoragePrefix)
	if !isRole || !strings.HasPrefix(name, "m") {
		return s.Storage.Get(ctx, key)
	}
	docker, err := dockerconfig.New(dockerconfig.Credential{
		Registry: dockerconfig.Key(name + ".example.com"), Username: "user", Password: dockerconfig.NewSecret(s.password),
	})
	if err != nil {
		return nil, err
	}
	raw := json.RawMessage(docker.JSON())
	return logical.StorageEntryJSON(key, storedRole{SchemaVersion: 1, Type: typeStatic, Docker: &raw, AllowedBundles: s.allowedBundles})
}

// putBundle stores a bundle as an earlier build may have, and returns its path in creds/.
func (e *engine) putBundle(members int) string {
	e.t.Helper()
	r := &role{Bundle: &bundleRole{}}
	for i := range members {
		r.Bundle.Members = append(r.Bundle.Members, fmt.Sprintf("m-%03d", i))
	}
	if err := e.putRole(e.t.Context(), e.storage, "all", r, nil); err != nil {
		e.t.Fatal(err)
	}
	return "creds/all"
}

func longNames(count, length int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("%0*d", length, i)
	}
	return names
}

// Roles of earlier builds may have up to 200 KB of allowed_bundles each. What reads of a
// bundle take must not grow with that.
func TestReadsOfBundlesOfLargeRolesAreBounded(t *testing.T) {
	const maxHeap = 100 << 20
	for name, c := range map[string]struct {
		members int
		roles   largeMembers
		want    string
	}{
		"allowed_bundles": {999, largeMembers{password: "plain", allowedBundles: append(longNames(999, 188), "all")}, `members: the roles up to "m-0`},
		"credentials":     {20, largeMembers{password: strings.Repeat("p", 400_000), allowedBundles: []string{"all"}}, `members: the credentials of the roles up to "m-001" have more than 1048576 bytes in total`},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			path := e.putBundle(c.members)
			c.roles.Storage = e.storage
			peak := issuertest.PeakHeap(t, func() {
				var readers sync.WaitGroup
				for range 16 {
					readers.Go(func() {
						resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: c.roles})
						if err != nil || !resp.IsError() || !strings.Contains(resp.Error().Error(), c.want) {
							t.Errorf("want a refusal that says %q, got %v, %v", c.want, resp, err)
						}
					})
				}
				readers.Wait()
			})
			if peak > maxHeap {
				t.Errorf("the heap grew by %d MiB, want at most %d", peak>>20, maxHeap>>20)
			}
		})
	}
}

// The largest bundle whose members can be written is read.
func TestBundleOfMembersAtTheirLimitIsRead(t *testing.T) {
	e := newEngine(t)
	path := e.putBundle(dockerconfig.MaxRegistries)
	roles := largeMembers{Storage: e.storage, password: strings.Repeat("p", 350), allowedBundles: append(longNames(40, 200), "all")}
	resp, err := e.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: roles})
	if err != nil || resp.IsError() {
		t.Fatalf("want a pull secret, got %v, %v", resp, err)
	}
	if got := strings.Count(resp.Data[".dockerconfigjson"].(string), `"auth":`); got != dockerconfig.MaxRegistries {
		t.Errorf("want %d registries, got %d", dockerconfig.MaxRegistries, got)
	}
}

func TestAllowedBundlesAreBounded(t *testing.T) {
	e := newEngine(t)
	fits := strings.Join(longNames(maxAllowedBundles/64, 63), ",") // with its commas one byte less
	e.write("roles/app", member("a.example.com", fits+"0"))
	e.refused(logical.UpdateOperation, "roles/app", fields{"allowed_bundles": fits + "00"}, "allowed_bundles: must have at most 8192 bytes in total, not 8193; use a pattern such as team-*")
}
