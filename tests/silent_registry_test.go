// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/servers"
)

// longest is how long a request may take that waits for no registry. The engine
// needs up to two seconds, and a busy machine some more. A call to a registry that
// hangs takes 30 seconds.
const longest = 10 * time.Second

// silentRegistry is a GitLab that can be made to hang.
type silentRegistry struct {
	*gitlabtest.Server
	name    string
	hangsAt func(*http.Request) bool
	hanging atomic.Int64 // calls that are not answered
}

// hang makes the registry leave some requests without an answer.
func (r *silentRegistry) hang() {
	r.InjectFault(-1, r.hangsAt, func(w http.ResponseWriter, in *http.Request, act http.Handler) {
		r.hanging.Add(1)
		defer r.hanging.Add(-1)
		issuertest.Hang(w, in, act)
	})
}

// silentWorld is a Vault with two mounts of the engine, of which each has static
// roles and, at each of three registries, shared and leased roles.
type silentWorld struct {
	*testing.T
	v          *servers.Vault
	mounts     []string
	registries []*silentRegistry

	stop    context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	longest time.Duration // that a read of a static role took
	reads   int
	failed  error // of a read of a static role
	sealing bool  // such reads may fail
}

func newSilentWorld(t *testing.T) *silentWorld {
	t.Helper()
	api := func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/api/") }
	pulls := func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v2/") }
	w := &silentWorld{T: t, v: servers.StartRaftVault(t), mounts: []string{servers.Mount, "second"}}
	for _, r := range []*silentRegistry{
		{name: "all", hangsAt: api},     // answers nothing
		{name: "mints"},                 // lists and deletes, and does not mint
		{name: "pulls", hangsAt: pulls}, // mints, and hangs when that is tried
	} {
		r.Server = gitlabtest.New(t)
		if r.hangsAt == nil {
			r.hangsAt = r.MintMatch
		}
		w.registries = append(w.registries, r)
	}
	w.v.Enable(t, w.mounts[1])
	for _, mount := range w.mounts {
		write(t, w.v.Client, mount+"/roles/static", credential(nil))
		for _, r := range w.registries {
			w.prepare(mount, r)
		}
	}
	return w
}

func (w *silentWorld) prepare(mount string, r *silentRegistry) {
	w.Helper()
	connect(w, w.v.Client, mount+"/connections/"+r.name, "gitlab", r.Connection(), fields{"allowed_roles": "*"})
	role := func(name string, more fields) {
		more["verify_repository"] = gitlabtest.Project + ":1"
		write(w, w.v.Client, mount+"/roles/"+name+"-"+r.name, dynamic(r.name, r.Role(), more))
	}
	role("leased", fields{"mode": "leased"})
	role("first", fields{})
	role("due", fields{"rotation_period": "5s", "grace_period": "2m"})
	read(w, w.v.Client, mount+"/creds/due-"+r.name)
}

// load reads and rotates without pause, until the world stops. Only reads of
// static roles must succeed.
func (w *silentWorld) load() {
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	once := servers.Impatient(w, w.v.Client)
	repeat := func(do func()) {
		w.workers.Go(func() {
			for ctx.Err() == nil {
				do()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	for _, mount := range w.mounts {
		for _, r := range w.registries {
			for _, role := range []string{"leased", "leased", "first", "due"} {
				path := fmt.Sprintf("%s/creds/%s-%s", mount, role, r.name)
				repeat(func() { _, _ = once.Logical().ReadWithContext(ctx, path) })
			}
			repeat(func() {
				_, _ = once.Logical().WriteWithContext(ctx, mount+"/rotate/due-"+r.name, nil)
			})
		}
	}
	repeat(func() {
		began := time.Now()
		read, err := once.Logical().ReadWithContext(ctx, servers.Mount+"/creds/static")
		took := time.Since(began)
		if err == nil && read == nil {
			err = fmt.Errorf("%s/creds/static: not found", servers.Mount)
		}
		if err != nil && (strings.Contains(err.Error(), "the client connection is closing") || strings.Contains(err.Error(), "error reading from server: EOF")) {
			err = nil // Vault ends the process for all mounts, and lets only those of one mount finish
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.reads++
		w.longest = max(w.longest, took)
		if err != nil && !w.sealing && ctx.Err() == nil {
			w.failed = err
		}
	})
}

// waitForCalls waits until all registries have calls that hang.
func (w *silentWorld) waitForCalls() {
	w.Helper()
	servers.Eventually(w, func() error {
		for _, r := range w.registries {
			if r.hanging.Load() == 0 {
				return fmt.Errorf("no call to the registry %q hangs", r.name)
			}
		}
		return nil
	})
}

// takes does something under load, and fails the test if it takes long, or if a
// read of a static role does so meanwhile.
func (w *silentWorld) takes(what string, do func() error) {
	w.Helper()
	w.waitForCalls()
	w.mu.Lock()
	w.longest, w.reads = 0, 0
	w.mu.Unlock()
	began := time.Now()
	if err := do(); err != nil {
		w.Errorf("%s: %v", what, err)
	}
	took := time.Since(began)
	servers.Eventually(w, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.reads < 2 { // the one that was in progress, and one more
			return fmt.Errorf("%d reads of a static role since the beginning of: %s", w.reads, what)
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.Logf("%s: %s; the longest read of a static role meanwhile: %s", what, took.Round(time.Millisecond), w.longest.Round(time.Millisecond))
	if took > longest {
		w.Errorf("%s took %s while registries hang", what, took.Round(time.Millisecond))
	}
	if w.longest > longest {
		w.Errorf("%s: a read of a static role took %s meanwhile", what, w.longest.Round(time.Millisecond))
	}
	if w.failed != nil {
		w.Errorf("%s: a read of a static role failed meanwhile: %v", what, w.failed)
		w.failed = nil
	}
}

// TestNothingWaitsForSilentRegistries has three registries hang, each at another
// call, under a load of reads and rotations. The plugin is reloaded, a mount is
// disabled and Vault is sealed, each within a time in which no call to these
// registries ends; and so are static roles read. Afterwards all of it works again.
func TestNothingWaitsForSilentRegistries(t *testing.T) {
	t.Parallel()
	w := newSilentWorld(t)
	for _, r := range w.registries {
		r.hang()
	}
	w.load()
	defer w.workers.Wait()
	defer func() {
		for _, r := range w.registries {
			r.ClearFaults()
			r.CloseClientConnections() // ends what hangs still
		}
	}()
	defer w.stop()

	sys := w.v.Client.Sys()
	w.takes("doing nothing", func() error { return nil })
	w.takes("a reload of the plugin", func() error {
		_, err := sys.ReloadPlugin(&api.ReloadPluginInput{Plugin: servers.PluginName})
		return err
	})
	w.takes("a reload of the mount", func() error {
		_, err := sys.ReloadPlugin(&api.ReloadPluginInput{Mounts: []string{servers.Mount + "/"}})
		return err
	})
	w.takes("disabling the engine", func() error { return sys.Unmount(w.mounts[1]) })
	w.takes("a seal", func() error {
		w.mu.Lock()
		w.sealing = true
		w.mu.Unlock()
		return sys.Seal()
	})
	w.v.Unseal(t)
	w.worksAgain()
}

// worksAgain waits until credentials are minted again where the registries hung.
func (w *silentWorld) worksAgain() {
	w.Helper()
	for _, r := range w.registries {
		r.ClearFaults()
	}
	for _, r := range w.registries {
		for _, role := range []string{"leased", "first", "due"} {
			path := fmt.Sprintf("%s/creds/%s-%s", servers.Mount, role, r.name)
			servers.Eventually(w, func() error {
				read, err := w.v.Client.Logical().Read(path)
				if err == nil && (read == nil || !r.Pulls(credentialOf(read.Data), gitlabtest.Project)) {
					err = fmt.Errorf("%s does not pull", path)
				}
				return err
			})
		}
	}
}
