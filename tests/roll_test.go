// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	rollReaders = 8
	rolls       = 2 // forward and back

	// slowMint is how long the registry takes for a mint while Vault replaces
	// the plugin. Vault waits for it.
	slowMint = time.Second

	rollFrom, rollTo = "v0.1.0", "v0.2.0"
)

// TestRollForwardAndBackUnderLoad upgrades the plugin as docs/installation.md
// says, and rolls back, more than once, while clients read and write. No
// request fails, no read returns less than what was last written, and only one
// credential is minted.
func TestRollForwardAndBackUnderLoad(t *testing.T) {
	t.Parallel()
	v, lab := servers.StartRaftVault(t), gitlabtest.New(t)
	if err := v.Client.Sys().Unmount(servers.Mount); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{rollFrom, rollTo} {
		registerVersion(t, v, version)
	}
	v.CLI(t, "", "secrets", "enable", "-path="+servers.Mount, "-plugin-version="+rollFrom, servers.PluginName)

	connect(t, v.Client, "regcred/connections/gitlab", "gitlab", lab.Connection(), fields{"allowed_roles": "shared,slow-*"})
	write(t, v.Client, "regcred/roles/shared", dynamic("gitlab", lab.Role(), fields{"allowed_bundles": "bundle"}))
	write(t, v.Client, "regcred/roles/counter", credential(fields{"password": "0", "allowed_bundles": "bundle"}))
	write(t, v.Client, "regcred/roles/bundle", fields{"members": "counter,shared"})
	shared := credentialOf(read(t, v.Client, "regcred/creds/shared")).Password.Reveal()

	load := startRollLoad(t, v.Client, shared)
	for i := range rolls {
		for _, version := range []string{rollTo, rollFrom} {
			tune(t, v, version)
			slow := load.startSlowRead(lab, fmt.Sprintf("slow-%d-%s", i, version))
			reload(t, v)
			<-slow
			if got := runningVersion(t, v); got != version {
				t.Errorf("want the running version %s, got %s", version, got)
			}
			load.goesOn(t)
		}
	}
	load.stop()
	if living := lab.Living(); len(living) != 1+2*rolls {
		t.Errorf("want the credential that was minted at first, and those of slow reads, got %q", living)
	}
}

// registerVersion builds a version of the plugin and registers it.
func registerVersion(t *testing.T, v *servers.Vault, version string) {
	t.Helper()
	name := servers.PluginName + "-" + version
	sum := v.CopyPlugin(t, buildPlugin(t, version), name)
	v.CLI(t, "", "plugin", "register", "-sha256="+sum, "-command="+name, "-version="+version, "secret", servers.PluginName)
}

// rollLoad is the clients that read and write meanwhile.
type rollLoad struct {
	*testing.T
	client *api.Client
	shared string // the password of the shared role

	clients             sync.WaitGroup
	ended               chan struct{}
	written             atomic.Int64 // the last password whose write was acknowledged
	reads, writes, errs atomic.Int64
}

func startRollLoad(t *testing.T, client *api.Client, shared string) *rollLoad {
	t.Helper()
	l := &rollLoad{T: t, client: client, shared: shared, ended: make(chan struct{})}
	l.clients.Go(func() { l.repeat(l.write) })
	for i := range rollReaders {
		l.clients.Go(func() { l.repeat([]func(){l.readCounter, l.readShared, l.readBundle}[i%3]) })
	}
	return l
}

// repeat calls do until the load is stopped, or until it has failed too often.
func (l *rollLoad) repeat(do func()) {
	for {
		select {
		case <-l.ended:
			return
		default:
			if do(); l.errs.Load() > 20 {
				return
			}
		}
	}
}

func (l *rollLoad) fail(format string, args ...any) {
	l.errs.Add(1)
	l.Errorf(format, args...)
}

func (l *rollLoad) write() {
	next := l.written.Load() + 1
	if _, err := l.client.Logical().Write("regcred/roles/counter", fields{"password": strconv.FormatInt(next, 10)}); err != nil {
		l.fail("a write failed: %v", err)
		return
	}
	l.written.Store(next)
	l.writes.Add(1)
}

// read returns nil after a failure.
func (l *rollLoad) read(role string) fields {
	secret, err := l.client.Logical().Read("regcred/creds/" + role)
	if err != nil || secret == nil {
		l.fail("a read of %s failed: %v, %v", role, secret, err)
		return nil
	}
	l.reads.Add(1)
	return secret.Data
}

func (l *rollLoad) readCounter() {
	least := l.written.Load()
	if data := l.read("counter"); data != nil {
		l.atLeast(least, data["password"].(string))
	}
}

func (l *rollLoad) atLeast(least int64, password string) {
	if got, err := strconv.ParseInt(password, 10, 64); err != nil || got < least || got > l.written.Load()+1 {
		l.fail("want the password %d or what was written since, got %q", least, password)
	}
}

func (l *rollLoad) readShared() {
	if data := l.read("shared"); data != nil && data["password"] != l.shared {
		l.fail("want the shared credential to stay what it is")
	}
}

func (l *rollLoad) readBundle() {
	least := l.written.Load()
	data := l.read("bundle")
	if data == nil {
		return
	}
	var docker struct {
		Auths map[string]struct {
			Password string `json:"password"`
		} `json:"auths"`
	}
	if err := json.Unmarshal([]byte(data[".dockerconfigjson"].(string)), &docker); err != nil || len(docker.Auths) != 2 {
		l.fail("want a bundle of two, got %d, %v", len(docker.Auths), err)
		return
	}
	l.atLeast(least, docker.Auths["registry.example.com"].Password)
}

// startSlowRead starts to read a new role, whose mint takes GitLab long, and
// returns when GitLab has received the mint. The channel is closed when the
// read is answered; an error fails the test.
func (l *rollLoad) startSlowRead(lab *gitlabtest.Server, role string) <-chan struct{} {
	l.Helper()
	write(l.T, l.client, "regcred/roles/"+role, dynamic("gitlab", lab.Role(), nil))
	asked, answered := make(chan struct{}), make(chan struct{})
	lab.Watch(func(r *http.Request) {
		if lab.MintMatch(r) {
			close(asked)
			time.Sleep(slowMint)
		}
	}, nil)
	go func() {
		defer close(answered)
		l.read(role)
	}()
	servers.Receive(l, asked, "GitLab is not asked to mint")
	return answered
}

// goesOn waits for further reads and writes.
func (l *rollLoad) goesOn(t *testing.T) {
	t.Helper()
	reads, writes := l.reads.Load(), l.writes.Load()
	servers.Eventually(t, func() error {
		if t.Failed() {
			t.FailNow()
		}
		if l.reads.Load() < reads+50 || l.writes.Load() < writes+5 {
			return fmt.Errorf("only %d more reads and %d more writes", l.reads.Load()-reads, l.writes.Load()-writes)
		}
		return nil
	})
}

func (l *rollLoad) stop() {
	close(l.ended)
	l.clients.Wait()
	l.Logf("%d reads and %d writes", l.reads.Load(), l.writes.Load())
}
