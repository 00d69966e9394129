// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"vault-plugin-secrets-regcred/tests/servers"
)

// testHelmValues has kube-apiserver check, without storing it, the StatefulSet that
// HashiCorp's chart makes of examples/helm/values.yaml, and the patch that does the
// same to any other one. Unknown and misspelt fields are errors.
func testHelmValues(t *testing.T, k *servers.Kubernetes) {
	k = k.Namespace(t, "helm")
	var values struct {
		Server map[string]any `json:"server"`
	}
	if err := yaml.Unmarshal([]byte(example(t, "helm/values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	dryRun := []string{"apply", "--dry-run=server", "--validate=strict", "--filename=-"}
	s := values.Server
	k.Kubectl(t, vaultStatefulSet(t, s["extraInitContainers"], s["volumes"], s["volumeMounts"]), dryRun...)
	if _, err := k.TryKubectl(vaultStatefulSet(t, s["extraInitContainers"], nil, s["volumeMounts"]), dryRun...); err == nil {
		t.Error("a mount without its volume is accepted, so the dry run proves nothing")
	}

	k.Kubectl(t, vaultStatefulSet(t, nil, nil, nil), "apply", "--filename=-")
	patch := filepath.Join(t.TempDir(), "patch.yaml")
	if err := os.WriteFile(patch, []byte(example(t, "helm/init-container.yaml")), 0o600); err != nil {
		t.Fatal(err)
	}
	out := k.Kubectl(t, "", "patch", "statefulset", "vault", "--patch-file="+patch, "--dry-run=server", "--output=json")
	var patched struct {
		Spec struct {
			Template struct {
				Spec struct {
					Containers     []map[string]any `json:"containers"`
					InitContainers []map[string]any `json:"initContainers"`
				} `json:"spec"`
			} `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal([]byte(out), &patched); err != nil {
		t.Fatal(err)
	}
	pod := patched.Spec.Template.Spec
	if len(pod.Containers) != 1 || len(pod.InitContainers) != 1 || !strings.Contains(out, "/vault/data") {
		t.Errorf("want the container vault as it was, and one init container, got %s", out)
	}
}

// vaultStatefulSet is the StatefulSet of the chart's template
// server-statefulset.yaml, as far as it touches the values.
func vaultStatefulSet(t *testing.T, initContainers, volumes, mounts any) string {
	t.Helper()
	list := func(own map[string]any, more any) []any {
		others, _ := more.([]any)
		return append([]any{own}, others...)
	}
	set, err := json.Marshal(map[string]any{
		"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": map[string]any{"name": "vault"},
		"spec": map[string]any{
			"serviceName": "vault-internal", "replicas": 3,
			"selector": map[string]any{"matchLabels": map[string]any{"app": "vault"}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": "vault"}},
				"spec": map[string]any{
					"securityContext": map[string]any{"runAsNonRoot": true, "runAsUser": 100, "runAsGroup": 1000, "fsGroup": 1000},
					"initContainers":  initContainers,
					"volumes":         list(map[string]any{"name": "data", "emptyDir": map[string]any{}}, volumes),
					"containers": []any{map[string]any{
						"name": "vault", "image": "hashicorp/vault:1.21.0",
						"volumeMounts": list(map[string]any{"name": "data", "mountPath": "/vault/data"}, mounts),
					}},
				},
			},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(set)
}
