// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"bytes"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const externalSecretsModule = "github.com/external-secrets/external-secrets"

// StartExternalSecrets installs the resource definitions of External Secrets
// in the cluster and starts its controller, which watches all namespaces.
func StartExternalSecrets(t testing.TB, k *Kubernetes) *Process {
	t.Helper()
	// Applied by the server, because the definitions are too large for the
	// annotation in which kubectl would keep them.
	k.Kubectl(t, "", "apply", "--server-side", "-f", filepath.Join(moduleDir(t, "external-secrets", externalSecretsModule), "deploy", "crds", "bundle.yaml"))
	Eventually(t, func() error {
		// kubectl fails, instead of waiting, for a definition that has no
		// conditions yet.
		_, err := k.TryKubectl("", "wait", "--for=condition=Established", "--timeout=10s", "crd", "--all")
		return err
	})

	metrics := FreeAddr(t)
	cmd := exec.Command(Bin(t, "external-secrets"), "--live-addr=0", "--metrics-addr="+metrics, "--concurrent=4", "--loglevel=info")
	cmd.Env = k.Env()
	return start(t, "external-secrets", cmd, func() error {
		if err := dial(metrics); err != nil {
			return err
		}
		resp, err := http.Get("http://" + metrics + "/metrics")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// moduleDir returns the folder with the sources of a module that a tool is
// built from.
func moduleDir(t testing.TB, tool, module string) string {
	t.Helper()
	cmd := exec.Command("go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module)
	cmd.Dir = filepath.Join(Repo(), "tests", "tools", tool)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Fatalf("finding the sources of %s: %v\n%s", module, err, stderr.String())
	}
	return dir
}
