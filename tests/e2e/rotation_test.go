// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

// testRotation changes a password once and waits for all consumers. Each must
// get the new password, which pulls; the registry refuses the old one. It
// prints how long each took, with the intervals of the examples.
func testRotation(t *testing.T, k *servers.Kubernetes) {
	w := newWorld(t)
	w.usePolicy(t, strings.Join([]string{
		example(t, "kubectl/policy.hcl"), example(t, "external-secrets/policy.hcl"), example(t, "vault-agent/policy.hcl"),
	}, "\n"))
	w.trustCluster(t, k, prefixed("rotation-", externalSecretsExamples)...)
	w.useAppRole(t)

	// current returns each consumer's Docker config, once the consumer works.
	current := map[string]func() (string, error){}
	for _, name := range externalSecretsExamples {
		k := k.Namespace(t, "rotation-"+name)
		if err := applyAndWait(k, w.externalSecret(t, name), cutLimit(t, 0)); err != nil {
			t.Fatal(err)
		}
		current["External Secrets, "+name] = func() (string, error) { return dockerConfig(k) }
	}
	for _, name := range []string{"update", "apply"} {
		k := k.Namespace(t, "rotation-"+name)
		script := example(t, "kubectl/"+name+".sh")
		current["kubectl, "+name] = func() (string, error) {
			if out, err := runScript(t, w, k, script); err != nil {
				return "", fmt.Errorf("%w\n%s", err, out)
			}
			return dockerConfig(k)
		}
	}
	for _, e := range agentExamples {
		a := w.startAgent(t, e, k.Namespace(t, "rotation-"+strings.TrimSuffix(e.file, ".hcl")))
		current["Vault Agent, "+e.file] = func() (string, error) { return e.current(a) }
	}

	before := map[string]string{}
	for name, get := range current {
		config, err := get()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		before[name] = config
	}
	w.pulls(t, w.creds(t, "my_app/kubernetes")[".dockerconfigjson"])

	w.changePassword(t, "an0ther")
	changed := time.Now()
	// Not subtests, which would wait for one another and so make the times
	// wrong.
	var consumers sync.WaitGroup
	for name, get := range current {
		consumers.Go(func() {
			var config string
			if err := servers.TryUntil(servers.Limit(t), func() (err error) {
				config, err = get()
				if err == nil && config == before[name] {
					err = errors.New("still the old password")
				}
				return err
			}); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			fmt.Printf("%-30s had the new password after %5.1f s\n", name, time.Since(changed).Seconds())
			w.pulls(t, config)
			w.isRefused(t, before[name])
		})
	}
	consumers.Wait()
}
