// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxAttention is how many things that need attention status and metrics list.
const maxAttention = 1000

// attentionView is what needs attention at one moment. Requests share it.
type attentionView struct {
	count  int
	kinds  map[string]int // how many of each kind
	listed []attention    // see mostUrgent
	fields []map[string]any

	leftAlone map[string]bool // by connection

	// It holds as long as nothing changes, from and until these times; until is zero
	// if no time decides anything.
	version, others uint64
	from, until     time.Time
}

func (v *attentionView) holds(version, others uint64, now time.Time) bool {
	return v != nil && v.version == version && v.others == others && !now.Before(v.from) && (v.until.IsZero() || now.Before(v.until))
}

// viewAttention returns what needs attention now. It reads no storage.
func (b *backend) viewAttention() *attentionView {
	a, now := b.attentions, b.now()
	others := b.calls.generation() + b.failing.changes.Load() + b.outages.changes.Load()
	a.mu.Lock()
	version := a.version
	if held := b.view.Load(); held.holds(version, others, now) {
		a.mu.Unlock()
		return held
	}
	v := &attentionView{version: version, others: others, kinds: map[string]int{}, leftAlone: map[string]bool{}}
	var all []attention
	for _, s := range a.subjects {
		for _, item := range s.items {
			v.boundBy(item, now)
			if item.isNow(now) {
				all = append(all, item)
			}
		}
	}
	connections := slices.Collect(maps.Keys(a.connections))
	a.mu.Unlock()

	for name, v := range b.failing.known() {
		if kind, known := a.roles.kindOf(name); known {
			all = append(all, attentionToVerdict(name, roleKindNames[kind], v))
		}
	}
	for _, o := range b.outages.confirmedOutages() {
		all = append(all, attentionToOutage(o))
	}
	for _, name := range connections {
		since, status := b.calls.leftAlone(laneOf(name))
		if v.leftAlone[name] = !since.IsZero(); since.IsZero() {
			continue
		}
		all = append(all, attention{
			Kind: kindUnreachable, Connection: name, Since: since,
			Message: failureInWords(status) + ", and is left alone for a moment after each try",
			Action:  fmt.Sprintf("read connections/%s/check, which asks it now and says more", name),
		})
	}
	slices.SortFunc(all, attention.compare)
	for _, item := range all {
		v.kinds[item.Kind]++
	}
	v.count, v.listed = len(all), mostUrgent(all, maps.Clone(v.kinds))
	v.fields = make([]map[string]any, len(v.listed))
	for i, item := range v.listed {
		v.fields[i] = item.fields()
	}
	b.view.Store(v)
	return v
}

// mostUrgent returns the most urgent of a sorted list, at most maxAttention, and some of
// each kind: what many roles have may come of what one connection has. kinds has how many
// there are of each, and is used up.
func mostUrgent(all []attention, kinds map[string]int) []attention {
	if len(all) <= maxAttention {
		return all
	}
	others := maxAttention
	for kind, count := range kinds {
		kinds[kind] = min(count, maxAttention/len(attentionKinds))
		others -= kinds[kind]
	}
	var listed []attention
	for _, item := range all {
		switch {
		case kinds[item.Kind] > 0:
			kinds[item.Kind]--
		case others > 0:
			others--
		default:
			continue
		}
		listed = append(listed, item)
	}
	return listed
}

// boundBy has a view hold no longer than an item stays as it is.
func (v *attentionView) boundBy(item attention, now time.Time) {
	if !item.isTimed {
		return
	}
	for _, at := range []time.Time{item.Since, item.until} {
		switch {
		case at.IsZero():
		case at.After(now) && (v.until.IsZero() || at.Before(v.until)):
			v.until = at
		case !at.After(now):
			v.from = later(v.from, at)
		}
	}
}

// urgency is the place of each kind in attentionKinds.
var attentionUrgency = func() map[string]int {
	urgency := map[string]int{}
	for i, kind := range attentionKinds {
		urgency[kind] = i
	}
	return urgency
}()

// compare sorts by urgency, then by time.
func (a attention) compare(other attention) int {
	return cmp.Or(
		cmp.Compare(attentionUrgency[a.Kind], attentionUrgency[other.Kind]),
		a.Since.Compare(other.Since),
		strings.Compare(a.Role, other.Role),
		strings.Compare(a.Connection, other.Connection),
		strings.Compare(a.Registry, other.Registry),
	)
}

// fields returns the fields of an item in status.
func (a attention) fields() map[string]any {
	data := map[string]any{"kind": a.Kind, "since": formatTime(a.Since), "message": a.Message, "action": a.Action}
	for name, value := range map[string]string{"role": a.Role, "connection": a.Connection, "registry": a.Registry} {
		if value != "" {
			data[name] = value
		}
	}
	return data
}

// statusNumbers are what status counts.
type statusNumbers struct {
	roles, connections     map[string]int // by type
	leases, retired, ahead int
	isComplete             bool // nothing is being looked at
}

// numbers reads no storage.
func (b *backend) numbers() statusNumbers {
	a := b.attentions
	a.mu.Lock()
	defer a.mu.Unlock()
	n := statusNumbers{roles: map[string]int{}, connections: map[string]int{}, leases: a.leases.numbers()[0], retired: a.retired}
	for kind, count := range a.roles.numbers() {
		n.roles[roleKindNames[kind]] = count
	}
	for _, connectionType := range a.connections {
		n.connections[cmp.Or(connectionType, "unreadable")]++
	}
	n.isComplete = a.listed && len(a.doubts) == 0
	for key := range a.work {
		n.isComplete = n.isComplete && key == refreshed
	}
	n.ahead = b.waiting.total()
	return n
}
