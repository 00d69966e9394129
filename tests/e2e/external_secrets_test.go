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

// testExternalSecretsDeletion deletes the role in Vault. docs/consumers/external-secrets.md
// has a table of what becomes of the Secret.
func testExternalSecretsDeletion(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "external-secrets/policy.hcl"))
	type consumer struct {
		name    string
		deletes bool
		k       *servers.Kubernetes
	}
	consumers := []*consumer{
		{name: "generator"},
		{name: "secretstore"},
		{name: "extract"},
		{name: "generator", deletes: true},
		{name: "secretstore", deletes: true},
		{name: "extract", deletes: true},
	}
	namespace := func(c *consumer) string { return fmt.Sprintf("deletion-%s-%t", c.name, c.deletes) }
	var namespaces []string
	for _, c := range consumers {
		namespaces = append(namespaces, namespace(c))
	}
	w.trustCluster(t, k, namespaces...)
	for _, c := range consumers {
		c.k = k.Namespace(t, namespace(c))
		manifest := w.externalSecret(t, c.name, "refreshInterval: 1m", "refreshInterval: 1s")
		if c.deletes {
			// Both forms of target in the examples.
			manifest = strings.NewReplacer("target: {", "target: {deletionPolicy: Delete, ", "target:\n", "target:\n    deletionPolicy: Delete\n").Replace(manifest)
			if !strings.Contains(manifest, "deletionPolicy") {
				t.Fatalf("no target in %s", manifest)
			}
		}
		if err := applyAndWait(c.k, manifest, cutLimit(t, 0)); err != nil {
			t.Fatal(err)
		}
	}
	w.vault.CLI(t, "", "delete", "regcred/roles/my_app")

	for _, c := range consumers {
		gone := c.deletes && c.name != "generator"
		servers.Eventually(t, func() error {
			// External Secrets has noticed that the role is gone.
			condition, err := c.k.TryKubectl("", "get", "externalsecret", "regcred", "-o", "jsonpath={.status.conditions[*].reason} {.status.conditions[*].message}")
			if err == nil && !strings.Contains(condition, "SecretDeleted") && !strings.Contains(condition, "SecretSyncedError") && !strings.Contains(condition, "Retain") {
				err = fmt.Errorf("%s: nothing has changed: %s", namespace(c), condition)
			}
			return err
		})
		_, err := getSecret(c.k)
		if deleted := err != nil && strings.Contains(err.Error(), "NotFound"); deleted != gone || err != nil && !deleted {
			t.Errorf("%s: want the Secret deleted: %t, got %v", namespace(c), gone, err)
		}
	}
}

// testExternalSecretsWholeCluster uses the example for many namespaces, and
// removes one line at a time. Each use has objects of its own for the cluster,
// a namespace for the service account, one that has the label, and one that has
// not.
func testExternalSecretsWholeCluster(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, example(t, "external-secrets/policy.hcl"))
	manifest := w.externalSecret(t, "clustersecretstore") + "---\n" + example(t, "external-secrets/clusterexternalsecret.yaml")
	type cut struct {
		test, name, manifest string
		line                 int
	}
	var cuts []cut
	var homes []string
	for line, lineName := range linesToCut(manifest) {
		name := fmt.Sprintf("regcred-%d", line)
		own := strings.NewReplacer("name: regcred, namespace: app", "name: regcred, namespace: home-"+name, `regcred: "true"`, fmt.Sprintf("regcred: %q", name),
			"metadata: {name: regcred}", "metadata: {name: "+name+"}", "kind: ClusterSecretStore, name: regcred}", "kind: ClusterSecretStore, name: "+name+"}")
		cuts = append(cuts, cut{"without " + lineName, name, own.Replace(withoutLine(manifest, line)), line})
		homes = append(homes, "home-"+name)
	}
	w.trustCluster(t, k, homes...)
	want := w.creds(t, minimalPath[len("creds/"):])
	for _, cut := range cuts {
		t.Run(cut.test, func(t *testing.T) {
			t.Parallel()
			home, labelled, other := k.Namespace(t, "home-"+cut.name), k.Namespace(t, "labelled-"+cut.name), k.Namespace(t, "other-"+cut.name)
			k.Kubectl(t, "", "label", "namespace", "labelled-"+cut.name, "regcred="+cut.name)
			wantNeeded(t, cut.line, servesLabelled(home, labelled, other, cut.manifest, cut.name, want, cutLimit(t, cut.line)))
		})
	}
}

// servesLabelled checks that a manifest for the whole cluster brings a Secret
// into the labelled namespace, and that another namespace cannot use its store.
func servesLabelled(home, labelled, other *servers.Kubernetes, manifest, name string, want map[string]string, limit time.Duration) error {
	if err := apply(home, manifest); err != nil {
		return err
	}
	object := "externalsecret/" + name
	for _, condition := range []string{"create", "condition=Ready"} {
		if _, err := labelled.TryKubectl("", "wait", object, "--for="+condition, "--timeout="+limit.String()); err != nil {
			return err
		}
	}
	secret, err := getSecretNamed(labelled, name)
	if err != nil {
		return err
	}
	if err := compareSecret(secret, pullSecret(want)); err != nil {
		return err
	}
	interval, err := labelled.TryKubectl("", "get", object, "-o", "jsonpath={.spec.refreshInterval}")
	if err != nil {
		return err
	}
	if every, err := time.ParseDuration(interval); err != nil || every != time.Minute {
		return fmt.Errorf("refresh interval: want 1m, got %s", interval)
	}
	stranger := fmt.Sprintf(`{apiVersion: external-secrets.io/v1, kind: ExternalSecret, metadata: {name: %[1]s},
spec: {refreshInterval: 1m, secretStoreRef: {kind: ClusterSecretStore, name: %[1]s}, dataFrom: [{extract: {key: %[2]s}}]}}`, name, minimalPath)
	if _, err := other.TryKubectl(stranger, "apply", "-f", "-"); err != nil {
		return err
	}
	_, err = other.TryKubectl("", "wait", object, "--for=condition=Ready=False", "--timeout="+limit.String())
	return err
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
