// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/ryanuber/go-glob"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/registry"
)

// FuzzNames tries role names, and patterns for them.
func FuzzNames(f *testing.F) {
	for _, seed := range []string{"my_app", "a.b-c", "a..b", "-a", "a.", "ä", "team-*", "*", "**", "a\x00", "A\n", strings.Repeat("a", 200), strings.Repeat("*", 201), "..", "a/b", ""} {
		f.Add(seed, "my_app")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if checkName(name) == nil {
			if strings.ContainsAny(name, "/\\ \n\x00") || strings.Contains(name, "..") || len(name) > maxNameLength || !isPrintable(name) {
				t.Errorf("%q was accepted as a name", name)
			}
			if !matchesAny([]string{name}, name) {
				t.Errorf("%q does not match itself", name)
			}
		}
		parsed, err := parseRolePatterns([]string{pattern})
		if err != nil {
			return
		}
		checkSame(t, "patterns", []string{pattern}, parsed)
		if one := strings.ReplaceAll(pattern, "*", "x"); checkName(one) != nil || !matchesAny(parsed, one) {
			t.Errorf("%q was accepted, and no role can match it", pattern)
		}
		if !strings.Contains(pattern, "*") && matchesAny(parsed, name) != (pattern == name) {
			t.Errorf("%q matches %q", pattern, name)
		}
	})
}

func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) })
}

// FuzzTargets tries patterns of allowed_targets.
func FuzzTargets(f *testing.F) {
	for _, seed := range []string{"group/*", "*", "group/app", " ", "a b", "", "\x00", "a,b"} {
		f.Add(seed, "group/app")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		parsed, err := parseTargetPatterns([]string{pattern})
		if err != nil {
			if !isInputError(err) {
				t.Errorf("want the caller's mistake, got %v", err)
			}
			return
		}
		c := &connection{AllowedTargets: parsed}
		if !strings.Contains(pattern, "*") && c.allowsTarget(issuer.Target{Names: []string{name}}) != (pattern == name) {
			t.Errorf("%q covers %q", pattern, name)
		}
		// Each name must be covered.
		if c.allowsTarget(issuer.Target{Names: []string{name, "\x01"}}) != (glob.Glob(pattern, name) && glob.Glob(pattern, "\x01")) {
			t.Errorf("%q covers %q and another one", pattern, name)
		}
	})
}

// FuzzAllowedRegistries tries patterns for registries, and registries.
func FuzzAllowedRegistries(f *testing.F) {
	for _, seed := range []string{"ghcr.io", "https://Ghcr.io/v2/", "*.example.com", "*", "docker.io", "ghcr.io/team", "r.example.com:5000", "*.example.com/team", "", "a b"} {
		f.Add(seed, "ghcr.io/team/app")
		f.Add(seed, "a.example.com")
		f.Add(seed, "ghcr.io.evil.example")
	}
	f.Fuzz(func(t *testing.T, pattern, registryName string) {
		keys, warnings, err := parseAllowedRegistries([]string{pattern})
		if err != nil {
			if !isInputError(err) || keys != nil {
				t.Errorf("want the caller's mistake and no keys, got %v, %v", err, keys)
			}
			return
		}
		// The read-back can be written again.
		again, warned, err := parseAllowedRegistries([]string{keys[0].ImageName()})
		if err != nil || !slices.Equal(keys, again) || warned != nil {
			t.Errorf("%q is read back as %q, and that is %q, %q, %v", pattern, keys[0].ImageName(), again, warned, err)
		}
		if told := warnings != nil; told != (keys[0].ImageName() != pattern) {
			t.Errorf("%q is stored as %q, with the warnings %q", pattern, keys[0].ImageName(), warnings)
		}
		settings := config{AllowedRegistries: keys}
		if !settings.allows(keys[0]) {
			t.Errorf("%q does not allow itself", pattern)
		}
		key, _, err := dockerconfig.ParseKey(registryName)
		if err != nil || strings.Contains(string(keys[0]), "*") {
			return
		}
		inPath := keys[0].Path() == "" || key.Path() == keys[0].Path() || strings.HasPrefix(key.Path(), keys[0].Path()+"/")
		if want := key.Host() == keys[0].Host() && inPath; settings.allows(key) != want {
			t.Errorf("%q allows %q: want %v", keys[0], key, want)
		}
		if _, _, err := parseConnectionRegistries([]string{pattern, pattern}); err == nil {
			t.Errorf("%q was accepted twice as the registry of a connection", pattern)
		}
	})
}

// sameTime reports whether Go reads a text as that time.
func sameTime(text string, at time.Time) bool {
	parsed, err := time.Parse(time.RFC3339, strings.ToUpper(text))
	return err == nil && parsed.Equal(at)
}

// FuzzExpiry tries times, and keys of the indexes that have a time in front.
func FuzzExpiry(f *testing.F) {
	for _, seed := range []string{
		"2027-01-31T00:00:00Z", "2027-01-31T00:00:00+24:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
		"0000-01-01T00:00:00Z", "2027-01-31T00:00:00.999999999Z", "2027-01-31t00:00:00z", "2027-02-30T00:00:00Z", "tomorrow", "",
		"2027-01-31", "9999-12-31", "2016-12-31T23:59:60Z", "2016-12-31T23:59:60.5+01:00", "2027-01-31T00:00:00,5Z", "0001-01-01T00:00:00Z",
	} {
		f.Add(seed, "app", "20270131T000000Z.app")
	}
	f.Add("", "a", "20270131T000000Z.")
	f.Add("", "a", "20270131T000000Z.20270131T000000Z.app")
	f.Add("", "a", "00000131T000000Z.\xff")
	f.Fuzz(func(t *testing.T, text, name, key string) {
		if at, parsed, ok := parseExpiryKey(key); ok && expiryKey(at, parsed) != expiryStoragePrefix+key {
			t.Errorf("key %q is the time %s and the name %q, which is the key %q", key, at, parsed, expiryKey(at, parsed))
		}
		at, changed, err := parseExpiry(text)
		if err != nil || at.IsZero() {
			return
		}
		if told := slices.Equal(changed, []string{"stored as " + formatTime(at)}); told == sameTime(text, at) {
			t.Errorf("%q is stored as %s with the warnings %q", text, formatTime(at), changed)
		}
		if encoded, err := json.Marshal(at); err != nil {
			t.Fatalf("%q was accepted, and cannot be stored: %v", text, err)
		} else if again, _, err := parseExpiry(strings.Trim(string(encoded), `"`)); err != nil || !again.Equal(at) {
			t.Errorf("%q is stored as %s, which is %v, %v", text, encoded, again, err)
		}
		if again, changed, err := parseExpiry(formatTime(at)); err != nil || !again.Equal(at) || changed != nil {
			t.Errorf("%q is read back as %s, which is %v, %v", text, formatTime(at), again, err)
		}
		if checkName(name) != nil {
			return
		}
		stored := strings.TrimPrefix(expiryKey(at, name), expiryStoragePrefix)
		if found, parsed, ok := parseExpiryKey(stored); !ok || parsed != name || !found.Equal(at.Truncate(time.Second)) {
			t.Errorf("the key %q is taken apart as %s, %q, %v", stored, found, parsed, ok)
		}
		if later := expiryKey(at.Add(time.Second), name); at.Year() < 9999 && later <= expiryKey(at, name) {
			t.Errorf("%q sorts before a second earlier", later)
		}
		for _, warning := range expiryWarnings(name, at, noon, defaultExpiryWarning) {
			if !strings.Contains(warning, formatTime(at)) {
				t.Errorf("want the time in %q", warning)
			}
		}
	})
}

// FuzzDurations tries values of fields that take a duration.
func FuzzDurations(f *testing.F) {
	for _, seed := range []string{`1`, `"1"`, `"336h"`, `"14d"`, `1e9`, `-1`, `"-1h"`, `""`, `null`, `true`, `[1]`, `{"a":1}`, `18446744083`, `"18446744083"`, `"9999999999h"`, `1.5`, `"1.5h"`, `9223372036`, `9223372037`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		var value any
		if decoder.Decode(&value) != nil {
			value = text
		}
		if checkType("ttl", framework.TypeDurationSecond, value) != nil {
			return
		}
		in := input{&framework.FieldData{Raw: fields{"ttl": value}, Schema: map[string]*framework.FieldSchema{"ttl": {Type: framework.TypeDurationSecond}}}}
		got := in.duration("ttl")
		if got < 0 || got%time.Second != 0 {
			t.Errorf("%s is %s", text, got)
		}
		var read seconds
		stored, err := json.Marshal(seconds{got})
		if err != nil || json.Unmarshal(stored, &read) != nil || read.Duration != got {
			t.Errorf("%s is %s, and stored as %s", text, got, stored)
		}
		if count, plain := asSeconds(value); plain && count != string(stored) {
			t.Errorf("%s seconds are taken for %s", text, got)
		}
	})
}

// FuzzURL tries URLs of APIs.
func FuzzURL(f *testing.F) {
	for _, seed := range []string{
		"https://gitlab.example.com/", "http://localhost:3000/a/", "http://[::1]:3000", "http://127.0.0.1.example.com", "https://me:x@a", "https://a?b", "https://a#b",
		"https://a/?", "HTTPS://A.example/%2e%2e/b", "https://a:99999", "https:///a", "https://a b", "ftp://a", "//a", "https://[::1%25eth0]/", "https://%41", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parseURL(text)
		if err != nil || got == "" {
			return
		}
		if again, err := parseURL(got); err != nil || again != got {
			t.Errorf("%q is %q, and that is %q, %v", text, got, again, err)
		}
		u, err := url.Parse(got)
		if err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Hostname() == "" || strings.HasSuffix(got, "/") {
			t.Errorf("%q is %q", text, got)
			return
		}
		if u.Scheme != "https" && !registry.IsLoopback(u.Hostname()) {
			t.Errorf("%q would be sent secrets in the clear", got)
		}
		if given, err := url.Parse(text); err != nil || !strings.EqualFold(given.Host, u.Host) || origin(got) != u.Scheme+"://"+u.Host {
			t.Errorf("%q has become %q, which is of the origin %q", text, got, origin(got))
		}
		if _, err := http.NewRequest(http.MethodGet, got+"/api", nil); err != nil {
			t.Errorf("%q was accepted, and no request can be made of it: %v", text, err)
		}
	})
}

// FuzzCAs tries values of ca_pem.
func FuzzCAs(f *testing.F) {
	for _, seed := range []string{testCA, testCA + testCA, "\n" + testCA + "\n\n", testCA + "x", testCA[:len(testCA)/2], "", " ", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		pool, err := parseCAs(text)
		switch {
		case err != nil && (!isInputError(err) || !strings.HasPrefix(err.Error(), "ca_pem: must hold ") || len(err.Error()) > 150):
			t.Errorf("want the caller's mistake, which repeats nothing, got %v", err)
		case err == nil && (pool == nil) != (text == ""):
			t.Errorf("want certificates of %q, got %v", text, pool)
		}
	})
}

// FuzzStored stores anything in entries of each kind, as a fault or another version
// of the plugin may have left them.
func FuzzStored(f *testing.F) {
	m := newSeedMount(f)
	for i, key := range storedKeys {
		for stored, value := range m {
			if prefix, _, _ := strings.Cut(key, "/"); strings.HasPrefix(stored, prefix) {
				f.Add(uint8(i), value)
			}
		}
		for _, value := range []string{"", "null", "{}", "[]", `"x"`, `{"schema_version":2}`, `{"schema_version":1}`, `{"schema_version":1,"type":null,"dynamic":{},"current":{},"retired":[{}],"docker":null}`, `{"schema_version":-1}`, "\x00"} {
			f.Add(uint8(i), value)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		var named struct{ Type string }
		_ = json.Unmarshal([]byte(value), &named) // it need not be JSON
		if planted.In(named.Type) != nil || strings.Count(value, marker) == 0 && planted.In(value) != nil {
			return // errors show the stored type
		}
		key := storedKeys[int(which)%len(storedKeys)]
		m := newFuzzedMount(t)
		m.store(key, value)
		if strings.HasPrefix(key, "lease:") || strings.HasPrefix(key, "rollback:") {
			m.useOutside(key, value)
			return
		}
		before := m.snapshot()
		for _, path := range []string{"roles/app", "roles/shared", "roles/all", "roles/leased", "creds/app", "creds/shared/docker", "creds/all", "config", "connections/app", "expiring"} {
			resp, err := m.request(logical.ReadOperation, path, nil)
			if resp == nil && err == nil {
				t.Errorf("reading %s with %s damaged: want an error or an answer, not that there is none", path, key)
			}
			if path == "creds/app" && err == nil && !resp.IsError() {
				text, _ := resp.Data[".dockerconfigjson"].(string)
				if _, err := dockerconfig.Decode([]byte(text)); err != nil { // under the rules of any version
					t.Errorf("creds/app with %s damaged is %q: %v", key, text, err)
				}
			}
		}
		m.background.Wait()
		if key == "config" {
			checkSame(t, "storage after reading", before, m.snapshot())
		}
		for _, c := range []struct {
			op   logical.Operation
			path string
			data fields
		}{
			{logical.ReadOperation, "creds/leased", nil},
			{logical.UpdateOperation, "verify/all", nil},
			{logical.UpdateOperation, "rotate/shared", nil},
			{logical.UpdateOperation, "roles/app", fields{"password": password}},
			{logical.PatchOperation, "roles/shared", fields{"grace_period": "10m"}},
			{logical.UpdateOperation, "connections/app/rotate-root", nil},
			{logical.UpdateOperation, "connections/app", fields{"allowed_targets": "*"}},
		} {
			_, _ = m.request(c.op, c.path, c.data) // neither a panic nor a secret
		}
		m.clock.advance(48 * time.Hour)
		_ = m.rollBack()
		// An entry with any content can be deleted.
		m.must(logical.DeleteOperation, "roles/all", nil)
		for _, path := range []string{"config", "roles/app", "roles/shared", "roles/leased"} {
			if path == key || key == "config" {
				m.must(logical.DeleteOperation, path, nil)
			}
		}
	})
}

// storedKeys are the keys that [FuzzStored] writes. The last three stand for data
// that Vault keeps for the engine.
var storedKeys = []string{
	"roles/app", "roles/shared", "roles/leased", "roles/all", "shared/shared", "connections/app", "config",
	"leases/app/20260301T120000Z.regcred-x", "wal/5f2ae6b0-0000-4000-8000-000000000000", "expiries/20260301T120000Z.app", "connection-roles/app/x", "due/20260301T120000Z.20260301T120000Z.shared", "due/20260301T120000Z.20260301T120000Z.@app",
	"lease:", "rollback:" + walCredential, "rollback:" + walRoot,
}

// useOutside passes the engine the data that Vault keeps.
func (m *fuzzedMount) useOutside(key, value string) {
	m.t.Helper()
	if kind, isWAL := strings.CutPrefix(key, "rollback:"); isWAL {
		var data any
		if json.Unmarshal([]byte(value), &data) != nil {
			data = value
		}
		err := m.backend.rollBack(m.t.Context(), m.storage, kind, data)
		checkHoldsNoSecret(m.t, "the error of rolling back", err)
		return
	}
	for _, op := range []logical.Operation{logical.RenewOperation, logical.RevokeOperation} {
		for _, internal := range []fields{{"lease": value}, {"lease": []any{value}}, {value: value}, {}} {
			secret := &logical.Secret{InternalData: with(internal, fields{"secret_type": leaseSecretType})}
			_, err := m.onLease(op, secret)
			var l lease
			if understood := json.Unmarshal([]byte(value), &l) == nil; err == nil && (!understood || internal["lease"] != any(value)) {
				m.t.Errorf("%s of a lease that cannot be understood: want an error", op)
			}
		}
	}
}

// newSeedMount returns valid entries, as seeds.
func newSeedMount(f *testing.F) map[string]string {
	f.Helper()
	e := newEngine(f)
	for path, data := range samples {
		e.write(path, data)
	}
	e.write("connections/app", e.connectionSample())
	e.write("roles/shared", sharedRole)
	e.write("roles/leased", leasedRole)
	e.write("roles/app", fields{"allowed_bundles": "*"})
	e.write("roles/shared", fields{"allowed_bundles": "*"})
	e.write("roles/all", fields{"members": "app,shared"})
	e.read("creds/shared")
	e.write("rotate/shared", nil)
	resp := e.must(logical.ReadOperation, "creds/leased", nil)
	e.mustPutWAL(walCredential, storedWAL{SchemaVersion: schemaVersion, credentialRef: credentialRef{Connection: "app", ConnectionID: "id-1", Role: "app", Name: "regcred-x"}})
	e.mustPutWAL(walRoot, walRootEntry{schemaVersion, "app", "id-1", issuer.NewName("app")})
	seeds := e.snapshot()
	seeds["lease:"], _ = resp.Secret.InternalData["lease"].(string)
	seeds["rollback:"+walCredential] = `{"schema_version":1,"connection":"app","role":"shared","name":"regcred-x","id":"id-regcred-x","for":{"project":"group/app"}}`
	seeds["rollback:"+walRoot] = `{"schema_version":1,"connection":"app","name":"regcred-x"}`
	for key, value := range seeds {
		seeds[key] = strings.ReplaceAll(value, e.minting.url, "https://registry.example.com")
	}
	return seeds
}

// FuzzMinted has a registry mint anything. The engine serves it as a Docker config
// or reports an error of the registry, and orphans nothing in either case.
func FuzzMinted(f *testing.F) {
	for _, user := range []string{"robot", "", "a:b", "u\n", "\xff", "ü", strings.Repeat("u", 1000)} {
		for _, left := range []int64{3600, 0, -1, 1, 1 << 40, -1 << 40, 1 << 62, -1 << 62, 7 * 24 * 3600} {
			f.Add(user, "", left, true)
			f.Add(user, "\n", left, false)
		}
	}
	f.Add("robot", "\x00", int64(0), true)
	f.Add("robot", "\xff", int64(3600), false)
	f.Fuzz(func(t *testing.T, username, tail string, seconds int64, lasting bool) {
		m := newFuzzedMount(t)
		m.minting.username = username
		m.minting.password = func(name string) string { return marker + name + tail }
		m.minting.expires = func(time.Time) time.Time {
			if lasting && seconds == 0 {
				return time.Time{}
			}
			return time.Unix(noon.Unix()+seconds, 0).UTC()
		}
		for _, c := range []struct {
			op   logical.Operation
			path string
		}{{logical.ReadOperation, "creds/leased"}, {logical.UpdateOperation, "rotate/shared"}, {logical.UpdateOperation, "verify/leased"}} {
			resp, err := m.request(c.op, c.path, nil)
			var coded logical.HTTPCodedError
			if err != nil && (!errors.As(err, &coded) || coded.Code() != http.StatusBadGateway) || resp != nil && resp.IsError() {
				t.Errorf("%s %s: want success, or the registry to be blamed, got %v, %v", c.op, c.path, resp, err)
			}
			if err == nil && resp.Secret != nil && (resp.Secret.TTL <= 0 || resp.Secret.MaxTTL < resp.Secret.TTL) {
				t.Errorf("%s: a lease of %s, at most %s", c.path, resp.Secret.TTL, resp.Secret.MaxTTL)
			}
			if err == nil && resp.Data["expires_at"] != nil {
				if at, err := time.Parse(time.RFC3339, resp.Data["expires_at"].(string)); err != nil || !at.After(noon) {
					t.Errorf("%s: expires_at is %v, %v", c.path, resp.Data["expires_at"], err)
				}
			}
		}
		m.checkStored()
		minted := m.minting.mints()
		m.checkServed()
		if again := m.minting.mints(); again > minted {
			t.Errorf("reading has minted %d more, with a credential to serve", again-minted)
		}
		m.checkNothingOrphaned()
	})
}
