// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"cmp"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	// answersIn is how long the registry takes to answer a call.
	answersIn = 100 * time.Millisecond

	// callsAtOnce is how many calls the engine makes to a registry at a time, as
	// docs/operations.md says.
	callsAtOnce = 8

	// What is allowed: of the time that the calls take if there are always that
	// many, and of the median of a read of a static role while nothing is due.
	allowedTime, allowedRead = 1.3, 1.5

	// tooLong is after how many times the time of the calls the measurement ends.
	tooLong = 5

	// beside is the pause between two reads of a static role.
	beside = 2 * time.Millisecond
)

var overdueRoles = flag.Int("overdue", 0, "how many overdue roles TestOverdue has rotated; 0: none, and the test is skipped")

// TestOverdue has many shared roles become due while Vault is sealed, and measures
// how long their rotation takes afterwards at a registry that takes its time, and
// how long reads of a static role take meanwhile. Beside the numbers it prints them
// as ratios: of the time that the documented limit of calls allows, and of the same
// reads before. It fails if a ratio is larger than allowed.
func TestOverdue(t *testing.T) {
	n := *overdueRoles
	if n == 0 {
		t.Skip("make bench-overdue runs it")
	}
	o := newOverdue(t, n)
	before := o.readsWhile(func() { time.Sleep(10 * time.Second) })
	o.outage()

	unsealed := time.Now()
	o.vault.Unseal(t)
	var first, last time.Time
	meanwhile := o.readsWhile(func() { first, last = o.waitForRotations() })
	meanwhile = slices.DeleteFunc(meanwhile, func(r staticRead) bool { return r.began.Before(first) || r.began.After(last) })
	after := o.readsWhile(func() { time.Sleep(10 * time.Second) })
	o.report(unsealed, first, last, [3][]staticRead{before, meanwhile, after})
}

// overdue is a Vault with shared roles that are to become due.
type overdue struct {
	*setup
	lab    *slowGitLab
	roles  int
	period time.Duration
	lastAt time.Time // when the last role was read first
}

// ideal is how long the calls for all roles take with the documented limit.
func (o *overdue) ideal() time.Duration {
	return time.Duration(o.roles) * answersIn / callsAtOnce
}

// slowGitLab records when it mints, and how many calls are in progress.
type slowGitLab struct {
	*gitlabtest.Server

	mu        sync.Mutex
	takes     time.Duration // for each call
	minted    []time.Time   // when a credential was asked for
	now, most int           // calls in progress
}

func newSlowGitLab(t testing.TB) *slowGitLab {
	g := &slowGitLab{Server: gitlabtest.New(t)}
	g.Watch(func(r *http.Request) {
		g.mu.Lock()
		g.now++
		g.most = max(g.most, g.now)
		if g.MintMatch(r) {
			g.minted = append(g.minted, time.Now())
		}
		takes := g.takes
		g.mu.Unlock()
		time.Sleep(takes)
	}, func(*http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.now--
	})
	return g
}

// begin forgets what was recorded, and has calls take that long from now on.
func (g *slowGitLab) begin(takes time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.takes, g.minted, g.most = takes, nil, g.now
}

func (g *slowGitLab) mints() []time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.minted)
}

// newOverdue writes the roles, and reads each of them once.
func newOverdue(t *testing.T, n int) *overdue {
	t.Helper()
	s := &setup{T: t, vault: servers.StartRaftVaultWith(t, servers.RaftOptions{Empty: true, LogLevel: "warn"})}
	s.root, s.reader = newClient(s.vault.Addr, s.vault.Token), s.newReader()
	s.mountPlugin(servers.Plugin(t), mountRegcred)
	o := &overdue{setup: s, lab: newSlowGitLab(t), roles: n}
	connection := o.lab.Connection()
	s.write(mountRegcred+"/connections/gitlab", fields{
		"type": "gitlab", "url": connection.URL, "registry": string(connection.Registries[0]),
		"token": connection.Secrets["token"].Reveal(), "allowed_roles": "*",
	})
	s.write(mountRegcred+"/roles/static", credential(1))

	// None may become due before the outage, and none twice after it.
	tried := min(n, 100)
	began := time.Now()
	o.period = time.Hour
	o.writeShared("tried", 0, tried)
	o.period = max(2*time.Since(began)*time.Duration(n/tried), 3*o.ideal()).Truncate(time.Second) + 30*time.Second
	o.Logf("rotation_period: %s", o.period)
	began = time.Now()
	o.writeShared("role", 0, n)
	o.lastAt = time.Now()
	if took := time.Since(began); took > o.period {
		t.Fatalf("writing the roles took %s, longer than their rotation_period", took)
	}
	return o
}

// writeShared writes shared roles and reads each once.
func (o *overdue) writeShared(prefix string, from, to int) {
	o.Helper()
	body := fmt.Sprintf(`{"connection":"gitlab","project":%q,"mode":"shared","rotation_period":%q,"grace_period":%q}`,
		gitlabtest.Project, o.period, min(time.Hour, 40*o.period)) // so that nothing is revoked meanwhile
	each(o, workers, to-from, func(i int) error {
		name := fmt.Sprintf("%s-%06d", prefix, from+i)
		if err := o.root.do(http.MethodPost, mountRegcred+"/roles/"+name, []byte(body)); err != nil {
			return err
		}
		// The engine does not let a read wait for a registry for long, and the
		// machine may be busy.
		return servers.TryUntil(servers.Limit(o), func() error { return o.reader.read(mountRegcred + "/creds/" + name) })
	})
}

// outage seals Vault until all roles are due.
func (o *overdue) outage() {
	o.Helper()
	if err := o.vault.Client.Sys().Seal(); err != nil {
		o.Fatal(err)
	}
	time.Sleep(time.Until(o.lastAt.Add(o.period + time.Second)))
	o.lab.begin(answersIn)
}

// waitForRotations waits until as many credentials were minted as there are roles,
// and returns when the first and the last of them were asked for.
func (o *overdue) waitForRotations() (first, last time.Time) {
	o.Helper()
	limit := time.Now().Add(2*time.Minute + tooLong*o.ideal()) // Vault has the engine look after up to a minute
	for time.Now().Before(limit) {
		if minted := o.lab.mints(); len(minted) >= o.roles {
			return minted[0], minted[o.roles-1]
		}
		time.Sleep(100 * time.Millisecond)
	}
	minted := o.lab.mints()
	if len(minted) == 0 {
		o.Fatal("no role was rotated")
	}
	o.Errorf("%d of %d roles were rotated in %s", len(minted), o.roles, time.Since(minted[0]).Round(time.Second))
	return minted[0], minted[len(minted)-1]
}

// staticRead is a read of a static role.
type staticRead struct {
	began time.Time
	took  time.Duration
}

// readsWhile reads a static role again and again while something goes on, and
// returns the reads, the fastest ones first.
func (o *overdue) readsWhile(do func()) []staticRead {
	o.Helper()
	stop := make(chan struct{})
	var reading sync.WaitGroup
	var reads []staticRead
	reading.Go(func() {
		for {
			began := time.Now()
			if err := o.reader.read(mountRegcred + "/creds/static"); err != nil {
				o.Errorf("a read of a static role: %v", err)
				return
			}
			reads = append(reads, staticRead{began, time.Since(began)})
			select {
			case <-stop:
				return
			case <-time.After(beside):
			}
		}
	})
	do()
	close(stop)
	reading.Wait()
	slices.SortFunc(reads, func(a, b staticRead) int { return cmp.Compare(a.took, b.took) })
	return reads
}

// report prints the result. reads are those before, while and after roles were
// rotated.
func (o *overdue) report(unsealed, first, last time.Time, reads [3][]staticRead) {
	o.Helper()
	took := last.Sub(first)
	ratio := took.Seconds() / o.ideal().Seconds()

	fmt.Println()
	table := tabwriter.NewWriter(o.Output(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "%d overdue roles, a registry that answers in %s\n", o.roles, answersIn)
	fmt.Fprintf(table, "first rotation after Vault was unsealed\t%s\n", first.Sub(unsealed).Round(time.Millisecond))
	fmt.Fprintf(table, "from the first rotation to the last\t%s\n", took.Round(time.Millisecond))
	fmt.Fprintf(table, "the same with always %d calls\t%s\n", callsAtOnce, o.ideal())
	fmt.Fprintf(table, "most calls at a time\t%d\n", o.lab.most)
	var medians [3]time.Duration
	for i, when := range []string{"before", "meanwhile", "afterwards"} {
		all := reads[i]
		if len(all) == 0 {
			o.Fatalf("no role was read %s", when)
		}
		medians[i] = all[len(all)/2].took
		fmt.Fprintf(table, "reads of a static role %s\t%d, median %s, 99%% within %s, all within %s\n", when, len(all),
			medians[i].Round(time.Microsecond), all[len(all)*99/100].took.Round(time.Microsecond), all[len(all)-1].took.Round(time.Millisecond))
	}
	// The machine may have become slower or faster since.
	slower := medians[1].Seconds() / max(medians[0], medians[2]).Seconds()
	fmt.Fprintf(table, "ratio of the times\t%.2f (at most %.2f)\n", ratio, allowedTime)
	fmt.Fprintf(table, "ratio of the reads\t%.2f (at most %.2f)\n", slower, allowedRead)
	_ = table.Flush()
	if ratio > allowedTime {
		o.Errorf("the rotation of %d roles took %.2f times as long as the limit of calls allows", o.roles, ratio)
	}
	if slower > allowedRead {
		o.Errorf("reads of a static role took %.2f times as long while roles were rotated", slower)
	}
	if o.lab.most > callsAtOnce {
		o.Errorf("want at most %d calls at a time, got %d", callsAtOnce, o.lab.most)
	}
}
