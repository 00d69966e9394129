// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

var defaultConfig = fields{"allowed_registries": []string{}, "expiry_warning": int64(1209600), "verify_period": int64(0)}

func TestConfigHasDefaults(t *testing.T) {
	checkSame(t, "config", defaultConfig, newEngine(t).read("config"))
}

func TestConfigUpdateKeepsFieldsItDoesNotName(t *testing.T) {
	e := newEngine(t)
	for _, step := range []struct{ write, want fields }{
		{fields{"expiry_warning": "1h"}, fields{"allowed_registries": []string{}, "expiry_warning": int64(3600), "verify_period": int64(0)}},
		{fields{"allowed_registries": []string{"ghcr.io", "docker.io"}}, fields{"allowed_registries": []string{"ghcr.io", "docker.io"}, "expiry_warning": int64(3600), "verify_period": int64(0)}},
		{fields{"expiry_warning": 90}, fields{"allowed_registries": []string{"ghcr.io", "docker.io"}, "expiry_warning": int64(90), "verify_period": int64(0)}},
		{fields{}, fields{"allowed_registries": []string{"ghcr.io", "docker.io"}, "expiry_warning": int64(90), "verify_period": int64(0)}},
		{fields{"allowed_registries": ""}, fields{"allowed_registries": []string{}, "expiry_warning": int64(90), "verify_period": int64(0)}},
		{fields{"expiry_warning": nil}, defaultConfig},
		{fields{"expiry_warning": 90}, fields{"allowed_registries": []string{}, "expiry_warning": int64(90), "verify_period": int64(0)}},
		{fields{"expiry_warning": ""}, defaultConfig},
		{fields{"allowed_registries": `["ghcr.io","[::1]:5000"]`}, fields{"allowed_registries": []string{"ghcr.io", "[::1]:5000"}, "expiry_warning": int64(1209600), "verify_period": int64(0)}},
		{fields{"allowed_registries": "*.example.com, [::1]:5000"}, fields{"allowed_registries": []string{"*.example.com", "[::1]:5000"}, "expiry_warning": int64(1209600), "verify_period": int64(0)}},
		{fields{"allowed_registries": nil}, defaultConfig},
		{fields{"expiry_warning": 0}, fields{"allowed_registries": []string{}, "expiry_warning": int64(0), "verify_period": int64(0)}},
	} {
		if resp := e.write("config", step.write); resp != nil {
			t.Errorf("%v: want no response, got %v", step.write, resp)
		}
		checkSame(t, "config", step.want, e.read("config"))
	}
}

func TestConfigWarnsOfChangedValues(t *testing.T) {
	e := newEngine(t)
	resp := e.write("config", fields{"allowed_registries": "https://Ghcr.io/Team/,registry-1.docker.io,quay.io"})
	checkWarnings(t, resp.Warnings,
		`allowed_registries: stored as "ghcr.io/team"`,
		`allowed_registries: stored as "docker.io"`)
	checkSame(t, "config", fields{"allowed_registries": []string{"ghcr.io/team", "docker.io", "quay.io"}, "expiry_warning": int64(1209600), "verify_period": int64(0)}, e.read("config"))
}

func TestDeletedConfigIsTheDefaultOne(t *testing.T) {
	e := newSampledEngine(t)
	for range 2 {
		if resp := e.must(logical.DeleteOperation, "config", nil); resp != nil {
			t.Errorf("want no response, got %v", resp)
		}
		checkSame(t, "config", defaultConfig, e.read("config"))
	}
}

func TestConfigRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		data fields
		want string
	}{
		"negative":            {fields{"expiry_warning": -1}, "expiry_warning: "},
		"no duration":         {fields{"expiry_warning": "soon"}, "expiry_warning: "},
		"too long":            {fields{"expiry_warning": 18446744074}, "expiry_warning: "},
		"duration object":     {fields{"expiry_warning": fields{"a": 1}}, "expiry_warning: "},
		"path glob":           {fields{"allowed_registries": "ghcr.io/*"}, "allowed_registries: entry 1 "},
		"empty":               {fields{"allowed_registries": "ghcr.io,,quay.io"}, "allowed_registries: entry 2 must not be empty"},
		"user info":           {fields{"allowed_registries": "me:" + marker + "@ghcr.io"}, "allowed_registries: entry 1 must not contain '@'"},
		"registries object":   {fields{"allowed_registries": fields{"a": marker}}, "allowed_registries: must be a list"},
		"registries objects":  {fields{"allowed_registries": []any{fields{"a": marker}}}, "allowed_registries: must be a list"},
		"empty object":        {fields{"allowed_registries": fields{}}, "allowed_registries: must be a list"},
		"registries false":    {fields{"allowed_registries": false}, "allowed_registries: must be a list"},
		"registries number":   {fields{"allowed_registries": 1}, "allowed_registries: must be a list"},
		"unknown":             {fields{"allowed_registry": "ghcr.io"}, `unknown field "allowed_registry"; did you mean allowed_registries? The fields are: allowed_registries, ca_pem, expiry_warning`},
		"one good, one wrong": {fields{"expiry_warning": 5, "allowed_registries": "a b"}, "allowed_registries: entry 1 "},
	} {
		t.Run(name, func(t *testing.T) {
			newEngine(t).refused(logical.UpdateOperation, "config", c.data, c.want)
			newSampledEngine(t).refused(logical.UpdateOperation, "config", c.data, c.want)
		})
	}
}

func TestAllowedRegistries(t *testing.T) {
	for _, c := range []struct {
		pattern, registry string
		want              bool
	}{
		{"", "anything.example.com", true},
		{"ghcr.io", "ghcr.io", true},
		{"ghcr.io", "ghcr.io/team", true},
		{"ghcr.io", "ghcr.io:443", false},
		{"ghcr.io", "ghcr.io.evil.com", false},
		{"ghcr.io", "evil.com/ghcr.io", false},
		{"ghcr.io", "xghcr.io", false},
		{"ghcr.io", "*", false},
		{"ghcr.io", "ghcr.*", false},
		{"ghcr.io", "*.io", false},
		{"ghcr.io/team", "ghcr.io", false},
		{"ghcr.io/team", "ghcr.io/team", true},
		{"ghcr.io/team", "ghcr.io/team/app", true},
		{"ghcr.io/team", "ghcr.io/team-evil", false},
		{"ghcr.io/team", "ghcr.io/other/team", false},
		{"ghcr.io/team", "evil.com/team", false},
		{"*.example.com", "a.example.com", true},
		{"*.example.com", "a.b.example.com", true},
		{"*.example.com", "a.example.com/team", true},
		{"*.example.com", "*.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "a.example.com:5000", false},
		{"*.example.com", "a.example.com.evil.com", false},
		{"*.example.com", "evil.com/x.example.com", false},
		{"*.example.com", "evilexample.com", false},
		{"*.example.com", "*", false},
		{"*.example.com", "*.com", false},
		{"*.example.com:5000", "a.example.com:5000", true},
		{"*.example.com:5000", "a.example.com", false},
		{"*.example.com/team", "a.example.com/team", true},
		{"*.example.com/team", "a.example.com/other", false},
		{"reg-*.example.com", "reg-1.example.com", true},
		{"reg-*.example.com", "evil.com/reg-1.example.com", false},
		{"reg-*.example.com", "x.reg-1.example.com", false},
		{"*", "any.example.com/team", true},
		{"*", "any.example.com:5000/team", false},
		{"*:5000", "any.example.com:5000/team", true},
		{"*:5000", "any.example.com", false},
		{"10.1.2.*", "10.1.2.3", true},
		{"10.1.2.*", "10.1.2.3:5000", false},
		{"10.1.2.*:5000", "10.1.2.3:5000", true},
		{"10.1.2.*:5000", "10.1.2.3:5001", false},
		{"registry.*", "registry.example.com", true},
		{"registry.*", "registry.example.com:8443", false},
		{"*", "[::1]", true},
		{"*", "[::1]:5000", false},
		{"*:5000", "[::1]:5000", true},
		{"[::1]:5000", "[::1]:5000", true},
		{"[::1]:5000", "[::1]:5001", false},
		{"docker.io", "https://index.docker.io/v1/", true},
		{"registry-1.docker.io", "index.docker.io", true},
		{"docker.io", "docker.io/team", true},
		{"docker.io/team", "docker.io", false},
		{"*.docker.io", "index.docker.io", false},
		{"index.*", "docker.io", false},
		{"https://index.docker.io/v1/", "docker.io.evil.com", false},
	} {
		var settings config
		if c.pattern != "" {
			settings.AllowedRegistries = []dockerconfig.Key{parseKey(t, c.pattern)}
		}
		if got := settings.allows(parseKey(t, c.registry)); got != c.want {
			t.Errorf("allowed %q, registry %q: want %v, got %v", c.pattern, c.registry, c.want, got)
		}
	}
}

func parseKey(t *testing.T, text string) dockerconfig.Key {
	t.Helper()
	key, _, err := dockerconfig.ParseKey(text)
	if err != nil {
		t.Fatalf("ParseKey(%q): %v", text, err)
	}
	return key
}

func TestRolesOfOtherRegistriesAreRefused(t *testing.T) {
	e := newSampledEngine(t)
	docker := `{"auths":{"ghcr.io":{"username":"me","password":"` + marker + `"},"quay.io":{"username":"me","password":"` + marker + `"}}}`
	for _, path := range []string{"roles/new", "roles/app"} {
		e.refused(logical.UpdateOperation, path, with(samples["roles/app"], fields{"registry": "quay.io"}), `registry "quay.io"`)
		e.refused(logical.UpdateOperation, path, fields{"dockerconfigjson": docker}, `registry "quay.io"`)
	}
	e.write("roles/new", with(samples["roles/app"], fields{"registry": "a.example.com"}))
}

func TestTighterAllowedRegistriesApplyAtOnce(t *testing.T) {
	e := newSampledEngine(t)
	e.write("config", fields{"allowed_registries": "quay.io"})
	for _, path := range []string{"creds/app", "creds/app/kubernetes", "creds/app/docker"} {
		e.refused(logical.ReadOperation, path, nil, `registry "ghcr.io" is not among the allowed_registries of this mount's config`)
	}
	checkWarnings(t, e.readWarnings("roles/app"), `creds/app is refused: registry "ghcr.io"`)
	e.refused(logical.UpdateOperation, "roles/app", fields{"password": marker}, `"ghcr.io"`)

	e.write("config", fields{"allowed_registries": ""})
	checkSame(t, "user name", any("me"), e.read("creds/app")["username"])
}

// A role whose registry is no longer allowed can still be restricted, and its
// read-back is complete.
func TestRoleThatIsNoLongerAllowedCanStillBeRestricted(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", with(credential, fields{"allowed_bundles": "*", "expires_at": "2027-01-31T00:00:00Z"}))
	e.write("config", fields{"allowed_registries": "quay.io"})
	e.write("roles/app", fields{"allowed_bundles": ""})
	e.refused(logical.UpdateOperation, "roles/app", fields{"password": password + "2"}, `registry "ghcr.io"`)
	role := e.read("roles/app")
	checkSame(t, "allowed_bundles", nil, role["allowed_bundles"])
	checkSame(t, "registries", []string{"ghcr.io"}, role["registries"])
	checkSame(t, "expires_at", "2027-01-31T00:00:00Z", role["expires_at"])
}

// Taking rights away must always be possible.
func TestTightenedRegistriesKeepNothingFromBeingRestricted(t *testing.T) {
	e := newConnectedEngine(t)
	e.write("roles/shared", with(sharedRole, fields{"allowed_bundles": "all"}))
	e.write("roles/leased", leasedRole)
	e.write("roles/all", fields{"members": "shared"})
	e.write("config", fields{"allowed_registries": "other.example.com"})

	e.write("roles/shared", fields{"allowed_bundles": ""})
	e.write("roles/shared", fields{"grace_period": "0s"})
	e.write("roles/shared", fields{"allowed_bundles": "all", "rotation_period": "1h"})
	e.write("roles/leased", fields{"ttl": "1m", "max_ttl": "1m"})
	e.write("roles/all", fields{})
	e.write("connections/app", fields{"allowed_targets": "group/*", "verify_connection": false})
	e.refused(logical.ReadOperation, "creds/all", nil, "is not among the allowed_registries")
	e.write("connections/app", fields{"allowed_roles": ""})
	checkSame(t, "allowed_roles", any([]string{}), e.read("connections/app")["allowed_roles"])
	e.refused(logical.UpdateOperation, "connections/app", fields{"registry": "third.example.com", "password": adminPassword}, `registry "third.example.com" is not among the allowed_registries`)
	checkSame(t, "mints", 0, e.minting.mints())
}
