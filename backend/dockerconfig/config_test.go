// SPDX-License-Identifier: MPL-2.0

package dockerconfig_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// The expected bytes come from "kubectl create secret docker-registry" 1.35.4, which
// accepts only one registry and no empty email.
var encodings = []struct {
	name           string
	credentials    []plain
	json, authJSON string
}{
	{
		"without email",
		[]plain{{"registry.example.com", "u", "p", ""}},
		`{"auths":{"registry.example.com":{"username":"u","password":"p","auth":"dTpw"}}}`,
		`{"auths":{"registry.example.com":{"auth":"dTpw"}}}`,
	},
	{
		"with email",
		[]plain{{"registry.example.com", "user", marker, "ci@example.com"}},
		`{"auths":{"registry.example.com":{"username":"user","password":"s3cr3t","email":"ci@example.com","auth":"dXNlcjpzM2NyM3Q="}}}`,
		`{"auths":{"registry.example.com":{"auth":"dXNlcjpzM2NyM3Q="}}}`,
	},
	{
		"all that JSON escapes and all that it does not",
		[]plain{{"registry.example.com", `üser<&>"q`, "<a>&\"b\"\\c'\u2028\u2029😀é:\x7f\t\n\x08\x0c\x01/", "a<b>@example.com"}},
		`{"auths":{"registry.example.com":{"username":"üser\u003c\u0026\u003e\"q","password":"\u003ca\u003e\u0026\"b\"\\c'\u2028\u2029😀é:` + "\x7f" +
			`\t\n\b\f\u0001/","email":"a\u003cb\u003e@example.com","auth":"w7xzZXI8Jj4icTo8YT4mImIiXGMn4oCo4oCp8J+YgMOpOn8JCggMAS8="}}}`,
		`{"auths":{"registry.example.com":{"auth":"w7xzZXI8Jj4icTo8YT4mImIiXGMn4oCo4oCp8J+YgMOpOn8JCggMAS8="}}}`,
	},
	{
		"keys sorted as bytes",
		[]plain{
			{"registry.example.com/team", "d", "4", ""},
			{"https://index.docker.io/v1/", "b", "2", "b@example.com"},
			{"registry.example.com", "c", "3", ""},
			{"*.example.com", "a", "1", ""},
			{"registry.example.com:5000", "e", "5", ""},
		},
		`{"auths":{` +
			`"*.example.com":{"username":"a","password":"1","auth":"YTox"},` +
			`"https://index.docker.io/v1/":{"username":"b","password":"2","email":"b@example.com","auth":"Yjoy"},` +
			`"registry.example.com":{"username":"c","password":"3","auth":"Yzoz"},` +
			`"registry.example.com/team":{"username":"d","password":"4","auth":"ZDo0"},` +
			`"registry.example.com:5000":{"username":"e","password":"5","auth":"ZTo1"}}}`,
		`{"auths":{` +
			`"*.example.com":{"auth":"YTox"},` +
			`"https://index.docker.io/v1/":{"auth":"Yjoy"},` +
			`"registry.example.com":{"auth":"Yzoz"},` +
			`"registry.example.com/team":{"auth":"ZDo0"},` +
			`"registry.example.com:5000":{"auth":"ZTo1"}}}`,
	},
	{
		"auth with + and / of the standard alphabet, and both lengths of padding",
		[]plain{{"a.example.com", "u", "~~~???>>>", ""}, {"b.example.com", "u", "~~~???>>", ""}, {"c.example.com", "u", "ÿÿÿ", ""}},
		`{"auths":{` +
			`"a.example.com":{"username":"u","password":"~~~???\u003e\u003e\u003e","auth":"dTp+fn4/Pz8+Pj4="},` +
			`"b.example.com":{"username":"u","password":"~~~???\u003e\u003e","auth":"dTp+fn4/Pz8+Pg=="},` +
			`"c.example.com":{"username":"u","password":"ÿÿÿ","auth":"dTrDv8O/w78="}}}`,
		`{"auths":{"a.example.com":{"auth":"dTp+fn4/Pz8+Pj4="},"b.example.com":{"auth":"dTp+fn4/Pz8+Pg=="},"c.example.com":{"auth":"dTrDv8O/w78="}}}`,
	},
}

func TestConfigIsTheBytesThatKubectlWrites(t *testing.T) {
	for _, row := range encodings {
		t.Run(row.name, func(t *testing.T) {
			config := newConfig(t, row.credentials...)
			wantEqual(t, "JSON", row.json, string(config.JSON()))
			wantEqual(t, "AuthJSON", row.authJSON, string(config.AuthJSON()))
			wantEqual(t, "second JSON", row.json, string(config.JSON()))
		})
	}
}

func TestConfigIsTheSameInWhateverOrderItIsMade(t *testing.T) {
	a, b, c := plain{"a.example.com", "u", "1", ""}, plain{"b.example.com", "u", "2", ""}, plain{"c.example.com", "u", "3", ""}
	want := newConfig(t, a, b, c)
	for _, list := range [][]plain{{c, b, a}, {b, a, c}, {c, a, b}} {
		got := newConfig(t, list...)
		wantEqual(t, "JSON", string(want.JSON()), string(got.JSON()))
		wantEqual(t, "Credentials", []plain{a, b, c}, plainOf(got))
	}
}

func TestDecodeReadsWhatJSONWrote(t *testing.T) {
	for _, row := range encodings {
		t.Run(row.name, func(t *testing.T) {
			config := newConfig(t, row.credentials...)
			decoded, err := dockerconfig.Decode(config.JSON())
			if err != nil {
				t.Fatalf("Decode: %v", err)
			}
			wantEqual(t, "credentials", plainOf(config), plainOf(decoded))
			wantEqual(t, "JSON", row.json, string(decoded.JSON()))
		})
	}
}

func TestDecodeKeepsWhatIsRefusedToday(t *testing.T) {
	stored := `{"auths":{"Ghcr.IO/":{"username":"a:b","password":"\u0000p\n","auth":"YTpiOgBwCg=="},"ghcr.io":{"username":"u","password":"p","auth":"dTpw"}}}`
	config, err := dockerconfig.Decode([]byte(stored))
	if err != nil {
		t.Fatalf("Decode: %v", err)
	}
	wantEqual(t, "credentials", []plain{{"Ghcr.IO/", "a:b", "\x00p\n", ""}, {"ghcr.io", "u", "p", ""}}, plainOf(config))
	wantEqual(t, "JSON", stored, string(config.JSON()))
}

func TestDecodeRefusesWhatJSONNeverWrites(t *testing.T) {
	for _, stored := range []string{
		"", "null", "[]", "{}", `{"auths":{}}`, `{"auths":null}`, `{"auths":["` + marker + `"]}`, `{"auths":{"ghcr.io":"` + marker + `"}}`,
		`{"auths":{"ghcr.io":{"password":["` + marker + `"]}}}`, `{"auths":{"ghcr.io":{"password":"` + marker, marker,
		`{"auths":{"ghcr.io":{"username":"u","password":"` + marker + `"}}}` + marker,
	} {
		t.Run(stored, func(t *testing.T) {
			_, err := dockerconfig.Decode([]byte(stored))
			refusal{"not a Docker config", "as written by this package"}.check(t, err)
		})
	}
}

func TestNewRefusesNoRegistry(t *testing.T) {
	_, err := dockerconfig.New()
	refusal{"a pull secret must hold", "at least one registry"}.check(t, err)
}

func TestNewRefusesTheSameRegistryTwice(t *testing.T) {
	a, b := plain{"a.example.com", "u", marker, ""}.credential(), plain{"b.example.com", "u", marker, ""}.credential()
	for _, list := range [][]dockerconfig.Credential{{a, a}, {a, b, a}, {b, a, a}} {
		_, err := dockerconfig.New(list...)
		refusal{`registry "a.example.com"`, "only once"}.check(t, err)
	}
}

// many returns n credentials of different registries.
func many(n int) []dockerconfig.Credential {
	list := make([]dockerconfig.Credential, n)
	for i := range list {
		list[i] = plain{fmt.Sprintf("r%d.example.com", i), "u", marker, ""}.credential()
	}
	return list
}

func TestNumberOfRegistriesIsLimited(t *testing.T) {
	if dockerconfig.MaxRegistries != 1000 {
		t.Fatalf("MaxRegistries: want 1000, as in docs/api.md, got %d", dockerconfig.MaxRegistries)
	}
	config, err := dockerconfig.New(many(1000)...)
	if err != nil {
		t.Fatalf("1000 registries refused: %v", err)
	}
	wantEqual(t, "number of credentials", 1000, len(config.Credentials()))
	parsed, _, err := dockerconfig.Parse(string(config.AuthJSON()))
	if err != nil {
		t.Fatalf("Parse refused 1000 registries: %v", err)
	}
	wantEqual(t, "JSON", string(config.JSON()), string(parsed.JSON()))

	_, err = dockerconfig.New(many(1001)...)
	refusal{"not 1001", "at most 1000 registries"}.check(t, err)

	tooMany := strings.Replace(string(config.AuthJSON()), `{"auths":{`, `{"auths":{"one-more.example.com":{"auth":"dTpw"},`, 1)
	_, _, err = dockerconfig.Parse(tooMany)
	refusal{"not 1001", "at most 1000 registries"}.check(t, err)
}

// ofSize returns a credential whose Docker config has size bytes.
func ofSize(t *testing.T, size int) plain {
	t.Helper()
	// The password counts once as it is, and once with a third more in auth.
	credential := plain{"ghcr.io", "u", strings.Repeat(marker, size*3/7/len(marker)-100), "e"}
	credential.Email = strings.Repeat("e", 1+size-len(newConfig(t, credential).JSON()))
	return credential
}

func TestSizeIsLimitedToThatOfAKubernetesSecret(t *testing.T) {
	const limit = 1 << 20
	largest := ofSize(t, limit)
	config := newConfig(t, largest)
	wantEqual(t, "size", limit, len(config.JSON()))

	tooLarge := largest
	tooLarge.Email += "e"
	_, err := dockerconfig.New(tooLarge.credential())
	refusal{fmt.Sprintf("this one would have %d", limit+1), fmt.Sprintf("at most %d bytes, Kubernetes' limit for a Secret", limit)}.check(t, err)

	// The limit is for the output, not for the input.
	auth := encode64("u:" + strings.Repeat(marker, limit/2/len(marker)))
	input := `{"auths":{"ghcr.io":{"auth":"` + auth + `"}}}`
	if len(input) >= limit {
		t.Fatalf("input of %d bytes is over the limit itself", len(input))
	}
	_, _, err = dockerconfig.Parse(input)
	refusal{"this one would have", "Kubernetes' limit for a Secret"}.check(t, err)
}

func TestConfigCannotBeChangedFromOutside(t *testing.T) {
	input := []dockerconfig.Credential{
		plain{"b.example.com", "u", "p", ""}.credential(),
		plain{"a.example.com", "u", "p", ""}.credential(),
	}
	config, err := dockerconfig.New(input...)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	before := string(config.JSON())
	if input[0].Registry != "b.example.com" {
		t.Errorf("New sorted the caller's slice: it starts with %q; want b.example.com", input[0].Registry)
	}
	input[0].Username = "changed"
	config.Credentials()[0].Username = "changed"
	wantEqual(t, "JSON", before, string(config.JSON()))
}

// readAuths reads a Docker config like kubelet and Docker.
func readAuths(t *testing.T, encoded []byte) map[string]map[string]string {
	t.Helper()
	var read struct {
		Auths map[string]map[string]string `json:"auths"`
	}
	if err := json.Unmarshal(encoded, &read); err != nil {
		t.Fatalf("not JSON: %v", err)
	}
	return read.Auths
}

// readAuth reads the field auth like Docker, which is the strictest tool.
func readAuth(t *testing.T, auth string) (username, password string) {
	t.Helper()
	decoded, err := base64.StdEncoding.Strict().DecodeString(auth)
	if err != nil {
		t.Fatalf("auth is not padded standard base64: %v", err)
	}
	username, password, found := strings.Cut(string(decoded), ":")
	if !found || username == "" {
		t.Fatal("Docker would not load auth: it has no user name in front of a ':'")
	}
	return username, strings.Trim(password, "\x00")
}
