// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/registry"
)

// recordVerification stores what a verification of a role has found, for the role itself
// and for the members of a bundle that are verified by themselves. What was found for
// credentials that are not served any more is dropped. retryAt is when to verify again
// out of turn; zero: in turn.
func (b *backend) recordVerification(ctx context.Context, storage logical.Storage, name string, secret pullSecret, results []verification) (retryAt time.Time, err error) {
	own := secret.sources
	if secret.isBundle {
		own = verifiedWithBundle(secret.sources, secret.settings)
		for _, s := range secret.sources {
			if s.verifyPeriod(secret.settings) == 0 {
				continue
			}
			if _, err := b.recordOf(ctx, storage, s.name, []source{s}, results); err != nil {
				return time.Time{}, err
			}
		}
	}
	if len(own) == 0 {
		return time.Time{}, nil
	}
	return b.recordOf(ctx, storage, name, own, results)
}

// verifiedWithBundle returns the members of a bundle that are not verified by themselves.
// What is found for the others is found once, and not for each bundle.
func verifiedWithBundle(members []source, settings config) []source {
	return slices.DeleteFunc(slices.Clone(members), func(s source) bool { return s.verifyPeriod(settings) > 0 })
}

// recordOf records the results about some sources as the verdict of a role.
func (b *backend) recordOf(ctx context.Context, storage logical.Storage, name string, sources []source, results []verification) (retryAt time.Time, err error) {
	of := slices.DeleteFunc(slices.Clone(results), func(v verification) bool {
		return !slices.ContainsFunc(sources, func(s source) bool { return s.name == v.role })
	})
	worst, found := b.worstOf(ctx, storage, name, of)
	if !found {
		var hosts []string
		for _, v := range of {
			hosts = append(hosts, v.registry.Host())
		}
		return b.retryAfterOutage(name, hosts...), nil
	}
	var credentials []dockerconfig.Credential
	for _, s := range sources {
		credentials = append(credentials, s.docker.Credentials()...)
	}
	v, err := b.recordVerdict(ctx, storage, name, subjectOf(sources...), worst.found(name, credentials))
	if err == nil && isBad(v.Verdict) && !v.Confirmed {
		retryAt = b.now().Add(confirmAfter)
	}
	return retryAt, err
}

// found returns what a verification found for a role. credentials are those that were
// tried.
func (v verification) found(name string, credentials []dockerconfig.Credential) finding {
	message := withoutUserNames(v.Message, credentials)
	if v.role != name && message != "" {
		message = "role " + v.role + ": " + message
	}
	return finding{Verdict: v.Verdict, Registry: v.registry.ImageName(), Message: message}
}

// worstOf returns the worst of some results. It leaves out registries that cannot be
// reached by any role; and without them, what is left says that a role can pull only if
// it says so of all its registries.
func (b *backend) worstOf(ctx context.Context, storage logical.Storage, name string, results []verification) (worst verification, found bool) {
	missing := false
	for _, v := range results {
		host := v.registry.Host()
		switch {
		case !v.asked:
			missing = true
			continue
		case v.Verdict == registry.Unreachable:
			isOwn, confirmed := b.outages.failed(name, host, v.Failure, b.now())
			if confirmed {
				b.beginOutage(ctx, storage, host)
			}
			if !isOwn {
				missing = true
				continue
			}
		case b.outages.answered(name, host, b.now()):
			b.endOutage(ctx, storage, host)
		}
		if !found || severityOf(v.Verdict) > severityOf(worst.Verdict) {
			worst, found = v, true
		}
	}
	return worst, found && (!missing || isBad(worst.Verdict))
}

// retryAfterOutage returns when to try a role again of which a registry could not be
// reached. A role is tried again at the same times whoever asks, so the trials of
// one do not add up.
func (b *backend) retryAfterOutage(name string, hosts ...string) time.Time {
	now := b.now()
	for _, host := range hosts {
		if r := b.outages.of(host); r.failing && !r.confirmed {
			return now.Add(confirmAfter)
		}
	}
	return slotAfter(name, outageRetry, now)
}

// recordVerdict stores a verdict, and announces it if it is bad for the second time, or
// good again.
func (b *backend) recordVerdict(ctx context.Context, storage logical.Storage, name, subject string, f finding) (verdict, error) {
	defer b.lockRole(name)()
	r, err := b.role(ctx, storage, name)
	if err != nil || r == nil {
		return verdict{}, err
	}
	settings, err := b.config(ctx, storage)
	if err != nil || r.verifyPeriod(settings) == 0 {
		return verdict{}, err
	}
	if now, err := b.subjectOfRole(ctx, storage, name, r, settings); err != nil || now != subject {
		return verdict{}, err // it was replaced meanwhile
	}
	return b.recordVerdictLocked(ctx, storage, name, subject, f)
}

func (b *backend) recordVerdictLocked(ctx context.Context, storage logical.Storage, name, subject string, f finding) (verdict, error) {
	before, err := b.verdict(ctx, storage, name)
	if err != nil {
		return verdict{}, err
	}
	v := before.next(subject, f, b.now())
	if v.isSameAs(before) && v.At.Sub(before.At).Abs() < minVerifyPeriod {
		return before, nil
	}
	if err := b.putVerdict(ctx, storage, name, v); err != nil {
		return verdict{}, err
	}
	switch {
	case v.Confirmed && (!before.Confirmed || before.Subject != subject || before.Verdict != f.Verdict):
		b.Logger().Warn("the pull secret of a role fails its verification", "role", name, "verdict", string(f.Verdict), "message", f.Message)
		b.sendVerifyEvent(ctx, "verify-fail", name)
	case before.Alarmed && !v.Alarmed:
		b.Logger().Info("the pull secret of a role passes its verification again", "role", name, "verdict", string(f.Verdict))
		b.sendVerifyEvent(ctx, "verify-ok", name)
	}
	return v, nil
}

// isSameAs reports whether two verdicts say the same, at different times.
func (v verdict) isSameAs(other verdict) bool {
	v.At = other.At
	v.ReplacedAt, v.Since = v.ReplacedAt.UTC(), v.Since.UTC()
	other.ReplacedAt, other.Since = other.ReplacedAt.UTC(), other.Since.UTC()
	return v == other
}

func (b *backend) sendVerifyEvent(ctx context.Context, event, name string) {
	b.sendEventAbout(ctx, event, "verify/"+name, "creds/"+name, logical.UpdateOperation, false)
}

// subjectOfRole says which credentials are verified for a role as it is stored: of a
// bundle, those of the members that are not verified by themselves.
func (b *backend) subjectOfRole(ctx context.Context, storage logical.Storage, name string, r *role, settings config) (string, error) {
	sources, err := b.sources(ctx, storage, name, r)
	if isInputError(err) {
		return "", nil // nothing is served
	} else if err != nil {
		return "", err
	}
	if r.Bundle != nil {
		sources = verifiedWithBundle(sources, settings)
	}
	for i := range sources {
		if err := b.loadShared(ctx, storage, &sources[i]); err != nil {
			return "", err
		}
	}
	return subjectOf(sources...), nil
}

// loadShared loads what a shared role serves.
func (b *backend) loadShared(ctx context.Context, storage logical.Storage, s *source) (err error) {
	if s.isShared() {
		s.shared, err = b.sharedStatus(ctx, storage, s.name, s.Dynamic)
	}
	return err
}

// followCredential has a role verified soon whose credential was replaced, unless it was
// proved already. What is known of the former one is not shown any more. The role is
// locked.
func (b *backend) followCredential(ctx context.Context, storage logical.Storage, name string, r *role, proved []verification) {
	b.settleFailing(ctx, storage, name)
	settings, err := b.config(ctx, storage)
	if err != nil || b.verifications.count() == 0 && r.verifyPeriod(settings) == 0 {
		return
	}
	if r.verifyPeriod(settings) == 0 {
		bundles, err := storage.List(ctx, bundleIndexPrefix+name+"/")
		if err != nil {
			b.Logger().Debug("the bundles that join a role are verified in turn only", "role", name, "error", err)
		}
		for _, bundle := range bundles {
			b.verifySoon(bundle)
		}
		return
	}
	if worst, found := b.worstOf(ctx, storage, name, proved); found && !isBad(worst.Verdict) {
		subject, err := b.subjectOfRole(ctx, storage, name, r, settings)
		if err == nil {
			_, err = b.recordVerdictLocked(ctx, storage, name, subject, worst.found(name, nil))
		}
		if err == nil {
			b.verifications.push(name, slotAfter(name, r.verifyPeriod(settings), b.now()))
			return
		}
	}
	b.verifySoon(name)
}

// followWrite has the engine follow a write of a role, which is locked.
func (b *backend) followWrite(ctx context.Context, storage logical.Storage, name string, r, old *role, settings config, proved []verification) {
	period := r.verifyPeriod(settings)
	switch {
	case !r.verifiesAs(old):
		b.followCredential(ctx, storage, name, r, proved)
	case period == 0:
		b.settleFailing(ctx, storage, name)
	case period != old.verifyPeriod(settings):
		b.verifySoon(name)
	}
}

// verifySoon makes an appointment for a role, and others for those that come with it.
func (b *backend) verifySoon(name string) {
	b.verifications.push(name, b.now().Add(time.Duration(phaseOf(name, int64(followSpread/time.Second)))*time.Second))
}

// followSpread is over which time roles are spread whose credentials were replaced.
const followSpread = 30 * time.Second

// commonUserNames are user names that say nothing, and that a message may have as words.
var commonUserNames = []string{"aws", "token", "oauth2", "oauth2accesstoken", "user", "username", "registry", "gitlab-ci-token", "_json_key", "_json_key_base64"}

// withoutUserNames takes the user names out of a message: those who may read status need
// not learn them.
func withoutUserNames(message string, credentials []dockerconfig.Credential) string {
	for _, c := range credentials {
		if len(c.Username) >= 3 && !slices.Contains(commonUserNames, strings.ToLower(c.Username)) {
			message = strings.ReplaceAll(message, c.Username, "[user name]")
		}
	}
	return message
}

// failingWarnings warns of credentials that their registry refuses.
func (b *backend) failingWarnings(ctx context.Context, storage logical.Storage, name string, sources ...source) ([]string, error) {
	v, err := b.failingVerdict(ctx, storage, name, func() string { return subjectOf(sources...) })
	if err != nil || v == nil || v.Verdict != registry.Denied {
		return nil, err
	}
	what := "write a new credential to roles/" + name
	if s := sources[0]; len(sources) > 1 || s.name != name {
		what = "write a new one to the role that it names"
	} else if s.isShared() {
		what = "rotate/" + name + " replaces it"
	}
	return []string{fmt.Sprintf("the registry refuses the credential of role %q since %s: %s; %s", name, formatTime(v.Since), v.Message, what)}, nil
}
