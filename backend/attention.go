// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/registry"
)

// The kinds of what needs attention, as status and metrics name them.
const (
	kindExpired           = "expired"
	kindDenied            = "denied"
	kindUnreadable        = "unreadable"
	kindBundleBroken      = "bundle_broken"
	kindNotAllowed        = "registry_not_allowed"
	kindConnectionRefuses = "connection_refuses"
	kindRootExpired       = "root_expired"
	kindRootRefused       = "root_refused"
	kindRotationFailing   = "rotation_failing"
	kindNotFound          = "not_found"
	kindUnreachable       = "registry_unreachable"
	kindRevocationFailing = "revocation_failing"
	kindRootUnfinished    = "rotate_root_unfinished"
	kindGivenUp           = "given_up"
	kindRootExpiring      = "root_expiring"
	kindExpiring          = "expiring"
)

// attentionKinds has all kinds, the most urgent first: what fails now, what will fail
// unless it is mended, what should have ended, and what ends soon.
var attentionKinds = []string{
	kindExpired, kindDenied, kindUnreadable, kindBundleBroken, kindNotAllowed, kindConnectionRefuses,
	kindRootExpired, kindRootRefused, kindRotationFailing, kindNotFound, kindUnreachable,
	kindRevocationFailing, kindRootUnfinished, kindGivenUp,
	kindRootExpiring, kindExpiring,
}

// attention is one thing that needs somebody's attention. Message and Action are in our
// own words, with names of roles, connections and registries: what a registry has said
// may hold a user name, and is in the read-back of the role.
type attention struct {
	Kind       string
	Role       string
	Connection string
	Registry   string // of a verdict, as in image names
	Since      time.Time
	Message    string
	Action     string

	// isTimed says that it needs attention from Since on, and Until says until when;
	// zero: for ever. Of every other one, Since is when the engine noticed it.
	isTimed bool
	until   time.Time
}

// isNow reports whether it needs attention at a time.
func (a attention) isNow(now time.Time) bool {
	return !a.isTimed || !now.Before(a.Since) && (a.until.IsZero() || now.Before(a.until))
}

// roleFacts is all on which it depends whether a role needs attention.
type roleFacts struct {
	name       string
	role       *role // nil: there is none, or it cannot be read
	unreadable bool  // the role, or what it serves
	shared     shared
	settings   config
	registries []dockerconfig.Key
	refusal    string // why a bundle cannot be joined, or a connection does not mint for the role
}

// attention returns what of a role needs attention, without the times at which the
// engine noticed it.
func (f roleFacts) attention() []attention {
	if f.role == nil && !f.unreadable {
		return nil
	}
	var all []attention
	add := func(a attention) {
		a.Role = f.name
		all = append(all, a)
	}
	if f.unreadable {
		add(attention{
			Kind:    kindUnreadable,
			Message: "the stored entry of the role, or of what it serves, cannot be read: it is damaged, or of a newer plugin",
			Action:  "run the newer plugin, restore the entry, or delete the role and write it anew",
		})
		return all
	}
	if f.refusal != "" {
		if f.role.Bundle != nil {
			add(attention{Kind: kindBundleBroken, Message: "the bundle cannot be read: " + f.refusal, Action: "mend the member, or take it out of members"})
		} else {
			add(attention{Kind: kindConnectionRefuses, Message: f.refusal, Action: "change allowed_roles or allowed_targets of the connection, or write another target or connection to the role"})
		}
	}
	if err := f.settings.checkRegistries(f.registries); err != nil {
		add(attention{Kind: kindNotAllowed, Message: err.Error(), Action: "add the registry to allowed_registries of config, or write another one to the role"})
	}
	if f.role.Static != nil {
		all = append(all, expiryAttention(f.name, f.role.Static.ExpiresAt, f.settings.ExpiryWarning.Duration)...)
	}
	if f.role.isShared() {
		f.addShared(add)
	}
	return all
}

// expiryAttention returns what there is to say of a static credential that ends.
func expiryAttention(name string, at time.Time, warning time.Duration) []attention {
	if at.IsZero() {
		return nil
	}
	action := fmt.Sprintf("write a new password and expires_at to roles/%s", name)
	return []attention{
		{Kind: kindExpiring, Role: name, Since: at.Add(-warning), until: at, isTimed: true, Message: "the credential ends at its registry at " + formatTime(at), Action: action},
		{Kind: kindExpired, Role: name, Since: at, isTimed: true, Message: "the credential has ended at its registry at " + formatTime(at), Action: action},
	}
}

func (f roleFacts) addShared(add func(attention)) {
	if s := f.shared; s.Failures > 0 {
		add(attention{
			Kind:    kindRotationFailing,
			Message: fmt.Sprintf("the credential could not be replaced, the last time at %s: %s; last_error of roles/%s says more", formatTime(s.FailedAt), failureInWords(s.FailedStatus), f.name),
			Action:  fmt.Sprintf("mend what last_error says; the engine tries again by itself, and a write to rotate/%s tries at once", f.name),
		})
	}
	failed, latest := 0, time.Time{}
	for _, r := range f.shared.Retired {
		if r.Attempts > 0 {
			failed, latest = failed+1, later(latest, r.TriedAt)
		}
	}
	if failed > 0 {
		add(attention{
			Kind:    kindRevocationFailing,
			Message: fmt.Sprintf("%d former credentials could not be revoked, the last time at %s, and still work; pending_revocations of roles/%s says more", failed, formatTime(latest), f.name),
			Action:  "mend what last_error there says; the engine tries again by itself",
		})
	}
	if n := len(f.shared.GivenUp); n > 0 {
		add(attention{
			Kind:    kindGivenUp,
			Message: fmt.Sprintf("%d former credentials were given up, because the connection does not lead to their registry any more; given_up of roles/%s has their names", n, f.name),
			Action:  fmt.Sprintf("end them there by hand, and then write forget_given_up=true to roles/%s", f.name),
		})
	}
}

// failureInWords says how a call failed, in our own words: what a registry has said
// may hold a user name.
func failureInWords(status int) string {
	if status == 0 {
		return "the registry gave no answer that proves anything, or was not asked"
	}
	return fmt.Sprintf("the registry answered %d %s", status, http.StatusText(status))
}

// attentionToVerdict returns what there is to say of a confirmed bad verdict of a role of a
// type.
func attentionToVerdict(name, roleType string, v verdict) attention {
	where := cmp.Or(v.Registry, "its registry")
	a := attention{Role: name, Since: v.Since, Registry: v.Registry}
	switch v.Verdict {
	case registry.NotFound:
		a.Kind, a.Message = kindNotFound, fmt.Sprintf("%s does not know the repository that the role is verified with, or does not show it; last_verify_message of roles/%s says more", where, name)
		a.Action = fmt.Sprintf("write another verify_repository to roles/%s, or push an image there", name)
	case registry.Unreachable:
		a.Kind, a.Message = kindUnreachable, fmt.Sprintf("%s gives no answer of a registry to this role, and answers others; last_verify_message of roles/%s says more", where, name)
		a.Action = fmt.Sprintf("write to verify/%s, which asks it now", name)
	case registry.OK, registry.Unverified, registry.Denied:
		a.Kind, a.Message = kindDenied, fmt.Sprintf("%s refuses the credential, or the pull; last_verify_message of roles/%s says more", where, name)
		switch roleType {
		case typeStatic:
			a.Action = fmt.Sprintf("write a password that works to roles/%s", name)
		case typeDynamic:
			a.Action = fmt.Sprintf("write to rotate/%s; if that does not help, look at what the role may pull", name)
		default:
			a.Action = "mend the member that holds this registry"
		}
	}
	return a
}

// attentionToOutage returns what there is to say of a registry that cannot be reached when
// its roles are verified.
func attentionToOutage(o registryOutage) attention {
	return attention{
		Kind: kindUnreachable, Registry: o.Host, Since: o.Since,
		Message: "the registry cannot be reached from Vault, so its roles are not verified",
		Action:  "write to verify/ of one of its roles, which asks it now and says more; see why Vault cannot reach it, or does not trust its certificate",
	}
}

// connectionFacts is all on which it depends whether a connection needs attention,
// except for its registry, which is in memory.
type attentionOfConnection struct {
	name       string
	connection *connection // nil: there is none, or it cannot be read
	unreadable bool
	root       rootCheck // of the root credential that it has now
	warning    time.Duration
	unrevoked  int // leased credentials whose revocation failed
}

func (f attentionOfConnection) attention() []attention {
	var all []attention
	add := func(a attention) {
		a.Connection = f.name
		all = append(all, a)
	}
	if f.unrevoked > 0 {
		add(attention{
			Kind:    kindRevocationFailing,
			Message: fmt.Sprintf("%d leased credentials could not be revoked, and may still work; Vault's log has their names", f.unrevoked),
			Action:  fmt.Sprintf("read connections/%s/check and mend what it says; the engine tries again by itself", f.name),
		})
	}
	if f.unreadable {
		add(attention{
			Kind:    kindUnreadable,
			Message: "the stored entry of the connection cannot be read: it is damaged, or of a newer plugin",
			Action:  "run the newer plugin, or restore the entry; until then nothing is minted or revoked with the connection",
		})
	}
	if f.connection == nil {
		return all
	}
	if pending, unfinished := f.connection.Root.readBack()["pending_root"].(string); unfinished {
		add(attention{Kind: kindRootUnfinished, Message: "a rotate-root is not finished: " + pending, Action: fmt.Sprintf("read connections/%s/check and mend what it says; the engine tries again every minute", f.name)})
	}
	replace := fmt.Sprintf("write to connections/%s/rotate-root, or write a new root credential to the connection", f.name)
	if f.root.Refused {
		mend := fmt.Sprintf("write a root credential that works to connections/%s, or give this one its rights back at the registry", f.name)
		if f.connection.described().TakesIdentityToken() {
			mend = fmt.Sprintf("have the registry's side trust the identity tokens of this mount, or correct the fields of connections/%s", f.name)
		}
		add(attention{
			Kind: kindRootRefused, Since: f.root.CheckedAt,
			Message: fmt.Sprintf("%s to the root credential; nothing can be minted or revoked with it; connections/%s/check says more", failureInWords(f.root.Status), f.name),
			Action:  mend,
		})
	}
	if at := f.root.ExpiresAt; !at.IsZero() {
		add(attention{Kind: kindRootExpiring, Since: at.Add(-f.warning), until: at, isTimed: true, Message: "the root credential ends at its registry at " + formatTime(at), Action: replace})
		add(attention{Kind: kindRootExpired, Since: at, isTimed: true, Message: "the root credential has ended at its registry at " + formatTime(at), Action: fmt.Sprintf("write a new root credential to connections/%s", f.name)})
	}
	return all
}
