// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

var credential = fields{"registry": "ghcr.io", "username": "me", "password": password}

// several is a Docker config of two registries, and what a role of it reads as.
var (
	several = `{"auths":{` +
		`"quay.io":{"username":"bot","password":"` + marker + `","email":"bot@example.com"},` +
		`"index.docker.io":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("hub:"+marker)) + `"}}}`
	severalReadBack = fields{
		"type":       "static",
		"registries": []string{"https://index.docker.io/v1/", "quay.io"},
		"credentials": []map[string]any{
			{"registry": "docker.io", "username": "hub"},
			{"registry": "quay.io", "username": "bot", "email": "bot@example.com"},
		},
		"updated_at": "2026-03-01T12:00:00Z",
	}
)

var appReadBack = fields{
	"type":       "static",
	"registries": []string{"ghcr.io"},
	"registry":   "ghcr.io",
	"username":   "me",
	"email":      "me@example.com",
	"expires_at": "2027-01-31T00:00:00Z",
	"updated_at": "2026-03-01T12:00:00Z",
}

func without(base fields, names ...string) fields {
	rest := with(base, nil)
	for _, name := range names {
		delete(rest, name)
	}
	return rest
}

func TestRoleReadsBackAllExceptItsPassword(t *testing.T) {
	for name, c := range map[string]struct{ write, want fields }{
		"all fields":     {samples["roles/app"], appReadBack},
		"required ones":  {credential, without(appReadBack, "email", "expires_at")},
		"Docker Hub":     {with(credential, fields{"registry": "https://index.docker.io/v1/"}), with(without(appReadBack, "email", "expires_at"), fields{"registry": "docker.io", "registries": []string{"https://index.docker.io/v1/"}})},
		"Docker config":  {fields{"dockerconfigjson": several}, severalReadBack},
		"base64 of it":   {fields{"dockerconfigjson": base64.StdEncoding.EncodeToString([]byte(several))}, severalReadBack},
		"another zone":   {with(credential, fields{"expires_at": "2027-01-31T02:30:00.5+02:00"}), with(without(appReadBack, "email"), fields{"expires_at": "2027-01-31T00:30:00Z"})},
		"a day's offset": {with(credential, fields{"expires_at": "2027-01-31T00:00:00+24:00"}), with(without(appReadBack, "email"), fields{"expires_at": "2027-01-30T00:00:00Z"})},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/app", c.write)
			checkSame(t, "role", c.want, e.read("roles/app"))
		})
	}
}

func TestUpdateKeepsFieldsItDoesNotName(t *testing.T) {
	type state struct{ registry, username, password, email, expires string }
	before := state{"ghcr.io", "me", password, "me@example.com", "2027-01-31T00:00:00Z"}
	for field, c := range map[string]struct {
		value string
		want  state
	}{
		"registry":   {"ghcr.io/team", state{"ghcr.io/team", before.username, before.password, before.email, before.expires}},
		"hostname":   {"ghcr.io/team", state{"ghcr.io/team", before.username, before.password, before.email, before.expires}},
		"username":   {"you", state{before.registry, "you", before.password, before.email, before.expires}},
		"password":   {marker + "2", state{before.registry, before.username, marker + "2", before.email, before.expires}},
		"email":      {"", state{before.registry, before.username, before.password, "", before.expires}},
		"expires_at": {"2028-01-01T00:00:00Z", state{before.registry, before.username, before.password, before.email, "2028-01-01T00:00:00Z"}},
	} {
		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
			t.Run(fmt.Sprintf("%s %s", op, field), func(t *testing.T) {
				e := newEngine(t)
				e.write("roles/app", samples["roles/app"])
				e.clock.advance(time.Hour)
				e.must(op, "roles/app", fields{field: c.value})

				docker := dockerJSON(t, c.want.registry, c.want.username, c.want.password, c.want.email)
				checkSame(t, "pull secret", fields{
					"registry": c.want.registry, "username": c.want.username, "password": c.want.password, "expires_at": c.want.expires,
					".dockerconfigjson": docker, "dockerconfigjson": base64.StdEncoding.EncodeToString([]byte(docker)),
				}, e.read("creds/app"))
				checkSame(t, "updated_at", any("2026-03-01T13:00:00Z"), e.read("roles/app")["updated_at"])
			})
		}
	}
}

// dockerJSON is what "kubectl create secret docker-registry" writes.
func dockerJSON(t *testing.T, registry, username, password, email string) string {
	t.Helper()
	encoded, err := json.Marshal(map[string]any{"auths": map[string]any{registry: struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Email    string `json:"email,omitempty"`
		Auth     string `json:"auth"`
	}{username, password, email, base64.StdEncoding.EncodeToString([]byte(username + ":" + password))}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

func TestPatchNeedsTheRole(t *testing.T) {
	e := newEngine(t)
	resp, err := e.request(logical.PatchOperation, "roles/app", credential)
	var coded logical.HTTPCodedError
	if !errors.As(err, &coded) || coded.Code() != http.StatusNotFound || resp != nil {
		t.Fatalf("want a 404 error, got response %v, error %v", resp, err)
	}
	checkContains(t, err.Error(), `role "app" does not exist`)
	checkSame(t, "storage", map[string]string{}, e.snapshot())
}

func TestNullRemovesOptionalFields(t *testing.T) {
	for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
		e := newSampledEngine(t)
		e.must(op, "roles/app", fields{"email": nil, "expires_at": nil})
		checkSame(t, "role", without(appReadBack, "email", "expires_at"), e.read("roles/app"))
	}
}

func TestNullIsNoValueForRequiredFields(t *testing.T) {
	e := newSampledEngine(t)
	for _, field := range []string{"registry", "hostname", "username", "password", "dockerconfigjson"} {
		e.refused(logical.PatchOperation, "roles/app", fields{field: nil}, field+": ", "empty")
	}
}

func TestDeletedRoleIsGone(t *testing.T) {
	e := newSampledEngine(t)
	for range 2 { // a second delete finds nothing and succeeds
		if resp := e.must(logical.DeleteOperation, "roles/app", nil); resp != nil {
			t.Errorf("want no response, got %v", resp)
		}
		for _, path := range []string{"roles/app", "creds/app", "creds/app/kubernetes", "creds/app/docker"} {
			if resp := e.must(logical.ReadOperation, path, nil); resp != nil {
				t.Errorf("%s: want no response (404), got %v", path, resp)
			}
		}
	}
}

func TestRolesAreListedByName(t *testing.T) {
	e := newEngine(t)
	checkSame(t, "no roles", fields{}, e.must(logical.ListOperation, "roles/", nil).Data)
	for _, name := range []string{"b", "a.b-c", "B", "a_1"} {
		e.write("roles/"+name, credential)
	}
	for _, path := range []string{"roles", "roles/"} {
		checkSame(t, path, fields{"keys": []string{"B", "a.b-c", "a_1", "b"}}, e.must(logical.ListOperation, path, nil).Data)
	}
}

func TestNamesDifferByCase(t *testing.T) {
	e := newEngine(t)
	e.write("roles/App", credential)
	e.write("roles/app", with(credential, fields{"username": "you"}))
	checkSame(t, "App", any("me"), e.read("creds/App")["username"])
	checkSame(t, "app", any("you"), e.read("creds/app")["username"])
}

func TestBadNamesAreRefused(t *testing.T) {
	e := newEngine(t)
	for _, name := range []string{".", "..", "-a", "a-", ".a", "a.", "a..b", "a b", "a\n", "ä", "a%2fb", "a*", "+", strings.Repeat("a", maxNameLength+1)} {
		for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation} {
			e.refused(op, "roles/"+name, nil, "role: must be at most 200 letters, digits and '_'")
		}
		e.refused(logical.ReadOperation, "creds/"+name, nil, "role: must be at most")
	}
	for _, name := range []string{"a", "_", "A.b-c_9", "a--b", strings.Repeat("a", maxNameLength)} {
		e.write("roles/"+name, credential)
		e.read("creds/" + name)
	}
}

// Otherwise anyone who can write the role could send its password to their own
// host.
func TestStoredPasswordGoesToNoOtherHost(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", credential)
	for _, other := range []string{"evil.example.com", "ghcr.io:5000", "docker.io", "*.io", "evil.example.com/ghcr.io"} {
		for _, data := range []fields{{"registry": other}, {"hostname": other}, {"registry": other, "username": "you", "verify": true}} {
			e.refused(logical.UpdateOperation, "roles/app", data, "registry: names a new host; write password in the same request")
			e.refused(logical.PatchOperation, "roles/app", data, "registry: names a new host; write password in the same request")
		}
	}
	if len(e.registries.asked) > 0 {
		t.Errorf("registries were asked: %v", e.registries.asked)
	}
	e.write("roles/app", fields{"registry": "ghcr.io/team"})
	e.write("roles/app", fields{"registry": "https://GHCR.IO/v2/"})
	e.write("roles/app", fields{"registry": "quay.io", "password": password})
	checkSame(t, "registry", "quay.io", e.read("creds/app")["registry"])
}

func TestHostnameMeansRegistry(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", fields{"hostname": "ghcr.io", "username": "me", "password": password})
	checkSame(t, "role", without(appReadBack, "email", "expires_at"), e.read("roles/app"))

	if resp := e.write("roles/app", fields{"hostname": "https://QUAY.io/", "registry": "quay.io", "password": password}); resp != nil {
		t.Errorf("both names, one registry: want no warning, got %v", resp)
	}
	checkSame(t, "registry", any("quay.io"), e.read("roles/app")["registry"])

	for _, hostname := range []any{"ghcr.io", "", nil, "a b"} {
		e.refused(logical.UpdateOperation, "roles/app", fields{"registry": "quay.io", "hostname": hostname}, "registry and hostname: mean the same and have different values")
	}
	checkWarnings(t, e.write("roles/app", fields{"hostname": "Docker.io", "password": password}).Warnings, `hostname: stored as "https://index.docker.io/v1/"`)
}

func TestDockerConfigReplacesTheRole(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", credential)
	resp := e.write("roles/app", fields{"dockerconfigjson": several})
	checkWarnings(t, resp.Warnings, `dockerconfigjson: auths["index.docker.io"]: stored as "https://index.docker.io/v1/"`)
	checkSame(t, "role of several", severalReadBack, e.read("roles/app"))

	for _, field := range []string{"registry", "hostname", "username", "password", "email"} {
		for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
			e.refused(op, "roles/app", fields{field: "x.example.com" + marker}, "this role holds 2 registries", "write the whole dockerconfigjson")
		}
	}
	e.write("roles/app", fields{"expires_at": "2027-01-31T00:00:00Z"})
	checkSame(t, "role of several", with(severalReadBack, fields{"expires_at": "2027-01-31T00:00:00Z"}), e.read("roles/app"))

	e.patch("roles/app", fields{"expires_at": nil, "dockerconfigjson": `{"auths":{"ghcr.io":{"username":"me","password":"` + marker + `"}}}`})
	e.write("roles/app", fields{"email": "me@example.com"})
	checkSame(t, "role of one", without(appReadBack, "expires_at"), e.read("roles/app"))
	checkSame(t, "password", any(marker), e.read("creds/app")["password"])
}

// What dockerconfig says of a value is in its own tests.
func TestRoleRefuses(t *testing.T) {
	docker := func(entry string) fields {
		return fields{"dockerconfigjson": `{"auths":{"ghcr.io":` + entry + `}}`}
	}
	for name, c := range map[string]struct {
		data fields // added to a complete credential if the role is new
		want []string
	}{
		"empty registry":        {fields{"registry": ""}, []string{"registry: "}},
		"user info":             {fields{"registry": "https://me:" + marker + "@ghcr.io"}, []string{"registry: "}},
		"query":                 {fields{"registry": "ghcr.io?token=" + marker}, []string{"registry: "}},
		"bad port":              {fields{"registry": "ghcr.io:" + marker}, []string{"registry: "}},
		"bad scheme":            {fields{"registry": marker + "://ghcr.io"}, []string{"registry: "}},
		"empty username":        {fields{"username": ""}, []string{"username: "}},
		"username with colon":   {fields{"username": "me:" + marker}, []string{"username: "}},
		"username with newline": {fields{"username": marker + "\n"}, []string{"username: "}},
		"empty password":        {fields{"password": ""}, []string{"password: "}},
		"only a newline":        {fields{"password": "\n"}, []string{"password: "}},
		"NUL":                   {fields{"password": marker + "\x00"}, []string{"password: "}},
		"not UTF-8":             {fields{"password": marker + "\uFFFD"}, []string{"password: "}},
		"email with newline":    {fields{"email": marker + "\n"}, []string{"email: "}},
		"no time":               {fields{"expires_at": "tomorrow " + marker}, []string{"expires_at: must be an RFC 3339 time, such as "}},
		"no such date":          {fields{"expires_at": "2027-02-30"}, []string{"expires_at: must be an RFC 3339 time"}},
		"zero time":             {fields{"expires_at": "0001-01-01T00:00:00Z"}, []string{"expires_at: must be an RFC 3339 time"}},
		"UTF-16":                {fields{"password": "\ufffd\ufffdm\x00e\x00.\x00\n\x00"}, []string{"password: must be UTF-8, and is UTF-16"}},
		"list of no list":       {fields{"allowed_bundles": "[a, b]"}, []string{"allowed_bundles: must be a list: names with commas"}},
		"number":                {fields{"password": 12345}, []string{"password: "}},
		"impossible offset":     {fields{"expires_at": "2027-01-31T00:00:00+25:00"}, []string{"expires_at: must be an RFC 3339 time"}},
		"after year 9999":       {fields{"expires_at": "9999-12-31T23:59:59-12:00"}, []string{"expires_at: must be an RFC 3339 time"}},
		"before year 0":         {fields{"expires_at": "0000-01-01T00:00:00+12:00"}, []string{"expires_at: must be an RFC 3339 time"}},
		"both forms":            {fields{"dockerconfigjson": several, "password": marker}, []string{"dockerconfigjson: already contains registry, username, password and email"}},
		"unknown field":         {fields{"pasword": marker}, []string{`unknown field "pasword"; did you mean password? The fields are: ` + strings.Join(writable(newEngine(t).roleSchema()), ", ")}},
		"unknown fields":        {fields{"z": marker, "a\n": marker}, []string{`unknown field "a\n", "z"`}},
		"long unknown field":    {fields{strings.Repeat("a", 1000): 1}, []string{`unknown field "` + strings.Repeat("a", maxQuotedField) + `"; `}},
		"role in the body":      {fields{"role": "app"}, []string{`unknown field "role"`}},
		"too large":             {fields{"password": strings.Repeat("a", 700_000), "email": strings.Repeat("b", 700_000)}, []string{"the fields have ", " at most 1048576"}},
		"one good, one bad":     {fields{"username": "you", "password": ""}, []string{"password: "}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSampledEngine(t)
			for _, op := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
				e.refused(op, "roles/app", c.data, c.want...)
			}
			e.refused(logical.UpdateOperation, "roles/new", with(credential, c.data), c.want...)
		})
	}
	for name, c := range map[string]struct {
		data fields
		want []string
	}{
		"empty":               {fields{"dockerconfigjson": ""}, []string{"dockerconfigjson: "}},
		"text":                {fields{"dockerconfigjson": marker}, []string{"dockerconfigjson: "}},
		"base64 of text":      {fields{"dockerconfigjson": base64.StdEncoding.EncodeToString([]byte(marker))}, []string{"dockerconfigjson: "}},
		"broken JSON":         {fields{"dockerconfigjson": `{"auths":{"ghcr.io":{"password":"` + marker}, []string{"dockerconfigjson: "}},
		"no auths":            {fields{"dockerconfigjson": `{"ghcr.io":{"password":"` + marker + `"}}`}, []string{"dockerconfigjson: "}},
		"no registry":         {fields{"dockerconfigjson": `{"auths":{}}`}, []string{"dockerconfigjson: "}},
		"helper":              {fields{"dockerconfigjson": `{"auths":{"ghcr.io":{}},"credsStore":"desktop"}`}, []string{`dockerconfigjson: auths["ghcr.io"] `}},
		"identity token":      {docker(`{"identitytoken":"` + marker + `"}`), []string{`dockerconfigjson: auths["ghcr.io"]`}},
		"no username":         {docker(`{"password":"` + marker + `"}`), []string{`dockerconfigjson: auths["ghcr.io"].username`}},
		"password is a list":  {docker(`{"username":"me","password":["` + marker + `"]}`), []string{`dockerconfigjson: auths["ghcr.io"].password`}},
		"auth differs":        {docker(`{"username":"me","password":"` + marker + `","auth":"bWU6b3RoZXI="}`), []string{`dockerconfigjson: auths["ghcr.io"].auth`}},
		"registry twice":      {fields{"dockerconfigjson": `{"auths":{"Ghcr.io":{"username":"a","password":"` + marker + `"},"ghcr.io/":{"username":"b","password":"` + marker + `"}}}`}, []string{`"Ghcr.io"`, `"ghcr.io/"`}},
		"URL with password":   {fields{"dockerconfigjson": `{"auths":{"https://me:` + marker + `@ghcr.io":{"auth":""}}}`}, []string{"dockerconfigjson: registry 1 of auths "}},
		"too many registries": {fields{"dockerconfigjson": manyRegistries(1001)}, []string{"dockerconfigjson: "}},
		"too large":           {docker(`{"username":"me","password":"` + strings.Repeat("a", 600_000) + `"}`), []string{"dockerconfigjson: ", "Kubernetes' limit"}},
	} {
		t.Run("Docker config/"+name, func(t *testing.T) {
			e := newSampledEngine(t)
			e.refused(logical.UpdateOperation, "roles/app", c.data, c.want...)
			e.refused(logical.PatchOperation, "roles/app", c.data, c.want...)
			e.refused(logical.UpdateOperation, "roles/new", c.data, c.want...)
		})
	}
}

func manyRegistries(n int) string {
	entries := make([]string, n)
	for i := range entries {
		entries[i] = fmt.Sprintf(`"r%d.example.com":{"username":"me","password":"%s"}`, i, marker)
	}
	return `{"auths":{` + strings.Join(entries, ",") + `}}`
}

func TestRoleHoldsThousandRegistries(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", fields{"dockerconfigjson": manyRegistries(1000)})
	if got := len(e.read("roles/app")["registries"].([]string)); got != 1000 {
		t.Errorf("want 1000 registries, got %d", got)
	}
}

func TestNewRoleMustBeComplete(t *testing.T) {
	e := newEngine(t)
	for want, data := range map[string]fields{
		"missing registry, username, password:": {},
		"missing username, password:":           {"hostname": "ghcr.io"},
		"missing registry, password:":           {"username": "me", "email": "me@example.com"},
		"missing registry, username:":           {"password": password},
		"missing password:":                     {"registry": "ghcr.io", "username": "me"},
	} {
		e.refused(logical.UpdateOperation, "roles/app", data, want)
	}
	e.refused(logical.UpdateOperation, "roles/app", fields{"expires_at": "2027-01-31T00:00:00Z"}, "missing registry, username, password: a new role needs registry, username and password, or dockerconfigjson, members or connection")
}

// Vault and the framework would repeat the value in an error.
func TestValuesOfWrongTypeAreNotRepeated(t *testing.T) {
	e := newSampledEngine(t)
	for field := range staticFields() {
		for _, value := range []any{fields{"value": marker}, []any{marker}, []any{marker, marker}, []any{[]any{marker}}, []any{}, fields{}, true, false} {
			want := field + ": must be a string, not an object, a list or a boolean"
			e.refused(logical.UpdateOperation, "roles/app", fields{field: value}, want)
			e.refused(logical.UpdateOperation, "roles/new", with(credential, fields{field: value}), want)
			e.refused(logical.PatchOperation, "roles/app", fields{field: value}, want)
			for _, op := range []logical.Operation{logical.ReadOperation, logical.DeleteOperation} {
				resp, err := e.request(op, "roles/missing", fields{field: value})
				checkHoldsNoSecret(t, string(op)+" with a bad "+field, []any{resp, err})
			}
		}
	}
}

func TestWriteWarns(t *testing.T) {
	for name, c := range map[string]struct {
		data fields
		want []string
	}{
		"nothing to say":        {fields{"username": "you"}, nil},
		"normalised registry":   {fields{"registry": "https://GHCR.io/v2/"}, []string{`registry: stored as "ghcr.io"`}},
		"path":                  {fields{"registry": "ghcr.io/team"}, []string{`registry: "ghcr.io/team" `}},
		"glob":                  {fields{"registry": "*.example.com", "password": marker, "expires_at": ""}, []string{`registry: "*.example.com" `}},
		"trailing newline":      {fields{"password": password + "\n", "expires_at": ""}, []string{"password: "}},
		"expiry stays":          {fields{"password": marker}, []string{"expires_at: stays 2027-01-31T00:00:00Z"}},
		"expiry stays, too":     {fields{"dockerconfigjson": `{"auths":{"ghcr.io":{"username":"me","password":"x"}}}`}, []string{"expires_at: stays 2027-01-31T00:00:00Z"}},
		"expiry comes, too":     {fields{"password": marker, "expires_at": "2028-01-31T00:00:00Z"}, nil},
		"expired":               {fields{"expires_at": "2026-03-01T12:00:00Z"}, []string{"expires_at: 2026-03-01T12:00:00Z is in the past"}},
		"just not expired":      {fields{"expires_at": "2026-03-01T12:00:01Z"}, nil},
		"members with no place": {fields{"expires_at": "", "dockerconfigjson": `{"auths":{"ghcr.io":{"username":"me","password":"x","extra":"` + marker + `"}},"psFormat":"` + marker + `"}`}, []string{`dockerconfigjson: auths["ghcr.io"]: left out, because`, `dockerconfigjson: left out, because`}},
		"byte order mark":       {fields{"username": "\ufeffme"}, []string{"username: its byte order mark was removed"}},
		"a date":                {fields{"expires_at": "2028-01-31"}, []string{"expires_at: stored as 2028-01-31T23:59:59Z"}},
		"token that ends":       {fields{"username": "AWS", "expires_at": ""}, []string{"username: AWS is the user name of a token of Amazon ECR"}},
		"token with an end":     {fields{"username": "AWS"}, nil},
		"end of a token":        {fields{"dockerconfigjson": `{"auths":{"ghcr.io":{"username":"me","password":"x"},"quay.io":{"username":"AWS","password":"x"}}}`, "expires_at": nil}, []string{`auths["quay.io"].username: AWS is the user name of a token`}},
		"robot of Harbor":       {fields{"username": "robot+ci"}, []string{"username: looks like the name of a Harbor robot account"}},
		"mark and wrong config": {fields{"dockerconfigjson": "\ufeff" + `{"kind":"Secret","data":{".dockerconfigjson":"eyJhdXRocyI6eyJnaGNyLmlvIjp7ImF1dGgiOiJiV1U2ZUE9PSJ9fX0="}}`, "expires_at": ""}, []string{"dockerconfigjson: is more than a Docker config; its .dockerconfigjson was stored", "dockerconfigjson: its byte order mark was removed"}},
		"list in JSON":          {fields{"allowed_bundles": `["a","b"]`}, nil},
		"all at once":           {fields{"hostname": "Quay.io/A", "password": marker + "\n"}, []string{"hostname: stored as", "hostname: ", "password: ", "expires_at: stays"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t)
			e.write("roles/app", samples["roles/app"])
			checkWarnings(t, warningsOf(e.write("roles/app", c.data)), c.want...)
		})
	}
}

func TestReadDuringWriteSeesOldOrNew(t *testing.T) {
	e := newEngine(t)
	write := func(i int) {
		value := fmt.Sprintf("r%d.example.com", i)
		e.write("roles/app", fields{"registry": value, "username": value, "password": value})
	}
	write(0)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				got := e.read("creds/app")
				if got["registry"] != got["username"] || got["username"] != got["password"] {
					t.Errorf("want one write's values, got a mix: %v", got)
				}
			}
		})
	}
	for i := range 200 {
		write(i)
	}
	close(done)
	readers.Wait()
}

// Vault checks its policies before the role is locked. A caller who may only create
// must not update a role that was created meanwhile.
func TestCreateOfAnExistingRoleIsRefused(t *testing.T) {
	e := newEngine(t)
	e.write("roles/app", credential)
	resp, err := e.HandleRequest(t.Context(), &logical.Request{
		Operation: logical.CreateOperation, Path: "roles/app", Storage: e.storage, Data: fields{"allowed_bundles": "mine"},
	})
	if err != nil || !resp.IsError() {
		t.Fatalf("want a refusal, got %v, %v", resp, err)
	}
	checkContains(t, resp.Error().Error(), `role "app" was created meanwhile`)
	checkSame(t, "allowed_bundles", nil, e.read("roles/app")["allowed_bundles"])
}

// Help texts have the fields of all types of role in one list.
func TestEachFieldOfARoleSaysOfWhichTypeItIs(t *testing.T) {
	fields := newEngine(t).roleSchema()
	for name, want := range map[string]string{
		"registry": "(static) ", "dockerconfigjson": "(static) ", "members": "(bundle) ", "connection": "(dynamic) ", "ttl": "(dynamic) Leased: ",
		"allowed_bundles": "(static, dynamic) ", "access": "(dockerhub, ecr, gar, gitlab, harbor, quay) ", "user": "(gitea) ",
	} {
		if got := fields[name].Description; !strings.HasPrefix(got, want) {
			t.Errorf("%s: want a description that begins with %q, got %q", name, want, got)
		}
	}
	for name, field := range fields {
		if !standsInPath(field) && name != "verify" && !strings.HasPrefix(field.Description, "(") {
			t.Errorf("%s: the description does not say which roles have it: %q", name, field.Description)
		}
		sentences := strings.Split(strings.TrimSuffix(field.Description, "."), ". ")
		slices.Sort(sentences)
		if len(slices.Compact(slices.Clone(sentences))) != len(sentences) {
			t.Errorf("%s: a sentence stands there twice: %q", name, field.Description)
		}
	}
}

// after and limit work as in OpenBao's own lists.
func TestListsCanBeReadInPages(t *testing.T) {
	e := newEngine(t)
	e.write("connections/app", e.connectionSample())
	for _, name := range []string{"b", "c", "a", "d"} {
		e.write("roles/"+name, credential)
		e.write("connections/"+name, e.connectionSample())
	}
	e.must(logical.DeleteOperation, "connections/app", nil)
	for _, path := range []string{"roles/", "connections"} {
		for _, c := range []struct {
			page fields
			want []string
		}{
			{fields{}, []string{"a", "b", "c", "d"}},
			{fields{"limit": "2"}, []string{"a", "b"}},
			{fields{"after": "b", "limit": 1}, []string{"c"}},
			{fields{"after": "b"}, []string{"c", "d"}},
			{fields{"after": "bb", "limit": "9"}, []string{"c", "d"}},
			{fields{"after": "", "limit": 0}, []string{"a", "b", "c", "d"}},
			{fields{"limit": "-1"}, []string{"a", "b", "c", "d"}},
			{fields{"after": "d"}, nil},
		} {
			want := fields{}
			if c.want != nil {
				want["keys"] = c.want
			}
			checkSame(t, fmt.Sprint(path, " ", c.page), want, e.must(logical.ListOperation, path, c.page).Data)
		}
		e.refused(logical.ListOperation, path, fields{"limit": "many"}, "limit: must be a whole number")
		e.refused(logical.ListOperation, path, fields{"after": []string{"a", "b"}}, "after: must be a string")
	}
}

// unsortedStorage lists in another order, as databases do that are not asked for one.
type unsortedStorage struct{ logical.Storage }

func (s unsortedStorage) List(ctx context.Context, prefix string) ([]string, error) {
	names, err := s.Storage.List(ctx, prefix)
	slices.Reverse(names)
	return names, err
}

func TestPagesOfAnUnsortedStorageAreSorted(t *testing.T) {
	e := newEngine(t)
	for _, name := range []string{"a", "b", "c"} {
		e.write("roles/"+name, credential)
		e.write("connections/"+name, e.connectionSample())
	}
	e.storage = unsortedStorage{e.storage}
	for _, path := range []string{"roles/", "connections/"} {
		checkSame(t, path, fields{"keys": []string{"b", "c"}}, e.must(logical.ListOperation, path, fields{"after": "a"}).Data)
	}
}

func TestPageIsAPartOfTheListInMemory(t *testing.T) {
	e := newEngine(t)
	for i := range 100 {
		e.store(fmt.Sprintf("roles/role-%03d", i), "{}")
	}
	all := e.must(logical.ListOperation, "roles/", nil).Data["keys"].([]string)
	page := e.must(logical.ListOperation, "roles/", fields{"after": "role-041", "limit": 3}).Data["keys"].([]string)
	checkSame(t, "page", []string{"role-042", "role-043", "role-044"}, page)
	if &page[0] != &all[42] {
		t.Error("want a part of the list in memory, got a copy")
	}
	if cap(page) != len(page) {
		t.Error("want a page that cannot be appended to in place")
	}
}

// What a read answers can be written under another name, except of a static role, whose
// password no read answers.
func TestReadBackOfARoleCanBeWritten(t *testing.T) {
	e := newSharingEngine(t)
	e.write("roles/member", member("a.example.com", "*"))
	e.write("roles/bundle", fields{"members": "member"})
	e.write("roles/leased", with(leasedRole, fields{"ttl": "15m", "max_ttl": "2h", "verify_repository": "group/app"}))
	e.write("roles/app", fields{"allowed_bundles": "all", "grace_period": "30m"})
	e.read("creds/app")
	for name, left := range map[string]string{
		"bundle": "registries, type, updated_at",
		"leased": "registries, type, updated_at",
		"app":    "expires_at, last_vault_rotation, next_rotation, registries, type, updated_at, username",
	} {
		read := e.read("roles/" + name)
		checkWarnings(t, warningsOf(e.write("roles/copy-"+name, read)), "left out, because the engine sets them: "+left)
		checkSame(t, "copy of "+name, without(read, strings.Split(left, ", ")...), without(e.read("roles/copy-"+name), strings.Split(left, ", ")...))
	}
	e.refused(logical.UpdateOperation, "roles/copy", e.read("roles/member"), "missing password: ")
	e.refused(logical.UpdateOperation, "roles/copy", fields{"type": "other", "members": "member"}, `unknown field "type"`)
	e.refused(logical.UpdateOperation, "roles/copy", fields{"updated_at": "x", "members": "member"}, `unknown field "updated_at"`)
	e.refused(logical.UpdateOperation, "roles/copy", fields{"type": "bundle", "members": "member", "pasword": marker}, `unknown field "pasword"`)
	e.refused(logical.UpdateOperation, "roles/app", e.read("roles/leased"), "mode: is shared and cannot be changed")
	e.refused(logical.UpdateOperation, "roles/app", e.read("roles/bundle"), "this role holds credentials of its own")
}
