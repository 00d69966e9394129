// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// families are metrics in the form that Prometheus' library encodes.
type families []*dto.MetricFamily

func (f *families) add(name, help string, kind dto.MetricType) *family {
	made := &dto.MetricFamily{Name: &name, Help: &help, Type: &kind}
	*f = append(*f, made)
	return &family{made}
}

func (f *families) gauge(name, help string) *family { return f.add(name, help, dto.MetricType_GAUGE) }

func (f *families) counter(name, help string) *family {
	return f.add(name, help, dto.MetricType_COUNTER)
}

type family struct{ *dto.MetricFamily }

// set adds a series. labels are names and values in turn.
func (f *family) set(value float64, labels ...string) {
	m := &dto.Metric{}
	for i := 0; i+1 < len(labels); i += 2 {
		m.Label = append(m.Label, &dto.LabelPair{Name: &labels[i], Value: &labels[i+1]})
	}
	if f.GetType() == dto.MetricType_COUNTER {
		m.Counter = &dto.Counter{Value: &value}
	} else {
		m.Gauge = &dto.Gauge{Value: &value}
	}
	f.Metric = append(f.Metric, m)
}

// encode returns metrics in Prometheus' text format.
func (f families) encode() ([]byte, error) {
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, metricsFormat)
	for _, family := range f {
		if len(family.Metric) == 0 {
			continue
		}
		if err := encoder.Encode(family); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}

var metricsFormat = expfmt.NewFormat(expfmt.TypeTextPlain)

// metrics returns the metrics of the mount. It reads no storage.
func (b *backend) metrics() families {
	v, n := b.viewAttention(), b.numbers()
	var f families
	f.gauge("regcred_build_info", "The version of the plugin; the value is 1.").set(1, "version", b.RunningVersion)
	f.gauge("regcred_process_start_time_seconds", "When the process of the plugin began, at which the counters began at 0, in Unix time.").set(float64(processStarted.UnixNano()) / 1e9)
	f.byType("regcred_roles", "Roles of each type.", n.roles)
	f.byType("regcred_connections", "Connections of each type.", n.connections)
	f.gauge("regcred_leases", "Leased credentials that are not ended yet, of connections that can revoke.").set(float64(n.leases))
	f.gauge("regcred_retired_credentials", "Former credentials of shared roles that are not revoked yet.").set(float64(n.retired))
	f.gauge("regcred_write_ahead_entries", "Credentials that may be at a registry and that the engine looks for, or is about to store.").set(float64(n.ahead))
	f.addAttention(v)
	f.gauge("regcred_registry_calls_in_flight", "Calls to registries in progress.").set(float64(b.calls.inProgress.Load()))
	leftAlone := f.gauge("regcred_registry_left_alone", "1 if the registry of the connection does not answer, or answers that it fails, and is left alone for a while.")
	connections := slices.Sorted(maps.Keys(v.leftAlone))
	for _, name := range connections {
		value := 0.0
		if v.leftAlone[name] {
			value = 1
		}
		leftAlone.set(value, "connection", name)
	}
	b.counters.addTo(&f, connections)
	return f
}

func (f *families) byType(name, help string, numbers map[string]int) {
	family := f.gauge(name, help)
	for _, of := range slices.Sorted(maps.Keys(numbers)) {
		family.set(float64(numbers[of]), "type", of)
	}
}

func (f *families) addAttention(v *attentionView) {
	count := f.gauge("regcred_attention", "How many things of each kind need somebody's attention; status says what to do.")
	for _, kind := range attentionKinds {
		count.set(float64(v.kinds[kind]), "kind", kind)
	}
	since := f.gauge("regcred_attention_since_timestamp_seconds", "Since when something needs somebody's attention, in Unix time; at most 1,000.")
	for _, item := range v.listed {
		since.set(float64(item.Since.Unix()), "kind", item.Kind, "role", item.Role, "connection", item.Connection, "registry", item.Registry)
	}
}

// addTo adds the counters. Those of connections that are gone are forgotten.
func (c *counters) addTo(f *families, connections []string) {
	known := map[string]bool{}
	for _, name := range connections {
		known[name] = true
	}
	c.keep(known)
	c.mu.Lock()
	defer c.mu.Unlock()
	for what, counter := range counterNames {
		family := f.counter(counter.name, counter.help+sinceStart)
		for _, name := range connections {
			counts := c.byConnection[name]
			if counts == nil {
				counts = &[allCounted]uint64{}
			}
			family.set(float64(counts[what]), "connection", name)
		}
	}
	verifications := f.counter("regcred_verifications_total", "Verdicts of verifications, whoever asked for them; the connection is empty for static roles and bundles"+sinceStart)
	all := slices.SortedFunc(maps.Keys(c.verifications), func(a, b verified) int {
		return cmp.Or(cmp.Compare(a.connection, b.connection), cmp.Compare(a.verdict, b.verdict))
	})
	for _, v := range all {
		verifications.set(float64(c.verifications[v]), "connection", v.connection, "verdict", string(v.verdict))
	}
}
