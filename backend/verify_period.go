// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"hash/fnv"
	"math"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
)

const (
	// minVerifyPeriod keeps a typing error from asking registries without pause.
	minVerifyPeriod = time.Minute
	maxVerifyPeriod = 365 * 24 * time.Hour
)

// verifyFields are the fields of roles/<role> that every type except a leased role has.
func verifyFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"verify_period": {
			Type:        framework.TypeDurationSecond,
			Description: "How often the engine proves by itself that the role's credentials can pull, at least 1m; 0: not at all. Empty: the verify_period of config.",
		},
	}
}

// verifyPeriod returns the period that a write names, nil for that of the mount.
func (in input) verifyPeriod() (*seconds, error) {
	if in.Raw["verify_period"] == nil {
		return nil, nil
	}
	period := in.duration("verify_period")
	switch {
	case period != 0 && period < minVerifyPeriod:
		return nil, refusef("verify_period: must be at least %s, or 0 for no verification by the engine", "1m")
	case period > maxVerifyPeriod:
		return nil, refusef("verify_period: must be at most %dh", int(maxVerifyPeriod.Hours()))
	}
	return &seconds{period}, nil
}

// applyVerifyPeriod sets how often a role is verified.
func (in input) applyVerifyPeriod(r *role) (err error) {
	if !in.has("verify_period") {
		return nil
	}
	if r.VerifyPeriod, err = in.verifyPeriod(); err != nil {
		return err
	}
	if r.VerifyPeriod != nil && r.isLeased() {
		return refusef("verify_period: a leased role has no credential to verify, because each read mints one; use verify/ of the role, or mode=shared")
	}
	return nil
}

// verifyPeriod returns how often the engine verifies a role by itself, 0 for not at all.
func (r *role) verifyPeriod(settings config) time.Duration {
	switch {
	case r == nil || r.isLeased():
		return 0
	case r.VerifyPeriod != nil:
		return r.VerifyPeriod.Duration
	}
	return settings.VerifyPeriod.Duration
}

// A role is verified at the times that have its phase: its name says where in the
// period that is. So the roles of a mount are spread over the period, and a start moves
// none of them.

// phaseOf returns a number below n that only depends on a name.
func phaseOf(name string, n int64) int64 {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(name))
	sum := hash.Sum64()
	sum ^= sum >> 29 // names that differ in their last letter only differ in few bits
	sum *= 0xbf58476d1ce4e5b9
	sum ^= sum >> 32
	return int64(sum&math.MaxInt64) % n
}

// slotAfter returns the first time after another at which a role is to be verified.
func slotAfter(name string, period time.Duration, after time.Time) time.Time {
	every := int64(period / time.Second)
	since := (after.Unix() - phaseOf(name, every)) % every // since the last slot
	if since < 0 {
		since += every
	}
	return time.Unix(after.Unix()-since+every, 0)
}
