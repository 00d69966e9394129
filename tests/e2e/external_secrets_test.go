// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	exampleVault   = "https://vault.example.com:8200"
	exampleSubject = `"system:serviceaccount:app:regcred"`
	minimalPath    = "creds/my_app/kubernetes"
)

// externalSecretsExamples are the ways to use External Secrets.
var externalSecretsExamples = []string{"generator", "secretstore", "extract"}

func testExternalSecretsMinimal(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "external-secrets/policy.hcl"))
	w.trustCluster(t, k, prefixed("minimal-", externalSecretsExamples)...)
	for _, name := range externalSecretsExamples {
		t.Run(name, func(t *testing.T) {
			k := k.Namespace(t, "minimal-"+name)
			want := w.creds(t, "my_app/kubernetes")
			if err := syncsAsTheExample(k, w.externalSecret(t, name), want, cutLimit(t, 0)); err != nil {
				t.Fatal(err)
			}
			w.pulls(t, want[".dockerconfigjson"])
		})
	}
}

func testExternalSecretsAllFields(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "external-secrets/policy.hcl", minimalPath, "creds/my_app"))
	names := []string{"generator", "extract"}
	w.trustCluster(t, k, prefixed("all-", names)...)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			k := k.Namespace(t, "all-"+name)
			want := w.creds(t, "my_app")
			if len(want) != 5 {
				t.Fatalf("want five fields in creds/my_app, got %q", want)
			}
			if err := syncsAsTheExample(k, w.externalSecret(t, name, minimalPath, "creds/my_app"), want, cutLimit(t, 0)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func testExternalSecretsBase64(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "external-secrets/policy.hcl", minimalPath, "creds/my_app"))
	w.trustCluster(t, k, "base64")
	manifest := w.externalSecret(t, "secretstore", minimalPath, "creds/my_app",
		"property: .dockerconfigjson", "property: dockerconfigjson, decodingStrategy: Base64")
	if err := syncsAsTheExample(k.Namespace(t, "base64"), manifest, w.creds(t, "my_app/kubernetes"), cutLimit(t, 0)); err != nil {
		t.Fatal(err)
	}
}

// testExternalSecretsPolicy asks for a role that the policy does not allow, and
// from a namespace that the role in Vault does not accept.
func testExternalSecretsPolicy(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.vault.CLI(t, "", "write", "regcred/roles/other", "registry="+w.registry.Addr, "username=u", "password=p")
	w.usePolicy(t, example(t, "external-secrets/policy.hcl"))
	w.trustCluster(t, k, prefixed("policy-", externalSecretsExamples)...)
	for _, name := range externalSecretsExamples {
		for what, test := range map[string]struct{ namespace, manifest, want string }{
			"another role":      {"policy-" + name, w.externalSecret(t, name, minimalPath, "creds/other/kubernetes"), "permission denied"},
			"another namespace": {"stranger-" + name, w.externalSecret(t, name), `claim "sub" does not match`},
		} {
			t.Run(what+" with "+name, func(t *testing.T) {
				k := k.Namespace(t, test.namespace)
				if err := apply(k, test.manifest); err != nil {
					t.Fatal(err)
				}
				servers.Eventually(t, func() error {
					events, err := k.TryKubectl("", "get", "events", "-o", "jsonpath={.items[*].message}")
					if err == nil && !strings.Contains(events, test.want) {
						err = fmt.Errorf("want an event that says %q, got\n%s", test.want, events)
					}
					return err
				})
				if _, err := getSecret(k); err == nil {
					t.Error("there must be no Secret")
				}
			})
		}
	}
}

// testExternalSecretsExamplesAreMinimal removes one line at a time. Each time
// there must be no Secret, or a wrong one.
func testExternalSecretsExamplesAreMinimal(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "external-secrets/policy.hcl"))
	type cut struct {
		test, namespace, manifest string
		line                      int
	}
	var cuts []cut
	var namespaces []string
	for _, name := range externalSecretsExamples {
		manifest := w.externalSecret(t, name)
		for line, lineName := range linesToCut(manifest) {
			namespace := fmt.Sprintf("cut-%s-%d", name, line)
			cuts = append(cuts, cut{name + " without " + lineName, namespace, withoutLine(manifest, line), line})
			namespaces = append(namespaces, namespace)
		}
	}
	w.trustCluster(t, k, namespaces...)
	want := w.creds(t, "my_app/kubernetes")
	for _, cut := range cuts {
		t.Run(cut.test, func(t *testing.T) {
			t.Parallel()
			wantNeeded(t, cut.line, syncsAsTheExample(k.Namespace(t, cut.namespace), cut.manifest, want, cutLimit(t, cut.line)))
		})
	}
}

// externalSecret returns an example that talks to this world's Vault.
func (w *world) externalSecret(t *testing.T, name string, oldnew ...string) string {
	t.Helper()
	return example(t, "external-secrets/"+name+".yaml", append(oldnew, exampleVault, w.vault.Addr)...)
}

// trustCluster makes Vault accept the service account regcred of some
// namespaces, by the key with which the cluster signs the tokens of service
// accounts.
func (w *world) trustCluster(t *testing.T, k *servers.Kubernetes, namespaces ...string) {
	t.Helper()
	subjects := make([]string, len(namespaces))
	for i, namespace := range namespaces {
		subjects[i] = strings.Replace(exampleSubject, ":app:", ":"+namespace+":", 1)
	}
	role := example(t, "external-secrets/jwt-role.json", exampleSubject, strings.Join(subjects, ","))
	w.vault.CLI(t, "", "auth", "enable", "jwt")
	w.vault.CLI(t, k.PublicKey, "write", "auth/jwt/config", "bound_issuer="+k.Issuer, "jwt_validation_pubkeys=-")
	w.vault.CLI(t, role, "write", "auth/jwt/role/my_app", "-")
}

// syncsAsTheExample applies a manifest and checks everything that the example
// promises, except that its refresh interval works.
func syncsAsTheExample(k *servers.Kubernetes, manifest string, want map[string]string, limit time.Duration) error {
	if err := applyAndWait(k, manifest, limit); err != nil {
		return err
	}
	secret, err := getSecret(k)
	if err != nil {
		return err
	}
	if err := compareSecret(secret, pullSecret(want)); err != nil {
		return err
	}
	text, err := k.TryKubectl("", "get", "externalsecret", "regcred", "-o", "jsonpath={.spec.refreshInterval}")
	if err != nil {
		return err
	}
	if interval, err := time.ParseDuration(text); err != nil || interval != time.Minute {
		return fmt.Errorf("refresh interval: want 1m, got %s", text)
	}
	return nil
}

// applyAndWait applies a manifest and waits until External Secrets has done its work.
func applyAndWait(k *servers.Kubernetes, manifest string, limit time.Duration) error {
	if err := apply(k, manifest); err != nil {
		return err
	}
	_, err := k.TryKubectl("", "wait", "externalsecret/regcred", "--for=condition=Ready", "--timeout="+limit.String())
	return err
}

// apply applies a manifest and the service account that it names.
func apply(k *servers.Kubernetes, manifest string) error {
	const serviceAccount = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: regcred}\n---\n"
	_, err := k.TryKubectl(serviceAccount+manifest, "apply", "-f", "-")
	return err
}

func prefixed(prefix string, names []string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = prefix + name
	}
	return all
}
