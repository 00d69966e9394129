// SPDX-License-Identifier: MPL-2.0

package soak

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	// roughPart is the share of the load's time, at its beginning and again at
	// its end, in which Vault is sealed and the engine reloaded again and
	// again. Both replace the plugin's process. In between the process stays,
	// so that its growth can be measured.
	roughPart = 0.2

	samples = 12

	// surround is the time for what is before and after the load. After the load,
	// a credential whose answer was lost ends soon after its lease would have.
	surround = 20 * time.Minute

	pathRollback = "killpoints/rollback" // of a plugin that was built with the tag killpoints
	second       = "regcred-second"      // a mount that is enabled and disabled
)

// model is what the test knows of the stored data.
type model struct {
	statics []*static
	owned   [][]*static // one list for each of two workers
	bundles []*bundle
	varied  *bundle
	shareds []*sharedRole
	leasing []string // leased roles
	lasting []string // roles that are never deleted

	config  *history[settings]
	open    *history[bool] // whether the role locked may use the connection
	pulling *history[bool] // whether the role verified has the right password

	spareToken string
	profiles   string // directory
}

// TestSoak makes workers use everything at once, for as long as -soaktime says,
// while the registry's API fails in every way, the engine is reloaded and Vault
// is sealed and unsealed. All of this must hold:
//
//   - No request fails, except because of what the test itself does at that
//     moment.
//   - A read of a static role returns the bytes of its last acknowledged write,
//     or of one in progress. A read of a bundle returns those of its members,
//     and is refused if one is missing or does not allow it. A shared role
//     never returns a credential that was replaced before the read was sent.
//   - The registry accepts every minted credential that was read, as long as
//     its lease or its grace period lasts. It accepts none whose lease was
//     revoked or whose role was deleted.
//   - The plugin's process has as many goroutines and open files at the end as
//     it had early on, and as much memory.
//   - When all roles are deleted, nothing is left at the registry or in
//     storage.
func TestSoak(t *testing.T) {
	watchdog := time.AfterFunc(*soakTime+surround, func() { panic("the soak does not end") })
	defer watchdog.Stop()
	w := newWorld(t)
	ending, end := context.WithCancel(t.Context())
	w.ending = ending
	w.began = time.Now()
	rough := time.Duration(roughPart * float64(*soakTime))

	var workers sync.WaitGroup
	w.startWorkers(&workers)
	w.disturb(time.Now().Add(rough), 1)
	measured := w.measure(time.Now().Add(*soakTime - 2*rough))
	w.disturb(time.Now().Add(rough), 2)
	end()
	workers.Wait()

	w.report(measured)
	w.checkFlat(measured)
	w.checkRotations()
	w.checkPatience()
	w.settle()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to repeat the choices: make soak SOAKTIME=%s SOAKSEED=%d", *soakTime, seed)
	g := gitlabtest.New(t)
	// The clock stands, so that no forgotten credential expires.
	start := time.Now()
	g.SetNow(func() time.Time { return start })
	w := &world{
		T: t, gitlab: g, seed: seed, faults: newFaults(t, g.Server),
		pulls:  servers.StartRegistry(t, pullUser, pullPass),
		counts: map[string]map[string]int{}, shown: map[string]int{},
		deadline: time.Now().Add(*soakTime + surround),
	}
	w.profiles = t.TempDir()
	w.vault = servers.StartRaftVaultWith(t, servers.RaftOptions{
		Plugin: servers.Bin(t, "regcred-soak"), LogLevel: "warn", Settings: []string{"raw_storage_endpoint = true"},
		Env: []string{"REGCRED_PROFILE=" + w.profiles},
	})
	config := w.vault.Client.CloneConfig()
	config.Timeout = time.Until(servers.Limit(w))
	config.MaxRetries = 0
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(w.vault.Token)
	w.client = client
	w.prepare()
	return w
}

// prepare writes what the workers begin with.
func (w *world) prepare() {
	w.config, w.open, w.pulling = newHistory(settings{warns: true}), newHistory(true), newHistory(true)
	w.spareToken = w.gitlab.AddToken(w.gitlab.AddUser("spare", false), "spare", []string{"api"}, 90)
	w.must("connections/gitlab", map[string]any{
		"type": "gitlab", "url": w.faults.url(), "registry": w.gitlab.Host(), "token": w.gitlab.Connection().Secrets["token"].Reveal(),
		"service_account_group": gitlabtest.Group, "allowed_roles": w.allowedRoles(true),
	})
	for i := range 6 {
		registry := fmt.Sprintf("app%d.example.com", i)
		w.statics = append(w.statics, newStatic(fmt.Sprintf("app%d", i), registry, registry))
	}
	w.statics[5].registry, w.statics[5].key = "docker.io", "https://index.docker.io/v1/"
	w.owned = [][]*static{w.statics[:3], w.statics[3:]}
	for _, s := range w.statics {
		first := staticState{true, login{"robot", "first", ""}, true}
		s.write(first, func() outcome {
			w.must("roles/"+s.name, map[string]any{"registry": s.registry, "username": first.username, "password": first.password, "allowed_bundles": allBundles})
			return acknowledged
		})
	}
	w.must("roles/"+verified, map[string]any{"registry": w.pulls.Addr, "username": pullUser, "password": pullPass})
	w.must("roles/"+fenced, map[string]any{"registry": fencedAt, "username": fencedLogin.username, "password": fencedLogin.password})
	w.must("roles/"+expiring, map[string]any{
		"registry": "expiring.example.com", "username": fencedLogin.username, "password": fencedLogin.password,
		"expires_at": time.Now().Add(expiresIn).UTC().Format(time.RFC3339),
	})
	// The first one is rotated only when it is due.
	for i, period := range []time.Duration{10 * time.Second, 20 * time.Second, time.Hour, time.Hour} {
		s := &sharedRole{name: fmt.Sprintf("shared-%d", i), period: period, logins: map[int64]string{}}
		w.shareds = append(w.shareds, s)
		w.must("roles/"+s.name, w.shared(period))
	}
	w.leasing = []string{"leased", "robot", locked}
	w.must("roles/leased", w.leased("deploy_token"))
	w.must("roles/robot", w.leased("access_token"))
	w.must("roles/"+locked, w.leased("deploy_token"))
	w.prepareBundles()
	w.lasting = []string{"leased", "robot", locked, verified, fenced, expiring, "pair", "trio", "varied"}
	for _, s := range w.shareds {
		w.lasting = append(w.lasting, s.name)
	}
}

func (w *world) prepareBundles() {
	add := func(name string, shared *sharedRole, statics ...*static) *bundle {
		b := &bundle{name: name, statics: map[string]*static{}, shared: shared}
		for _, s := range statics {
			b.statics[s.name] = s
		}
		members := slices.Sorted(maps.Keys(b.statics))
		b.history = newHistory(members)
		if shared != nil {
			members = append(members, shared.name)
		}
		w.must("roles/"+name, map[string]any{"members": members})
		w.bundles = append(w.bundles, b)
		return b
	}
	add("pair", nil, w.statics[0], w.statics[3])
	add("trio", w.shareds[1], w.statics[1], w.statics[4])
	w.varied = add("varied", nil, w.owned[1]...)
}

func (w *world) must(path string, fields map[string]any) {
	w.Helper()
	if _, err := w.client.Logical().Write(at(path), fields); err != nil {
		w.Fatalf("writing %s: %v", path, err)
	}
}

const (
	busy = 20 * time.Millisecond
	slow = 150 * time.Millisecond
)

// startWorkers starts the workers, each with its task.
func (w *world) startWorkers(workers *sync.WaitGroup) {
	number := 0
	add := func(pause time.Duration, step func(*worker)) {
		number++
		w.work(workers, number, pause, step)
	}
	for i, owned := range w.owned {
		add(slow/2, func(me *worker) {
			me.change(pick(me, owned))
			if i == 1 && me.oneIn(5) {
				me.rewrite(w.varied)
			}
		})
	}
	add(3*slow, (*worker).configure)
	add(3*slow, (*worker).administer)
	add(2*slow, func(me *worker) { me.rotate(pick(me, w.shareds[1:])) })
	add(3*slow, (*worker).beginAndEnd)
	add(3*slow, (*worker).beginAndEndLeased)
	add(2*slow, (*worker).verify)
	for range 2 {
		add(slow, func(me *worker) {
			if len(me.leases) < mostHeld && me.oneIn(3) {
				me.readLeased(pick(me, w.leasing))
			} else {
				me.useLease()
			}
		})
	}
	for range 4 {
		add(busy, (*worker).lookAround)
	}
	add(4*time.Second, (*worker).happen)
}

// lookAround makes a random read.
func (w *worker) lookAround() {
	switch n := w.IntN(20); {
	case n < 8:
		w.readStatic(pick(w, w.statics))
	case n < 12:
		w.readShared(pick(w, w.shareds))
	case n < 15:
		w.readBundle(pick(w, w.bundles))
	case n < 17:
		w.readByConfig()
	case n == 17:
		w.listRoles()
	case n == 18:
		w.readBackShared(pick(w, w.shareds))
	case n == 19:
		w.readSeldom()
	}
}

// readSeldom makes a read that is rare.
func (w *worker) readSeldom() {
	if w.oneIn(2) {
		if a := w.read("read of no role", "creds/none"); a.outcome == acknowledged && a.Secret != nil {
			w.wrong("creds/none: %v", a)
		}
		return
	}
	a := w.ask("read of expiring", func(ctx context.Context) (*api.Secret, error) {
		return w.client.Logical().ReadWithDataWithContext(ctx, at("expiring"), map[string][]string{"within": {longWarning.String()}})
	})
	if a.outcome == acknowledged && fmt.Sprint(a.data()["roles"]) != "["+expiring+"]" {
		w.wrong("expiring: %v", a)
	}
}

// disturb seals Vault and replaces the plugin's process, until a time.
func (w *world) disturb(until time.Time, part uint64) {
	me := &worker{world: w, Rand: rand.New(rand.NewPCG(w.seed, part<<32))}
	for next := 0; time.Now().Before(until); next++ {
		time.Sleep(time.Duration(2000+me.IntN(6000)) * time.Millisecond)
		w.faults.mended() // a reload waits for calls that hang, and all requests wait for the reload
		switch next % 3 {
		case 0:
			me.seal()
		case 1:
			me.reload("reload of the plugin", &api.ReloadPluginInput{Plugin: servers.PluginName})
		case 2:
			me.reloadMount()
		}
	}
}

// seal seals and unseals Vault.
func (w *worker) seal() {
	w.mu.Lock()
	w.sealed = append(w.sealed, window{from: time.Now()})
	n := len(w.sealed) - 1
	w.mu.Unlock()
	if err := w.client.Sys().Seal(); err != nil {
		w.Fatalf("sealing: %v", err)
	}
	time.Sleep(time.Duration(w.IntN(2000)) * time.Millisecond)
	w.vault.Unseal(w)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sealed[n].to = time.Now()
	w.countLocked("seal and unseal", "as it should be")
}

// reload makes Vault create the engine again. It waits for the requests in
// progress, and all others wait for it.
func (w *worker) reload(operation string, input *api.ReloadPluginInput) {
	if _, err := w.client.Sys().ReloadPlugin(input); err != nil {
		w.wrong("%s: %v", operation, err)
	}
	w.count(operation, "as it should be")
}

func (w *worker) reloadMount() {
	w.reload("reload of the mount", &api.ReloadPluginInput{Mounts: []string{servers.Mount + "/"}})
}

// mountAnother enables a second mount of the engine, uses it, and disables it.
func (w *worker) mountAnother() {
	w.vault.Enable(w, second)
	fields := map[string]any{"registry": "registry.example.com", "username": "robot", "password": "another"}
	if _, err := w.client.Logical().Write(second+"/roles/app", fields); err != nil {
		w.wrong("writing a role of another mount: %v", err)
	}
	read, err := w.client.Logical().Read(second + "/creds/app")
	if err != nil || read == nil || read.Data["password"] != "another" {
		w.wrong("reading a role of another mount: %v, %v", read, err)
	}
	if err := w.client.Sys().Unmount(second); err != nil {
		w.wrong("disabling another mount: %v", err)
	}
	w.count("mount and unmount of another", "as it should be")
}

// measure takes samples of one process until a time.
func (w *world) measure(until time.Time) []sample {
	me := &worker{world: w, Rand: rand.New(rand.NewPCG(w.seed, 3<<32))}
	pause := time.Until(until) / samples
	resting := min(restTime, pause/4)
	var taken []sample
	for len(taken) < samples {
		next := time.Now().Add(pause - resting)
		for time.Until(next) > 0 {
			time.Sleep(min(time.Until(next), time.Second+time.Duration(me.Int64N(int64(pause/4)))))
			if time.Until(next) > 0 {
				me.mountAnother()
			}
		}
		taken = append(taken, w.rest(resting))
	}
	return taken
}

// report prints what was done.
func (w *world) report(taken []sample) {
	var text strings.Builder
	fmt.Fprintf(&text, "seed %d, %d requests in %s\n\n", w.seed, w.done.Load(), time.Since(w.began).Round(time.Second))
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintf(table, "after\tprocess\trequests\tgoroutines\tfiles\theap KiB\tresident KiB\tat the registry\t\n")
	for _, s := range taken {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", s.after.Round(time.Second), s.pid, s.done, s.goroutines, s.files, s.heap>>10, s.resident>>10, s.living)
	}
	_ = table.Flush()
	table = tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "\noperation\tcame out\ttimes\n")
	for _, operation := range slices.Sorted(maps.Keys(w.counts)) {
		for _, result := range slices.Sorted(maps.Keys(w.counts[operation])) {
			fmt.Fprintf(table, "%s\t%s\t%d\n", operation, result, w.counts[operation][result])
		}
	}
	fmt.Fprintf(table, "\nfault\t\trequests that met it\n")
	for _, kind := range faultKinds {
		fmt.Fprintf(table, "%s\t\t%d\n", kind.name, w.faults.counts[kind.name])
	}
	_ = table.Flush()
	fmt.Fprintf(&text, "\nerrors that were caused, by what they say:\n")
	for _, says := range slices.Sorted(maps.Keys(w.shown)) {
		fmt.Fprintf(&text, "%6d  %s\n", w.shown[says], says)
	}
	w.Log("\n" + text.String())
}

// checkRotations checks that the engine has rotated by itself.
func (w *world) checkRotations() {
	s := w.shareds[0]
	periods := int(*soakTime / s.period)
	if served, want := s.served(), 1+periods/4; served < want {
		w.Errorf("%s: want at least %d credentials served in %d periods, got %d", s.name, want, periods, served)
	}
	w.Logf("%s: %d credentials served in %d periods of %s", s.name, s.served(), periods, s.period)
}

// settle reads everything once more, deletes it, and waits until nothing is
// left at the registry and in storage.
func (w *world) settle() {
	w.ending = context.Background()
	w.faults.mended()
	me := &worker{world: w, Rand: rand.New(rand.NewPCG(w.seed, 4<<32))}
	me.seal()
	me.reload("reload of the plugin", &api.ReloadPluginInput{Plugin: servers.PluginName})
	for _, s := range w.statics {
		for range 5 {
			me.readStatic(s)
		}
	}
	for _, s := range w.shareds {
		w.eventually("a shared role is read", func() error {
			_, err := w.client.Logical().Read(at("creds/" + s.name))
			return err
		})
	}
	listed := w.list("list of the roles", "roles")
	for _, name := range listed.data()["keys"].([]any) {
		if a := w.remove("delete of a role", "roles/"+name.(string)); a.outcome != acknowledged {
			w.Errorf("roles/%s cannot be deleted: %v", name, a)
		}
	}
	w.eventually("all leases are revoked", func() error {
		return w.client.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: at("creds"), Prefix: true, Sync: true})
	})
	w.eventually("nothing is left at the registry", func() error {
		if _, err := w.client.Logical().Write(at(pathRollback), nil); err != nil {
			return err
		}
		if living := w.gitlab.Living(); len(living) > 0 {
			return fmt.Errorf("%d credentials are: %q", len(living), living[:min(len(living), 10)])
		}
		return nil
	})
	if admins := w.gitlab.Admins(); len(admins) != 2 {
		w.Errorf("want one root credential of each connection, got %q", admins)
	}
	for _, path := range []string{"connections/gitlab", "connections/spare", "config"} {
		// A fault at the end may have left what waits until the registry is asked again.
		w.eventually(path+" is deleted", func() error {
			if _, err := w.client.Logical().Write(at(pathRollback), nil); err != nil {
				return err
			}
			_, err := w.client.Logical().Delete(at(path))
			return err
		})
	}
	w.checkStorage()
	if log := w.vault.Log(); strings.Contains(log, "panic") {
		w.Errorf("the log of Vault speaks of a panic")
	}
}

// checkStorage checks that the storage of the engine is empty.
func (w *world) checkStorage() {
	mounts, err := w.client.Sys().ListMounts()
	if err != nil {
		w.Fatal(err)
	}
	var left []string
	var look func(path string)
	look = func(path string) {
		secret, err := w.client.Logical().List("sys/raw/" + path)
		if err != nil {
			w.Fatalf("listing storage: %v", err)
		}
		if secret == nil {
			return
		}
		for _, key := range secret.Data["keys"].([]any) {
			if name := path + key.(string); strings.HasSuffix(name, "/") {
				look(name)
			} else {
				left = append(left, strings.TrimPrefix(name, "logical/"))
			}
		}
	}
	mount := mounts[servers.Mount+"/"].UUID + "/"
	look("logical/" + mount)
	isForEver := func(key string) bool {
		return slices.Contains(servers.KeysForEver, strings.TrimPrefix(key, mount))
	}
	if left = slices.DeleteFunc(left, isForEver); len(left) > 0 {
		w.Errorf("want nothing in storage, got %q", left)
	}
}

// eventually tries until there is no error, and logs how long that took.
func (w *world) eventually(what string, try func() error) {
	w.Helper()
	began := time.Now()
	if err := servers.TryUntil(servers.Limit(w), try); err != nil {
		w.Errorf("at the test's time limit, not yet: %s: %v", what, err)
		return
	}
	w.Logf("%s after %s", what, time.Since(began).Round(time.Millisecond))
}
