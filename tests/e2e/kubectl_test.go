// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/tests/servers"
)

func testKubectlMakesSecret(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "kubectl/policy.hcl"))
	for _, script := range []string{"create.sh", "update.sh", "apply.sh"} {
		t.Run(script, func(t *testing.T) {
			k := k.Namespace(t, "kubectl-"+strings.TrimSuffix(script, ".sh"))
			if script != "create.sh" {
				k.Kubectl(t, "", "create", "secret", "docker-registry", "regcred", "--docker-server=old", "--docker-username=old", "--docker-password=old")
			}
			if out, err := runScript(t, w, k, example(t, "kubectl/"+script)); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			got, err := getSecret(k)
			if err != nil {
				t.Fatal(err)
			}
			if err := compareSecret(got, pullSecret(w.creds(t, "my_app/kubernetes"))); err != nil {
				t.Error(err)
			}
			w.pulls(t, got.Data[".dockerconfigjson"])
		})
	}
}

// testKubectlAfterPlainApply changes over from a plain "kubectl apply", as the
// page says.
func testKubectlAfterPlainApply(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "kubectl/policy.hcl"))
	k = k.Namespace(t, "kubectl-plain")
	if out, err := runScript(t, w, k, example(t, "kubectl/apply.sh", " --server-side --force-conflicts", "")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := getSecret(k); err == nil {
		t.Fatal("a plain apply leaves no copy: the annotation is not looked for where it stands")
	}
	k.Kubectl(t, "", "annotate", "secret", "regcred", "kubectl.kubernetes.io/last-applied-configuration-")
	for _, script := range []string{"update.sh", "apply.sh"} {
		w.vault.CLI(t, "", "write", "regcred/roles/my_app", "password=newer-"+script)
		if out, err := runScript(t, w, k, example(t, "kubectl/"+script)); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		got, err := getSecret(k)
		if err != nil {
			t.Fatal(err)
		}
		if err := compareSecret(got, pullSecret(w.creds(t, "my_app/kubernetes"))); err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
}

// testKubectlRefusals makes mistakes that users make. The error must name the
// key, or say that the type cannot be changed.
func testKubectlRefusals(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "kubectl/policy.hcl"))
	k = k.Namespace(t, "kubectl-refusals")
	creds := w.creds(t, "my_app")
	manifest := func(name, field, key, value string) string {
		return fmt.Sprintf(`{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": %q},
			"type": "kubernetes.io/dockerconfigjson", %q: {%q: %q}}`, name, field, key, value)
	}
	k.Kubectl(t, "", "create", "secret", "generic", "opaque", "--from-literal=.dockerconfigjson="+creds[".dockerconfigjson"])
	for what, test := range map[string]struct {
		manifest string
		want     []string
	}{
		"another key": {
			manifest("regcred", "stringData", "config.json", creds[".dockerconfigjson"]),
			[]string{"data[.dockerconfigjson]: Required value"},
		},
		"the encoded field where kubectl encodes once more": {
			manifest("regcred", "stringData", ".dockerconfigjson", creds["dockerconfigjson"]),
			[]string{"data[.dockerconfigjson]: Invalid value", "<secret contents redacted>"},
		},
		"the field that is not encoded under data": {
			manifest("regcred", "data", ".dockerconfigjson", creds[".dockerconfigjson"]),
			[]string{"illegal base64 data"},
		},
		"a Secret that has another type": {
			manifest("opaque", "data", ".dockerconfigjson", base64.StdEncoding.EncodeToString([]byte(creds[".dockerconfigjson"]))),
			[]string{`type: Invalid value: "kubernetes.io/dockerconfigjson": field is immutable`},
		},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := k.TryKubectl(test.manifest, "apply", "-f", "-")
			if err == nil {
				t.Fatal("want a refusal")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("want %q in\n%s", want, err)
				}
			}
			if strings.Contains(err.Error(), w.login.Password) {
				t.Errorf("the refusal shows the password:\n%s", err)
			}
		})
	}

	for _, script := range []string{"create.sh", "update.sh", "apply.sh"} {
		t.Run(script+" of a role that does not exist", func(t *testing.T) {
			w.usePolicy(t, example(t, "kubectl/policy.hcl", "my_app", "none"))
			out, err := runScript(t, w, k, example(t, "kubectl/"+script, "my_app", "none"))
			if err == nil || !strings.Contains(out, "No value found at regcred/creds/none") {
				t.Errorf("want a failure that names the path, got %v\n%s", err, out)
			}
			if _, err := getSecret(k); err == nil {
				t.Error("there must be no Secret")
			}
		})
	}
}

// runScript runs one of the scripts for kubectl with a token that has only the
// policy my_app.
func runScript(t *testing.T, w *world, k *servers.Kubernetes, script string) (string, error) {
	t.Helper()
	token, err := w.vault.NewToken("my_app")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
	cmd.Env = append(k.Env(), "PATH="+toolPath(), "VAULT_ADDR="+w.vault.Addr, "VAULT_TOKEN="+token)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// toolPath returns a PATH that finds the programs in .bin first.
func toolPath() string {
	return filepath.Join(servers.Repo(), ".bin") + string(os.PathListSeparator) + os.Getenv("PATH")
}
