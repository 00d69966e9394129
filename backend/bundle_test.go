// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

func member(registry, allowed string) fields {
	return fields{"registry": registry, "username": "user", "password": password, "allowed_bundles": allowed}
}

func TestBundleJoinsRolesThatAllowIt(t *testing.T) {
	e := newEngine(t)
	e.write("roles/a", member("a.example.com", "all"))
	e.write("roles/b", with(member("b.example.com", "x,al*"), fields{"expires_at": "2027-01-31T00:00:00Z"}))
	e.write("roles/c", with(member("c.example.com", "*"), fields{"expires_at": "2026-12-31T00:00:00Z"}))
	e.write("roles/all", fields{"members": "c,a,b"})

	checkSame(t, "read-back", fields{
		"type": "bundle", "members": []string{"a", "b", "c"}, "updated_at": formatTime(noon),
		"registries": []string{"a.example.com", "b.example.com", "c.example.com"}, "expires_at": "2026-12-31T00:00:00Z",
	}, e.read("roles/all"))
	secret := e.read("creds/all")
	checkSame(t, "fields", []string{".dockerconfigjson", "dockerconfigjson", "expires_at"}, slices.Sorted(maps.Keys(secret)))
	checkSame(t, "expires_at, the earliest", "2026-12-31T00:00:00Z", secret["expires_at"])

	e.write("roles/all", fields{"members": "a"})
	checkSame(t, "a bundle of one has its fields", "a.example.com", e.read("creds/all")["registry"])
	e.patch("roles/all", fields{}) // names no field, so changes nothing
	checkSame(t, "members", []string{"a"}, e.read("roles/all")["members"])
}

// This tries each way in which a role can stop being a valid member, with each
// operation that would show its credential.
func TestBundleIsRefusedWheneverAMemberIs(t *testing.T) {
	for name, change := range map[string]func(*engine){
		"member deleted":      func(e *engine) { e.must(logical.DeleteOperation, "roles/b", nil) },
		"allowance withdrawn": func(e *engine) { e.write("roles/b", fields{"allowed_bundles": ""}) },
		"allowance patched":   func(e *engine) { e.patch("roles/b", fields{"allowed_bundles": nil}) },
		"allowed to others":   func(e *engine) { e.write("roles/b", fields{"allowed_bundles": "ALL,al,all2,*ll2"}) },
		"member made anew": func(e *engine) {
			e.must(logical.DeleteOperation, "roles/b", nil)
			e.write("roles/b", member("b.example.com", ""))
		},
		"member now a bundle": func(e *engine) {
			e.must(logical.DeleteOperation, "roles/b", nil)
			e.write("roles/c", member("c.example.com", "b"))
			e.write("roles/b", fields{"members": "c"})
		},
		"member a bundle that allows": func(e *engine) {
			e.store("roles/b", `{"schema_version":1,"type":"bundle","members":["a"],"allowed_bundles":["all"]}`)
		},
		"registry now twice":   func(e *engine) { e.write("roles/b", fields{"registry": "a.example.com", "password": password}) },
		"registry not allowed": func(e *engine) { e.write("config", fields{"allowed_registries": "a.example.com"}) },
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/a", member("a.example.com", "all"))
			e.write("roles/b", member("b.example.com", "all"))
			e.write("roles/all", fields{"members": "a,b"})
			e.read("creds/all")
			change(e)
			for _, path := range []string{"creds/all", "creds/all/kubernetes", "creds/all/docker"} {
				e.refused(logical.ReadOperation, path, nil, "b")
			}
			e.refused(logical.UpdateOperation, "verify/all", nil, "b")
			var registries any                  // those of a member that does not allow the bundle are not told
			if name == "registry not allowed" { // which must not keep a bundle from being restricted
				e.write("roles/all", fields{"members": "a,b"})
				registries = []string{"a.example.com", "b.example.com"}
			} else {
				e.refused(logical.UpdateOperation, "roles/all", fields{"members": "a,b"}, "b")
			}
			e.refused(logical.UpdateOperation, "roles/new", fields{"members": "b", "verify": true}, "b")
			checkSame(t, "registries", registries, e.read("roles/all")["registries"])
			checkWarnings(t, e.readWarnings("roles/all"), "creds/all is refused: ")
			if len(e.registries.asked) > 0 {
				t.Errorf("registries were asked: %v", e.registries.asked)
			}
		})
	}
}

// A bundle is the union of its members in any order. A registry that two of them
// hold is always an error.
func TestJoinIsAUnion(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var sources []source
		union := map[dockerconfig.Key]dockerconfig.Credential{}
		conflict := false
		for i := range 1 + random.IntN(5) {
			held := map[dockerconfig.Key]bool{}
			var credentials []dockerconfig.Credential
			for range 1 + random.IntN(4) {
				c := dockerconfig.Credential{
					Registry: dockerconfig.Key(fmt.Sprintf("r%d.example.com", random.IntN(25))),
					Username: fmt.Sprintf("user%d", i), Password: dockerconfig.NewSecret(password),
				}
				if held[c.Registry] {
					continue
				}
				_, twice := union[c.Registry]
				conflict = conflict || twice
				held[c.Registry], union[c.Registry] = true, c
				credentials = append(credentials, c)
			}
			docker, err := dockerconfig.New(credentials...)
			if err != nil {
				t.Fatal(err)
			}
			sources = append(sources, source{name: fmt.Sprintf("role%d", i), docker: docker, registries: docker.Keys()})
		}
		err := checkDistinct(sources)
		joined, joinErr := join(sources)
		random.Shuffle(len(sources), func(i, j int) { sources[i], sources[j] = sources[j], sources[i] })
		shuffled, shuffledErr := join(sources)
		if conflict {
			if err == nil || joinErr == nil || shuffledErr == nil || checkDistinct(sources) == nil || !strings.Contains(err.Error(), "both hold registry") {
				t.Fatalf("two members hold one registry: want an error whatever the order, got %v, %v and %v", err, joinErr, shuffledErr)
			}
			continue
		}
		err = errors.Join(err, joinErr)
		if err != nil || shuffledErr != nil {
			t.Fatalf("want a union, got %v and %v", err, shuffledErr)
		}
		want, err := dockerconfig.New(slices.Collect(maps.Values(union))...)
		if err != nil {
			t.Fatal(err)
		}
		checkSame(t, "union", string(want.JSON()), string(joined.JSON()))
		checkSame(t, "union in another order", string(want.JSON()), string(shuffled.JSON()))
	}
}

func TestBundleRefuses(t *testing.T) {
	e := newEngine(t)
	e.write("roles/a", member("a.example.com", "*"))
	e.write("roles/bundle", fields{"members": "a"})
	for want, c := range map[string]struct {
		role string
		data fields
	}{
		"members: must name at least one role":                             {"new", fields{"members": ""}},
		"members: must name role \"a\" once":                               {"new", fields{"members": "a,a"}},
		"members: a bundle cannot join itself":                             {"new", fields{"members": "a,new"}},
		"members: role: must be at most":                                   {"new", fields{"members": "a b"}},
		`members: role "missing" cannot be joined`:                         {"new", fields{"members": "a,missing"}},
		`members: role "bundle" cannot be joined`:                          {"new", fields{"members": "bundle"}},
		"allowed_bundles: entry 2 must be a role name":                     {"a", fields{"allowed_bundles": "all,a?l"}},
		"allowed_bundles: entry 1 must be a role name":                     {"a", fields{"allowed_bundles": []any{"a,b"}}},
		"members: must be a list of strings":                               {"new", fields{"members": fields{"a": 1}}},
		"password: a bundle has no fields besides members":                 {"bundle", fields{"password": password}},
		"registry: a bundle has no fields besides members":                 {"new", fields{"members": "a", "registry": "b.example.com"}},
		"allowed_bundles: a bundle has no fields besides members":          {"new", fields{"members": "a", "allowed_bundles": "*"}},
		"verify_repository: a bundle has no fields besides members":        {"bundle", fields{"verify_repository": "a.example.com/app"}},
		"members: this role holds credentials of its own; delete it first": {"a", fields{"members": "bundle"}},
	} {
		e.refused(logical.UpdateOperation, "roles/"+c.role, c.data, want)
	}
}
