// SPDX-License-Identifier: MPL-2.0

package soak

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
)

const (
	grace    = 30 * time.Second
	leaseTTL = 20 * time.Second
	leaseMax = time.Minute

	// tickMargin allows for times that are in whole seconds.
	tickMargin = time.Second

	mostHeld = 20 // how many credentials a worker holds at most
)

func (w *world) registryKey() string { return w.gitlab.Host() }

// alive reports whether a credential pulls.
func (w *world) alive(l login) bool {
	return w.gitlab.Pulls(issuer.Credential{Username: l.username, Password: dockerconfig.NewSecret(l.password)}, gitlabtest.Project)
}

// held is a credential that must pull until some time.
type held struct {
	login
	of    string
	until time.Time
}

// mustPull pulls. A failure is wrong only if the pull ended before the
// credential may end.
func (w *worker) mustPull(h held) {
	w.load.RLock()
	defer w.load.RUnlock()
	if !w.alive(h.login) && time.Now().Before(h.until) {
		w.wrong("%s: what was read is refused by the registry %s before its end: %s", h.of, time.Until(h.until), h.username)
	}
	w.count("pull", "as it should be")
}

// sharedRole is a shared role that is never deleted. GitLab numbers its tokens,
// so the test knows which of two is newer.
type sharedRole struct {
	name   string
	period time.Duration

	mu     sync.Mutex
	newest int64            // number of the newest token that a read returned
	logins map[int64]string // passwords by number; they do not change
}

func (s *sharedRole) sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest
}

// sawToken records a token that a read returned, and returns what is wrong with
// it.
func (s *sharedRole) sawToken(before, number int64, password string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if number < before {
		return fmt.Sprintf("token %d is older than %d, which was read or replaced before", number, before)
	}
	if known, seen := s.logins[number]; seen && known != password {
		return fmt.Sprintf("token %d has another password than before", number)
	}
	s.logins[number] = password
	s.newest = max(s.newest, number)
	return ""
}

// replaced records that all tokens up to a number were replaced.
func (s *sharedRole) replaced(number int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = max(s.newest, number+1)
}

func (s *sharedRole) served() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.logins)
}

const tokenUser = "gitlab+deploy-token-"

// readShared reads a shared role and pulls with its credential, now or later.
func (w *worker) readShared(s *sharedRole) {
	name, before := pick(w, forms), s.sent()
	a := w.read("read of a shared role", "creds/"+s.name+name)
	if a.outcome != acknowledged {
		return
	}
	logins, ok := loginsIn(a.data(), name)
	if !ok || len(logins) != 1 {
		w.wrong("creds/%s%s: want one registry, got %v", s.name, name, a)
		return
	}
	w.checkShared(s, before, logins[w.registryKey()], a)
	for field, want := range form(name, logins) {
		if a.data()[field] != want {
			w.wrong("creds/%s%s: want %s %v, got %v", s.name, name, field, want, a)
		}
	}
}

// checkShared checks a shared credential that was read. After it is replaced,
// it works for the grace period.
func (w *worker) checkShared(s *sharedRole, before int64, l login, a answer) {
	number, err := strconv.ParseInt(strings.TrimPrefix(l.username, tokenUser), 10, 64)
	if err != nil || l.password == "" {
		w.wrong("creds/%s: not a deploy token: %v", s.name, a)
		return
	}
	if problem := s.sawToken(before, number, l.password); problem != "" {
		w.wrong("creds/%s, read from %s to %s: %s", s.name, stamp(a.sent), stamp(a.got), problem)
	}
	h := held{l, "creds/" + s.name, a.sent.Add(grace)}
	if text, _ := a.data()["expires_at"].(string); text != "" {
		expires, err := time.Parse(time.RFC3339, text)
		if err != nil {
			w.wrong("creds/%s: expires_at %q", s.name, text)
		} else if expires.Before(h.until) {
			h.until = expires.Add(-tickMargin)
		}
	} else {
		h.until = a.sent.Add(tickMargin) // this form does not say when the credential ends
	}
	if w.oneIn(2) {
		w.mustPull(h)
	} else {
		w.hold(h)
	}
}

// hold keeps a credential for a later pull.
func (w *worker) hold(h held) {
	w.holding = append(w.holding, h)
	w.holding = slices.DeleteFunc(w.holding, func(h held) bool { return time.Now().After(h.until) })
	if len(w.holding) > mostHeld {
		i := w.IntN(len(w.holding))
		w.mustPull(w.holding[i])
		w.holding = slices.Delete(w.holding, i, i+1)
	}
}

// rotate replaces a shared credential. Reads that are sent afterwards return a
// newer one.
func (w *worker) rotate(s *sharedRole) {
	before := s.sent()
	a := w.write("rotate of a shared role", "rotate/"+s.name, nil)
	if a.outcome != acknowledged {
		return
	}
	s.replaced(before)
	if fmt.Sprint(a.data()["rotation_period"]) != fmt.Sprint(int64(s.period/time.Second)) || a.data()["last_vault_rotation"] == nil {
		w.wrong("rotate/%s: %v", s.name, a)
	}
}

// readBackShared reads the fields of a shared role, which show no password.
func (w *worker) readBackShared(s *sharedRole) {
	a := w.read("read of a role", "roles/"+s.name)
	if a.outcome != acknowledged {
		return
	}
	text := fmt.Sprint(a.data())
	if a.data()["mode"] != "shared" || a.data()["connection"] != "gitlab" || strings.Contains(text, "gldt-") {
		w.wrong("roles/%s: %s", s.name, text)
	}
}

// beginAndEnd writes a shared role, reads it with several clients at once, and
// deletes it. One credential is minted, and none works at the end.
func (w *worker) beginAndEnd() {
	const name = "passing"
	var minted []login
	certain := true
	note := func(a answer) {
		if logins, ok := loginsIn(a.data(), ""); ok && a.outcome == acknowledged {
			minted = append(minted, logins[w.registryKey()])
		}
		certain = certain && a.outcome == acknowledged
	}
	if a := w.write("write of a shared role", "roles/"+name, w.shared(time.Hour)); a.outcome == acknowledged {
		var mu sync.Mutex
		var readers sync.WaitGroup
		for range 5 {
			readers.Go(func() {
				a := w.read("first read of a shared role", "creds/"+name)
				mu.Lock()
				defer mu.Unlock()
				note(a)
			})
		}
		readers.Wait()
		if certain {
			for _, l := range minted {
				w.mustPull(held{l, "creds/" + name, time.Now().Add(time.Minute)})
				if l != minted[0] {
					w.wrong("creds/%s: want one credential for all first reads, got more", name)
				}
			}
		}
		if w.oneIn(2) {
			a := w.write("rotate of a shared role", "rotate/"+name, nil)
			certain = certain && a.outcome == acknowledged
			note(w.read("read of a shared role", "creds/"+name))
		}
	}
	a := w.removeForSure("roles/" + name)
	if a.outcome != acknowledged {
		return // the load has ended
	}
	if left := w.read("read of no role", "creds/"+name); left.outcome == acknowledged && left.Secret != nil {
		w.wrong("creds/%s after its deletion: %v", name, left)
	}
	warned := a.Secret != nil && len(a.Warnings) > 0 // a warning that something is revoked later
	for _, l := range minted {
		if !warned && w.alive(l) {
			w.wrong("roles/%s is deleted, and what it served pulls: %s", name, l.username)
		}
	}
}

// removeForSure deletes until a deletion is acknowledged.
func (w *worker) removeForSure(path string) (a answer) {
	for w.ending.Err() == nil {
		if a = w.remove("delete of a role", path); a.outcome == acknowledged {
			return a
		}
		time.Sleep(100 * time.Millisecond)
	}
	a.outcome = unknown
	return a
}

func (w *world) shared(period time.Duration) map[string]any {
	return map[string]any{
		"connection": "gitlab", "mode": "shared", "project": gitlabtest.Project,
		"rotation_period": period.String(), "grace_period": grace.String(), "allowed_bundles": allBundles,
	}
}

func (w *world) leased(tokenType string) map[string]any {
	return map[string]any{
		"connection": "gitlab", "mode": "leased", "project": gitlabtest.Project, "token_type": tokenType,
		"ttl": leaseTTL.String(), "max_ttl": leaseMax.String(),
	}
}

// lease is a leased credential.
type lease struct {
	held
	id   string
	ends time.Time // cannot be renewed beyond this
}

// locked is a leased role that the connection does not allow at times.
const locked = "locked"

// readLeased reads a leased role, which mints.
func (w *worker) readLeased(role string) {
	name, oldest := pick(w, forms), w.open.sent()
	a := w.read("read of a leased role", "creds/"+role+name, refusal{http.StatusBadRequest, "cannot use connection"})
	if a.outcome == unknown {
		return
	}
	is := func(open bool) bool { return open == (a.outcome == acknowledged) }
	if role == locked && !w.open.saw(oldest, is) || role != locked && a.outcome == refused {
		w.wrong("creds/%s does not go by allowed_roles of the connection: %v", role, a)
	}
	if a.outcome == refused {
		return
	}
	logins, ok := loginsIn(a.data(), name)
	if !ok || len(logins) != 1 || a.LeaseID == "" || !a.Renewable {
		w.wrong("creds/%s%s: want one registry on a lease that can be renewed, got %v", role, name, a)
		return
	}
	lasts := time.Duration(a.LeaseDuration) * time.Second // counted from when Vault has stored the lease
	if lasts > leaseTTL || lasts < leaseTTL-a.got.Sub(a.sent)-tickMargin {
		w.wrong("creds/%s: want a lease of %s, got %s", role, leaseTTL, lasts)
	}
	l := &lease{held{logins[w.registryKey()], "creds/" + role, a.sent.Add(leaseTTL - tickMargin)}, a.LeaseID, a.sent.Add(leaseMax - tickMargin)}
	w.mustPull(l.held)
	w.leases = append(w.leases, l)
}

// useLease pulls with, renews or revokes a lease that the worker holds.
func (w *worker) useLease() {
	w.leases = slices.DeleteFunc(w.leases, func(l *lease) bool { return time.Now().After(l.until) })
	if len(w.leases) == 0 {
		w.readLeased(pick(w, w.leasing))
		return
	}
	i := w.IntN(len(w.leases))
	l := w.leases[i]
	switch w.IntN(4) {
	case 0:
		w.mustPull(l.held)
	case 1, 2:
		w.renew(l)
	case 3:
		w.leases = slices.Delete(w.leases, i, i+1)
		w.revoke(l)
	}
}

func (w *worker) renew(l *lease) {
	a := w.ask("renewal of a lease", func(ctx context.Context) (*api.Secret, error) {
		return w.client.Sys().RenewWithContext(ctx, l.id, 0)
	}, refusal{http.StatusBadRequest, ""})
	switch {
	case a.outcome == refused && a.got.Before(l.until):
		w.wrong("a lease of %s cannot be renewed %s before its end: %s", l.of, time.Until(l.until), lastLine(a.says))
	case a.outcome == acknowledged:
		lasts := a.sent.Add(time.Duration(a.LeaseDuration)*time.Second - tickMargin)
		if lasts.After(l.ends.Add(2 * tickMargin)) {
			w.wrong("a lease of %s is renewed beyond its max_ttl: %s", l.of, lasts.Sub(l.ends))
		}
		l.until = earlier(lasts, l.ends)
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (w *worker) revoke(l *lease) {
	a := w.ask("revocation of a lease", func(ctx context.Context) (*api.Secret, error) {
		return nil, w.client.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: l.id, Sync: true})
	})
	if a.outcome == acknowledged && w.alive(l.login) {
		w.wrong("a lease of %s is revoked, and its credential pulls: %s", l.of, l.username)
	}
}

// administer changes, checks and rotates connections.
func (w *worker) administer() {
	const path = "connections/gitlab"
	asks := refusal{http.StatusBadRequest, "\x00"} // matches no error: a registry that does not answer is a fault
	switch w.IntN(8) {
	case 0, 1, 2:
		open, verify := w.oneIn(2), w.oneIn(2)
		fields := map[string]any{"allowed_roles": w.allowedRoles(open), "verify_connection": verify}
		send := w.patch
		if w.oneIn(2) {
			send = w.write
		}
		w.open.write(open, func() outcome {
			a := send("write of a connection", path, fields, asks)
			if strings.Contains(a.says, "nothing is stored") {
				return refused
			}
			return a.outcome
		})
	case 3:
		w.write("rotate-root", path+"/rotate-root", nil)
	case 4:
		a := w.read("check of a connection", path+"/check")
		if a.outcome == acknowledged && a.data()["identity"] != gitlabtest.Account {
			w.wrong("%s/check: %v", path, a)
		}
	case 5:
		oldest := w.open.sent()
		a := w.read("read of a connection", path)
		if a.outcome != acknowledged {
			return
		}
		is := func(open bool) bool { return fmt.Sprint(a.data()["allowed_roles"]) == fmt.Sprint(w.allowedRoles(open)) }
		if !w.open.saw(oldest, is) || strings.Contains(fmt.Sprint(a.data()), "glpat-") {
			w.wrong("%s: %v", path, a)
		}
	case 6, 7:
		w.spare()
	}
}

// allowedRoles allows all roles, or all roles except locked.
func (w *world) allowedRoles(open bool) []string {
	if open {
		return []string{"*"}
	}
	return []string{"shared-*", "leased", "robot", "passing", "brief"}
}

// spare writes a connection that nothing uses, and deletes it.
func (w *worker) spare() {
	const path = "connections/spare"
	w.write("write of a connection", path, map[string]any{
		"type": "gitlab", "url": w.faults.url(), "registry": "spare.example.com", "token": w.spareToken, "verify_connection": w.oneIn(2),
	})
	w.list("list of the connections", "connections")
	w.read("check of a connection", path+"/check", refusal{http.StatusNotFound, ""})
	w.remove("delete of a connection", path)
}

// beginAndEndLeased writes a leased role and deletes it. Its credential lasts
// as long as its lease, which then cannot be renewed.
func (w *worker) beginAndEndLeased() {
	const name = "brief"
	w.write("write of a leased role", "roles/"+name, w.leased("deploy_token"))
	a := w.read("read of a leased role", "creds/"+name)
	removed := w.removeForSure("roles/" + name)
	if a.outcome != acknowledged || a.Secret == nil || removed.outcome != acknowledged {
		return
	}
	logins, _ := loginsIn(a.data(), "")
	l := &lease{held{logins[w.registryKey()], "creds/" + name, a.sent.Add(leaseTTL - tickMargin)}, a.LeaseID, time.Time{}}
	w.mustPull(l.held)
	renewed := w.ask("renewal of a lease", func(ctx context.Context) (*api.Secret, error) {
		return w.client.Sys().RenewWithContext(ctx, l.id, 0)
	}, refusal{http.StatusBadRequest, ""})
	if renewed.outcome == acknowledged {
		w.wrong("a lease of role %s is renewed after the role was deleted", name)
	}
	w.revoke(l)
}

// verified is a static role for a real registry, whose password is right or
// wrong.
const (
	verified = "verified"
	pullUser = "puller"
	pullPass = "r1ght-p4ssword"
)

// verify proves that roles can pull.
func (w *worker) verify() {
	switch w.IntN(4) {
	case 0:
		right, known := w.pulling.last()
		a := w.write("verify", "verify/"+verified, nil)
		want := map[bool]string{true: "unverified", false: "denied"}[right]
		if a.outcome == acknowledged && known && a.data()["verdict"] != want {
			w.wrong("verify/%s: want %s, got %v", verified, want, a)
		}
	case 1:
		w.writeVerified()
	case 2:
		w.verifyMinted(pick(w, w.shareds).name)
	case 3:
		w.verifyMinted("leased")
	}
}

func (w *worker) verifyMinted(role string) {
	a := w.write("verify", "verify/"+role, map[string]any{"repository": gitlabtest.Project + ":1"})
	if a.outcome == acknowledged && a.data()["verdict"] != "ok" {
		w.wrong("verify/%s: %v", role, a)
	}
}

// writeVerified writes a password. With verify=true, a wrong one is refused.
func (w *worker) writeVerified() {
	right, verify := w.oneIn(2), w.oneIn(2)
	fields := map[string]any{"registry": w.pulls.Addr, "username": pullUser, "password": "wr0ng", "verify": verify}
	if right {
		fields["password"] = pullPass
	}
	w.pulling.write(right, func() outcome {
		a := w.write("write that is verified", "roles/"+verified, fields, refusal{http.StatusBadRequest, "verify: nothing is stored"})
		if a.outcome != unknown && (a.outcome == refused) != (verify && !right) {
			w.wrong("roles/%s with verify=%t and a password that is right: %t: %v", verified, verify, right, a)
		}
		return a.outcome
	})
}
