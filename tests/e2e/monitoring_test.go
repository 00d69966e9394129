// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer/harbor/harbortest"
	"vault-plugin-secrets-regcred/backend/issuer/issuertest"
	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestMonitoring has a Prometheus scrape a Vault with the files in examples/monitoring.
// It causes what each alert is for, and mends it. Only the address and the time that an
// alert waits are replaced.
func TestMonitoring(t *testing.T) {
	t.Parallel()
	m := startMonitoring(t)
	causes := m.causes()
	for _, name := range m.alertNames(t) {
		if _, found := causes[name]; !found && name != notScraped {
			t.Errorf("examples/monitoring/rules.yaml has an alert %s, which the test does not cause", name)
		}
	}
	for name, c := range causes {
		c.cause(t)
		t.Logf("caused what %s is for", name)
	}
	for name, c := range causes {
		servers.Eventually(t, func() error { return m.fires(name, c.kind, true) })
	}
	m.asksEveryQuery(t)
	m.knowsEveryKind(t)
	for name, c := range causes {
		c.mend(t)
		t.Logf("mended what %s is for", name)
	}
	for name, c := range causes {
		servers.Eventually(t, func() error { return m.fires(name, c.kind, false) })
	}

	if err := m.vault.Client.Sys().Seal(); err != nil {
		t.Fatal(err)
	}
	servers.Eventually(t, func() error { return m.fires(notScraped, "", true) })
	m.vault.Unseal(t)
	servers.Eventually(t, func() error { return m.fires(notScraped, "", false) })
}

// notScraped is the alert that is not about something in attention.
const notScraped = "RegcredNotScraped"

// monitoring is a Vault with roles and connections, and a Prometheus that scrapes it.
type monitoring struct {
	vault      *servers.Vault
	prometheus *servers.Prometheus
	registry   *servers.Registry
	login      clients.Login
	image      string
	harbor     map[string]*harbortest.Server // one for each fault, by connection
}

func startMonitoring(t *testing.T) *monitoring {
	t.Helper()
	m := &monitoring{vault: servers.StartRaftVault(t), login: clients.Login{Username: "puller", Password: "first"}, harbor: map[string]*harbortest.Server{}}
	m.registry = servers.StartRegistry(t, m.login.Username, m.login.Password)
	m.image = m.registry.Addr + "/team/app:1"
	clients.Push(t, m.image, m.login.Username, m.login.Password)
	m.write(t, "config", map[string]any{"verify_period": "1m"})
	for _, role := range []string{"denied", "gone", "ends"} {
		m.write(t, "roles/"+role, map[string]any{
			"registry": m.registry.Addr, "username": m.login.Username, "password": m.login.Password, "verify_repository": "team/app:1",
		})
	}
	for _, name := range []string{"unrotated", "unrevoked", "refused", "silent"} {
		h := harbortest.New(t)
		m.harbor[name] = h
		m.write(t, "connections/"+name, map[string]any{
			"type": "harbor", "url": h.URL, "registry": h.Host(), "username": harbortest.Admin, "password": harbortest.Password,
			"allowed_roles": name,
		})
		m.write(t, "roles/"+name, map[string]any{
			"connection": name, "projects": harbortest.Project, "rotation_period": "1h", "grace_period": "1s", "verify_period": "1h",
		})
		if _, err := m.vault.Client.Logical().Read("regcred/creds/" + name); err != nil {
			t.Fatal(err)
		}
	}
	m.vault.CLI(t, example(t, "policies/auditor.hcl"), "policy", "write", "auditor", "-")
	token, err := m.vault.NewToken("auditor")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file("rules.yaml", regexp.MustCompile(`(?m)^ *for: .*\n`).ReplaceAllString(example(t, "monitoring/rules.yaml"), ""))
	config := file("prometheus.yaml", "global: {evaluation_interval: 1s}\n"+example(t, "monitoring/prometheus.yaml",
		"scheme: https", "scheme: http",
		"/run/vault/prometheus-token", file("vault-token", token),
		"    tls_config:\n      ca_file: /etc/prometheus/vault-ca.pem\n", "",
		"scrape_interval: 1m", "scrape_interval: 1s",
		"vault-active.vault.svc:8200", strings.TrimPrefix(m.vault.Client.Address(), "http://")))
	m.prometheus = servers.StartPrometheus(t, config)
	return m
}

// causeOfAlert makes an alert fire, with a kind of attention, and ends what it fires for.
type causeOfAlert struct {
	kind        string
	cause, mend func(*testing.T)
}

func (m *monitoring) causes() map[string]causeOfAlert {
	deletions := issuertest.Method(http.MethodDelete)
	failing := issuertest.Status(http.StatusForbidden, `{"errors":[{"code":"FORBIDDEN","message":"no"}]}`)
	rotate := func(t *testing.T, role string) { m.write(t, "rotate/"+role, nil) }
	return map[string]causeOfAlert{
		"RegcredPullsFail": {
			kind: "denied",
			cause: func(t *testing.T) {
				m.write(t, "roles/denied", map[string]any{"password": "wrong"})
			},
			mend: func(t *testing.T) {
				m.write(t, "roles/denied", map[string]any{"password": m.login.Password})
			},
		},
		"RegcredRepositoryNotFound": {
			kind:  "not_found",
			cause: func(t *testing.T) { m.write(t, "roles/gone", map[string]any{"verify_repository": "team/gone:1"}) },
			mend:  func(t *testing.T) { m.write(t, "roles/gone", map[string]any{"verify_repository": "team/app:1"}) },
		},
		"RegcredCredentialEnds": {
			kind: "expiring",
			cause: func(t *testing.T) {
				m.write(t, "roles/ends", map[string]any{"expires_at": time.Now().Add(24 * time.Hour).Format(time.RFC3339)})
			},
			mend: func(t *testing.T) {
				m.write(t, "roles/ends", map[string]any{"expires_at": time.Now().AddDate(1, 0, 0).Format(time.RFC3339)})
			},
		},
		"RegcredRotationFails": {
			kind: "rotation_failing",
			cause: func(t *testing.T) {
				m.harbor["unrotated"].InjectFault(-1, m.harbor["unrotated"].MintMatch, failing)
				if _, err := m.vault.Client.Logical().Write("regcred/rotate/unrotated", nil); err == nil {
					t.Error("want rotate to fail while the registry refuses to mint")
				}
			},
			mend: func(t *testing.T) {
				m.harbor["unrotated"].ClearFaults()
				rotate(t, "unrotated")
			},
		},
		"RegcredNotRevoked": {
			kind: "revocation_failing",
			cause: func(t *testing.T) {
				m.harbor["unrevoked"].InjectFault(-1, deletions, failing)
				rotate(t, "unrevoked")
			},
			mend: func(t *testing.T) { m.harbor["unrevoked"].ClearFaults() },
		},
		"RegcredRootCredentialFails": {
			kind: "root_refused",
			cause: func(t *testing.T) {
				m.harbor["refused"].AddUser(harbortest.Admin, "Another-Pass1", false)
				if _, err := m.vault.Client.Logical().Read("regcred/connections/refused/check"); err == nil {
					t.Error("want check to fail while the registry refuses the root credential")
				}
			},
			mend: func(t *testing.T) { m.write(t, "connections/refused", map[string]any{"password": "Another-Pass1"}) },
		},
		"RegcredRegistryUnreachable": {
			kind: "registry_unreachable",
			cause: func(t *testing.T) {
				m.harbor["silent"].InjectFault(-1, nil, issuertest.Status(http.StatusBadGateway, ""))
				for range 4 { // so that it is left alone
					if _, err := m.vault.Client.Logical().Write("regcred/rotate/silent", nil); err == nil {
						t.Error("want rotate to fail while the registry fails")
					}
				}
			},
			mend: func(*testing.T) { m.harbor["silent"].ClearFaults() },
		},
	}
}

func (m *monitoring) write(t *testing.T, path string, data map[string]any) {
	t.Helper()
	if _, err := m.vault.Client.Logical().Write("regcred/"+path, data); err != nil {
		t.Fatal(err)
	}
}

// alertNames returns the names of all alerts of the example.
func (*monitoring) alertNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, found := range regexp.MustCompile(`(?m)- alert: (\S+)$`).FindAllStringSubmatch(example(t, "monitoring/rules.yaml"), -1) {
		names = append(names, found[1])
	}
	if len(names) < 8 {
		t.Fatalf("found %d alerts", len(names))
	}
	return names
}

// fires returns an error unless an alert of a kind fires, or does not.
func (m *monitoring) fires(name, kind string, want bool) error {
	alerts, err := m.prometheus.Alerts()
	if err != nil {
		return err
	}
	got := slices.ContainsFunc(alerts, func(a servers.Alert) bool {
		return a.State == "firing" && a.Labels["alertname"] == name && a.Labels["kind"] == kind &&
			!strings.Contains(fmt.Sprint(a.Annotations), "<no value>") && (name == notScraped || a.Labels["role"]+a.Labels["connection"] != "")
	})
	if got != want {
		return fmt.Errorf("want %s of kind %q to fire: %t, got %v", name, kind, want, alerts)
	}
	return nil
}

// knowsEveryKind compares the kinds of attention with those of the alerts and of the docs.
func (m *monitoring) knowsEveryKind(t *testing.T) {
	t.Helper()
	samples, err := m.prometheus.Query("regcred_attention")
	if err != nil || len(samples) < 10 {
		t.Fatalf("want every kind of attention, got %v, %v", samples, err)
	}
	page, err := os.ReadFile(filepath.Join(servers.Repo(), "docs", "monitoring.md"))
	if err != nil {
		t.Fatal(err)
	}
	rules := example(t, "monitoring/rules.yaml")
	for _, sample := range samples {
		kind := sample.Labels["kind"]
		if !regexp.MustCompile(`kind=~?"([a-z_]+\|)*` + kind + `[|"]`).MatchString(rules) {
			t.Errorf("no alert in examples/monitoring/rules.yaml is for %s", kind)
		}
		if !strings.Contains(string(page), "`"+kind+"`") {
			t.Errorf("docs/monitoring.md names no alert for %s", kind)
		}
	}
}

// asksEveryQuery has Prometheus answer each query of the dashboard, with the variables as
// Grafana replaces them.
func (m *monitoring) asksEveryQuery(t *testing.T) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(example(t, "monitoring/dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	drawing, err := os.ReadFile(filepath.Join(servers.Repo(), "docs", "dashboard.svg"))
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, panel := range dashboard.Panels {
		if !strings.Contains(string(drawing), ">"+panel.Title+"<") && !strings.Contains(string(drawing), " "+panel.Title+"<") {
			t.Errorf("docs/dashboard.svg has no panel %q", panel.Title)
		}
		for _, target := range panel.Targets {
			asked++
			expr := strings.NewReplacer("$mount", "regcred", "$__rate_interval", "30s").Replace(target.Expr)
			servers.Eventually(t, func() error {
				samples, err := m.prometheus.Query(expr)
				if err == nil && len(samples) == 0 {
					err = fmt.Errorf("%q of the panel %q has no series", expr, panel.Title)
				}
				return err
			})
		}
	}
	if asked < 20 {
		t.Errorf("found %d queries in the dashboard", asked)
	}
}
