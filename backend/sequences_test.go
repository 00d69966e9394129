// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"pgregory.net/rapid"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/registry"
)

// TestRandomSequences draws sequences of writes, moves, deletions, rotations,
// leases, faults, crashes, restarts and clock jumps, and runs them against two
// registries that also hold credentials of others. It checks after each step
// that
//
//   - no answer lacks a user name or password,
//   - no credential of somebody else is touched, and none of ours is looked for
//     at a registry that did not mint it,
//   - no read returns a credential of another registry than its key says, or one
//     that the engine has ended itself,
//   - the index of what is due has a key for each shared role that comes up when
//     there is something to be done for it, or before;
//
// and at the end of each sequence, when all faults are mended and all roles
// deleted, that no credential of ours is alive, except those whose connection
// was moved or given up.
//
// "make sequences" draws as many as an issue needs; "go test" draws few.
func TestRandomSequences(t *testing.T) {
	t.Parallel()
	memory := cache.New()
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, memory)
		defer w.engine.Cleanup(context.Background())
		actions := map[string]func(*rapid.T){
			"": func(*rapid.T) {
				w.check()
				w.checkStatus()
			},
			"write shared role":   w.writeSharedRole,
			"write leased role":   w.writeLeasedRole,
			"write bundle":        w.writeBundle,
			"delete role":         w.deleteRole,
			"read":                w.read,
			"read bundle":         w.readBundle,
			"rotate":              w.rotate,
			"verify":              w.verify,
			"read leased":         w.readLeased,
			"renew lease":         w.renewLease,
			"revoke lease":        w.revokeLease,
			"move connection":     w.moveConnection,
			"delete connection":   w.deleteConnection,
			"restrict connection": w.restrictConnection,
			"replace root":        w.replaceRoot,
			"rotate root":         w.rotateRoot,
			"fault":               w.setFault,
			"mend":                func(*rapid.T) { w.mend() },
			"restore registry":    w.restoreRegistry,
			"time passes":         w.timePasses,
			"clock jumps":         w.clockJumps,
			"periodic":            func(*rapid.T) { w.periodic() },
			"restart":             func(*rapid.T) { w.restart() },
			"crash":               w.crashNext,
		}
		rt.Repeat(actions)
		w.finish()
	})
}

// world is an engine, and two registries that it mints at.
type world struct {
	t      *rapid.T
	memory *cache.Cache
	engine *backend

	storage    *mortalWorldStorage
	registries []*modelRegistry
	now        time.Time     // true time
	skew       time.Duration // of the engine's clock
	leases     []*logical.Secret

	// steps until the engine dies; negative: it does not.
	stepping sync.Mutex
	steps    int
	dead     bool

	failing    atomic.Int64 // which of the next writes fails; 0: none
	failsAfter atomic.Bool  // and happens nevertheless
	failed     atomic.Bool

	version int // of the plugin, the last part

	untouched []*logical.StorageEntry // what an earlier build has left as it is; nil: none is running

	excused map[string]bool // names that the engine may leave alive
	trace   []string
	ids     int
	roots   int // root credentials that were replaced by hand
}

// modelRegistry is a registry that counts its IDs.
type modelRegistry struct {
	world *world
	url   string
	key   string

	mu     sync.Mutex
	living map[int]string    // names by ID
	ours   map[string]string // connection by name
	ended  map[string]bool   // names that the engine has had revoked
	next   int
	admins map[string]bool
	fault  string
}

var modelRegistries sync.Map // by URL

func init() { issuerTypes = append(issuerTypes, modelType()) }

var foreignNames = []string{"production-0", "production-1", "regcred-other-mount-7mq3v6xk2n5p4r7s6t5u4v3w2x", "by-hand"}

func newWorld(t *rapid.T, memory *cache.Cache) *world {
	w := &world{t: t, memory: memory, now: noon, steps: -1, excused: map[string]bool{}}
	w.storage = &mortalWorldStorage{Storage: &logical.InmemStorage{}, world: w}
	for i, host := range []string{"a", "b"} {
		r := &modelRegistry{
			world: w, url: fmt.Sprintf("https://%s-%p.example.com", host, w), key: host + ".example.com",
			living: map[int]string{}, ours: map[string]string{}, ended: map[string]bool{}, next: 1, admins: map[string]bool{rootOf("c0"): true, rootOf("c1"): true},
		}
		for _, name := range foreignNames {
			r.living[r.next] = name
			r.next++
		}
		r.next += i // the registries do not count in step
		w.registries = append(w.registries, r)
		modelRegistries.Store(r.url, r)
	}
	w.start()
	for i, name := range []string{"c0", "c1"} {
		w.mustWrite("connections/"+name, w.connectionFields(name, w.registries[i]))
	}
	return w
}

func (w *world) connectionFields(name string, r *modelRegistry) fields {
	return fields{"type": "model", "label": name, "url": r.url, "registry": r.key, "password": rootOf(name), "allowed_roles": "*"}
}

// rootOf returns the password with which a connection begins, which works at
// both registries.
func rootOf(connection string) string { return "root-of-" + connection }

// start makes an engine over what is stored.
func (w *world) start() {
	b := newBackend(fmt.Sprintf("v1.2.%d", w.version), w.memory)
	b.now = func() time.Time { return w.now.Add(w.skew) }
	b.sleep = func(context.Context, time.Duration) {}
	b.newHTTP = func(*x509.CertPool) *http.Client { return &http.Client{Transport: noNetwork{}} }
	b.newVerifier = func(*x509.CertPool) verifier { return modelVerifier{w} }
	b.newID = func() string {
		w.ids++
		return fmt.Sprint("connection-", w.ids)
	}
	err := b.Setup(context.Background(), &logical.BackendConfig{
		Logger:      hclog.NewNullLogger(),
		System:      &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: 24 * time.Hour},
		StorageView: w.storage,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.engine, w.dead, w.steps = b, false, -1
}

func (w *world) restart() {
	w.engine.Cleanup(context.Background())
	w.start()
}

// crashNext has the engine die within the next requests.
func (w *world) crashNext(t *rapid.T) { w.steps = rapid.IntRange(1, 8).Draw(t, "steps") }

var errCrashed = errors.New("the process is dead")

// step counts a step of the engine, and says whether it is dead.
func (w *world) step() error {
	w.stepping.Lock()
	defer w.stepping.Unlock()
	if w.steps > 0 {
		w.steps--
	}
	if w.steps == 0 {
		w.dead = true
	}
	if w.dead {
		return errCrashed
	}
	return nil
}

// mortalWorldStorage writes nothing once the engine is dead.
type mortalWorldStorage struct {
	logical.Storage
	world *world
}

func (s *mortalWorldStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	return s.write(func() error { return s.Storage.Put(ctx, entry) })
}

func (s *mortalWorldStorage) Delete(ctx context.Context, key string) error {
	return s.write(func() error { return s.Storage.Delete(ctx, key) })
}

func (s *mortalWorldStorage) write(do func() error) error {
	if err := s.world.step(); err != nil {
		return err
	}
	fails := s.world.failing.Load() > 0 && s.world.failing.Add(-1) == 0
	if fails {
		s.world.failed.Store(true)
	}
	if !fails || s.world.failsAfter.Load() {
		if err := do(); err != nil {
			return err
		}
	}
	if fails {
		return errStorage
	}
	return s.world.step()
}

// request sends a request as Vault does. A crash loses its answer.
func (w *world) request(op logical.Operation, path string, data fields) (*logical.Response, error) {
	req := &logical.Request{Operation: op, Path: path, Data: data, Storage: w.storage}
	if op == logical.UpdateOperation {
		if checked, exists, err := w.engine.HandleExistenceCheck(context.Background(), req); err == nil && checked && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	return w.send(req)
}

func (w *world) send(req *logical.Request) (*logical.Response, error) {
	resp, err := w.engine.HandleRequest(context.Background(), req)
	w.trace = append(w.trace, fmt.Sprintf("%s %s %s %v: %v, %v", formatTime(w.engine.now()), req.Operation, req.Path, req.Data, resp.Error(), err))
	w.engine.background.Wait()
	if w.dead {
		w.restart()
		return nil, errCrashed
	}
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	return resp, err
}

func (w *world) mustWrite(path string, data fields) {
	if _, err := w.request(logical.UpdateOperation, path, data); err != nil {
		w.t.Fatalf("%s: %v", path, err)
	}
}

var (
	sharedNames     = rapid.SampledFrom([]string{"s0", "s1", "s2"})
	connectionNames = rapid.SampledFrom([]string{"c0", "c1"})
	projects        = rapid.SampledFrom([]string{"p", "q"})
)

func (w *world) writeSharedRole(t *rapid.T) {
	data := fields{"connection": connectionNames.Draw(t, "connection"), "project": projects.Draw(t, "project"), "rotation_period": "1h", "grace_period": "10m", "allowed_bundles": "*"}
	if rapid.Bool().Draw(t, "verified") {
		data["verify_repository"] = "p/app"
	}
	_, _ = w.request(logical.UpdateOperation, "roles/"+sharedNames.Draw(t, "role"), data)
}

func (w *world) writeLeasedRole(t *rapid.T) {
	data := fields{"connection": connectionNames.Draw(t, "connection"), "mode": "leased", "project": projects.Draw(t, "project"), "ttl": "10m", "max_ttl": "2h"}
	_, _ = w.request(logical.UpdateOperation, "roles/l0", data)
}

func (w *world) writeBundle(*rapid.T) {
	_, _ = w.request(logical.UpdateOperation, "roles/all", fields{"members": "s0,s1"})
}

func (w *world) deleteRole(t *rapid.T) {
	name := rapid.SampledFrom([]string{"s0", "s1", "s2", "l0", "all"}).Draw(t, "role")
	_, _ = w.request(logical.DeleteOperation, "roles/"+name, nil)
}

func (w *world) read(t *rapid.T)       { w.readCreds(sharedNames.Draw(t, "role"), false) }
func (w *world) readBundle(*rapid.T)   { w.readCreds("all", false) }
func (w *world) readLeased(t *rapid.T) { w.readCreds("l0", rapid.Bool().Draw(t, "the answer is lost")) }

// readCreds checks the answer of creds/.
func (w *world) readCreds(name string, lost bool) {
	resp, err := w.request(logical.ReadOperation, "creds/"+name, nil)
	if err != nil || resp == nil {
		return
	}
	if resp.Secret != nil && !lost {
		resp.Secret.IssueTime = w.engine.now()
		w.leases = append(w.leases, resp.Secret)
	}
	docker, _, err := dockerconfig.Parse(resp.Data[".dockerconfigjson"].(string))
	if err != nil {
		w.t.Fatalf("creds/%s is no pull secret: %v", name, err)
	}
	for _, c := range docker.Credentials() {
		if c.Username == "" || c.Password.Reveal() == "" {
			w.t.Fatalf("creds/%s has an empty credential", name)
		}
		minted := strings.TrimPrefix(c.Password.Reveal(), "password-of-")
		for _, r := range w.registries {
			r.mu.Lock()
			switch {
			case r.ours[minted] != "" && r.key != string(c.Registry):
				w.t.Fatalf("creds/%s has for %s a credential of %s", name, c.Registry, r.key)
			case r.ended[minted]:
				w.t.Fatalf("creds/%s has a credential that was revoked: %s", name, minted)
			case r.ours[minted] != "" && w.excused[minted]:
				w.t.Fatalf("creds/%s has a credential that was given up: %s", name, minted)
			}
			r.mu.Unlock()
		}
	}
}

func (w *world) rotate(t *rapid.T) {
	_, _ = w.request(logical.UpdateOperation, "rotate/"+sharedNames.Draw(t, "role"), nil)
}

func (w *world) verify(t *rapid.T) {
	name := rapid.SampledFrom([]string{"s0", "s1", "l0", "all"}).Draw(t, "role")
	_, _ = w.request(logical.UpdateOperation, "verify/"+name, nil)
}

func (w *world) renewLease(t *rapid.T)  { w.onLease(t, logical.RenewOperation) }
func (w *world) revokeLease(t *rapid.T) { w.onLease(t, logical.RevokeOperation) }

func (w *world) onLease(t *rapid.T, op logical.Operation) {
	if len(w.leases) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.leases)-1).Draw(t, "lease")
	resp, err := w.send(&logical.Request{Operation: op, Secret: w.leases[i], Storage: w.storage})
	switch {
	case err != nil:
	case op == logical.RevokeOperation:
		w.leases = slices.Delete(w.leases, i, i+1)
	case resp != nil && resp.Secret != nil:
		w.leases[i] = resp.Secret
	}
}

// moveConnection has a connection lead to a registry, the same or the other.
// The credentials that it minted elsewhere are given up.
func (w *world) moveConnection(t *rapid.T) {
	name := connectionNames.Draw(t, "connection")
	to := rapid.SampledFrom(w.registries).Draw(t, "registry")
	before := w.urlOf(name)
	_, _ = w.request(logical.UpdateOperation, "connections/"+name, with(w.connectionFields(name, to), fields{"verify_connection": false}))
	if after := w.urlOf(name); before != after {
		w.excuse(name, before)
	}
}

func (w *world) deleteConnection(t *rapid.T) {
	name := connectionNames.Draw(t, "connection")
	before := w.urlOf(name)
	_, _ = w.request(logical.DeleteOperation, "connections/"+name, fields{"force": rapid.Bool().Draw(t, "force")})
	if w.urlOf(name) != "" {
		return
	}
	w.excuse(name, before)
	to := rapid.SampledFrom(w.registries).Draw(t, "registry")
	_, _ = w.request(logical.UpdateOperation, "connections/"+name, with(w.connectionFields(name, to), fields{"verify_connection": false}))
}

func (w *world) restrictConnection(t *rapid.T) {
	allowed := rapid.SampledFrom([]string{"", "s*", "*"}).Draw(t, "allowed_roles")
	_, _ = w.request(logical.UpdateOperation, "connections/"+connectionNames.Draw(t, "connection"), fields{"allowed_roles": allowed, "verify_connection": false})
}

// replaceRoot replaces a root credential by hand, at the registry and in the
// connection.
func (w *world) replaceRoot(t *rapid.T) {
	name := connectionNames.Draw(t, "connection")
	for _, r := range w.registries {
		if r.url == w.urlOf(name) {
			r.mu.Lock()
			w.roots++ // no two connections have the same
			password := fmt.Sprint("root-", w.roots)
			r.admins[password] = true
			r.mu.Unlock()
			_, _ = w.request(logical.UpdateOperation, "connections/"+name, fields{"password": password, "verify_connection": false})
		}
	}
}

func (w *world) rotateRoot(t *rapid.T) {
	_, _ = w.request(logical.UpdateOperation, "connections/"+connectionNames.Draw(t, "connection")+"/rotate-root", nil)
}

// urlOf returns where a connection leads, as it is stored.
func (w *world) urlOf(name string) string {
	entry, err := w.storage.Get(context.Background(), connectionStoragePrefix+name)
	if err != nil || entry == nil {
		return ""
	}
	c, err := decodeConnection(entry, name)
	if err != nil {
		w.t.Fatal(err)
	}
	return c.URL
}

// excuse has the engine leave alive what a connection has minted at a registry.
func (w *world) excuse(connection, url string) {
	for _, r := range w.registries {
		r.mu.Lock()
		for _, name := range r.living {
			if r.url == url && r.ours[name] == connection {
				w.excused[name] = true
			}
		}
		r.mu.Unlock()
	}
}

var faults = []string{
	"down",     // no answer
	"lost",     // no answer, though the registry has acted
	"error",    // 500
	"refuses",  // 403
	"outage",   // 401 to everybody, as from Harbor without its database
	"too busy", // 429
}

func (w *world) setFault(t *rapid.T) {
	r := rapid.SampledFrom(w.registries).Draw(t, "registry")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = rapid.SampledFrom(faults).Draw(t, "fault")
}

func (w *world) mend() {
	for _, r := range w.registries {
		r.mu.Lock()
		r.fault = ""
		r.mu.Unlock()
	}
}

// restoreRegistry has a registry lose what the engine minted there, and count
// its IDs from one again for others.
func (w *world) restoreRegistry(t *rapid.T) {
	r := rapid.SampledFrom(w.registries).Draw(t, "registry")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.living, r.next = map[int]string{}, 1
	for range 3 {
		for _, name := range foreignNames {
			r.living[r.next] = name
			r.next++
		}
	}
}

func (w *world) timePasses(t *rapid.T) {
	w.now = w.now.Add(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 12 * time.Minute, 3 * time.Hour, 26 * time.Hour}).Draw(t, "time"))
}

func (w *world) clockJumps(t *rapid.T) {
	w.skew = rapid.SampledFrom([]time.Duration{0, 0, -3 * time.Minute, 3 * time.Minute, -time.Hour, 365 * 24 * time.Hour}).Draw(t, "skew")
}

// periodic is what Vault does each minute.
func (w *world) periodic() {
	_, _ = w.send(&logical.Request{Operation: logical.RollbackOperation, Storage: w.storage, Data: fields{"immediate": true}})
}

// check looks at what nobody but the registries can say.
func (w *world) check() {
	for _, r := range w.registries {
		r.mu.Lock()
		count := map[string]int{}
		for _, name := range r.living {
			count[name]++
		}
		for _, name := range foreignNames {
			if count[name] == 0 || count[name] != count[foreignNames[0]] {
				w.t.Fatalf("%s: a credential of somebody else was ended: %v", r.key, r.living)
			}
		}
		r.mu.Unlock()
	}
	w.checkIndex()
}

// checkIndex looks for a role without a key in the index of what is due, or with
// one that is late.
func (w *world) checkIndex() {
	problems, err := dueProblems(context.Background(), w.engine, w.storage)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, problem := range problems {
		w.t.Errorf("at %s: %s", formatTime(w.engine.now()), problem)
	}
	if problems != nil {
		w.t.Fatal(strings.Join(w.trace, "\n"))
	}
}

// finish mends everything, deletes all roles, and lets time pass: nothing of
// ours is alive then, except what was given up.
func (w *world) finish() {
	w.mend()
	w.skew, w.steps = 0, -1
	w.restart()
	for _, r := range w.registries {
		r.mu.Lock()
		r.admins[rootOf("c0")], r.admins[rootOf("c1")] = true, true
		r.mu.Unlock()
	}
	for _, name := range []string{"all", "s0", "s1", "s2", "l0"} {
		if _, err := w.request(logical.DeleteOperation, "roles/"+name, nil); err != nil {
			w.t.Fatalf("deleting role %s: %v", name, err)
		}
	}
	for _, secret := range w.leases {
		if _, err := w.send(&logical.Request{Operation: logical.RevokeOperation, Secret: secret, Storage: w.storage}); err != nil {
			w.t.Fatalf("revoking a lease: %v", err)
		}
	}
	for range 6 {
		w.now = w.now.Add(2 * 24 * time.Hour)
		w.periodic()
	}
	w.check()
	for _, r := range w.registries {
		r.mu.Lock()
		for id, name := range r.living {
			if r.ours[name] != "" && !w.excused[name] {
				w.t.Errorf("%s: credential %d, %s, is alive and nobody knows it", r.key, id, name)
				w.t.Log(strings.Join(w.trace, "\n"))
			}
		}
		r.mu.Unlock()
	}
	for _, name := range []string{"c0", "c1"} {
		if _, err := w.request(logical.DeleteOperation, "connections/"+name, nil); err != nil {
			w.t.Errorf("deleting connection %s without force: %v", name, err)
		}
	}
}

// modelVerifier accepts the credentials that are alive.
type modelVerifier struct{ world *world }

func (v modelVerifier) Verify(_ context.Context, c dockerconfig.Credential, _ string) registry.Result {
	for _, r := range v.world.registries {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, name := range r.living {
			if r.key == string(c.Registry) && c.Password.Reveal() == modelPassword(name) {
				return registry.Result{Verdict: registry.OK, Accepted: true}
			}
		}
	}
	return registry.Result{Verdict: registry.Denied, Message: "unknown password"}
}

func modelPassword(name string) string { return "password-of-" + name }

// modelType is the type of a registry that counts its IDs.
func modelType() issuer.Type {
	return issuer.Type{
		Name:        "model",
		Description: "Mints in a model.",
		ConnectionFields: map[string]*framework.FieldSchema{
			"label":    {Type: framework.TypeString, Description: "Name of the connection."},
			"password": {Type: framework.TypeString, Description: "Password.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
		},
		RoleFields: map[string]*framework.FieldSchema{"project": {Type: framework.TypeString, Description: "Project."}},
		Target: func(_ issuer.Connection, f issuer.Settings) (issuer.Target, error) {
			return issuer.Target{Settings: f, Names: []string{f["project"]}}, nil
		},
		New: func(c issuer.Connection) (issuer.Issuer, error) {
			r, found := modelRegistries.Load(c.URL)
			if !found {
				return nil, errors.New("url: no such registry")
			}
			return modelIssuer{r.(*modelRegistry), c.Settings["label"], c.Secrets["password"].Reveal()}, nil
		},
	}
}

// modelIssuer is a connection to a registry.
type modelIssuer struct {
	registry        *modelRegistry
	label, password string
}

// call does what act says, as the fault and the root credential let it. The
// engine may die before and after.
func (i modelIssuer) call(act func()) error {
	r := i.registry
	if err := r.world.step(); err != nil {
		return issuer.Failed(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.fault == "down":
		return issuer.Failed(errors.New("down"))
	case r.fault == "error":
		return issuer.StatusError(http.StatusInternalServerError, nil, "error")
	case r.fault == "refuses":
		return issuer.StatusError(http.StatusForbidden, nil, "refused")
	case r.fault == "too busy":
		return issuer.StatusError(http.StatusTooManyRequests, http.Header{"Retry-After": {"30"}}, "busy")
	case r.fault == "outage":
		return issuer.StatusError(http.StatusUnauthorized, nil, "unknown password")
	case !r.admins[i.password]:
		return issuer.Proving(issuer.ProvesRefused, issuer.StatusError(http.StatusUnauthorized, nil, "unknown password"))
	}
	act()
	if r.fault == "lost" {
		return issuer.Failed(errors.New("lost"))
	}
	if err := r.world.step(); err != nil {
		return issuer.Failed(err)
	}
	return nil
}

func (i modelIssuer) Check(context.Context) (issuer.Status, error) {
	return issuer.Status{Identity: "root"}, i.call(func() {})
}

func (i modelIssuer) Mint(_ context.Context, q issuer.Request) (issuer.Credential, error) {
	var c issuer.Credential
	err := i.call(func() {
		r := i.registry
		c = issuer.Credential{ID: strconv.Itoa(r.next), Username: "robot", Password: dockerconfig.NewSecret(modelPassword(q.Name)), ExpiresAt: q.ExpiresAt}
		r.living[r.next], r.ours[q.Name] = q.Name, i.label
		r.next++
	})
	return c, err
}

// checkOurs fails the test if the engine asks for what another registry minted.
func (i modelIssuer) checkOurs(name string) {
	for _, other := range i.registry.world.registries {
		if other != i.registry && other.ours[name] != "" {
			i.registry.world.t.Errorf("%s was asked for %s, which %s minted", i.registry.key, name, other.key)
		}
	}
}

func (i modelIssuer) Find(_ context.Context, _ issuer.Settings, name string) (ids []string, err error) {
	err = i.call(func() {
		i.checkOurs(name)
		for id, living := range i.registry.living {
			if living == name {
				ids = append(ids, strconv.Itoa(id))
			}
		}
	})
	return ids, err
}

func (i modelIssuer) Revoke(_ context.Context, _ issuer.Settings, name, id string) error {
	return i.call(func() {
		i.checkOurs(name)
		n, _ := strconv.Atoi(id)
		if i.registry.living[n] == name {
			delete(i.registry.living, n)
			i.registry.ended[name] = true
		}
	})
}

func (i modelIssuer) PrepareRoot(_ context.Context, name string) (root issuer.Root, err error) {
	err = i.call(func() {
		i.registry.admins[name] = true
		root = issuer.Root{Secrets: issuer.Secrets{"password": dockerconfig.NewSecret(name)}}
	})
	return root, err
}

func (i modelIssuer) ActivateRoot(context.Context, issuer.Root) error { return i.call(func() {}) }

func (i modelIssuer) DiscardRoot(_ context.Context, name string) error {
	return i.call(func() { delete(i.registry.admins, name) })
}

func (i modelIssuer) RetireRoot(_ context.Context, old issuer.Root) error {
	return i.call(func() { delete(i.registry.admins, old.Secrets["password"].Reveal()) })
}

var (
	_ issuer.RootRotator = testIssuer{}
	_ issuer.RootRotator = modelIssuer{}
)
