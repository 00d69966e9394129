// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"
	"sigs.k8s.io/yaml"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// The tools of consumers_*_test.go do not run here. Each test does what the
// tool's own code does, and names the file of that code: which request the tool
// derives from its example in examples/, and what it makes of the answer of a
// real Vault. The tools that do run are tested in tests/e2e.

// The names that the examples share.
const (
	exampleAddress  = "https://vault.example.com:8200"
	exampleRegistry = "registry.gitlab.com"
	exampleType     = "kubernetes.io/dockerconfigjson"
	exampleUsername = "gitlab+deploy-token-910431"
	examplePassword = "gl\"dt\\-<&>'$9: Qm\n🔑"
)

// exampleConfig is the pull secret of the role in the examples, made without
// the engine.
func exampleConfig() string {
	auth := base64.StdEncoding.EncodeToString([]byte(exampleUsername + ":" + examplePassword))
	password, _ := json.Marshal(examplePassword)
	return fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%s,"auth":%q}}}`, exampleRegistry, exampleUsername, password, auth)
}

// exampleSecret is the Secret that every tool for Kubernetes must make.
func exampleSecret() secret {
	return secret{"regcred", "app", exampleType, map[string]string{".dockerconfigjson": exampleConfig()}}
}

// secret is a Kubernetes Secret; its data is not encoded.
type secret struct {
	Name, Namespace, Type string
	Data                  map[string]string
}

func (s secret) isTheExample() error {
	if diff := cmp.Diff(exampleSecret(), s); diff != "" {
		return fmt.Errorf("the Secret is not as it should be (-want +got):\n%s", diff)
	}
	return nil
}

// consumer is a tool with its example, and a Vault with the role that it names.
type consumer struct {
	*testing.T
	vault  *servers.Vault
	tool   string
	tokens map[string]string // by the text of their policy
}

func newConsumer(t *testing.T, tool string) *consumer {
	t.Helper()
	t.Parallel()
	c := &consumer{t, servers.StartVault(t), tool, map[string]string{}}
	write(t, c.vault.Client, "regcred/roles/my_app", fields{"registry": exampleRegistry, "username": exampleUsername, "password": examplePassword})
	return c
}

// attempt is one use of a tool: its files, and its requests to Vault with a
// token that has the policy of the example and no other, not even "default".
type attempt struct {
	*api.Client
	vault *servers.Vault
	files map[string]string
	asked map[string]bool // paths of its requests, except those below sys
}

func (c *consumer) start(files map[string]string, policy string) (*attempt, error) {
	token, found := c.tokens[files[policy]]
	if !found {
		name := fmt.Sprintf("%s-%d", c.tool, len(c.tokens))
		if err := c.vault.Client.Sys().PutPolicy(name, files[policy]); err != nil {
			return nil, err
		}
		var err error
		if token, err = c.vault.NewToken(name); err != nil {
			return nil, err
		}
		c.tokens[files[policy]] = token
	}
	client, err := c.vault.Client.Clone()
	if err != nil {
		return nil, err
	}
	client.SetToken(token)
	return &attempt{client, c.vault, files, map[string]bool{}}, nil
}

func (c *consumer) asRoot() *attempt {
	return &attempt{c.vault.Client, c.vault, nil, map[string]bool{}}
}

// does checks that the tool gets the pull secret with these files of its
// example, that it makes only requests which the policy allows, and that it
// fails when any line is missing or any word is misspelt.
func (c *consumer) does(policy string, others []string, tool func(*attempt) error) {
	c.Helper()
	files := c.examples(append(slices.Clone(others), policy)...)
	use := func(files map[string]string) (*attempt, error) {
		r, err := c.start(files, policy)
		if err != nil {
			return nil, err
		}
		return r, tool(r)
	}

	r, err := use(files)
	if err != nil {
		c.Fatalf("with the example as it stands: %v", err)
	}
	var allowed []string
	for _, match := range regexp.MustCompile(`(?m)^path "(.*)" \{$`).FindAllStringSubmatch(files[policy], -1) {
		allowed = append(allowed, match[1])
	}
	if diff := cmp.Diff(allowed, slices.Sorted(maps.Keys(r.asked))); diff != "" {
		c.Errorf("%s allows other paths than the tool asks for (-allowed +asked):\n%s", policy, diff)
	}
	// What the pages say of a misspelt path, and of a role that does not exist.
	for _, path := range allowed {
		if _, err := r.Logical().Read(path + "x"); !strings.HasPrefix(path, "sys/") && !isStatus(err, http.StatusForbidden) {
			c.Errorf("%s: want status 403 for the misspelt path %sx, got %v", policy, path, err)
		}
	}

	c.everyWordCounts(files, func(files map[string]string) error {
		_, err := use(files)
		return err
	})
}

// examples reads files of the tool's example.
func (c *consumer) examples(names ...string) map[string]string {
	c.Helper()
	files := map[string]string{}
	for _, name := range names {
		content, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", c.tool, name))
		if err != nil {
			c.Fatal(err)
		}
		files[name] = string(content)
	}
	return files
}

// everyWordCounts checks that a use of the files fails when any line is missing
// or any word is misspelt.
func (c *consumer) everyWordCounts(files map[string]string, use func(files map[string]string) error) {
	c.Helper()
	for name, content := range files {
		for _, change := range changes(content) {
			changed := maps.Clone(files)
			changed[name] = change.content
			if err := use(changed); err == nil {
				c.Errorf("examples/%s/%s: no difference %s", c.tool, name, change.what)
			}
		}
	}
}

type change struct{ what, content string }

var word = regexp.MustCompile(`[A-Za-z0-9][A-Za-z0-9_-]*`)

// changes returns every way to leave out a line or to misspell a word.
func changes(content string) []change {
	var all []change
	lines := strings.SplitAfter(content, "\n")
	for i, line := range lines {
		if strings.TrimSpace(line) != "" {
			all = append(all, change{
				fmt.Sprintf("without the line %q", strings.TrimSpace(line)),
				strings.Join(slices.Concat(lines[:i], lines[i+1:]), ""),
			})
		}
	}
	for _, at := range word.FindAllStringIndex(content, -1) {
		all = append(all, change{
			fmt.Sprintf("with %[1]qx in place of %[1]q at byte %[2]d", content[at[0]:at[1]], at[0]),
			content[:at[1]] + "x" + content[at[1]:],
		})
	}
	return all
}

// get reads as every tool does that uses Vault's own client.
func (r *attempt) get(path string, query map[string][]string) (*api.Secret, error) {
	r.asked[path] = true
	return r.Logical().ReadWithData(path, query)
}

// getJSON reads as the tools do that are not written in Go.
func (r *attempt) getJSON(path string, header http.Header) (status int, body map[string]any, err error) {
	r.asked[path] = true
	req, err := http.NewRequest(http.MethodGet, r.vault.Addr+"/v1/"+path, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("X-Vault-Token", r.Token())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	err = json.NewDecoder(resp.Body).Decode(&body)
	return resp.StatusCode, body, err
}

// kvVersion asks for the mount of a path, as "vault kv" does and the tools that
// copied this from it. The token needs no policy for that, except one that lets
// it read something in the mount.
func (r *attempt) kvVersion(path string) (mount string, version int, err error) {
	resp, err := r.Logical().ReadRaw("sys/internal/ui/mounts/" + path)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	secret, err := api.ParseSecret(resp.Body)
	if err != nil {
		return "", 0, err
	}
	mount, _ = secret.Data["path"].(string)
	if options, ok := secret.Data["options"].(map[string]any); ok && options["version"] == "2" {
		return mount, 2, nil
	}
	return mount, 1, nil
}

// getKV reads as those tools do after kvVersion.
func (r *attempt) getKV(at string) (map[string]any, error) {
	mount, version, err := r.kvVersion(at)
	if err != nil {
		return nil, err
	}
	if version == 2 {
		at = path.Join(mount, "data", strings.TrimPrefix(at, mount))
	}
	secret, err := r.get(at, nil)
	if err != nil {
		return nil, err
	}
	if secret == nil {
		return nil, fmt.Errorf("no secret found at %q", at)
	}
	if data, ok := secret.Data["data"].(map[string]any); ok && version == 2 {
		return data, nil
	}
	return secret.Data, nil
}

// object is the beginning of every manifest for Kubernetes.
type object struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
}

type metadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Annotations map[string]string `json:"annotations"`
}

func (o object) is(apiVersion, kind string) error {
	if o.APIVersion != apiVersion || o.Kind != kind {
		return fmt.Errorf("want %s %s, got %s %s", apiVersion, kind, o.APIVersion, o.Kind)
	}
	return nil
}

// parse reads the YAML documents of a file. A field that the type does not have
// is an error.
func (r *attempt) parse(file string, documents ...any) error {
	texts := strings.Split(r.files[file], "---\n")
	if len(texts) != len(documents) {
		return fmt.Errorf("want %d documents, got %d", len(documents), len(texts))
	}
	for i, text := range texts {
		if err := yaml.UnmarshalStrict([]byte(text), documents[i]); err != nil {
			return err
		}
	}
	return nil
}

// manifest is a core Secret.
type manifest struct {
	object
	Type       string            `json:"type"`
	Data       map[string]string `json:"data"`
	StringData map[string]string `json:"stringData"`
}

// stored returns the Secret that kube-apiserver would store for a manifest.
func (m manifest) stored() (secret, error) {
	stored := secret{m.Metadata.Name, m.Metadata.Namespace, m.Type, map[string]string{}}
	for key, value := range m.Data {
		decoded, err := base64.StdEncoding.DecodeString(value)
		if err != nil {
			return secret{}, err
		}
		stored.Data[key] = string(decoded)
	}
	maps.Copy(stored.Data, m.StringData)
	return stored, m.is("v1", "Secret")
}

func want[T any](what string, want, got T) error {
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("%s (-want +got):\n%s", what, diff)
	}
	return nil
}

// otherRoles writes roles of each other kind.
func (c *consumer) otherRoles() {
	c.Helper()
	for name, body := range map[string]fields{
		"hub":      {"registry": "docker.io", "username": "acme", "password": "s3cr3t", "allowed_bundles": "bundle"},
		"expiring": {"registry": "quay.io", "username": "acme", "password": "s3cr3t", "email": "ops@example.com", "expires_at": "2199-01-31T00:00:00Z", "allowed_bundles": "bundle"},
		"two":      {"dockerconfigjson": `{"auths":{"a.example.com":{"auth":"Ym90OnQwazNu"},"b.example.com":{"auth":"Ym90OnQwazNu"}}}`, "allowed_bundles": "bundle"},
	} {
		write(c, c.vault.Client, "regcred/roles/"+name, body)
	}
	write(c, c.vault.Client, "regcred/roles/bundle", fields{"members": "hub,expiring,two"})
}

// creds are the paths at which the roles of otherRoles are read.
func (c *consumer) creds() []string {
	var paths []string
	for _, role := range []string{"my_app", "hub", "expiring", "two", "bundle"} {
		for _, form := range []string{"", "/kubernetes", "/docker"} {
			paths = append(paths, "regcred/creds/"+role+form)
		}
	}
	return paths
}

// rotates writes a role whose credential the engine replaces, a bundle that joins
// it, and returns their paths.
func (c *consumer) rotates() []string {
	c.Helper()
	lab := gitlabtest.New(c)
	connect(c, c.vault.Client, "regcred/connections/lab", "gitlab", lab.Connection(), fields{"allowed_roles": "rotated"})
	write(c, c.vault.Client, "regcred/roles/rotated", dynamic("lab", lab.Role(), fields{"rotation_period": "24h", "grace_period": "1h", "allowed_bundles": "rotated-bundle"}))
	write(c, c.vault.Client, "regcred/roles/rotated-bundle", fields{"members": "rotated"})
	return []string{"regcred/creds/rotated", "regcred/creds/rotated-bundle"}
}

// rotationNumbers are the only fields that are not strings.
var rotationNumbers = []string{"rotation_period", "ttl", "grace_period"}

// plainFields checks what all tools rely on: values are strings, except three
// integers of what the engine rotates, no field has a name that a tool gives a
// meaning of its own, and there is no lease.
func (c *consumer) plainFields(t *testing.T, reserved ...string) {
	t.Helper()
	c.otherRoles()
	rotating := c.rotates()
	for _, path := range append(c.creds(), rotating...) {
		response, err := c.vault.Client.Logical().Read(path)
		if err != nil || response == nil {
			t.Fatalf("%s: %v, %v", path, response, err)
		}
		for name, value := range response.Data {
			_, ok := value.(string)
			if number, is := value.(json.Number); is && slices.Contains(rotating, path) && slices.Contains(rotationNumbers, name) {
				_, err := number.Int64()
				ok = err == nil
			}
			if !ok {
				t.Errorf("%s: %s is a %T: %v", path, name, value, value)
			}
			if slices.Contains(reserved, name) {
				t.Errorf("%s has a field %s", path, name)
			}
		}
		if response.LeaseID != "" || response.LeaseDuration != 0 || response.Renewable || response.Auth != nil || response.WrapInfo != nil {
			t.Errorf("%s: want no lease, got %+v", path, response)
		}
	}
}

// absent checks how Vault's own client reports a role that does not exist: with
// nil and no error. A warning beside the status 404, as an unknown parameter
// causes, would turn that into a secret without data.
func (c *consumer) absent(t *testing.T) {
	t.Helper()
	for _, form := range []string{"", "/kubernetes", "/docker"} {
		for _, query := range []map[string][]string{nil, {"version": {"-1"}}} {
			if response, err := c.vault.Client.Logical().ReadWithData("regcred/creds/none"+form, query); response != nil || err != nil {
				t.Errorf("creds/none%s with %v: want nothing, got %+v, %v", form, query, response, err)
			}
		}
	}
}

// mountedAsKV2 checks what the option version=2 of a mount does to a tool that
// asks for it. Vault 1.21 refuses the option when a mount is enabled, but not
// later.
func (c *consumer) mountedAsKV2(t *testing.T) {
	t.Helper()
	const mount = "versioned"
	options := map[string]string{"version": "2"}
	if err := c.vault.Client.Sys().Mount(mount, &api.MountInput{Type: servers.PluginName, Options: options}); err == nil {
		t.Error("enabling the engine with version=2 is said to be refused")
	}
	c.vault.Enable(t, mount)
	write(t, c.vault.Client, mount+"/roles/my_app", fields{"registry": exampleRegistry, "username": "u", "password": "p"})
	r := c.asRoot()
	if _, err := r.getKV(mount + "/creds/my_app"); err != nil {
		t.Errorf("before the option is set: %v", err)
	}
	if err := c.vault.Client.Sys().TuneMountAllowNil(mount, api.TuneMountConfigInput{Options: &options}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.getKV(mount + "/creds/my_app"); err == nil || !r.asked[mount+"/data/creds/my_app"] {
		t.Errorf("want an error for %s/data/creds/my_app, got %v for %v", mount, err, r.asked)
	}
}

// pullSecret reads the Docker config of a role.
func (c *consumer) pullSecret(role string) string {
	c.Helper()
	return read(c, c.vault.Client, "regcred/creds/"+role+"/kubernetes")[".dockerconfigjson"].(string)
}

// TestEveryExampleStandsOnItsPage compares examples/ with docs/consumers/.
func TestEveryExampleStandsOnItsPage(t *testing.T) {
	t.Parallel()
	examples, err := filepath.Glob(filepath.Join(servers.Repo(), "examples", "*"))
	if err != nil || len(examples) < 18 {
		t.Fatalf("want 18 folders, got %v, %v", examples, err)
	}
	index := page(t, "README.md")
	pages, err := filepath.Glob(filepath.Join(servers.Repo(), "docs", "consumers", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range pages {
		if name := filepath.Base(file); name != "README.md" && !strings.Contains(index, "("+name+")") {
			t.Errorf("docs/consumers/README.md does not link %s", name)
		}
	}
	for _, example := range examples {
		tool := filepath.Base(example)
		if tool == "policies" || tool == "helm" || tool == "monitoring" || tool == "kubelet-provider" || tool == "docker-helper" || tool == "import" || tool == "http-broker" {
			continue // TestPersonas, helm_test.go, TestMonitoring, TestExamplesOfTheClientStandOnItsPages, and broker_test.go
		}
		text := page(t, tool+".md")
		for _, heading := range []string{"When to choose it", "What you need", "How fast a change arrives", "Leases", "What goes wrong"} {
			if !strings.Contains(text, "\n## "+heading+"\n") {
				t.Errorf("docs/consumers/%s.md: no part %q", tool, heading)
			}
		}
		files, err := os.ReadDir(example)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			content, err := os.ReadFile(filepath.Join(example, file.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if lines := strings.Count(string(content), "\n"); lines > 25 {
				t.Errorf("examples/%s/%s has %d lines, and may have 25", tool, file.Name(), lines)
			}
			shown := slices.ContainsFunc(blocksOf(t, filepath.Join("docs", "consumers", tool+".md")), func(b block) bool { return b.text == string(content) })
			if !shown {
				t.Errorf("docs/consumers/%s.md does not show examples/%s/%s as it is", tool, tool, file.Name())
			}
		}
	}
}

func page(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(servers.Repo(), "docs", "consumers", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
