// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

// The figures of docs/client/README.md: go test -run='^$' -bench=Client -benchtime=200x .
//
// Each iteration does once what stands behind the comma, and once the same with
// bare HTTP requests, so that a busy machine slows down both.

// BenchmarkClientProvider runs the kubelet provider: a login and a read.
func BenchmarkClientProvider(b *testing.B) {
	w := newClientWorld(b)
	w.role("team-a", "ghcr.io")
	dir := servers.ClientAs(b, "regcred-credential-provider")
	config, request := w.kubeletConfig(), w.request("team-a", "ghcr.io/acme/app")
	login := fmt.Sprintf(`{"role":"regcred-kubelet","jwt":%q}`, w.token("team-a", "web"))
	compare(b, func() {
		cmd := exec.Command(filepath.Join(dir, "regcred-credential-provider"), "-config="+config, "-address="+w.vault.Addr)
		cmd.Env, cmd.Stdin = []string{}, strings.NewReader(request)
		mustRun(b, cmd, `"ghcr.io"`)
	}, func() {
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		var answer struct {
			Auth struct {
				ClientToken string `json:"client_token"`
			}
		}
		if err := json.Unmarshal(bare(b, client, http.MethodPut, w.vault.Addr+"/v1/auth/jwt/login", login, ""), &answer); err != nil {
			b.Fatal(err)
		}
		bare(b, client, http.MethodGet, w.vault.Addr+"/v1/regcred/creds/team-a", "", answer.Auth.ClientToken)
	})
}

// BenchmarkClientDocker runs the Docker helper: a read.
func BenchmarkClientDocker(b *testing.B) {
	w := newClientWorld(b)
	w.role("my_app", "ghcr.io")
	dir := servers.ClientAs(b, "docker-credential-regcred")
	compare(b, func() {
		cmd := exec.Command(filepath.Join(dir, "docker-credential-regcred"), "get")
		cmd.Env = []string{"HOME=/none", "VAULT_ADDR=" + w.vault.Addr, "VAULT_TOKEN=" + w.vault.Token, "REGCRED_ROLE=my_app"}
		cmd.Stdin = strings.NewReader("ghcr.io")
		mustRun(b, cmd, `"my_app"`)
	}, func() {
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		bare(b, client, http.MethodGet, w.vault.Addr+"/v1/regcred/creds/my_app", "", w.vault.Token)
	})
}

// BenchmarkClientStart starts the program, which does nothing.
func BenchmarkClientStart(b *testing.B) {
	dir := servers.ClientAs(b, "regcred")
	compare(b, func() {
		cmd := exec.Command(filepath.Join(dir, "regcred"), "-version")
		cmd.Env = []string{}
		mustRun(b, cmd, "v")
	}, func() {})
}

// compare reports the medians of both, in ms.
func compare(b *testing.B, client, bare func()) {
	b.Helper()
	var with, without []float64
	for b.Loop() {
		with, without = append(with, inMS(client)), append(without, inMS(bare))
	}
	b.ReportMetric(median(with), "client-ms")
	b.ReportMetric(median(without), "bare-ms")
	b.ReportMetric(median(with)-median(without), "own-ms")
}

func inMS(do func()) float64 {
	start := time.Now()
	do()
	return float64(time.Since(start).Microseconds()) / 1000
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

func mustRun(b *testing.B, cmd *exec.Cmd, want string) {
	out, err := cmd.Output()
	if err != nil || !bytes.Contains(out, []byte(want)) {
		b.Fatalf("%v: %v", cmd.Args, err)
	}
}

func bare(b *testing.B, client *http.Client, method, url, body, token string) []byte {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("X-Vault-Request", "true")
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	resp, err := client.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return content
}
