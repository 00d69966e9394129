// SPDX-License-Identifier: MPL-2.0

package dockerconfig_test

import (
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

const (
	newlineRemoved = "its trailing newline was removed"
	markRemoved    = "its byte order mark was removed"

	begins      = "begins with white space, which is kept; hardly any registry has such a password"
	ends        = "ends with white space, which is kept; hardly any registry has such a password"
	newlineKept = "ends with a newline, which is kept; hardly any registry has such a password"
	returnKept  = "ends with a carriage return, which is kept; hardly any registry has such a password"
	severalKept = "has several lines, which are kept; hardly any registry has such a password"
	wrapped     = "is base64 in several lines, which are kept; registries take it in one line, as base64 -w0 writes it"
	inQuotes    = "is in quotation marks, which are kept; if a file or a command line has added them, write it without them"
)

// jsonKey is a password of several lines, as Google's registries accept it.
const jsonKey = "{\n  \"type\": \"service_account\",\n  \"private_key\": \"-----BEGIN\\n" + marker + "\\n-----END\\n\"\n}"

func TestUsernameIsKeptAsItIs(t *testing.T) {
	for _, input := range []string{
		"user", "robot$team+ci", "_json_key", "AWS", "00000000-0000-0000-0000-000000000000", "user@example.com",
		" user ", `a"b\c<d>&e`, "üser", "😀", "\u2028", "group/project", "%3A", "：",
	} {
		got, err := dockerconfig.ParseUsername(input)
		if err != nil || got != input {
			t.Errorf("ParseUsername(%q) = %q, %v; want it unchanged", input, got, err)
		}
	}
}

func TestUsernameThatReadersCannotDecodeIsRefused(t *testing.T) {
	control := refusal{"must not contain control characters", "remove it"}
	notText := refusal{"bytes that are not", "must be UTF-8"}
	for input, want := range map[string]refusal{
		"":                   {"Docker cannot load an entry without a user name", "write one such as token"},
		":":                  {"must not contain ':'", "takes what follows it as the password"},
		"user:" + marker:     {"must not contain ':'", "takes what follows it as the password"},
		marker + "\n":        control,
		marker + "\r":        control,
		marker + "\x00":      control,
		"\t" + marker:        control,
		marker + "\x7f":      control,
		marker + "\u0085":    control,
		marker + "\xff":      notText,
		"\xed\xa0\x80":       notText,
		marker + "\ufffdend": notText,
	} {
		t.Run(input, func(t *testing.T) {
			_, err := dockerconfig.ParseUsername(input)
			want.check(t, err)
		})
	}
}

func TestPasswordKeepsEverythingButOneTrailingNewline(t *testing.T) {
	removed := []string{newlineRemoved}
	for _, row := range []struct {
		name, input, want string
		warnings          []string
	}{
		{"plain", marker, marker, nil},
		{"quotes and backslashes", `"` + marker + `"\'\\` + "`", `"` + marker + `"\'\\` + "`", nil},
		{"HTML", "<" + marker + ">&amp;", "<" + marker + ">&amp;", nil},
		{"colons", ":" + marker + ":x:", ":" + marker + ":x:", nil},
		{"emoji", "😀" + marker + "👩‍👩‍👧", "😀" + marker + "👩‍👩‍👧", nil},
		{"line separators", "\u2028" + marker + "\u2029", "\u2028" + marker + "\u2029", []string{begins, ends}},
		{"spaces around", "  " + marker + "\t ", "  " + marker + "\t ", []string{begins, ends}},
		{"a space only", " ", " ", []string{begins}},
		{"control characters", "\x01" + marker + "\x7f\x1b\u0085", "\x01" + marker + "\x7f\x1b\u0085", []string{ends}},
		{"byte order mark", "\ufeff" + marker, marker, []string{markRemoved}},
		{"byte order mark and newline", "\ufeff" + marker + "\r\n", marker, []string{markRemoved, newlineRemoved}},
		{"byte order mark within", marker + "\ufeff" + marker, marker + "\ufeff" + marker, nil},
		{"JSON key", jsonKey, jsonKey, nil},
		{"not normalised", "e\u0301" + marker, "e\u0301" + marker, nil},

		{"newline", marker + "\n", marker, removed},
		{"Windows newline", marker + "\r\n", marker, removed},
		{"JSON key from a file", jsonKey + "\n", jsonKey, removed},
		{"two newlines", marker + "\n\n", marker + "\n", []string{newlineRemoved, newlineKept}},
		{"two Windows newlines", marker + "\r\n\r\n", marker + "\r\n", []string{newlineRemoved, newlineKept}},
		{"two carriage returns", marker + "\r\r\n", marker + "\r", []string{newlineRemoved, returnKept}},
		{"newline and space", marker + "\n ", marker + "\n ", []string{ends}},
		{"carriage return alone", marker + "\r", marker + "\r", []string{returnKept}},
		{"newlines in front", "\n\n" + marker, "\n\n" + marker, []string{begins}},
		{"two lines", marker + "\n" + marker, marker + "\n" + marker, []string{severalKept}},
		{"wrapped base64", encode64(jsonKey)[:76] + "\n" + encode64(jsonKey)[76:], encode64(jsonKey)[:76] + "\n" + encode64(jsonKey)[76:], []string{wrapped}},
		{"wrapped base64 from Windows", encode64(jsonKey)[:76] + "\r\n" + encode64(jsonKey)[76:] + "\r\n", encode64(jsonKey)[:76] + "\r\n" + encode64(jsonKey)[76:], []string{newlineRemoved, wrapped}},
		{"lines of unlike length", encode64(jsonKey)[:20] + "\n" + encode64(jsonKey)[20:], encode64(jsonKey)[:20] + "\n" + encode64(jsonKey)[20:], []string{severalKept}},
		{"double quotes", `"` + marker + `"`, `"` + marker + `"`, []string{inQuotes}},
		{"single quotes", "'" + marker + "'", "'" + marker + "'", []string{inQuotes}},
		{"one quote", `"`, `"`, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			password, warnings, err := dockerconfig.ParsePassword(row.input)
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			wantEqual(t, "password", row.want, password.Reveal())
			wantWarnings(t, row.warnings, warnings)
		})
	}
}

func TestPasswordThatReadersCannotDecodeIsRefused(t *testing.T) {
	empty := refusal{"must not be empty", "give the registry's password or token"}
	nul := refusal{"must not contain a NUL byte", "Docker drops it"}
	notText := refusal{"it has bytes that are not", "must be UTF-8"}
	for input, want := range map[string]refusal{
		"":                        empty,
		"\n":                      empty,
		"\r\n":                    empty,
		"\x00":                    nul,
		marker + "\x00":           nul,
		"\x00" + marker:           nul,
		marker + "\x00\n":         nul,
		marker + "\xff":           notText,
		marker + "\xc3\n":         notText,
		"\xed\xa0\x80" + marker:   notText,
		marker + "\ufffd" + "end": notText,
	} {
		t.Run(input, func(t *testing.T) {
			password, warnings, err := dockerconfig.ParsePassword(input)
			want.check(t, err)
			if password.Reveal() != "" || warnings != nil {
				t.Errorf("with the error came a password of %d bytes and warnings %q; want neither", len(password.Reveal()), warnings)
			}
		})
	}
}

// TestUnlikelyPasswords has texts that stand where a secret should be. They are kept.
func TestUnlikelyPasswords(t *testing.T) {
	for is, inputs := range map[string][]string{
		"looks like what jq and templates print where they find nothing":                                           {"null", "null\n", "undefined", "<no value>", "<nil>", "None"},
		"looks like a text that hides a secret":                                                                    {"***", "••••••••", "[MASKED]", "<sensitive>", "(sensitive value)"},
		"looks like a variable that nothing has filled in":                                                         {"${TOKEN}", "$TOKEN", "$(cat token)", "{{ .password }}", "%TOKEN%", "<your token>"},
		"looks like the name of a file; Vault's command line reads a file only if '@' stands in front of its name": {"token.txt", "/run/secrets/token", "./key.json", "~/key", "@token.txt", `C:\Users\ci\token.txt`, "file:///etc/token"},
	} {
		for _, input := range inputs {
			password, warnings, err := dockerconfig.ParsePassword(input)
			if want := strings.TrimSuffix(input, "\n"); err != nil || password.Reveal() != want {
				t.Errorf("ParsePassword(%q) = %q, %v; want %q", input, password.Reveal(), err, want)
			}
			wantEqual(t, input, []string{is}, slices.DeleteFunc(warnings, changed))
		}
	}
	for _, input := range []string{"$oauthtoken", "a/b+c/d==", "/9j/4AAQSkZJRg==", "null1", "p.a.s.s", "a*b", "hunter2.", "<>&", "dckr_pat_a-b_c", "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln"} {
		if _, warnings, err := dockerconfig.ParsePassword(input); err != nil || warnings != nil {
			t.Errorf("ParsePassword(%q): warnings %q, error %v; want none", input, warnings, err)
		}
	}
}

func TestUTF16IsRefusedByName(t *testing.T) {
	little, big := "", ""
	for _, r := range marker + "\r\n" {
		little += string(r) + "\x00"
		big += "\x00" + string(r)
	}
	// JSON replaces the bytes of a mark by U+FFFD.
	for _, input := range []string{little, big, "\xff\xfe" + little, "\xfe\xff" + big, "\ufffd\ufffd" + little, "\ufffd\ufffd" + big} {
		_, _, err := dockerconfig.ParsePassword(input)
		refusal{"is UTF-16", "iconv -f UTF-16 -t UTF-8"}.check(t, err)
		_, _, err = dockerconfig.Parse(input)
		refusal{"is UTF-16", "iconv -f UTF-16 -t UTF-8"}.check(t, err)
	}
}

func TestDoubtsAboutACredential(t *testing.T) {
	const (
		harbor = `username: looks like the name of a Harbor robot account whose '$' a shell has taken for a variable; put the name in single quotes, such as 'robot$ci'`
		escape = `username: has a '$' with an escape, which is kept; a Harbor robot account has one '$', such as robot$ci`
		noKey  = "password: is not JSON; with the user name _json_key, Google's registries expect the whole key file, such as password=@key.json"
		isKey  = "password: is JSON; with the user name _json_key_base64, Google's registries expect base64 of the key file"
		space  = "username: ends with white space, which is kept; hardly any registry has such a user name"
	)
	for _, row := range []struct {
		credential plain
		want       []string
	}{
		{plain{"harbor.example.com", "robot", marker, ""}, []string{harbor}},
		{plain{"harbor.example.com:8443/team", "robot-app", marker, ""}, []string{harbor}},
		{plain{"registry.example.com", "robot+ci", marker, ""}, []string{harbor}},
		{plain{"registry.example.com", `robot\$ci`, marker, ""}, []string{escape}},
		{plain{"registry.example.com", "robot$$ci", marker, ""}, []string{escape}},
		{plain{"registry.example.com", "user ", marker, ""}, []string{space}},
		{plain{"europe-docker.pkg.dev", "_json_key", marker, ""}, []string{noKey}},
		{plain{"europe-docker.pkg.dev", "_json_key_base64", jsonKey, ""}, []string{isKey}},

		{plain{"harbor.example.com", "robot$ci", marker, ""}, nil},
		{plain{"harbor.example.com", "robotics", marker, ""}, nil},
		{plain{"registry.example.com", "robot", marker, ""}, nil},
		{plain{"quay.io", "team+robot", marker, ""}, nil},
		{plain{"nvcr.io", "$oauthtoken", marker, ""}, nil},
		{plain{"europe-docker.pkg.dev", "_json_key", jsonKey, ""}, nil},
		{plain{"europe-docker.pkg.dev", "_json_key_base64", encode64(jsonKey), ""}, nil},
	} {
		wantWarnings(t, row.want, row.credential.credential().Doubts())
	}
}

func TestNamesOfTokensThatEndSoon(t *testing.T) {
	for name, want := range map[string]string{
		"AWS":                                  "a connection of type ecr",
		"oauth2accesstoken":                    "_json_key",
		"gitlab-ci-token":                      "a connection of type gitlab",
		"00000000-0000-0000-0000-000000000000": "a service principal",
	} {
		got := plain{"registry.example.com", name, marker, ""}.credential().ShortLived()
		if !strings.Contains(got, "write expires_at") || !strings.Contains(got, want) {
			t.Errorf("ShortLived of %s: want expires_at and %q, got %q", name, want, got)
		}
	}
	if got := (plain{"registry.example.com", "aws", marker, ""}).credential().ShortLived(); got != "" {
		t.Errorf("ShortLived of aws: want nothing, got %q", got)
	}
}

func TestEmailIsOptionalText(t *testing.T) {
	for _, input := range []string{"", "ci@example.com", "a<b>&\"c\"@example.com", "not an email", "ü@example.com"} {
		got, err := dockerconfig.ParseEmail(input)
		if err != nil || got != input {
			t.Errorf("ParseEmail(%q) = %q, %v; want it unchanged", input, got, err)
		}
	}
	for input, want := range map[string]refusal{
		marker + "@example.com\n": {"must not contain control characters", "must not contain"},
		marker + "\x00":           {"must not contain control characters", "must not contain"},
		marker + "\xff":           {"it has bytes that are not", "must be UTF-8"},
	} {
		t.Run(input, func(t *testing.T) {
			_, err := dockerconfig.ParseEmail(input)
			want.check(t, err)
		})
	}
}
