// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/acr/acrtest"
	"vault-plugin-secrets-regcred/backend/issuer/artifactory/artifactorytest"
	"vault-plugin-secrets-regcred/backend/issuer/dockerhub/dockerhubtest"
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/gar/gartest"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/httpbroker/brokertest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/backend/issuer/quay/quaytest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestMain is the program itself if a test starts it so.
func TestMain(m *testing.M) {
	if os.Getenv("LIVE_TEST_PROGRAM") != "" {
		main()
	}
	os.Exit(m.Run())
}

// subject is a registry in memory.
type subject struct {
	*issuertest.Server
	kind       string
	conn       issuer.Connection
	role       issuer.Settings
	repository string
	mints      func(*http.Request) bool
	living     func() []string
}

func harborSubject(t *testing.T) subject {
	s := harbortest.New(t)
	return subject{s.Server, "harbor", s.Connection(), s.Role(), harbortest.Project + "/app", s.MintMatch, s.Living}
}

func gitlabSubject(t *testing.T) subject {
	s := gitlabtest.New(t)
	return subject{s.Server, "gitlab", s.Connection(), s.Role(), gitlabtest.Project, s.MintMatch, s.Living}
}

func quaySubject(t *testing.T) subject {
	s := quaytest.New(t)
	return subject{s.Server, "quay", s.Connection(), s.Role(), quaytest.Organization + "/" + quaytest.Repository, s.MintMatch, s.Living}
}

func brokerSubject(operations ...string) func(*testing.T) subject {
	return func(t *testing.T) subject {
		s := brokertest.New(t, operations...)
		return subject{s.Server, "http", s.Connection(), s.Role(), brokertest.Scope + "/app", s.MintMatch, s.Living}
	}
}

// subjects are registries, by what they are.
var subjects = map[string]func(*testing.T) subject{
	"harbor": harborSubject, "gitlab": gitlabSubject, "quay": quaySubject,
	"artifactory": func(t *testing.T) subject {
		s := artifactorytest.New(t)
		return subject{s.Server, "artifactory", s.Connection(), s.Role(), artifactorytest.Repository + "/app", s.MintMatch, s.Living}
	},
	"dockerhub": func(t *testing.T) subject {
		s := dockerhubtest.New(t)
		return subject{s.Server, "dockerhub", s.Connection(), s.Role(), dockerhubtest.Repository, s.MintMatch, s.Living}
	},
	"acr": func(t *testing.T) subject {
		s := acrtest.New(t)
		return subject{s.Server, "acr", s.Connection(), s.Role(), acrtest.Repository, s.MintMatch, s.Living}
	},
	"gar": func(t *testing.T) subject {
		s := gartest.New(t)
		return subject{s.Server, "gar", s.Connection(), s.Role(), gartest.Repository, s.MintMatch, nil}
	},
	"ecr": func(t *testing.T) subject {
		s := ecrtest.New(t)
		return subject{s.Server, "ecr", s.Connection(), s.Role(), "team/app", s.MintMatch, nil}
	},
	"broker": brokerSubject(brokertest.All...), "broker without find": brokerSubject("mint", "revoke", "check"),
	"broker that only mints": brokerSubject("mint"), "reference broker": referenceBroker,
}

// referenceBroker runs examples/http-broker, and a registry that reads its htpasswd file.
func referenceBroker(t *testing.T) subject {
	dir := t.TempDir()
	program, htpasswd, tokens, token := filepath.Join(dir, "broker.exe"), filepath.Join(dir, "htpasswd"), filepath.Join(dir, "tokens"), rand.Text()
	if out, err := exec.Command("go", "build", "-C", "../..", "-o", program, "./examples/http-broker").CombinedOutput(); err != nil {
		t.Fatalf("building the broker: %v\n%s", err, out)
	}
	for path, text := range map[string]string{htpasswd: "", tokens: fmt.Sprintf("vault:%x\n", sha256.Sum256([]byte(token)))} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	users := func() map[string]string {
		text, _ := os.ReadFile(htpasswd)
		hashes := map[string]string{}
		for line := range strings.Lines(string(text)) {
			if name, hash, found := strings.Cut(strings.TrimSpace(line), ":"); found && !strings.HasPrefix(line, "#") {
				hashes[name] = hash
			}
		}
		return hashes
	}
	address := servers.FreeAddr(t)
	mux := http.NewServeMux()
	mux.Handle("/v2/", issuertest.Registry(func(user, password, _ string) bool {
		return bcrypt.CompareHashAndPassword([]byte(users()[user]), []byte(password)) == nil
	}))
	mux.Handle("/", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address}))
	server := issuertest.NewServer(t, mux)
	cmd := exec.Command(program, "-listen="+address, "-htpasswd="+htpasswd, "-tokens="+tokens, "-registry="+server.Host())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for try := 0; ; try++ {
		if conn, err := net.Dial("tcp", address); err == nil {
			_ = conn.Close()
			break
		} else if try == 3000 {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return subject{server, "http", issuer.Connection{
		URL: server.URL, Registries: []dockerconfig.Key{dockerconfig.Key(server.Host())},
		Secrets: issuer.Secrets{"token": dockerconfig.NewSecret(token)},
	}, nil, "team/app", issuertest.Method(http.MethodPost), func() []string {
		var names []string
		for name := range users() {
			names = append(names, name)
		}
		return names
	}}
}

// settings writes the file of settings, with each secret in a file of its own.
func (s subject) settings(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	lines := []string{"# to try", "", "url=" + s.conn.URL, "registry=" + string(s.conn.Registries[0]), "repository=" + s.repository}
	for field, value := range s.conn.Settings {
		lines = append(lines, field+"="+value)
	}
	for field, value := range s.role {
		lines = append(lines, "role."+field+"="+value)
	}
	for field, secret := range s.conn.Secrets {
		path := filepath.Join(dir, field)
		if err := os.WriteFile(path, []byte(secret.Reveal()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, field+"=@"+path)
	}
	path := filepath.Join(dir, "live.env")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open returns a trial that waits for nothing for long, and where it prints.
func (s subject) open(t *testing.T) (*trial, *bytes.Buffer) {
	t.Helper()
	tried, err := open(s.kind, s.settings(t))
	if err != nil {
		t.Fatal(err)
	}
	out := &bytes.Buffer{}
	tried.out, tried.patience, tried.pause, tried.late = out, 50*time.Millisecond, time.Millisecond, time.Millisecond
	return tried, out
}

// wantOutput fails the test unless the output has the texts, and no secret and no name
// where there must be none.
func wantOutput(t *testing.T, s subject, tried *trial, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("want %q in the output:\n%s", text, out)
		}
	}
	secrets := s.conn.Secrets.Reveal()
	secrets = append(secrets, tried.conn.Secrets.Reveal()...)
	_, report, _ := strings.Cut(out, "\nrepository  ") // below the names of fields
	names := []string{s.conn.URL, string(s.conn.Registries[0]), s.repository, "regcred-live-", "127.0.0.1"}
	for _, value := range s.conn.Settings {
		names = append(names, value)
	}
	for _, c := range tried.made {
		if c.answered {
			secrets, names = append(secrets, c.Password.Reveal()), append(names, c.Username)
		}
	}
	for _, secret := range secrets {
		if strings.Contains(out, secret) {
			t.Errorf("the output has a secret:\n%s", out)
		}
	}
	for _, name := range names {
		if strings.Contains(report, name) {
			t.Errorf("the report has the name %q:\n%s", name, report)
		}
	}
}

func wantNoneLiving(t *testing.T, s subject) {
	t.Helper()
	if s.living != nil {
		if living := s.living(); len(living) != 0 {
			t.Errorf("want nothing left at the registry, got %q", living)
		}
	}
}

func TestEachTypeDoesWhatTheEngineNeeds(t *testing.T) {
	for name, start := range subjects {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			tried, out := s.open(t)
			code := tried.run(t.Context())
			wantOutput(t, s, tried, out.String(), "ok      use again", "does all that the engine needs; 0 left behind", "type        "+s.kind)
			if code != 0 {
				t.Errorf("want exit code 0, got %d:\n%s", code, out)
			}
			if strings.Contains(out.String(), "NOT TRIED") {
				t.Errorf("want each step tried:\n%s", out)
			}
			if tried.can().Revoke {
				wantNoneLiving(t, s)
			}
		})
	}
}

func TestRootCredentialIsReplaced(t *testing.T) {
	for name, start := range map[string]func(*testing.T) subject{"harbor": harborSubject, "gitlab": gitlabSubject, "broker": brokerSubject(brokertest.All...), "artifactory": subjects["artifactory"], "ecr": subjects["ecr"]} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			tried, out := s.open(t)
			tried.newRoot = filepath.Join(t.TempDir(), "new-root.json")
			code := tried.run(t.Context())
			wantOutput(t, s, tried, out.String(), "rotate-root", "the old one was refused after", "0 left behind")
			wantNoneLiving(t, s)
			info, err := os.Stat(tried.newRoot)
			if code != 0 || err != nil || runtime.GOOS != "windows" && info.Mode() != 0o600 {
				t.Fatalf("want a file with mode 0600 and exit code 0, got %v, %v and %d:\n%s", info, err, code, out)
			}
			text, _ := os.ReadFile(tried.newRoot)
			var fields map[string]string
			if err := json.Unmarshal(text, &fields); err != nil {
				t.Fatal(err)
			}
			again, out := s.open(t)
			if again.run(t.Context()) == 0 {
				t.Errorf("want the old root credential refused:\n%s", out)
			}
			for field, value := range fields {
				if s.conn.Secrets[field].Reveal() != "" {
					s.conn.Secrets[field] = dockerconfig.NewSecret(value)
				} else {
					s.conn.Settings[field] = value
				}
			}
			if again, out = s.open(t); again.run(t.Context()) != 0 {
				t.Errorf("want the one in the file accepted:\n%s", out)
			}
		})
	}
}

// Whatever fails, what was made is ended, and what cannot be ended is named.
func TestCleansUp(t *testing.T) {
	isDelete := issuertest.Method(http.MethodDelete)
	for name, c := range map[string]struct {
		fail func(s subject)
		left int // credentials at the registry, each of which must be named
		says []string
	}{
		"a revocation fails":         {func(s subject) { s.InjectFault(4, isDelete, issuertest.Status(500, "boom")) }, 0, []string{"FAILED", "revoke the former", "status 500", "; 0 left behind"}},
		"every revocation fails":     {func(s subject) { s.InjectFault(-1, isDelete, issuertest.Status(403, "{}")) }, 2, []string{"LEFT BEHIND: regcred-live-", "; 2 left behind"}},
		"a revocation does nothing":  {func(s subject) { s.InjectFault(1, isDelete, issuertest.Status(200, "")) }, 0, []string{"FAILED"}},
		"no revocation does a thing": {func(s subject) { s.InjectFault(-1, isDelete, issuertest.Status(200, "")) }, 2, []string{"FAILED", "LEFT BEHIND: regcred-live-"}},
		"the answer of mint is lost": {func(s subject) { s.InjectFault(1, s.mints, issuertest.CutAfterActing) }, 0, []string{"FAILED", "mint", "once more in five minutes"}},
		"mint is refused":            {func(s subject) { s.InjectFault(1, s.mints, issuertest.Status(403, "{}")) }, 0, []string{"FAILED", "status 403, definite"}},
		"the root is refused":        {func(s subject) { s.InjectFault(-1, nil, issuertest.Status(401, "{}")) }, 0, []string{"FAILED", "check"}},
		"what is minted does not work": {func(s subject) {
			s.InjectFault(-1, func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }, issuertest.Status(401, "{}"))
		}, 0, []string{"FAILED", "the credential does not work", "0 left behind"}},
	} {
		for kind, start := range map[string]func(*testing.T) subject{"harbor": harborSubject, "quay": quaySubject, "gitlab": gitlabSubject, "broker": brokerSubject("mint", "find", "revoke", "check")} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				t.Parallel() // it mostly waits for the pauses of the HTTP client
				s := start(t)
				tried, out := s.open(t)
				c.fail(s)
				if code := tried.run(t.Context()); code != 1 {
					t.Errorf("want exit code 1, got %d:\n%s", code, out)
				}
				wantOutput(t, s, tried, out.String(), c.says...)
				living := s.living()
				if len(living) != c.left {
					t.Errorf("want %d left at the registry, got %q:\n%s", c.left, living, out)
				}
				for _, name := range living {
					_, random, _ := strings.Cut(name, "regcred-live-")
					if !strings.Contains(out.String(), "LEFT BEHIND: regcred-live-"+random) {
						t.Errorf("want %s named:\n%s", name, out)
					}
				}
			})
		}
	}
}

// A registry may mint after its answer was lost, and after it was asked whether it has.
func TestWhatIsMintedLateIsEnded(t *testing.T) {
	s := harborSubject(t)
	tried, out := s.open(t)
	act := func() {}
	s.InjectFault(1, s.mints, func(w http.ResponseWriter, r *http.Request, handler http.Handler) {
		body, _ := io.ReadAll(r.Body)
		late := r.Clone(context.Background())
		act = func() {
			late.Body = io.NopCloser(bytes.NewReader(body))
			handler.ServeHTTP(httptest.NewRecorder(), late)
		}
		issuertest.Cut(w, r, handler)
	})
	found := false
	s.Watch(nil, func(r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/robots") && !found {
			found = true
			act()
		}
	})
	if code := tried.run(t.Context()); code != 1 || !found {
		t.Errorf("want exit code 1, got %d, and the registry asked, got %v", code, found)
	}
	wantOutput(t, s, tried, out.String(), "FAILED", "ended: regcred-live-", "; 0 left behind")
	if !slices.ContainsFunc(s.Calls(), func(call string) bool { return strings.HasPrefix(call, http.MethodDelete) }) {
		t.Errorf("want the late one ended, got %q", s.Calls())
	}
	wantNoneLiving(t, s)
}

// A root credential that could not be put in force is ended, and the given one stays.
func TestRootCredentialStaysAfterAFault(t *testing.T) {
	for name, c := range map[string]struct {
		start func(*testing.T) subject
		match func(*http.Request) bool
		fault issuertest.Fault
	}{
		"harbor, the new password is refused": {harborSubject, issuertest.Method(http.MethodPut), issuertest.Status(403, "{}")},
		"gitlab, the answer is lost": {gitlabSubject, func(r *http.Request) bool {
			return r.Method == http.MethodPost && strings.Contains(r.URL.Path, "personal_access_tokens")
		}, issuertest.CutAfterActing},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.start(t)
			tried, out := s.open(t)
			tried.newRoot = filepath.Join(t.TempDir(), "new-root.json")
			s.InjectFault(1, c.match, c.fault)
			code := tried.run(t.Context())
			wantOutput(t, s, tried, out.String(), "FAILED", "rotate-root", "the root credential that you gave stays in force", "; 0 left behind")
			wantNoneLiving(t, s)
			if _, err := os.Stat(tried.newRoot); code != 1 || err == nil {
				t.Errorf("want exit code 1, got %d, and no file, got %v", code, err)
			}
			if again, out := s.open(t); again.run(t.Context()) != 0 {
				t.Errorf("want the given root credential to work:\n%s", out)
			}
		})
	}
}

// If it is not known which root credential is in force, both are kept, and what was
// minted is ended with the one that works.
func TestNewRootCredentialIsKeptIfItMayBeInForce(t *testing.T) {
	s := harborSubject(t)
	tried, out := s.open(t)
	tried.newRoot = filepath.Join(t.TempDir(), "new-root.json")
	s.InjectFault(1, issuertest.Method(http.MethodPut), issuertest.CutAfterActing)
	if code := tried.run(t.Context()); code != 1 {
		t.Errorf("want exit code 1, got %d", code)
	}
	wantOutput(t, s, tried, out.String(), "FAILED", "either the one that you gave works, or the one in "+tried.newRoot, "; 1 left behind")
	wantNoneLiving(t, s)
	var fields map[string]string
	text, _ := os.ReadFile(tried.newRoot)
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	s.conn.Secrets["password"] = dockerconfig.NewSecret(fields["password"])
	if again, out := s.open(t); again.run(t.Context()) != 0 {
		t.Errorf("want the one in the file to work:\n%s", out)
	}
}

func TestRootCredentialThatCannotBeReplacedStays(t *testing.T) {
	s := quaySubject(t)
	tried, out := s.open(t)
	tried.newRoot = filepath.Join(t.TempDir(), "new-root.json")
	if code := tried.run(t.Context()); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
	wantOutput(t, s, tried, out.String(), "not possible for this type", "; 0 left behind")
	if _, err := os.Stat(tried.newRoot); err == nil {
		t.Error("want no file")
	}
}

// Ctrl-C in the middle of a call: its answer is awaited, and what was made is ended.
func TestSignalCleansUp(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be sent Ctrl-C")
	}
	s := quaySubject(t)
	program := exec.Command(os.Args[0], "-type=quay", "-settings="+s.settings(t))
	program.Env = append(os.Environ(), "LIVE_TEST_PROGRAM=1")
	program.Stdin = strings.NewReader("yes\n")
	var out bytes.Buffer
	program.Stdout, program.Stderr = &out, &out
	s.Watch(nil, func(r *http.Request) {
		if s.mints(r) {
			_ = program.Process.Signal(os.Interrupt)
			time.Sleep(100 * time.Millisecond)
		}
	})
	if err := program.Run(); program.ProcessState.ExitCode() != 1 {
		t.Errorf("want exit code 1, got %v", err)
	}
	for _, text := range []string{"Stopping", "ended: regcred-live-", "stopped by a signal; 0 left behind"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("want %q in the output:\n%s", text, out.String())
		}
	}
	wantNoneLiving(t, s)
}

func TestStoppedTrialCleansUp(t *testing.T) {
	for name, start := range subjects {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			tried, out := s.open(t)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			minted := 0
			s.Watch(func(r *http.Request) {
				if s.mints(r) {
					if minted++; minted == 2 {
						stop()
					}
				}
			}, nil)
			if code := tried.run(ctx); code != 1 {
				t.Errorf("want exit code 1, got %d", code)
			}
			wantOutput(t, s, tried, out.String(), "stopped by a signal")
			if tried.can().Revoke {
				wantNoneLiving(t, s)
			}
		})
	}
}

func TestNothingIsSentWithoutConfirmation(t *testing.T) {
	s := harborSubject(t)
	var out bytes.Buffer
	if code := run([]string{"-type=harbor", "-settings=" + s.settings(t)}, strings.NewReader("y\n"), &out); code != 2 || len(s.Calls()) != 0 {
		t.Errorf("want exit code 2 and no call, got %d and %q", code, s.Calls())
	}
	for _, text := range []string{"url         " + s.URL, "password=(secret)", "username=" + harbortest.Admin, "mints two credentials", "Type yes to go on"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("want %q in the output:\n%s", text, out.String())
		}
	}
	if strings.Contains(out.String(), harbortest.Password) {
		t.Error("the output has the secret")
	}
	if code := run([]string{"-type=harbor", "-settings=" + s.settings(t), "-confirm=yes"}, strings.NewReader(""), &out); code != 0 {
		t.Errorf("want exit code 0, got %d:\n%s", code, out.String())
	}
	if strings.Contains(out.String(), "Stopping") {
		t.Errorf("want nothing said about a signal:\n%s", out.String())
	}
	for _, args := range [][]string{{"-rotate-root=yes"}, {"-new-root=x"}, {"-rotate-root=yes", "-new-root=live_test.go"}, {"-unknown"}, {"rest"}} {
		calls := len(s.Calls())
		if code := run(slices.Concat([]string{"-type=harbor", "-settings=" + s.settings(t)}, args), strings.NewReader("yes\n"), &out); code != 2 || len(s.Calls()) != calls {
			t.Errorf("%v: want exit code 2 and no call, got %d", args, code)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Setenv("LIVE_TEST_TOKEN", "of-the-environment")
	s, err := parseSettings("quay", "url=https://QUAY.example.com/\nregistry=quay.example.com\norganization=acme\ntoken=$LIVE_TEST_TOKEN\nrepositories=app, tools\nrepository=acme/app\n")
	if err != nil || s.conn.URL != "https://quay.example.com" || s.conn.Secrets["token"].Reveal() != "of-the-environment" || s.conn.Settings["organization"] != "acme" || s.role["repositories"] != "app,tools" || s.repository != "acme/app" {
		t.Errorf("got %+v, %v", s, err)
	}
	if s, err = parseSettings("gar", "registry=europe-docker.pkg.dev\nservice_account=a@b\nrole.service_account=c@d"); err != nil || s.conn.Settings["service_account"] != "a@b" || s.role["service_account"] != "c@d" {
		t.Errorf("want one of the connection and one of the role, got %+v, %v", s, err)
	}
	for text, want := range map[string]string{
		"token=hunter2":              "token: is a secret, so it must not be written here",
		"token=@/nowhere/hunter2":    "token: reading the file that it names: no such file",
		"token=$NOT_SET_hunter2":     "token: names a variable of the environment that is not set",
		"hunter2":                    "line 1 of the settings must have the form FIELD=value",
		"spaces=x":                   "spaces: type quay has no such field; it has url, registry, ca_pem, repository, organization, token, access, repositories",
		"url=http://hunter2.example": "url: must be a URL such as",
		"ca_pem=hunter2":             "ca_pem: must be @FILE",
		"registry=x.example.com":     "url: must be the URL",
	} {
		if _, err := parseSettings("quay", text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: want %q and no value, got %v", text, want, err)
		}
	}
	if _, err := parseSettings("forge", ""); err == nil || !strings.Contains(err.Error(), "TYPE must be one of acr, artifactory,") {
		t.Errorf("want the types, got %v", err)
	}
}
