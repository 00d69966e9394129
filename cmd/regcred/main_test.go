// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/cmd/regcred/internal/vaulttest"
)

func call(t *testing.T, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, process{stdin: strings.NewReader(stdin), stdout: &out, stderr: &errs})
	return status, out.String(), errs.String()
}

func TestNameOfTheProgramChoosesTheCommand(t *testing.T) {
	vaulttest.CleanEnv(t)
	for _, c := range []struct {
		args           []string
		status         int
		stdout, stderr string
	}{
		{[]string{"/bin/docker-credential-regcred", "get"}, 1, "regcred: no role is configured", ""},
		{[]string{"docker-credential-regcred-work.exe", "get"}, 1, "docker-work.yaml", ""},
		{[]string{"regcred", "docker", "get"}, 1, "regcred: no role is configured", ""},
		{[]string{"/opt/regcred-credential-provider"}, 1, "", "regcred: auth.role: must name"},
		{[]string{"regcred-credential-provider-prod", "-auth-role=r", "-role=x"}, 1, "", "regcred: the standard input holds no CredentialProviderRequest"},
		{[]string{"regcred", "kubelet", "-auth-role=r", "-role=x"}, 1, "", "regcred: the standard input holds no CredentialProviderRequest"},
		{[]string{"regcred", "check", "docker", "ghcr.io"}, 1, "FAIL  configuration", ""},
		{[]string{"regcred", "check", "kubelet"}, 1, "FAIL  configuration", ""},
		{[]string{"regcred", "check"}, 1, "", "regcred: check takes"},
		{[]string{"regcred", "install"}, 1, "", "regcred: arguments: -from must name a folder"},
		{[]string{"regcred", "install", "-h"}, 0, "-bin-dir", ""},
		{[]string{"regcred", "pull"}, 1, "", `regcred: there is no command "pull"`},
		{[]string{"regcred"}, 0, "Usage: regcred <command>", ""},
		{[]string{"regcred", "help", "kubelet"}, 0, "-max-cache-duration", ""},
		{[]string{"regcred", "check", "-h"}, 0, "-token-file", ""},
		{[]string{"docker-credential-regcred"}, 0, "Usage: regcred docker", ""},
		{[]string{"regcred-credential-provider", "-version"}, 0, version, ""},
		{[]string{"regcred", "-version"}, 0, version, ""},
	} {
		status, stdout, stderr := call(t, "ghcr.io", c.args...)
		if status != c.status || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || c.stderr == "" && stderr != "" && stderr != stdout {
			t.Errorf("%q: want %d, %q, %q, got %d, %q, %q", c.args, c.status, c.stdout, c.stderr, status, stdout, stderr)
		}
	}
}

func TestEachCommandHasAPageOfHelp(t *testing.T) {
	for _, c := range commands() {
		status, page, stderr := call(t, "", "regcred", "help", c.name)
		if status != 0 || stderr != "" || !strings.HasPrefix(page, "Usage: regcred "+c.name) || strings.Count(page, "\n") < 10 {
			t.Errorf("%s: got %d, %q, %q", c.name, status, page, stderr)
		}
	}
}

// A panic's own text could hold a credential.
func TestPanicSaysNothing(t *testing.T) {
	status, stdout, stderr := call(t, "")
	if status != 2 || stdout != "" || stderr != "regcred: an internal error\n" {
		t.Errorf("got %d, %q, %q", status, stdout, stderr)
	}
}
