// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/table"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"

	"vault-plugin-secrets-regcred/tests/servers"
)

// classicDashboard is the format of the example. The SDK would have us use version 2.
type classicDashboard = dashboard.Dashboard //nolint:staticcheck // deprecated, for that reason

// The dashboard of the examples has each field that Grafana's own schema asks for, and none
// that it does not know.
func TestDashboardFollowsGrafanasSchema(t *testing.T) {
	known := cog.NewRuntime()
	known.RegisterPanelcfgVariant(stat.VariantConfig())
	known.RegisterPanelcfgVariant(table.VariantConfig())
	known.RegisterPanelcfgVariant(timeseries.VariantConfig())
	known.RegisterDataqueryVariant(prometheus.VariantConfig())
	raw, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", "monitoring", "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var faults cog.BuildErrors
	if err := new(classicDashboard).UnmarshalJSONStrict(raw); !errors.As(err, &faults) && err != nil {
		t.Fatal(err)
	}
	for _, fault := range faults { // without any, the error is not nil, but empty
		t.Error(fault)
	}
	var board classicDashboard
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	if err := board.Validate(); err != nil {
		t.Error(err)
	}
	queries := 0
	for _, p := range board.Panels {
		if p.Panel == nil {
			continue // a row
		}
		for _, target := range p.Panel.Targets {
			if _, ok := target.(*prometheus.Dataquery); !ok {
				t.Errorf("panel %q: want a query for Prometheus, got %T", *p.Panel.Title, target)
			}
			queries++
		}
	}
	if queries < 20 {
		t.Errorf("found %d queries in the dashboard", queries)
	}
}
