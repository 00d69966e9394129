// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestNoSpellingGetsRoundADeny sends paths that no client would write, byte for
// byte. A policy that allows creds/* and denies one role must hold for all of
// them.
func TestNoSpellingGetsRoundADeny(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	for role, password := range map[string]string{"denied": "s3cr3t-denied", "allowed": "s3cr3t-allowed"} {
		write(t, v.Client, "regcred/roles/"+role, map[string]any{"registry": "registry.example.com", "username": "u", "password": password})
	}
	if err := v.Client.Sys().PutPolicy("all-but-one", `
path "regcred/creds/*"        { capabilities = ["read"] }
path "regcred/creds/denied"   { capabilities = ["deny"] }
path "regcred/creds/denied/*" { capabilities = ["deny"] }
`); err != nil {
		t.Fatal(err)
	}
	token, err := v.NewToken("all-but-one")
	if err != nil {
		t.Fatal(err)
	}

	if got := rawGet(t, v.Addr, token, "/v1/regcred/creds/allowed"); !strings.Contains(got, "s3cr3t-allowed") {
		t.Fatalf("the policy must allow the other role, or this test proves nothing; got\n%s", got)
	}
	for _, spelling := range []string{
		"denied", "denied/", "denied//", "/denied", "./denied", "denied/.", "allowed/../denied", "denied/kubernetes", "denied/docker",
		"denied/kubernetes/", "denied//kubernetes", "denied/./kubernetes", "denied/docker/../kubernetes",
		"Denied", "DENIED", "denied%20", "%20denied", "denied%00", "denied%0a", "denied%2f", "denied%2fkubernetes", "%2fdenied",
		"%64enied", "%2564enied", "denie%64", "denied%2Fdocker", "allowed%2f..%2fdenied", "allowed/..%2fdenied", "denied?version=-1",
		"denied%3fx", "denied%23", "denied#", "denied;x", "denied%3b", "denied.", "denied%c0%af", "den\u0131ed", "d\u0435nied", "denied%e2%80%8b",
		"denied?list=true", "denied?help=1", "?role=denied", "allowed?role=denied", "allowed/kubernetes?role=denied",
	} {
		if got := rawGet(t, v.Addr, token, "/v1/regcred/creds/"+spelling); strings.Contains(got, "s3cr3t-denied") {
			t.Errorf("creds/%s reads the role that the policy denies:\n%s", spelling, got)
		}
	}
}

// rawGet sends the path unchanged, which net/http would not do.
func rawGet(t *testing.T, addr, token, path string) string {
	t.Helper()
	return rawRequest(t, addr, token, http.MethodGet, path, "")
}

// rawRequest is rawGet with a body.
func rawRequest(t *testing.T, addr, token, method, path, body string) string {
	t.Helper()
	host := strings.TrimPrefix(addr, "http://")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(servers.Limit(t))
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nX-Vault-Token: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", method, path, host, token, len(body), body)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return string(answer)
}
