// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/tests/servers"
)

const beforeTheMove = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: team-a}
imagePullSecrets: [{name: regcred}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: done, namespace: team-a}
---
apiVersion: v1
kind: Secret
metadata: {name: regcred, namespace: team-a}
type: kubernetes.io/dockerconfigjson
stringData: {".dockerconfigjson": "{\"auths\": {}}"}
---
apiVersion: v1
kind: Secret
metadata: {name: old, namespace: team-a}
type: kubernetes.io/dockercfg
stringData: {".dockercfg": "{}"}
---
apiVersion: v1
kind: Secret
metadata: {name: other, namespace: team-a}
stringData: {password: none}
---
apiVersion: v1
kind: Pod
metadata: {name: with, namespace: team-a}
spec: {serviceAccountName: web, imagePullSecrets: [{name: regcred}, {name: old}], containers: [{name: web, image: ghcr.io/acme/app}]}
---
apiVersion: v1
kind: Pod
metadata: {name: without, namespace: team-a}
spec: {serviceAccountName: done, containers: [{name: web, image: ghcr.io/acme/app}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: team-a}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {imagePullSecrets: [{name: regcred}], containers: [{name: web, image: ghcr.io/acme/app}]}
`

// testFromSecrets runs the commands of docs/client/from-secrets.md that need only an
// API server, and compares what they show and change.
func testFromSecrets(t *testing.T, k *servers.Kubernetes) {
	k.Namespace(t, "team-a")
	k.Kubectl(t, beforeTheMove, "create", "--filename=-")
	content, err := os.ReadFile(filepath.Join(servers.Repo(), "docs", "client", "from-secrets.md"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(content)) {
		if !strings.HasPrefix(line, "kubectl get pods") && !strings.HasPrefix(line, "kubectl get se") && !strings.HasPrefix(line, "kubectl -n team-a patch") {
			continue
		}
		cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Env = append(k.Env(), "PATH="+filepath.Join(servers.Repo(), ".bin")+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s%v\n%s", line, err, out)
		}
		for shown := range strings.Lines(string(out)) {
			// Other tests have namespaces of their own, and ages differ.
			if words := strings.Fields(shown); slices.Contains(words, "team-a") || strings.Contains(shown, " patched") {
				if len(words) == 5 {
					words = words[:4]
				}
				got = append(got, strings.Join(words, " "))
			}
		}
	}
	want := []string{
		"team-a with web regcred,old",
		"team-a web regcred",
		"team-a regcred kubernetes.io/dockerconfigjson 1",
		"team-a old kubernetes.io/dockercfg 1",
		"serviceaccount/web patched",
		"deployment.apps/web patched",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the commands show (-want +got):\n%s", diff)
	}
	for _, object := range []string{"serviceaccount/web", "deployment/web"} {
		if left := k.Kubectl(t, "", "-n", "team-a", "get", object, "-o", "yaml"); strings.Contains(left, "imagePullSecrets") {
			t.Errorf("%s still names a Secret:\n%s", object, left)
		}
	}
}
