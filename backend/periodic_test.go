// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// dueRoles returns the roles that are due, and removes them from the schedule.
func (e *engine) dueRoles() []string {
	due := e.next.due(e.clock.now())
	slices.Sort(due)
	return due
}

func TestScheduleReturnsEachDueRoleOnce(t *testing.T) {
	var s schedule
	s.set("a", noon) // ignored: the schedule is not filled yet
	checkSame(t, "before it is filled", []string(nil), s.due(noon))

	e := newEngine(t)
	e.mustRollBack()
	e.schedule("later", noon.Add(time.Hour))
	e.schedule("now", noon)
	e.schedule("moved", noon)
	e.schedule("moved", noon.Add(time.Minute))
	e.schedule("gone", noon)
	e.schedule("gone", time.Time{})
	checkSame(t, "now", []string{"now"}, e.dueRoles())
	checkSame(t, "once", []string(nil), e.dueRoles())
	e.clock.advance(time.Hour)
	checkSame(t, "later", []string{"later", "moved"}, e.dueRoles())
}

// After a restart, roles are maintained even if nobody reads them.
func TestPeriodicFillsTheScheduleAfterARestart(t *testing.T) {
	e := newConnectedEngine(t)
	for i := range 20 {
		e.write(fmt.Sprintf("roles/r%d", i), with(sharedRole, fields{"rotation_period": fmt.Sprintf("%dh", i+1)}))
		e.read(fmt.Sprintf("creds/r%d", i))
	}
	next := e.restarted(t)
	next.clock.advance(10*time.Hour + time.Second)
	next.mustRollBack()
	checkSame(t, "mints", 30, e.minting.mints())
	next.mustRollBack()
	checkSame(t, "mints", 30, e.minting.mints())
	next.clock.advance(time.Hour)
	next.mustRollBack()
	checkSame(t, "mints, with those of the periods 1h and 11h", 30+2, e.minting.mints())
	checkSame(t, "living credentials, of which two wait for the end of their grace", 20+2, len(e.minting.names()))
}

// A role that was read once is maintained without a further read.
func TestPeriodicMaintainsWhatIsDue(t *testing.T) {
	e := newSharingEngine(t)
	e.mustRollBack()
	e.read("creds/app")
	for day := range 5 {
		e.checkLiving(1)
		e.clock.advance(24 * time.Hour)
		e.mustRollBack()
		e.checkLiving(2)
		checkSame(t, "mints", day+2, e.minting.mints())
		e.clock.advance(time.Hour)
		e.mustRollBack()
		e.clock.advance(-time.Hour)
	}
	e.must(logical.DeleteOperation, "roles/app", nil)
	e.clock.advance(48 * time.Hour)
	e.mustRollBack()
	checkSame(t, "mints", 6, e.minting.mints())
}

// A storage failure costs one try, and no role is lost from the schedule.
func TestPeriodicSurvivesAStorageFailure(t *testing.T) {
	for failAt := int64(1); ; failAt++ {
		e := newSharingEngine(t)
		e.read("creds/app")
		e.write("rotate/app", nil)
		e.clock.advance(24 * time.Hour)
		working := e.storage
		faulty := e.faulty(failAt)
		e.storage = faulty
		err := e.rollBack()
		e.storage = working
		if faulty.calls.Load() < failAt {
			checkSame(t, "error", nil, err)
			return
		}
		if err != nil && !errors.Is(err, errStorage) {
			checkContains(t, err.Error(), errStorage.Error())
		}
		e.clock.advance(firstRevokeRetry)
		e.mustRollBack()
		e.mustRollBack()
		s, err := e.shared(t.Context(), e.storage, "app")
		if err != nil {
			t.Fatal(err)
		}
		if !s.Current.MintedAt.After(noon) {
			t.Errorf("storage call %d fails: want the role rotated a minute later", failAt)
		}
		e.checkLiving(len(e.served("app")))
	}
}

// A failure of one role does not affect other roles.
func TestPeriodicMaintainsOtherRolesIfOneFails(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.write("roles/b", sharedRole)
	e.read("creds/b")
	e.store("shared/app", "damaged")
	e.store("shared/no_role", `{"schema_version":1}`)
	e.clock.advance(24 * time.Hour)
	e.mustRollBack()
	checkSame(t, "mints", 3, e.minting.mints())
	e.clock.advance(firstRevokeRetry)
	checkSame(t, "tried again", []string{"app"}, e.dueRoles())
}

func TestRoleIsNotMaintainedTwiceAtOnce(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.clock.advance(24 * time.Hour)
	e.jobs.known["rotation of app"] = true
	e.readInBackground()
	checkSame(t, "mints", 1, e.minting.mints())
	delete(e.jobs.known, "rotation of app")
	e.readInBackground()
	checkSame(t, "mints", 2, e.minting.mints())
}

// Background work ends with the engine.
func TestStoppingWaitsForBackgroundWork(t *testing.T) {
	e := newSharingEngine(t)
	e.read("creds/app")
	e.clock.advance(24 * time.Hour)
	begun := make(chan struct{})
	ended := false
	e.minting.during("mint", func() {
		close(begun)
		<-e.lifetime.Done()
		ended = true
	})
	e.read("creds/app")
	<-begun
	e.Cleanup(context.Background())
	if !ended {
		t.Error("want the engine to wait for what it has begun")
	}
	e.checkLiving(2)
}

func TestSleepEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	sleep(ctx, time.Hour) // must return at once
	sleep(t.Context(), time.Nanosecond)
}
