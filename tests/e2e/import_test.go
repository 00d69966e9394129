// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/leaktest"
	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// importedCluster is a cluster with Secrets in 40 namespaces, and what an import has
// to make of them.
type importedCluster struct {
	*testing.T
	k     *servers.Kubernetes
	vault *servers.Vault
	marks leaktest.Marks

	objects []any
	configs map[string]string            // Docker configs, by namespace/name
	roles   map[string]map[string]string // by role: the "user:password" of each registry key
	roleOf  map[string]string            // by namespace/name
	leftOut []string
	clashes []string
}

const importLabel = "regcred-import-test"

func (c *importedCluster) secret(namespace, name, typ, config string, owner ...any) {
	source := namespace + "/" + name
	c.configs[source] = config
	field := map[string]string{"dockerconfigjson": ".dockerconfigjson", "dockercfg": ".dockercfg"}[typ]
	metadata := map[string]any{"namespace": namespace, "name": name, "labels": map[string]string{importLabel: "yes"}}
	if owner != nil {
		metadata["ownerReferences"] = owner
	}
	c.objects = append(c.objects, map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/" + typ, "metadata": metadata,
		"data": map[string][]byte{field: []byte(config)},
	})
}

// good is a Secret that becomes a role, or a part of one.
func (c *importedCluster) good(role, namespace, name, typ, config string, credentials map[string]string) {
	c.secret(namespace, name, typ, config)
	c.roles[role] = credentials
	c.roleOf[namespace+"/"+name] = role
}

func authEntry(login string) string {
	username, password, _ := strings.Cut(login, ":")
	return fmt.Sprintf(`{"username":%q,"password":%q,"auth":%q}`, username, password, base64.StdEncoding.EncodeToString([]byte(login)))
}

// fill creates 300 Secrets in 40 namespaces.
func (c *importedCluster) fill() {
	c.Helper()
	namespaces := []string{"import-00-a", "import-01-a"}
	for i := range 38 {
		namespaces = append(namespaces, fmt.Sprintf("import-%02d", i))
	}
	for _, namespace := range namespaces {
		c.objects = append(c.objects, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace}})
	}
	login := func(of string) string { return c.marks.New("user name of "+of) + ":" + c.marks.New("password of "+of) }
	auths := func(key, login string) string { return `{"auths":{"` + key + `":` + authEntry(login) + `}}` }
	shared, hub := login("the shared registry"), login("Docker Hub")
	hubs := []string{"docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"}
	for i, namespace := range namespaces {
		c.good("shared.example.com-regcred", namespace, "regcred", "dockerconfigjson", auths("shared.example.com", shared), map[string]string{"shared.example.com": shared})
		if i%2 == 0 {
			c.good("docker.io-hub", namespace, "hub", "dockerconfigjson", auths(hubs[i/2%3], hub), map[string]string{"https://index.docker.io/v1/": hub})
		}
		own := login(namespace + "/own")
		c.good(namespace+"-own", namespace, "own", "dockerconfigjson",
			`{"auths":{"own.example.com:5000":{"auth":"`+base64.StdEncoding.EncodeToString([]byte(own))+`"}}}`, map[string]string{"own.example.com:5000": own})
		legacy := login(namespace + "/legacy")
		c.good(namespace+"-legacy", namespace, "legacy", "dockercfg", `{"https://legacy.example.com":`+authEntry(legacy)+`}`, map[string]string{"legacy.example.com": legacy})
		one, two := login(namespace+"/multi, one"), login(namespace+"/multi, two")
		c.good(namespace+"-multi", namespace, "multi", "dockerconfigjson",
			`{"auths":{"ghcr.io/acme":`+authEntry(one)+`,"quay.io":`+authEntry(two)+`},"HttpHeaders":{"User-Agent":"x"}}`, map[string]string{"ghcr.io/acme": one, "quay.io": two})
	}
	for i := range 2 { // two Secrets of other content have one name
		namespace := fmt.Sprintf("import-%02d", i)
		c.secret(namespace, "a-clash", "dockerconfigjson", auths("ghcr.io", login("a clash")))
		c.secret(namespace+"-a", "clash", "dockerconfigjson", auths("ghcr.io", login("a clash")))
		c.clashes = append(c.clashes, namespace+"/a-clash", namespace+"-a/clash")
	}
	for i, config := range []string{
		`{"auths":{"acme.azurecr.io":{"identitytoken":"` + c.marks.New("identity token") + `"}}}`,
		`{"auths":{"acme.azurecr.io":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("00000000-0000-0000-0000-000000000000:")) + `","identitytoken":"` + c.marks.New("identity token") + `"}}}`,
		`{"auths":{"ghcr.io":{}},"credsStore":"` + c.marks.New("credsStore") + `"}`,
		`{"auths":{}}`,
		`{"ghcr.io":` + authEntry(login("a dockercfg of the wrong type")) + `}`,
		`{"auths":{"ghcr.io":{"username":"` + c.marks.New("user name without password") + `"}}}`,
		`{"auths":{"ghcr.io":{"auth":"` + c.marks.New("auth that is not base64") + `!"}}}`,
		`{"auths":{"` + strings.ToLower(c.marks.New("registry")) + `":` + authEntry(login("no registry")) + `}}`,
		`{"auths":{"ghcr.io":` + authEntry(login("two spellings")) + `,"https://ghcr.io":` + authEntry(login("two spellings")) + `}}`,
		`{"auths":{"ghcr.io":{"username":"` + c.marks.New("contradiction") + `","password":"x","auth":"dTpw"}}}`,
	} {
		c.secret(namespaces[5+i], "broken", "dockerconfigjson", config)
		c.leftOut = append(c.leftOut, namespaces[5+i]+"/broken")
	}
	made := login("a Secret of a controller")
	c.secret("import-03", "made", "dockerconfigjson", auths("ghcr.io", made),
		map[string]any{"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "name": "pull", "uid": "1", "controller": true})
	c.roles["import-03-made"] = map[string]string{"ghcr.io": made}
	c.roleOf["import-03/made"] = "import-03-made"
	for i := len(c.configs); i < 300; i++ {
		namespace, name := namespaces[i%40], fmt.Sprintf("app-%d", i)
		own := login(namespace + "/" + name)
		c.good(namespace+"-"+name, namespace, name, "dockerconfigjson", auths("REGISTRY.example.com", own), map[string]string{"registry.example.com": own})
	}
	// What is no pull secret.
	c.objects = append(c.objects, map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"namespace": "import-00", "name": "opaque", "labels": map[string]string{importLabel: "yes"}},
		"data": map[string][]byte{".dockerconfigjson": []byte(auths("ghcr.io", login("an opaque Secret")))},
	})
	list, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": c.objects})
	if err != nil {
		c.Fatal(err)
	}
	c.k.Kubectl(c.T, string(list), "create", "-f", "-")
}

// user gives a user the rights of the page, and returns a kubeconfig as this user.
func (c *importedCluster) user() (kubeconfig string) {
	c.Helper()
	c.k.Kubectl(c.T, example(c.T, "import/rbac.yaml"), "apply", "-f", "-")
	c.k.Kubectl(c.T, "", "create", "clusterrolebinding", "regcred-import", "--clusterrole=regcred-import", "--user=importer")
	content, err := os.ReadFile(c.k.Kubeconfig)
	if err != nil {
		c.Fatal(err)
	}
	_, token, _ := strings.Cut(string(content), "token: ")
	token, _, _ = strings.Cut(token, "}")
	c.marks.Add("token of the cluster", token)
	kubeconfig = filepath.Join(c.TempDir(), "kubeconfig")
	as := strings.Replace(string(content), "token: "+token, "token: "+token+", as: importer", 1)
	if err := os.WriteFile(kubeconfig, []byte(as), 0o600); err != nil {
		c.Fatal(err)
	}
	return kubeconfig
}

// command returns the import against an address of Vault.
func (c *importedCluster) command(address, kubeconfig, token string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.Context(), filepath.Join(servers.ClientAs(c.T, "regcred"), "regcred"), append([]string{"import", "secrets"}, args...)...)
	cmd.Env = []string{"HOME=" + c.TempDir(), "PATH=" + toolPath(), "KUBECONFIG=" + kubeconfig, "VAULT_ADDR=" + address, "VAULT_TOKEN=" + token}
	return cmd
}

func testImport(t *testing.T, k *servers.Kubernetes) {
	c := &importedCluster{T: t, k: k, vault: servers.StartVault(t), configs: map[string]string{}, roles: map[string]map[string]string{}, roleOf: map[string]string{}}
	c.fill()
	kubeconfig := c.user()
	if err := c.vault.Client.Sys().PutPolicy("import", example(t, "import/policy.hcl")); err != nil {
		t.Fatal(err)
	}
	token, err := c.vault.NewToken("import")
	if err != nil {
		t.Fatal(err)
	}
	c.marks.Add("token of Vault", token)
	type result struct {
		Roles []struct {
			Role, Action, Why string
			Sources           []string
		}
		LeftOut    []struct{ Source, Why string } `json:"left_out"`
		Notes      []struct{ Text string }
		Comparison *struct {
			Places, Sources int
			SamePlaces      int `json:"same_places"`
			SameSources     int `json:"same_sources"`
			Respelled       int
			Differences     []struct{ Source, Registry, What string }
		}
	}
	run := func(status int, args ...string) (r result) {
		t.Helper()
		cmd := c.command(c.vault.Addr, kubeconfig, token, append(args, "-o=json")...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		_ = cmd.Run()
		if found := c.marks.In(out.String() + errs.String()); len(found) > 0 {
			t.Errorf("import %q shows secrets: %q", args, found)
		}
		if cmd.ProcessState.ExitCode() != status {
			t.Fatalf("import %q: want status %d, got %d\n%s%s", args, status, cmd.ProcessState.ExitCode(), out.String(), errs.String())
		}
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	count := func(r result) map[string]int {
		counts := map[string]int{}
		for _, role := range r.Roles {
			counts[role.Action]++
		}
		return counts
	}
	all := "-selector=" + importLabel

	plan := run(3, all)
	if diff := cmp.Diff(map[string]int{"create": len(c.roles), "clash": 2}, count(plan)); diff != "" {
		t.Errorf("the plan (-want +got):\n%s", diff)
	}
	sources, clashes := map[string]string{}, []string{}
	for _, r := range plan.Roles {
		for _, s := range r.Sources {
			if r.Action == "clash" {
				clashes = append(clashes, s)
			} else {
				sources[s] = r.Role
			}
		}
	}
	if diff := cmp.Diff(c.roleOf, sources); diff != "" {
		t.Errorf("the roles of the Secrets (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(c.clashes)), slices.Sorted(slices.Values(clashes))); diff != "" {
		t.Errorf("the clashes (-want +got):\n%s", diff)
	}
	var leftOut []string
	for _, l := range plan.LeftOut {
		leftOut = append(leftOut, l.Source)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(c.leftOut)), leftOut); diff != "" {
		t.Errorf("left out (-want +got):\n%s", diff)
	}
	if text := fmt.Sprint(plan.Notes); !strings.Contains(text, "a controller writes this Secret") {
		t.Errorf("want a note about the Secret of a controller, got %s", text)
	}

	const before = 30
	c.killAfter(before, kubeconfig, token, all)
	done := run(4, all, "-apply")
	if diff := cmp.Diff(map[string]int{"created": len(c.roles) - before, "unchanged": before, "clash": 2}, count(done)); diff != "" {
		t.Errorf("after it was killed (-want +got):\n%s", diff)
	}
	again := run(4, all, "-apply")
	if diff := cmp.Diff(map[string]int{"unchanged": len(c.roles), "clash": 2}, count(again)); diff != "" {
		t.Errorf("the second run (-want +got):\n%s", diff)
	}
	if got := again.Comparison; got == nil || got.Places != 40 || got.SameSources != len(c.roleOf) {
		t.Errorf("want %d Secrets of 40 namespaces that are the same, got %+v", len(c.roleOf), got)
	} else {
		if want := strings.Count(fmt.Sprint(c.configs), "REGISTRY.") + strings.Count(fmt.Sprint(c.configs), `"docker.io"`) + strings.Count(fmt.Sprint(c.configs), `"registry-1.docker.io"`) + 40; got.Respelled != want {
			t.Errorf("want %d registries under another key, got %d", want, got.Respelled)
		}
		for _, d := range got.Differences {
			if !strings.HasPrefix(d.What, "before only") || !slices.Contains(c.clashes, d.Source) && !slices.Contains(c.leftOut, d.Source) {
				t.Errorf("want no such difference: %+v", d)
			}
		}
	}
	c.checkRoles()

	// Some namespaces alone: what only one of them has is no duplicate there.
	some := run(3, "-namespace=import-36", "-namespace=import-37")
	var toCreate []string
	for _, r := range some.Roles {
		if r.Action != "unchanged" {
			toCreate = append(toCreate, r.Action+" "+r.Role)
		}
	}
	if diff := cmp.Diff([]string{"create import-36-hub"}, toCreate); diff != "" || len(some.Roles) < 8 {
		t.Errorf("two namespaces (-want +got):\n%s", diff)
	}
	// A user who may not read them.
	c.k.Kubectl(t, "", "delete", "clusterrolebinding", "regcred-import")
	cmd := c.command(c.vault.Addr, kubeconfig, token, "-namespace=import-37")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "may not list Secrets") || strings.Count(string(out), "\n") != 1 || c.marks.In(string(out)) != nil {
		t.Errorf("want a refusal in one line, got %v\n%s", err, out)
	}
}

// killAfter runs the import until it has written n roles, and kills it.
func (c *importedCluster) killAfter(n int, kubeconfig, token string, args ...string) {
	c.Helper()
	target, err := url.Parse(c.vault.Addr)
	if err != nil {
		c.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	reached := make(chan struct{})
	var writes atomic.Int32
	gateway := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && writes.Add(1) > int32(n) {
			if writes.Load() == int32(n)+1 {
				close(reached)
			}
			_, _ = io.Copy(io.Discard, r.Body) // only then the server notices that the client is gone
			<-r.Context().Done()
			return
		}
		proxy.ServeHTTP(rw, r)
	}))
	defer gateway.Close()
	cmd := c.command(gateway.URL, kubeconfig, token, append(args, "-apply")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	servers.Receive(c.T, reached, "the write at which to kill the import")
	if err := cmd.Process.Kill(); err != nil {
		c.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		c.Error("the import must have been killed")
	}
	if found := c.marks.In(out.String()); len(found) > 0 {
		c.Errorf("the import that was killed shows secrets: %q", found)
	}
}

// checkRoles compares the roles with the Secrets, without any code of the client: by
// their passwords, and by what the kubelet finds for images.
func (c *importedCluster) checkRoles() {
	c.Helper()
	list, err := c.vault.Client.Logical().List("regcred/roles")
	if err != nil || list == nil {
		c.Fatalf("listing roles: %v", err)
	}
	var names []string
	for _, name := range list.Data["keys"].([]any) {
		names = append(names, name.(string))
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(c.roles)), names); diff != "" {
		c.Fatalf("the roles (-want +got):\n%s", diff)
	}
	given := map[string]string{}
	for role, credentials := range c.roles {
		secret, err := c.vault.Client.Logical().Read("regcred/creds/" + role)
		if err != nil {
			c.Fatal(err)
		}
		given[role] = secret.Data[".dockerconfigjson"].(string)
		var config struct {
			Auths map[string]struct{ Username, Password string }
		}
		if err := json.Unmarshal([]byte(given[role]), &config); err != nil {
			c.Fatal(err)
		}
		got := map[string]string{}
		for registry, entry := range config.Auths {
			got[registry] = entry.Username + ":" + entry.Password
		}
		if diff := cmp.Diff(credentials, got); diff != "" {
			c.Errorf("%s (-want +got):\n%s", role, diff)
		}
	}
	var before, after []clients.LookUp
	for source, role := range c.roleOf {
		config := c.configs[source]
		if strings.HasSuffix(source, "/legacy") {
			config = `{"auths":` + config + `}` // the program of the test reads this form only
		}
		for registry := range c.roles[role] {
			image := strings.Replace(registry, "https://index.docker.io/v1/", "docker.io", 1) + "/acme/app"
			if strings.Contains(config, "REGISTRY.example.com") || strings.Contains(config, "registry-1.docker.io") {
				continue // the kubelet finds it only after the import
			}
			before = append(before, clients.LookUp{Config: config, Image: image})
			after = append(after, clients.LookUp{Config: given[role], Image: image})
		}
	}
	was, is := clients.Ask(c.T, "read-kubelet", before), clients.Ask(c.T, "read-kubelet", after)
	if diff := cmp.Diff(was, is); diff != "" || len(was) < 200 {
		c.Errorf("what the kubelet finds for %d images, before and after:\n%s", len(was), diff)
	}
	for i, found := range is {
		if len(found.Credentials) != 1 {
			c.Errorf("%s: want one credential, got %d", after[i].Image, len(found.Credentials))
		}
	}
}
