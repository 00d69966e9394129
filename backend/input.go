// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/ryanuber/go-glob"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

const (
	// maxBodySize is how many bytes the fields of one request may have together.
	maxBodySize = 1 << 20

	// maxNameLength is how many bytes a role's name may have. With the time that
	// expiryKey puts in front, it must fit a file name in Vault's file storage.
	maxNameLength = 200

	// nameRegex is the part of a path that holds a role's name. It matches more
	// than checkName accepts, so that a bad name gets an error with a reason
	// instead of "unsupported path".
	nameRegex = `(?P<` + roleField + `>[^/]+)`
	roleField = "role"

	// connectionRegex is the part of a path that holds a connection's name.
	connectionRegex     = `(?P<` + connectionNameField + `>[^/]+)`
	connectionNameField = "name"

	// maxQuotedField is how many characters of an unknown field's name an error
	// repeats.
	maxQuotedField = 64

	// maxQuotedFields is how many unknown fields an error names.
	maxQuotedFields = 5
)

// checkName refuses names that Vault's storage or its policies cannot hold.
func checkName(name string) error {
	if len(name) > maxNameLength || !isName(name) || strings.Contains(name, "..") {
		return fmt.Errorf("must be at most %d letters, digits and '_', with '-' or single '.' inside, such as my_app", maxNameLength)
	}
	return nil
}

// isName reports whether a text consists of letters, digits and '_', with '-' and '.'
// inside. Each read checks a name, so it is no regular expression.
func isName(text string) bool {
	for i := range len(text) {
		switch c := text[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_':
		case (c == '-' || c == '.') && i > 0 && i < len(text)-1:
		default:
			return false
		}
	}
	return text != ""
}

// roleName returns the role's name in the path.
func roleName(data *framework.FieldData) (string, error) {
	return nameIn(data, roleField, "role")
}

// connectionName returns the connection's name in the path.
func connectionName(data *framework.FieldData) (string, error) {
	return nameIn(data, connectionNameField, "connection")
}

func nameIn(data *framework.FieldData, field, what string) (string, error) {
	name := data.Get(field).(string)
	if err := checkName(name); err != nil {
		return "", refuse(fieldError(what, err))
	}
	return name, nil
}

// standsInPath reports whether a field is a part of the path. The body must not
// have it.
func standsInPath(field *framework.FieldSchema) bool {
	return field.DisplayAttrs != nil && field.DisplayAttrs.Identifier
}

// checkFields refuses values that the framework would silently convert or would
// repeat in an error. In a write it also refuses unknown fields, so that a
// misspelt name does not store a role that lacks the field.
func checkFields(schema map[string]*framework.FieldSchema, req *logical.Request) error {
	var unknown []string
	size := 0
	for _, name := range slices.Sorted(maps.Keys(req.Data)) {
		field, known := schema[name]
		if !known || standsInPath(field) {
			unknown = append(unknown, name)
			continue
		}
		size += sizeOf(req.Data[name])
		if err := checkType(name, field.Type, req.Data[name]); err != nil {
			return err
		}
	}
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation:
	default:
		return nil // the framework warns of unknown fields
	}
	if unknown != nil {
		return unknownFields(unknown, writable(schema))
	}
	if size > maxBodySize {
		return fmt.Errorf("the fields have %d bytes in total; at most %d are accepted", size, maxBodySize)
	}
	return nil
}

// unknownFields is the error about fields that a path does not have. It begins with
// those that were probably meant.
func unknownFields(unknown, fields []string) error {
	var quoted, meant []string
	for _, name := range unknown[:min(len(unknown), maxQuotedFields)] {
		quoted = append(quoted, fmt.Sprintf("%.*q", maxQuotedField, name))
		if field := probableField(name, fields); field != "" && !slices.Contains(meant, field) {
			meant = append(meant, field)
		}
	}
	if more := len(unknown) - maxQuotedFields; more > 0 {
		quoted = append(quoted, fmt.Sprintf("and %d more", more))
	}
	text := "unknown field " + strings.Join(quoted, ", ")
	switch {
	case len(fields) == 0:
		return errors.New(text + "; this path takes no fields")
	case pipedWhole(unknown, fields) != "":
		return fmt.Errorf("%s; %s. The fields are: %s", text, pipedWhole(unknown, fields), strings.Join(fields, ", "))
	case meant != nil:
		return fmt.Errorf("%s; did you mean %s? The fields are: %s", text, enumerated(meant, " and "), strings.Join(fields, ", "))
	}
	return fmt.Errorf("%s; the fields are: %s", text, strings.Join(fields, ", "))
}

// writable returns the names of the fields that the body of a request may have.
func writable(schema map[string]*framework.FieldSchema) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(schema)), func(name string) bool { return standsInPath(schema[name]) })
}

func checkType(name string, fieldType framework.FieldType, value any) error {
	switch fieldType {
	case framework.TypeString:
		switch value.(type) {
		case nil, string:
		case float64, json.Number:
			return fmt.Errorf("%s: must be a string; put the number in quotes, or its digits may change on the way from Vault to the plugin", name)
		default:
			return fmt.Errorf("%s: must be a string, not an object, a list or a boolean", name)
		}
	case framework.TypeCommaStringSlice:
		if !isTextOrList(value) {
			return fmt.Errorf("%s: must be a list of strings, or one string with commas", name)
		}
	case framework.TypeDurationSecond:
		if err := checkDuration(value); err != nil {
			return fieldError(name, err)
		}
	case framework.TypeInt:
		if !converts(fieldType, value) || value == "" {
			return fmt.Errorf("%s: must be a whole number", name)
		}
	case framework.TypeBool:
		if !converts(fieldType, value) || value == "" {
			return fmt.Errorf("%s: must be true or false", name)
		}
	}
	return nil
}

// converts reports whether the framework can convert the value to the type.
func converts(fieldType framework.FieldType, value any) bool {
	data := framework.FieldData{
		Raw:    map[string]any{"field": value},
		Schema: map[string]*framework.FieldSchema{"field": {Type: fieldType}},
	}
	return data.Validate() == nil
}

// maxSeconds is the longest duration that Go can hold, in seconds.
const maxSeconds = math.MaxInt64 / int64(time.Second)

// checkDuration refuses durations that the framework would change.
func checkDuration(value any) error {
	if !isWholeSeconds(value) || !converts(framework.TypeDurationSecond, value) {
		return fmt.Errorf("must be a duration from 0 to %d seconds, without parts of a second: a number of seconds, or text such as 336h", maxSeconds)
	}
	return nil
}

func isWholeSeconds(value any) bool {
	switch value := value.(type) {
	case float64:
		return value == math.Trunc(value) && value >= 0 && value <= float64(maxSeconds)
	case json.Number:
		_, err := strconv.ParseInt(value.String(), 10, 64)
		return err == nil
	case string:
		duration, err := time.ParseDuration(value)
		return err != nil || duration%time.Second == 0 // the framework knows more forms
	}
	return true
}

// isTextOrList reports whether a value is text or a list of text. The framework
// would read other values as an empty list, or convert them to text.
func isTextOrList(value any) bool {
	switch value := value.(type) {
	case nil, string, []string:
		return true
	case []any:
		return !slices.ContainsFunc(value, func(element any) bool { _, text := element.(string); return !text })
	}
	return false
}

func sizeOf(value any) int {
	if text, ok := value.(string); ok {
		return len(text)
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return 0
	}
	return len(encoded)
}

// input reads the fields of one write. A field that the write does not name keeps
// its value. null, with which a merge patch removes a field, means the empty
// value.
type input struct{ *framework.FieldData }

// has reports whether the write names at least one of the fields.
func (in input) has(fields ...string) bool {
	return slices.ContainsFunc(fields, func(field string) bool {
		_, named := in.Raw[field]
		return named
	})
}

// isTrue reads a field of type [framework.TypeBool]; null is its default.
func (in input) isTrue(field string) bool {
	if in.Raw[field] == nil {
		value, _ := in.Schema[field].DefaultOrZero().(bool)
		return value
	}
	return in.Get(field).(bool)
}

func (in input) text(field string) string { return in.Get(field).(string) }

func (in input) list(field string) []string { return in.Get(field).([]string) }

// duration reads a field of type [framework.TypeDurationSecond].
func (in input) duration(field string) time.Duration {
	return time.Duration(in.Get(field).(int)) * time.Second
}

// matchesAny reports whether one of the patterns matches the name. '*' matches
// any characters.
func matchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return glob.Glob(pattern, name) })
}

// fieldError puts the name of a field in front of an error.
func fieldError(field string, err error) error { return fmt.Errorf("%s: %w", field, err) }

// fieldWarnings puts the name of a field in front of each warning.
func fieldWarnings(field string, warnings []string) []string {
	named := make([]string, len(warnings))
	for i, w := range warnings {
		named[i] = field + ": " + w
	}
	return named
}

// inputError is an error that the caller can correct. It gets status 400. Every
// other error is for the operator.
type inputError struct{ error }

func refuse(err error) error { return inputError{err} }

func refusef(format string, args ...any) error { return refuse(fmt.Errorf(format, args...)) }

// isInputError reports whether the caller can correct the error.
func isInputError(err error) bool {
	var in inputError
	return errors.As(err, &in)
}

// named returns the first field of fields, by name, that the write has. It is
// empty if the write has none of them.
func (in input) named(fields map[string]*framework.FieldSchema) string {
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if in.has(field) {
			return field
		}
	}
	return ""
}

// parseCAs returns the certificates of a field ca_pem together with the system's.
// It returns nil for an empty field: nil means the system's alone.
func parseCAs(text string) (*x509.CertPool, error) {
	if text == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("reading the system's CA certificates: %w", err)
	}
	for rest := []byte(text); len(bytes.TrimSpace(rest)) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, refusef("ca_pem: must hold only PEM certificates, each beginning with -----BEGIN CERTIFICATE-----")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, refusef("ca_pem: must hold valid certificates; one of them is damaged")
		}
		pool.AddCert(certificate)
	}
	return pool, nil
}

func connectionNameSchema() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Name of the connection: letters, digits and '_', with '.' or '-' inside. Case-sensitive.",
		Required:     true,
		DisplayAttrs: &framework.DisplayAttributes{Identifier: true},
	}
}

func roleNameField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Name of the role: letters, digits and '_', with '.' or '-' inside. Case-sensitive.",
		Required:     true,
		DisplayAttrs: &framework.DisplayAttributes{Identifier: true},
	}
}

// parseRolePatterns refuses patterns that no role name can match.
func parseRolePatterns(patterns []string) ([]string, error) {
	if len(patterns) > dockerconfig.MaxRegistries {
		return nil, fmt.Errorf("must have at most %d names, not %d", dockerconfig.MaxRegistries, len(patterns))
	}
	for i, pattern := range patterns {
		if checkName(strings.ReplaceAll(pattern, "*", "x")) != nil {
			return nil, fmt.Errorf("entry %d must be a role name, or a pattern such as team-* in which '*' matches any characters", i+1)
		}
	}
	return patterns, nil
}
