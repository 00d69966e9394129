// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	gapRotations = 50
	gapAsked     = 10 // of these, by rotate/<role>; the engine does the others
	gapPeriod    = 5 * time.Second
	gapGrace     = 20 * time.Second
	gapNodes     = 3
)

// TestNoPullFailsOverFiftyRotations runs nodes that read a shared role and pull
// from a real registry, with the credential that they have just read and with
// older ones, while the engine replaces it again and again. No pull that ends
// within the grace period of its read may fail. At the end, the registry
// refuses all credentials except the last.
func TestNoPullFailsOverFiftyRotations(t *testing.T) {
	t.Parallel()
	v, g := servers.StartVault(t), servers.StartGitea(t)
	proxy := g.Proxy(t)
	w := &gapWorld{v: v, image: pushedToGitea(t, g, proxy.Puller), read: map[string]*heldCredential{}}
	mints := countMints(proxy.Server, proxy.MintMatch)
	connect(t, v.Client, "regcred/connections/gitea", "gitea", proxy.Connection(), fields{"allowed_roles": "my_app"})
	write(t, v.Client, "regcred/roles/my_app", dynamic("gitea", proxy.Role(), fields{
		"rotation_period": gapPeriod.String(), "grace_period": gapGrace.String(),
	}))

	var nodes sync.WaitGroup
	ended := make(chan struct{})
	for range gapNodes {
		nodes.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
					w.node(t)
				}
			}
		})
	}
	asked := w.rotations(t)
	close(ended)
	nodes.Wait()
	// With a long period, the current credential stays current.
	write(t, v.Client, "regcred/roles/my_app", fields{"rotation_period": "24h"})
	servers.Eventually(t, func() error {
		w.readOnce(t)
		if minted, held := int(mints.Load()), len(w.all()); minted != held {
			return fmt.Errorf("want each of %d minted credentials read, got %d", minted, held)
		}
		return nil
	})

	held := w.all()
	t.Logf("%d pulls with %d credentials, %d of them replaced by rotate", w.pulls, len(held), asked)
	if own := len(held) - 1 - asked; own < gapRotations-gapAsked-1 {
		t.Errorf("want %d rotations by the engine itself, got %d", gapRotations-gapAsked, own)
	}
	w.onlyCurrentIsLeft(t, proxy)
}

// gapWorld is what the nodes have seen.
type gapWorld struct {
	v     *servers.Vault
	image string

	mu    sync.Mutex
	read  map[string]*heldCredential // by password
	pulls int
}

// heldCredential is a credential that was read. lastRead is when the last read
// that returned it was sent.
type heldCredential struct {
	issuer.Credential
	config   string
	lastRead time.Time
}

// node reads and pulls, and pulls again with an older credential that is still
// within its grace period.
func (w *gapWorld) node(t *testing.T) {
	c := w.readOnce(t)
	if c == nil {
		return
	}
	w.mustPull(t, c)
	var older []*heldCredential
	for _, other := range w.all() {
		if w.mayBeUsed(other) {
			older = append(older, other)
		}
	}
	if len(older) > 0 {
		w.mustPull(t, older[rand.IntN(len(older))])
	}
}

// readOnce records the credential that a read returns.
func (w *gapWorld) readOnce(t *testing.T) *heldCredential {
	sent := time.Now()
	secret, err := w.v.Client.Logical().Read("regcred/creds/my_app")
	if err != nil || secret == nil {
		t.Errorf("a read fails: %v", err)
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	read := credentialOf(secret.Data)
	c := w.read[read.Password.Reveal()]
	if c == nil {
		c = &heldCredential{Credential: read, config: secret.Data[".dockerconfigjson"].(string)}
		w.read[read.Password.Reveal()] = c
	}
	if sent.After(c.lastRead) {
		c.lastRead = sent
	}
	return c
}

func (w *gapWorld) all() []*heldCredential {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*heldCredential
	for _, c := range w.read {
		all = append(all, c)
	}
	return all
}

// mayBeUsed reports whether a credential was read less than the grace period
// ago.
func (w *gapWorld) mayBeUsed(c *heldCredential) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(c.lastRead) < gapGrace
}

// mustPull pulls. A failure counts only if the credential is still within its
// grace period when the pull has ended.
func (w *gapWorld) mustPull(t *testing.T, c *heldCredential) {
	err := pull(t, w.image, c.Credential)
	w.judge(t, "go-containerregistry", c, err, "")
}

func (w *gapWorld) judge(t *testing.T, client string, c *heldCredential, err error, out string) {
	usable := w.mayBeUsed(c)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pulls++
	if err != nil && usable {
		t.Errorf("%s: a pull failed with a credential that was read %s before: %v\n%s", client, time.Since(c.lastRead), err, out)
	}
}

// rotations waits for gapRotations rotations. It asks for some of them, and
// makes the real clients pull after others. It returns how many it asked for.
func (w *gapWorld) rotations(t *testing.T) (asked int) {
	t.Helper()
	seen := map[string]bool{}
	for limit := servers.Limit(t); len(seen) <= gapRotations; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Errorf("want %d rotations, got %d at the test's time limit", gapRotations, len(seen)-1)
			return asked
		}
		c := w.readOnce(t)
		if c == nil || seen[c.Password.Reveal()] {
			continue
		}
		seen[c.Password.Reveal()] = true
		switch {
		case len(seen)%5 == 2 && asked < gapAsked:
			if _, err := w.v.Client.Logical().Write("regcred/rotate/my_app", nil); err != nil {
				t.Errorf("rotate: %v", err)
			}
			asked++
		case len(seen)%5 == 4:
			for client, pull := range clients.Pullers {
				out, err := pull(t, w.image, c.config)
				w.judge(t, client, c, err, out)
			}
		}
	}
	return asked
}

// onlyCurrentIsLeft waits until the grace period of the last rotation is over
// and the engine has revoked the former credentials. No read starts that work,
// so the engine does it by itself, once a minute.
func (w *gapWorld) onlyCurrentIsLeft(t *testing.T, proxy *servers.GiteaProxy) {
	t.Helper()
	servers.Eventually(t, func() error {
		role := read(t, w.v.Client, "regcred/roles/my_app")
		if pending, waits := role["pending_revocations"]; waits {
			return fmt.Errorf("these wait to be revoked: %v", pending)
		}
		return nil
	})
	current := credentialOf(read(t, w.v.Client, "regcred/creds/my_app"))
	if !pulls(t, w.image, current) {
		t.Error("want the current credential to pull")
	}
	for _, c := range w.all() {
		if c.Password.Reveal() != current.Password.Reveal() && pulls(t, w.image, c.Credential) {
			t.Error("want a credential refused that was replaced, and whose grace period is over")
		}
	}
	if living := proxy.Living(); len(living) != 1 || !strings.HasPrefix(living[0], "regcred-my-app-") {
		t.Errorf("want one access token alive, got %q", living)
	}
}

// TestSharedOutlivesTheTokenThatReadIt revokes the token that has read a shared
// and a leased credential. The shared one still pulls, as sync tools need; the
// leased one ends with its lease.
func TestSharedOutlivesTheTokenThatReadIt(t *testing.T) {
	t.Parallel()
	v, g := servers.StartVault(t), servers.StartGitea(t)
	proxy := g.Proxy(t)
	image := pushedToGitea(t, g, proxy.Puller)
	connect(t, v.Client, "regcred/connections/gitea", "gitea", proxy.Connection(), fields{"allowed_roles": "*"})
	write(t, v.Client, "regcred/roles/shared", dynamic("gitea", proxy.Role(), nil))
	write(t, v.Client, "regcred/roles/leased", dynamic("gitea", proxy.Role(), fields{"mode": "leased"}))
	if err := v.Client.Sys().PutPolicy("reader", `path "regcred/creds/*" { capabilities = ["read"] }`); err != nil {
		t.Fatal(err)
	}
	token, err := v.NewToken("reader")
	if err != nil {
		t.Fatal(err)
	}
	reader := withToken(t, v.Client, token)
	shared, leased := credentialOf(read(t, reader, "regcred/creds/shared")), credentialOf(read(t, reader, "regcred/creds/leased"))
	if !pulls(t, image, shared) || !pulls(t, image, leased) {
		t.Fatal("want both credentials to pull at first")
	}
	if err := v.Client.Auth().Token().RevokeTree(token); err != nil {
		t.Fatal(err)
	}
	servers.Eventually(t, func() error {
		if pulls(t, image, leased) {
			return fmt.Errorf("the leased credential still pulls")
		}
		return nil
	})
	if !pulls(t, image, shared) {
		t.Error("want the shared credential to pull after the token that read it was revoked")
	}
	again := read(t, v.Client, "regcred/creds/shared")
	if diff := cmp.Diff(shared.Password.Reveal(), again["password"]); diff != "" {
		t.Errorf("want the same shared credential for others (-want +got):\n%s", diff)
	}
	config, err := dockerconfig.Decode([]byte(again[".dockerconfigjson"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Credentials()[0].Registry; string(got) != g.Host {
		t.Errorf("want the pull secret for %s, got one for %s", g.Host, got)
	}
}
