// SPDX-License-Identifier: MPL-2.0

package dockerconfig_test

import (
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

const (
	newlineRemoved = "its trailing newline was removed"
	newlineKept    = "ends with a newline, which is kept; hardly any registry has such a password"
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
		{"line separators", "\u2028" + marker + "\u2029", "\u2028" + marker + "\u2029", nil},
		{"spaces around", "  " + marker + "\t ", "  " + marker + "\t ", nil},
		{"a space only", " ", " ", nil},
		{"control characters", "\x01" + marker + "\x7f\x1b\u0085", "\x01" + marker + "\x7f\x1b\u0085", nil},
		{"byte order mark", "\ufeff" + marker, "\ufeff" + marker, nil},
		{"JSON key", jsonKey, jsonKey, nil},
		{"not normalised", "e\u0301" + marker, "e\u0301" + marker, nil},

		{"newline", marker + "\n", marker, removed},
		{"Windows newline", marker + "\r\n", marker, removed},
		{"JSON key from a file", jsonKey + "\n", jsonKey, removed},
		{"two newlines", marker + "\n\n", marker + "\n", removed},
		{"two Windows newlines", marker + "\r\n\r\n", marker + "\r\n", removed},
		{"two carriage returns", marker + "\r\r\n", marker + "\r", removed},
		{"newline and space", marker + "\n ", marker + "\n ", nil},
		{"carriage return alone", marker + "\r", marker + "\r", nil},
		{"newlines in front", "\n\n" + marker, "\n\n" + marker, nil},
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
