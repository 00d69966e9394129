// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/issuer/acr/acrtest"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory/artifactorytest"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub/dockerhubtest"
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/gar/gartest"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker/brokertest"
	"vault-plugin-secrets-regcred/backend/issuer/quay/quaytest"
	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// The docs are executed. All blocks of a page with the language "console" are
// one session, on a Vault of its own with the engine at regcred/, unless the
// page enables the engine there itself.
//
// A line that begins with "$ " is a command, and lines that begin with "> "
// continue it. The lines behind it are all that the command prints, on both
// outputs. "…" stands for any text, and a line "…" for any lines. Times,
// tokens, checksums and the server's address may differ.
//
// The working directory has:
//
//   - bin/ with the plugin and the client, which is the command regcred, and new/
//     with a build of the plugin of version v0.2.0
//   - the archive of a release and its checksums, of a build of version v0.1.0
//   - examples/ and scripts/, as in this repository
//   - policy.hcl and jwt-role.json, the ones of External Secrets
//   - sa.pub, a public key, and ca.pem, the certificate of a CA
//
// registry.example.com:5000 is a real registry with the image team/my_app:1.4.
// A page that names "vault operator raft" has a Vault with integrated storage,
// whose log is /var/log/vault/vault.log.
//
// Registries that mint are started for the pages that name them:
// https://gitlab.example.com with the registry registry.example.com,
// https://harbor.example.com, https://acme.jfrog.io, type=ecr, type=acr and type=gar are servers in memory, and
// https://gitea.example.com is a real Gitea. https://broker.example.com is the program
// in examples/http-broker, with a real registry. Their root credentials are in the
// files admin and next, secret.txt, secret, and token; see [standIns]. On the pages of
// the two, ghcr.io and nexus.example.com are a real registry each.
//
// In docs/openbao.md, "bao" is the server that the tests run on, which is Vault
// unless VAULT_BIN says otherwise.
//
// A block of the language "sh" holds commands that another test executes: each
// line is in .ci/run.

// TestDocs executes the commands of each page and compares what they print.
func TestDocs(t *testing.T) {
	for _, page := range pages(t) {
		blocks := blocksOf(t, page)
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			session := sessionOf(blocks)
			if len(session) > 0 {
				runSession(t, session)
			}
			ci, err := os.ReadFile(filepath.Join(servers.Repo(), ".ci", "run"))
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range blocks {
				if !slices.Contains(languages, b.language) {
					t.Errorf("%s: a block of the language %q: nothing tells whether to execute it; known are %q", page, b.language, languages)
				}
				if b.language != "sh" {
					continue
				}
				for line := range strings.Lines(b.text) {
					if line = strings.TrimSpace(line); line != "" && !strings.Contains(string(ci), line) {
						t.Errorf("%s: no test executes %q", page, line)
					}
				}
			}
		})
	}
}

// languages are the languages that a block may have. TestDocs executes
// "console" and checks "sh"; other tests execute "bash", the scripts in
// examples/.
var languages = []string{"console", "sh", "bash", "go", "yaml", "hcl", "json", "text"}

// TestLinksLeadSomewhere follows the links of all pages to files and headings
// of this repository.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	var found int
	for _, page := range append(pages(t), "CHANGELOG.md") {
		for _, match := range link.FindAllStringSubmatch(prose(t, page), -1) {
			target := match[1]
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			found++
			file, anchor, hasAnchor := strings.Cut(target, "#")
			path := filepath.Join(filepath.Dir(page), file)
			if file == "" {
				path = page
			}
			if _, err := os.Stat(filepath.Join(servers.Repo(), path)); err != nil {
				t.Errorf("%s: (%s) leads nowhere", page, target)
			} else if hasAnchor && !slices.Contains(anchors(t, path), anchor) {
				t.Errorf("%s: (%s): %s has no such heading", page, target, path)
			}
		}
	}
	if found < 50 {
		t.Errorf("found %d links", found)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	dropped = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors returns the names that GitHub gives to a page's headings.
func anchors(t *testing.T, page string) []string {
	t.Helper()
	var names []string
	seen := map[string]int{}
	for _, match := range heading.FindAllStringSubmatch(prose(t, page), -1) {
		name := strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(match[1]), ""), " ", "-")
		if seen[name]++; seen[name] > 1 {
			name = fmt.Sprintf("%s-%d", name, seen[name]-1)
		}
		names = append(names, name)
	}
	return names
}

// prose returns a page without its blocks.
func prose(t *testing.T, page string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(servers.Repo(), page))
	if err != nil {
		t.Fatal(err)
	}
	text := fence.ReplaceAllString(string(content), "")
	if strings.Contains(text, "\n```") {
		t.Errorf("%s: a fence that is not understood", page)
	}
	return text
}

func pages(t *testing.T) []string {
	t.Helper()
	pages := []string{"README.md", "SECURITY.md", "CONTRIBUTING.md", filepath.Join("tests", "README.md")}
	for _, folder := range []string{"docs", filepath.Join("docs", "client"), filepath.Join("docs", "connections"), filepath.Join("docs", "consumers")} {
		docs, err := filepath.Glob(filepath.Join(servers.Repo(), folder, "*.md"))
		if err != nil || len(docs) == 0 {
			t.Fatalf("found no pages in %s: %v", folder, err)
		}
		for _, doc := range docs {
			pages = append(pages, filepath.Join(folder, filepath.Base(doc)))
		}
	}
	return pages
}

type block struct{ language, text string }

var fence = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

func blocksOf(t *testing.T, page string) []block {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(servers.Repo(), page))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	for _, match := range fence.FindAllStringSubmatch(string(content), -1) {
		blocks = append(blocks, block{match[1], match[2]})
	}
	return blocks
}

// step is a command and what it prints.
type step struct{ command, output string }

func sessionOf(blocks []block) []step {
	var session []step
	for _, b := range blocks {
		if b.language != "console" {
			continue
		}
		for line := range strings.Lines(b.text) {
			last := len(session) - 1
			if command, found := strings.CutPrefix(line, "$ "); found {
				session = append(session, step{command: command})
			} else if more, found := strings.CutPrefix(line, "> "); found && session[last].output == "" {
				session[last].command += more
			} else {
				session[last].output += line
			}
		}
	}
	return session
}

// runSession runs the commands in one shell and compares what each prints.
func runSession(t *testing.T, session []step) {
	t.Helper()
	const mark = "@@@ end of step @@@"
	var commands, script strings.Builder
	for _, s := range session {
		commands.WriteString(s.command)
		fmt.Fprintf(&script, "{\n%s} 2>&1\necho; echo '%s'\n", s.command, mark)
	}
	start := servers.StartVault
	if strings.Contains(commands.String(), "vault operator raft") {
		start = servers.StartRaftVault
	}
	v := start(t)
	dir, stands := prepare(t, v, commands.String())
	fromPage, toPage := replacers(stands)

	// The pages install the plugin as root. One page says bao for the server that
	// the tests run on.
	const preamble = "sudo() { \"$@\"; }\nbao() { vault \"$@\"; }\nregcred() { bin/regcred \"$@\"; }\n"
	cmd := exec.CommandContext(t.Context(), "bash", "-c", preamble+fromPage.Replace(script.String()))
	cmd.Dir = dir
	cmd.Env = append(v.Env(), "HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("the session failed: %v", err)
	}
	outputs := strings.Split(toPage.Replace(string(out)), mark)
	for i, s := range session {
		if i >= len(outputs) {
			t.Fatalf("$ %s: the session ended before", s.command)
		}
		if got := normalise(outputs[i]); !pattern(s.output).MatchString(got) {
			t.Errorf("$ %s--- the page says:\n%s\n--- it printed:\n%s", s.command, normalise(s.output), got)
		}
	}
}

// prepare sets up what the commands of a page need: the working directory, and
// replacements for the names on the page.
func prepare(t *testing.T, v *servers.Vault, commands string) (dir string, stands map[string]string) {
	t.Helper()
	dir = t.TempDir()
	plugins := "/opt/vault/plugins"
	if openBao := "/opt/openbao/plugins"; strings.Contains(commands, openBao) {
		plugins = openBao
	}
	stands = map[string]string{plugins: v.PluginDir, "/var/log/vault": v.LogDir}
	links := map[string]string{"bin": filepath.Join(servers.Repo(), "bin")}
	for _, name := range []string{"policy.hcl", "jwt-role.json"} {
		if strings.Contains(commands, name) {
			links[name] = filepath.Join(servers.Repo(), "examples", "external-secrets", name)
		}
	}
	for _, name := range []string{"examples", "scripts"} {
		if strings.Contains(commands, name+"/") {
			links[name] = filepath.Join(servers.Repo(), name)
		}
	}
	if strings.Contains(commands, "new/"+servers.PluginName) {
		links["new"] = filepath.Dir(buildPlugin(t, "v0.2.0"))
	}
	if name := servers.PluginName + "_0.1.0_linux_amd64.tar.gz"; strings.Contains(commands, name) {
		prepareRelease(t, dir, name)
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if enable := " secrets enable -path=" + servers.Mount + " "; strings.Contains(commands, "vault"+enable) || strings.Contains(commands, "bao"+enable) {
		if err := v.Client.Sys().Unmount(servers.Mount); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(commands, "@ca.pem") {
		if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte(servers.CA(t)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(commands, "@sa.pub") {
		writePublicKey(t, filepath.Join(dir, "sa.pub"))
	}
	if name := "registry.example.com:5000"; strings.Contains(commands, name) {
		const username, password = "robot", "s3cr3t"
		registry := servers.StartRegistry(t, username, password)
		clients.Push(t, registry.Addr+"/team/my_app:1.4", username, password)
		stands[name] = registry.Addr
	}
	for name, start := range standIns {
		if strings.Contains(commands, name) {
			files, names := start(t)
			maps.Copy(stands, names)
			for file, content := range files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	return dir, stands
}

// prepareRelease packs a build as "make release" does, for one platform.
// tests/release tests what "make release" really makes.
func prepareRelease(t *testing.T, dir, archive string) {
	t.Helper()
	program := buildPlugin(t, "v0.1.0")
	script := fmt.Sprintf(`set -e
mkdir linux_amd64 && cp %q linux_amd64/
tar -czf %s -C linux_amd64 %s
sha256sum linux_amd64/* > SHA256SUMS.binaries
sha256sum *.tar.gz SHA256SUMS.binaries > SHA256SUMS`, program, archive, servers.PluginName)
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("packing a release: %v\n%s", err, out)
	}
}

// standIns start the registries that mint, by the text with which a page names
// them. They return files for the working directory, and replacements for the
// names on the page.
var standIns = map[string]func(*testing.T) (files, stands map[string]string){
	// A service account that is Owner of group, and the project group/my_app;
	// next is the token of a Maintainer.
	"https://gitlab.example.com": func(t *testing.T) (files, stands map[string]string) {
		lab := gitlabtest.New(t)
		maintainer := lab.AddUser("maintainer", false)
		lab.SetMember(gitlabtest.Project, maintainer, gitlabtest.Maintainer)
		return map[string]string{
				"admin": lab.Connection().Secrets["token"].Reveal(),
				"next":  lab.AddToken(maintainer, "next", []string{"api"}, 90),
			},
			map[string]string{"https://gitlab.example.com": lab.URL, "registry.example.com": lab.Host()}
	},
	// An administrator's token, and one of the administrator of the project apps.
	"https://acme.jfrog.io": func(t *testing.T) (files, stands map[string]string) {
		jfrog := artifactorytest.New(t)
		return map[string]string{
				"token":         jfrog.Connection().Secrets["token"].Reveal(),
				"project-token": jfrog.ConnectionOfManager().Secrets["token"].Reveal(),
			},
			map[string]string{"https://acme.jfrog.io": jfrog.URL, "acme.jfrog.io": jfrog.Host()}
	},
	// Docker Hub, with the organization acme. The page names neither url nor registry.
	"type=dockerhub": func(t *testing.T) (files, stands map[string]string) {
		hub := dockerhubtest.New(t)
		return map[string]string{"password": dockerhubtest.Password},
			map[string]string{
				"type=dockerhub": "type=dockerhub url=" + hub.URL + " registry=" + hub.Host(), "https://index.docker.io/v1/": hub.Host(),
			}
	},
	// A robot account named vault in the project my_project.
	"https://harbor.example.com": func(t *testing.T) (files, stands map[string]string) {
		harbor := harbortest.New(t)
		harbor.AddProject("my_project")
		_, secret := harbor.AddRobot("my_project", "vault", 90, harbortest.Manages("my_project")...)
		return map[string]string{"secret.txt": secret},
			map[string]string{"https://harbor.example.com": harbor.URL, "harbor.example.com": harbor.Host()}
	},
	// An account named puller, whose access token may mint, and the image app.
	"https://gitea.example.com": func(t *testing.T) (files, stands map[string]string) {
		g := servers.StartGitea(t)
		puller := g.AddUser(t, "puller")
		pushedToGitea(t, g, puller)
		return map[string]string{"token": g.AddToken(t, puller, "vault", "write:user")},
			map[string]string{"https://gitea.example.com": g.URL, "gitea.example.com": g.Host, "puller": puller.Name}
	},
	// A registry in place of GitHub's, with the image acme/app:1.4.
	"@ghcr-token": func(t *testing.T) (files, stands map[string]string) {
		addr, password := privateRegistry(t, "acme-puller", "acme/app:1.4")
		return map[string]string{"ghcr-token": password, "ghcr-next": password}, map[string]string{"ghcr.io": addr}
	},
	// A registry in place of a Nexus, whose repository docker-private is reached by its path.
	"@nexus-password": func(t *testing.T) (files, stands map[string]string) {
		addr, password := privateRegistry(t, "puller", "docker-private/team/app:1.4")
		return map[string]string{"nexus-password": password, "nexus-next": password}, map[string]string{"nexus.example.com": addr}
	},
	// The program in examples/http-broker, for a registry with the image team/app.
	"https://broker.example.com": func(t *testing.T) (files, stands map[string]string) {
		registry := servers.StartRegistry(t, "admin", "s3cr3t")
		broker := servers.StartBroker(t, registry)
		clients.Push(t, registry.Addr+"/team/app:latest", "admin", "s3cr3t")
		return map[string]string{"token": broker.Token},
			map[string]string{"https://broker.example.com": broker.URL, "registry.example.com": registry.Addr}
	},
	// An OAuth token of the organization acme, which has the repository app.
	"https://quay.io": func(t *testing.T) (files, stands map[string]string) {
		s := quaytest.New(t)
		return map[string]string{"quay-token": s.Connection().Secrets["token"].Reveal()},
			map[string]string{"https://quay.io": s.URL, "registry=quay.io": "registry=" + s.Host(), `"quay.io"`: `"` + s.Host() + `"`}
	},
	"https://api.digitalocean.com": func(t *testing.T) (files, stands map[string]string) {
		u := brokertest.NewURL(t)
		return map[string]string{"do-token": u.Connection().Secrets["token"].Reveal()},
			map[string]string{"https://api.digitalocean.com": u.URL, "registry.digitalocean.com": u.Host()}
	},
	// An application with a client secret, and a registry with two scope maps.
	"type=acr": func(t *testing.T) (files, stands map[string]string) {
		azure := acrtest.New(t)
		return map[string]string{"secret": azure.Connection().Secrets["client_secret"].Reveal()}, map[string]string{"type=acr": "type=acr url=" + azure.URL}
	},
	// A service account with a key, which may mint for puller and pusher.
	"type=gar": func(t *testing.T) (files, stands map[string]string) {
		google := gartest.New(t)
		return map[string]string{"key.json": gartest.Key(gartest.Root)}, map[string]string{"type=gar": "type=gar url=" + google.URL}
	},
	// An IAM user with an access key, and a role that it may assume.
	"type=ecr": func(t *testing.T) (files, stands map[string]string) {
		aws := ecrtest.New(t)
		c := aws.Connection()
		return map[string]string{"secret": c.Secrets["secret_access_key"].Reveal()},
			map[string]string{"type=ecr": "type=ecr url=" + aws.URL, "123456789012": ecrtest.Account, "AKIAIOSFODNN7EXAMPLE": c.Settings["access_key_id"]}
	},
}

// privateRegistry starts a real registry with an image, which only username may pull.
func privateRegistry(t *testing.T, username, image string) (addr, password string) {
	t.Helper()
	password = rand.Text()
	registry := servers.StartRegistry(t, username, password)
	clients.Push(t, registry.Addr+"/"+image, username, password)
	return registry.Addr, password
}

// writePublicKey writes a key like the one with which a cluster signs tokens.
func writePublicKey(t *testing.T, file string) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// replacers replace the names on a page by real ones, and back.
func replacers(stands map[string]string) (fromPage, toPage *strings.Replacer) {
	var from, to []string
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(stands))) { // a longer name before its own prefix
		value := stands[name]
		from, to = append(from, name, value), append(to, value, name)
	}
	return strings.NewReplacer(from...), strings.NewReplacer(to...)
}

var variable = []struct {
	text *regexp.Regexp
	name string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`hvs\.[A-Za-z0-9_-]+|s\.[A-Za-z0-9]{24}`), "TOKEN"},
	{regexp.MustCompile(`https?://(127\.0\.0\.1:\d+|vault\.example\.com:8200)`), "ADDRESS"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "SHA256"},
	{regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`), "UUID"},
}

func normalise(output string) string {
	for _, v := range variable {
		output = v.text.ReplaceAllString(output, v.name)
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " ")
	}
	return strings.Join(lines, "\n")
}

// pattern returns a pattern for the output that a page shows.
func pattern(output string) *regexp.Regexp {
	lines := strings.Split(normalise(output), "\n")
	for i, line := range lines {
		if lines[i] = strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*"); line == "…" {
			lines[i] = "(?s:.*)"
		}
	}
	return regexp.MustCompile(`\A` + strings.Join(lines, "\n") + `\z`)
}

// TestAPIPageIsComplete compares docs/api.md with the engine's part of Vault's
// OpenAPI document.
func TestAPIPageIsComplete(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join(servers.Repo(), "docs", "api.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(content)
	v := servers.StartVault(t)
	document, err := v.Client.Logical().ReadRaw("sys/internal/specs/openapi")
	if err != nil {
		t.Fatal(err)
	}
	defer document.Body.Close()
	type body struct {
		Content map[string]struct {
			Schema struct {
				Properties map[string]any `json:"properties"`
			} `json:"schema"`
		} `json:"content"`
	}
	type operation struct {
		OperationID string          `json:"operationId"`
		Summary     string          `json:"summary"`
		RequestBody body            `json:"requestBody"`
		Responses   map[string]body `json:"responses"`
	}
	var openapi struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.NewDecoder(document.Body).Decode(&openapi); err != nil {
		t.Fatal(err)
	}
	mentions := func(what string) {
		t.Helper()
		if !strings.Contains(page, "`"+what+"`") {
			t.Errorf("docs/api.md does not mention `%s`", what)
		}
	}

	var paths, fields int
	for path, item := range openapi.Paths {
		path, ours := strings.CutPrefix(path, "/"+servers.Mount+"/")
		if !ours {
			continue
		}
		paths++
		mentions(strings.NewReplacer("{", "<", "}", ">").Replace(path))
		for _, method := range []string{"get", "post", "patch", "delete"} {
			if item[method] == nil {
				continue
			}
			var op operation
			if err := json.Unmarshal(item[method], &op); err != nil {
				t.Fatal(err)
			}
			if op.Summary == "" || op.OperationID == "" || len(op.Responses) == 0 {
				t.Errorf("%s %s: the OpenAPI document lacks a summary, an operation ID or responses: %s", method, path, item[method])
			}
			for _, b := range append(slices.Collect(maps.Values(op.Responses)), op.RequestBody) {
				for field := range b.Content["application/json"].Schema.Properties {
					fields++
					mentions(field)
				}
			}
		}
	}
	if paths == 0 || fields == 0 {
		t.Errorf("found %d paths and %d fields of the engine in the OpenAPI document", paths, fields)
	}
}
