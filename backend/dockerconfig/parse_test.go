// SPDX-License-Identifier: MPL-2.0

package dockerconfig_test

import (
	"fmt"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// userAuth is base64 of user:s3cr3t.
const userAuth = "dXNlcjpzM2NyM3Q="

// entryOf returns a Docker config with one entry of registry.example.com.
func entryOf(fields string) string { return `{"auths":{"registry.example.com":{` + fields + `}}}` }

func leftOut(names string) string {
	return "left out, because a pull secret holds only registries with user name and password: " + names
}

func session(token string) string {
	return `auths["https://index.docker.io/v1/` + token + `"]: left out, because docker login keeps the session of a person there; the password of Docker Hub beside it may be a token that was made for this person, so write an access token that belongs to the role`
}

func TestParseReadsDockerConfigs(t *testing.T) {
	var (
		simple = entryOf(`"auth":"` + userAuth + `"`)
		want   = []plain{{"registry.example.com", "user", marker, ""}}
		at     = `auths["registry.example.com"]`

		wantNewline = []plain{{"registry.example.com", "user", marker + "\n", ""}}
	)
	for _, row := range []struct {
		name, input string
		want        []plain
		warnings    []string
	}{
		{"auth", simple, want, nil},
		{"username and password", entryOf(`"username":"user","password":"` + marker + `"`), want, nil},
		{"all of them alike", entryOf(`"username":"user","password":"` + marker + `","auth":"` + userAuth + `"`), want, nil},
		{"username beside auth", entryOf(`"username":"user","auth":"` + userAuth + `"`), want, nil},
		{"password beside auth", entryOf(`"password":"` + marker + `","auth":"` + userAuth + `"`), want, nil},
		{"empty auth", entryOf(`"username":"user","password":"` + marker + `","auth":""`), want, nil},
		{"empty and null are absent", entryOf(`"auth":"` + userAuth + `","username":"","password":null,"email":null,"identitytoken":"","registrytoken":null`), want, nil},
		{"email", entryOf(`"auth":"` + userAuth + `","email":"ci@example.com"`), []plain{{"registry.example.com", "user", marker, "ci@example.com"}}, nil},
		{"serveraddress", entryOf(`"auth":"` + userAuth + `","serveraddress":"https://registry.example.com"`), want, []string{at + ": " + leftOut(`"serveraddress"`)}},
		{"auth without padding", entryOf(`"auth":"` + strings.TrimRight(userAuth, "=") + `"`), want, nil},
		{"auth with + and / and without padding", entryOf(`"auth":"dTp+fn4/Pz8+Pg"`), []plain{{"registry.example.com", "u", "~~~???>>", ""}}, nil},
		{"auth in two lines", entryOf(`"auth":"` + userAuth[:8] + `\r\n` + userAuth[8:] + `\n"`), want, nil},
		{"password with colons in auth", entryOf(`"auth":"` + encode64("user::"+marker+":") + `"`), []plain{{"registry.example.com", "user", ":" + marker + ":", ""}}, nil},
		{"password as it is", entryOf(`"username":"_json_key","password":` + quote(jsonKey)), []plain{{"registry.example.com", "_json_key", jsonKey, ""}}, nil},
		{"JSON escapes", `{"\u0061uths":{"ghcr\u002eio":{"\u0061uth":"` + userAuth + `"}}}`, []plain{{"ghcr.io", "user", marker, ""}}, nil},
		{"surrogate pair", entryOf(`"username":"user","password":"\ud83d\ude00"`), []plain{{"registry.example.com", "user", "😀", ""}}, nil},
		{"white space around and within", "\n\t { \"auths\" : {\r\n\"registry.example.com\" : { \"auth\" : \"" + userAuth + "\" } } } \n", want, nil},

		{"base64", encode64(simple), want, nil},
		{"base64 without padding", strings.TrimRight(encode64(simple), "="), want, nil},
		{"base64 in lines", encode64(simple)[:20] + "\n" + encode64(simple)[20:40] + "\r\n" + encode64(simple)[40:] + "\n", want, nil},
		{"base64 with white space around both", " " + encode64("\n "+simple+"\n") + "\t\n", want, nil},

		{"byte order mark", "\ufeff" + simple, want, []string{markRemoved}},
		{"byte order mark in base64", encode64("\ufeff" + simple), want, []string{markRemoved}},
		{"byte order mark in both fields", entryOf(`"auth":"` + encode64("\ufeffuser:\ufeff"+marker) + `"`), want, []string{at + ".username: " + markRemoved, at + ".password: " + markRemoved}},
		{"a doubtful user name", entryOf(`"username":"robot+ci","password":"` + marker + `"`), []plain{{"registry.example.com", "robot+ci", marker, ""}}, []string{
			at + `.username: looks like the name of a Harbor robot account whose '$' a shell has taken for a variable; put the name in single quotes, such as 'robot$ci'`,
		}},
		{
			"the session of docker login", `{"auths":{
				"https://index.docker.io/v1/":{"auth":"` + userAuth + `"},
				"https://index.docker.io/v1/access-token":{"auth":"` + userAuth + `"},
				"https://index.docker.io/v1/refresh-token":{"auth":"` + userAuth + `"}}}`,
			[]plain{{"https://index.docker.io/v1/", "user", marker, ""}},
			[]string{session("access-token"), session("refresh-token")},
		},
		{
			"newline at the end of the password", entryOf(`"username":"user","password":"` + marker + `\n"`), wantNewline,
			[]string{at + ".password: " + newlineKept},
		},
		{
			"newline at the end of auth", entryOf(`"auth":"` + encode64("user:"+marker+"\n") + `"`), wantNewline,
			[]string{at + ".password: " + newlineKept},
		},
		{
			"what docker login leaves behind", `{"auths":{"registry.example.com":{"auth":"` + userAuth + `"}},"HttpHeaders":{"X":"` + marker + `"},"credsStore":"","credHelpers":{},"proxies":{"p":"` + marker + `"}}`, want,
			[]string{leftOut(`"HttpHeaders", "credsStore", "credHelpers", "proxies"`)},
		},
		{
			"a helper beside a password", `{"credHelpers":{"other.example.com":"ecr-login"},"auths":{"registry.example.com":{"auth":"` + userAuth + `"}}}`, want,
			[]string{leftOut(`"credHelpers"`)},
		},
		{
			"unknown fields of an entry", entryOf(`"auth":"` + userAuth + `","Password":"` + marker + `","x\n":1`), want,
			[]string{at + ": " + leftOut(`"Password", "x\n"`)},
		},
		{
			"many registries, sorted, with warnings in the order of the input",
			`{"auths":{
				"https://Registry.Example.com/v2/":{"username":"c","password":"` + marker + `3\n"},
				"index.docker.io":{"username":"b","password":"` + marker + `2","email":"b@example.com","x":0},
				"ghcr.io/team":{"username":"a","password":"` + marker + `1"}}, "y":[]}`,
			[]plain{
				{"ghcr.io/team", "a", marker + "1", ""},
				{"https://index.docker.io/v1/", "b", marker + "2", "b@example.com"},
				{"registry.example.com", "c", marker + "3\n", ""},
			},
			[]string{
				`auths["https://Registry.Example.com/v2/"]: ` + storedAs("registry.example.com"),
				`auths["https://Registry.Example.com/v2/"].password: ` + newlineKept,
				`auths["index.docker.io"]: ` + storedAsHub,
				`auths["index.docker.io"]: ` + leftOut(`"x"`),
				`auths["ghcr.io/team"]: ` + limitedToPath("ghcr.io/team", "team", "ghcr.io"),
				leftOut(`"y"`),
			},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			config, warnings, err := dockerconfig.Parse(row.input)
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			wantEqual(t, "credentials", row.want, plainOf(config))
			wantWarnings(t, row.warnings, warnings)
		})
	}
}

func TestParseRefusesWhatIsNoPullSecret(t *testing.T) {
	const (
		want    = "must be a Docker config such as"
		example = `{"auths":{"registry.example.com":{"auth":"…"}}}, or base64 of one`
		good    = `{"auth":"` + userAuth + `"}`
	)
	var (
		notJSON   = refusal{"the error is at byte", "must be valid JSON"}
		noObject  = refusal{"auths", "must be a JSON object"}
		twice     = refusal{"repeats an earlier name", "must have each name only once"}
		helper    = refusal{"holds no password: credsStore and credHelpers name programs", "kubelet cannot run them; write the user name and password (or token)"}
		identity  = refusal{`auths["registry.example.com"] holds no password that kubelet could use: it ignores identitytoken`, "write a user name and a password"}
		registry  = refusal{`auths["registry.example.com"] holds no password that kubelet could use: it ignores registrytoken`, "write a user name and a password"}
		auth      = refusal{`auths["registry.example.com"].auth`, "must be base64 of username:password"}
		different = refusal{`auths["registry.example.com"].auth: must say the same as username and password`, "remove the one that is out of date"}
	)
	for _, row := range []struct {
		name, input string
		refusal
	}{
		{"empty", "", refusal{"it is empty", example}},
		{"white space", " \n", refusal{"it is empty", example}},
		{"a password", marker + "!", refusal{"it is neither JSON nor base64", example}},
		{"base64 of something else", encode64("\x00" + marker), refusal{"it is base64 of something else", want}},
		{"base64 of white space", encode64(" \n"), refusal{"it is empty, in base64", want}},
		{"not UTF-8", entryOf(`"username":"user","password":"` + marker + "\xff" + `"`), refusal{"it is not UTF-8", want}},
		{"base64 of what is not UTF-8", encode64(entryOf(`"username":"user","password":"` + marker + "\xff" + `"`)), refusal{"it is not UTF-8", want}},

		{"cut off", `{"auths":{"registry.example.com":{"username":"user","password":"` + marker, notJSON},
		{"cut off between members", `{"auths":{"registry.example.com":` + good + `}`, notJSON},
		{"comma at the end", `{"auths":{"registry.example.com":` + good + `},}`, notJSON},
		{"comma at the end of an entry", entryOf(`"auth":"` + userAuth + `",`), notJSON},
		{"single quotes", `{'auths':'` + marker + `'}`, notJSON},
		{"no quotes", entryOf(`"password":` + marker), notJSON},
		{"newline in a text", entryOf(`"username":"user","password":"` + marker + "\n" + `"`), notJSON},
		{"number as a name", `{1:"` + marker + `"}`, notJSON},
		{"text behind", entryOf(`"auth":"`+userAuth+`"`) + marker, refusal{"after the JSON object", "must have nothing"}},
		{"brace behind", entryOf(`"auth":"`+userAuth+`"`) + "}", refusal{"after the JSON object", "must have nothing"}},
		{"two configs", entryOf(`"auth":"`+userAuth+`"`) + entryOf(`"auth":"`+userAuth+`"`), refusal{"after the JSON object", "must have nothing"}},
		{"base64 with text behind", encode64(entryOf(`"auth":"`+userAuth+`"`) + marker), refusal{"after the JSON object", "must have nothing"}},

		{"no auths", `{}`, refusal{`must have a member "auths"`, "an entry for each registry"}},
		{"Auths", `{"Auths":{"registry.example.com":` + good + `}}`, refusal{`must have a member "auths"`, "an entry for each registry"}},
		{"legacy .dockercfg", `{"registry.example.com":` + good + `}`, refusal{`must have a member "auths"`, `a legacy .dockercfg goes inside it: {"auths": …}`}},
		{"auths is null", `{"auths":null}`, noObject},
		{"auths is an array", `{"auths":["` + marker + `"]}`, noObject},
		{"auths is a text", `{"auths":"{\"ghcr.io\":{\"auth\":\"` + userAuth + `\"}}"}`, refusal{"auths: must be a JSON object, and is text that may hold one", "a template or a tool has put it into quotation marks"}},
		{"auths is empty", `{"auths":{}}`, refusal{"under auths", "must hold at least one registry"}},
		{"auths is empty and so are helpers", `{"auths":{},"credsStore":"","credHelpers":{}}`, refusal{"under auths", "must hold at least one registry"}},

		{"credsStore and an empty entry", `{"auths":{"registry.example.com":{}},"credsStore":"desktop"}`, helper},
		{"credsStore and empty auths", `{"auths":{},"credsStore":"desktop"}`, helper},
		{"credsStore and null auths", `{"auths":null,"credsStore":"desktop"}`, helper},
		{"credsStore only", `{"credsStore":"desktop"}`, helper},
		{"credHelpers and an empty entry", `{"credHelpers":{"registry.example.com":"ecr-login"},"auths":{"registry.example.com":{}}}`, helper},
		{"credHelpers only", `{"credHelpers":{"registry.example.com":"ecr-login"}}`, helper},
		{"credsStore and one entry of two without password", `{"auths":{"ghcr.io":` + good + `,"registry.example.com":{"email":"ci@example.com"}},"credsStore":"desktop"}`, helper},
		{"null helpers and no auths", `{"credsStore":null,"credHelpers":null}`, refusal{`must have a member "auths"`, "an entry for each registry"}},

		{"identitytoken", entryOf(`"identitytoken":"` + marker + `"`), identity},
		{"identitytoken as az acr login writes it", entryOf(`"auth":"` + encode64("00000000-0000-0000-0000-000000000000:") + `","identitytoken":"` + marker + `"`), identity},
		{"identitytoken beside a helper", `{"credsStore":"desktop","auths":{"registry.example.com":{"identitytoken":"` + marker + `"}}}`, identity},
		{"registrytoken", entryOf(`"registrytoken":"` + marker + `"`), registry},

		{"entry is a text", `{"auths":{"registry.example.com":"` + userAuth + `"}}`, noObject},
		{"entry is null", `{"auths":{"registry.example.com":null}}`, noObject},
		{"entry is an array", `{"auths":{"registry.example.com":["` + marker + `"]}}`, noObject},
		{"password is a number", entryOf(`"username":"user","password":123456`), refusal{`auths["registry.example.com"].password`, "must be a string"}},
		{"password is an object", entryOf(`"username":"user","password":{"` + marker + `":"` + marker + `"}`), refusal{`auths["registry.example.com"].password`, "must be a string"}},
		{"auth is an array", entryOf(`"auth":["` + userAuth + `"]`), refusal{`auths["registry.example.com"].auth`, "must be a string"}},
		{"identitytoken is true", entryOf(`"identitytoken":true`), refusal{`auths["registry.example.com"].identitytoken`, "must be a string"}},

		{"auth is not base64", entryOf(`"auth":"user:` + marker + `"`), auth},
		{"auth is base64 of one word", entryOf(`"auth":"` + encode64(marker) + `"`), auth},
		{"auth is of the URL alphabet", entryOf(`"auth":"` + strings.NewReplacer("+", "-", "/", "_").Replace(encode64("user:~~~???>>>"+marker)) + `"`), auth},
		{"auth that ends in something else", entryOf(`"auth":"` + encode64("user:"+marker+"1") + `!"`), auth},
		{"auth with spaces", entryOf(`"auth":" ` + userAuth + `"`), auth},
		{"auth says another password", entryOf(`"username":"user","password":"` + marker + `2","auth":"` + userAuth + `"`), different},
		{"auth says another user", entryOf(`"username":"other","password":"` + marker + `","auth":"` + userAuth + `"`), different},
		{"password has a newline that auth has not", entryOf(`"username":"user","password":"` + marker + `\n","auth":"` + userAuth + `"`), different},

		// What these say is in the tests of the fields.
		{"empty entry", entryOf(``), refusal{`auths["registry.example.com"] has neither a user name nor a password`, "write both, or auth"}},
		{"misspelt helper and an empty entry", `{"auths":{"registry.example.com":{}},"credSstore":"desktop"}`, helper},
		{"misspelt helper only", `{"credSstore":"desktop"}`, helper},
		{"only a session", `{"auths":{"https://index.docker.io/v1/access-token":` + good + `}}`, refusal{"besides the session that docker login keeps", "write a user name and an access token"}},
		{"no username", entryOf(`"password":"` + marker + `"`), refusal{`auths["registry.example.com"].username`, "must"}},
		{"no username in auth", entryOf(`"auth":"` + encode64(":"+marker) + `"`), refusal{`auths["registry.example.com"].username`, "must"}},
		{"username with a colon", entryOf(`"username":"user:x","password":"` + marker + `"`), refusal{`auths["registry.example.com"].username`, "must"}},
		{"username with a newline in auth", entryOf(`"auth":"` + encode64("user\n:"+marker) + `"`), refusal{`auths["registry.example.com"].username`, "must"}},
		{"no password", entryOf(`"username":"user"`), refusal{`auths["registry.example.com"].password`, "must"}},
		{"no password in auth", entryOf(`"auth":"` + encode64("user:") + `"`), refusal{`auths["registry.example.com"].password`, "must"}},
		{"password with NUL", entryOf(`"username":"user","password":"` + marker + `\u0000"`), refusal{`auths["registry.example.com"].password`, "must"}},
		{"password with NUL in auth", entryOf(`"auth":"` + encode64("user:"+marker+"\x00") + `"`), refusal{`auths["registry.example.com"].password`, "must"}},
		{"password in auth is not UTF-8", entryOf(`"auth":"` + encode64("user:"+marker+"\xff") + `"`), refusal{`auths["registry.example.com"].password`, "must"}},
		{"password with half a surrogate pair", entryOf(`"username":"user","password":"` + marker + `\ud800"`), refusal{`auths["registry.example.com"].password`, "must"}},
		{"email with a newline", entryOf(`"auth":"` + userAuth + `","email":"ci@example.com\n"`), refusal{`auths["registry.example.com"].email`, "must"}},

		{"a key with a password", `{"auths":{"ghcr.io":` + good + `,"https://user:` + marker + `@registry.example.com":` + good + `}}`, refusal{"registry 2 of auths", "must"}},
		{"a key with a path glob", `{"auths":{"registry.example.com/*":` + good + `}}`, refusal{"registry 1 of auths", "must"}},
		{"an empty key", `{"auths":{"":` + good + `}}`, refusal{"registry 1 of auths", "must"}},

		{"auths twice", `{"auths":{"ghcr.io":` + good + `},"auths":{"registry.example.com":` + good + `}}`, twice},
		{"a key twice", `{"auths":{"ghcr.io":` + good + `,"ghcr.io":` + good + `}}`, twice},
		{"a key twice, once escaped", `{"auths":{"ghcr.io":` + good + `,"ghcr\u002eio":` + good + `}}`, twice},
		{"password twice", entryOf(`"username":"user","password":"` + marker + `","password":"` + marker + `2"`), twice},
		{"two spellings", `{"auths":{"Ghcr.io":` + good + `,"ghcr.io/":` + good + `}}`, refusal{`"Ghcr.io" and "ghcr.io/" are the same registry "ghcr.io"`, "keep one of them"}},
		{"two spellings of Docker Hub", `{"auths":{"https://index.docker.io/v1/":` + good + `,"ghcr.io":` + good + `,"docker.io":` + good + `}}`, refusal{`"https://index.docker.io/v1/" and "docker.io" are the same registry "https://index.docker.io/v1/"`, "keep one of them"}},
		{"two spellings, one a name of its own", `{"auths":{"registry.example.com":` + good + `,"http://registry.example.com/v2/":` + good + `}}`, refusal{`"registry.example.com" and "http://registry.example.com/v2/" are the same registry "registry.example.com"`, "keep one of them"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			config, warnings, err := dockerconfig.Parse(row.input)
			row.check(t, err)
			if len(config.Credentials()) != 0 || warnings != nil {
				t.Errorf("with the error came %d credentials and warnings %q; want neither", len(config.Credentials()), warnings)
			}
		})
	}
}

func TestParseErrorsNameTheEntryAtFault(t *testing.T) {
	for i := range 3 {
		entries := []string{`"r0.example.com":{"auth":"` + userAuth + `"}`, `"r1.example.com":{"auth":"` + userAuth + `"}`, `"r2.example.com":{"auth":"` + userAuth + `"}`}
		entries[i] = fmt.Sprintf(`"r%d.example.com":{"auth":"%s!"}`, i, marker)
		_, _, err := dockerconfig.Parse(`{"auths":{` + strings.Join(entries, ",") + `}}`)
		refusal{fmt.Sprintf(`auths["r%d.example.com"].auth`, i), "must be base64"}.check(t, err)
	}
}

func TestParseRefusesJSONOfAnyDepthWithoutHarm(t *testing.T) {
	deep := strings.Repeat("[", 100_000)
	_, _, err := dockerconfig.Parse(`{"auths":{"registry.example.com":{"auth":` + deep)
	refusal{"the error is at byte", "must be valid JSON"}.check(t, err)
}

func TestParseTellsWhereJSONEnds(t *testing.T) {
	for input, at := range map[string]string{
		`{"auths":{"ghcr.io":{"username":"a","password":"b"},}}`: "at byte 51",
		`{"auths":{"ghcr.io":{"username":"a""password":"b"}}}`:   "at byte 34",
		`{"auths":{"ghcr.io":{"username":"a","password":"b"}}`:   "at byte 52",
	} {
		if _, _, err := dockerconfig.Parse(input); err == nil || !strings.HasSuffix(err.Error(), at) {
			t.Errorf("%s: want an error that ends in %q, got %v", input, at, err)
		}
	}
}
