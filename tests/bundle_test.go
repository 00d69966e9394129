// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// escalation is one way in which a team tries to read a role that does not
// allow its bundles. The role's owner does before, and the team attack; then
// the team reads every name that its policy covers. legitimate is a bundle that
// the owner allows.
type escalation struct {
	before     func(t *testing.T, owner *api.Client)
	attack     func(t *testing.T, team *api.Client)
	legitimate string
}

// TestBundleIsNoWayToReadAnotherRole attacks as a team with real policies and
// its own token. The team may write roles/team-a* and read creds/team-a*. No
// sequence of its writes may let it read the role "private".
func TestBundleIsNoWayToReadAnotherRole(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	if err := v.Client.Sys().PutPolicy("team-a", `
path "regcred/roles/team-a*" { capabilities = ["create", "read", "update", "patch", "delete"] }
path "regcred/creds/team-a*" { capabilities = ["read"] }
path "regcred/verify/team-a*" { capabilities = ["update"] }
`); err != nil {
		t.Fatal(err)
	}
	token, err := v.NewToken("team-a")
	if err != nil {
		t.Fatal(err)
	}
	team, err := v.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	team.SetToken(token)

	private := func(allowed string) fields {
		return fields{"registry": "private.example.com", "username": "owner", "password": marker, "allowed_bundles": allowed}
	}
	own := fields{"registry": "own.example.com", "username": "team", "password": "own"}
	// A refusal is no failure: what the team can read decides.
	put := func(path string, data fields) func(*testing.T, *api.Client) {
		return func(_ *testing.T, c *api.Client) { _, _ = c.Logical().Write("regcred/roles/"+path, data) }
	}
	patch := func(path string, data fields) func(*testing.T, *api.Client) {
		return func(t *testing.T, c *api.Client) {
			_, _ = c.Logical().JSONMergePatch(t.Context(), "regcred/roles/"+path, data)
		}
	}
	remove := func(path string) func(*testing.T, *api.Client) {
		return func(_ *testing.T, c *api.Client) { _, _ = c.Logical().Delete("regcred/roles/" + path) }
	}
	all := func(steps ...func(*testing.T, *api.Client)) func(*testing.T, *api.Client) {
		return func(t *testing.T, c *api.Client) {
			for _, step := range steps {
				step(t, c)
			}
		}
	}

	const madeLater = "a member that is made later"
	for name, e := range map[string]escalation{
		"a bundle":                        {before: put("private", private("")), attack: put("team-a", fields{"members": "private"})},
		"a bundle with an own role":       {before: put("private", private("")), attack: all(put("team-a1", own), put("team-a", fields{"members": "private,team-a1"}))},
		"another team's bundle name":      {before: put("private", private("team-b")), attack: put("team-a", fields{"members": "private"})},
		"a longer name":                   {before: put("private", private("team-a")), attack: put("team-a1", fields{"members": "private"})},
		"a shorter name":                  {before: put("private", private("team-a1")), attack: put("team-a", fields{"members": "private"})},
		"another case":                    {before: put("private", private("Team-A,TEAM-A")), attack: put("team-a", fields{"members": "private"})},
		"another case of the member":      {before: put("private", private("")), attack: put("team-a", fields{"members": "Private,PRIVATE"})},
		"a glob as a member":              {before: put("private", private("")), attack: put("team-a", fields{"members": "*,priv*"})},
		"a path as a member":              {before: put("private", private("")), attack: put("team-a", fields{"members": "../roles/private,roles/private,./private,private%20"})},
		"white space around the member":   {before: put("private", private("")), attack: put("team-a", fields{"members": " private ,private\n"})},
		"a list of lists":                 {before: put("private", private("")), attack: put("team-a", fields{"members": []any{[]any{"private"}}})},
		"a patch":                         {before: put("private", private("")), attack: all(put("team-a", own), patch("team-a", fields{"members": "private"}))},
		"a patch of a bundle":             {before: put("private", private("")), attack: all(put("team-a1", fields{"registry": "x.example.com", "username": "u", "password": "p", "allowed_bundles": "team-a"}), put("team-a", fields{"members": "team-a1"}), patch("team-a", fields{"members": "team-a1,private"}))},
		"a static role that turns bundle": {before: put("private", private("")), attack: all(put("team-a", own), put("team-a", fields{"members": "private", "password": nil}))},
		"a bundle of a bundle":            {before: put("private", private("team-a1")), attack: all(put("team-a1", fields{"members": "private"}), put("team-a2", fields{"members": "team-a1"})), legitimate: "team-a1"},
		"allowed_bundles in the bundle":   {before: put("private", private("")), attack: put("team-a", fields{"members": "private", "allowed_bundles": "*"})},
		madeLater:                         {before: remove("private"), attack: all(put("team-a", fields{"members": "private"}), func(t *testing.T, _ *api.Client) { put("private", private(""))(t, v.Client) })},
		"an allowance that was withdrawn": {before: put("private", private("team-a")), attack: all(put("team-a", fields{"members": "private"}), func(t *testing.T, _ *api.Client) { put("private", fields{"allowed_bundles": ""})(t, v.Client) })},
		"an allowance that was patched away": {before: put("private", private("team-a")), attack: all(put("team-a", fields{"members": "private"}), func(t *testing.T, _ *api.Client) {
			patch("private", fields{"allowed_bundles": nil})(t, v.Client)
		})},
		"a member deleted and made again": {before: put("private", private("team-a")), attack: all(put("team-a", fields{"members": "private"}), func(t *testing.T, _ *api.Client) { all(remove("private"), put("private", private("")))(t, v.Client) })},
		"a member that became a bundle": {before: put("private", private("team-a")), attack: all(put("team-a", fields{"members": "private"}), func(t *testing.T, _ *api.Client) {
			all(put("inner", private("private")), remove("private"), put("private", fields{"members": "inner"}))(t, v.Client)
		})},
		"an encoded name": {before: put("private", private("")), attack: all(put("team-a%2f..%2fprivate", fields{"password": "mine"}), put("team-a/../private", fields{"allowed_bundles": "*"}), put("team-a", fields{"members": "private"}))},
	} {
		t.Run(name, func(t *testing.T) {
			remove("private")(t, v.Client) // left by the attack before
			e.before(t, v.Client)
			if stored, err := v.Client.Logical().Read("regcred/roles/private"); err != nil || (stored == nil) != (name == madeLater) {
				t.Fatalf("the owner's role: got %v, %v", stored, err)
			}
			e.attack(t, team)
			for _, role := range []string{"team-a", "team-a1", "team-a2"} {
				for _, path := range []string{"creds/" + role, "creds/" + role + "/kubernetes", "creds/" + role + "/docker", "roles/" + role} {
					secret, err := team.Logical().Read("regcred/" + path)
					if text := everything(t, secret, err); role != e.legitimate && strings.Contains(text, "private.example.com") {
						t.Errorf("%s shows the role:\n%s", path, text)
					}
				}
				_, _ = v.Client.Logical().Delete("regcred/roles/" + role)
			}
		})
	}

	// A role that does not allow it and one that does not exist are refused in
	// the same words.
	mustDelete(t, v.Client, "regcred/roles/private") // as the last attack left it
	write(t, v.Client, "regcred/roles/private", private(""))
	refusals := map[string]string{}
	for _, member := range []string{"private", "missing"} {
		_, err := team.Logical().Write("regcred/roles/team-a", fields{"members": member})
		refusals[member] = strings.ReplaceAll(refusal(t, err), member, "MEMBER")
	}
	if diff := cmp.Diff(refusals["private"], refusals["missing"]); diff != "" || !strings.Contains(refusals["private"], `members: role "MEMBER"`) {
		t.Errorf("want one refusal that names the member (-private +missing):\n%s%s", diff, refusals["private"])
	}

	// Without this the test proves nothing: the attack works when it is
	// allowed.
	write(t, v.Client, "regcred/roles/private", private("team-a"))
	write(t, team, "regcred/roles/team-a", fields{"members": "private"})
	if got := read(t, team, "regcred/creds/team-a")["password"]; got != marker {
		t.Errorf("a bundle that is allowed: want the password, got %v", got)
	}
}

// everything returns the whole text of an answer.
func everything(t *testing.T, secret *api.Secret, err error) string {
	t.Helper()
	encoded, jsonErr := json.Marshal(secret)
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	text := string(encoded)
	if err != nil {
		text += err.Error()
	}
	return text
}

// TestPullFromThreeRegistriesWithOneSecret pulls from each registry of a
// bundle. One of them stands under a key that is limited to a path.
func TestPullFromThreeRegistriesWithOneSecret(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	var members, images []string
	logins := map[string]clients.Login{}
	for role, path := range map[string]string{"one": "", "two": "", "three": "/team"} {
		l := clients.Login{Username: "user-" + role, Password: "p4ss-" + role}
		registry := servers.StartRegistry(t, l.Username, l.Password)
		image := registry.Addr + "/team/app"
		clients.Push(t, image+":1", l.Username, l.Password)
		write(t, v.Client, "regcred/roles/"+role, fields{
			"registry": registry.Addr + path, "username": l.Username, "password": l.Password, "allowed_bundles": "all",
		})
		members, images = append(members, role), append(images, image)
		logins[image] = l
	}
	write(t, v.Client, "regcred/roles/all", fields{"members": members})
	secret := read(t, v.Client, "regcred/creds/all/kubernetes")[".dockerconfigjson"].(string)

	for _, image := range images {
		for client, pull := range clients.Pullers {
			if out, err := pull(t, image+":1", secret); err != nil {
				t.Errorf("%s cannot pull %s with the bundle's pull secret: %v\n%s", client, image, err, out)
			}
		}
		for reader, ask := range readers {
			if reader == "go-containerregistry" {
				continue // it is the library of crane, and reads from the environment
			}
			want := []clients.Found{{Credentials: []clients.Login{logins[image]}}}
			if diff := cmp.Diff(want, ask(t, []clients.LookUp{{Config: secret, Image: image}})); diff != "" {
				t.Errorf("%s chooses another credential for %s (-want +got):\n%s", reader, image, diff)
			}
		}
	}
}
