// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// maxEntry is how large an entry may be in Vault's integrated storage.
const maxEntry = 1 << 20

// manyProjects is a target as that of a Harbor robot for 600 projects.
func manyProjects() issuer.Settings {
	names := make([]string, 600)
	for i := range names {
		names[i] = fmt.Sprintf("platform-team-%03d/service-of-the-team", i)
	}
	return issuer.Settings{"projects": strings.Join(names, ",")}
}

// retiredFor returns a former credential of role app, of that name.
func retiredFor(name string, target issuer.Settings) retired {
	return retired{
		credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", URL: "https://git.example.com", Role: "app", Name: name, ID: "id-" + name, For: target},
		MintedAt:      noon, RetiredAt: noon, RevokeAt: noon.Add(time.Hour),
	}
}

// What a role mints for stands once in its entry, however many former
// credentials wait there.
func TestTargetOfManyProjectsIsStoredOnce(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	s, err := e.shared(t.Context(), e.storage, "app")
	if err != nil {
		t.Fatal(err)
	}
	current, many, other := *s.Current, manyProjects(), issuer.Settings{"project": "group/other"}
	current.For = many
	s.Current = &current
	for i := range maxRetired {
		target := manyProjects()
		switch i {
		case 7:
			target = other
		case 8:
			target = nil
		}
		s.Retired = append(s.Retired, retiredFor(fmt.Sprintf("regcred-app-%d", i), target))
	}
	if err := e.putShared(t.Context(), e.through(), "app", s); err != nil {
		t.Fatal(err)
	}
	if size := len(e.snapshot()["shared/app"]); size > maxEntry/4 {
		t.Errorf("want an entry that fits well, got %d bytes", size)
	}
	read, err := e.shared(t.Context(), e.through(), "app")
	if err != nil {
		t.Fatal(err)
	}
	checkSame(t, "current", many, read.Current.For)
	for i, r := range read.Retired {
		checkSame(t, r.Name, s.Retired[i].For, r.For)
	}
}

// An entry whose credentials have no target is damaged: none is revoked for
// another target than its own.
func TestTargetThatIsMissingIsDamage(t *testing.T) {
	for _, target := range []string{"-1", "1"} {
		for _, entry := range []string{
			`{"schema_version":3,"targets":[{"project":"p"}],"retired":[{"connection":"app","role":"app","name":"n","revoke_at":"2026-03-01T12:00:00Z","target":` + target + `}]}`,
			`{"schema_version":3,"targets":[{"project":"p"}],"current":{"minted":{"connection":"app","role":"app","name":"n","target":` + target + `},"dockerconfig":{"auths":{"ghcr.io":{"username":"me","password":"x","auth":"bWU6eA=="}}},"minted_at":"2026-03-01T12:00:00Z"}}`,
		} {
			_, err := decodeShared(&logical.StorageEntry{Key: "shared/app", Value: []byte(entry)}, "app")
			if err == nil {
				t.Fatalf("%s: want an error", entry)
			}
			checkContains(t, err.Error(), `the credentials of role "app": the stored entry is damaged`)
		}
	}
}

// narrowStorage refuses entries of shared roles that hold a credential, or all of
// them.
type narrowStorage struct {
	logical.Storage
	refuses string
}

func (s narrowStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if strings.HasPrefix(entry.Key, sharedStoragePrefix) && strings.Contains(string(entry.Value), s.refuses) {
		return errors.New("put failed due to value being too large")
	}
	return s.Storage.Put(ctx, entry)
}

// A credential that cannot be stored is not minted again by each read. The role says
// why, if that can be stored; if not, the process knows.
func TestStoringThatFailsHasABackOff(t *testing.T) {
	for name, c := range map[string]struct {
		refuses string
		stored  bool
	}{
		"the new credential":  {`"dockerconfig"`, true},
		"the failure as well": {`"schema_version"`, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			working := e.storage
			e.storage = narrowStorage{working, c.refuses}
			for range 100 {
				if _, err := e.request(logical.ReadOperation, "creds/app", nil); err == nil {
					t.Fatal("want an error")
				}
			}
			checkSame(t, "mints of 100 reads", 1, e.minting.mints())
			for range 100 {
				e.clock.advance(firstRetry / 10)
				_, _ = e.request(logical.ReadOperation, "creds/app", nil)
			}
			checkSame(t, "mints of 100 more reads", 11, e.minting.mints())
			const why = "the new credential could not be stored: writing shared/app: put failed due to value being too large"
			checkSame(t, "last_error", any(why), e.read("roles/app")["last_error"])
			if _, stored := e.snapshot()["shared/app"]; stored != c.stored {
				t.Errorf("the failure is stored: want %t, got %t", c.stored, stored)
			}

			e.storage = working
			e.clock.advance(firstRetry)
			e.read("creds/app")
			checkSame(t, "last_error once it is stored", nil, e.read("roles/app")["last_error"])
			e.clock.advance(walMinAge + time.Minute)
			e.mustRollBack()
			e.checkLiving(1)
		})
	}
}

// A rotation that is due, and whose credential cannot be stored, is tried again with
// the back-off of any other that fails.
func TestDueRotationThatCannotBeStoredHasABackOff(t *testing.T) {
	for _, refuses := range []string{`"rotations":2`, `"schema_version"`} {
		e := newSharingEngine(t)
		served := e.read("creds/app")["password"]
		working := e.storage
		e.storage = narrowStorage{working, refuses}
		e.clock.advance(24 * time.Hour)
		for range 3 {
			e.mustRollBack()
			checkSame(t, "served", served, e.readInBackground()["password"])
			checkSame(t, "mints", 2, e.minting.mints())
		}
		e.clock.advance(firstRetry)
		e.mustRollBack()
		checkSame(t, "mints after the first pause", 3, e.minting.mints())
		e.clock.advance(firstRetry)
		e.mustRollBack()
		checkSame(t, "mints in the second pause", 3, e.minting.mints())
		e.storage = working
		e.clock.advance(firstRetry)
		e.mustRollBack()
		checkSame(t, "mints once it can be stored", 4, e.minting.mints())
	}
}
