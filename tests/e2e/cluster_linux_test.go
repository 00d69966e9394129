// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	leadersKilled = 20

	// The shortest period that is allowed, so that a rotation is due after each
	// failover.
	clusterPeriod = 5 * time.Second
	clusterGrace  = 10 * time.Second

	// clusterPause is the pause between two requests of one client. Two cores
	// carry the clients, three nodes and the registry.
	clusterPause = 10 * time.Millisecond

	// storingMargin is how long storing a new credential may take. A reader
	// that gets the former one meanwhile has that much less of its grace
	// period.
	storingMargin = 2 * time.Second

	pathRollback = "regcred/killpoints/rollback"
)

// TestClusterLosesItsLeaders makes clients write and read through any node of a
// cluster while its leader is killed again and again: at any time, or just
// while the registry mints or revokes; with its plugin, or without it. At times
// a leader steps down instead. All of this must hold:
//
//   - An acknowledged operation is never lost: a read that begins afterwards
//     finds nothing older, through any node, at any time. The same holds for
//     what another read has found before.
//   - While no node leads, requests may fail with an error that says so. At all
//     other times no request fails, and the nodes that do not lead forward.
//   - Every credential that is read pulls, and does so for its grace period.
//   - After each failover, the engine replaces shared credentials as before,
//     each once: never before its period is over, and with at most one mint in
//     vain for each role and each leader that dies.
//   - At the end the registry has the credentials that the engine serves, and
//     none once the roles are deleted.
func TestClusterLosesItsLeaders(t *testing.T) {
	w := newClusterWorld(t)
	stop := w.work()
	for n := 0; n < leadersKilled && !t.Failed(); n++ {
		w.killLeader(n)
		if n%5 == 4 && !t.Failed() {
			w.stepDown()
		}
	}
	w.judgeSuspects()
	stop()
	if t.Failed() {
		return
	}
	w.eachOnce()
	w.leaveNothing()
	w.report()
}

// clusterWorld is a cluster, its content, and what its clients have seen.
type clusterWorld struct {
	*testing.T
	cluster *servers.Cluster
	lab     *recordedLab

	static []*register   // roles that are written and deleted all the time
	member *register     // a role that is never deleted, and joins the bundle
	config *register     // of the mount
	quiet  *register     // a role that is written while the cluster is undisturbed
	shared []*sharedRole // the engine rotates them
	asked  *sharedRole   // rotated by rotate/ only
	remade *sharedRole   // deleted and written again
	exists *register     // whether remade exists

	season atomic.Int64 // odd while the cluster is disturbed
	since  time.Time    // when the leader began to lead

	reads, writes, deletions, pulls atomic.Int64

	mu       sync.Mutex
	failures map[string]int // excused failures, by their text
	suspects []error        // failures while the cluster was not disturbed
	problems int
	failover []time.Duration

	handovers          map[int]int // changes of the leader without a kill, by reign
	stepsDown, unasked int         // changes that the test asked for, and others
}

func newClusterWorld(t *testing.T) *clusterWorld {
	lab := newRecordedLab(t)
	newShared := func(name string) *sharedRole { return &sharedRole{name: name, lab: lab} }
	w := &clusterWorld{
		T: t, lab: lab, cluster: servers.StartCluster(t),
		member: newRegister("roles/member"), config: newRegister("config"), quiet: newRegister("roles/quiet"),
		asked: newShared("asked"), remade: newShared("remade"), exists: newRegister("roles/remade"),
		failures: map[string]int{}, handovers: map[int]int{},
	}
	for n := range 5 {
		w.static = append(w.static, newRegister(fmt.Sprintf("roles/static-%d", n)))
	}
	for _, name := range rotated {
		w.shared = append(w.shared, newShared(name))
	}
	c := lab.Connection()
	w.mustWrite("connections/gitlab", map[string]any{
		"type": "gitlab", "url": c.URL, "registry": string(c.Registries[0]), "token": c.Secrets["token"].Reveal(), "allowed_roles": "*",
	})
	for _, s := range w.shared {
		w.mustWrite("roles/"+s.name, w.dynamic(map[string]any{"allowed_bundles": "bundle"}))
	}
	w.mustWrite("roles/asked", w.dynamic(map[string]any{"rotation_period": "24h"}))
	w.mustWrite("roles/member", staticRole(w.member, w.member.begin(false)))
	w.member.isDone(1)
	w.mustWrite("roles/bundle", map[string]any{"members": "member,joined"})
	_, w.since = w.cluster.Leader()
	return w
}

func (w *clusterWorld) mustWrite(path string, data map[string]any) {
	w.Helper()
	w.must("writing "+path, func(c *api.Logical) error {
		_, err := c.Write(at(path), data)
		return err
	})
}

func (w *clusterWorld) mustDelete(path string) {
	w.Helper()
	w.must("deleting "+path, func(c *api.Logical) error {
		_, err := c.Delete(at(path))
		return err
	})
}

// must sends a request through any node, and repeats it while no node leads.
func (w *clusterWorld) must(what string, request func(*api.Logical) error) {
	w.Helper()
	servers.Eventually(w.T, func() error {
		err := request(w.anyNode().Client.Logical())
		if err != nil && !saysNoLeader(err) {
			w.Fatalf("%s: %v", what, err)
		}
		return err
	})
}

func at(path string) string { return servers.Mount + "/" + path }

func (w *clusterWorld) anyNode() *servers.Vault {
	return w.cluster.Nodes[rand.IntN(len(w.cluster.Nodes))]
}

// dynamic returns the fields of a shared role.
func (w *clusterWorld) dynamic(more map[string]any) map[string]any {
	fields := map[string]any{"connection": "gitlab", "rotation_period": clusterPeriod.String(), "grace_period": clusterGrace.String()}
	for field, text := range w.lab.Role() {
		fields[field] = text
	}
	maps.Copy(fields, more)
	return fields
}

// staticRole returns the fields of a version of a static role.
func staticRole(r *register, version int) map[string]any {
	return map[string]any{
		"registry": strings.TrimPrefix(r.path, "roles/") + ".example.com", "allowed_bundles": "bundle",
		"username": fmt.Sprintf("v%d", version), "password": strconv.Itoa(version),
	}
}

// work starts the clients, and returns the function that stops them.
func (w *clusterWorld) work() (stop func()) {
	var clients sync.WaitGroup
	ended := make(chan struct{})
	client := func(step func(n int)) {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-ended:
					return
				case <-time.After(clusterPause):
					step(n)
				}
			}
		})
	}
	writers := [][]*register{w.static[:2], w.static[2:], {w.member, w.config}}
	for _, own := range writers {
		client(func(n int) {
			r := own[n%len(own)]
			w.change(w.anyNode(), r, r != w.member && rand.IntN(4) == 0)
		})
	}
	client(func(n int) { w.remake(n) })
	reads := []func(*servers.Vault){w.readConfig, w.readBundle, w.readBundle, w.readRemade}
	for _, r := range slices.Concat(w.static, []*register{w.member}) {
		reads = append(reads, func(v *servers.Vault) { w.readStatic(v, r) })
	}
	for _, s := range w.shared {
		reads = append(reads, func(v *servers.Vault) { w.readShared(v, s) }, func(v *servers.Vault) { w.readShared(v, s) })
	}
	for range 4 {
		client(func(int) { reads[rand.IntN(len(reads))](w.anyNode()) })
	}
	return sync.OnceFunc(func() {
		close(ended)
		clients.Wait()
	})
}

// ask sends a request through a node, and reports whether it succeeded. A
// failure is allowed only while the cluster is disturbed, and only with an
// error that says so.
func (w *clusterWorld) ask(v *servers.Vault, what string, request func(*api.Logical) error) bool {
	season := w.season.Load()
	err := request(v.Client.Logical())
	if err == nil {
		return true
	}
	err = fmt.Errorf("node %s: %s: %w", v.Name(), what, err)
	switch {
	case !saysNoLeader(err):
		w.fail(err)
	case season%2 == 0 && w.season.Load() == season:
		w.mu.Lock()
		w.suspects = append(w.suspects, err)
		w.mu.Unlock()
	}
	w.mu.Lock()
	w.failures[kindOf(err)]++
	w.mu.Unlock()
	time.Sleep(5 * clusterPause)
	return false
}

// saysNoLeader reports whether an error is one that a client of a cluster must
// expect: the node is down, sealed, without a leader to forward to, or has just
// ceased to lead. An error that the request is wrong, is denied or finds
// nothing is not one, because the client would act on it.
func saysNoLeader(err error) bool {
	for _, down := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, io.EOF, io.ErrUnexpectedEOF, servers.ErrRedirected} {
		if errors.Is(err, down) {
			return true
		}
	}
	var answer *api.ResponseError
	return errors.As(err, &answer) && answer.StatusCode >= 500 && noLeader.MatchString(strings.Join(answer.Errors, "; "))
}

// noLeader matches errors of Vault itself. "leader" and "context canceled" come
// from a node that ceases to lead during a request.
var noLeader = regexp.MustCompile(`Vault is sealed|active cluster node not found|no active Vault instance|leader|context canceled`)

// kindOf returns the text of an error without its context.
func kindOf(err error) string {
	if errors.Is(err, servers.ErrRedirected) {
		return servers.ErrRedirected.Error()
	}
	var answer *api.ResponseError
	if errors.As(err, &answer) {
		return fmt.Sprintf("status %d: %s", answer.StatusCode, strings.Join(answer.Errors, "; "))
	}
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err.Error()
}

// fail reports a problem, unless there were too many.
func (w *clusterWorld) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.problems++; err != nil && w.problems <= 10 {
		w.Error(err)
	}
}

// check reports an error about a node's answer.
func (w *clusterWorld) check(v *servers.Vault, err error) {
	if err != nil {
		w.fail(fmt.Errorf("node %s: %w", v.Name(), err))
	}
}

// change writes the next version of a role or of the config, or deletes it. It
// returns the version if the operation was acknowledged, else 0.
func (w *clusterWorld) change(v *servers.Vault, r *register, deletes bool) (version int) {
	version = r.begin(deletes)
	data := staticRole(r, version)
	switch r {
	case w.config:
		data = map[string]any{"expiry_warning": version}
	case w.exists:
		data = w.dynamic(nil)
	}
	if !w.ask(v, fmt.Sprintf("operation %d on %s", version, r.path), func(c *api.Logical) (err error) {
		if deletes {
			_, err = c.Delete(at(r.path))
		} else {
			_, err = c.Write(at(r.path), data)
		}
		return err
	}) {
		return 0
	}
	if deletes {
		w.deletions.Add(1)
	} else {
		w.writes.Add(1)
	}
	r.isDone(version)
	return version
}

// remake deletes and writes a shared role from time to time. A credential that
// was read before the deletion is never served again.
func (w *clusterWorld) remake(n int) {
	if n%20 != 0 {
		return
	}
	newest, deletes := w.remade.newestRead(), n%40 == 0 && n > 0
	if w.change(w.anyNode(), w.exists, deletes) > 0 && deletes {
		w.remade.isOver(newest)
	}
}

// read returns the data of a path, nil if there is none.
func (w *clusterWorld) read(v *servers.Vault, path string) (data map[string]any, ok bool) {
	return w.readUnless(v, path, func(error) bool { return false })
}

// readUnless is read; an error for which answers is true counts as an answer.
func (w *clusterWorld) readUnless(v *servers.Vault, path string, answers func(error) bool) (data map[string]any, ok bool) {
	ok = w.ask(v, "reading "+path, func(c *api.Logical) error {
		secret, err := c.Read(at(path))
		if err != nil && answers(err) {
			return nil
		}
		if secret != nil {
			data = secret.Data
		}
		return err
	})
	if ok {
		w.reads.Add(1)
	}
	return data, ok
}

// readStatic reads a static role in one of two ways, and returns the version.
func (w *clusterWorld) readStatic(v *servers.Vault, r *register) (version int, ok bool) {
	path := []string{r.path, strings.Replace(r.path, "roles/", "creds/", 1)}[rand.IntN(2)]
	certain := r.certain()
	data, ok := w.read(v, path)
	if !ok {
		return 0, false
	}
	version = absent
	if data != nil {
		version = versionOf(data["username"], data["password"])
	}
	w.check(v, r.found(version, certain))
	return version, true
}

// versionOf returns the version of a login, or 0 if it has none. A nil password
// is not compared.
func versionOf(username, password any) int {
	version, err := strconv.Atoi(strings.TrimPrefix(fmt.Sprint(username), "v"))
	if err != nil || password != nil && password != strconv.Itoa(version) {
		return 0
	}
	return version
}

func (w *clusterWorld) readConfig(v *servers.Vault) {
	const otherwise = "1209600" // 336h, the default
	certain := w.config.certain()
	data, ok := w.read(v, "config")
	if !ok {
		return
	}
	version := absent
	if got := fmt.Sprint(data["expiry_warning"]); got != otherwise {
		version, _ = strconv.Atoi(got) // 0 is no version
	}
	w.check(v, w.config.found(version, certain))
}

func (w *clusterWorld) readShared(v *servers.Vault, s *sharedRole) (ok bool) {
	sent, certain := time.Now(), s.certain()
	data, ok := w.read(v, "creds/"+s.name)
	if ok {
		w.checkShared(v, s, data, sent, certain)
	}
	return ok
}

// readBundle reads the bundle of a static and a shared role.
func (w *clusterWorld) readBundle(v *servers.Vault) {
	joined := w.shared[len(w.shared)-1]
	sent, certain, newest := time.Now(), w.member.certain(), joined.certain()
	data, ok := w.read(v, "creds/bundle")
	if !ok {
		return
	}
	c, err := credentialFor(data, "member.example.com")
	w.check(v, err)
	w.check(v, w.member.found(versionOf(c.Username, c.Password.Reveal()), certain))
	w.checkShared(v, joined, data, sent, newest)
}

func (w *clusterWorld) readRemade(v *servers.Vault) {
	sent, certain, newest := time.Now(), w.exists.certain(), w.remade.certain()
	refused := false
	data, ok := w.readUnless(v, "creds/remade", func(err error) bool {
		refused = w.exists.deletedSince(certain) && strings.Contains(err.Error(), "was changed while it was read; try again")
		return refused
	})
	if !ok || refused {
		return
	}
	if data == nil {
		w.check(v, w.exists.found(absent, certain))
		return
	}
	w.check(v, w.exists.found(present, certain))
	c, err := credentialFor(data, w.lab.key())
	w.check(v, err)
	pulls := w.lab.Pulls(c, gitlabtest.Project)
	if w.exists.deletedSince(certain) {
		return // its credential has been revoked, or will be
	}
	w.check(v, w.remade.found(c, time.Time{}, sent, newest))
	w.checkPull(v, w.remade, c, pulls, sent)
}

// checkShared judges the answer to a read of a shared role. It must not be
// empty, because the role is never deleted.
func (w *clusterWorld) checkShared(v *servers.Vault, s *sharedRole, data map[string]any, sent time.Time, certain int64) {
	c, err := credentialFor(data, w.lab.key())
	if err != nil {
		w.check(v, fmt.Errorf("%s: a read finds %d fields: %w", s.name, len(data), err))
		return
	}
	rotated, err := time.Parse(time.RFC3339, fmt.Sprint(data["last_vault_rotation"]))
	w.check(v, err)
	w.check(v, s.found(c, rotated, sent, certain))
	w.checkPull(v, s, c, w.lab.Pulls(c, gitlabtest.Project), sent)
}

// checkPull judges a pull with a credential that was read. It must work for the
// grace period.
func (w *clusterWorld) checkPull(v *servers.Vault, s *sharedRole, c issuer.Credential, pulls bool, sent time.Time) {
	w.pulls.Add(1)
	if took := time.Since(sent); !pulls && took < clusterGrace-storingMargin {
		w.check(v, fmt.Errorf("%s: %s does not pull %s after it was asked for", s.name, c.Username, took))
	}
}

// way is one way to kill a leader.
type way struct {
	name    string
	catch   func(r *http.Request, role string) bool // nil: at any time
	acted   bool
	machine bool // kill the plugin too
}

// rotating matches the mint of a rotation.
func rotating(_ *http.Request, role string) bool { return slices.Contains(rotated, role) }

func revoking(r *http.Request, _ string) bool { return revokes(r) }

// rotated are the roles that the engine rotates; the last one joins the bundle.
var rotated = []string{"one", "two", "joined"}

var ways = []way{
	{"after a mint, before its answer", rotating, true, true},
	{"at any time", nil, false, true},
	{"before a mint, which its plugin lives to see", rotating, false, false},
	{"after a revocation, before its answer", revoking, true, true},
	{"at any time, leaving its plugin behind", nil, false, false},
	{"before a mint", rotating, false, true},
	{"after a mint, which its plugin lives to see", rotating, true, false},
}

// killLeader kills the leader, and waits until the next one works.
func (w *clusterWorld) killLeader(n int) {
	way := ways[n%len(ways)]
	leader := w.leaderInPeace()
	free := func(bool) {}
	if way.catch != nil {
		var caught <-chan struct{}
		caught, free = w.lab.holdNext(w.T, way.catch, way.acted)
		servers.Receive(w.T, caught, fmt.Sprintf("the registry is not asked for anything any more: wanted to kill node %s %s", leader.Name(), way.name))
		leader = w.cluster.WaitUntilServed(w.T) // the leader may have changed by itself
	}
	w.season.Add(1)
	killed := time.Now()
	w.cluster.Kill(w.T, leader)
	if way.machine {
		w.cluster.EndOrphans(w.T)
		free(false)
	}
	// Requests of the old plugin arrive at once, those of the next leader
	// later.
	time.Sleep(500 * time.Millisecond)
	w.lab.nextReign()
	w.cluster.WaitUntilServed(w.T)
	served := time.Now()
	w.failover = append(w.failover, served.Sub(killed))
	free(true)
	w.nothingIsLost()
	w.cluster.EndOrphans(w.T)
	w.cluster.Revive(w.T, leader)
	w.proven(fmt.Sprintf("%2d: node %s killed %s", n+1, leader.Name(), way.name), killed, served)
}

// stepDown makes a leader step down. It stays alive, so it can lead again with
// what it has in memory.
func (w *clusterWorld) stepDown() {
	leader := w.leaderInPeace()
	w.season.Add(1)
	asked := time.Now()
	if err := leader.Client.Sys().StepDown(); err != nil {
		w.Fatalf("node %s does not step down: %v", leader.Name(), err)
	}
	servers.Eventually(w.T, func() error {
		if next := w.cluster.WaitUntilServed(w.T); next == leader {
			return fmt.Errorf("node %s still leads", leader.Name())
		}
		return nil
	})
	w.handovers[w.lab.nowReigns()]++
	w.stepsDown++
	w.proven(fmt.Sprintf("    node %s stepped down", leader.Name()), asked, time.Now())
}

// leaderInPeace returns the leader at a random time while the cluster is
// undisturbed.
func (w *clusterWorld) leaderInPeace() *servers.Vault {
	time.Sleep(time.Duration(rand.IntN(1000)) * time.Millisecond)
	w.judgeSuspects()
	return w.cluster.WaitUntilServed(w.T)
}

// proven waits until the cluster is whole and the new leader does all of a
// leader's work.
func (w *clusterWorld) proven(what string, from, served time.Time) {
	leader := w.cluster.WaitUntilWhole(w.T)
	_, w.since = w.cluster.Leader()
	w.Logf("%s: node %s leads; a node answers after %.1f s, all do after %.1f s", what, leader.Name(), served.Sub(from).Seconds(), time.Since(from).Seconds())
	w.season.Add(1)
	w.allForward(leader)
	w.rotationsGoOn(served)
}

// judgeSuspects reports failures while the cluster was undisturbed, unless the
// leader has changed by itself, as it does when the machine stands still for a
// second.
func (w *clusterWorld) judgeSuspects() {
	_, since := w.cluster.Leader()
	w.mu.Lock()
	suspects := w.suspects
	w.suspects = nil
	w.mu.Unlock()
	if !since.Equal(w.since) {
		w.handovers[w.lab.nowReigns()]++
		w.unasked++
		w.since = since
		return
	}
	for _, err := range suspects {
		w.fail(fmt.Errorf("a failure while all is well: %w", err))
	}
}

// nothingIsLost reads all static roles through the nodes that run.
func (w *clusterWorld) nothingIsLost() {
	for _, v := range w.cluster.Nodes {
		if v.Ended() {
			continue
		}
		for _, r := range slices.Concat(w.static, []*register{w.member, w.quiet}) {
			servers.Eventually(w.T, func() error {
				if _, ok := w.readStatic(v, r); !ok {
					return fmt.Errorf("%s cannot be read", r.path)
				}
				return nil
			})
		}
	}
}

// allForward writes through each node and reads through all.
func (w *clusterWorld) allForward(leader *servers.Vault) {
	for i, v := range w.cluster.Nodes {
		if health, err := v.Client.Sys().Health(); err == nil && v != leader && (!health.Standby || health.PerformanceStandby) {
			w.check(v, fmt.Errorf("want a standby that forwards all, got %+v", health))
		}
		written := w.change(v, w.quiet, i == 1)
		for _, other := range w.cluster.Nodes {
			want := written
			if i == 1 {
				want = absent
			}
			if got, ok := w.readStatic(other, w.quiet); ok && written > 0 && got != want {
				w.check(other, fmt.Errorf("want version %d, which was written through node %s, got %d", want, v.Name(), got))
			}
		}
	}
	w.rotateOnce(w.anyNode())
}

// rotateOnce asks for one rotation, which must be one mint, and reads the role
// through all nodes.
func (w *clusterWorld) rotateOnce(v *servers.Vault) {
	if !w.readShared(v, w.asked) { // the first read mints
		return
	}
	before := w.lab.of(w.asked.name)
	if !w.ask(v, "rotating", func(c *api.Logical) error {
		_, err := c.Write(at("rotate/asked"), nil)
		return err
	}) {
		return
	}
	after := w.lab.of(w.asked.name)
	if len(after) != len(before)+1 {
		w.check(v, fmt.Errorf("want one mint for one rotation, got %d", len(after)-len(before)))
		return
	}
	w.asked.isOver(before[len(before)-1].id)
	for _, other := range w.cluster.Nodes {
		w.readShared(other, w.asked)
	}
}

// rotationsGoOn waits until each shared role serves a credential that was
// minted after a time.
func (w *clusterWorld) rotationsGoOn(after time.Time) {
	for _, s := range w.shared {
		servers.Eventually(w.T, func() error {
			tokens := w.lab.of(s.name)
			if !slices.ContainsFunc(tokens, func(t token) bool { return t.minted.After(after) && !t.lastRead.IsZero() }) {
				return fmt.Errorf("%s: no rotation since the leader has changed", s.name)
			}
			return nil
		})
	}
}

// eachOnce judges the engine's rotations by the registry's record.
func (w *clusterWorld) eachOnce() {
	for _, s := range w.shared {
		var last *token
		vain := map[int]int{}
		for _, t := range w.lab.of(s.name) {
			if t.lastRead.IsZero() {
				if vain[t.reign]++; vain[t.reign] > 1+w.handovers[t.reign] {
					w.fail(fmt.Errorf("%s: %s was minted in vain, and not the only one under one leader: a rotation was done twice", s.name, t.name))
				}
				continue
			}
			if last != nil && t.rotated.Sub(last.rotated) < clusterPeriod-time.Second {
				w.fail(fmt.Errorf("%s: rotated %s after the last time", s.name, t.rotated.Sub(last.rotated)))
			}
			if !t.ended.IsZero() && t.ended.Sub(t.lastRead) < clusterGrace-storingMargin {
				w.fail(fmt.Errorf("%s: revoked %s after a read returned it", t.name, t.ended.Sub(t.lastRead)))
			}
			last = &t
			w.fewAreAlive(s, t.minted)
		}
	}
}

// fewAreAlive judges how many credentials of a role were alive at a time.
func (w *clusterWorld) fewAreAlive(s *sharedRole, when time.Time) {
	// The new one, the former one, those within their grace period, and one
	// that is about to be revoked.
	const most = 3 + int(clusterGrace/clusterPeriod)
	alive := 0
	for _, t := range w.lab.of(s.name) {
		if !t.lastRead.IsZero() && !t.minted.After(when) && (t.ended.IsZero() || t.ended.After(when)) {
			alive++
		}
	}
	if alive > most {
		w.fail(fmt.Errorf("%s: want %d credentials alive at most, got %d at %s", s.name, most, alive, when))
	}
}

// leaveNothing makes the engine revoke what dead leaders have left at the
// registry. A normal build waits five minutes for that; the one for tests does
// it at once.
func (w *clusterWorld) leaveNothing() {
	roles := append(slices.Clone(w.shared), w.asked, w.remade)
	for _, s := range roles { // so that their credentials stay
		w.mustWrite("roles/"+s.name, w.dynamic(map[string]any{"rotation_period": "24h"}))
	}
	w.cluster.ReplacePlugin(w.T, servers.Bin(w.T, "regcred-killpoints"))
	w.rollBackUntil(func() []string {
		var serves []string
		for _, s := range roles {
			serves = append(serves, w.servedBy(s)...)
		}
		return serves
	})
	for _, s := range roles {
		w.mustDelete("roles/" + s.name)
	}
	w.rollBackUntil(func() []string { return nil })
	w.mustDelete("roles/bundle")
	w.mustDelete("connections/gitlab") // refused while there is anything left to revoke
}

// rollBackUntil does the engine's work of each minute until the registry has
// exactly the wanted credentials.
func (w *clusterWorld) rollBackUntil(want func() []string) {
	w.Helper()
	servers.Eventually(w.T, func() error {
		if _, err := w.anyNode().Client.Logical().Write(pathRollback, nil); err != nil {
			return fmt.Errorf("rolling back: %w", err)
		}
		names := want()
		slices.Sort(names)
		if diff := cmp.Diff(names, w.lab.Living()); diff != "" {
			return fmt.Errorf("credentials (-that the engine serves +at the registry):\n%s", diff)
		}
		return nil
	})
}

// servedBy returns the name of a role's credential, if it has one.
func (w *clusterWorld) servedBy(s *sharedRole) []string {
	var role *api.Secret
	w.must("reading roles/"+s.name, func(c *api.Logical) (err error) {
		role, err = c.Read(at("roles/" + s.name))
		return err
	})
	if role == nil || role.Data["username"] == nil {
		return nil
	}
	for _, t := range w.lab.of(s.name) {
		if t.username == role.Data["username"] {
			return []string{t.name}
		}
	}
	w.Fatalf("%s serves %v, which the registry has not minted", s.name, role.Data["username"])
	return nil
}

// report prints what has happened.
func (w *clusterWorld) report() {
	slices.Sort(w.failover)
	minted, revoked, vain, rotations := 0, 0, 0, 0
	for _, s := range append(slices.Clone(w.shared), w.asked, w.remade) {
		for i, t := range w.lab.of(s.name) {
			minted++
			if !t.ended.IsZero() {
				revoked++
			}
			switch {
			case s == w.remade:
			case t.lastRead.IsZero():
				vain++
			case i > 0:
				rotations++
			}
		}
	}
	fmt.Printf("%d leaders killed; the next one serves after %.1f s (median), %.1f s (most); %d stepped down, %d changed without being asked\n",
		len(w.failover), w.failover[len(w.failover)/2].Seconds(), w.failover[len(w.failover)-1].Seconds(), w.stepsDown, w.unasked)
	fmt.Printf("%d writes and %d deletions acknowledged, %d reads answered, %d pulls\n", w.writes.Load(), w.deletions.Load(), w.reads.Load(), w.pulls.Load())
	fmt.Printf("%d mints, %d of them in vain, %d rotations, %d revocations\n", minted, vain, rotations, revoked)
	for _, kind := range slices.Sorted(maps.Keys(w.failures)) {
		fmt.Printf("%6d requests failed: %s\n", w.failures[kind], kind)
	}
}
