// SPDX-License-Identifier: MPL-2.0

package dockerconfig_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// marker stands in every secret of these tests. No error, warning or print may
// contain it, nor base64 of it.
const marker = "s3cr3t"

// markerForms are the texts by which the marker shows: plain, as fmt prints its
// bytes, and within base64.
var markerForms = append([]string{
	marker,
	fmt.Sprintf("%x", marker), fmt.Sprintf("%X", marker), fmt.Sprintf("% x", marker), strings.Trim(fmt.Sprintf("%d", []byte(marker)), "[]"),
}, base64Forms(marker)...)

// base64Forms returns what base64 of a text that contains s always contains,
// for each of the three positions at which s may start. First and last
// characters also depend on the neighbours of s, so they are cut.
func base64Forms(s string) []string {
	var forms []string
	for offset := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", offset) + s))
		first := (offset*8 + 5) / 6
		last := (offset + len(s)) * 8 / 6
		forms = append(forms, encoded[first:last])
	}
	return forms
}

// holdNoSecret fails the test where one of the texts tells the marker.
func holdNoSecret(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		for _, form := range markerForms {
			if strings.Contains(text, form) {
				t.Errorf("tells the secret (%q): %q", form, text)
			}
		}
	}
}

// refusal says which words an error must have: wrong names the fault, right
// says what would be accepted.
type refusal struct{ wrong, right string }

func (r refusal) check(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted; want an error with %q and %q", r.wrong, r.right)
	}
	holdNoSecret(t, err.Error())
	for _, words := range []string{r.wrong, r.right} {
		if words == "" {
			t.Fatal("the table must say what the error says is wrong and would be right")
		}
		if !strings.Contains(err.Error(), words) {
			t.Errorf("error %q\n has not %q", err, words)
		}
	}
}

// plain is a credential that can be compared and printed.
type plain struct{ Registry, Username, Password, Email string }

func (p plain) credential() dockerconfig.Credential {
	return dockerconfig.Credential{
		Registry: dockerconfig.Key(p.Registry),
		Username: p.Username,
		Password: dockerconfig.NewSecret(p.Password),
		Email:    p.Email,
	}
}

func plainOf(config dockerconfig.Config) []plain {
	var list []plain
	for _, c := range config.Credentials() {
		list = append(list, plain{string(c.Registry), c.Username, c.Password.Reveal(), c.Email})
	}
	return list
}

func newConfig(t *testing.T, list ...plain) dockerconfig.Config {
	t.Helper()
	var credentials []dockerconfig.Credential
	for _, p := range list {
		credentials = append(credentials, p.credential())
	}
	config, err := dockerconfig.New(credentials...)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return config
}

func wantEqual(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// wantWarnings compares whole warnings, and takes nil and empty for the same.
func wantWarnings(t *testing.T, want, got []string) {
	t.Helper()
	holdNoSecret(t, got...)
	if !slices.Equal(want, got) {
		t.Errorf("warnings (-want +got):\n%s", cmp.Diff(want, got))
	}
}

func encode64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// quote returns s as a JSON string.
func quote(s string) string {
	encoded, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(encoded)
}

func TestMarkerIsFoundInBase64AtAnyPosition(t *testing.T) {
	for _, before := range []string{"", "u", "us", "use", "user:"} {
		for _, after := range []string{"", "1", "12", "123"} {
			encoded := encode64(before + marker + after)
			if !slices.ContainsFunc(base64Forms(marker), func(form string) bool { return strings.Contains(encoded, form) }) {
				t.Errorf("no form of the marker found in base64 of %q", before+marker+after)
			}
		}
	}
}
