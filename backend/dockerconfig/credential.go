// SPDX-License-Identifier: MPL-2.0

package dockerconfig

import (
	"encoding/base64"
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

// auth returns the field "auth": base64 of username:password.
func (c Credential) auth() string {
	return base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password.Reveal()))
}

// ParseUsername checks that every tool decodes the user name unchanged.
func ParseUsername(input string) (string, error) {
	switch {
	case input == "":
		return "", errors.New("must not be empty: Docker cannot load an entry without a user name; where the registry takes any name with a token, write one such as token")
	case strings.Contains(input, ":"):
		return "", errors.New("must not contain ':': every tool takes what follows it as the password")
	case strings.ContainsFunc(input, unicode.IsControl):
		return "", errors.New("must not contain control characters; a name read from a file may end with a newline: remove it")
	}
	return input, checkText(input)
}

// ParsePassword checks that every tool decodes the password unchanged. It removes one
// trailing newline, which files have, with a warning. It keeps everything else.
func ParsePassword(input string) (Secret, []string, error) {
	var warnings []string
	password, cut := strings.CutSuffix(input, "\n")
	if cut {
		password = strings.TrimSuffix(password, "\r")
		warnings = []string{"its trailing newline was removed"}
	}
	if err := checkPassword(password); err != nil {
		return Secret{}, nil, err
	}
	return NewSecret(password), warnings, nil
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
