// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"
)

// vaultDynamicSecret has the fields of VaultDynamicSecret in api/v1beta1 of
// hashicorp/vault-secrets-operator that the examples use.
type vaultDynamicSecret struct {
	object
	Spec struct {
		VaultAuthRef     string `json:"vaultAuthRef"`
		Mount            string `json:"mount"`
		Path             string `json:"path"`
		RefreshAfter     string `json:"refreshAfter"`
		AllowStaticCreds bool   `json:"allowStaticCreds"`
		Destination      struct {
			Name           string `json:"name"`
			Create         bool   `json:"create"`
			Type           string `json:"type"`
			Transformation struct {
				ExcludeRaw bool     `json:"excludeRaw"`
				Includes   []string `json:"includes"`
			} `json:"transformation"`
		} `json:"destination"`
	} `json:"spec"`
}

// TestVaultSecretsOperatorDynamicSecrets follows
// hashicorp/vault-secrets-operator 1.4: a shared role, a leased one, and a
// bundle of a shared role and a static one.
func TestVaultSecretsOperatorDynamicSecrets(t *testing.T) {
	c := newConsumer(t, "vault-secrets-operator")
	lab := gitlabtest.New(t)
	connect(t, c.vault.Client, "regcred/connections/gitlab", "gitlab", lab.Connection(), fields{"allowed_roles": "my_*"})
	write(t, c.vault.Client, "regcred/roles/my_shared", dynamic("gitlab", lab.Role(), fields{"allowed_bundles": "my_bundle", "rotation_period": "1h"}))
	write(t, c.vault.Client, "regcred/roles/my_leased", dynamic("gitlab", lab.Role(), fields{"mode": "leased", "ttl": "1h"}))
	write(t, c.vault.Client, "regcred/roles/my_app", fields{"allowed_bundles": "my_bundle"})
	write(t, c.vault.Client, "regcred/roles/my_bundle", fields{"members": "my_app,my_shared"})

	c.does("shared-policy.hcl", []string{"shared-secret.yaml"}, func(r *attempt) error {
		o, response, err := r.syncDynamicSecret("shared-secret.yaml")
		if err != nil {
			return err
		}
		if !o.Spec.AllowStaticCreds {
			return errors.New("no lease, no refreshAfter: read once")
		}
		wait, err := staticCredsHorizon(response.Data)
		if err != nil {
			return err
		}
		if wait <= 0 || wait > time.Hour+time.Second {
			return fmt.Errorf("reads again after %s", wait)
		}
		return o.isThePullSecret(response, read(t, c.vault.Client, "regcred/creds/my_shared/kubernetes"))
	})
	c.does("bundle-policy.hcl", []string{"bundle-secret.yaml"}, func(r *attempt) error {
		o, response, err := r.syncDynamicSecret("bundle-secret.yaml")
		if err != nil {
			return err
		}
		if interval, err := time.ParseDuration(o.Spec.RefreshAfter); err != nil || interval != time.Minute || o.Spec.AllowStaticCreds {
			return errors.New("no lease, no refreshAfter: read once")
		}
		return o.isThePullSecret(response, read(t, c.vault.Client, "regcred/creds/my_bundle/kubernetes"))
	})
	c.does("leased-policy.hcl", []string{"leased-secret.yaml"}, func(r *attempt) error {
		o, response, err := r.syncDynamicSecret("leased-secret.yaml")
		if err != nil {
			return err
		}
		if !response.Renewable || response.LeaseID == "" || o.Spec.AllowStaticCreds {
			return fmt.Errorf("not a lease that can be renewed: %+v", response)
		}
		// As renewLease and revokeLease in
		// controllers/vaultdynamicsecret_controller.go. A renewal to less than
		// before makes the operator read anew.
		for _, path := range []string{"sys/leases/renew", "sys/leases/revoke"} {
			r.asked[path] = true
			answer, err := r.Logical().Write(path, fields{"lease_id": response.LeaseID, "increment": response.LeaseDuration})
			if err != nil {
				return err
			}
			if answer != nil && answer.LeaseDuration < response.LeaseDuration {
				return fmt.Errorf("renewed for %d s only", answer.LeaseDuration)
			}
		}
		return o.isThePullSecret(response, response.Data)
	})

	// With allowStaticCreds a bundle follows its shared member only.
	wait, err := staticCredsHorizon(read(t, c.vault.Client, "regcred/creds/my_bundle"))
	if err != nil || wait < time.Minute {
		t.Errorf("a bundle with allowStaticCreds: want the rotation of its shared member, got %s, %v", wait, err)
	}
}

// syncDynamicSecret reads as syncSecret in
// controllers/vaultdynamicsecret_controller.go.
func (r *attempt) syncDynamicSecret(file string) (vaultDynamicSecret, *api.Secret, error) {
	var o vaultDynamicSecret
	if err := errors.Join(r.parse(file, &o), o.is("secrets.hashicorp.com/v1beta1", "VaultDynamicSecret"),
		want("vaultAuthRef", "regcred", o.Spec.VaultAuthRef),
		want("name", metadata{Name: "regcred", Namespace: "app"}, o.Metadata)); err != nil {
		return o, nil, err
	}
	if !o.Spec.Destination.Create {
		return o, nil, errors.New("destination secret does not exist")
	}
	response, err := r.get(o.Spec.Mount+"/"+o.Spec.Path, nil)
	if err == nil && response == nil {
		err = fmt.Errorf("empty response from Vault, path=%q", o.Spec.Path)
	}
	return o, response, err
}

// isThePullSecret compares the Secret that the operator makes of a response with
// a pull secret.
func (o vaultDynamicSecret) isThePullSecret(response *api.Secret, pullSecret map[string]any) error {
	d := o.Spec.Destination
	data := map[string]string{}
	raw, err := json.Marshal(response.Data)
	if err != nil {
		return err
	}
	if !d.Transformation.ExcludeRaw {
		data["_raw"] = string(raw)
	}
	// As FilterData in helpers/secrets.go.
	var includes []*regexp.Regexp
	for _, pattern := range d.Transformation.Includes {
		include, err := regexp.Compile(pattern)
		if err != nil {
			return err
		}
		includes = append(includes, include)
	}
	for key, value := range response.Data {
		if len(includes) > 0 && !slices.ContainsFunc(includes, func(r *regexp.Regexp) bool { return r.MatchString(key) }) {
			continue
		}
		text, ok := value.(string)
		if !ok {
			encoded, err := json.Marshal(value)
			if err != nil {
				return err
			}
			text = string(encoded)
		}
		data[key] = text
	}
	return want("Secret",
		secret{"regcred", "app", exampleType, map[string]string{".dockerconfigjson": pullSecret[".dockerconfigjson"].(string)}},
		secret{d.Name, o.Metadata.Namespace, d.Type, data})
}

// staticCredsHorizon is when the operator reads again with allowStaticCreds, as
// vaultStaticCredsMetaDataFromData and computePostSyncHorizon in
// controllers/vaultdynamicsecret_controller.go.
func staticCredsHorizon(data map[string]any) (time.Duration, error) {
	last, _ := data["last_vault_rotation"].(string)
	if _, err := time.Parse(time.RFC3339Nano, last); err != nil {
		return 0, fmt.Errorf("invalid last_vault_rotation: %w", err)
	}
	seconds := map[string]int64{}
	for _, field := range []string{"rotation_period", "ttl"} {
		number, ok := data[field].(json.Number)
		if !ok {
			return 0, fmt.Errorf("invalid %s: %v", field, data[field])
		}
		value, err := number.Int64()
		if err != nil {
			return 0, err
		}
		seconds[field] = value
	}
	if seconds["rotation_period"] < 1 {
		return 0, errors.New("Vault response data does not support static-creds semantics")
	}
	return time.Duration(seconds["ttl"])*time.Second + 500*time.Millisecond, nil
}
