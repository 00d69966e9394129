// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"vault-plugin-secrets-regcred/backend/redact"
)

// layout says which field of a KV secret holds what. Its keys are those of
// [layoutFields].
type layout map[string]selector

// selector takes a field's value, or a text with placeholders.
type selector struct{ field, text string }

// layoutFields are what a layout can fill.
var layoutFields = []string{"registry", "username", "password", "email", "dockerconfigjson"}

// usualLayouts are tried after those that are given, in this order.
var usualLayouts = []layout{
	{"dockerconfigjson": {field: "dockerconfigjson"}},
	{"dockerconfigjson": {field: ".dockerconfigjson"}},
	{"dockerconfigjson": {}}, // the secret itself is one
	{"registry": {field: "registry"}, "username": {field: "username"}, "password": {field: "password"}, "email": {field: "email"}},
	{"registry": {field: "hostname"}, "username": {field: "username"}, "password": {field: "password"}, "email": {field: "email"}},
}

// parseLayout reads the value of -fields: "registry=server" takes a field,
// "registry:ghcr.io" a text.
func parseLayout(text string) (layout, error) {
	l := layout{}
	for part := range strings.SplitSeq(text, ",") {
		i := strings.IndexAny(part, "=:")
		if i < 0 || i == len(part)-1 {
			return nil, errors.New("must be such as registry=server,username=user,password=token, or registry:ghcr.io for a text")
		}
		into, from := strings.TrimSpace(part[:i]), strings.TrimSpace(part[i+1:])
		if !slices.Contains(layoutFields, into) {
			return nil, fmt.Errorf("%q must be one of %s", redact.Truncate(redact.Clean(into), 40), strings.Join(layoutFields, ", "))
		}
		if _, twice := l[into]; twice {
			return nil, fmt.Errorf("%s must stand there once", into)
		}
		if part[i] == '=' {
			l[into] = selector{field: from}
		} else {
			l[into] = selector{text: from}
		}
	}
	return l, nil
}

func (l layout) check() error {
	_, whole := l["dockerconfigjson"]
	if whole && len(l) > 1 {
		return bad("-fields", "dockerconfigjson has everything; give nothing beside it")
	}
	for _, into := range []string{"registry", "username", "password"} {
		if _, has := l[into]; !has && !whole {
			return bad("-fields", into+" is missing: a mapping needs registry, username and password, or dockerconfigjson")
		}
	}
	for into, from := range l {
		if from.text != "" && into != "registry" && into != "username" {
			return bad("-fields", into+" must be a field of the secret, such as "+into+"=token")
		}
		for _, p := range placeholder.FindAllString(from.text, -1) {
			if !slices.Contains([]string{"{path}", "{folder}", "{name}"}, p) {
				return bad("-fields", fmt.Sprintf("%q is not a placeholder here; there are {path}, {folder}, {name}", redact.Truncate(redact.Clean(p), 40)))
			}
		}
	}
	return nil
}

// fits reports whether a secret has the fields that the layout needs.
func (l layout) fits(data map[string]any) bool {
	for into, from := range l {
		switch _, has := data[from.field]; {
		case from.text != "" || has || into == "email":
		case from.field == "" && data["auths"] != nil:
		default:
			return false
		}
	}
	return true
}

// read takes the pull secret out of a KV secret.
func (s *source) read(layouts []layout, data map[string]any) {
	i := slices.IndexFunc(layouts, func(l layout) bool { return l.fits(data) })
	if i < 0 {
		s.leaveOut("no mapping fits: " + whatIsMissing(layouts, data))
		return
	}
	l := layouts[i]
	values := map[string]string{}
	used := map[string]bool{}
	for _, into := range layoutFields {
		from, has := l[into]
		if !has {
			continue
		}
		if from.text != "" {
			values[into] = s.fill(from.text)
			continue
		}
		value, err := asText(data[from.field], into == "dockerconfigjson")
		if from.field == "" {
			value, err = asText(data, true)
		}
		if err != nil {
			s.leaveOut(fmt.Sprintf("field %s: %s", shown(from.field), err))
			return
		}
		values[into], used[from.field] = value, true
	}
	if docker, whole := values["dockerconfigjson"]; whole {
		s.fromDocker(docker)
	} else {
		s.fromFields(values["registry"], values["username"], values["password"], values["email"])
	}
	var unused []string
	for _, field := range slices.Sorted(maps.Keys(data)) {
		if !used[field] && !used[""] {
			unused = append(unused, shown(field))
		}
	}
	if s.leftOut == "" && unused != nil {
		s.note("fields that a role does not have are left out: %s", few(unused))
	}
}

func (s *source) fill(template string) string {
	return strings.NewReplacer("{path}", s.name, "{folder}", s.place, "{name}", s.base).Replace(template)
}

// asText returns a value of a KV secret as text, and an object as JSON where one can
// be meant.
func asText(value any, object bool) (string, error) {
	switch value := value.(type) {
	case string:
		return value, nil
	case nil:
		return "", nil
	case map[string]any:
		if object {
			encoded, err := json.Marshal(value)
			return string(encoded), err
		}
	case json.Number:
		return "", errors.New("is a number, which KV does not keep as it was written; write it as text")
	}
	return "", errors.New("must be text")
}

// whatIsMissing says what a secret has where a layout needs something else.
func whatIsMissing(layouts []layout, data map[string]any) string {
	if len(data) == 0 {
		return "the secret has no fields"
	}
	var fields []string
	for _, name := range slices.Sorted(maps.Keys(data)) {
		fields = append(fields, shown(name))
	}
	text := "the secret has the fields " + few(fields)
	var lacks []string
	for _, l := range layouts {
		var missing []string
		for _, into := range layoutFields {
			from, needed := l[into]
			if _, has := data[from.field]; needed && !has && from.text == "" && into != "email" {
				missing = append(missing, from.field)
			}
		}
		if len(missing) < len(l)-1 && (lacks == nil || len(missing) < len(lacks)) { // it has at least one
			lacks = missing
		}
	}
	if lacks != nil {
		return text + ", and not " + strings.Join(lacks, ", ")
	}
	return text + "; give a mapping with -fields, or skip it with a rule"
}

func shown(field string) string { return redact.Truncate(redact.Clean(field), 40) }
