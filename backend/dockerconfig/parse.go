// SPDX-License-Identifier: MPL-2.0

package dockerconfig

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Parse reads a whole Docker config, as JSON or base64 of JSON: the content of
// ~/.docker/config.json, or the data of a pull secret. It takes a Kubernetes Secret that
// holds one too, as JSON or YAML. The warnings say what was changed or left out, and what
// hardly any credential looks like.
func Parse(input string) (Config, []string, error) {
	top, unpacked, err := unpack(input)
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
	switch _, isText := textIn(top, "auths"); {
	case isText:
		return Config{}, nil, errors.New("auths: must be a JSON object, and is text that may hold one; a template or a tool has put it into quotation marks")
	case err != nil:
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
	if len(credentials) == 0 {
		return Config{}, nil, errors.New("must hold at least one registry besides the session that docker login keeps; write a user name and an access token of the registry")
	}
	config, err := New(credentials...)
	if err != nil {
		return Config{}, nil, err
	}
	warnings = append(unpacked, warnings...)
	return config, append(warnings, leftOut(top, "auths")...), nil
}

// parseEntries reads the members of auths. hasHelper says that the config names a
// program that keeps its passwords.
func parseEntries(entries []member, hasHelper bool) (credentials []Credential, warnings []string, err error) {
	writtenAs := make(map[Key]string, len(entries))
	for i, e := range entries {
		key, keyWarnings, err := parseKey(e.name)
		if err != nil {
			// The error does not repeat the name, which may be a URL with a password.
			return nil, nil, fmt.Errorf("registry %d of auths %w", i+1, err)
		}
		if key.isSession() {
			warnings = append(warnings, fmt.Sprintf("auths[%q]: left out, because docker login keeps the session of a person there; the password of Docker Hub beside it may be a token that was made for this person, so write an access token that belongs to the role", e.name))
			continue
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
	if username == "" && password == "" {
		return Credential{}, nil, errors.New(" has neither a user name nor a password; write both, or auth, which is base64 of username:password")
	}
	c, warnings, err := newCredential(key, username, password, texts["email"])
	if err != nil {
		return Credential{}, nil, err
	}
	for _, w := range leftOut(fields, "username", "password", "email", "auth", "identitytoken", "registrytoken") {
		warnings = append(warnings, ": "+w)
	}
	return c, warnings, nil
}

// newCredential checks the fields of one entry. Its errors and warnings begin with "."
// and the name of the field.
func newCredential(key Key, username, password, email string) (c Credential, warnings []string, err error) {
	c.Registry = key
	username, marked, err := Tidy(username)
	if err == nil {
		c.Username, err = ParseUsername(username)
	}
	if err != nil {
		return Credential{}, nil, fmt.Errorf(".username: %w", err)
	}
	for _, w := range marked {
		warnings = append(warnings, ".username: "+w)
	}
	// A newline at the end is kept: JSON, unlike a file, adds none.
	password, marked, err = Tidy(password)
	if err == nil {
		err = checkPassword(password)
	}
	if err != nil {
		return Credential{}, nil, fmt.Errorf(".password: %w", err)
	}
	c.Password = NewSecret(password)
	for _, w := range append(marked, doubts("password", password)...) {
		warnings = append(warnings, ".password: "+w)
	}
	if c.Email, err = ParseEmail(email); err != nil {
		return Credential{}, nil, fmt.Errorf(".email: %w", err)
	}
	for _, w := range c.Doubts() {
		warnings = append(warnings, "."+w)
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
	return slices.ContainsFunc(top, func(m member) bool {
		// Docker for Mac used to write credSstore.
		named := strings.EqualFold(m.name, "credsStore") || strings.EqualFold(m.name, "credHelpers")
		return named && !slices.Contains([]string{`""`, `{}`, "null"}, string(m.value))
	})
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
