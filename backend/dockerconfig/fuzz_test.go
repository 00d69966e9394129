// SPDX-License-Identifier: MPL-2.0

package dockerconfig_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// keyForm matches every key except Docker Hub's.
var keyForm = regexp.MustCompile(`^([a-z0-9*]([a-z0-9.*-]*[a-z0-9*])?|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?(/[a-z0-9._-]+)*$`)

// changed reports whether a warning is about a change to the input.
func changed(warning string) bool {
	return strings.Contains(warning, "stored as") || strings.Contains(warning, "was removed") || strings.Contains(warning, "left out")
}

func FuzzParseKey(f *testing.F) {
	for _, seed := range []string{
		"registry.example.com", "https://Registry.Example.com/v2/", "docker.io", "https://index.docker.io/v1/",
		"http://registry-1.docker.io/v2", "index.docker.io/library/", "registry.example.com:5000/team/app", "[::1]:5000",
		"[2001:DB8::1]/v1/v2//team", "*.example.com", "r*g-*.example.com:65535", "localhost/team", "registry",
		"user:pass@registry.example.com", "registry.example.com?x#y", "xn--bcher-kva.example", "bücher.example",
		"doc\u212aer.io", "registry.example.com:080", "registry.example.com/a__b/c.d/e-f", "registry.example.com/a:1", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		key, warnings, err := dockerconfig.ParseKey(input)
		if err != nil {
			if key != "" || warnings != nil {
				t.Fatalf("ParseKey(%q) gave %q, %q with its error", input, key, warnings)
			}
			return
		}
		if key != dockerconfig.DockerHub && !keyForm.MatchString(string(key)) {
			t.Fatalf("ParseKey(%q) = %q, which is not host[:port][/path] in lower case", input, key)
		}
		if told := slices.ContainsFunc(warnings, changed); told != (input != string(key)) {
			t.Fatalf("ParseKey(%q) = %q with warnings %q; want \"stored as\" just where it changed", input, key, warnings)
		}
		again, warnings, err := dockerconfig.ParseKey(string(key))
		if err != nil || again != key || slices.ContainsFunc(warnings, changed) {
			t.Fatalf("ParseKey(%q) = %q, but ParseKey of that = %q, %q, %v; want the same without change", input, key, again, warnings, err)
		}
		byName, _, err := dockerconfig.ParseKey(key.ImageName())
		if err != nil || byName != key {
			t.Fatalf("ParseKey(%q) = %q, but ParseKey of its ImageName %q = %q, %v; want the same", input, key, key.ImageName(), byName, err)
		}
		name := key.Host()
		if key.Path() != "" {
			name += "/" + key.Path()
		}
		if name != key.ImageName() || strings.Contains(name, "//") {
			t.Fatalf("%q has the host %q, the path %q and the name %q, which do not fit", key, key.Host(), key.Path(), key.ImageName())
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, row := range encodings {
		config, err := dockerconfig.Decode([]byte(row.json))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(row.json)
		f.Add(row.authJSON)
		f.Add(base64.StdEncoding.EncodeToString(config.JSON()))
	}
	for _, seed := range []string{
		entryOf(`"username":"user","password":"p\n\n"`),
		entryOf(`"auth":"` + encode64("user:p\r\n") + `","email":"a@b"`),
		entryOf(`"auth":"` + userAuth + `","serveraddress":"x","other":[{}]`),
		`{"auths":{"Docker.io":{"auth":"dTpw"},"*.example.com/team":{"username":"u","password":"\ud83d\ude00"}},"credsStore":"x"}`,
		`{"auths":{"Ghcr.io":{"auth":"dTpw"},"ghcr.io/":{"auth":"dTpw"}}}`,
		`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"https://index.docker.io/v1/access-token":{"auth":"dTpw"}}}`,
		"apiVersion: v1\nkind: Secret\ndata:\n  .dockerconfigjson: " + encode64(entryOf(`"auth":"`+userAuth+`"`)) + "\n",
		`{"kind":"Secret","data":{".dockerconfigjson":"` + encode64(entryOf(`"auth":"`+userAuth+`"`)) + `"}}`,
		entryOf(`"username":"\ufeff\ufeffu","password":"\ufeff\ufeffp"`), "a: &a [*a]\n", "---\nb: !!binary x\n",
		`{"auths":{},"credHelpers":{"a":"b"}}`, `{"auths":{"a.b":{"identitytoken":"x"}}}`, `{"auths":null}`, `{`, ``,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		config, warnings, err := dockerconfig.Parse(input)
		if err != nil {
			if len(config.Credentials()) != 0 || warnings != nil {
				t.Fatal("a refusal came with credentials or warnings")
			}
			return
		}
		want := plainOf(config)
		withoutEmail := slices.Clone(want)
		for i := range withoutEmail {
			withoutEmail[i].Email = ""
		}
		for _, again := range []struct {
			text string
			want []plain
		}{
			{string(config.JSON()), want},
			{encode64(string(config.JSON())), want},
			{string(config.AuthJSON()), withoutEmail},
			{encode64(string(config.AuthJSON())), withoutEmail},
		} {
			read, warnings, err := dockerconfig.Parse(again.text)
			if err != nil {
				t.Fatalf("refused what it wrote: %v\n%s", err, again.text)
			}
			wantEqual(t, "credentials read back from "+again.text, again.want, plainOf(read))
			if warnings = slices.DeleteFunc(warnings, func(w string) bool { return !changed(w) }); len(warnings) != 0 {
				t.Fatalf("reading what it wrote changed something: %q\n%s", warnings, again.text)
			}
		}
		decoded, err := dockerconfig.Decode(config.JSON())
		if err != nil {
			t.Fatalf("Decode refused what JSON wrote: %v", err)
		}
		wantEqual(t, "decoded credentials", plainOf(config), plainOf(decoded))
		wantEqual(t, "JSON of what was decoded", string(config.JSON()), string(decoded.JSON()))
	})
}

func FuzzCredential(f *testing.F) {
	for _, seed := range []struct{ username, password string }{
		{"user", "p"},
		{"user", "a:b:c"},
		{"_json_key", jsonKey + "\n"},
		{"üser", "<>&\u2028😀\"\\"},
		{"u", "\n\n"},
		{"u", "p\r\n"},
		{"u", "\x00p"},
		{"a:b", "p"},
		{"", "p"},
		{"u", ""},
		{"u", "p\xff"},
		{"u", "\ufffd"},
		{" u ", "\x7f\x01\t "},
		{"u", "~~~???>>>"},
		{"u", "\ufeffp\r\n"},
	} {
		f.Add(seed.username, seed.password)
	}
	f.Fuzz(func(t *testing.T, inputUsername, inputPassword string) {
		username, err := dockerconfig.ParseUsername(inputUsername)
		if refusable := inputUsername == "" || strings.Contains(inputUsername, ":") || strings.ContainsFunc(inputUsername, unicode.IsControl) ||
			!utf8.ValidString(inputUsername) || strings.ContainsRune(inputUsername, utf8.RuneError); refusable != (err != nil) {
			t.Fatalf("user name %q: %v", inputUsername, err)
		}
		password, warnings, passwordErr := dockerconfig.ParsePassword(inputPassword)
		if err != nil || passwordErr != nil {
			return
		}
		if username != inputUsername {
			t.Fatalf("user name %q became %q; want it unchanged", inputUsername, username)
		}
		told := slices.DeleteFunc(warnings, func(w string) bool { return !changed(w) })
		kept := strings.TrimLeft(inputPassword, "\ufeff")
		switch unmarked := kept != inputPassword; password.Reveal() {
		case kept:
			wantEqual(t, "a byte order mark is told", unmarked, slices.Equal(told, []string{markRemoved}))
		case strings.TrimSuffix(kept, "\n"), strings.TrimSuffix(kept, "\r\n"):
			wantEqual(t, "the last warning of a newline", newlineRemoved, told[len(told)-1])
			wantEqual(t, "a byte order mark is told", unmarked, told[0] == markRemoved)
		default:
			t.Fatalf("password %q became %q", inputPassword, password.Reveal())
		}

		want := plain{"registry.example.com", username, password.Reveal(), ""}
		config, err := dockerconfig.New(want.credential())
		if err != nil {
			if len(inputPassword)+len(inputUsername) < 100_000 {
				t.Fatalf("New refused %q: %v", want, err)
			}
			return
		}
		wantEqual(t, "JSON", marshalled(t, want), string(config.JSON()))
		for _, encoded := range [][]byte{config.JSON(), config.AuthJSON()} {
			entry := readAuths(t, encoded)[want.Registry]
			if gotUsername, gotPassword := readAuth(t, entry["auth"]); gotUsername != want.Username || gotPassword != want.Password {
				t.Fatalf("auth reads as %q, %q; want %q, %q", gotUsername, gotPassword, want.Username, want.Password)
			}
		}
		entry := readAuths(t, config.JSON())[want.Registry]
		if entry["username"] != want.Username || entry["password"] != want.Password {
			t.Fatalf("username and password read as %q, %q; want %q, %q", entry["username"], entry["password"], want.Username, want.Password)
		}
	})
}

// FuzzDecode fuzzes stored entries.
func FuzzDecode(f *testing.F) {
	for _, row := range encodings {
		f.Add([]byte(row.json))
		f.Add([]byte(row.authJSON))
	}
	for _, seed := range []string{
		``, `null`, `{}`, `{"auths":null}`, `{"auths":{}}`, `{"auths":[]}`, `{"auths":{"ghcr.io":null}}`, `{"auths":{"Ghcr.io/":{"auth":"dTpw"}}}`,
		`{"auths":{"ghcr.io":{"username":"u","password":"p","auth":"dTpw"},"ghcr.io":{"auth":"dTpx"}}}`, `{"auths":{"ghcr.io":{"username":"u:","password":"p"}}}`,
		"\xff", `{"auths":{"ghcr.io":{"auth":"dTpw"}}}x`, `{"AUTHS":{"ghcr.io":{"auth":"dTpw"}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		config, err := dockerconfig.Decode(stored)
		if err != nil {
			if len(config.Credentials()) != 0 {
				t.Fatal("a refusal came with credentials")
			}
			return
		}
		wantEqual(t, "credentials as encoding/json reads them", unmarshalled(t, stored), plainOf(config))
		again, err := dockerconfig.Decode(config.JSON())
		if err != nil {
			t.Fatalf("refused what it wrote: %v\n%s", err, config.JSON())
		}
		wantEqual(t, "credentials of what was decoded", plainOf(config), plainOf(again))
		wantEqual(t, "JSON of what was decoded", string(config.JSON()), string(again.JSON()))
	})
}

// unmarshalled reads a Docker config with encoding/json alone.
func unmarshalled(t *testing.T, stored []byte) []plain {
	t.Helper()
	var f struct {
		Auths map[string]struct{ Username, Password, Email string }
	}
	if err := json.Unmarshal(stored, &f); err != nil {
		t.Fatalf("encoding/json refuses what Decode accepts: %v", err)
	}
	var all []plain
	for _, key := range slices.Sorted(maps.Keys(f.Auths)) {
		e := f.Auths[key]
		all = append(all, plain{key, e.Username, e.Password, e.Email})
	}
	return all
}

// marshalled writes a Docker config with encoding/json alone.
func marshalled(t *testing.T, all ...plain) string {
	t.Helper()
	type entry struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Email    string `json:"email,omitempty"`
		Auth     string `json:"auth"`
	}
	auths := map[string]entry{}
	for _, c := range all {
		auths[c.Registry] = entry{c.Username, c.Password, c.Email, base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))}
	}
	encoded, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

// FuzzEmail fuzzes the email of a credential.
func FuzzEmail(f *testing.F) {
	for _, seed := range []string{"", "ci@example.com", "a\nb", "\xff", "\ufffd", "ü \"<>", "\u2028"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		email, err := dockerconfig.ParseEmail(input)
		if refusable := strings.ContainsFunc(input, unicode.IsControl) || !utf8.ValidString(input) || strings.ContainsRune(input, utf8.RuneError); refusable != (err != nil) {
			t.Fatalf("email %q: %v", input, err)
		}
		if err != nil {
			return
		}
		want := plain{"registry.example.com", "user", "p", email}
		config, err := dockerconfig.New(want.credential())
		if err != nil {
			if len(input) < 100_000 {
				t.Fatalf("New refused %q: %v", want, err)
			}
			return
		}
		entry := readAuths(t, config.JSON())[want.Registry]
		if got := entry["email"]; got != input {
			t.Fatalf("email %q is served as %q", input, got)
		}
	})
}

// FuzzErrorsHoldNoSecret plants the marker as the password in whole and broken configs
// of all shapes, and looks for it in errors and warnings.
func FuzzErrorsHoldNoSecret(f *testing.F) {
	for shape := range uint8(len(shapes)) {
		f.Add(shape, "registry.example.com", "user", "", "", uint16(0), "")
		f.Add(shape, "Docker.io", "us:er", "a:", "\n", uint16(7), "\x00")
		f.Add(shape, "ghcr.io/", "", "\x00\xff", "<&>", uint16(40), `"}`)
		f.Add(shape, "https://u:p@r", "u\n", `"\`, `\ud800`, uint16(90), "")
	}
	f.Fuzz(func(t *testing.T, shape uint8, registry, username, before, after string, at uint16, insert string) {
		if planted.In(strings.Join([]string{registry, username, insert}, " ")) != nil {
			return // the fuzzer put the marker where secrets are not allowed
		}
		secret := before + marker + after
		text := shapes[int(shape)%len(shapes)](registry, username, secret)
		if insert != "" { // break it: insert a text, or cut it off there
			place := int(at) % (len(text) + 1)
			text = text[:place] + insert + text[place:]
		} else if at != 0 {
			text = text[:int(at)%(len(text)+1)]
		}
		for _, input := range []string{text, encode64(text)} {
			_, warnings, err := dockerconfig.Parse(input)
			holdNoSecret(t, warnings...)
			if err != nil {
				holdNoSecret(t, err.Error())
			}
		}
		_, err := dockerconfig.Decode([]byte(text))
		if err != nil {
			holdNoSecret(t, err.Error())
		}
		_, warnings, err := dockerconfig.ParsePassword(secret)
		holdNoSecret(t, warnings...)
		if err != nil {
			holdNoSecret(t, err.Error())
		}
		for _, parse := range []func(string) (string, error){dockerconfig.ParseUsername, dockerconfig.ParseEmail} {
			if _, err := parse(secret); err != nil { // a password in the wrong field
				holdNoSecret(t, err.Error())
			}
		}
		if _, _, err := dockerconfig.ParseKey("https://" + username + ":" + secret + "@" + registry); err == nil {
			t.Fatal("a registry with a password in it was accepted")
		} else {
			holdNoSecret(t, err.Error())
		}
	})
}

// shapes build the configs of [FuzzErrorsHoldNoSecret].
var shapes = []func(registry, username, secret string) string{
	func(r, u, s string) string { return configOf(r, map[string]any{"username": u, "password": s}) },
	func(r, u, s string) string { return configOf(r, map[string]any{"auth": encode64(u + ":" + s)}) },
	func(r, u, s string) string {
		return configOf(r, map[string]any{"username": u, "password": s, "auth": encode64(u + ":" + s)})
	},
	func(r, u, s string) string {
		return configOf(r, map[string]any{"username": u, "password": s, "auth": encode64(u + ":other")})
	},
	func(r, u, s string) string { return configOf(r, map[string]any{"auth": u + ":" + s}) },
	func(r, _, s string) string { return configOf(r, map[string]any{"auth": encode64(s)}) },
	func(r, u, s string) string { return configOf(r, map[string]any{"username": s, "password": u}) },
	func(r, u, s string) string {
		return configOf(r, map[string]any{"auth": encode64(u + ":x"), "email": s + "\n"})
	},
	func(r, _, s string) string { return configOf(r, map[string]any{"identitytoken": s}) },
	func(r, _, s string) string { return configOf(r, map[string]any{"registrytoken": []string{s}}) },
	func(r, u, s string) string { return configOf(r, map[string]any{"username": u, "password": []any{s}}) },
	func(r, u, s string) string {
		return configOf(r, map[string]any{"username": u, "password": "x", "other": s, "Password": s})
	},
	func(r, u, s string) string { return configOf("https://"+u+":"+s+"@"+r, map[string]any{"auth": "dTpw"}) },
	func(r, _, s string) string { return configOf(r+"?token="+s, map[string]any{"auth": "dTpw"}) },
	func(r, _, s string) string {
		return `{"auths":{` + quote(r) + `:` + quote(s) + `},"credsStore":` + quote(s) + `}`
	},
	func(r, _, s string) string {
		return `{"auths":{` + quote(r) + `:{"auth":"dTpw"}},"HttpHeaders":{"Authorization":` + quote(s) + `}}`
	},
	func(r, u, s string) string { return `{` + quote(r) + `:{"auth":` + quote(encode64(u+":"+s)) + `}}` },
	func(r, u, s string) string {
		return `{"auths":{` + quote(r) + `:{"username":` + quote(u) + `,"password":"` + s + `"}}}`
	},
	func(_, _, s string) string { return s },
	func(_, u, s string) string { return encode64(u + ":" + s) },
}

func configOf(registry string, entry map[string]any) string {
	encoded, err := json.Marshal(map[string]any{"auths": map[string]any{registry: entry}})
	if err != nil {
		panic(err)
	}
	return string(encoded)
}
