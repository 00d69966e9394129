// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// workers write all entries and read all roles. More workers do not write
// faster.
const workers = 32

// Paths of mounts, and names of their plugins: each name has a process of its
// own.
const (
	mountRegcred = "regcred"
	mountFloor   = "floor"
	mountAgain   = "floor-again"
	mountKV1     = "kv1"
	mountKV2     = "kv2"
	mountNames   = "kv1-names"
)

// mountWith returns the mount of the process with further variables.
func mountWith(i int) string { return fmt.Sprintf("regcred-with-%d", i) }

func mountOf(roles int) string { return fmt.Sprintf("regcred-%d", roles) }

// setup is a Vault with everything that is measured.
type setup struct {
	*testing.T
	plan    plan
	vault   *servers.Vault
	env     []string // of regcred's processes
	root    client
	reader  client // its token is one that a consumer could have
	machine Machine
}

// contents are the roles that are read, by their names in the result.
var contents = map[string]string{static: "static", bundle: "bundle", shared: "shared"}

// newSetup starts Vault. The first environment is for the regcred that is
// measured, each other one for a process that is compared with it.
func newSetup(t *testing.T, p plan, settings [][]string) *setup {
	t.Helper()
	s := &setup{T: t, plan: p, env: settings[0], machine: machine(t)}
	s.machine.Env, s.machine.Compare = settings[0], settings[1:]
	s.vault = servers.StartRaftVaultWith(t, servers.RaftOptions{Empty: true, LogLevel: "info"})
	s.machine.Vault = s.vaultVersion()
	s.root = newClient(s.vault.Addr, s.vault.Token)
	s.reader = s.newReader()

	lab := gitlabtest.New(s)
	s.mountPlugin(servers.Plugin(t), mountRegcred, s.env...)
	s.writeContents(mountRegcred, lab)
	for i, variables := range s.machine.Compare {
		s.mountPlugin(servers.Plugin(t), mountWith(i), slices.Concat(s.env, variables)...)
		s.writeContents(mountWith(i), lab)
	}
	for _, floor := range []string{mountFloor, mountAgain} {
		s.mountPlugin(servers.Bin(t, "bench-floor"), floor)
		s.copyToFloor(floor)
	}
	s.writeKV()
	if len(p.roles) > 0 {
		s.writeMany()
	}
	return s
}

// writeMany writes the entries that there are many of.
func (s *setup) writeMany() {
	s.Helper()
	s.mount(mountNames, &api.MountInput{Type: "kv", Options: map[string]string{"version": "1"}})
	s.fill(mountNames, 0, s.plan.most())
	for _, n := range s.plan.roles {
		s.mountPlugin(servers.Plugin(s), mountOf(n), s.env...)
		s.fill(mountOf(n)+"/roles", 0, n)
		// Read each role once, so that no measured read is the first.
		s.readRoles(mountOf(n), 0, n)
	}
	s.write(mountFloor+"/names", fields{"count": s.plan.most(), "format": roleFormat})
	for _, list := range []string{mountNames, mountFloor + "/names"} {
		if diff := differs(s.listed(mountOf(s.plan.most())+"/roles"), s.listed(list)); diff != "" {
			s.Fatalf("the list of %s must be that of regcred (-regcred +%[1]s):\n%s", list, diff)
		}
	}
}

func (s *setup) mount(path string, input *api.MountInput) {
	s.Helper()
	if err := s.vault.Client.Sys().Mount(path, input); err != nil {
		s.Fatal(err)
	}
}

func (s *setup) mountPlugin(binary, name string, env ...string) {
	s.Helper()
	s.vault.RegisterAs(s, binary, name, env...)
	s.mount(name, &api.MountInput{Type: name})
}

func (s *setup) vaultVersion() string {
	s.Helper()
	health, err := s.vault.Client.Sys().Health()
	if err != nil {
		s.Fatal(err)
	}
	return health.Version
}

// newReader returns a client whose token may only read and list.
func (s *setup) newReader() client {
	s.Helper()
	if err := s.vault.Client.Sys().PutPolicy("reader", `path "*" { capabilities = ["read", "list"] }`); err != nil {
		s.Fatal(err)
	}
	token, err := s.vault.NewToken("reader")
	if err != nil {
		s.Fatal(err)
	}
	return newClient(s.vault.Addr, token)
}

func (s *setup) write(path string, in fields) {
	s.Helper()
	if _, err := s.vault.Client.Logical().Write(path, in); err != nil {
		s.Fatal(err)
	}
}

func (s *setup) data(path string) fields {
	s.Helper()
	secret, err := s.vault.Client.Logical().Read(path)
	if err != nil {
		s.Fatal(err)
	}
	if secret == nil {
		s.Fatalf("%s: nothing there", path)
	}
	return secret.Data
}

// credential returns fields like a registry's; the same for the same number.
func credential(i int) fields {
	return fields{
		"hostname": fmt.Sprintf("registry%d.example.com", i),
		"username": fmt.Sprintf("gitlab+deploy-token-%d", 900_000+i),
		"password": fmt.Sprintf("gldt-%x", sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)}))[:25],
	}
}

// writeContents writes a static role, a bundle of three roles, and a shared
// role whose credential a GitLab in memory mints.
func (s *setup) writeContents(mount string, lab *gitlabtest.Server) {
	s.Helper()
	var members []string
	for i := range 3 {
		name := []string{"static", "second", "third"}[i]
		role := credential(i + 1)
		role["allowed_bundles"] = "bundle"
		s.write(mount+"/roles/"+name, role)
		members = append(members, name)
	}
	s.write(mount+"/roles/bundle", fields{"members": members})

	connection := lab.Connection()
	s.write(mount+"/connections/gitlab", fields{
		"type": "gitlab", "url": connection.URL, "registry": string(connection.Registries[0]),
		"token": connection.Secrets["token"].Reveal(), "allowed_roles": "*",
	})
	s.write(mount+"/roles/shared", fields{
		"connection": "gitlab", "project": gitlabtest.Project, "mode": "shared", "rotation_period": "720h",
	})
}

// writeKV writes the static credentials as a team without regcred would.
func (s *setup) writeKV() {
	s.Helper()
	s.mount(mountKV1, &api.MountInput{Type: "kv", Options: map[string]string{"version": "1"}})
	s.mount(mountKV2, &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}})
	for i := range 3 {
		secret := credential(i + 1)
		s.write(fmt.Sprintf("%s/%d", mountKV1, i), secret)
		var err error
		for range 100 { // Vault is still preparing the mount
			if _, err = s.vault.Client.Logical().Write(fmt.Sprintf("%s/data/%d", mountKV2, i), fields{"data": secret}); err == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil {
			s.Fatal(err)
		}
	}
}

// copyToFloor writes regcred's answer to a floor, and checks that the floor
// then gives the same answer.
func (s *setup) copyToFloor(floor string) {
	s.Helper()
	for _, role := range contents {
		path := "/creds/" + role
		s.write(floor+path, s.data(mountRegcred+path))
		if diff := differs(s.data(mountRegcred+path), s.data(floor+path)); diff != "" {
			s.Fatalf("%s%s must give regcred's answer (-regcred +floor):\n%s", floor, path, diff)
		}
	}
}

// listed is the answer to a list.
func (s *setup) listed(path string) fields {
	s.Helper()
	secret, err := s.vault.Client.Logical().List(path)
	if err != nil {
		s.Fatal(err)
	}
	return secret.Data
}

const roleFormat = "role-%06d"

func roleName(i int) string { return fmt.Sprintf(roleFormat, i) }

// fill writes credentials below a path, for the numbers in a range.
func (s *setup) fill(path string, from, to int) {
	s.Helper()
	began := time.Now()
	each(s, workers, to-from, func(i int) error {
		body, err := json.Marshal(credential(from + i))
		if err != nil {
			return err
		}
		return s.root.do(http.MethodPost, path+"/"+roleName(from+i), body)
	})
	s.logSince(began, "wrote %s to %s", count(to-from), path)
}

// readRoles reads the roles with the numbers in a range, each once.
func (s *setup) readRoles(mount string, from, to int) {
	s.Helper()
	began := time.Now()
	each(s, workers, to-from, func(i int) error { return s.reader.read(mount + "/creds/" + roleName(from+i)) })
	s.logSince(began, "read %s of %s", count(to-from), mount)
}

func (s *setup) logSince(began time.Time, format string, args ...any) {
	s.Helper()
	if took := time.Since(began); took > 5*time.Second {
		s.Logf(format+": %.0f s", append(args, took.Seconds())...)
	}
}

// groups returns the things that are compared.
func (s *setup) groups() []group {
	var things []thing
	for _, content := range []string{static, bundle, shared} {
		path := "/creds/" + contents[content]
		things = append(things, s.reads(of(regcred, content), mountRegcred+path), s.reads(of(floor, content), mountFloor+path))
		for i, variables := range s.machine.Compare {
			things = append(things, s.reads(of(with(variables), content), mountWith(i)+path))
		}
	}
	things = append(things, s.reads(of(again, static), mountAgain+"/creds/"+contents[static]))
	for _, n := range []int{1, 3} {
		things = append(things,
			s.reads(reads(kv1, n), []string{mountKV1 + "/0", mountKV1 + "/1", mountKV1 + "/2"}[:n]...),
			s.reads(reads(kv2, n), []string{mountKV2 + "/data/0", mountKV2 + "/data/1", mountKV2 + "/data/2"}[:n]...))
	}
	var groups []group
	for _, concurrency := range concurrencies {
		groups = append(groups, group{concurrency, things})
	}
	if len(s.plan.roles) == 0 {
		return groups
	}

	var sizes []thing
	for _, n := range s.plan.roles {
		sizes = append(sizes, thing{withRoles(n), func() error {
			return s.reader.read(mountOf(n) + "/creds/" + roleName(rand.IntN(n)))
		}})
	}
	return append(groups, group{1, sizes}, group{1, []thing{
		s.reads(listOf(regcred), mountOf(s.plan.most())+"/roles?list=true"),
		s.reads(listOf(kv1), mountNames+"?list=true"),
		s.reads(listOf(floor), mountFloor+"/names?list=true"),
	}})
}

// reads returns the thing that reads paths in sequence.
func (s *setup) reads(name string, paths ...string) thing {
	return thing{name, func() error {
		for _, path := range paths {
			if err := s.reader.read(path); err != nil {
				return err
			}
		}
		return nil
	}}
}

// measureMemory starts the process with the most roles again, and measures its
// memory: idle, after the roles were read, and after twice as many were.
func (s *setup) measureMemory() Memory {
	s.Helper()
	n := s.plan.most()
	mount := mountOf(n)
	s.fill(mount+"/roles", n, 2*n)
	if _, err := s.vault.Client.Sys().ReloadPlugin(&api.ReloadPluginInput{Plugin: mount}); err != nil {
		s.Fatal(err)
	}
	s.readRoles(mount, 0, 1) // starts the process
	m := Memory{Roles: n, Idle: s.resident(mount)}
	s.readRoles(mount, 0, n)
	m.Read = s.resident(mount)
	s.readRoles(mount, n, 2*n)
	m.Twice = s.resident(mount)
	return m
}

// resident returns the resident memory of a plugin's process, in bytes.
func (s *setup) resident(plugin string) int64 {
	s.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.vault.PIDOf(s, plugin)))
	if err != nil {
		s.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		name, value, _ := strings.Cut(line, ":")
		if name == "VmRSS" {
			kilobytes, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				s.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	s.Fatalf("no VmRSS in:\n%s", content)
	return 0
}

// machine describes the machine, and checks that the two plugins are built
// alike.
func machine(t *testing.T) Machine {
	t.Helper()
	regcred, floor := buildOf(t, servers.Plugin(t)), buildOf(t, servers.Bin(t, "bench-floor"))
	if diff := cmp.Diff(regcred, floor); diff != "" {
		t.Fatalf("the floor must be built as regcred is (-regcred +floor):\n%s", diff)
	}
	version, err := exec.Command(servers.Plugin(t), "-version").Output()
	if err != nil {
		t.Fatal(err)
	}
	return Machine{
		OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU(),
		Go: regcred["go"], SDK: regcred[sdkModule], Plugin: strings.TrimSpace(string(version)),
	}
}

const sdkModule = "github.com/hashicorp/vault/sdk"

// buildOf returns what a plugin was built with, which decides how fast it
// answers, beside its own code.
func buildOf(t *testing.T, program string) map[string]string {
	t.Helper()
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	built := map[string]string{"go": info.GoVersion}
	for _, module := range info.Deps {
		switch module.Path {
		case sdkModule, "github.com/hashicorp/go-plugin", "google.golang.org/grpc", "google.golang.org/protobuf":
			built[module.Path] = module.Version
		}
	}
	for _, setting := range info.Settings {
		switch setting.Key {
		case "-trimpath", "-race", "-gcflags", "CGO_ENABLED", "GOARCH", "GOAMD64", "GOARM64":
			built[setting.Key] = setting.Value
		}
	}
	return built
}
