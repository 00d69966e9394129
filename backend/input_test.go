// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// Numbers arrive as json.Number in a plugin that is built into Vault. They can
// arrive as float64 in an external plugin.
func TestFieldTypesAreChecked(t *testing.T) {
	const number = "f: must be a string; put the number in quotes"
	const text = "f: must be a string, not an object, a list or a boolean"
	const list = "f: must be a list of strings, or one string with commas"
	const duration = "f: must be a duration from 0 to 9223372036 seconds, without parts of a second"
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
		{framework.TypeDurationSecond, "", ""},
		{framework.TypeDurationSecond, "1.5h", ""},
		{framework.TypeDurationSecond, "1000ms", ""},
		{framework.TypeDurationSecond, "14d", ""},
		{framework.TypeDurationSecond, 1.5, duration},
		{framework.TypeDurationSecond, json.Number("1.5"), duration},
		{framework.TypeDurationSecond, "1.5", duration},
		{framework.TypeDurationSecond, "1ms", duration},
		{framework.TypeDurationSecond, "5.9s", duration},
		{framework.TypeDurationSecond, "-1s", duration},
		{framework.TypeDurationSecond, 9223372037.0, duration},
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

// Vault's command line sends a list that somebody has written as JSON as one text.
func TestListsAreReadFromJSONText(t *testing.T) {
	schema := map[string]*framework.FieldSchema{"f": {Type: framework.TypeCommaStringSlice}}
	for written, want := range map[string][]string{
		`["a","b"]`:           {"a", "b"},
		"\t[ \"a\" ]\n":       {"a"},
		`["a,b"]`:             {"a,b"},
		`[]`:                  {},
		"\ufeff[\"a\"]":       {"a"},
		`a,b`:                 {"a", "b"},
		`["[::1]:5000","b"]`:  {"[::1]:5000", "b"},
		`[::1]:5000`:          {"[::1]:5000"},
		`[::1]:5000,[2001::]`: {"[::1]:5000", "[2001::]"},
		`[2001:db8::1]`:       {"[2001:db8::1]"},
	} {
		data, _, err := tidyFields(schema, fields{"f": written})
		if err != nil {
			t.Errorf("%s: refused: %v", written, err)
			continue
		}
		got := (&framework.FieldData{Raw: data, Schema: schema}).Get("f").([]string)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", written, diff)
		}
	}
	for _, written := range []string{`["a"`, `[a,b]`, `[a b]`, `["a",1]`, `[["a"]]`, `["a"],["b"]`, `[null]`, `['a']`} {
		if _, _, err := tidyFields(schema, fields{"f": written}); err == nil || !strings.HasPrefix(err.Error(), "f: must be a list: names with commas between them, such as a,b, or JSON text") {
			t.Errorf("%s: want a refusal that says how to write a list, got %v", written, err)
		}
	}
}

func TestTextIsTidied(t *testing.T) {
	schema := map[string]*framework.FieldSchema{
		"text": {Type: framework.TypeString}, "list": {Type: framework.TypeCommaStringSlice}, "time": {Type: framework.TypeDurationSecond},
	}
	written := fields{"text": "\ufeffa", "list": "\ufeffa,b", "time": "", "other": "\ufeff", "nothing": nil}
	got, warnings, err := tidyFields(schema, written)
	if err != nil {
		t.Fatal(err)
	}
	want := fields{"text": "a", "list": "a,b", "time": nil, "other": "\ufeff", "nothing": nil}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"list: its byte order mark was removed", "text: its byte order mark was removed"}, warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	if written["text"] != "\ufeffa" {
		t.Errorf("the request itself was changed: %q", written)
	}
	if _, _, err := tidyFields(schema, fields{"text": "a\x00b\x00c\x00"}); err == nil || !strings.HasPrefix(err.Error(), "text: must be UTF-8, and is UTF-16") {
		t.Errorf("UTF-16: want a refusal by name, got %v", err)
	}
}

func TestExpiryIsReadAsRFC3339(t *testing.T) {
	for text, want := range map[string]struct{ stored, warning string }{
		"2027-01-31T00:00:00Z":        {"2027-01-31T00:00:00Z", ""},
		"2027-01-31t00:00:00z":        {"2027-01-31T00:00:00Z", ""},
		"2027-01-31T02:00:00+02:00":   {"2027-01-31T00:00:00Z", ""},
		"2027-01-31T00:00:00.000Z":    {"2027-01-31T00:00:00Z", ""},
		"2027-01-31T00:00:00.9Z":      {"2027-01-31T00:00:00Z", "stored as 2027-01-31T00:00:00Z"},
		"2016-12-31T23:59:60Z":        {"2017-01-01T00:00:00Z", "stored as 2017-01-01T00:00:00Z"},
		"2017-01-01t00:59:60.5+01:00": {"2017-01-01T00:00:00Z", "stored as 2017-01-01T00:00:00Z"},
		"2026-12-31":                  {"2026-12-31T23:59:59Z", "stored as 2026-12-31T23:59:59Z"},
		"2028-02-29":                  {"2028-02-29T23:59:59Z", "stored as 2028-02-29T23:59:59Z"},
	} {
		at, warnings, err := parseExpiry(text)
		if err != nil || formatTime(at) != want.stored || strings.Join(warnings, "; ") != want.warning {
			t.Errorf("%s: want %+v, got %s, %q, %v", text, want, formatTime(at), warnings, err)
		}
	}
	for _, text := range []string{
		"2027-01-31T00:00:00,5Z", "2027-01-31 00:00:00Z", "2027-01-31T0:00:00Z", "2027-01-31T00:00:61Z", "2027-01-31T00:60:00Z",
		"2027-01-31T00:00:00", "2027-02-30", "31.12.2026", "12/31/2026", "-1", "1767225600", "never", "720h",
		"0001-01-01T00:00:00Z", "0001-12-31", "0000-12-31", " 2027-01-31", "2027-01-31T00:00:00+25:00",
	} {
		if at, _, err := parseExpiry(text); err == nil || !strings.HasPrefix(err.Error(), "must be an RFC 3339 time, such as") {
			t.Errorf("%s: want a refusal, got %s, %v", text, formatTime(at), err)
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
