// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/vault/api"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	"sigs.k8s.io/yaml"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestArgoCDVaultPlugin follows argoproj-labs/argocd-vault-plugin 1.18.1.
func TestArgoCDVaultPlugin(t *testing.T) {
	c := newConsumer(t, "argocd-vault-plugin")
	placeholder := regexp.MustCompile(`(?mU)<path:([^#]+)#([^#]+)(?:#([^#]+))?>`) // pkg/kube/util.go
	// As GetSecrets in pkg/backends/vault.go.
	getSecrets := func(r *attempt, path, kvVersion string) (map[string]any, error) {
		response, err := r.get(path, nil)
		switch {
		case err != nil:
			return nil, err
		case response == nil:
			return nil, fmt.Errorf("Could not find secrets at path %s", path)
		case kvVersion == "1":
			return response.Data, nil
		case kvVersion != "2":
			return nil, errors.New("Unsupported kvVersion specified")
		}
		if data, ok := response.Data["data"].(map[string]any); ok {
			return data, nil
		}
		return nil, errors.New("Could not get data from Vault, check that kv-v2 is the correct engine")
	}
	c.does("policy.hcl", []string{"secret.yaml"}, func(r *attempt) error {
		var m manifest
		if err := r.parse("secret.yaml", &m); err != nil {
			return err
		}
		kvVersion, found := m.Metadata.Annotations["avp.kubernetes.io/kv-version"]
		if !found {
			kvVersion = "2" // pkg/config/config.go
		}
		for key, value := range m.Data {
			match := placeholder.FindStringSubmatch(value)
			if match == nil {
				continue
			}
			data, err := getSecrets(r, match[1], kvVersion)
			if err != nil {
				return err
			}
			text, ok := data[match[2]].(string)
			if !ok {
				return fmt.Errorf("replaceString: missing Vault value for placeholder %s", match[2])
			}
			m.Data[key] = strings.Replace(value, match[0], text, 1)
		}
		got, err := m.stored()
		if err != nil {
			return err
		}
		return got.isTheExample()
	})
	c.Run("its own code", func(t *testing.T) { c.renders(t, "read-argocd-vault-plugin", "secret.yaml") })
	c.Run("kv version 2", func(t *testing.T) {
		r := c.asRoot()
		if _, err := getSecrets(r, "regcred/creds/my_app", "2"); err == nil || !strings.Contains(err.Error(), "check that kv-v2 is the correct engine") {
			t.Errorf("want the error that docs/consumers/argocd-vault-plugin.md shows, got %v", err)
		}
	})
	c.Run("no such role", c.absent)
}

// TestBankVaultsWebhook follows bank-vaults/secrets-webhook 0.4.1, whose module
// is not available.
func TestBankVaultsWebhook(t *testing.T) {
	c := newConsumer(t, "bank-vaults-webhook")
	// As readVaultPath of the injector: always with a version.
	getValue := func(r *attempt, reference string) (string, error) {
		at, found := strings.CutPrefix(reference, "vault:")
		at, key, hasKey := strings.Cut(at, "#")
		if !found || !hasKey {
			return "", errors.New("secret data key or template not defined")
		}
		response, err := r.get(at, map[string][]string{"version": {"-1"}})
		if err != nil {
			return "", err
		}
		if response == nil {
			return "", fmt.Errorf("path not found: %s", at)
		}
		if _, found := response.Data["data"]; found {
			return "", errors.New("metadata key not found or is nil in secret")
		}
		text, ok := response.Data[key].(string)
		if !ok {
			return "", fmt.Errorf("key '%s' not found under path: %s", key, at)
		}
		return text, nil
	}
	type dockerAuth struct {
		Username string `json:"username,omitempty"`
		Password string `json:"password,omitempty"`
		Auth     string `json:"auth,omitempty"`
	}
	type dockerConfig struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	c.does("policy.hcl", []string{"secret.yaml", "values.yaml"}, func(r *attempt) error {
		var m manifest
		// Values of the webhook's chart. Everything in env becomes a variable of
		// the webhook.
		var values struct {
			Env                  map[string]string `json:"env"`
			SecretsFailurePolicy string            `json:"secretsFailurePolicy"`
		}
		if err := errors.Join(r.parse("secret.yaml", &m), r.parse("values.yaml", &values)); err != nil {
			return err
		}
		got, err := m.stored()
		if err != nil {
			return err
		}
		const prefix = "secrets-webhook.security.bank-vaults.io/"
		if err := want("annotations", map[string]string{ // pkg/common/common.go
			prefix + "provider":   "vault",
			prefix + "vault-addr": exampleAddress,
			prefix + "vault-path": "jwt",
			prefix + "vault-role": "my_app",
		}, m.Metadata.Annotations); err != nil {
			return err
		}
		// As SecretsMutator in pkg/webhook/webhook.go: no provider, no mutation.
		// As vaultAddrPolicy in pkg/provider/vault/config.go and
		// ValidateObjectAddr in pkg/common/addr.go: an address in an annotation
		// must be on the list.
		allowed := strings.Split(values.Env["VAULT_ADDR_ALLOWLIST"], ",")
		if addr := m.Metadata.Annotations[prefix+"vault-addr"]; !slices.Contains(allowed, addr) {
			return fmt.Errorf("address %q is not in the configured allowlist", addr)
		}
		// The chart's default, Ignore, stores the Secret with its references when
		// the webhook does not answer.
		if err := want("secretsFailurePolicy", "Fail", values.SecretsFailurePolicy); err != nil {
			return err
		}
		// As mutateDockerCreds and determineAuthType in
		// pkg/provider/vault/secret.go.
		var config dockerConfig
		if err := json.Unmarshal([]byte(got.Data[".dockerconfigjson"]), &config); err != nil {
			return err
		}
		assembled := dockerConfig{Auths: map[string]dockerAuth{}}
		for key, entry := range config.Auths {
			auth, err := base64.StdEncoding.DecodeString(entry.Auth)
			if err != nil {
				return err
			}
			split := strings.Split(string(auth), ":")
			if len(split) != 4 {
				return errors.New("invalid auth string")
			}
			username, err := getValue(r, split[0]+":"+split[1])
			if err != nil {
				return err
			}
			password, err := getValue(r, split[2]+":"+split[3])
			if err != nil {
				return err
			}
			assembled.Auths[key] = dockerAuth{username, password, base64.StdEncoding.EncodeToString([]byte(username + ":" + password))}
		}
		marshalled, err := json.Marshal(assembled)
		if err != nil {
			return err
		}
		got.Data[".dockerconfigjson"] = string(marshalled)
		return got.isTheExample()
	})
	c.Run("no warning to log at each use", func(t *testing.T) {
		response, err := c.asRoot().get("regcred/creds/my_app", map[string][]string{"version": {"-1"}})
		if err != nil || response == nil || len(response.Warnings) > 0 {
			t.Errorf("want no warnings, got %+v, %v", response, err)
		}
	})
	c.Run("several registries", func(t *testing.T) {
		c.otherRoles()
		r := c.asRoot()
		if _, err := getValue(r, "vault:regcred/creds/two#username"); err == nil || !strings.Contains(err.Error(), "key 'username' not found") {
			t.Errorf("want the error that docs/consumers/bank-vaults-webhook.md shows, got %v", err)
		}
	})
	c.Run("fields", func(t *testing.T) { c.plainFields(t, "data", "metadata") })
	c.Run("no such role", c.absent)
}

// TestTerraform follows hashicorp/terraform-provider-vault. Terraform's own
// parser checks the syntax; the provider's schema is not available as a Go
// module.
func TestTerraform(t *testing.T) {
	c := newConsumer(t, "terraform")
	parse := func(r *attempt, file string, variables map[string]cty.Value, into any) (*hcl.EvalContext, error) {
		parsed, diagnostics := hclparse.NewParser().ParseHCL([]byte(r.files[file]), file)
		if diagnostics.HasErrors() {
			return nil, diagnostics
		}
		evaluation := &hcl.EvalContext{Variables: variables, Functions: map[string]function.Function{"jsonencode": stdlib.JSONEncodeFunc}}
		if diagnostics := gohcl.DecodeBody(parsed.Body, evaluation, into); diagnostics.HasErrors() {
			return nil, diagnostics
		}
		return evaluation, nil
	}
	value := func(expression hcl.Expression, evaluation *hcl.EvalContext) (cty.Value, error) {
		v, diagnostics := expression.Value(evaluation)
		if diagnostics.HasErrors() {
			return cty.NilVal, diagnostics
		}
		return v, nil
	}

	// As vault/data_source_generic_secret.go, and versionedSecret in
	// vault/util.go.
	c.does("policy.hcl", []string{"secret.tf"}, func(r *attempt) error {
		var file struct {
			Provider struct {
				Name           string `hcl:"name,label"`
				Address        string `hcl:"address"`
				SkipChildToken bool   `hcl:"skip_child_token,optional"`
			} `hcl:"provider,block"`
			Data struct {
				Type string `hcl:"type,label"`
				Name string `hcl:"name,label"`
				Path string `hcl:"path"`
			} `hcl:"data,block"`
			Resource struct {
				Type     string `hcl:"type,label"`
				Name     string `hcl:"name,label"`
				Metadata struct {
					Name      string `hcl:"name"`
					Namespace string `hcl:"namespace"`
				} `hcl:"metadata,block"`
				SecretType string         `hcl:"type"`
				Data       hcl.Expression `hcl:"data"`
			} `hcl:"resource,block"`
		}
		evaluation, err := parse(r, "secret.tf", map[string]cty.Value{}, &file)
		if err != nil {
			return err
		}
		if err := errors.Join(
			want("provider", "vault "+exampleAddress, file.Provider.Name+" "+file.Provider.Address),
			want("data source", "vault_generic_secret", file.Data.Type),
			want("resource", "kubernetes_secret_v1 regcred", file.Resource.Type+" "+file.Resource.Name)); err != nil {
			return err
		}
		// As internal/provider/meta.go.
		if !file.Provider.SkipChildToken {
			if _, err := r.Auth().Token().Create(&api.TokenCreateRequest{TTL: "1m"}); err != nil {
				return fmt.Errorf("failed to create limited child token: %w", err)
			}
		}
		data, err := r.getKV(file.Data.Path)
		if err != nil {
			return err
		}
		texts := map[string]cty.Value{}
		for key, value := range data {
			text, ok := value.(string)
			if !ok {
				return fmt.Errorf("%s becomes JSON", key)
			}
			texts[key] = cty.StringVal(text)
		}
		evaluation.Variables["data"] = cty.ObjectVal(map[string]cty.Value{file.Data.Type: cty.ObjectVal(map[string]cty.Value{
			file.Data.Name: cty.ObjectVal(map[string]cty.Value{"data": cty.MapVal(texts)}),
		})})
		evaluated, err := value(file.Resource.Data, evaluation)
		if err != nil || evaluated.IsNull() {
			return fmt.Errorf("no data: %w", err)
		}
		got := secret{file.Resource.Metadata.Name, file.Resource.Metadata.Namespace, file.Resource.SecretType, map[string]string{}}
		for key, value := range evaluated.AsValueMap() {
			got.Data[key] = value.AsString()
		}
		return got.isTheExample()
	})
	c.Run("mount with version 2", c.mountedAsKV2)

	// As vault/resource_generic_endpoint.go: write, read, compare, delete.
	c.does("role-policy.hcl", []string{"role.tf"}, func(r *attempt) error {
		var file struct {
			Variable struct {
				Name      string         `hcl:"name,label"`
				Type      hcl.Expression `hcl:"type"`
				Sensitive bool           `hcl:"sensitive"`
			} `hcl:"variable,block"`
			Resource struct {
				Type               string `hcl:"type,label"`
				Name               string `hcl:"name,label"`
				Path               string `hcl:"path"`
				IgnoreAbsentFields bool   `hcl:"ignore_absent_fields,optional"`
				DataJSON           string `hcl:"data_json"`
			} `hcl:"resource,block"`
		}
		variables := map[string]cty.Value{"var": cty.ObjectVal(map[string]cty.Value{"password": cty.StringVal(examplePassword)})}
		if _, err := parse(r, "role.tf", variables, &file); err != nil {
			return err
		}
		var written fields
		if err := errors.Join(
			want("variable", "password string true", fmt.Sprint(file.Variable.Name, " ", hcl.ExprAsKeyword(file.Variable.Type), " ", file.Variable.Sensitive)),
			want("resource", "vault_generic_endpoint my_app", file.Resource.Type+" "+file.Resource.Name),
			json.Unmarshal([]byte(file.Resource.DataJSON), &written)); err != nil {
			return err
		}
		at := file.Resource.Path
		if _, err := r.Logical().Delete(at); err != nil { // so that the write creates
			return err
		}
		for range 2 { // creates, then updates
			if _, err := r.Logical().Write(at, written); err != nil {
				return err
			}
		}
		response, err := r.get(at, nil)
		if err != nil {
			return err
		}
		if response == nil {
			return errors.New("the role is gone")
		}
		planned := maps.Clone(written)
		for key, value := range response.Data {
			if _, found := written[key]; found || !file.Resource.IgnoreAbsentFields {
				planned[key] = value
			}
		}
		if err := want("the next plan would change data_json", written, planned); err != nil {
			return err
		}
		stored, err := c.vault.Client.Logical().Read("regcred/creds/my_app/kubernetes")
		if err != nil || stored == nil {
			return fmt.Errorf("reading what was written: %v, %w", stored, err)
		}
		return want("creds/my_app", exampleConfig(), stored.Data[".dockerconfigjson"].(string))
	})
	c.Run("no such role", c.absent)
}

// TestAnsible follows community.hashi_vault and hvac.
func TestAnsible(t *testing.T) {
	c := newConsumer(t, "ansible")
	lookup := regexp.MustCompile(`^\{\{ lookup\('community\.hashi_vault\.vault_read', '([^']+)', url='` + exampleAddress + `'\)\.data\.(\w+) \}\}$`)
	// As plugins/lookup/vault_read.py, and read in hvac/v1/__init__.py.
	vaultRead := func(r *attempt, path string) (map[string]any, error) {
		status, body, err := r.getJSON(path, http.Header{"X-Vault-Request": {"true"}})
		switch {
		case err != nil:
			return nil, err
		case status == http.StatusForbidden:
			return nil, fmt.Errorf("Forbidden: Permission Denied to path '%s'", path)
		case status == http.StatusNotFound:
			return nil, fmt.Errorf("The path '%s' doesn't seem to exist", path)
		}
		data, ok := body["data"].(map[string]any)
		if status != http.StatusOK || !ok {
			return nil, fmt.Errorf("status %d", status)
		}
		return data, nil
	}
	c.does("policy.hcl", []string{"playbook.yaml"}, func(r *attempt) error {
		var plays []struct {
			Hosts string `json:"hosts"`
			Tasks []struct {
				K8s struct {
					Definition manifest `json:"definition"`
				} `json:"kubernetes.core.k8s"`
			} `json:"tasks"`
		}
		if err := r.parse("playbook.yaml", &plays); err != nil {
			return err
		}
		if len(plays) != 1 || len(plays[0].Tasks) != 1 || plays[0].Hosts != "localhost" {
			return errors.New("something is missing")
		}
		m := plays[0].Tasks[0].K8s.Definition
		for key, value := range m.Data {
			match := lookup.FindStringSubmatch(value)
			if match == nil {
				return fmt.Errorf("no look-up: %s", value)
			}
			data, err := vaultRead(r, match[1])
			if err != nil {
				return err
			}
			text, ok := data[match[2]].(string)
			if !ok {
				return fmt.Errorf("'dict object' has no attribute '%s'", match[2])
			}
			m.Data[key] = text
		}
		got, err := m.stored()
		if err != nil {
			return err
		}
		return got.isTheExample()
	})
	c.Run("no such role", func(t *testing.T) {
		r := c.asRoot()
		if _, err := vaultRead(r, "regcred/creds/none"); err == nil || !strings.Contains(err.Error(), "doesn't seem to exist") {
			t.Errorf("want an error that says so, got %v", err)
		}
	})
}

// TestVals follows helmfile/vals 0.46.1.
func TestVals(t *testing.T) {
	c := newConsumer(t, "vals")
	reference := regexp.MustCompile(`^((secret)?ref)\+([^\+:]*:\/\/[^\+\n ]+[^\+\n ",])\+?$`) // pkg/expansion/expand_match.go
	c.does("policy.hcl", []string{"secret.yaml"}, func(r *attempt) error {
		var m manifest
		if err := r.parse("secret.yaml", &m); err != nil {
			return err
		}
		for key, value := range m.Data {
			match := reference.FindStringSubmatch(value)
			if match == nil {
				return fmt.Errorf("no reference: %s", value)
			}
			uri, err := url.Parse(match[3])
			if err != nil {
				return err
			}
			if err := want("reference", "ref vault map[address:["+exampleAddress+"]]", fmt.Sprint(match[1], " ", uri.Scheme, " ", uri.Query())); err != nil {
				return err
			}
			// As vals.go, and GetStringMap in pkg/providers/vault/vault.go.
			data, err := r.getKV(uri.Host + uri.Path)
			if err != nil {
				return err
			}
			text, ok := data[strings.TrimPrefix(uri.Fragment, "/")].(string)
			if !ok {
				return fmt.Errorf("no value found for key %s", uri.Fragment)
			}
			m.Data[key] = text
		}
		got, err := m.stored()
		if err != nil {
			return err
		}
		return got.isTheExample()
	})
	c.Run("its own code", func(t *testing.T) { c.renders(t, "read-vals", "secret.yaml") })
	c.Run("mount with version 2", c.mountedAsKV2)
	c.Run("no such role", c.absent)
}

// renders renders a file of the example with the tool's own code, which is a
// program because its module is one of its own. The token has the policy of the
// example.
func (c *consumer) renders(t *testing.T, program, file string) {
	t.Helper()
	files := c.examples(file, "policy.hcl")
	r, err := c.start(files, "policy.hcl")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), servers.Bin(t, program))
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(files[file], exampleAddress, c.vault.Addr))
	cmd.Env = []string{"HOME=" + t.TempDir(), "VAULT_ADDR=" + c.vault.Addr, "VAULT_TOKEN=" + r.Token()}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, stderr.String())
	}
	var m manifest
	if err := yaml.UnmarshalStrict(out, &m); err != nil {
		t.Fatalf("%s made no manifest: %v\n%s", program, err, out)
	}
	got, err := m.stored()
	if err != nil {
		t.Fatal(err)
	}
	if err := got.isTheExample(); err != nil {
		t.Error(err)
	}
}
