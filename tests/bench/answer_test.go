// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type fields = map[string]any

// differs compares the data of two answers. Only the digits of ttl may differ,
// because time passes between the two.
func differs(regcred, floor fields) string {
	return cmp.Diff(timeless(regcred), timeless(floor))
}

func timeless(data fields) fields {
	masked := fields{}
	for name, value := range data {
		if number, ok := value.(json.Number); ok && name == "ttl" {
			value = fmt.Sprintf("a number of %d digits", len(number))
		}
		masked[name] = value
	}
	return masked
}

func TestAnswersDifferInAnythingButDigitsOfTTL(t *testing.T) {
	answer := fields{"username": "u", "password": "p", "ttl": json.Number("2591999"), "rotation_period": json.Number("2592000")}
	with := func(name string, value any) fields {
		changed := fields{name: value}
		for n, v := range answer {
			if n != name {
				changed[n] = v
			}
		}
		return changed
	}
	if diff := differs(answer, with("ttl", json.Number("2591900"))); diff != "" {
		t.Errorf("fewer seconds of the same length are the same answer: %s", diff)
	}
	for name, other := range map[string]fields{
		"another password":      with("password", "q"),
		"a field more":          with("registry", "r"),
		"no ttl":                {"username": "u", "password": "p", "rotation_period": json.Number("2592000")},
		"a shorter ttl":         with("ttl", json.Number("259190")),
		"a ttl that is text":    with("ttl", "2591999"),
		"another number":        with("rotation_period", json.Number("2592001")),
		"a number that is text": with("rotation_period", "2592000"),
	} {
		if differs(answer, other) == "" {
			t.Errorf("%s: want a difference", name)
		}
	}
}
