// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/registry"
)

// The engine verifies roles by itself as jobs, in a fixed number of lanes: the registry of
// a role chooses the lane, so one that hangs delays few others, and each is asked at most
// verifyJobsAtOnce times at once, with a pause after each role.
const (
	verifyLanes      = 32
	verifyJobsAtOnce = 2
	verifyPause      = 100 * time.Millisecond

	// openFor is how long appointments are taken after Vault has called the engine,
	// which it does once a minute.
	openFor = 90 * time.Second

	// lookEvery is how often the timetable is looked at meanwhile: there may be a new
	// appointment.
	lookEvery = 5 * time.Second

	// missedFor is for how long a start catches up on roles that were not verified in
	// time. Those that are later wait for their next turn, so that they do not all come
	// at once.
	missedFor = 10 * time.Minute
)

// verifyDue has the roles verified that are due, until Vault calls the engine again. The
// node is the active one.
func (b *backend) verifyDue(ctx context.Context, storage logical.Storage) error {
	now := b.now()
	toFill, isStart := b.verifications.open(now, now.Add(openFor))
	if toFill {
		if err := b.fillTimetable(ctx, storage, isStart); err != nil {
			b.verifications.forget()
			return err
		}
	}
	for _, host := range b.outages.forgetOld(now) {
		b.endOutage(ctx, storage, host)
	}
	b.addJob("verifications", 1, "what is to be verified", func(ctx context.Context) { b.takeAppointments(ctx, storage) })
	return nil
}

// fillTimetable reads from lists when each role is to be verified, and no role.
func (b *backend) fillTimetable(ctx context.Context, storage logical.Storage, isStart bool) error {
	settings, err := b.config(ctx, storage)
	if err != nil {
		return err
	}
	keys, err := storage.List(ctx, verifyPeriodsPrefix)
	if err != nil {
		return fmt.Errorf("listing the roles with a verify_period: %w", err)
	}
	own := make(map[string]time.Duration, len(keys))
	for _, key := range keys {
		if period, name, ok := parseVerifyPeriodKey(key); ok && (own[name] == 0 || period < own[name]) {
			own[name] = period
		}
	}
	names := slices.Sorted(maps.Keys(own))
	if settings.VerifyPeriod.Duration > 0 {
		if names, err = storage.List(ctx, roleStoragePrefix); err != nil {
			return fmt.Errorf("listing the roles: %w", err)
		}
	}
	now := b.now()
	all := make(appointments, 0, len(names))
	for _, name := range names {
		period := settings.VerifyPeriod.Duration
		if p := own[name]; p > 0 {
			period = p
		}
		at := slotAfter(name, period, now)
		if isStart && now.Sub(at.Add(-period)) < missedFor {
			at = now.Add(time.Duration(phaseOf(name, int64(openFor/time.Second))) * time.Second)
		}
		all = append(all, appointment{at.Unix(), name})
	}
	b.verifications.add(all)
	return errors.Join(b.loadOutages(ctx, storage), b.checkFailing(ctx, storage))
}

// checkFailing finds out which roles fail, and deletes keys that the index of them has too
// many.
func (b *backend) checkFailing(ctx context.Context, storage logical.Storage) error {
	if err := b.loadFailing(ctx, storage); err != nil {
		return err
	}
	for name := range b.failing.byRole.Range {
		if err := b.checkFailingRole(ctx, storage, name.(string)); err != nil {
			return err
		}
	}
	return nil
}

func (b *backend) checkFailingRole(ctx context.Context, storage logical.Storage, name string) error {
	defer b.lockRole(name)()
	r, err := b.role(ctx, storage, name)
	if unreadable := (unreadableError{}); err != nil && !errors.As(err, &unreadable) {
		return err
	}
	settings, err := b.config(ctx, storage)
	if err != nil {
		return err
	}
	v, err := b.verdict(ctx, storage, name)
	if err != nil {
		return err
	}
	if r == nil || r.verifyPeriod(settings) == 0 {
		b.settleFailing(ctx, storage, name)
		return nil
	}
	if subject, err := b.subjectOfRole(ctx, storage, name, r, settings); err != nil || v.Confirmed && v.Subject == subject {
		return err
	}
	b.settleFailing(ctx, storage, name)
	return nil
}

// takeAppointments has each role verified when its time has come, until the timetable
// closes. It waits by its own count: the clock may jump.
func (b *backend) takeAppointments(ctx context.Context, storage logical.Storage) {
	began, waited := b.now(), time.Duration(0)
	for ctx.Err() == nil {
		next, wait, ok := b.verifications.take(later(b.now(), began.Add(waited)))
		if !ok {
			return
		}
		if wait > 0 {
			wait = min(wait, lookEvery)
			b.sleep(ctx, wait)
			waited += wait
			continue
		}
		if err := b.keepAppointment(ctx, storage, next); err != nil && ctx.Err() == nil {
			b.Logger().Debug("a role could not be verified", "role", next.name, "error", err)
		}
	}
}

// keepAppointment has a role verified in the background, and makes its next appointment.
func (b *backend) keepAppointment(ctx context.Context, storage logical.Storage, a appointment) error {
	r, err := b.role(ctx, storage, a.name)
	if unreadable := (unreadableError{}); r == nil && err == nil || errors.As(err, &unreadable) {
		return nil
	}
	if err != nil {
		b.verifications.push(a.name, b.now().Add(time.Minute))
		return err
	}
	settings, err := b.config(ctx, storage)
	if err != nil {
		b.verifications.push(a.name, b.now().Add(time.Minute))
		return err
	}
	period := r.verifyPeriod(settings)
	if period == 0 {
		return nil
	}
	now := b.now()
	b.verifications.push(a.name, slotAfter(a.name, period, later(now, a.time())))
	if now.Sub(a.time()) > missedFor {
		return nil
	}
	lane, host := b.verifyLane(ctx, storage, a.name, r)
	if h := b.outages.of(host); h.failing && now.Sub(h.failedAt).Abs() < outagePause {
		b.verifyAgain(a.name, period, b.retryAfterOutage(a.name, host))
		return nil
	}
	b.addJob(lane, verifyJobsAtOnce, "verification of "+a.name, func(ctx context.Context) {
		if err := b.verifyNow(ctx, storage, a.name); err != nil && ctx.Err() == nil {
			b.Logger().Debug("a role could not be verified", "role", a.name, "error", err)
		}
		b.sleep(ctx, verifyPause)
	})
	return nil
}

// verifyLane returns the lane in which a role is verified, and the registry that it is
// verified at, if there is one.
func (b *backend) verifyLane(ctx context.Context, storage logical.Storage, name string, r *role) (lane, host string) {
	keys := b.registriesOf(ctx, storage, r)
	if len(keys) > 0 {
		host = keys[0].Host()
	}
	lane = fmt.Sprintf("verifications %d", phaseOf(cmp.Or(host, name), verifyLanes))
	if len(keys) > 1 {
		return lane, ""
	}
	return lane, host
}

// verifyAgain makes an appointment out of turn, unless the next one is about as early.
func (b *backend) verifyAgain(name string, period time.Duration, at time.Time) {
	if !at.IsZero() && at.Before(b.now().Add(period)) {
		b.verifications.push(name, at)
	}
}

// errNothingServed is about a role that has no credential to verify. The engine mints
// none for it.
var errNothingServed = errors.New("the role serves nothing that could be verified")

// verifyNow verifies what a role serves, unless that was just proved, and records what it
// finds.
func (b *backend) verifyNow(ctx context.Context, storage logical.Storage, name string) error {
	if b.failing.has(name) { // what the role serves may have changed with its members
		if err := b.checkFailingRole(ctx, storage, name); err != nil {
			return err
		}
	}
	r, err := b.role(ctx, storage, name)
	if err != nil || r == nil {
		return err
	}
	secret, err := b.servedNow(ctx, storage, name, r)
	if isInputError(err) || errors.Is(err, errNothingServed) {
		return nil // nothing is served that could be tried
	} else if err != nil {
		return err
	}
	period := r.verifyPeriod(secret.settings)
	if period == 0 || len(secret.sources) == 0 {
		return nil
	}
	before, err := b.verdict(ctx, storage, name)
	if err != nil {
		return err
	}
	now := b.now()
	slot := slotAfter(name, period, now).Add(-period)
	if before.isFresh(subjectOf(secret.sources...), slot, period, now) {
		if before.isSettled() && before.At.Before(slot) {
			b.verifyAgain(name, period, now.Add(period/2)) // so that no more than a period lies between two trials
		}
		return nil
	}
	results, err := b.verify(withUrgency(ctx, routine), secret, "")
	if err != nil || ctx.Err() != nil { // at the end of the engine, nothing is found
		return err
	}
	retryAt, err := b.recordVerification(ctx, storage, name, secret, results)
	b.verifyAgain(name, period, retryAt)
	if err != nil {
		return err
	}
	if r.isShared() {
		b.replaceRefused(ctx, storage, name, r.Dynamic.Connection, subjectOf(secret.sources...))
	}
	return nil
}

// servedNow returns what there is to verify of a role, without its pull secret as a
// whole: of a bundle, the members that are not verified by themselves.
func (b *backend) servedNow(ctx context.Context, storage logical.Storage, name string, r *role) (secret pullSecret, err error) {
	if secret.settings, err = b.config(ctx, storage); err != nil {
		return pullSecret{}, err
	}
	if secret.sources, err = b.sources(ctx, storage, name, r); err != nil {
		return pullSecret{}, err
	}
	if secret.isBundle = r.Bundle != nil; secret.isBundle {
		secret.sources = verifiedWithBundle(secret.sources, secret.settings)
	}
	for i := range secret.sources {
		s := &secret.sources[i]
		if s.Static != nil {
			s.setCredential(s.Static.Docker, s.Static.ExpiresAt, nil)
		} else if err := b.loadShared(ctx, storage, s); err != nil {
			return pullSecret{}, err
		} else if !s.shared.serves() {
			return pullSecret{}, errNothingServed
		} else {
			s.setCredential(s.shared.Current.Docker, s.shared.Current.ExpiresAt, s.shared.rotation())
		}
		if err := secret.settings.checkRegistries(s.registries); err != nil {
			return pullSecret{}, err
		}
	}
	return secret, nil
}

// replaceRefused replaces the credential of a shared role that its registry refuses: it
// was ended there, or the role would have served it.
func (b *backend) replaceRefused(ctx context.Context, storage logical.Storage, name, connection, subject string) {
	v, err := b.failingVerdict(ctx, storage, name, func() string { return subject })
	if err != nil || v == nil || v.Verdict != registry.Denied || !v.mayReplace(b.now()) {
		return
	}
	b.addJob(rotationLane(connection), rotationsAtOnce, "replacement of "+name, func(ctx context.Context) {
		if begun, err := b.beginReplacement(ctx, storage, name, subject); err != nil || !begun {
			return
		}
		b.Logger().Warn("the credential of a shared role is replaced, because its registry refuses it", "role", name)
		if _, err := b.rotate(ctx, storage, name, whenRefused); err != nil {
			b.Logger().Debug("a refused credential could not be replaced", "role", name, "error", err) // which is stored and logged with the role
		}
	})
}

// beginReplacement counts that a refused credential is replaced, before that is done. So
// it is not done again and again, whatever comes of it.
func (b *backend) beginReplacement(ctx context.Context, storage logical.Storage, name, subject string) (bool, error) {
	defer b.lockRole(name)()
	v, err := b.verdict(ctx, storage, name)
	if err != nil || v.Subject != subject || !v.Confirmed || !v.mayReplace(b.now()) {
		return false, err
	}
	v.Replaced, v.ReplacedAt = v.Replaced+1, b.now()
	return true, b.putVerdict(ctx, storage, name, v)
}

// followConfig has the engine follow a change of the settings of the mount.
func (b *backend) followConfig(periodChanged, trustChanged bool) {
	if periodChanged {
		b.verifications.forget()
	}
	if trustChanged {
		for _, name := range b.outages.waiting() {
			b.verifications.push(name, b.now())
		}
	}
}
