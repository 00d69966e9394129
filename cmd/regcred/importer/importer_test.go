// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
	"vault-plugin-secrets-regcred/cmd/regcred/internal/vaulttest"
)

// tests of the whole import, against a real Vault and a real cluster, are in the
// repository's module tests.

func kvSource(name string, fields map[string]any, mappings ...string) *source {
	s := newSource(name)
	var layouts []layout
	for _, text := range mappings {
		l, err := parseLayout(text)
		if err != nil {
			panic(err)
		}
		layouts = append(layouts, l)
	}
	s.read(append(layouts, usualLayouts...), fields)
	return s
}

func TestLayouts(t *testing.T) {
	const config = `{"auths":{"ghcr.io":{"username":"u","password":"p","auth":"dTpw"}}}`
	for what, s := range map[string]*source{
		"registry":          kvSource("a", map[string]any{"registry": "ghcr.io", "username": "u", "password": "p"}),
		"hostname":          kvSource("a", map[string]any{"hostname": "https://GHCR.io/", "username": "u", "password": "p", "owner": "team"}),
		"newline":           kvSource("a", map[string]any{"hostname": "ghcr.io\n", "username": "u", "password": "p\n"}),
		"dockerconfigjson":  kvSource("a", map[string]any{"dockerconfigjson": config}),
		".dockerconfigjson": kvSource("a", map[string]any{".dockerconfigjson": base64.StdEncoding.EncodeToString([]byte(config))}),
		"object":            kvSource("a", map[string]any{"dockerconfigjson": map[string]any{"auths": map[string]any{"ghcr.io": map[string]any{"auth": "dTpw"}}}}),
		"the secret":        kvSource("a", map[string]any{"auths": map[string]any{"ghcr.io": map[string]any{"auth": "dTpw"}}}),
		"mapping":           kvSource("a", map[string]any{"server": "ghcr.io", "user": "u", "token": "p"}, "registry=server,username=user,password=token"),
		"mapping goes first": kvSource("a", map[string]any{"registry": "wrong.example.com", "username": "u", "password": "wrong", "token": "p"},
			"registry:ghcr.io,username=username,password=token"),
		"text":        kvSource("ghcr.io/bot", map[string]any{"token": "p"}, "registry:{folder},username:u,password=token"),
		"config":      kvSource("a", map[string]any{"cfg": config}, "dockerconfigjson=cfg"),
		"null email":  kvSource("a", map[string]any{"registry": "ghcr.io", "username": "u", "password": "p", "email": nil}),
		"a dockercfg": func() *source { s := newSource("a"); s.fromDockercfg(`{"ghcr.io":{"auth":"dTpw"}}`); return s }(),
	} {
		if s.leftOut != "" || string(s.docker.JSON()) != config {
			t.Errorf("%s: got %q, %s", what, s.leftOut, s.docker.JSON())
		}
		if len(s.before) != 1 {
			t.Errorf("%s: want one login before, got %d", what, len(s.before))
		}
	}
}

// Each reason is for a person who has to mend the source.
func TestReasonsForLeavingOut(t *testing.T) {
	marker := vaulttest.Marker
	docker := func(text string) *source { return kvSource("a", map[string]any{"dockerconfigjson": text}) }
	big := func(n int) string {
		return `{"auths":{"ghcr.io":{"username":"u","password":"` + strings.Repeat("x", n) + `"}}}`
	}
	cfg := newSource("a")
	cfg.fromDockercfg(`["` + marker + `"]`)
	for what, c := range map[string]struct {
		s    *source
		want string
	}{
		"identity token":    {docker(`{"auths":{"acme.azurecr.io":{"identitytoken":"` + marker + `"}}}`), "kubelet could use: it ignores identitytoken"},
		"helper":            {docker(`{"auths":{"ghcr.io":{}},"credsStore":"desktop"}`), "holds no password"},
		"no password":       {docker(`{"auths":{"ghcr.io":{"username":"` + marker + `"}}}`), "password: must not be empty"},
		"empty password":    {kvSource("a", map[string]any{"registry": "ghcr.io", "username": marker, "password": ""}), "password: must not be empty"},
		"auth contradicts":  {docker(`{"auths":{"ghcr.io":{"username":"u","password":"` + marker + `","auth":"dTpw"}}}`), "must say the same"},
		"two spellings":     {docker(`{"auths":{"ghcr.io":{"auth":"dTpw"},"https://ghcr.io/":{"auth":"dTpw"}}}`), "are the same registry"},
		"user with colon":   {kvSource("a", map[string]any{"registry": "ghcr.io", "username": marker + ":x", "password": marker}), "username: must not contain ':'"},
		"no JSON":           {docker(`{"auths": ` + marker), "valid JSON"},
		"no object":         {cfg, ".dockercfg: must be a JSON object"},
		"number":            {kvSource("a", map[string]any{"registry": "ghcr.io", "username": "u", "password": json.Number("123456789012345678")}), "field password: is a number"},
		"list":              {kvSource("a", map[string]any{"registry": "ghcr.io", "username": "u", "password": []any{marker}}), "field password: must be text"},
		"one field missing": {kvSource("a", map[string]any{"registry": "ghcr.io", "password": marker}), "has the fields password, registry, and not username"},
		"mapping":           {kvSource("a", map[string]any{"user": marker, "pw": marker}, "registry=host,username=user,password=pw"), "has the fields pw, user, and not host"},
		"other":             {kvSource("a", map[string]any{"dsn": marker}), "has the fields dsn; give a mapping"},
		"empty":             {kvSource("a", map[string]any{}), "has no fields"},
		"fields swapped":    {kvSource("a", map[string]any{"registry": marker, "username": "ghcr.io", "password": "p"}), "registry: has neither"},
		"key is a password": {docker(`{"auths":{"` + marker + `":{"username":"u"}}}`), "registry: has neither"},
		"too big":           {docker(big(1 << 20)), "1048576"},
		"too big as text":   {docker(strings.Replace(big(1), "x", strings.Repeat(`\"`, 250<<10), 1)), "is too big"},
	} {
		if !strings.Contains(c.s.leftOut, c.want) || strings.Contains(c.s.leftOut, "\n") {
			t.Errorf("%s: want %q, got %q", what, c.want, c.s.leftOut)
		}
		if text := c.s.leftOut + fmt.Sprint(c.s.notes); strings.Contains(strings.ToLower(text), strings.ToLower(marker)) {
			t.Errorf("%s shows a secret: %s", what, text)
		}
	}
}

func TestNotes(t *testing.T) {
	s := kvSource("a", map[string]any{"hostname": "docker.io", "username": "AWS", "password": "p\n", "owner": "x", "zone": "y"})
	all := strings.Join(s.notes, "\n")
	for _, want := range []string{`registry: stored as "https://index.docker.io/v1/"`, "password: its trailing newline", "username: AWS is the user name of a token of Amazon ECR", "left out: owner, zone"} {
		if !strings.Contains(all, want) {
			t.Errorf("want %q in %s", want, all)
		}
	}
}

func named(t *testing.T, args []string, sources ...*source) map[string][]string {
	t.Helper()
	o, err := parse(args)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]string{}
	for _, g := range join(o, sources) {
		var all []string
		for _, s := range g.sources {
			all = append(all, s.name)
		}
		names[g.name] = append(names[g.name], strings.Join(all, "+"))
	}
	return names
}

func TestNames(t *testing.T) {
	with := func(name, registry, password string) *source {
		s := newSource(name)
		s.fromFields(registry, "u", password, "")
		return s
	}
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(rules, []byte(`
sources:
- {match: "a/skipped", skip: true}
- {match: "*/named", name: "own-{name}"}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		args    []string
		sources []*source
		want    map[string][]string
	}{
		"slashes, spaces, case and dots": {
			[]string{"kv", "kv"},
			[]*source{with("Team A/my  app", "ghcr.io", "1"), with("x/../y..z", "ghcr.io", "2"), with("-é-ü.", "ghcr.io", "3"), with("pct%2f", "ghcr.io", "4")},
			map[string][]string{"Team-A-my-app": {"Team A/my app"}, "x-.-y.z": {"x/../y..z"}, "": {"-é-ü."}, "pct-2f": {"pct%2f"}},
		},
		"clash": {
			[]string{"kv", "kv"},
			[]*source{with("a b", "ghcr.io", "1"), with("a-b", "ghcr.io", "2")},
			map[string][]string{"a-b": {"a b", "a-b"}},
		},
		"duplicates in KV have the name of the first": {
			[]string{"kv", "kv"},
			[]*source{with("a/x", "ghcr.io", "1"), with("b/y", "ghcr.io", "1"), with("c/z", "ghcr.io", "2")},
			map[string][]string{"a-x": {"a/x+b/y"}, "c-z": {"c/z"}},
		},
		"duplicates of a cluster have a name without namespace": {
			[]string{"secrets"},
			[]*source{with("a/regcred", "ghcr.io", "1"), with("b/regcred", "ghcr.io", "1"), with("c/regcred", "ghcr.io:5000", "1"), with("d/regcred", "ghcr.io:5000", "1"), with("e/regcred", "ghcr.io", "2")},
			map[string][]string{"ghcr.io-regcred": {"a/regcred+b/regcred"}, "ghcr.io-5000-regcred": {"c/regcred+d/regcred"}, "e-regcred": {"e/regcred"}},
		},
		"duplicates with the same name keep it": {
			[]string{"secrets", "-name={name}"},
			[]*source{with("a/regcred", "ghcr.io", "1"), with("b/regcred", "ghcr.io", "1")},
			map[string][]string{"regcred": {"a/regcred+b/regcred"}},
		},
		"joined by name": {
			[]string{"secrets", "-join=name", "-name={namespace}"},
			[]*source{with("a/one", "ghcr.io", "1"), with("a/two", "quay.io", "2"), with("a/three", "ghcr.io", "1"), with("b/regcred", "ghcr.io", "1")},
			map[string][]string{"a": {"a/one+a/two+a/three"}, "b": {"b/regcred"}},
		},
		"not joined": {
			[]string{"secrets", "-join=none", "-name={namespace}"},
			[]*source{with("a/one", "ghcr.io", "1"), with("a/two", "ghcr.io", "1"), with("b/regcred", "ghcr.io", "1")},
			map[string][]string{"a": {"a/one+a/two"}, "b": {"b/regcred"}},
		},
		"rules": {
			[]string{"secrets", "-rules=" + rules},
			[]*source{with("a/skipped", "ghcr.io", "1"), with("a/named", "ghcr.io", "1"), with("b/named", "ghcr.io", "1"), with("c/other", "ghcr.io", "1")},
			map[string][]string{"own-named": {"a/named+b/named"}, "c-other": {"c/other"}},
		},
	} {
		got := named(t, c.args, c.sources...)
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: want %v, got %v", what, c.want, got)
		}
	}
	if checkName("") == "" || checkName(strings.Repeat("x", 201)) == "" || checkName(strings.Repeat("x", 200)) != "" {
		t.Error("names that no role can have must be refused")
	}
}

func TestMerge(t *testing.T) {
	of := func(credentials ...string) *source {
		s := newSource("x")
		var entries []string
		for _, c := range credentials {
			registry, login, _ := strings.Cut(c, " ")
			entries = append(entries, `"`+registry+`":{"auth":"`+base64.StdEncoding.EncodeToString([]byte(login))+`"}`)
		}
		s.fromDocker(`{"auths":{` + strings.Join(entries, ",") + `}}`)
		if s.leftOut != "" {
			t.Fatal(s.leftOut)
		}
		return s
	}
	docker, clash := group{sources: []*source{of("ghcr.io u:1"), of("quay.io u:2", "ghcr.io u:1"), of("docker.io u:3")}}.merge()
	if keys := fmt.Sprint(docker.Keys()); clash != "" || keys != "[ghcr.io https://index.docker.io/v1/ quay.io]" {
		t.Errorf("got %s, %q", keys, clash)
	}
	for what, c := range map[string]struct {
		second, want string
	}{
		"password":  {"ghcr.io u:2", "x and x have different credentials for ghcr.io"},
		"user name": {"ghcr.io v:1", "x and x have different credentials for ghcr.io"},
		"size":      {"quay.io u:" + strings.Repeat("x", 300<<10), "together: "},
	} {
		first := of("ghcr.io u:1")
		if what == "size" {
			first = of("ghcr.io u:" + strings.Repeat("x", 300<<10))
		}
		if _, clash := (group{sources: []*source{first, of(c.second)}}).merge(); !strings.HasPrefix(clash, c.want) {
			t.Errorf("%s: want %q, got %q", what, c.want, clash)
		}
	}
}

func TestRulesOfRoles(t *testing.T) {
	r := rules{Roles: []roleRule{
		{Match: "team-a-*", Registry: "ghcr.io", VerifyRepository: "acme/app"},
		{Match: "team-*", AllowedBundles: []string{"all"}},
		{Registry: "docker.io", AllowedBundles: []string{"hub"}},
		{Match: "nothing", AllowedBundles: []string{}},
	}}
	for _, c := range []struct {
		name, registry, want string
	}{
		{"team-a-x", "ghcr.io", "acme/app []"},
		{"team-a-x", "quay.io", " [all]"},
		{"app", "docker.io", " [hub]"},
	} {
		got := r.role(c.name, []string{c.registry})
		if got == nil || fmt.Sprint(got.VerifyRepository, " ", got.AllowedBundles) != c.want {
			t.Errorf("%s, %s: want %s, got %+v", c.name, c.registry, c.want, got)
		}
	}
	if r.role("app", []string{"quay.io"}) != nil {
		t.Error("want no rule")
	}
	if got := r.unused(); !slices.Equal(got, []string{"roles[3] (nothing)"}) {
		t.Errorf("want the rule that is for nothing, got %q", got)
	}
}

func TestArgumentsAreChecked(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		f, err := os.CreateTemp(dir, "*.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		return "-rules=" + f.Name()
	}
	for _, args := range [][]string{
		{"vault"},
		{"kv"},
		{"kv", "a", "b"},
		{"secrets", "kv"},
		{"kv", "kv", "-namespace=a"},
		{"kv", "kv", "-o=yaml"},
		{"kv", "kv", "-join=false"},
		{"kv", "kv", "-name="},
		{"kv", "kv", "-name={namespace}"},
		{"kv", "kv", "-name={path"},
		{"secrets", "-name={path}"},
		{"secrets", "-namespace="}, // of a variable that is not set
		{"secrets", "-namespace=.."},
		{"secrets", "-namespace=a,b"},
		{"kv", "kv", "-fields=registry"},
		{"kv", "kv", "-fields=registry=a,username=b"},
		{"kv", "kv", "-fields=registry=a,username=b,password=c,password=d"},
		{"kv", "kv", "-fields=registry=a,username=b,password:" + vaulttest.Marker},
		{"kv", "kv", "-fields=registry:ghcr.io,username:a,password:" + vaulttest.Marker + ",x"},
		{"kv", "kv", "-fields=dockerconfigjson=a,email=b"},
		{"kv", "kv", "-fields=registry:{x},username=b,password=c"},
		{"kv", "kv", "-fields=host=a"},
		{"kv", "kv", "-rules=/nonexistent"},
		{"kv", "kv", file("sources: [{skip: true}]")},
		{"kv", "kv", file("sources: [{match: a}]")},
		{"kv", "kv", file("sources: [{match: a, skip: true, name: b}]")},
		{"kv", "kv", file("sources: [{match: a, name: '{namespace}'}]")},
		{"kv", "kv", file("roles: [{match: a}]")},
		{"kv", "kv", file("role: []")},
	} {
		_, err := parse(args)
		if err == nil || strings.Contains(client.Line(err), "\n") || client.Line(err) == "an internal error" || strings.Contains(client.Line(err), vaulttest.Marker) {
			t.Errorf("%q: want one line that says why, got %v", args, err)
		}
	}
	for _, args := range [][]string{{"kv", "kv", "-apply"}, {"kv", "-apply", "kv"}, {"kv", "-apply", "kv", "-v"}} {
		if o, err := parse(args); err != nil || o.path != "kv" || !o.apply {
			t.Errorf("%q: got %+v, %v", args, o, err)
		}
	}
}

// fakeKubectl is a program in place of kubectl that runs a script.
func fakeKubectl(t *testing.T, script string) *options {
	t.Helper()
	program := filepath.Join(t.TempDir(), "kubectl")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &options{kind: kindSecrets, kubectl: program}
}

// kubectl may say anything, and nothing of it is shown.
func TestFaultsOfKubectl(t *testing.T) {
	vaulttest.CleanEnv(t)
	for said, want := range map[string]string{
		`echo 'Error from server (Forbidden): secrets is forbidden: User "` + vaulttest.Marker + `"' >&2; exit 1`: "may not list Secrets",
		`echo 'error: You must be logged in to the server (Unauthorized) ` + vaulttest.Marker + `' >&2; exit 1`:   "not logged in",
		`echo 'error: context "` + vaulttest.Marker + `" does not exist' >&2; exit 1`:                             "no such context",
		`echo 'The connection to the server x was refused - ` + vaulttest.Marker + `' >&2; exit 1`:                "does not answer",
		`echo 'tls: x509: ` + vaulttest.Marker + `' >&2; exit 1`:                                                  "certificate of the cluster",
		`echo 'Error from server (Expired): continue parameter is too old ` + vaulttest.Marker + `' >&2; exit 1`:  "took too long",
		`echo 'Error from server (BadRequest): unable to parse requirement ` + vaulttest.Marker + `' >&2; exit 1`: "refuses -selector",
		`echo ` + vaulttest.Marker + ` >&2; exit 3`:                                                               "kubectl failed",
		`echo '{"kind":"Status","message":"` + vaulttest.Marker + `"}'`:                                           "did not answer with a list of Secrets",
		`echo '<html>` + vaulttest.Marker + `'`:                                                                   "did not answer with a list of Secrets",
		`echo '{"kind":"SecretList","items":[{"data":{"x":"` + vaulttest.Marker + `"}}]}'`:                        "did not answer with a list of Secrets",
		`true`: "did not answer with a list of Secrets",
		`yes ` + vaulttest.Marker + ` | head -c 1000000 >&2; yes ` + vaulttest.Marker + ` | head -c 1000000; exit 1`: "kubectl failed",
	} {
		_, _, err := readCluster(t.Context(), fakeKubectl(t, said))
		if err == nil || !strings.Contains(client.Line(err), want) || strings.Contains(client.Line(err), vaulttest.Marker) {
			t.Errorf("%s: want %q, got %v", said, want, err)
		}
	}
	_, _, err := readCluster(t.Context(), &options{kind: kindSecrets, kubectl: "/nonexistent/kubectl"})
	if err == nil || !strings.Contains(client.Line(err), "was not found") {
		t.Errorf("want that there is no kubectl, got %v", err)
	}
}

func TestClusterIsReadInPages(t *testing.T) {
	vaulttest.CleanEnv(t)
	t.Setenv("VAULT_TOKEN", vaulttest.Token)
	asked := filepath.Join(t.TempDir(), "asked")
	data := base64.StdEncoding.EncodeToString([]byte(`{"auths":{"ghcr.io":{"auth":"dTpw"}}}`))
	older := base64.StdEncoding.EncodeToString([]byte(`{"ghcr.io":{"auth":"dTpw"}}`))
	item := func(name, owner, field, data string) string {
		return `{"metadata":{"namespace":"a","name":"` + name + `","ownerReferences":[` + owner + `]},"data":{"` + field + `":"` + data + `"}}`
	}
	o := fakeKubectl(t, `echo "$* token=$VAULT_TOKEN" >> `+asked+`
case "$*" in
*continue=next*) echo '{"kind":"SecretList","items":[`+item("two", `{"kind":"ExternalSecret","name":"es","controller":true}`, ".dockerconfigjson", data)+`]}' ;;
*dockercfg*) echo '{"kind":"SecretList","items":[`+item("old", "", ".dockercfg", older)+","+item("none", "", "x", older)+`]}' ;;
*) echo '{"kind":"SecretList","metadata":{"continue":"next"},"items":[`+item("one", "", ".dockerconfigjson", data)+`]}' ;;
esac`)
	o.context, o.namespaces, o.selector = "prod", []string{"a"}, "team=a"
	sources, from, err := readCluster(t.Context(), o)
	if err != nil || from != "namespaces a of prod" {
		t.Fatalf("got %q, %v", from, err)
	}
	var got []string
	for _, s := range sources {
		got = append(got, s.name+" "+s.leftOut+strings.Join(s.notes, ""))
	}
	want := []string{"a/none has no field .dockercfg", "a/old ", "a/one ", "a/two a controller writes this Secret; its next change will not reach the role: ExternalSecret es"}
	if !slices.Equal(got, want) {
		t.Errorf("want %q, got %q", want, got)
	}
	requests, err := os.ReadFile(asked)
	if err != nil {
		t.Fatal(err)
	}
	const query = "--context=prod get --raw /api/v1/namespaces/a/secrets?"
	if lines := strings.Split(strings.TrimSpace(string(requests)), "\n"); !slices.Equal(lines, []string{
		query + "fieldSelector=type%3Dkubernetes.io%2Fdockerconfigjson&labelSelector=team%3Da&limit=100 token=",
		query + "continue=next&fieldSelector=type%3Dkubernetes.io%2Fdockerconfigjson&labelSelector=team%3Da&limit=100 token=",
		query + "fieldSelector=type%3Dkubernetes.io%2Fdockercfg&labelSelector=team%3Da&limit=100 token=",
	}) {
		t.Errorf("got the requests %q", lines)
	}
}

// A panic in one of the requests at once must not print what was worked on.
func TestPanicOfARequestSaysNothing(t *testing.T) {
	err := each(3, func(int) error { panic(vaulttest.Marker) })
	if err == nil || strings.Contains(err.Error(), vaulttest.Marker) {
		t.Errorf("got %v", err)
	}
}

// Each answer that a server or a proxy may give is one line without a secret.
func TestFaultsOfVault(t *testing.T) {
	s := vaulttest.New(t)
	t.Setenv("VAULT_ADDR", s.URL)
	t.Setenv("VAULT_TOKEN", vaulttest.Token)
	t.Setenv("VAULT_MAX_RETRIES", "0")
	answers := map[string]string{
		"sys/internal/ui/mounts/kv": `{"data":{"type":"kv","path":"kv/","options":{"version":"1"}}}`,
		"kv":                        `{"data":{"keys":["a"]}}`,
		"kv/a":                      `{"data":{"registry":"ghcr.io","username":"` + vaulttest.Marker + `-u","password":"` + vaulttest.Marker + `-p"}}`,
		"regcred/roles":             `{"data":{"keys":["a"]}}`,
		"regcred/roles/a":           `{"data":{"type":"static","updated_at":"2026-01-01T00:00:00Z"}}`,
	}
	s.PullSecret("a", [][3]string{{"ghcr.io", vaulttest.Marker + "-u", vaulttest.Marker + "-other"}})
	for broken := range answers {
		for what, body := range map[string]string{
			"other": `{"data":{"type":7,"keys":{"` + vaulttest.Marker + `":1},"updated_at":"` + vaulttest.Marker + `"}}`,
			"html":  "<html>" + vaulttest.Marker,
			"cut":   `{"data":{"` + vaulttest.Marker,
		} {
			for path, answer := range answers {
				s.Answer(path, answer)
			}
			s.Answer(broken, body)
			checkQuiet(t, broken+", "+what, "kv", "kv", "-apply", "-overwrite=*")
		}
	}
	for path, answer := range answers {
		s.Answer(path, answer)
	}
	for _, status := range []int{400, 403, 404, 429, 500, 503} {
		s.Fail(vaulttest.Echo(status))
		checkQuiet(t, fmt.Sprint(status), "kv", "kv")
	}
	s.Fail(nil)
	var out bytes.Buffer
	s.Answer("kv", `{"data":{"keys":[]}}`)
	if status, err := Run(t.Context(), []string{"kv", "kv"}, &out); status != StatusFailed || err == nil || !strings.Contains(client.Line(err), "there are no pull secrets in kv (KV version 1)") {
		t.Errorf("a mistake in the path must not look like success; got %d, %v", status, err)
	}
	s.Answer("kv", answers["kv"])
	out.Reset()
	status, err := Run(t.Context(), []string{"kv", "kv"}, &out)
	if status != StatusPartial || err != nil || !strings.Contains(out.String(), "another password for ghcr.io; it was last written 2026-01-01T00:00:00Z") || strings.Contains(out.String(), vaulttest.Marker) {
		t.Errorf("got %d, %v, %s", status, err, out.String())
	}
}

func checkQuiet(t *testing.T, what string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	status, err := Run(t.Context(), args, &out)
	text := out.String()
	if err != nil {
		text += client.Line(err)
	}
	if strings.Contains(text, vaulttest.Marker) || status == StatusDone || strings.Contains(text, "internal error") {
		t.Errorf("%s: got %d, %s", what, status, text)
	}
}
