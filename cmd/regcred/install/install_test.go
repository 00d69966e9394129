// SPDX-License-Identifier: MPL-2.0

package install

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

const head = `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
`

const ours = head + `  - name: regcred-credential-provider
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    matchImages: [ghcr.io]
    defaultCacheDuration: 0s
    tokenAttributes:
      serviceAccountTokenAudience: vault
      cacheType: ServiceAccount
      requireServiceAccount: true
      optionalServiceAccountAnnotationKeys: [regcred.example.com/role]
`

const settings = "address: https://vault.example.com:8200\nauth: {role: regcred-kubelet}\nrole: {template: \"{namespace}\"}\n"

// As nodes of a cloud have it, with a field that this program does not know.
const (
	cloudsJSON = `{"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
  "providers": [{"name": "ecr-credential-provider", "matchImages": ["*.dkr.ecr.*.amazonaws.com"], "defaultCacheDuration": "12h",
    "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "args": ["a<b>&c"], "ofANewerKubelet": 12345678901234567890}]}
`
	cloudsYAML = `# Written by the cloud.
kind: CredentialProviderConfig
apiVersion: kubelet.config.k8s.io/v1
providers:
  - name: auth-provider-gcp
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    matchImages: ["*.pkg.dev"]
    args: [get-credentials, --v=3]
    defaultCacheDuration: 1m
    ofANewerKubelet: {a: 1.50}
`
)

// node is a node's file system with what is to be installed on it.
type node struct {
	*testing.T
	root, from, binDir, to, config string
}

func TestMain(m *testing.M) {
	file, err := os.CreateTemp("", "regcred")
	if err == nil {
		_, err = file.WriteString("the program")
	}
	if err != nil {
		panic(err)
	}
	executable = func() (string, error) { return file.Name(), nil }
	status := m.Run()
	_ = os.Remove(file.Name())
	os.Exit(status)
}

func newNode(t *testing.T, configName, config string) *node {
	t.Helper()
	root := t.TempDir()
	n := &node{t, root, filepath.Join(root, "from"), filepath.Join(root, "cp", "bin"), filepath.Join(root, "etc"), filepath.Join(root, "cp", configName)}
	n.write(filepath.Join(n.from, entryFile), ours)
	n.write(filepath.Join(n.from, "kubelet.yaml"), settings)
	n.write(filepath.Join(n.from, "vault-ca.pem"), "a CA\n")
	// As the volume of a ConfigMap has them.
	n.write(filepath.Join(n.from, "..data", "kubelet.yaml"), "not this one")
	if config != "" {
		n.write(n.config, config)
	}
	return n
}

func (n *node) write(path, content string) {
	n.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		n.Fatal(err)
	}
}

func (n *node) args(more ...string) []string {
	return append([]string{"-from=" + n.from, "-bin-dir=" + n.binDir, "-to=" + n.to, "-config=" + n.config}, more...)
}

// run returns what was printed, with the paths of the node.
func (n *node) run(more ...string) (string, error) {
	n.Helper()
	var out bytes.Buffer
	err := Run(n.Context(), n.args(more...), "v1.2.3", &out)
	return strings.ReplaceAll(out.String(), n.root, ""), err
}

func (n *node) must(more ...string) string {
	n.Helper()
	out, err := n.run(more...)
	if err != nil {
		n.Fatalf("%v\n%s", err, out)
	}
	return out
}

func (n *node) fails(want string, more ...string) {
	n.Helper()
	out, err := n.run(more...)
	if err == nil || !strings.Contains(strings.ReplaceAll(client.Line(err), n.root, ""), strings.ReplaceAll(want, n.root, "")) {
		n.Errorf("want a failure with %q, got %v\n%s", want, err, out)
	}
}

// files returns all files of the node, by their path, with mode and content.
func (n *node) files() map[string]string {
	n.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(n.root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasPrefix(path, n.from) {
			return err
		}
		content, err := os.ReadFile(path)
		info, _ := entry.Info()
		found[strings.TrimPrefix(path, n.root)] = info.Mode().String() + " " + string(content)
		return err
	})
	if err != nil {
		n.Fatal(err)
	}
	return found
}

func (n *node) has(want map[string]string) {
	n.Helper()
	if got := n.files(); !maps.Equal(got, want) {
		n.Errorf("want\n%q\ngot\n%q", want, got)
	}
}

// installed is what every node has, beside the kubelet's file.
func installed(more map[string]string) map[string]string {
	files := map[string]string{
		"/cp/bin/regcred-credential-provider": "-rwxr-xr-x the program",
		"/etc/kubelet.yaml":                   "-rw-r--r-- " + settings,
		"/etc/vault-ca.pem":                   "-rw-r--r-- a CA\n",
	}
	maps.Copy(files, more)
	return files
}

const mergedJSON = `{
  "apiVersion": "kubelet.config.k8s.io/v1",
  "kind": "CredentialProviderConfig",
  "providers": [
    {
      "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
      "args": [
        "a<b>&c"
      ],
      "defaultCacheDuration": "12h",
      "matchImages": [
        "*.dkr.ecr.*.amazonaws.com"
      ],
      "name": "ecr-credential-provider",
      "ofANewerKubelet": 12345678901234567890
    },
    {
      "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
      "defaultCacheDuration": "0s",
      "matchImages": [
        "ghcr.io"
      ],
      "name": "regcred-credential-provider",
      "tokenAttributes": {
        "cacheType": "ServiceAccount",
        "optionalServiceAccountAnnotationKeys": [
          "regcred.example.com/role"
        ],
        "requireServiceAccount": true,
        "serviceAccountTokenAudience": "vault"
      }
    }
  ]
}
`

func TestEntryIsAddedToTheKubeletsFile(t *testing.T) {
	n := newNode(t, "config.json", cloudsJSON)
	want := installed(map[string]string{
		"/cp/config.json":                "-rw-r----- " + mergedJSON,
		"/cp/config.json.before-regcred": "-rw-r----- " + cloudsJSON,
	})
	first := n.must("-must-exist")
	for _, said := range []string{
		"/cp/bin/regcred-credential-provider: put in place (version v1.2.3)\n", "/etc/kubelet.yaml: put in place (read at each pull)\n",
		"/cp/config.json: changed (restart the kubelet; metric sha256:",
	} {
		if !strings.Contains(first, said) {
			t.Errorf("want %q said, got\n%s", said, first)
		}
	}
	n.has(want)
	// A second run changes nothing.
	before := n.modTimes()
	if again := n.must(); strings.Count(again, "as it should be") != 4 || strings.Count(again, "\n") != 4 {
		t.Errorf("the second run says\n%s", again)
	}
	n.has(want)
	if after := n.modTimes(); !maps.Equal(before, after) {
		t.Errorf("the second run writes: %v, %v", before, after)
	}

	// An entry that changes takes the place of the former, and the backup stays.
	n.write(filepath.Join(n.from, entryFile), strings.Replace(ours, "[ghcr.io]", "[quay.io]", 1))
	if out := n.must(); !strings.Contains(out, "/cp/config.json: changed (restart the kubelet") || strings.Count(out, "as it should be") != 3 {
		t.Errorf("an entry that changes: %s", out)
	}
	want["/cp/config.json"] = strings.Replace(want["/cp/config.json"], "ghcr.io", "quay.io", 1)
	n.has(want)

	// The cloud writes its file anew: a new backup, and the entry is back.
	n.write(n.config, strings.Replace(cloudsJSON, "12h", "6h", 1))
	n.must()
	want["/cp/config.json"] = strings.Replace(want["/cp/config.json"], "12h", "6h", 1)
	want["/cp/config.json.before-regcred"] = strings.Replace(want["/cp/config.json.before-regcred"], "12h", "6h", 1)
	n.has(want)

	n.must("-remove")
	n.has(map[string]string{"/cp/config.json": "-rw-r----- " + strings.Replace(cloudsJSON, "12h", "6h", 1)})
	n.must("-remove")
}

func (n *node) modTimes() map[string]time.Time {
	n.Helper()
	times := map[string]time.Time{}
	for path := range n.files() {
		info, err := os.Stat(filepath.Join(n.root, path))
		if err != nil {
			n.Fatal(err)
		}
		times[path] = info.ModTime()
	}
	return times
}

func TestYAMLStaysYAMLAndComesBackAsItWas(t *testing.T) {
	n := newNode(t, "config.yaml", cloudsYAML)
	n.must()
	merged := n.files()["/cp/config.yaml"]
	for _, part := range []string{"ofANewerKubelet:\n    a: 1.5", "\n- apiVersion: credentialprovider.kubelet.k8s.io/v1\n", "name: auth-provider-gcp", "name: regcred-credential-provider"} {
		if !strings.Contains(merged, part) {
			t.Errorf("the merged file has no %q:\n%s", part, merged)
		}
	}
	n.must("-remove")
	n.has(map[string]string{"/cp/config.yaml": "-rw-r----- " + cloudsYAML})

	// What somebody has changed since stays.
	n.must()
	n.write(n.config, strings.Replace(merged[strings.Index(merged, " ")+1:], "defaultCacheDuration: 1m", "defaultCacheDuration: 2m", 1))
	n.must("-remove")
	if left := n.files(); len(left) != 1 || !strings.Contains(left["/cp/config.yaml"], "defaultCacheDuration: 2m") || strings.Contains(left["/cp/config.yaml"], "regcred") {
		t.Errorf("what is left: %q", left)
	}
}

func TestWithoutAFileOneIsMade(t *testing.T) {
	for _, name := range []string{"config.yaml", "regcred.json"} {
		n := newNode(t, name, "")
		n.fails("/cp/"+name+" does not exist, and -must-exist was given", "-must-exist")
		n.must()
		if made := n.files()["/cp/"+name]; !strings.Contains(made, "regcred-credential-provider") || strings.Contains(made, "{") != strings.HasSuffix(name, ".json") {
			t.Errorf("made:\n%s", made)
		}
		// A kubelet that is told of the file does not start with an empty list.
		n.fails("has no other provider, and with an empty list the kubelet does not start", "-remove")
		if len(n.files()) != 4 {
			t.Errorf("a refused removal leaves %q", n.files())
		}
		n.must("-remove", "-delete-empty")
		n.has(map[string]string{})
	}
}

// errKilled stands for a process that ends at once.
var errKilled = errors.New("killed")

// passKilled runs a pass that ends after a number of changes. It reports whether it
// came to its end before.
func (n *node) passKilled(after int, more ...string) (finished bool) {
	n.Helper()
	flags, o := newFlags()
	if err := flags.Parse(n.args(more...)); err != nil {
		n.Fatal(err)
	}
	defer func() {
		if r := recover(); r != nil {
			if err, isError := r.(error); !isError || !errors.Is(err, errKilled) {
				panic(r)
			}
		}
	}()
	r := run{options: *o, version: "v1.2.3", files: files{out: &bytes.Buffer{}, after: func(string) {
		if after--; after == 0 {
			panic(errKilled)
		}
	}}}
	if err := r.pass(); err != nil {
		n.Fatal(err)
	}
	return true
}

// startable fails if a kubelet that starts now would end: its file must be whole,
// name a provider, and each program that it names must be there.
func (n *node) startable(when int) {
	n.Helper()
	content, err := os.ReadFile(n.config)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	d, decodeErr := decodeDocument(n.config, content)
	if err := errors.Join(err, decodeErr); err != nil || len(d.entries) == 0 {
		n.Fatalf("after %d changes: %v, %d entries", when, err, len(d.entries))
	}
	for _, e := range d.entries {
		info, err := os.Stat(filepath.Join(n.binDir, e.name))
		if e.name == "ecr-credential-provider" {
			continue
		}
		if err != nil || info.Mode().Perm() != 0o755 {
			n.Fatalf("after %d changes the file names %s, and there is no such program: %v", when, e.name, err)
		}
	}
}

// TestKilledAtAnyStep ends the process after each of its changes, when it installs,
// when it updates and when it removes. A kubelet can start each time, and the next
// run finishes what was begun.
func TestKilledAtAnyStep(t *testing.T) {
	for what, before := range map[string]string{"beside another": cloudsJSON, "alone": ""} {
		t.Run(what, func(t *testing.T) {
			reference := newNode(t, "config.json", before)
			reference.must()
			want := reference.files()
			left := map[string]string{}
			if before != "" {
				left["/cp/config.json"] = "-rw-r----- " + cloudsJSON
			}
			for after := 1; ; after++ {
				n := newNode(t, "config.json", before)
				finished := n.passKilled(after)
				n.startable(after)
				n.must()
				n.has(want)

				// An older program, other settings and another entry.
				n.write(filepath.Join(n.binDir, "regcred-credential-provider"), "an older one")
				if err := os.Chmod(filepath.Join(n.binDir, "regcred-credential-provider"), 0o755); err != nil {
					t.Fatal(err)
				}
				n.write(filepath.Join(n.to, "kubelet.yaml"), "other settings")
				n.write(n.config, strings.Replace(want["/cp/config.json"][11:], `"ghcr.io"`, `"quay.io"`, 1))
				if err := os.Chmod(n.config, map[bool]fs.FileMode{true: 0o640, false: 0o644}[before != ""]); err != nil {
					t.Fatal(err)
				}
				finished = n.passKilled(after) && finished
				n.startable(after)
				n.must()
				n.has(want)

				finished = n.passKilled(after, "-remove", "-delete-empty") && finished
				n.startable(after)
				n.must("-remove", "-delete-empty")
				n.has(left)
				if finished {
					if after < 9 {
						t.Errorf("only %d changes", after)
					}
					return
				}
			}
		})
	}
}

func TestWhatIsRefusedChangesNothing(t *testing.T) {
	for want, change := range map[string]func(*node){
		"/from/credential-provider.yaml does not exist":                                                 func(n *node) { _ = os.Remove(filepath.Join(n.from, entryFile)) },
		"the name kubelet tells the program nothing; call it regcred-credential-provider":               func(n *node) { n.entry("name: regcred-credential-provider", "name: kubelet") },
		"write apiVersion: credentialprovider.kubelet.k8s.io/v1":                                        func(n *node) { n.entry("apiVersion: credentialprovider.kubelet.k8s.io/v1", "apiVersion: v1beta1") },
		`/from/credential-provider.yaml: unknown field "providers[0].matchImage"; Kubernetes documents`: func(n *node) { n.entry("matchImages:", "matchImage:") },
		// The kubelet does not start with it.
		`/from/credential-provider.yaml: unknown field "providers[0].DefaultCacheDuration"`: func(n *node) { n.entry("defaultCacheDuration:", "DefaultCacheDuration:") },
		"/from/credential-provider.yaml: the provider regcred-credential-provider is there twice": func(n *node) {
			n.write(filepath.Join(n.from, entryFile), ours+strings.TrimPrefix(ours, head))
		},
		"/cp/config.json: it has several documents":                                                             func(n *node) { n.write(n.config, cloudsYAML+"---\n"+cloudsYAML) },
		`"https://ghcr.io" in matchImages never matches; write it without a scheme`:                             func(n *node) { n.entry("ghcr.io", "https://ghcr.io") },
		`"index.docker.io" in matchImages never matches; write docker.io`:                                       func(n *node) { n.entry("ghcr.io", "index.docker.io") },
		`"ghcr.io/acme/app:1" in matchImages never matches; write it without tag`:                               func(n *node) { n.entry("ghcr.io", `"ghcr.io/acme/app:1"`) },
		`"*" in matchImages never matches; write the host of the registry`:                                      func(n *node) { n.entry("ghcr.io", `"*"`) },
		"/from/credential-provider.yaml: matchImages is empty: the kubelet does not start; name the registries": func(n *node) { n.entry("[ghcr.io]", "[]") },
		"defaultCacheDuration is missing":                                                                       func(n *node) { n.entry("    defaultCacheDuration: 0s\n", "") },
		`tokenAttributes.cacheType is "Pod"`:                                                                    func(n *node) { n.entry("cacheType: ServiceAccount", "cacheType: Pod") },
		"tokenAttributes.requireServiceAccount is missing":                                                      func(n *node) { n.entry("      requireServiceAccount: true\n", "") },
		"tokenAttributes.serviceAccountTokenAudience is missing":                                                func(n *node) { n.entry("serviceAccountTokenAudience: vault", `serviceAccountTokenAudience: ""`) },
		`tokenAttributes has "a b", which can be no annotation`:                                                 func(n *node) { n.entry("[regcred.example.com/role]", "[a b]") },
		"defaultCacheDuration is negative":                                                                      func(n *node) { n.entry("defaultCacheDuration: 0s", "defaultCacheDuration: -1s") },
		"tokenAttributes has the annotation a/b twice":                                                          func(n *node) { n.entry("[regcred.example.com/role]", "[a/b, a/b]") },
		"has no provider": func(n *node) {
			n.write(filepath.Join(n.from, entryFile), strings.Replace(head, "providers:", "providers: []", 1))
		},
		"/from/kubelet.yaml: auth.role: must name": func(n *node) { n.settings("auth: {role: regcred-kubelet}\n", "") },
		`unknown field "addr"`:                     func(n *node) { n.settings("address:", "addr:") },
		"/cp/config.json: it is a Pod of v1":       func(n *node) { n.write(n.config, `{"kind": "Pod", "apiVersion": "v1"}`) },
		"/cp/config.json: it is a CredentialProviderConfig of kubelet.config.k8s.io/v1beta1; it must be": func(n *node) {
			n.write(n.config, strings.Replace(cloudsJSON, "kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", 1))
		},
		"/cp/config.json: providers is no list": func(n *node) {
			n.write(n.config, `{"kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1"}`)
		},
		`key "kind" already set in map`:    func(n *node) { n.write(n.config, strings.Replace(cloudsJSON, "{", `{"kind": "x",`, 1)) },
		"/cp/config.json: it is no object": func(n *node) { n.write(n.config, "") },
	} {
		n := newNode(t, "config.json", cloudsJSON)
		change(n)
		before := ""
		if content, err := os.ReadFile(n.config); err == nil {
			before = string(content)
		}
		n.fails(want)
		after, _ := os.ReadFile(n.config)
		if string(after) != before {
			t.Errorf("%s: the kubelet's file was changed", want)
		}
		if strings.Contains(want, "/from/") && len(n.files()) != 1 {
			t.Errorf("%s: %q was written", want, n.files())
		}
	}
}

func (n *node) entry(former, latter string)    { n.change(entryFile, former, latter) }
func (n *node) settings(former, latter string) { n.change("kubelet.yaml", former, latter) }

func (n *node) change(name, former, latter string) {
	n.Helper()
	content, err := os.ReadFile(filepath.Join(n.from, name))
	if err != nil || !strings.Contains(string(content), former) {
		n.Fatalf("%s has no %q: %v", name, former, err)
	}
	n.write(filepath.Join(n.from, name), strings.Replace(string(content), former, latter, 1))
}

func TestFlagsAreChecked(t *testing.T) {
	n := newNode(t, "config.json", cloudsJSON)
	n.fails("-config must end in .json", "-config=/etc/kubernetes/credential-providers")
	n.fails("-bin-dir must be an absolute path", "-bin-dir=bin")
	n.fails("-delete-empty is for -remove only", "-delete-empty")
	n.fails("-every must be 0, or at least 1s", "-every=1ms")
	n.fails(`"now" is no flag`, "now")
	n.fails("-from: "+n.root+"/none cannot be read: no such file or directory", "-from="+n.root+"/none")
	n.fails("flag provided but not defined: -form", "-form=x")
}

// TestOthersMustNotReplaceTheProgram: the kubelet runs it as root.
func TestOthersMustNotReplaceTheProgram(t *testing.T) {
	n := newNode(t, "config.json", cloudsJSON)
	if err := os.MkdirAll(n.binDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(n.binDir, 0o777); err != nil {
		t.Fatal(err)
	}
	n.fails("/cp/bin can be written by others (mode 0777); chown root and chmod go-w /cp/bin")
	if err := os.Chmod(n.binDir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Nor together with a folder above it.
	if err := os.Chmod(n.root, 0o777); err != nil {
		t.Fatal(err)
	}
	n.fails(" can be written by others (mode 0777)", "-to="+filepath.Join(n.root, "cp", "etc"), "-config="+filepath.Join(n.root, "cp", "etc", "config.json"))
	if len(n.files()) != 1 {
		t.Errorf("something was written: %q", n.files())
	}
	if err := os.Chmod(n.root, 0o755); err != nil {
		t.Fatal(err)
	}
	// A link would lead elsewhere on the node than in a container.
	if err := os.Symlink("/nowhere", filepath.Join(n.binDir, "regcred-credential-provider")); err != nil {
		t.Fatal(err)
	}
	n.fails("/cp/bin/regcred-credential-provider is no regular file")
}

// TestOthersMustNotOwnWhatIsInPlace: a file with the right content that another user
// owns is theirs to change at any time.
func TestOthersMustNotOwnWhatIsInPlace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	n := newNode(t, "config.json", cloudsJSON)
	n.must()
	program := filepath.Join(n.binDir, "regcred-credential-provider")
	for _, path := range []string{program, filepath.Join(n.to, "kubelet.yaml")} {
		if err := os.Chown(path, 4711, 4711); err != nil {
			t.Fatal(err)
		}
		if out := n.must(); !strings.Contains(out, strings.TrimPrefix(path, n.root)+": replaced") {
			t.Errorf("%s of another user: got\n%s", path, out)
		}
		if err := client.CheckOwner(path); err != nil {
			t.Error(err)
		}
	}
	// The kubelet's own file is not ours to give back.
	if err := os.Chown(n.config, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	n.fails("/cp/config.json belongs to user 4711")
	n.fails("/cp/config.json belongs to user 4711")
}

// TestFileThatOthersCanWriteIsRefusedAsItIs: the refusal comes before the change.
func TestFileThatOthersCanWriteIsRefusedAsItIs(t *testing.T) {
	n := newNode(t, "config.json", cloudsJSON)
	if err := os.Chmod(n.config, 0o666); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n.fails("/cp/config.json can be written by others (mode 0666)")
		if got := n.files()["/cp/config.json"]; got != "-rw-rw-rw- "+cloudsJSON {
			t.Errorf("got %s", got)
		}
	}
}

// TestSeveralNames: a node that pulls for several clusters or audiences has the
// program under several names, each with a configuration.
func TestSeveralNames(t *testing.T) {
	n := newNode(t, "config.json", cloudsJSON)
	second := strings.Replace(strings.TrimPrefix(ours, head), "regcred-credential-provider", "regcred-credential-provider-prod", 1)
	n.write(filepath.Join(n.from, entryFile), ours+strings.Replace(second, "    matchImages", "    args: [-role=all]\n    matchImages", 1))
	// Arguments complete it.
	n.write(filepath.Join(n.from, "kubelet-prod.yaml"), "address: https://other.example.com:8200\nauth: {role: r}\n")
	n.must()
	var names []string
	for path := range n.files() {
		names = append(names, path)
	}
	slices.Sort(names)
	want := []string{
		"/cp/bin/regcred-credential-provider", "/cp/bin/regcred-credential-provider-prod", "/cp/config.json", "/cp/config.json.before-regcred",
		"/etc/kubelet-prod.yaml", "/etc/kubelet.yaml", "/etc/vault-ca.pem",
	}
	if !slices.Equal(names, want) {
		t.Errorf("want %q, got %q", want, names)
	}
	n.must("-remove")
	n.has(map[string]string{"/cp/config.json": "-rw-r----- " + cloudsJSON})
}

// TestTwoInstallations: each takes off what is its own, in either order, and with the
// last of them the file is as it was.
func TestTwoInstallations(t *testing.T) {
	for _, firstGoesFirst := range []bool{true, false} {
		n := newNode(t, "config.yaml", cloudsYAML)
		n.must()
		second := *n
		second.from = filepath.Join(n.root, "from-second")
		second.write(filepath.Join(second.from, entryFile), strings.Replace(ours, "regcred-credential-provider", "regcred-credential-provider-prod", 1))
		second.must()
		order := []*node{n, &second}
		if !firstGoesFirst {
			slices.Reverse(order)
		}
		order[0].must("-remove")
		order[0].must("-remove")
		left := n.files()["/cp/config.yaml"]
		if strings.Contains(left, "provider-prod") != firstGoesFirst || strings.Contains(left, "name: regcred-credential-provider\n") == firstGoesFirst || !strings.Contains(left, "auth-provider-gcp") {
			t.Errorf("after the first removal:\n%s", left)
		}
		order[1].must("-remove")
		files := n.files()
		delete(files, "/from-second/"+entryFile)
		if want := map[string]string{"/cp/config.yaml": "-rw-r----- " + cloudsYAML}; !maps.Equal(files, want) {
			t.Errorf("after the second removal: %q", files)
		}
	}
}

// TestTwoInstallationsAtOnce: a node with two providers has two pods, each of which looks
// at the kubelet's file every minute.
func TestTwoInstallationsAtOnce(t *testing.T) {
	n := newNode(t, "config.yaml", cloudsYAML)
	second := *n
	second.from = filepath.Join(n.root, "from-second")
	second.write(filepath.Join(second.from, entryFile), strings.Replace(ours, "regcred-credential-provider", "regcred-credential-provider-prod", 1))
	flags, o := newFlags()
	if err := flags.Parse(n.args()); err != nil {
		t.Fatal(err)
	}
	other := make(chan error, 1)
	started := false
	r := run{options: *o, version: "v1.2.3", files: files{out: &bytes.Buffer{}, after: func(step string) {
		// It has read the file, and is about to replace it.
		if started || !strings.Contains(step, "config.yaml.new") {
			return
		}
		started = true
		go func() { other <- Run(t.Context(), second.args(), "v1.2.3", &bytes.Buffer{}) }()
		time.Sleep(300 * time.Millisecond) // enough for it to come between, if nothing keeps it
	}}}
	if err := r.pass(); err != nil {
		t.Error(err)
	}
	if err := <-other; err != nil {
		t.Error(err)
	}
	for _, name := range []string{"auth-provider-gcp", "regcred-credential-provider", "regcred-credential-provider-prod"} {
		if merged := n.files()["/cp/config.yaml"]; !strings.Contains(merged, "name: "+name+"\n") {
			t.Errorf("no %s in\n%s", name, merged)
		}
	}
	if backup := n.files()["/cp/config.yaml.before-regcred"]; !strings.HasSuffix(backup, cloudsYAML) {
		t.Errorf("the backup is\n%s", backup)
	}
}

// TestEntryInAnotherFileOfTheFolder: a kubelet that reads the folder does not start with
// the same name in two files.
func TestEntryInAnotherFileOfTheFolder(t *testing.T) {
	n := newNode(t, "config.json", cloudsJSON)
	n.must()
	before := n.files()
	n.fails("/cp/config.json has the provider regcred-credential-provider already", "-config="+filepath.Join(n.root, "cp", "regcred.json"))
	n.has(before)
	n.must("-remove")
	n.write(filepath.Join(n.root, "cp", "other.yaml"), "{")
	n.must("-config=" + filepath.Join(n.root, "cp", "regcred.json"))
}

// TestEveryKeepsTheFilesAsTheyShouldBe: what others change comes back.
func TestEveryKeepsTheFilesAsTheyShouldBe(t *testing.T) {
	n := newNode(t, "config.json", cloudsJSON)
	done := make(chan error, 1)
	out := &lines{seen: make(chan string, 100)}
	go func() { done <- Run(n.Context(), n.args("-every=1s"), "v1.2.3", out) }()
	out.wait(t, "config.json: changed (restart the kubelet")
	n.write(n.config, cloudsJSON)
	out.wait(t, "config.json: changed (restart the kubelet")
	if merged := n.files()["/cp/config.json"]; !strings.HasSuffix(merged, mergedJSON) {
		t.Errorf("got %s", merged)
	}
	// What cannot be mended ends it, so that somebody sees it.
	n.write(n.config, "{")
	if err := <-done; err == nil {
		t.Error("a file that cannot be read does not end it")
	}
}

// lines hands on what is printed.
type lines struct{ seen chan string }

func (l *lines) Write(p []byte) (int, error) {
	l.seen <- string(p)
	return len(p), nil
}

func (l *lines) wait(t *testing.T, want string) {
	t.Helper()
	for {
		select {
		case line := <-l.seen:
			if strings.Contains(line, want) {
				return
			}
		case <-time.After(time.Minute):
			t.Fatalf("%q was not said", want)
		}
	}
}
