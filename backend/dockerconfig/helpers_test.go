// SPDX-License-Identifier: MPL-2.0

package dockerconfig_test

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/leaktest"
)

// marker is part of every secret of these tests. No error, warning or printed value may
// contain it or its base64.
const marker = "s3cr3t"

// planted finds the marker in any encoding.
var planted = func() *leaktest.Marks {
	var marks leaktest.Marks
	marks.Add("the secret of the test", marker)
	return &marks
}()

// holdNoSecret fails the test if one of the texts contains the marker.
func holdNoSecret(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if found := planted.In(text); found != nil {
			t.Errorf("tells the secret: %q", found)
		}
	}
}

// refusal holds the words that an error must contain: wrong names the fault, and right
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

// plain is a credential that tests can compare and print.
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

// wantWarnings compares whole warnings. nil and empty are equal.
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
