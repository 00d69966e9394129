// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Numbers arrive as json.Number in a plugin that is built into Vault. They can
// arrive as float64 in an external plugin.
func TestFieldTypesAreChecked(t *testing.T) {
	const number = "f: must be a string; put the number in quotes"
	const text = "f: must be a string, not an object, a list or a boolean"
	const list = "f: must be a list of strings, or one string with commas"
	const duration = "f: must be a duration of 0 or more"
	for _, c := range []struct {
		fieldType framework.FieldType
		value     any
		want      string // empty: accepted
	}{
		{framework.TypeString, "", ""},
		{framework.TypeString, "text", ""},
		{framework.TypeString, nil, ""},
		{framework.TypeString, json.Number("12345678901234567890"), number},
		{framework.TypeString, 1e20, number},
		{framework.TypeString, true, text},
		{framework.TypeString, []any{"a"}, text},
		{framework.TypeString, fields{}, text},
		{framework.TypeCommaStringSlice, "a,b", ""},
		{framework.TypeCommaStringSlice, []any{"a", "b"}, ""},
		{framework.TypeCommaStringSlice, []any{}, ""},
		{framework.TypeCommaStringSlice, nil, ""},
		{framework.TypeCommaStringSlice, []any{"a", nil}, list},
		{framework.TypeCommaStringSlice, []any{"a", 1.0}, list},
		{framework.TypeCommaStringSlice, fields{}, list},
		{framework.TypeCommaStringSlice, false, list},
		{framework.TypeCommaStringSlice, 1.0, list},
		{framework.TypeDurationSecond, "24h", ""},
		{framework.TypeDurationSecond, "60", ""},
		{framework.TypeDurationSecond, json.Number("60"), ""},
		{framework.TypeDurationSecond, 60.0, ""},
		{framework.TypeDurationSecond, nil, ""},
		{framework.TypeDurationSecond, -1.0, duration},
		{framework.TypeDurationSecond, json.Number("9223372036854775807"), duration},
		{framework.TypeDurationSecond, 1e300, duration},
		{framework.TypeDurationSecond, "soon", duration},
		{framework.TypeDurationSecond, []any{1.0}, duration},
		{framework.TypeDurationSecond, true, duration},
	} {
		err := checkType("f", c.fieldType, c.value)
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && !strings.HasPrefix(got, c.want) {
			t.Errorf("%s, %T %v: want %q, got %q", c.fieldType, c.value, c.value, c.want, got)
		}
	}
}

func TestSizeLimitCountsAllFields(t *testing.T) {
	schema := staticFields()
	for excess, accepted := range []bool{true, false} {
		data := fields{"password": strings.Repeat("a", maxBodySize-4), "email": "1234" + strings.Repeat("b", excess)}
		req := &logical.Request{Operation: logical.UpdateOperation, Data: data}
		if err := checkFields(schema, req); (err == nil) != accepted {
			t.Errorf("%d bytes too many: got error %v", excess, err)
		}
	}
}
