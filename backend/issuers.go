// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub"
	"vault-plugin-secrets-regcred/backend/issuer/gar"
	"vault-plugin-secrets-regcred/backend/issuer/gitea"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab"
	"vault-plugin-secrets-regcred/backend/issuer/harbor"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker"
	"vault-plugin-secrets-regcred/backend/issuer/quay"
)

// issuerTypes are the types that a connection can have.
var issuerTypes = slices.Concat([]issuer.Type{
	acr.Type(),
	artifactory.Type(),
	dockerhub.Type(),
}, ecrTypes, []issuer.Type{
	gar.Type(),
	gitea.Type(),
	gitlab.Type(),
	harbor.Type(),
	httpbroker.Type(),
	quay.Type(),
})

// issuerType returns the type of that name.
func issuerType(name string) (issuer.Type, bool) {
	i := slices.IndexFunc(issuerTypes, func(t issuer.Type) bool { return t.Name == name })
	if i < 0 {
		return issuer.Type{}, false
	}
	return issuerTypes[i], true
}

func issuerTypeNames() []string {
	names := make([]string, len(issuerTypes))
	for i, t := range issuerTypes {
		names[i] = t.Name
	}
	return names
}

// describedTypes returns one line of help for each type.
func describedTypes() string {
	var lines strings.Builder
	for _, t := range issuerTypes {
		fmt.Fprintf(&lines, "    %-11s %s\n", t.Name, t.Description)
	}
	return lines.String()
}

// fieldsOfTypes joins the fields of all types. Each description begins with the
// types that have the field.
func fieldsOfTypes(fieldsOf func(issuer.Type) map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	joined := map[string]*framework.FieldSchema{}
	typesOf := map[string][]string{}
	for _, t := range issuerTypes {
		for name, field := range fieldsOf(t) {
			if joined[name] == nil {
				clone := *field
				joined[name] = &clone
			} else if !strings.Contains(joined[name].Description, field.Description) {
				joined[name].Description += " " + field.Description
			}
			typesOf[name] = append(typesOf[name], t.Name)
		}
	}
	for name, field := range joined {
		field.Description = "(" + strings.Join(typesOf[name], ", ") + ") " + field.Description
	}
	return joined
}

func connectionFieldsOf(t issuer.Type) map[string]*framework.FieldSchema { return t.ConnectionFields }

func declaredFieldsOf(t issuer.Type) map[string]*framework.FieldSchema { return t.DeclaredFields }

func roleFieldsOf(t issuer.Type) map[string]*framework.FieldSchema { return t.RoleFields }

// isSecretField reports whether a field holds a secret, which is never read back.
func isSecretField(field *framework.FieldSchema) bool {
	return field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive
}

// setting reads a field of a connection's type in the form that
// [issuer.Settings] has.
func (in input) setting(name string, field *framework.FieldSchema) string {
	switch field.Type {
	case framework.TypeCommaStringSlice:
		return strings.Join(in.Get(name).([]string), ",")
	case framework.TypeDurationSecond:
		if duration := in.duration(name); duration != 0 {
			return strconv.FormatInt(int64(duration/time.Second), 10)
		}
		return ""
	}
	return in.text(name)
}

// applySettings returns a copy of old with the write applied to it. An empty value
// removes a field.
func (in input) applySettings(fields map[string]*framework.FieldSchema, old issuer.Settings) issuer.Settings {
	settings := issuer.Settings{}
	maps.Copy(settings, old)
	for name, field := range fields {
		if isSecretField(field) || !in.has(name) {
			continue
		}
		if value := in.setting(name, field); value != "" {
			settings[name] = value
		} else {
			delete(settings, name)
		}
	}
	return settings
}

// readBackSettings returns settings as fields of a response, lists as lists and durations
// as numbers.
func readBackSettings(fields map[string]*framework.FieldSchema, settings issuer.Settings) map[string]any {
	data := map[string]any{}
	for name, value := range settings {
		switch field := fields[name]; {
		case field == nil: // of a newer plugin, or damaged
		case field.Type == framework.TypeCommaStringSlice:
			data[name] = strings.Split(value, ",")
		case field.Type == framework.TypeDurationSecond:
			if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
				data[name] = seconds
			}
		default:
			data[name] = value
		}
	}
	return data
}

// refuseOtherTypes refuses fields that only other types of connection have. what
// names the thing that has the fields.
func (in input) refuseOtherTypes(what string, t issuer.Type, fieldsOf func(issuer.Type) map[string]*framework.FieldSchema) error {
	fields := fieldsOf(t)
	for _, name := range slices.Sorted(maps.Keys(fieldsOfTypes(fieldsOf))) {
		if fields[name] == nil && in.has(name) {
			own := slices.Sorted(maps.Keys(fields))
			return refusef("%s: a %s of type %s does not have this field, which is for type %s%sits fields are: %s",
				name, what, t.Name, typesWith(name, fieldsOf), didYouMean(name, own), strings.Join(own, ", "))
		}
	}
	return nil
}

// typesWith returns the types of connection that have a field, such as "ecr, gitlab
// or harbor"; "" if none has.
func typesWith(name string, fieldsOf func(issuer.Type) map[string]*framework.FieldSchema) string {
	var types []string
	for _, t := range issuerTypes {
		if fieldsOf(t)[name] != nil {
			types = append(types, t.Name)
		}
	}
	return enumerated(types, " or ")
}
