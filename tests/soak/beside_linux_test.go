// SPDX-License-Identifier: MPL-2.0

package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	// besideTime caps how long TestHealthyRegistriesBesideBrokenOnes takes.
	besideTime = 10 * time.Minute

	// mostDelay is how much later something may happen at a healthy registry, if
	// others are broken.
	mostDelay = 10 * time.Second

	// lookEvery is how often the registries are looked at, and so how exact the
	// times are.
	lookEvery = 100 * time.Millisecond

	healthyOnes = 3
	longLeases  = 30 // at each registry that breaks; their credentials are to be ended while it is broken
)

// besideRole is a shared role that each registry has. Vault has the engine look for
// what is due once a minute. So the periods, and the grace periods, are no multiples
// of a minute: otherwise chance would decide in which minute something is done.
type besideRole struct {
	name          string
	period, grace time.Duration
	read          bool // a reader finds out that it is due; otherwise nobody reads it
}

var besideRoles = []besideRole{
	{"read", 20 * time.Second, 45 * time.Second, true},
	{"often", 35 * time.Second, 75 * time.Second, true},
	{"unread-a", 70 * time.Second, 80 * time.Second, false},
	{"unread-b", 80 * time.Second, 105 * time.Second, false},
	{"unread-c", 95 * time.Second, 70 * time.Second, false},
	{"unread-d", 105 * time.Second, 95 * time.Second, false},
}

// The leases of the role "leased" are not renewed, and each is revoked by Vault.
const besideLease = 20 * time.Second

// TestHealthyRegistriesBesideBrokenOnes runs two Vaults at the same time with the
// same roles and the same load. At one of them all registries are healthy. At the
// other one three registries hang, of which one has an unfinished rotate-root, one
// answers 500, and one loses answers and lists without end. By the record of the
// healthy registries, which are the same ones at both, nothing that is due is done
// more than mostDelay later where others are broken.
func TestHealthyRegistriesBesideBrokenOnes(t *testing.T) {
	lasts := min(*soakTime, besideTime)
	watchdog := time.AfterFunc(lasts+surround, func() { panic("the comparison does not end") })
	defer watchdog.Stop()
	calm, troubled := newSide(t, "all healthy"), newSide(t, "some broken")
	troubled.breakSome()
	ctx, end := context.WithTimeout(t.Context(), lasts)
	defer end()
	sides := []*side{calm, troubled}
	for _, s := range sides {
		s.load(ctx)
	}
	for ctx.Err() == nil {
		time.Sleep(time.Second)
		for _, s := range sides {
			s.resident = max(s.resident, (&world{T: t}).resident(s.pid))
		}
	}
	for _, s := range sides {
		s.workers.Wait()
		s.mend()
		s.Logf("%s: %s", s.name, s.numbers())
	}
	compareSides(t, calm, troubled)
}

// side is one of the two Vaults, with its registries.
type side struct {
	*testing.T
	name            string
	vault           *servers.Vault
	client          *api.Client
	healthy, broken []*watched
	began           time.Time // when the load began
	ended           time.Time
	pid             int // of the plugin's process
	resident        int // the most memory that this had
	workers         sync.WaitGroup

	mu       sync.Mutex
	static   []time.Duration // how long reads of a static role took
	requests map[string]int  // about the registries that break, by outcome
}

// watched is a GitLab, and when each of its credentials came and went.
type watched struct {
	*gitlabtest.Server
	name string

	mu   sync.Mutex
	seen map[string]*lifetime // by name of the credential
}

type lifetime struct {
	minted, gone time.Time // gone is zero while it works
}

// look records which credentials work.
func (g *watched) look() {
	living := g.Living()
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range living {
		if g.seen[name] == nil {
			g.seen[name] = &lifetime{minted: now}
		}
	}
	for name, seen := range g.seen {
		if _, works := slices.BinarySearch(living, name); !works && seen.gone.IsZero() {
			seen.gone = now
		}
	}
}

// of returns the credentials of a role, by the time at which they were minted.
func (g *watched) of(role string) []lifetime {
	g.mu.Lock()
	defer g.mu.Unlock()
	var found []lifetime
	for name, seen := range g.seen {
		if purpose := strings.TrimPrefix(name, "regcred-"); purpose[:max(0, strings.LastIndex(purpose, "-"))] == role {
			found = append(found, *seen)
		}
	}
	slices.SortFunc(found, func(a, b lifetime) int { return a.minted.Compare(b.minted) })
	return found
}

func newSide(t *testing.T, name string) *side {
	t.Helper()
	s := &side{T: t, name: name, requests: map[string]int{}}
	s.vault = servers.StartRaftVaultWith(t, servers.RaftOptions{
		Plugin: servers.Bin(t, "regcred-soak"), LogLevel: "warn", Env: []string{"REGCRED_PROFILE=" + t.TempDir()},
	})
	s.client, s.pid = s.vault.Client, s.vault.PluginPID(t)
	s.write("roles/static", map[string]any{"registry": fencedAt, "username": fencedLogin.username, "password": fencedLogin.password})
	for i := range healthyOnes {
		s.healthy = append(s.healthy, s.add(fmt.Sprintf("healthy%d", i)))
	}
	for _, name := range []string{"silent0", "silent1", "silent2", "failing", "endless"} {
		g := s.add(name)
		s.broken = append(s.broken, g)
		for range longLeases {
			s.mustRead("creds/" + name + "-long")
		}
	}
	return s
}

// add starts a registry, and reads its shared roles once.
func (s *side) add(name string) *watched {
	s.Helper()
	g := &watched{Server: gitlabtest.New(s), name: name, seen: map[string]*lifetime{}}
	start := time.Now()
	g.SetNow(func() time.Time { return start }) // so that only the engine ends credentials
	s.write("connections/"+name, map[string]any{
		"type": "gitlab", "url": g.URL, "registry": g.Host(), "token": g.Connection().Secrets["token"].Reveal(),
		"service_account_group": gitlabtest.Group, "allowed_roles": "*",
	})
	role := func(role string, fields map[string]any) {
		fields["connection"], fields["project"] = name, gitlabtest.Project
		s.write("roles/"+name+"-"+role, fields)
	}
	for _, r := range besideRoles {
		role(r.name, map[string]any{"mode": "shared", "rotation_period": r.period.String(), "grace_period": r.grace.String()})
		s.mustRead("creds/" + name + "-" + r.name)
	}
	role("leased", map[string]any{"mode": "leased", "ttl": besideLease.String(), "max_ttl": besideLease.String()})
	role("long", map[string]any{"mode": "leased", "ttl": "60s", "max_ttl": "60s"})
	return g
}

func (s *side) write(path string, fields map[string]any) {
	s.Helper()
	if _, err := s.client.Logical().Write(at(path), fields); err != nil {
		s.Fatalf("%s: writing %s: %v", s.name, path, err)
	}
}

func (s *side) mustRead(path string) {
	s.Helper()
	if _, err := s.client.Logical().Read(at(path)); err != nil {
		s.Fatalf("%s: reading %s: %v", s.name, path, err)
	}
}

func isAPI(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/api/") }

// breakSome breaks the registries that are to break.
func (s *side) breakSome() {
	for _, g := range s.broken {
		switch g.name {
		case "silent0":
			s.leaveRootUnfinished(g)
			g.InjectFault(-1, isAPI, issuertest.Hang)
		case "failing":
			g.InjectFault(-1, isAPI, issuertest.Status(http.StatusInternalServerError, injected))
		case "endless":
			g.InjectFault(-1, func(r *http.Request) bool {
				return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "_tokens")
			}, listsWithoutEnd)
			var minted atomic.Int64
			g.InjectFault(-1, func(r *http.Request) bool { return g.MintMatch(r) && minted.Add(1)%2 == 0 }, issuertest.CutAfterActing)
		default:
			g.InjectFault(-1, isAPI, issuertest.Hang)
		}
	}
}

// leaveRootUnfinished begins a rotate-root that does not get further than to have
// the new root credential made.
func (s *side) leaveRootUnfinished(g *watched) {
	var made atomic.Bool
	g.InjectFault(-1, func(r *http.Request) bool {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/personal_access_tokens") {
			made.Store(true)
			return false
		}
		return isAPI(r) && made.Load()
	}, issuertest.Hang)
	s.workers.Go(func() {
		_, _ = s.client.Logical().Write(at("connections/"+g.name+"/rotate-root"), nil)
	})
	servers.Eventually(s, func() error {
		if !made.Load() {
			return fmt.Errorf("%s was not asked for a new root credential", g.name)
		}
		return nil
	})
}

// listsWithoutEnd answers a list with a page of others' tokens, and says that
// there is one more.
func listsWithoutEnd(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	page = max(page, 1)
	var tokens []map[string]any
	for i := range 100 {
		tokens = append(tokens, map[string]any{
			"id": 1_000_000 + 100*page + i, "name": "somebody's " + strings.Repeat("x", 200), "username": "gitlab+deploy-token-0",
			"scopes": []string{"read_registry"}, "revoked": false, "expired": false, "active": true, "user_id": 1,
		})
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Page", strconv.Itoa(page))
	w.Header().Set("X-Next-Page", strconv.Itoa(page+1))
	_ = json.NewEncoder(w).Encode(tokens)
}

func (s *side) mend() {
	for _, g := range s.broken {
		g.ClearFaults()
		g.CloseClientConnections()
	}
}

// load begins what goes on until a context ends. It is the same for both sides.
func (s *side) load(ctx context.Context) {
	s.began = time.Now()
	repeat := func(pause time.Duration, do func()) {
		s.workers.Go(func() {
			for ctx.Err() == nil {
				do()
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	read := func(path string) error {
		_, err := s.client.Logical().ReadWithContext(ctx, at(path))
		return err
	}
	repeat(lookEvery, func() {
		for _, g := range slices.Concat(s.healthy, s.broken) {
			g.look()
		}
		s.ended = time.Now()
	})
	repeat(20*time.Millisecond, func() {
		began := time.Now()
		err := read("creds/static")
		s.mu.Lock()
		defer s.mu.Unlock()
		s.static = append(s.static, time.Since(began))
		if err != nil && ctx.Err() == nil {
			s.Errorf("%s: a read of a static role: %v", s.name, err)
		}
	})
	for _, g := range s.healthy {
		for _, r := range besideRoles {
			if r.read {
				repeat(time.Second, func() {
					if err := read("creds/" + g.name + "-" + r.name); err != nil && ctx.Err() == nil {
						s.Errorf("%s: a read of a shared role of a healthy registry: %v", s.name, err)
					}
				})
			}
		}
		repeat(3*time.Second, func() {
			// The engine does not let a read wait for a registry for long, and on a
			// busy machine each one may seem not to answer for a moment.
			err := servers.TryUntil(time.Now().Add(mostDelay), func() error { return read("creds/" + g.name + "-leased") })
			if err != nil && ctx.Err() == nil {
				s.Errorf("%s: a read of a leased role of a healthy registry: %v", s.name, err)
			}
		})
	}
	for _, g := range s.broken {
		for _, role := range []string{"leased", "leased", "read", "often"} {
			repeat(time.Second, func() { s.count(read("creds/" + g.name + "-" + role)) })
		}
		repeat(5*time.Second, func() {
			_, err := s.client.Logical().WriteWithContext(ctx, at("rotate/"+g.name+"-often"), nil)
			s.count(err)
		})
		repeat(10*time.Second, func() { s.count(read("connections/" + g.name + "/check")) })
	}
}

func (s *side) count(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests[map[bool]string{true: "answered", false: "failed"}[err == nil]]++
}

// numbers describes a side.
func (s *side) numbers() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.static)
	n := len(s.static)
	if n == 0 {
		return "no reads"
	}
	return fmt.Sprintf("%d reads of a static role, half of them within %s, 99%% within %s, all within %s; at most %d MiB of memory of the plugin; requests about the registries that break: %v",
		n, s.static[n/2].Round(10*time.Microsecond), s.static[n*99/100].Round(10*time.Microsecond), s.static[n-1].Round(time.Millisecond), s.resident>>20, s.requests)
}

// unawaited is a rotation of a role that nobody reads.
const unawaited = "rotation that nobody waits for"

// due is something that was to happen at a healthy registry, again and again.
type due struct{ what, where string }

// lateness returns how late each of what was due was done, and what was not done
// counts as done at the end. Of what began before the load, chance has decided how
// long it was due before the engine looked for it: up to a minute.
func (s *side) lateness() map[due][]time.Duration {
	late := map[due][]time.Duration{}
	note := func(what, where string, began, at, done time.Time) {
		if done.IsZero() {
			done = s.ended
		}
		if began.Before(s.began) {
			done = done.Add(-time.Minute)
		}
		if at.After(s.began) && at.Before(s.ended) {
			d := due{what, where}
			late[d] = append(late[d], max(0, done.Sub(at)))
		}
	}
	for _, g := range s.healthy {
		for _, r := range besideRoles {
			rotation, where := unawaited, g.name+"-"+r.name
			if r.read {
				rotation = "rotation of what is read"
			}
			minted := g.of(where)
			for i, c := range minted {
				var next time.Time
				if i+1 < len(minted) {
					next = minted[i+1].minted
					note("end of a former credential", where, next, next.Add(r.grace), c.gone)
				}
				note(rotation, where, c.minted, c.minted.Add(r.period), next)
			}
		}
		where := g.name + "-leased"
		for _, c := range g.of(where) {
			note("end of a lease", where, c.minted, c.minted.Add(besideLease), c.gone)
		}
	}
	return late
}

// compareSides prints how late things were done, and fails the test if the broken
// registries have delayed one.
func compareSides(t *testing.T, calm, troubled *side) {
	t.Helper()
	before, after := calm.lateness(), troubled.lateness()
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(table, "seconds late: what\twhere\ttimes\tmedian\tmost\tothers broken: times\tmedian\tmost\t\n")
	most := func(late []time.Duration) time.Duration {
		if len(late) == 0 {
			return 0
		}
		return slices.Max(late)
	}
	middle := func(late []time.Duration) time.Duration {
		if len(late) == 0 {
			return 0
		}
		slices.Sort(late)
		return late[len(late)/2]
	}
	for _, d := range slices.SortedFunc(maps.Keys(before), func(a, b due) int { return strings.Compare(a.what+a.where, b.what+b.where) }) {
		fmt.Fprintf(table, "%s\t%s\t%d\t%.1f\t%.1f\t%d\t%.1f\t%.1f\t\n", d.what, d.where,
			len(before[d]), middle(before[d]).Seconds(), most(before[d]).Seconds(),
			len(after[d]), middle(after[d]).Seconds(), most(after[d]).Seconds())
		// What nobody waits for is done when Vault calls the engine, once a minute, and the
		// minutes of the two begin at different times.
		allowed := most(before[d])
		if d.what == unawaited {
			allowed = max(allowed, time.Minute)
		}
		if delay := most(after[d]) - allowed; delay > mostDelay {
			t.Errorf("%s, %s: done up to %.1f s late where other registries are broken, and up to %.1f s where all are healthy",
				d.what, d.where, most(after[d]).Seconds(), most(before[d]).Seconds())
		}
		if len(before[d]) > 1 && len(after[d]) == 0 {
			t.Errorf("%s, %s: nothing was due where other registries are broken, because what comes before was not done", d.what, d.where)
		}
	}
	_ = table.Flush()
	t.Log("\n" + text.String())
}
