// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// tidyFields returns the fields of a request in the forms that the framework reads:
// text without a byte order mark, lists that were written as JSON text as lists, and
// no empty text for a duration. The warnings say what was changed. It refuses what
// looks like one of these and cannot be read. It leaves data as it is.
func tidyFields(schema map[string]*framework.FieldSchema, data map[string]any) (tidied map[string]any, warnings []string, err error) {
	tidied = maps.Clone(data)
	for _, name := range slices.Sorted(maps.Keys(data)) {
		text, isText := data[name].(string)
		field := schema[name]
		if field == nil || !isText {
			continue
		}
		text, changed, err := dockerconfig.Tidy(text)
		if err != nil {
			return nil, nil, fieldError(name, err)
		}
		warnings = append(warnings, fieldWarnings(name, changed)...)
		switch tidied[name] = text; field.Type {
		case framework.TypeDurationSecond:
			if text == "" {
				tidied[name] = nil // the default, as null
			}
		case framework.TypeCommaStringSlice:
			if tidied[name], err = listIn(text); err != nil {
				return nil, nil, fieldError(name, err)
			}
		}
	}
	return tidied, warnings, nil
}

// ipv6List matches a text whose brackets belong to IPv6 addresses.
var ipv6List = regexp.MustCompile(`^\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]`)

// listIn returns the list that a text holds as JSON. It returns another text as it is,
// and the framework splits it at its commas.
func listIn(text string) (any, error) {
	trimmed := strings.TrimSpace(text)
	if !strings.HasPrefix(trimmed, "[") || ipv6List.MatchString(trimmed) {
		return text, nil
	}
	var list []any
	if json.Unmarshal([]byte(trimmed), &list) != nil || !isTextOrList(list) {
		return nil, errors.New(`must be a list: names with commas between them, such as a,b, or JSON text such as '["a","b"]'; a shell keeps the double quotes only inside single quotes`)
	}
	return list, nil
}
