// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

const year = 365 * 24 * time.Hour

// Whether somebody has rotated meanwhile is counted, not timed.
func TestRotateReplacesTheCredentialWhateverTheClockSays(t *testing.T) {
	for _, jump := range []time.Duration{0, -3 * time.Minute, -year, year} {
		e := newSharingEngine(t)
		former := e.read("creds/app")
		e.clock.advance(jump)
		e.write("rotate/app", nil)
		checkSame(t, jump.String()+": mints", 2, e.minting.mints())
		if e.read("creds/app")["password"] == former["password"] {
			t.Errorf("%s: want the new credential", jump)
		}
	}
}

// Times that a clock wrote while it was ahead must not delay what is due.
func TestClockThatWasAheadStopsNothing(t *testing.T) {
	e := newSharingEngine(t)
	e.clock.advance(year)
	e.read("creds/app")
	e.write("rotate/app", nil) // retires the first one
	e.mustRollBack()           // fills the schedule
	e.clock.advance(-year)

	e.mustRollBack()
	checkSame(t, "mints", 3, e.minting.mints())
	checkSame(t, "next rotation", any("2026-03-02T12:00:00Z"), e.read("roles/app")["next_rotation"])
	e.checkLiving(3)
	e.clock.advance(time.Hour) // the grace period, of both
	e.mustRollBack()
	e.checkLiving(1)
}

func TestFailureOfAClockThatWasAheadIsForgotten(t *testing.T) {
	e := newSharingEngine(t)
	e.clock.advance(year)
	e.minting.fail("mint", errRefused)
	e.failed(logical.ReadOperation, "creds/app", nil, http.StatusBadGateway, "answered 403")
	e.minting.mend()
	e.clock.advance(-year)
	e.read("creds/app")
	checkSame(t, "mints", 1, e.minting.mints())
}

func TestRevocationOfAClockThatWasAheadIsTriedAgain(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	first := e.minting.names()[0]
	e.write("rotate/app", nil)
	e.minting.fail("revoke", errDown)
	e.clock.advance(year)
	e.mustRollBack()
	e.minting.mend()
	e.clock.advance(-year + 2*time.Hour)
	e.mustRollBack()
	if slices.Contains(e.minting.names(), first) {
		t.Error("want the credential revoked")
	}
}

// The schedule in memory holds times of the clock as it was.
func TestScheduleIsFilledAnewWhenTheClockGoesBack(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.mustRollBack()
	e.clock.advance(year)
	e.mustRollBack() // rotates; the next one is a year and a day ahead
	checkSame(t, "mints", 2, e.minting.mints())
	e.clock.advance(-year)
	e.mustRollBack()
	checkSame(t, "mints", 3, e.minting.mints())
}

func TestPeriodsAreBounded(t *testing.T) {
	e := newConnectedEngine(t)
	for _, period := range []string{"438001h", "1300000h", "2562047h"} { // 292 years are the most that fit
		e.refused(logical.UpdateOperation, "roles/app", with(sharedRole, fields{"rotation_period": period}), "rotation_period: must be at most 438000h")
		e.refused(logical.UpdateOperation, "roles/app", with(sharedRole, fields{"grace_period": period, "rotation_period": "438000h"}), "grace_period: must be at most 438000h")
	}
	e.write("roles/app", with(sharedRole, fields{"rotation_period": "438000h", "grace_period": "438000h"}))
	e.read("creds/app")
	checkSame(t, "mints", 1, e.minting.mints())
}

// A clock that goes back for a moment must not cost those who hold a credential
// their grace period.
func TestClockThatWasBehindForAMomentKeepsTheGracePeriod(t *testing.T) {
	for name, before := range map[string]func(*engine){
		"of the current credential": func(*engine) {},
		"of one that was replaced": func(e *engine) {
			e.clock.advance(time.Minute)
			e.write("rotate/app", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSharingEngine(t)
			e.read("creds/app")
			held := e.minting.names()[0]
			e.mustRollBack()
			before(e)
			e.clock.advance(-48 * time.Hour)
			e.mustRollBack()
			e.clock.advance(48*time.Hour + time.Minute)
			e.mustRollBack()
			if !slices.Contains(e.minting.names(), held) {
				t.Error("want what was read a minute ago to work")
			}
			e.clock.advance(2 * time.Hour)
			e.mustRollBack()
			if slices.Contains(e.minting.names(), held) {
				t.Error("want it revoked after the grace period")
			}
		})
	}
}

func TestClockThatWasBehindForAMomentEndsNoLease(t *testing.T) {
	e := newLeasingEngine(t, fields{"ttl": "1h"})
	e.lease("creds/leased")
	e.mustRollBack()
	e.clock.advance(-800 * time.Hour) // more than the mount's maximum
	e.mustRollBack()
	e.clock.advance(800*time.Hour + time.Minute)
	e.mustRollBack()
	checkSame(t, "living credentials", 1, len(e.minting.names()))
	e.clock.advance(time.Hour)
	e.mustRollBack()
	e.mustRollBack()
	checkSame(t, "living credentials after its ttl", 0, len(e.minting.names()))
}
