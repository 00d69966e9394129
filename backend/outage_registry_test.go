// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// soon is the time in which something must happen that does not depend on a
// registry that hangs. A call to a registry may take twice as long, so a test that
// finds it over has found a wait for a registry.
const soon = issuer.CallTimeout / 2

// A fault answers a call in place of the registry: with an error, or with nil to
// let the registry act.
type fault func(ctx context.Context, call string) error

// unreliableRegistry is a registry of type "unreliable": a mintingRegistry that
// records its calls, and has a fault while a test says so.
type unreliableRegistry struct {
	*mintingRegistry
	load *load

	mu     sync.Mutex
	fault  fault
	mended chan struct{} // closed when the fault ends
	calls  []string
}

// load counts how many calls are in progress at a time, at one registry or at
// several.
type load struct {
	mu        sync.Mutex
	now, most int
}

func (l *load) begin() (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now++
	l.most = max(l.most, l.now)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.now--
	}
}

// unreliableRegistries holds all of them by their mintingRegistry.
var unreliableRegistries sync.Map

func newUnreliableRegistry(t testing.TB) *unreliableRegistry {
	t.Helper()
	r := &unreliableRegistry{mintingRegistry: newMintingRegistry(t), load: &load{}, mended: make(chan struct{})}
	unreliableRegistries.Store(r.mintingRegistry, r)
	t.Cleanup(func() {
		r.mend()
		unreliableRegistries.Delete(r.mintingRegistry)
	})
	return r
}

// during gives the registry a fault until mend is called.
func (r *unreliableRegistry) during(f fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

// mend ends the fault. Calls that hang are answered then.
func (r *unreliableRegistry) mend() {
	r.mintingRegistry.mend()
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.mended)
	r.fault, r.mended = nil, make(chan struct{})
}

// hangs is a fault: no answer until the caller gives up.
func (r *unreliableRegistry) hangs(ctx context.Context, _ string) error {
	r.mu.Lock()
	mended := r.mended
	r.mu.Unlock()
	select {
	case <-mended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fails is a fault: an answer with status 500.
func (r *unreliableRegistry) fails(context.Context, string) error { return errAmbiguous }

// answersIn returns a fault: the registry is slow.
func (r *unreliableRegistry) answersIn(d time.Duration) fault {
	return func(ctx context.Context, _ string) error {
		sleep(ctx, d)
		return ctx.Err()
	}
}

// only returns a fault that other calls do not meet.
func only(failing string, f fault) fault {
	return func(ctx context.Context, call string) error {
		if call != failing {
			return nil
		}
		return f(ctx, call)
	}
}

// called returns how many calls there were.
func (r *unreliableRegistry) called() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.calls)
}

// calledSince returns the calls after the first n ones.
func (r *unreliableRegistry) calledSince(n int) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string{}, r.calls[n:]...)
}

func (r *unreliableRegistry) meet(ctx context.Context, call string) error {
	r.mu.Lock()
	r.calls = append(r.calls, call)
	f := r.fault
	r.mu.Unlock()
	defer r.load.begin()()
	if f == nil {
		return nil
	}
	return f(ctx, call)
}

func init() { issuerTypes = append(issuerTypes, unreliableType()) }

func unreliableType() issuer.Type {
	t := testType()
	t.Name = "unreliable"
	open := t.New
	t.New = func(c issuer.Connection) (issuer.Issuer, error) {
		opened, err := open(c)
		if err != nil {
			return nil, err
		}
		client := opened.(testIssuer)
		r, _ := unreliableRegistries.Load(client.registry)
		return unreliableIssuer{r.(*unreliableRegistry), client}, nil
	}
	return t
}

// unreliableIssuer is a client of an unreliableRegistry.
type unreliableIssuer struct {
	registry *unreliableRegistry
	client   testIssuer
}

func (i unreliableIssuer) Check(ctx context.Context) (issuer.Status, error) {
	if err := i.registry.meet(ctx, "check"); err != nil {
		return issuer.Status{}, err
	}
	return i.client.Check(ctx)
}

func (i unreliableIssuer) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	if err := i.registry.meet(ctx, "mint"); err != nil {
		return issuer.Credential{}, err
	}
	return i.client.Mint(ctx, r)
}

func (i unreliableIssuer) Find(ctx context.Context, target issuer.Settings, name string) ([]string, error) {
	if err := i.registry.meet(ctx, "find"); err != nil {
		return nil, err
	}
	return i.client.Find(ctx, target, name)
}

func (i unreliableIssuer) Revoke(ctx context.Context, target issuer.Settings, name, id string) error {
	if err := i.registry.meet(ctx, "revoke"); err != nil {
		return err
	}
	return i.client.Revoke(ctx, target, name, id)
}

func (i unreliableIssuer) PrepareRoot(ctx context.Context, name string) (issuer.Root, error) {
	if err := i.registry.meet(ctx, "prepare"); err != nil {
		return issuer.Root{}, err
	}
	return i.client.PrepareRoot(ctx, name)
}

func (i unreliableIssuer) ActivateRoot(ctx context.Context, root issuer.Root) error {
	if err := i.registry.meet(ctx, "activate"); err != nil {
		return err
	}
	return i.client.ActivateRoot(ctx, root)
}

func (i unreliableIssuer) DiscardRoot(ctx context.Context, name string) error {
	if err := i.registry.meet(ctx, "discard"); err != nil {
		return err
	}
	return i.client.DiscardRoot(ctx, name)
}

func (i unreliableIssuer) RetireRoot(ctx context.Context, old issuer.Root) error {
	if err := i.registry.meet(ctx, "retire"); err != nil {
		return err
	}
	return i.client.RetireRoot(ctx, old)
}

// outage is a mount whose connections each lead to an unreliable registry of their
// own, by the name of the connection. A shared role and a leased role of each
// connection are named after it.
type outage struct {
	*engine
	at    map[string]*unreliableRegistry
	going sync.WaitGroup // requests that nobody waits for
}

func newOutage(t *testing.T, connections ...string) *outage {
	t.Helper()
	o := &outage{engine: newEngine(t), at: map[string]*unreliableRegistry{}}
	t.Cleanup(o.going.Wait) // before the engine's own
	o.calls.pause, o.calls.patience = firstPause, firstPatience
	o.setMount(time.Hour, 24*time.Hour)
	for _, name := range connections {
		o.at[name] = newUnreliableRegistry(t)
		o.write("connections/"+name, o.connection(name))
		o.write("roles/shared-"+name, fields{"connection": name, "project": "group/app"})
		o.write("roles/leased-"+name, fields{"connection": name, "project": "group/app", "mode": "leased", "ttl": "15m"})
	}
	return o
}

func (o *outage) connection(name string) fields {
	return with(o.connectionSample(), fields{"type": "unreliable", "url": o.at[name].url})
}

// leaveRootUnfinished begins a rotate-root that the registry fails to finish.
func (o *outage) leaveRootUnfinished(connection string) {
	o.t.Helper()
	o.at[connection].during(only("activate", o.at[connection].fails))
	_, _ = o.send(o.t.Context(), logical.UpdateOperation, "connections/"+connection+"/rotate-root")
	o.at[connection].mend()
	if pending := o.read("connections/" + connection)["pending_root"]; pending == nil {
		o.t.Fatalf("want an unfinished rotate-root of %s", connection)
	}
}

// send sends a request with a context of its own. Unlike the helpers of engine, it
// may be called from any goroutine, also while the test ends.
func (o *outage) send(ctx context.Context, op logical.Operation, path string) (*logical.Response, error) {
	return o.sendData(ctx, op, path, nil)
}

func (o *outage) sendData(ctx context.Context, op logical.Operation, path string, data fields) (*logical.Response, error) {
	return o.sendWith(ctx, op, path, data, nil)
}

// sendWith sends a lease with a request that is about one.
func (o *outage) sendWith(ctx context.Context, op logical.Operation, path string, data fields, lease *logical.Secret) (*logical.Response, error) {
	req := &logical.Request{Operation: op, Path: path, Data: data, Storage: o.storage}
	if op == logical.RevokeOperation {
		kept := *lease
		req.Secret = &kept
	}
	resp, err := o.HandleRequest(ctx, req)
	if err == nil && resp != nil && resp.IsError() {
		err = resp.Error()
	}
	return resp, err
}

// tick advances the clock by a minute, and has the engine do what Vault asks for
// each minute. It waits for the work that this begins, so no registry may hang.
func (o *outage) tick() {
	o.t.Helper()
	o.clock.advance(time.Minute)
	_, _ = o.send(o.t.Context(), logical.RollbackOperation, "") // what fails is tried again at the next tick
	o.settle()
}

// settle waits for what goes on in the background.
func (o *outage) settle() { o.background.Wait() }

// waitForCalls waits until each of the registries has a call in progress.
func (o *outage) waitForCalls(connections ...string) {
	o.t.Helper()
	for _, name := range connections {
		o.eventually("a call to the registry of "+name, func() string {
			load := o.at[name].load
			load.mu.Lock()
			defer load.mu.Unlock()
			if load.now == 0 {
				return "none is in progress"
			}
			return ""
		})
	}
}

// tickInBackground has the engine do what Vault asks for each minute, and expects
// that this call returns soon: Vault has one of them in progress at a time.
func (o *outage) tickInBackground() (wait func()) {
	o.t.Helper()
	return o.inBackground("the work of a minute", func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(o.t.Context()), 90*time.Second) // as Vault gives it
		defer cancel()
		_, _ = o.send(ctx, logical.RollbackOperation, "")
	})
}

// inBackground does something in a goroutine. wait fails the test if that is not
// done soon.
func (o *outage) inBackground(what string, do func()) (wait func()) {
	o.t.Helper()
	done, limit := make(chan struct{}), time.After(soon)
	go func() {
		defer close(done)
		do()
	}()
	return func() {
		o.t.Helper()
		select {
		case <-done:
		case <-limit:
			o.t.Errorf("%s: not done after %s, because a registry hangs", what, soon)
			o.mendAll()
			<-done
		}
	}
}

func (o *outage) mendAll() {
	for _, r := range o.at {
		r.mend()
	}
}

// eventually waits until there is no problem, and fails the test if there still is
// one after a while.
func (o *outage) eventually(what string, problem func() string) {
	o.t.Helper()
	for limit := time.Now().Add(soon); ; time.Sleep(5 * time.Millisecond) {
		found := problem()
		if found == "" {
			return
		}
		if time.Now().After(limit) {
			o.t.Errorf("%s: not after %s: %s", what, soon, found)
			o.mendAll()
			return
		}
	}
}

// writeAheadEntries returns how many there are.
func (o *outage) writeAheadEntries() int {
	o.t.Helper()
	return len(keysBelow(o.t, o.engine, "wal/"))
}
