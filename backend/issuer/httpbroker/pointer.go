// SPDX-License-Identifier: MPL-2.0

package httpbroker

import (
	"encoding/json"
	"errors"
	"regexp"
	"strconv"
	"strings"
)

// pointer is a JSON pointer (RFC 6901): the names and indexes that lead to a value. An
// empty one is the whole text.
type pointer []string

var badEscape = regexp.MustCompile(`~([^01]|$)`)

func parsePointer(text string) (pointer, error) {
	switch {
	case text == "":
		return nil, nil
	case text[0] != '/':
		return nil, errors.New(`must be a JSON pointer (RFC 6901), which begins with '/', such as /data/password`)
	case badEscape.MatchString(text):
		return nil, errors.New(`must have '~' only as ~0 (a '~') and ~1 (a '/'), because it is a JSON pointer (RFC 6901)`)
	}
	parts := strings.Split(text[1:], "/")
	for i, part := range parts {
		parts[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
	}
	return parts, nil
}

// find returns the value in a decoded JSON text; found is false if there is none.
func (p pointer) find(in any) (value any, found bool) {
	for _, part := range p {
		switch container := in.(type) {
		case map[string]any:
			if in, found = container[part]; !found {
				return nil, false
			}
		case []any:
			index, err := strconv.Atoi(part)
			if err != nil || index < 0 || index >= len(container) || strconv.Itoa(index) != part {
				return nil, false
			}
			in = container[index]
		default:
			return nil, false
		}
	}
	return in, true
}

// text returns the text at the pointer; "" if there is none, or something else.
func (p pointer) text(in any) string {
	value, _ := p.find(in)
	text, _ := value.(string)
	return text
}

// number returns the number at the pointer, as a JSON number or a text of digits.
func (p pointer) number(in any) (int64, bool) {
	value, _ := p.find(in)
	text, isText := value.(string)
	if number, ok := value.(json.Number); ok {
		text, isText = number.String(), true
	}
	if !isText {
		return 0, false
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	}
	f, err := strconv.ParseFloat(text, 64)
	return int64(f), err == nil && f > -1e15 && f < 1e15
}
