// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestSymptoms provokes each symptom of docs/operations.md on a real Vault. Each
// entry there must have a scene that shows its symptom, and each symptom that a scene
// shows must have an entry.
func TestSymptoms(t *testing.T) {
	t.Parallel()
	seen := &symptoms{texts: map[string][]string{}}
	t.Run("scenes", func(t *testing.T) {
		dev := servers.StartVault(t)
		for name, scene := range symptomScenes {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				lab := gitlabtest.New(t)
				mount := "symptom-" + strings.ReplaceAll(name, " ", "-")
				dev.Enable(t, mount)
				s := &scenery{Server: lab, t: t, v: dev, mount: mount + "/", seen: seen, name: name}
				connect(t, dev.Client, mount+"/connections/gitlab", "gitlab", lab.Connection(), fields{"allowed_roles": "*"})
				scene(s)
			})
		}
		for name, scene := range raftScenes {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				scene(&scenery{t: t, v: servers.StartRaftVaultWith(t, servers.RaftOptions{Settings: []string{servers.RawStorage}}), mount: "regcred/", seen: seen, name: name})
			})
		}
	})
	if t.Failed() {
		return
	}
	spans := symptomSpans(t)
	if len(spans) < 40 {
		t.Errorf("found %d symptoms in docs/operations.md", len(spans))
	}
	for _, span := range spans {
		if !seen.any(span.pattern) {
			t.Errorf("docs/operations.md: no scene shows %q", span.text)
		}
	}
	for name, texts := range seen.texts {
		for _, text := range texts {
			if !slices.ContainsFunc(spans, func(s symptomSpan) bool { return s.pattern.MatchString(text) }) {
				t.Errorf("docs/operations.md: no entry has the symptom of the scene %q: %q", name, text)
			}
		}
	}
}

// symptoms are what the scenes show.
type symptoms struct {
	mu    sync.Mutex
	texts map[string][]string // by scene
}

func (s *symptoms) any(pattern *regexp.Regexp) bool {
	for _, texts := range s.texts {
		if slices.ContainsFunc(texts, pattern.MatchString) {
			return true
		}
	}
	return false
}

// symptomSpan is the symptom of an entry; "…" stands for any text.
type symptomSpan struct {
	text    string
	pattern *regexp.Regexp
}

var (
	// The heading of an entry is bold and has lines of its own.
	entryHeading = regexp.MustCompile("(?m)^\\*\\*(`.*)\\*\\*,?$")
	codeSpan     = regexp.MustCompile("`([^`]+)`")
)

// symptomSpans are the code spans in the headings of the section's entries.
func symptomSpans(t *testing.T) []symptomSpan {
	t.Helper()
	var spans []symptomSpan
	for _, row := range entryHeading.FindAllStringSubmatch(operationsSection(t, "What you see, why, and what to do"), -1) {
		for _, span := range codeSpan.FindAllStringSubmatch(row[1], -1) {
			pattern := strings.ReplaceAll(regexp.QuoteMeta(span[1]), "…", ".*")
			if len(strings.ReplaceAll(span[1], "…", "")) < 8 {
				t.Errorf("docs/operations.md: %q would match almost anything", span[1])
			}
			spans = append(spans, symptomSpan{span[1], regexp.MustCompile("(?s)" + pattern)})
		}
	}
	return spans
}

// scenery is a mount with the connection gitlab to a GitLab in memory. Requests that may
// show an error are sent once, because one may ask to try again.
type scenery struct {
	*gitlabtest.Server

	t     *testing.T
	v     *servers.Vault
	mount string
	seen  *symptoms
	name  string
}

func (s *scenery) shows(text string) {
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	s.seen.texts[s.name] = append(s.seen.texts[s.name], text)
}

func (s *scenery) showsError(err error) {
	s.t.Helper()
	if err == nil {
		s.t.Fatal("want an error")
	}
	s.shows(err.Error())
}

func (s *scenery) write(path string, data fields) {
	s.t.Helper()
	write(s.t, s.v.Client, s.mount+path, data)
}

func (s *scenery) dynamic(path string, others fields) {
	s.t.Helper()
	s.write(path, dynamic("gitlab", s.Role(), others))
}

func (s *scenery) read(path string) map[string]any {
	s.t.Helper()
	return read(s.t, s.v.Client, s.mount+path)
}

func (s *scenery) tryRead(path string) (*api.Secret, error) {
	return servers.Impatient(s.t, s.v.Client).Logical().Read(s.mount + path)
}

func (s *scenery) tryWrite(path string, data fields) error {
	_, err := servers.Impatient(s.t, s.v.Client).Logical().Write(s.mount+path, data)
	return err
}

// writeFails and readFails show the error.
func (s *scenery) writeFails(path string, data fields) {
	s.t.Helper()
	s.showsError(s.tryWrite(path, data))
}

func (s *scenery) readFails(path string) {
	s.t.Helper()
	_, err := s.tryRead(path)
	s.showsError(err)
}

// failsWith shows the error that has a text, once there is one.
func (s *scenery) failsWith(text string, do func() error) {
	s.t.Helper()
	servers.Eventually(s.t, func() error {
		err := do()
		if err == nil || !strings.Contains(err.Error(), text) {
			return fmt.Errorf("want an error with %q, got %s", text, fmt.Sprint(err))
		}
		s.shows(err.Error())
		return nil
	})
}

func (s *scenery) deleteFails(path string) {
	s.t.Helper()
	_, err := s.v.Client.Logical().Delete(s.mount + path)
	s.showsError(err)
}

// warns shows the warnings of a read, once it has some.
func (s *scenery) warns(path string) {
	s.t.Helper()
	servers.Eventually(s.t, func() error {
		secret, err := s.tryRead(path)
		if err != nil || secret == nil || len(secret.Warnings) == 0 {
			return fmt.Errorf("want a warning from %s, got %v, %s", path, secret, fmt.Sprint(err))
		}
		for _, warning := range secret.Warnings {
			s.shows(warning)
		}
		return nil
	})
}

// symptomScenes share one dev server.
var symptomScenes = map[string]func(*scenery){
	"a misspelt field": func(s *scenery) { s.writeFails("roles/app", fields{"pasword": marker}) },
	"a list of all credentials": func(s *scenery) {
		_, err := s.v.Client.Logical().List(s.mount + "creds")
		s.showsError(err)
		s.readFails("roles")
	},
	"a field of another type of role": func(s *scenery) { s.writeFails("roles/app", credential(fields{"ttl": 60})) },
	"a role without a password": func(s *scenery) {
		s.writeFails("roles/app", fields{"registry": "registry.example.com", "username": "robot"})
	},
	"another host without the password": func(s *scenery) {
		s.write("roles/app", credential(nil))
		s.writeFails("roles/app", fields{"registry": "ghcr.io"})
	},
	"a registry that is not allowed": func(s *scenery) {
		s.write("roles/app", credential(nil))
		s.write("config", fields{"allowed_registries": "ghcr.io"})
		s.readFails("creds/app")
		s.warns("roles/app")
	},
	"a bad name":   func(s *scenery) { s.writeFails("roles/a..b", credential(nil)) },
	"no such role": func(s *scenery) { s.writeFails("verify/app", nil) },
	"another type of role": func(s *scenery) {
		s.write("roles/app", credential(nil))
		s.writeFails("roles/app", fields{"connection": "gitlab"})
	},
	"another mode": func(s *scenery) {
		s.dynamic("roles/app", nil)
		s.writeFails("roles/app", fields{"mode": "leased"})
	},
	"a pull secret that is too large": func(s *scenery) {
		s.writeFails("roles/app", credential(fields{"password": strings.Repeat("x", 1<<19)}))
	},
	"a text that Vault does not take": func(s *scenery) {
		s.writeFails("roles/app", credential(fields{"password": strings.Repeat("x", 1<<20+1)}))
	},
	"a policy that does not allow it": func(s *scenery) {
		token, err := s.v.NewToken("default")
		if err != nil {
			s.t.Fatal(err)
		}
		_, err = withToken(s.t, s.v.Client, token).Logical().Read(s.mount + "creds/app")
		s.showsError(err)
	},
	"a credential that expires": func(s *scenery) {
		s.write("roles/app", credential(fields{"expires_at": time.Now().Add(100 * time.Hour).Format(time.RFC3339)}))
		s.warns("creds/app")
		s.write("roles/app", fields{"expires_at": "2020-01-31T00:00:00Z"})
		s.warns("creds/app")
	},
	"a credential that its registry refuses": func(s *scenery) {
		registry := servers.StartRegistry(s.t, "robot", "another password")
		s.write("roles/app", fields{"registry": registry.Addr, "username": "robot", "password": "outdated password", "verify_period": "1m"})
		s.warns("creds/app")
	},
	"a static role that is to be rotated": func(s *scenery) {
		s.write("roles/app", credential(nil))
		s.writeFails("rotate/app", nil)
	},

	"a bundle that a member does not allow": func(s *scenery) {
		s.write("roles/app", credential(nil))
		s.writeFails("roles/all", fields{"members": "app"})
	},
	"a bundle with a registry twice": func(s *scenery) {
		s.write("roles/one", credential(fields{"allowed_bundles": "all"}))
		s.write("roles/two", credential(fields{"allowed_bundles": "all"}))
		s.writeFails("roles/all", fields{"members": "one,two"})
	},

	"a connection that is closed to the role": func(s *scenery) {
		s.write("connections/gitlab", fields{"allowed_roles": "other"})
		s.writeFails("roles/app", dynamic("gitlab", s.Role(), nil))
	},
	"a target that is not covered": func(s *scenery) {
		s.write("connections/gitlab", fields{"allowed_targets": "other/*"})
		s.writeFails("roles/app", dynamic("gitlab", s.Role(), nil))
	},
	"a root credential that is refused": func(s *scenery) {
		s.writeFails("connections/gitlab", fields{"token": "glpat-wrong"})
		s.write("connections/gitlab", fields{"token": "glpat-wrong", "verify_connection": false})
		s.readFails("connections/gitlab/check")
		s.dynamic("roles/app", nil)
		s.readFails("creds/app") // and right after:
		s.readFails("creds/app")
	},
	"a root credential that ends soon": func(s *scenery) {
		s.write("config", fields{"expiry_warning": "2400h"})
		s.warns("connections/gitlab/check")
	},
	"a connection moved to another host": func(s *scenery) {
		s.writeFails("connections/gitlab", fields{"url": "https://gitlab.example.com"})
	},
	"a registry whose name is not known": func(s *scenery) {
		s.writeFails("connections/gitlab", fields{"url": "https://registry.invalid", "token": marker})
	},
	"a certificate that is not trusted": func(s *scenery) {
		private := httptest.NewTLSServer(http.NotFoundHandler())
		s.t.Cleanup(private.Close)
		s.writeFails("connections/gitlab", fields{"url": private.URL, "token": marker})
	},
	"a registry whose certificate verify does not trust": func(s *scenery) {
		private := httptest.NewTLSServer(http.NotFoundHandler())
		s.t.Cleanup(private.Close)
		s.write("roles/app", credential(fields{"registry": strings.TrimPrefix(private.URL, "https://")}))
		answer, err := s.v.Client.Logical().Write(s.mount+"verify/app", nil)
		if err != nil {
			s.t.Fatal(err)
		}
		s.shows(answer.Data["message"].(string))
		ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: private.Certificate().Raw})
		s.write("config", fields{"ca_pem": string(ca)})
		if answer, err = s.v.Client.Logical().Write(s.mount+"verify/app", nil); err != nil || strings.Contains(answer.Data["message"].(string), "certificate") {
			s.t.Errorf("with ca_pem: got %v, %v", answer, err)
		}
	},
	"a registry that is down": func(s *scenery) {
		s.dynamic("roles/app", nil)
		s.dynamic("roles/ci", fields{"mode": "leased"})
		s.Close()
		s.readFails("creds/app")
		s.failsWith("is asked again", func() error {
			_, err := s.tryRead("creds/ci")
			return err
		})
	},
	"a registry that hangs": func(s *scenery) {
		s.dynamic("roles/app", nil)
		s.InjectFault(-1, s.MintMatch, issuertest.Hang)
		s.readFails("creds/app")
		servers.Eventually(s.t, func() error { // after the half minute that a call has
			said, _ := s.read("roles/app")["last_error"].(string)
			if said == "" {
				return fmt.Errorf("want the role to have a last_error")
			}
			s.shows("last_error: " + said)
			return nil
		})
	},
	"a connection that is written while a rotate-root waits": func(s *scenery) {
		s.InjectFault(-1, nil, issuertest.Hang)
		s.writeFails("connections/gitlab/rotate-root", nil)
		s.failsWith("is being changed", func() error {
			if s.rotateRoot() == nil {
				return nil
			}
			return s.tryWrite("connections/gitlab", fields{"allowed_roles": "*"})
		})
	},
	"a registry that mints what cannot be understood, and revokes nothing": func(s *scenery) {
		s.dynamic("roles/ci", fields{"mode": "leased"})
		s.InjectFault(-1, s.MintMatch, issuertest.GarbageAfterActing)
		s.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusForbidden, `{"message":"403 Forbidden"}`))
		for range 100 {
			if _, err := s.tryRead("creds/ci"); err == nil {
				s.t.Fatal("want reads to fail")
			}
		}
		s.readFails("creds/ci")
	},
	"a registry that redirects": func(s *scenery) {
		s.InjectFault(-1, nil, issuertest.Status(http.StatusFound, "", "Location", "https://gitlab.example.com/"))
		s.readFails("connections/gitlab/check")
	},
	"a registry that asks to wait": func(s *scenery) {
		s.dynamic("roles/app", nil)
		s.InjectFault(-1, s.MintMatch, issuertest.TooManyRequests(600))
		s.readFails("creds/app")
	},
	"a new credential that cannot pull": func(s *scenery) {
		s.dynamic("roles/app", fields{"verify_repository": gitlabtest.Project})
		s.InjectFault(-1, s.MintMatch, wrongSecret)
		s.readFails("creds/app")
	},
	"a rotation that fails": func(s *scenery) {
		s.dynamic("roles/app", fields{"rotation_period": "5s", "grace_period": "4m"})
		s.read("creds/app")
		s.InjectFault(-1, s.MintMatch, issuertest.Status(http.StatusForbidden, `{"message":"403 Forbidden"}`))
		s.warns("creds/app")
		s.shows("last_error: " + s.read("roles/app")["last_error"].(string))
	},
	"a revocation that is answered by a proxy": func(s *scenery) {
		s.dynamic("roles/app", fields{"grace_period": "1s"})
		s.read("creds/app")
		s.write("rotate/app", nil)
		s.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusNotFound, "default backend - 404"))
		servers.Eventually(s.t, func() error {
			s.read("creds/app")
			waiting, _ := s.read("roles/app")["pending_revocations"].([]any)
			if len(waiting) != 1 || waiting[0].(map[string]any)["last_error"] == nil {
				return fmt.Errorf("want one with a last_error, got %v", waiting)
			}
			s.shows("pending_revocations: " + fmt.Sprint(waiting))
			return nil
		})
	},
	"a rotate that fails": func(s *scenery) {
		s.dynamic("roles/app", nil)
		s.read("creds/app")
		s.InjectFault(-1, s.MintMatch, issuertest.Status(http.StatusForbidden, `{"message":"403 Forbidden"}`))
		if _, err := s.v.Client.Logical().Write(s.mount+"rotate/app", nil); !isStatus(err, http.StatusBadGateway) {
			s.t.Fatalf("want an error with status 502, got %v", err)
		}
		s.warns("creds/app")
	},
	"a former credential at another host": func(s *scenery) {
		s.dynamic("roles/app", fields{"grace_period": "1s"})
		s.read("creds/app")
		for _, warning := range write(s.t, s.v.Client, s.mount+"connections/gitlab", connected("gitlab", gitlabtest.New(s.t).Connection())) {
			s.shows(warning)
		}
		servers.Eventually(s.t, func() error {
			s.read("creds/app")
			role := s.read("roles/app")
			if role["given_up"] == nil {
				return fmt.Errorf("want a credential that is given up, got %v", role)
			}
			s.shows("given_up: " + fmt.Sprint(role["given_up"]))
			return nil
		})
	},
	"a revocation that fails": func(s *scenery) {
		s.dynamic("roles/app", fields{"grace_period": "1s"})
		s.read("creds/app")
		s.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusForbidden, `{"message":"403 Forbidden"}`))
		s.write("rotate/app", nil)
		servers.Eventually(s.t, func() error {
			s.read("creds/app")
			waiting, _ := s.read("roles/app")["pending_revocations"].([]any)
			if len(waiting) != 1 || waiting[0].(map[string]any)["last_error"] == nil {
				return fmt.Errorf("want one with a last_error, got %v", waiting)
			}
			s.shows("pending_revocations: " + fmt.Sprint(waiting))
			return nil
		})
		secret, err := s.v.Client.Logical().Delete(s.mount + "roles/app")
		if err != nil || secret == nil || len(secret.Warnings) != 1 {
			s.t.Fatalf("want a warning, got %v, %v", secret, err)
		}
		s.shows(secret.Warnings[0])
	},
	"too many former credentials": func(s *scenery) {
		s.dynamic("roles/app", nil)
		s.read("creds/app")
		for range 100 {
			s.write("rotate/app", nil)
		}
		s.writeFails("rotate/app", nil)
		for i := range 100 { // and what it mints for is changed over and over
			s.write("roles/app", projectOrGroup(i))
			s.read("creds/app")
		}
		s.write("roles/app", projectOrGroup(100))
		s.readFails("creds/app")
	},
	"a credential that verify refuses": func(s *scenery) {
		s.writeFails("roles/app", fields{"registry": s.Host(), "username": "robot", "password": marker, "verify": true})
	},
	"a connection in use": func(s *scenery) {
		s.dynamic("roles/ci", fields{"mode": "leased"})
		s.read("creds/ci")
		s.deleteFails("connections/gitlab")
	},
	"a lease of a role that is gone": func(s *scenery) {
		s.dynamic("roles/ci", fields{"mode": "leased", "ttl": "10m", "max_ttl": "1h"})
		secret, err := s.tryRead("creds/ci")
		if err != nil {
			s.t.Fatal(err)
		}
		mustDelete(s.t, s.v.Client, s.mount+"roles/ci")
		_, err = s.v.Client.Sys().Renew(secret.LeaseID, 600)
		s.showsError(err)
	},

	"a token that cannot replace itself": func(s *scenery) {
		maintainer := s.AddUser("maintainer", false)
		s.SetMember(gitlabtest.Project, maintainer, gitlabtest.Maintainer)
		s.write("connections/gitlab", fields{"token": s.AddToken(maintainer, "vault", []string{"api"}, 90), "service_account_group": ""})
		s.writeFails("connections/gitlab/rotate-root", nil)
	},
	"a new token that cannot be tried": func(s *scenery) {
		s.InjectFault(-1, s.newTokenMatch, issuertest.Status(http.StatusInternalServerError, "boom"))
		s.failsWith("could not be put in use", s.rotateRoot)
		s.shows("pending_root: " + s.read("connections/gitlab")["pending_root"].(string))
	},
	"a new token that is refused": func(s *scenery) {
		s.InjectFault(-1, s.newTokenMatch, issuertest.Status(http.StatusForbidden, `{"message":"403 Forbidden"}`))
		s.writeFails("connections/gitlab/rotate-root", nil)
	},
	"an old token that cannot be ended": func(s *scenery) {
		s.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusInternalServerError, "boom"))
		s.failsWith("could not be ended yet", s.rotateRoot)
		s.shows("pending_root: " + s.read("connections/gitlab")["pending_root"].(string))
		s.warns("connections/gitlab/check")
	},
}

// rotateRoot may be told that the registry has not answered: the calls that fail are
// tried several times. Then it joins what goes on.
func (s *scenery) rotateRoot() error {
	return s.tryWrite("connections/gitlab/rotate-root", nil)
}

// projectOrGroup is for what a role mints, by turns.
func projectOrGroup(turn int) fields {
	if turn%2 == 0 {
		return fields{"project": "", "group": gitlabtest.Group}
	}
	return fields{"project": gitlabtest.Project, "group": ""}
}

// newTokenMatch matches requests with a token other than the first one.
func (s *scenery) newTokenMatch(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, "/api/") && r.Header.Get("PRIVATE-TOKEN") != s.Connection().Secrets["token"].Reveal()
}

// raftScenes have one server each, with integrated storage.
var raftScenes = map[string]func(*scenery){
	"an entry that storage does not take": func(s *scenery) {
		// The Docker config is within its own limit, but the storage entry is
		// too large.
		s.writeFails("roles/app", credential(fields{"registry": "r.example.com", "password": strings.Repeat("p", 449_320)}))
	},
	"entries of a newer plugin, and damaged ones": func(s *scenery) {
		s.write("roles/newer", credential(nil))
		s.write("roles/damaged", credential(nil))
		mounts, err := s.v.Client.Sys().ListMounts()
		if err != nil {
			s.t.Fatal(err)
		}
		raw := "sys/raw/logical/" + mounts["regcred/"].UUID + "/roles/"
		write(s.t, s.v.Client, raw+"newer", fields{"value": `{"schema_version":99}`})
		write(s.t, s.v.Client, raw+"damaged", fields{"value": `{"schema_`})
		reload(s.t, s.v)
		s.readFails("creds/newer")
		s.readFails("creds/damaged")
	},
	"a sealed Vault": func(s *scenery) {
		if err := s.v.Client.Sys().Seal(); err != nil {
			s.t.Fatal(err)
		}
		s.readFails("creds/app")
	},
	"a plugin that is killed": func(s *scenery) {
		s.write("roles/app", credential(nil))
		s.v.KillPlugin(s.t)
		s.v.WaitUntilServed(s.t)
		servers.Eventually(s.t, func() error {
			exited := regexp.MustCompile(`plugin process exited: .*`).FindString(s.v.Log())
			if exited == "" {
				return fmt.Errorf("Vault does not log that the process has exited")
			}
			s.shows(exited)
			return nil
		})
		s.read("creds/app")
	},
	"a program that is not the registered one": func(s *scenery) {
		program := filepath.Join(s.v.PluginDir, servers.PluginName)
		tampered := program + "-tampered"
		if err := os.WriteFile(tampered, []byte("#!/bin/sh\n"), 0o700); err != nil {
			s.t.Fatal(err)
		}
		if err := os.Rename(tampered, program); err != nil {
			s.t.Fatal(err)
		}
		pid := s.v.KillPlugin(s.t)
		s.t.Logf("killed %d", pid)
		servers.Eventually(s.t, func() error {
			_, err := s.tryRead("config")
			if err == nil || !strings.Contains(err.Error(), "checksum") {
				return fmt.Errorf("want an error about the checksum, got %s", fmt.Sprint(err))
			}
			s.shows(err.Error())
			return nil
		})
	},
	"a program that is missing when Vault is unsealed": func(s *scenery) {
		s.write("roles/app", credential(nil))
		program := filepath.Join(s.v.PluginDir, servers.PluginName)
		if err := os.Rename(program, program+"-away"); err != nil {
			s.t.Fatal(err)
		}
		s.v.Restart(s.t)
		s.v.Unseal(s.t)
		servers.Eventually(s.t, func() error {
			skipped := regexp.MustCompile(`skipping plugin-based mount entry: .*`).FindString(s.v.Log())
			if skipped == "" {
				return fmt.Errorf("Vault does not log that it has skipped the mount")
			}
			s.shows(skipped)
			return nil
		})
		s.shows(s.cliFails("read", "regcred/creds/app"))
		if err := os.Rename(program+"-away", program); err != nil {
			s.t.Fatal(err)
		}
		reload(s.t, s.v)
		s.writeFails("roles/app", fields{"password": marker})
	},
	"a reload without the program": func(s *scenery) {
		s.write("roles/app", credential(nil))
		program := filepath.Join(s.v.PluginDir, servers.PluginName)
		if err := os.Rename(program, program+"-away"); err != nil {
			s.t.Fatal(err)
		}
		s.shows(s.cliFails("plugin", "reload", "-plugin="+servers.PluginName))
		s.readFails("creds/app")
		if err := os.Rename(program+"-away", program); err != nil {
			s.t.Fatal(err)
		}
		s.read("creds/app") // starts it
	},
	"a program that cannot be executed": func(s *scenery) {
		s.write("roles/app", credential(nil))
		program := filepath.Join(s.v.PluginDir, servers.PluginName)
		if err := os.Chmod(program, 0o600); err != nil {
			s.t.Fatal(err)
		}
		s.shows(s.cliFails("plugin", "reload", "-plugin="+servers.PluginName))
		s.readFails("creds/app")
		if err := os.Chmod(program, 0o700); err != nil {
			s.t.Fatal(err)
		}
		s.read("creds/app")
	},
	"a mount that cannot be disabled": func(s *scenery) {
		lab := gitlabtest.New(s.t)
		connect(s.t, s.v.Client, "regcred/connections/gitlab", "gitlab", lab.Connection(), fields{"allowed_roles": "*"})
		s.write("roles/app", credential(nil))
		s.write("roles/ci", dynamic("gitlab", lab.Role(), fields{"mode": "leased"}))
		before := s.read("creds/app")
		s.read("creds/ci")
		lab.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusServiceUnavailable, ""))
		s.shows(s.cliFails("secrets", "disable", "regcred"))
		s.shows(s.cliFails("read", "regcred/creds/app"))
		reload(s.t, s.v)
		if got, err := s.tryRead("creds/app"); got != nil || err != nil {
			s.t.Fatalf("want nothing, also after a reload, got %v, %v", got, err)
		}
		// What the page says to open it again.
		s.v.CLI(s.t, "", "lease", "revoke", "-force", "-prefix", "regcred/creds")
		s.v.CLI(s.t, "", "secrets", "move", "regcred", "regcred-closed")
		s.v.CLI(s.t, "", "secrets", "move", "regcred-closed", "regcred")
		if diff := cmp.Diff(before, s.read("creds/app")); diff != "" {
			s.t.Errorf("after the mount was moved and moved back (-before +after):\n%s", diff)
		}
	},
	"versions that do not fit": func(s *scenery) {
		register := func(version, command string) error {
			return s.v.Client.Sys().RegisterPlugin(&api.RegisterPluginInput{
				Name: servers.PluginName, Type: api.PluginTypeSecrets, Command: command, Version: version, SHA256: sumOf(s.t, servers.Plugin(s.t)),
			})
		}
		s.showsError(register("v0.9.0", servers.PluginName))
		s.showsError(register("v0.9.0", "not-there"))
		s.shows(s.cliFails("secrets", "tune", "-plugin-version=v0.9.0", "regcred"))
	},
}

// cliFails returns what the vault program prints when it fails.
func (s *scenery) cliFails(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), servers.Bin(s.t, "vault"), args...)
	cmd.Env = s.v.Env()
	out, err := cmd.CombinedOutput()
	if err == nil {
		s.t.Fatalf("vault %s: must fail, and did not", strings.Join(args, " "))
	}
	return string(out)
}
