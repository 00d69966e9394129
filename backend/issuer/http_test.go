// SPDX-License-Identifier: MPL-2.0

package issuer_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// startProxy starts a proxy, has the environment name it, and returns the targets that
// it was asked for.
func startProxy(t *testing.T) (asked func() []string) {
	t.Helper()
	targets := make(chan string, 100)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		targets <- r.Method + " " + r.RequestURI
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(proxy.Close)
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		t.Setenv(name, "")
	}
	return func() (all []string) {
		for len(targets) > 0 {
			all = append(all, <-targets)
		}
		return all
	}
}

// A proxy is another machine, so it must not be sent a token in plain http.
func TestThisMachineIsNotAskedForThroughAProxy(t *testing.T) {
	asked := startProxy(t)
	for _, host := range []string{"gitlab.localhost", "127.0.0.1"} {
		err := open(t, "http://"+host+":1", http.MethodPost).Revoke(t.Context(), nil, issuer.NewName("app"), "1")
		if targets := asked(); len(targets) > 0 {
			t.Errorf("%s: the proxy was asked for %q (%v)", host, targets, err)
		}
	}
	_ = open(t, "https://registry.example.com", http.MethodPost).Revoke(t.Context(), nil, issuer.NewName("app"), "1")
	if len(asked()) == 0 {
		t.Error("the proxy was not used at all, so the test proves nothing")
	}
}

// With a proxy, the dialer sees only the proxy.
func TestProxyIsNotAskedForForbiddenAddresses(t *testing.T) {
	asked := startProxy(t)
	for _, host := range []string{"169.254.169.254", "[fd00:ec2::254]", "168.63.129.16:8443", "2852039166", "0.0.0.0"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			err := open(t, "https://"+host, method).Revoke(t.Context(), nil, issuer.NewName("app"), "1")
			if err == nil || !strings.Contains(err.Error(), "is an address that no registry has") || !issuer.Definite(err) {
				t.Errorf("%s %s: want a definite error that says that no registry has the address, got %v", method, host, err)
			}
			if targets := asked(); len(targets) > 0 {
				t.Errorf("%s %s: the proxy was asked for %q", method, host, targets)
			}
		}
	}
}
