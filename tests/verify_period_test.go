// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/tests/clients"
	"vault-plugin-secrets-regcred/tests/servers"
)

// TestEngineFindsWhatDoesNotPullAnyMore breaks and mends credentials behind the engine's
// back. It takes some minutes, because Vault calls the engine once a minute.
func TestEngineFindsWhatDoesNotPullAnyMore(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	const robot = "pull-robot"
	basic := servers.StartRegistry(t, robot, marker)
	clients.Push(t, basic.Addr+"/team/app:1", robot, marker)
	users := func(password string) map[string]servers.TokenUser {
		return map[string]servers.TokenUser{robot: {Password: password, Pull: []string{"team/app"}, Push: []string{"team/app"}}}
	}
	tokens := servers.StartTokenRegistry(t, users(marker))
	clients.Push(t, tokens.Addr+"/team/app:1", robot, marker)
	private := servers.StartTLSRegistry(t, robot, marker)
	flaky, setDown := startFlakyRegistry(t, basic.Addr)
	g := servers.StartGitea(t)
	proxy := g.Proxy(t)
	owner := strings.ToLower(proxy.Puller.Name)
	for _, repository := range []string{"/app:1", "/gone:1"} {
		clients.Push(t, g.Host+"/"+owner+repository, proxy.Puller.Name, proxy.Puller.Password)
	}

	write(t, v.Client, "regcred/config", fields{"verify_period": "1m"})
	role := func(name, registry, repository string) {
		write(t, v.Client, "regcred/roles/"+name, fields{"registry": registry, "username": robot, "password": marker, "verify_repository": repository})
	}
	role("basic", basic.Addr, "team/app")
	role("token", tokens.Addr, "team/app")
	role("private", private.Addr, "")
	for i := range 5 {
		role(fmt.Sprint("flaky-", i), flaky, "team/app")
	}
	write(t, v.Client, "regcred/roles/gone", fields{"registry": g.Host, "username": proxy.Puller.Name, "password": proxy.Puller.Password, "verify_repository": owner + "/gone:1"})
	connect(t, v.Client, "regcred/connections/gitea", "gitea", proxy.Connection(), fields{"allowed_roles": "*"})
	write(t, v.Client, "regcred/roles/shared", dynamic("gitea", proxy.Role(), fields{"verify_repository": owner + "/app:1"}))
	minted := read(t, v.Client, "regcred/creds/shared")

	wait := func(what string, want map[string]string) {
		t.Helper()
		began := time.Now()
		for name, verdict := range want {
			servers.Eventually(t, func() error {
				if got := fmt.Sprint(read(t, v.Client, "regcred/roles/"+name)["last_verdict"]); got != verdict {
					return fmt.Errorf("%s: want the verdict %s of role %s, got %s", what, verdict, name, got)
				}
				return nil
			})
		}
		t.Logf("%s: seen after %s", what, time.Since(began).Round(time.Second))
	}
	warned := func(name string) bool {
		t.Helper()
		secret, err := v.Client.Logical().Read("regcred/creds/" + name + "/kubernetes")
		if err != nil {
			t.Fatal(err)
		}
		return len(secret.Warnings) == 1 && strings.HasPrefix(secret.Warnings[0], fmt.Sprintf("the registry refuses the credential of role %q since ", name))
	}
	attention := func(what string, want ...string) {
		t.Helper()
		want = append([]string{}, want...)
		slices.Sort(want)
		servers.Eventually(t, func() error {
			got := []string{}
			listed, _ := read(t, v.Client, "regcred/status")["attention"].([]any)
			for _, item := range listed {
				a, _ := item.(map[string]any)
				text := fmt.Sprint(a["kind"])
				for _, field := range []string{"role", "connection", "registry"} {
					if a[field] != nil {
						text += fmt.Sprint(" ", a[field])
						break
					}
				}
				got = append(got, text)
			}
			slices.Sort(got)
			if diff := cmp.Diff(want, got); diff != "" {
				return fmt.Errorf("%s: attention in status (-want +got):\n%s", what, diff)
			}
			return nil
		})
	}
	wait("at first", map[string]string{
		"basic": "ok", "token": "ok", "gone": "ok", "shared": "ok", "flaky-0": "ok", "flaky-4": "ok",
		"private": "unreachable", // the certificate is not trusted
	})

	basic.SetPassword(t, robot, marker+"-new")
	tokens.SetUsers(users(marker + "-new"))
	g.Operate(t, http.MethodDelete, "/packages/"+proxy.Puller.Name+"/container/gone/1", http.StatusNoContent, nil, nil)
	for _, name := range g.Tokens(t, proxy.Puller.Name) {
		g.Operate(t, http.MethodDelete, "/users/"+proxy.Puller.Name+"/tokens/"+name, http.StatusNoContent, nil, nil)
	}
	setDown(true)
	began := time.Now()
	servers.Eventually(t, func() error {
		for _, name := range []string{"basic", "token"} {
			if !warned(name) {
				return fmt.Errorf("want a warning of role %s", name)
			}
		}
		return nil
	})
	t.Logf("a password that was changed: warned of after %s", time.Since(began).Round(time.Second))
	servers.Eventually(t, func() error {
		if now := read(t, v.Client, "regcred/creds/shared"); now["password"] == minted["password"] {
			return fmt.Errorf("want the revoked credential replaced")
		}
		return nil
	})
	t.Logf("a credential that was revoked: replaced after %s", time.Since(began).Round(time.Second))
	wait("once it is broken", map[string]string{"basic": "denied", "token": "denied", "gone": "not_found", "flaky-0": "unreachable", "flaky-4": "unreachable", "shared": "ok"})
	attention("once it is broken", "denied basic", "denied token", "not_found gone", "registry_unreachable "+flaky, "registry_unreachable "+private.Addr)
	if read(t, v.Client, "regcred/creds/basic")["password"] != marker {
		t.Error("a verification changed what is served")
	}

	write(t, v.Client, "regcred/roles/basic", fields{"password": marker + "-new"})
	if warned("basic") {
		t.Error("want no warning of a credential that was replaced")
	}
	tokens.SetUsers(users(marker))
	clients.Push(t, g.Host+"/"+owner+"/gone:1", proxy.Puller.Name, proxy.Puller.Password)
	setDown(false)
	write(t, v.Client, "regcred/config", fields{"ca_pem": private.CA})
	basicAgain := map[string]string{"basic": "ok", "token": "ok", "gone": "ok", "private": "unverified", "shared": "ok"}
	wait("once it is mended", basicAgain)
	for name := range basicAgain {
		if warned(name) {
			t.Errorf("want no warning of role %s", name)
		}
	}
	for i := range 5 { // their registry has the new password by now
		write(t, v.Client, fmt.Sprint("regcred/roles/flaky-", i), fields{"password": marker + "-new"})
	}
	wait("a registry that is back", map[string]string{"flaky-0": "ok", "flaky-4": "ok"})
	attention("once all is mended")
	log := v.Log()
	for _, want := range []struct {
		count int
		says  []string // Vault writes what follows the text in any order
	}{
		{2, []string{"a registry cannot be reached, so its roles are not verified:"}}, // the flaky and the private one
		{1, []string{"the credential of a shared role is replaced"}},
		{1, []string{" role=gone ", " verdict=not_found "}},
		{1, []string{" role=basic ", " verdict=denied "}},
	} {
		got := 0
		for line := range strings.Lines(log) {
			if !slices.ContainsFunc(want.says, func(text string) bool { return !strings.Contains(strings.TrimSpace(line)+" ", text) }) {
				got++
			}
		}
		if got != want.count {
			t.Errorf("want %q in %d lines of the log, got %d", want.says, want.count, got)
		}
	}
	if strings.Contains(log, marker) {
		t.Error("the log holds a secret")
	}
}

// startFlakyRegistry starts a proxy of a registry that can be made to break off each
// connection.
func startFlakyRegistry(t *testing.T, addr string) (host string, setDown func(bool)) {
	t.Helper()
	var down atomic.Bool
	target := &url.URL{Scheme: "http", Host: addr}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), down.Store
}
