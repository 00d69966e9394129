// SPDX-License-Identifier: MPL-2.0

package dockerconfig

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Parse reads a whole Docker config, as JSON or base64 of JSON: the content of
// ~/.docker/config.json, or the data of a pull secret. The warnings say what was
// changed or left out.
func Parse(input string) (Config, []string, error) {
	text, err := decodeInput(input)
	if err != nil {
		return Config{}, nil, err
	}
	top, err := members(text)
	if err != nil {
		return Config{}, nil, err
	}
	hasHelper := usesHelper(top)
	auths, found := find(top, "auths")
	switch {
	case (!found || string(auths) == "null") && hasHelper:
		return Config{}, nil, errNoPassword
	case !found:
		return Config{}, nil, errors.New(`must have a member "auths" with an entry for each registry; a legacy .dockercfg goes inside it: {"auths": …}`)
	}
	entries, err := members(auths)
	if err != nil {
		return Config{}, nil, fmt.Errorf("auths: %w", err)
	}
	if len(entries) > MaxRegistries {
		return Config{}, nil, fmt.Errorf("must hold at most %d registries, not %d", MaxRegistries, len(entries))
	}

	if len(entries) == 0 {
		if hasHelper {
			return Config{}, nil, errNoPassword
		}
		return Config{}, nil, errors.New("must hold at least one registry under auths")
	}

	credentials, warnings, err := parseEntries(entries, hasHelper)
	if err != nil {
		return Config{}, nil, err
	}
	config, err := New(credentials...)
	if err != nil {
		return Config{}, nil, err
	}
	return config, append(warnings, leftOut(top, "auths")...), nil
}

// parseEntries reads the members of auths. hasHelper says that the config names a
// program that keeps its passwords.
func parseEntries(entries []member, hasHelper bool) (credentials []Credential, warnings []string, err error) {
	writtenAs := make(map[Key]string, len(entries))
	for i, e := range entries {
		key, keyWarnings, err := ParseKey(e.name)
		if err != nil {
			// The error does not repeat the name, which may be a URL with a password.
			return nil, nil, fmt.Errorf("registry %d of auths %w", i+1, err)
		}
		if other, twice := writtenAs[key]; twice {
			return nil, nil, fmt.Errorf("%q and %q are the same registry %q; keep one of them", other, e.name, key)
		}
		writtenAs[key] = e.name
		credential, entryWarnings, err := parseEntry(key, e.value, hasHelper)
		if err != nil {
			return nil, nil, fmt.Errorf("auths[%q]%w", key, err)
		}
		credentials = append(credentials, credential)
		for _, w := range keyWarnings {
			warnings = append(warnings, fmt.Sprintf("auths[%q]: %s", e.name, w))
		}
		for _, w := range entryWarnings {
			warnings = append(warnings, fmt.Sprintf("auths[%q]%s", e.name, w))
		}
	}
	return credentials, warnings, nil
}

var errNoPassword = errors.New("holds no password: credsStore and credHelpers name programs on the machine that the file comes from, and kubelet cannot run them; " +
	"write the user name and password (or token) of each registry instead")

// decodeInput returns the JSON object in the input, which may be in base64.
func decodeInput(input string) ([]byte, error) {
	const want = `must be a Docker config such as {"auths":{"registry.example.com":{"auth":"…"}}}, or base64 of one`
	text := []byte(strings.TrimSpace(input))
	if len(text) == 0 {
		return nil, errors.New(want + "; it is empty")
	}
	if text[0] != '{' {
		decoded, err := decodeBase64(string(text))
		if err != nil {
			return nil, errors.New(want + "; it is neither JSON nor base64")
		}
		if text = bytes.TrimSpace(decoded); len(text) == 0 || text[0] != '{' {
			return nil, errors.New(want + "; it is base64 of something else")
		}
	}
	if !utf8.Valid(text) {
		return nil, errors.New(want + "; it is not UTF-8")
	}
	return text, nil
}

// decodeBase64 accepts the standard alphabet with or without padding and line breaks,
// as kubelet does.
func decodeBase64(s string) ([]byte, error) {
	if decoded, err := base64.StdEncoding.DecodeString(s); err == nil {
		return decoded, nil
	}
	return base64.RawStdEncoding.DecodeString(s)
}

// parseEntry reads one entry of auths. Its errors continue `auths["key"]`.
func parseEntry(key Key, value json.RawMessage, hasHelper bool) (Credential, []string, error) {
	fields, err := members(value)
	if err != nil {
		return Credential{}, nil, fmt.Errorf(": %w", err)
	}
	texts := make(map[string]string, len(fields))
	for _, name := range []string{"username", "password", "email", "auth", "identitytoken", "registrytoken"} {
		if raw, found := find(fields, name); found {
			var text string
			if json.Unmarshal(raw, &text) != nil { // null counts as absent
				return Credential{}, nil, fmt.Errorf(".%s: must be a string", name)
			}
			texts[name] = text
		}
	}
	for _, name := range []string{"identitytoken", "registrytoken"} {
		if texts[name] != "" {
			return Credential{}, nil, fmt.Errorf(" holds no password that kubelet could use: it ignores %s; write a user name and a password (or a token in place of the password)", name)
		}
	}

	username, password, err := userAndPassword(texts)
	if err != nil {
		return Credential{}, nil, err
	}
	if password == "" && hasHelper {
		return Credential{}, nil, fmt.Errorf(" %w", errNoPassword)
	}
	c := Credential{Registry: key, Password: NewSecret(password)}
	if c.Username, err = ParseUsername(username); err != nil {
		return Credential{}, nil, fmt.Errorf(".username: %w", err)
	}
	// A newline at the end is kept: JSON, unlike a file, adds none.
	if err = checkPassword(password); err != nil {
		return Credential{}, nil, fmt.Errorf(".password: %w", err)
	}
	if c.Email, err = ParseEmail(texts["email"]); err != nil {
		return Credential{}, nil, fmt.Errorf(".email: %w", err)
	}
	var warnings []string
	if strings.HasSuffix(password, "\n") {
		warnings = append(warnings, ".password: ends with a newline, which is kept; hardly any registry has such a password")
	}
	for _, w := range leftOut(fields, "username", "password", "email", "auth", "identitytoken", "registrytoken", "serveraddress") {
		warnings = append(warnings, ": "+w)
	}
	return c, warnings, nil
}

// userAndPassword returns the content of auth, or username and password without it.
// It refuses an entry in which they differ, because tools disagree on which to use.
func userAndPassword(texts map[string]string) (username, password string, err error) {
	username, password = texts["username"], texts["password"]
	if texts["auth"] == "" {
		return username, password, nil
	}
	decoded, err := decodeBase64(texts["auth"])
	authUser, authPassword, found := strings.Cut(string(decoded), ":")
	if err != nil || !found {
		return "", "", errors.New(".auth: must be base64 of username:password")
	}
	if username != "" && username != authUser || password != "" && password != authPassword {
		return "", "", errors.New(".auth: must say the same as username and password; remove the one that is out of date")
	}
	return authUser, authPassword, nil
}

// member is one member of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members returns the members of a JSON object in their order. Unlike encoding/json,
// it refuses a repeated name, and its errors quote nothing of the input.
func members(object []byte) ([]member, error) {
	decoder := json.NewDecoder(bytes.NewReader(object))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.New("must be a JSON object")
	}
	syntaxError := func(err error) error {
		at := decoder.InputOffset()
		if syntax := (*json.SyntaxError)(nil); errors.As(err, &syntax) {
			at = syntax.Offset
		}
		return fmt.Errorf("must be valid JSON; the error is at byte %d", at)
	}
	var list []member
	seen := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, syntaxError(err)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, syntaxError(err)
		}
		if seen[name] {
			return nil, fmt.Errorf("must have each name only once; member %d repeats an earlier name", len(list)+1)
		}
		seen[name] = true
		list = append(list, member{name, value})
	}
	if _, err := decoder.Token(); err != nil {
		return nil, syntaxError(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("must have nothing after the JSON object")
	}
	return list, nil
}

func find(list []member, name string) (json.RawMessage, bool) {
	for _, m := range list {
		if m.name == name {
			return m.value, true
		}
	}
	return nil, false
}

// usesHelper reports whether the config names a program that keeps its passwords.
func usesHelper(top []member) bool {
	for _, name := range []string{"credsStore", "credHelpers"} {
		if value, found := find(top, name); found {
			switch string(value) {
			case `""`, `{}`, "null":
			default:
				return true
			}
		}
	}
	return false
}

// leftOut warns of members that a pull secret cannot hold.
func leftOut(list []member, known ...string) []string {
	var names []string
next:
	for _, m := range list {
		for _, k := range known {
			if m.name == k {
				continue next
			}
		}
		names = append(names, fmt.Sprintf("%q", m.name))
	}
	if names == nil {
		return nil
	}
	return []string{"left out, because a pull secret holds only registries with user name and password: " + strings.Join(names, ", ")}
}
