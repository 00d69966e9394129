// SPDX-License-Identifier: MPL-2.0

package dockerconfig

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Credential is the content of one entry of "auths".
type Credential struct {
	Registry Key
	Username string
	Password Secret
	Email    string // optional
}

// appendAuth appends the field "auth": base64 of username:password.
func (c Credential) appendAuth(dst []byte) []byte {
	return base64.StdEncoding.AppendEncode(dst, []byte(c.Username+":"+c.Password.Reveal()))
}

// Doubts says what the user name looks like that hardly any registry has, and where
// user name, password and registry do not fit each other. Each warning begins with the
// name of its field and a colon.
func (c Credential) Doubts() []string {
	var warnings []string
	for _, w := range doubts("user name", c.Username) {
		warnings = append(warnings, "username: "+w)
	}
	// Harbor calls a robot account robot$ci or robot$team+ci.
	name, isRobot := strings.CutPrefix(c.Username, "robot")
	plus := isRobot && strings.HasPrefix(name, "+")
	cut := isRobot && (name == "" || strings.ContainsRune("-._", rune(name[0])))
	switch {
	case plus || cut && strings.Contains(c.Registry.Host(), "harbor"):
		warnings = append(warnings, `username: looks like the name of a Harbor robot account whose '$' a shell has taken for a variable; put the name in single quotes, such as 'robot$ci'`)
	case strings.Contains(c.Username, `\$`) || strings.Contains(c.Username, "$$"):
		warnings = append(warnings, `username: has a '$' with an escape, which is kept; a Harbor robot account has one '$', such as robot$ci`)
	}
	isKey := json.Valid([]byte(c.Password.Reveal()))
	switch {
	case c.Username == "_json_key" && !isKey:
		warnings = append(warnings, "password: is not JSON; with the user name _json_key, Google's registries expect the whole key file, such as password=@key.json")
	case c.Username == "_json_key_base64" && isKey:
		warnings = append(warnings, "password: is JSON; with the user name _json_key_base64, Google's registries expect base64 of the key file")
	}
	return warnings
}

// ShortLived says what a user name tells about the end of its password, for the names
// that always go with a token that ends soon. It is "" for others.
func (c Credential) ShortLived() string {
	switch c.Username {
	case "AWS":
		return "AWS is the user name of a token of Amazon ECR, which ends 12 hours after it was made; write expires_at, or use a connection of type ecr, which makes new tokens"
	case "oauth2accesstoken":
		return "oauth2accesstoken is the user name of a Google access token, which ends after an hour; write expires_at, or the key of a service account with the user name _json_key"
	case "gitlab-ci-token":
		return "gitlab-ci-token is the user name of a CI job's token, which ends with the job; write expires_at, or use a deploy token or a connection of type gitlab, which makes them"
	case "00000000-0000-0000-0000-000000000000":
		return "this is the user name of a token of Azure, which ends after some hours; write expires_at, or the name and password of a repository-scoped token or a service principal"
	}
	return ""
}

// ParseUsername checks that every tool decodes the user name unchanged.
func ParseUsername(input string) (string, error) {
	switch {
	case input == "":
		return "", errors.New("must not be empty: Docker cannot load an entry without a user name; where the registry takes any name with a token, write one such as token; put a name with '$' in single quotes, such as '$oauthtoken', or a shell takes it for a variable")
	case strings.Contains(input, ":"):
		return "", errors.New("must not contain ':': every tool takes what follows it as the password")
	case strings.ContainsFunc(input, unicode.IsControl):
		return "", errors.New("must not contain control characters; a name read from a file may end with a newline: remove it")
	}
	return input, checkText(input)
}

// ParsePassword checks that every tool decodes the password unchanged. It removes a
// byte order mark and one trailing newline, which files have, with a warning for
// each. It keeps everything else, and warns of what hardly any password looks like.
func ParsePassword(input string) (Secret, []string, error) {
	password, warnings, err := Tidy(input)
	if err != nil {
		return Secret{}, nil, err
	}
	password, cut := strings.CutSuffix(password, "\n")
	if cut {
		password = strings.TrimSuffix(password, "\r")
		warnings = append(warnings, "its trailing newline was removed")
	}
	if err := checkPassword(password); err != nil {
		return Secret{}, nil, err
	}
	return NewSecret(password), append(warnings, doubts("password", password)...), nil
}

func checkPassword(password string) error {
	switch {
	case password == "":
		return errors.New("must not be empty; give the registry's password or token")
	case strings.Contains(password, "\x00"):
		return errors.New("must not contain a NUL byte: Docker drops it")
	}
	return checkText(password)
}

// ParseEmail checks the optional email.
func ParseEmail(input string) (string, error) {
	if strings.ContainsFunc(input, unicode.IsControl) {
		return "", errors.New("must not contain control characters")
	}
	return input, checkText(input)
}

// checkText refuses text that JSON cannot carry. It also refuses U+FFFD, because
// clients that write the JSON of a request often replace bytes that are not UTF-8
// with it.
func checkText(s string) error {
	if !utf8.ValidString(s) || strings.ContainsRune(s, utf8.RuneError) {
		return errors.New("must be UTF-8: it has bytes that are not, or the character U+FFFD that replaces such bytes, and JSON cannot carry them")
	}
	return nil
}
