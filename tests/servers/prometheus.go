// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"testing"
)

// Prometheus is a running Prometheus.
type Prometheus struct {
	*Process
	URL string
}

// Sample is one value of a query's answer, with its labels.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Alert is an alert that is pending or firing.
type Alert struct {
	Labels, Annotations map[string]string
	State               string
}

// StartPrometheus starts a Prometheus with a configuration file.
func StartPrometheus(t testing.TB, config string) *Prometheus {
	t.Helper()
	addr := FreeAddr(t)
	p := &Prometheus{URL: "http://" + addr}
	cmd := exec.Command(Bin(t, "prometheus"), "--config.file="+config, "--storage.tsdb.path="+t.TempDir(),
		"--web.listen-address="+addr, "--log.level=warn")
	p.Process = start(t, "prometheus", cmd, func() error {
		resp, err := http.Get(p.URL + "/-/ready")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", resp.Status)
		}
		return nil
	})
	return p
}

// Query returns the samples of an instant query.
func (p *Prometheus) Query(expr string) ([]Sample, error) {
	var answer struct {
		Result []struct {
			Metric map[string]string `json:"metric"`
			Value  [2]any            `json:"value"` // time, and value as text
		} `json:"result"`
	}
	if err := p.get("query?query="+url.QueryEscape(expr), &answer); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	samples := []Sample{}
	for _, r := range answer.Result {
		value, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", expr, err)
		}
		samples = append(samples, Sample{Labels: r.Metric, Value: value})
	}
	return samples, nil
}

// Alerts returns all alerts that are pending or firing.
func (p *Prometheus) Alerts() ([]Alert, error) {
	var answer struct {
		Alerts []Alert `json:"alerts"`
	}
	err := p.get("alerts", &answer)
	return answer.Alerts, err
}

func (p *Prometheus) get(path string, data any) error {
	resp, err := http.Get(p.URL + "/api/v1/" + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Error string `json:"error"`
		Data  any    `json:"data"`
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("status %s: %w", resp.Status, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s: %s", resp.Status, answer.Error)
	}
	return nil
}
