// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

// importWorld is a KV engine full of pull secrets, and what an import has to make of
// each.
type importWorld struct {
	*clientWorld
	engine  string // path of the KV engine
	version int

	data  map[string]fields            // by path; what is written
	roles map[string]map[string]string // by role: the "user:password" of each registry key

	leftOut map[string]bool     // secrets that are refused
	clashes map[string][]string // by the name that they would have
	gone    []string            // secrets whose newest version is deleted
}

func newImportWorld(t *testing.T, version int) *importWorld {
	t.Helper()
	w := &importWorld{
		clientWorld: newClientWorld(t), version: version, engine: fmt.Sprintf("kv%d", version),
		data: map[string]fields{}, roles: map[string]map[string]string{}, leftOut: map[string]bool{}, clashes: map[string][]string{},
	}
	w.vault.CLI(t, "", "secrets", "enable", "-path="+w.engine, fmt.Sprintf("-version=%d", version), "kv")
	w.secrets.Add("token of Vault", w.vault.Token)
	return w
}

// secret plants a secret for a field of the source at a path.
func (w *importWorld) secret(path, field string) string { return w.secrets.New(field + " of " + path) }

// inLayout returns the fields of a KV secret with one credential, in one of the five
// layouts.
func (w *importWorld) inLayout(layout int, path, registry, username, password string) fields {
	entry := fields{"username": username, "password": password}
	if layout == 3 {
		entry = fields{"auth": inBase64(username + ":" + password)}
	}
	config := fields{"auths": fields{registry: entry}}
	switch layout {
	case 0:
		return fields{"hostname": registry, "username": username, "password": password, "owner": w.secret(path, "owner")}
	case 1:
		return fields{"registry": registry, "username": username, "password": password, "email": w.secret(path, "email") + "@example.com"}
	case 2:
		text, err := json.Marshal(config)
		if err != nil {
			w.Fatal(err)
		}
		return fields{"dockerconfigjson": string(text)}
	case 3:
		return config // the secret is a Docker config
	default:
		return fields{"server": registry, "user": username, "token": password}
	}
}

// fill writes n secrets in five layouts: most of them good, and one hundredth each of
// what goes wrong.
func (w *importWorld) fill(n int) {
	w.Helper()
	shared := map[int]string{} // passwords of the teams' common account
	for i := range n {
		layout, team := i%5, fmt.Sprintf("team-%02d", i/3%40)
		path := fmt.Sprintf("%s/app %d", team, i) // a name with a space
		role := fmt.Sprintf("%s-app-%d", team, i)
		username, password := w.secret(path, "username"), w.secret(path, "password")
		host := fmt.Sprintf("registry-%d.example.com", i%7)
		switch kind := i / 5 % 20; kind {
		case 0: // the same credential in many folders, in all layouts
			group := i / 250
			if shared[group] == "" {
				shared[group] = password
			}
			// Without email, which would make them different.
			w.data[path] = w.inLayout([]int{0, 2, 3, 4}[i%4], path, "https://Shared.example.com/", fmt.Sprint("bot", group), shared[group])
			w.expectShared(role, map[string]string{"shared.example.com": fmt.Sprint("bot", group, ":", shared[group])})
		case 1: // Docker Hub, in one of its spellings
			w.data[path] = w.inLayout(layout, path, "docker.io", username, password)
			w.roles[role] = map[string]string{"https://index.docker.io/v1/": username + ":" + password}
		case 2: // several registries
			other := w.secret(path, "other password")
			config := fields{"auths": fields{host: fields{"auth": inBase64(username + ":" + password)}, "quay.io": fields{"username": username, "password": other}}}
			w.data[path] = config
			w.roles[role] = map[string]string{host: username + ":" + password, "quay.io": username + ":" + other}
		case 3: // something that is wrong
			w.data[path] = broken(i/100, host, username, password)
			w.leftOut[path] = true
		case 4: // a second one whose role would have the same name
			w.data[path] = w.inLayout(layout, path, host, username, password)
			twin := fmt.Sprintf("%s/app-%d", team, i)
			w.data[twin] = w.inLayout(layout, twin, host, username, w.secret(twin, "password"))
			w.clashes[role] = []string{path, twin}
		case 5: // its newest version is deleted
			w.data[path] = w.inLayout(layout, path, host, username, password)
			w.gone = append(w.gone, path)
		default:
			w.data[path] = w.inLayout(layout, path, host, username, password)
			w.roles[role] = map[string]string{host: username + ":" + password}
		}
	}
	w.write()
}

// expectShared expects one role for all that have the same credential. Its name is
// that of the first path in order.
func (w *importWorld) expectShared(role string, credentials map[string]string) {
	for other, has := range w.roles {
		if maps.Equal(has, credentials) {
			if other < role {
				return
			}
			delete(w.roles, other)
		}
	}
	w.roles[role] = credentials
}

// broken returns a secret that no role can hold.
func broken(kind int, host, username, password string) fields {
	switch kind % 10 {
	case 0:
		return fields{"registry": host, "username": username, "password": ""}
	case 1:
		return fields{"registry": host, "password": password}
	case 2:
		return fields{"dockerconfigjson": `{"auths":{"` + host + `":{"identitytoken":"` + password + `"}}}`}
	case 3:
		return fields{"dockerconfigjson": `{"auths":{"` + host + `":{"auth":"` + inBase64(username+":"+password) + `"}`}
	case 4:
		return fields{"registry": host, "username": username + ":" + password, "password": password}
	case 5:
		return fields{"registry": password, "username": username, "password": host} // in the wrong fields
	case 6:
		return fields{"registry": host, "username": username, "password": 12345678901234567}
	case 7:
		return fields{"auths": fields{host: fields{"username": username, "auth": inBase64(password)}}}
	case 8:
		return fields{"auths": fields{}, "credsStore": password}
	default:
		return fields{"dsn": "postgres://" + username + ":" + password + "@db"}
	}
}

// write writes all secrets, several at once.
func (w *importWorld) write() {
	w.Helper()
	paths := make(chan string)
	var wait sync.WaitGroup
	var failed atomic.Value
	for range 6 {
		wait.Go(func() {
			for path := range paths {
				var body any = w.data[path]
				where := w.engine + "/" + path
				if w.version == 2 {
					body, where = fields{"data": body}, w.engine+"/data/"+path
				}
				if _, err := w.vault.Client.Logical().Write(where, body.(fields)); err != nil {
					failed.Store(err)
				}
			}
		})
	}
	for path := range w.data {
		paths <- path
	}
	close(paths)
	wait.Wait()
	if err := failed.Load(); err != nil {
		w.Fatal(err)
	}
	for i, path := range w.gone {
		where := w.engine + "/data/" + path
		switch {
		case w.version == 1:
			where = w.engine + "/" + path
		case i%2 == 0:
			where = w.engine + "/destroy/" + path
			if _, err := w.vault.Client.Logical().Write(where, fields{"versions": []int{1}}); err != nil {
				w.Fatal(err)
			}
			continue
		}
		if _, err := w.vault.Client.Logical().Delete(where); err != nil {
			w.Fatal(err)
		}
	}
}

// imported is the output of "regcred import -o json".
type imported struct {
	Applied bool
	Roles   []struct {
		Role, Action, Why string
		Sources           []string
	}
	LeftOut []struct {
		Source, Why string
		Harmless    bool
	} `json:"left_out"`
	Comparison *struct {
		Places, Sources, Registries int
		SameSources                 int `json:"same_sources"`
		SameRegistries              int `json:"same_registries"`
		Differences                 []struct{ Source, Registry, What, Role string }
	}
}

// actions counts the roles by what is done about them.
func (i imported) actions() map[string]int {
	counts := map[string]int{}
	for _, r := range i.Roles {
		counts[r.Action]++
	}
	return counts
}

// importCommand returns the command with a token that has the policy of the page.
func (w *importWorld) importCommand(args ...string) *exec.Cmd {
	w.Helper()
	cmd := exec.CommandContext(w.Context(), filepath.Join(servers.ClientAs(w, "regcred"), "regcred"), append([]string{"import", "kv", w.engine, "-fields=registry=server,username=user,password=token"}, args...)...)
	cmd.Env = []string{"HOME=" + w.TempDir(), "VAULT_ADDR=" + w.gateway.URL, "VAULT_TOKEN=" + w.importToken(), "VAULT_MAX_RETRIES=0"}
	return cmd
}

func (w *importWorld) importToken() string {
	w.Helper()
	kv2 := exampleOf(w, "import/policy.hcl", "kv/metadata", "kv2/metadata", "kv/data", "kv2/data")
	policy := kv2 + "\npath \"kv1/*\" {\n  capabilities = [\"list\", \"read\"]\n}\n"
	if err := w.vault.Client.Sys().PutPolicy("import", policy); err != nil {
		w.Fatal(err)
	}
	token, err := w.vault.NewToken("import")
	if err != nil {
		w.Fatal(err)
	}
	w.secrets.Add("token of the import", token)
	return token
}

// importing runs the command, and checks its exit status and that it shows no secret.
func (w *importWorld) importing(status int, args ...string) (stdout string) {
	w.Helper()
	cmd := w.importCommand(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run()
	w.quiet(fmt.Sprintf("import %q", args), out.String()+errs.String())
	if cmd.ProcessState.ExitCode() != status {
		w.Fatalf("import %q: want status %d, got %d\n%s%s", args, status, cmd.ProcessState.ExitCode(), out.String(), errs.String())
	}
	return out.String()
}

func (w *importWorld) importJSON(status int, args ...string) (result imported) {
	w.Helper()
	if err := json.Unmarshal([]byte(w.importing(status, append(args, "-o=json")...)), &result); err != nil {
		w.Fatal(err)
	}
	return result
}

// roleNames returns the roles that there are.
func (w *importWorld) roleNames() []string {
	w.Helper()
	secret, err := w.vault.Client.Logical().List("regcred/roles")
	if err != nil {
		w.Fatal(err)
	}
	if secret == nil {
		return nil
	}
	var names []string
	for _, name := range secret.Data["keys"].([]any) {
		names = append(names, name.(string))
	}
	return names
}

// checkRoles compares what creds/ of each role gives with what the sources hold,
// without any code of the client.
func (w *importWorld) checkRoles() {
	w.Helper()
	want := slices.Sorted(maps.Keys(w.roles))
	if got := w.roleNames(); !slices.Equal(got, want) {
		w.Fatalf("want %d roles, got %d:\n%q\n%q", len(want), len(got), want, got)
	}
	for name, credentials := range w.roles {
		text := read(w, w.vault.Client, "regcred/creds/"+name)[".dockerconfigjson"].(string)
		var config struct {
			Auths map[string]struct{ Username, Password string }
		}
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			w.Fatal(err)
		}
		got := map[string]string{}
		for registry, entry := range config.Auths {
			got[registry] = entry.Username + ":" + entry.Password
		}
		if !maps.Equal(got, credentials) {
			w.Errorf("%s: want %v, got %v", name, credentials, got)
		}
	}
}

// TestImportOfAThousandSecrets plans, is killed in the middle, is carried out, and
// changes nothing the second time.
func TestImportOfAThousandSecrets(t *testing.T) {
	t.Parallel()
	w := newImportWorld(t, 2)
	w.fill(1000)

	plan := w.importJSON(3)
	if got := plan.actions(); got["create"] != len(w.roles) || got["clash"] != len(w.clashes) || len(got) != 2 {
		t.Errorf("want %d roles to create and %d clashes, got %v", len(w.roles), len(w.clashes), got)
	}
	for _, r := range plan.Roles {
		if twins := w.clashes[r.Role]; r.Action == "clash" && !slices.Equal(r.Sources, twins) {
			t.Errorf("%s: want a clash of %q, got %+v", r.Role, twins, r)
		}
	}
	var refused, gone []string
	for _, l := range plan.LeftOut {
		if l.Harmless {
			gone = append(gone, l.Source)
		} else {
			refused = append(refused, l.Source)
		}
	}
	if want := slices.Sorted(maps.Keys(w.leftOut)); !slices.Equal(refused, want) {
		t.Errorf("want left out %q, got %q", want, refused)
	}
	if want := slices.Sorted(slices.Values(w.gone)); !slices.Equal(gone, want) {
		t.Errorf("want as deleted %q, got %q", want, gone)
	}
	if names := w.roleNames(); names != nil || plan.Applied || plan.Comparison != nil {
		t.Errorf("a plan must write nothing, got %q", names)
	}

	// Killed while a write is on its way.
	const before = 200
	w.killAfter(before)
	if names := w.roleNames(); len(names) != before {
		t.Errorf("want the %d roles that were written before it was killed, got %d", before, len(names))
	}

	w.gateway.asked()
	done := w.importJSON(4, "-apply")
	if got := done.actions(); got["created"] != len(w.roles)-before || got["unchanged"] != before {
		t.Errorf("want %d roles created and %d unchanged, got %v", len(w.roles)-before, before, got)
	}
	w.checkRoles()

	w.gateway.asked()
	updated := map[string]any{}
	for name := range w.roles {
		updated[name] = read(w, w.vault.Client, "regcred/roles/"+name)["updated_at"]
	}
	again := w.importJSON(4, "-apply")
	if got := again.actions(); got["unchanged"] != len(w.roles) || got["clash"] != len(w.clashes) || len(got) != 2 {
		t.Errorf("want everything unchanged, got %v", got)
	}
	for name := range w.roles {
		if now := read(w, w.vault.Client, "regcred/roles/"+name)["updated_at"]; now != updated[name] {
			t.Errorf("%s was written by the second run", name)
		}
	}
	w.checkComparison(again)

	// With rules for what cannot be a role, everything is as it should be.
	rules := "sources:\n"
	for path := range w.leftOut {
		rules += fmt.Sprintf("- {match: %q, skip: true}\n", path)
	}
	for _, twins := range w.clashes {
		rules += fmt.Sprintf("- {match: %q, name: \"{path}-one\"}\n- {match: %q, name: \"{path}-two\"}\n", twins[0], twins[1])
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := w.importJSON(0, "-apply", "-rules="+file).actions(); got["created"] != 2*len(w.clashes) || len(got) != 2 {
		t.Errorf("want %d roles created, got %v", 2*len(w.clashes), got)
	}
	if text := w.importing(0, "-rules="+file); strings.Contains(text, "Not the same") || strings.Count(text, "\n") > 60+len(w.leftOut) {
		t.Errorf("want a short report without differences, got\n%s", text)
	}
}

// checkComparison checks what the comparison finds: the secrets that were refused and
// have a password, and those that clash.
func (w *importWorld) checkComparison(result imported) {
	w.Helper()
	c := result.Comparison
	if c == nil {
		w.Fatal("want a comparison")
	}
	different := map[string]bool{}
	for _, d := range c.Differences {
		different[d.Source] = true
		if !strings.HasPrefix(d.What, "before only") {
			w.Errorf("want that nothing is pulled with otherwise, got %+v", d)
		}
	}
	for _, twins := range w.clashes {
		for _, path := range twins {
			if !different[path] {
				w.Errorf("%s: clashes, and so is not pulled with any more", path)
			}
			delete(different, path)
		}
	}
	for path := range different {
		if !w.leftOut[path] {
			w.Errorf("%s: want no difference", path)
		}
	}
	if good := len(w.data) - len(w.leftOut) - len(w.gone) - 2*len(w.clashes); c.SameSources != good {
		w.Errorf("want %d secrets that are the same, got %+v", good, c)
	}
}

// killAfter runs the import until it has written n roles, and kills it.
func (w *importWorld) killAfter(n int) {
	w.Helper()
	reached := make(chan struct{})
	var writes atomic.Int32
	w.gateway.before(func(r *http.Request) {
		if r.Method != http.MethodPut || !strings.HasPrefix(r.URL.Path, "/v1/regcred/roles/") {
			return
		}
		if writes.Add(1) > int32(n) {
			if writes.Load() == int32(n)+1 {
				close(reached)
			}
			_, _ = io.Copy(io.Discard, r.Body) // only then the server notices that the client is gone
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
	})
	cmd := w.importCommand("-apply")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	servers.Receive(w, reached, "the write at which to kill the import")
	if err := cmd.Process.Kill(); err != nil {
		w.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		w.Error("the import must have been killed")
	}
	w.gateway.before(nil)
	w.quiet("the import that was killed", out.String())
}

func TestImportOfKVVersion1(t *testing.T) {
	t.Parallel()
	w := newImportWorld(t, 1)
	w.fill(100)
	result := w.importJSON(4, "-apply")
	if got := result.actions(); got["created"] != len(w.roles) {
		t.Errorf("want %d roles created, got %v", len(w.roles), got)
	}
	w.checkRoles()
}

// TestImportKeepsWhatSomebodyHasChanged: a role with other content is said, and
// written only if it is named.
func TestImportKeepsWhatSomebodyHasChanged(t *testing.T) {
	t.Parallel()
	w := newImportWorld(t, 2)
	for _, name := range []string{"password", "user", "registries", "bundle", "settings", "same"} {
		w.data[name] = fields{"registry": "ghcr.io", "username": name, "password": w.secret(name, "password")}
	}
	w.write()
	w.importing(0, "-apply")
	client := w.vault.Client
	write(t, client, "regcred/roles/password", fields{"password": w.secret("password", "newer password")})
	write(t, client, "regcred/roles/user", fields{"username": w.secret("user", "newer user name"), "expires_at": "2199-01-01"})
	write(t, client, "regcred/roles/registries", fields{"dockerconfigjson": `{"auths":{"quay.io":{"username":"u","password":"` + w.secret("registries", "password") + `"}}}`})
	write(t, client, "regcred/roles/settings", fields{"allowed_bundles": "other", "verify_repository": "acme/other"})
	if _, err := client.Logical().Delete("regcred/roles/bundle"); err != nil {
		t.Fatal(err)
	}
	write(t, client, "regcred/roles/same", fields{"allowed_bundles": "bundle"})
	write(t, client, "regcred/roles/bundle", fields{"members": "same"})
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(rules, []byte("roles:\n- {match: s*, allowed_bundles: [bundle]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	want := map[string]string{
		"password": "kept another password for ghcr.io", "user": "kept another user name for ghcr.io",
		"registries": "kept it has no ghcr.io; it also has quay.io", "settings": `kept allowed_bundles is ["other"], not ["bundle"]`,
		"bundle": "kept it is a bundle role", "same": "unchanged ",
	}
	check := func(result imported) {
		t.Helper()
		for _, r := range result.Roles {
			if got := r.Action + " " + r.Why; !strings.HasPrefix(got, want[r.Role]) {
				t.Errorf("%s: want %q, got %q", r.Role, want[r.Role], got)
			}
		}
	}
	result := w.importJSON(4, "-apply", "-rules="+rules)
	check(result)
	differences := map[string]string{}
	for _, d := range result.Comparison.Differences {
		differences[d.Source] += d.Registry + " " + d.What + ";"
	}
	if want := map[string]string{
		"password": "ghcr.io another credential;", "user": "ghcr.io another credential;",
		"registries": "ghcr.io before only;quay.io after only;", "bundle": "ghcr.io before only: there is no role with it;",
	}; !maps.Equal(differences, want) {
		t.Errorf("want the differences %q, got %q", want, differences)
	}

	// The policy of the page cannot change a role, whatever the arguments say.
	if got := w.importing(1, "-apply", "-overwrite=password"); !strings.Contains(got, "1 still to do") {
		t.Errorf("got %s", got)
	}
	check(w.importJSON(4, "-apply", "-rules="+rules))

	policy := exampleOf(t, "import/policy.hcl", "kv/", "kv2/", `["create", "read"]`, `["create", "read", "update"]`)
	if err := client.Sys().PutPolicy("import-and-change", policy); err != nil {
		t.Fatal(err)
	}
	token, err := w.vault.NewToken("import-and-change")
	if err != nil {
		t.Fatal(err)
	}
	cmd := w.importCommand("-apply", "-rules="+rules, "-overwrite=settings", "-overwrite=u*", "-overwrite=password", "-overwrite=bundle", "-o=json")
	cmd.Env = append(cmd.Env, "VAULT_TOKEN="+token)
	out, _ := cmd.Output()
	w.quiet("overwriting", string(out))
	result = imported{}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	want["user"], want["settings"] = "updated another user name for ghcr.io; its expires_at stays 2199-01-01T23:59:59Z", `updated allowed_bundles is ["other"], not ["bundle"]`
	want["password"] = "updated another password for ghcr.io"
	check(result)
	if role := read(t, client, "regcred/roles/settings"); fmt.Sprint(role["allowed_bundles"]) != "[bundle]" || role["verify_repository"] != "acme/other" {
		t.Errorf("a rule changes what it names, and nothing else; got %v", role)
	}
}

// TestImportMakesARoleOfEachFolder joins the secrets of a folder, as the kubelet reads
// one role for each namespace.
func TestImportMakesARoleOfEachFolder(t *testing.T) {
	t.Parallel()
	w := newImportWorld(t, 2)
	login := func(path, registry string) string {
		username, password := w.secret(path, "username"), w.secret(path, "password")
		w.data[path] = fields{"registry": registry, "username": username, "password": password}
		return username + ":" + password
	}
	w.roles["team-a"] = map[string]string{"ghcr.io": login("team-a/one", "ghcr.io"), "https://index.docker.io/v1/": login("team-a/two", "docker.io")}
	w.roles["team-b"] = map[string]string{"ghcr.io": login("team-b/one", "ghcr.io")}
	w.data["team-b/same"] = w.data["team-b/one"]
	login("team-c/one", "ghcr.io")
	login("team-c/two", "ghcr.io")
	w.write()
	for _, action := range []string{"created", "unchanged"} {
		result := w.importJSON(4, "-join=name", "-name={folder}", "-apply")
		if got := result.actions(); got[action] != 2 || got["clash"] != 1 {
			t.Errorf("want 2 %s, and a clash, got %v", action, got)
		}
		for _, r := range result.Roles {
			if r.Action == "clash" && r.Why != "team-c/one and team-c/two have different credentials for ghcr.io" {
				t.Errorf("want the registry that clashes, got %q", r.Why)
			}
		}
		if c := result.Comparison; c.SameSources != 4 || len(c.Differences) != 2 {
			t.Errorf("want that only the sources that clash are different, got %+v", c)
		}
	}
	w.checkRoles()
}

// TestImportLeavesARoleThatWasWrittenMeanwhile has somebody write a role after the plan
// was made.
func TestImportLeavesARoleThatWasWrittenMeanwhile(t *testing.T) {
	t.Parallel()
	w := newImportWorld(t, 2)
	w.data["app"] = fields{"registry": "ghcr.io", "username": "robot", "password": w.secret("app", "password")}
	w.write()
	newer := w.secret("app", "newer password")
	var once sync.Once
	w.gateway.before(func(r *http.Request) {
		if r.URL.Path == "/v1/regcred/roles/app" { // the plan has found no such role, and did not ask
			once.Do(func() {
				write(t, w.vault.Client, "regcred/roles/app", fields{"registry": "ghcr.io", "username": "robot", "password": newer})
			})
		}
	})
	result := w.importJSON(4, "-apply", "-overwrite=*")
	if r := result.Roles[0]; r.Action != "kept" || !strings.Contains(r.Why, "in the meantime") {
		t.Errorf("want that the role is left alone, got %+v", r)
	}
	if got := read(t, w.vault.Client, "regcred/creds/app")["password"]; got != newer {
		t.Error("the import must not have written the role")
	}
}

// TestImportOutlastsFaultsOfVault has Vault fail in every way, while it is read and
// while it is written. No secret is shown, and the next run does the rest.
func TestImportOutlastsFaultsOfVault(t *testing.T) {
	t.Parallel()
	w := newImportWorld(t, 2)
	w.fill(20)
	role := slices.Sorted(maps.Keys(w.roles))[0]
	path := strings.Replace(role, "-app-", "/app ", 1)
	for what, fault := range gatewayFaults {
		if what == "hangs" {
			continue // Vault's own client waits for a minute
		}
		for _, at := range []string{"sys/internal/ui/mounts/kv2", "kv2/metadata", "kv2/data/" + path, "regcred/roles", "regcred/roles/" + role} {
			if what == "echoes" && strings.HasPrefix(at, "kv2/data/") {
				continue // a secret that may not be read is left out
			}
			w.failAt(at, fault)
			w.importing(1, "-apply")
		}
		w.gateway.fail(nil)
	}
	if w.importing(4, "-apply"); len(w.roleNames()) != len(w.roles) {
		t.Errorf("want the rest to be written when Vault works again, got %q", w.roleNames())
	}
	w.checkRoles()
	for what, fault := range gatewayFaults {
		if what == "hangs" {
			continue
		}
		status := 1
		if what == "echoes" {
			status = 4 // a role that may not be read is kept, with this reason
		}
		w.failAt("regcred/creds/"+role, fault)
		w.importing(status)
	}
}

// failAt has Vault fail at one path.
func (w *importWorld) failAt(path string, fault http.HandlerFunc) {
	w.gateway.fail(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/"+path {
			fault(rw, r)
			return
		}
		w.gateway.pass(rw, r)
	})
}

func inBase64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
