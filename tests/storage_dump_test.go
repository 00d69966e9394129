// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/ecr/ecrtest"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/backend/storagetest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// Flags for scripts/dump-storage.sh, which makes another build of the plugin
// write the dump of TestDumpStorage. The tests of upgrades read the dumps.
var (
	dumpFile   = flag.String("dump-file", "", "where TestDumpStorage writes a dump")
	dumpPlugin = flag.String("dump-plugin", "", "the plugin's binary that it runs")
	dumpBuild  = flag.String("dump-build", "", "the commit or tag that the binary is of")
	dumpKinds  = flag.String("dump-kinds", "static,bundle,dynamic,tried", "what that build can do")
)

const (
	// dumpSecret is in every secret of a dump that the dumper chooses. Tests of
	// package backend search their output for it.
	dumpSecret = "S3cr3t-Marker"

	// years is a period that does not end as long as the dump is used.
	years = "43800h"
)

// dumper fills a mount with every kind of entry, on a real Vault.
type dumper struct {
	*testing.T
	v *servers.Vault

	// taken, or Vault would have the engine mend what is left half done.
	roles, connections []string
}

// TestDumpStorage writes a dump of what a build of the plugin stores, and of how
// it answers from that.
func TestDumpStorage(t *testing.T) {
	if *dumpFile == "" {
		t.Skip("writes a dump only where -dump-file says to: see tests/testdata/storage/README.md")
	}
	d := &dumper{T: t, v: servers.StartRaftVaultWith(t, servers.RaftOptions{Plugin: *dumpPlugin, Settings: []string{servers.RawStorage}})}
	for kind := range strings.SplitSeq(*dumpKinds, ",") {
		map[string]func(){"static": d.static, "bundle": d.bundle, "dynamic": d.dynamic, "tried": d.tried}[kind]()
	}
	mount := d.v.RawMount(t, servers.Mount)
	dump := &storagetest.Dump{Build: *dumpBuild}
	// Vault starts the work that is due once a minute, perhaps now.
	servers.Eventually(t, func() error {
		dump.Storage = d.values(mount)
		dump.Answers = d.answers()
		dump.At = time.Now().UTC()
		if diff := cmp.Diff(dump.Storage, d.values(mount)); diff != "" {
			return errors.New("the storage changes: " + diff)
		}
		return nil
	})
	dump.Leases = d.values("sys/expire/id/")
	maps.DeleteFunc(dump.Leases, func(id string, _ storagetest.Value) bool { return !strings.HasPrefix(id, servers.Mount+"/") })
	dump.ReplaceSecrets(dumpSecret)
	dump.Replace(d.v.Token, dumpSecret+"-token")
	dump.Save(t, *dumpFile)
}

func (d *dumper) write(path string, data fields) {
	d.Helper()
	write(d, d.v.Client, servers.Mount+"/"+path, data)
	if name, found := strings.CutPrefix(path, "roles/"); found && !slices.Contains(d.roles, name) {
		d.roles = append(d.roles, name)
	}
	if name, found := strings.CutPrefix(path, "connections/"); found && !slices.Contains(d.connections, name) && !strings.Contains(name, "/") {
		d.connections = append(d.connections, name)
	}
}

func (d *dumper) read(path string) {
	d.Helper()
	read(d, d.v.Client, servers.Mount+"/"+path)
}

// fails makes a request that must fail because of the registry.
func (d *dumper) fails(err error) {
	d.Helper()
	if !isStatus(err, http.StatusBadGateway) {
		d.Fatalf("want status 502, got %v", err)
	}
}

func (d *dumper) readFails(path string) {
	d.Helper()
	_, err := d.v.Client.Logical().Read(servers.Mount + "/" + path)
	d.fails(err)
}

func (d *dumper) writeFails(path string) {
	d.Helper()
	_, err := d.v.Client.Logical().Write(servers.Mount+"/"+path, nil)
	d.fails(err)
}

// static writes what needs no other entry.
func (d *dumper) static() {
	d.write("config", fields{"allowed_registries": "*.example.com,registry.example.com:5000,ghcr.io/team,docker.io,[::1]:5000,*.amazonaws.com,127.0.0.1:1", "expiry_warning": "720h"})
	d.write("roles/single", fields{"registry": "registry.example.com", "username": "robot", "password": dumpSecret})
	d.write("roles/with-email", fields{"hostname": "https://Registry.Example.com:5000/v2/", "username": "robot", "password": dumpSecret, "email": "ops@example.com", "expires_at": "2099-01-31T00:00:00Z"})
	d.write("roles/expired", fields{"registry": "ghcr.io/team", "username": "robot", "password": dumpSecret, "expires_at": "2026-01-31T12:00:00+01:00"})
	d.write("roles/Docker_Hub.1", fields{"registry": "docker.io", "username": "robot", "password": dumpSecret})
	d.write("roles/characters", fields{"registry": "[::1]:5000", "username": "jürgen\\\"<&>'", "password": dumpSecret + ` pässwörd "quoted" \back\ <&>':` + "\t日本\u2028🔑"})
	d.write("roles/json-key", fields{"registry": "eu.example.com", "username": "_json_key", "password": "{\n  \"type\": \"service_account\",\n  \"private_key\": \"" + dumpSecret + "\\n\"\n}"})
	d.write("roles/several", dockerConfig(`{"auths":{
		"registry.example.com":{"username":"robot","password":"`+dumpSecret+`","email":"ops@example.com"},
		"https://index.docker.io/v1/":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("hub:"+dumpSecret))+`"},
		"ghcr.io/team/app":{"username":"<team>","password":"`+dumpSecret+`&"}}}`))
}

// bundle writes what bundles added.
func (d *dumper) bundle() {
	d.write("config", fields{"ca_pem": servers.CA(d)})
	d.write("roles/member", fields{"registry": "one.example.com", "username": "robot", "password": dumpSecret, "allowed_bundles": "all,team-*,mixed", "verify_repository": "group/app:1"})
	d.write("roles/member-that-expires", fields{"registry": "two.example.com", "username": "robot", "password": dumpSecret, "allowed_bundles": "*", "expires_at": "2098-12-31T23:59:59Z"})
	d.write("roles/all", fields{"members": "member,member-that-expires"})
}

// dynamic writes what connections added.
func (d *dumper) dynamic() {
	d.v.CLI(d, "", "secrets", "tune", "-max-lease-ttl=350400h", servers.Mount)
	lab := gitlabtest.New(d)
	disguise(lab.Server, lab.MintMatch)
	d.connect("gitlab", "gitlab", lab.Connection(), fields{"registry": "gitlab.example.com", "allowed_targets": "group,group/*", "ca_pem": servers.CA(d)})
	d.minted()
	d.interrupted(lab)

	d.root("root-rotated", nil)
	d.root("root-prepared", func(lab *gitlabtest.Server) {
		lab.InjectFault(-1, issuertest.Method(http.MethodPost), issuertest.CutAfterActing)
	})
	d.root("root-pending", func(lab *gitlabtest.Server) {
		old := lab.Connection().Secrets["token"].Reveal()
		lab.InjectFault(-1, func(r *http.Request) bool { return r.Header.Get("Private-Token") != old }, issuertest.Status(http.StatusServiceUnavailable, ""))
	})
	d.root("root-retired", func(lab *gitlabtest.Server) {
		lab.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusServiceUnavailable, ""))
	})

	harbor := harbortest.New(d)
	disguise(harbor.Server, harbor.MintMatch)
	d.connect("harbor", "harbor", harbor.Connection(), fields{"registry": "harbor.example.com"})
	d.pair("harbor", fields{"projects": harbortest.Project, "access": "push"})
	gitea := servers.StartGitea(d).Proxy(d)
	disguise(gitea.Server, gitea.MintMatch)
	d.connect("gitea", "gitea", gitea.Connection(), fields{"registry": "gitea.example.com", "allowed_targets": gitea.Puller.Name})
	d.pair("gitea", asFields(gitea.Role()))
	aws := ecrtest.New(d)
	disguise(aws.Server, aws.MintMatch)
	d.connect("ecr", "ecr", aws.Connection(), fields{"registry": ecrtest.Account + ".dkr.ecr." + ecrtest.Region + ".amazonaws.com"})
	d.write("roles/ecr", dynamic("ecr", aws.Role(), nil))
	d.read("creds/ecr")
	d.write("connections/unasked", fields{"type": "harbor", "url": "https://127.0.0.1:1", "registry": "unasked.example.com,also.example.com", "username": "vault", "password": dumpSecret, "verify_connection": false})
}

// tried writes a role whose credential is tried before it is served. The first
// build with connections could not do that.
func (d *dumper) tried() {
	lab := gitlabtest.New(d)
	disguise(lab.Server, lab.MintMatch)
	d.connect("tried", "gitlab", lab.Connection(), fields{"registry": "127.0.0.1:1"}) // where nothing listens
	d.write("roles/tried", fields{"connection": "tried", "project": gitlabtest.Project, "rotation_period": years, "verify_repository": "127.0.0.1:1/group/my_app"})
	d.read("creds/tried")
}

func asFields(settings issuer.Settings) fields {
	data := fields{}
	for name, value := range settings {
		data[name] = value
	}
	return data
}

func (d *dumper) connect(name, kind string, c issuer.Connection, others fields) {
	d.Helper()
	connect(d, d.v.Client, servers.Mount+"/connections/"+name, kind, c, merged(fields{"allowed_roles": "*"}, others))
	d.connections = append(d.connections, name)
}

func merged(a, b fields) fields {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// pair writes and reads a role of each mode.
func (d *dumper) pair(connection string, role fields) {
	d.Helper()
	d.write("roles/"+connection, merged(role, fields{"connection": connection, "rotation_period": years, "grace_period": years}))
	d.read("creds/" + connection)
	d.write("rotate/"+connection, nil)
	d.write("roles/leased-"+connection, merged(role, fields{"connection": connection, "mode": "leased", "ttl": years, "max_ttl": "262800h"}))
	d.read("creds/leased-" + connection)
}

// minted writes and reads roles whose credentials are complete.
func (d *dumper) minted() {
	d.pair("gitlab", fields{"project": gitlabtest.Project, "access": "push"})
	d.read("creds/leased-gitlab")
	d.write("roles/gitlab", fields{"allowed_bundles": "mixed"})
	d.write("roles/mixed", fields{"members": "member,gitlab"})
	d.write("roles/gitlab-group", fields{"connection": "gitlab", "group": gitlabtest.Group, "rotation_period": years, "grace_period": years})
	d.read("creds/gitlab-group")
	d.write("roles/gitlab-access-token", fields{"connection": "gitlab", "project": gitlabtest.Project, "token_type": "access_token"})
	d.read("creds/gitlab-access-token")
	d.write("roles/gitlab-never-read", fields{"connection": "gitlab", "project": gitlabtest.Project, "rotation_period": years})
}

// interrupted writes roles for which GitLab failed at some point. GitLab keeps
// refusing to revoke.
func (d *dumper) interrupted(lab *gitlabtest.Server) {
	role := func(grace string) fields {
		return fields{"connection": "gitlab", "project": gitlabtest.Project, "rotation_period": years, "grace_period": grace}
	}
	d.write("roles/gitlab-not-revoked", role("0s"))
	d.read("creds/gitlab-not-revoked")
	d.write("roles/gitlab-deleted", role(years))
	d.read("creds/gitlab-deleted")

	lab.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusServiceUnavailable, "", "Retry-After", "3600"))
	d.write("rotate/gitlab-not-revoked", nil)
	d.read("creds/gitlab-not-revoked") // starts the work that is due
	servers.Eventually(d, func() error {
		waiting := read(d, d.v.Client, servers.Mount+"/roles/gitlab-not-revoked")["pending_revocations"].([]any)
		if waiting[0].(fields)["last_error"] == nil {
			return errors.New("not yet tried")
		}
		return nil
	})
	if _, err := d.v.Client.Logical().Delete(servers.Mount + "/roles/gitlab-deleted"); err != nil {
		d.Fatal(err)
	}
	d.roles = slices.DeleteFunc(d.roles, func(name string) bool { return name == "gitlab-deleted" })

	d.write("roles/gitlab-refused", role(years))
	d.write("roles/gitlab-unanswered", role(years))
	lab.ClearFaults()
	lab.InjectFault(1, lab.MintMatch, issuertest.TooManyRequests(60))
	d.readFails("creds/gitlab-refused")
	lab.InjectFault(1, lab.MintMatch, issuertest.CutAfterActing)
	d.readFails("creds/gitlab-unanswered")
	lab.InjectFault(-1, issuertest.Method(http.MethodDelete), issuertest.Status(http.StatusServiceUnavailable, "", "Retry-After", "3600"))
}

// readMints are roles of which each read mints.
var readMints = regexp.MustCompile("^(leased-.*|gitlab-never-read|gitlab-refused|gitlab-unanswered)$")

var mintedSecret = regexp.MustCompile(`"(token|secret|sha1|authorizationToken)":"[^"]+"`)

// disguise makes a registry answer a mint with a credential that is obviously
// made up. It would not pull, but a dump needs only its form.
func disguise(s *issuertest.Server, mints func(*http.Request) bool) {
	s.InjectFault(-1, mints, func(w http.ResponseWriter, r *http.Request, act http.Handler) {
		recorded := httptest.NewRecorder()
		act.ServeHTTP(recorded, r)
		maps.Copy(w.Header(), recorded.Header())
		w.Header().Del("Content-Length")
		w.WriteHeader(recorded.Code)
		_, _ = w.Write(mintedSecret.ReplaceAllFunc(recorded.Body.Bytes(), func(field []byte) []byte {
			name, _, _ := bytes.Cut(field, []byte(":"))
			secret := dumpSecret + "-" + strings.ToLower(rand.Text()[:6])
			if string(name) == `"authorizationToken"` {
				secret = base64.StdEncoding.EncodeToString([]byte("AWS:" + secret))
			}
			return fmt.Appendf(name, ":%q", secret)
		}))
	})
}

// root writes a connection and replaces its root credential, unless a fault
// interrupts that.
func (d *dumper) root(name string, fault func(*gitlabtest.Server)) {
	d.Helper()
	lab := gitlabtest.New(d)
	d.connect(name, "gitlab", lab.Connection(), fields{"registry": name + ".example.com"})
	if fault == nil {
		d.write("connections/"+name+"/rotate-root", nil)
		return
	}
	fault(lab)
	d.writeFails("connections/" + name + "/rotate-root")
}

// values returns the entries of Vault's storage below a prefix.
func (d *dumper) values(prefix string) map[string]storagetest.Value {
	d.Helper()
	values := map[string]storagetest.Value{}
	for _, key := range d.v.RawKeys(d, prefix) {
		values[key] = storagetest.Value(d.v.RawRead(d, prefix+key))
	}
	return values
}

// answers reads every path that does not mint.
func (d *dumper) answers() map[string]storagetest.Answer {
	d.Helper()
	paths := []string{"config", "roles/"}
	if d.connections != nil {
		paths = append(paths, "connections/")
	}
	if slices.Contains(d.roles, "all") {
		paths = append(paths, "expiring")
	}
	for _, name := range d.connections {
		paths = append(paths, "connections/"+name)
	}
	for _, name := range d.roles {
		paths = append(paths, "roles/"+name)
		if !readMints.MatchString(name) {
			paths = append(paths, "creds/"+name, "creds/"+name+"/kubernetes", "creds/"+name+"/docker")
		}
	}
	answers := map[string]storagetest.Answer{}
	for _, path := range paths {
		answers[path] = answerOf(d, d.v.Client, path)
	}
	return answers
}

// answerOf reads, or lists where the path ends in a slash.
func answerOf(t testing.TB, client *api.Client, path string) storagetest.Answer {
	t.Helper()
	ask := client.Logical().Read
	if strings.HasSuffix(path, "/") {
		ask = client.Logical().List
	}
	secret, err := ask(servers.Mount + "/" + path)
	var refused *api.ResponseError
	switch {
	case errors.As(err, &refused):
		return storagetest.Answer{Error: strings.Join(refused.Errors, "\n")}
	case err != nil || secret == nil:
		t.Fatalf("reading %s: want an answer, got %v, %v", path, secret, err)
	}
	return storagetest.Answer{Data: secret.Data, Warnings: secret.Warnings}
}
