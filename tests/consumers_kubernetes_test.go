// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/vault/api"
	"sigs.k8s.io/yaml"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestVaultSecretsOperator follows hashicorp/vault-secrets-operator 1.4.
func TestVaultSecretsOperator(t *testing.T) {
	c := newConsumer(t, "vault-secrets-operator")
	const group = "secrets.hashicorp.com/v1beta1"

	// Fields of api/v1beta1/common.go that the examples use.
	type destination struct {
		Name           string `json:"name"`
		Create         bool   `json:"create"`
		Type           string `json:"type"`
		Transformation struct {
			ExcludeRaw bool `json:"excludeRaw"`
		} `json:"transformation"`
	}
	// As (*defaultClient).Read in vault/client.go, and helpers/secrets.go: all
	// top-level fields are copied, and once more as JSON unless that is
	// excluded.
	sync := func(r *attempt, o object, mount, path string, d destination) error {
		response, err := r.get(mount+"/"+path, nil)
		if err != nil {
			return err
		}
		if response == nil {
			return fmt.Errorf("empty response from Vault, path=%q", path)
		}
		got := secret{d.Name, o.Metadata.Namespace, d.Type, map[string]string{}}
		raw, err := json.Marshal(response.Data)
		if err != nil {
			return err
		}
		if !d.Transformation.ExcludeRaw {
			got.Data["_raw"] = string(raw)
		}
		for key, value := range response.Data {
			text, ok := value.(string)
			if !ok || key == "_raw" {
				return fmt.Errorf("%s: not a text, or a name of the operator's own", key)
			}
			got.Data[key] = text
		}
		if !d.Create {
			return errors.New("destination secret does not exist")
		}
		return got.isTheExample()
	}
	refreshes := func(after string) bool {
		interval, err := time.ParseDuration(after)
		return err == nil && interval == time.Minute
	}

	c.does("policy.hcl", []string{"auth.yaml", "static-secret.yaml"}, func(r *attempt) error {
		var connection struct {
			object
			Spec struct {
				Address string `json:"address"`
			} `json:"spec"`
		}
		var auth struct {
			object
			Spec struct {
				VaultConnectionRef string `json:"vaultConnectionRef"`
				Method             string `json:"method"`
				Mount              string `json:"mount"`
				JWT                struct {
					Role           string   `json:"role"`
					ServiceAccount string   `json:"serviceAccount"`
					Audiences      []string `json:"audiences"`
				} `json:"jwt"`
			} `json:"spec"`
		}
		var static struct {
			object
			Spec struct {
				VaultAuthRef string      `json:"vaultAuthRef"`
				Type         string      `json:"type"`
				Mount        string      `json:"mount"`
				Path         string      `json:"path"`
				RefreshAfter string      `json:"refreshAfter"`
				Destination  destination `json:"destination"`
			} `json:"spec"`
		}
		err := errors.Join(r.parse("auth.yaml", &connection, &auth), r.parse("static-secret.yaml", &static),
			connection.is(group, "VaultConnection"), auth.is(group, "VaultAuth"), static.is(group, "VaultStaticSecret"),
			want("address", exampleAddress, connection.Spec.Address),
			want("connection", connection.Metadata, metadata{Name: auth.Spec.VaultConnectionRef, Namespace: auth.Metadata.Namespace}),
			want("auth", auth.Metadata, metadata{Name: static.Spec.VaultAuthRef, Namespace: static.Metadata.Namespace}),
			want("name", metadata{Name: "regcred", Namespace: "app"}, static.Metadata),
			want("method", "jwt jwt my_app regcred [vault]", fmt.Sprint(auth.Spec.Method, " ", auth.Spec.Mount, " ", auth.Spec.JWT.Role, " ", auth.Spec.JWT.ServiceAccount, " ", auth.Spec.JWT.Audiences)),
			want("refreshAfter", true, refreshes(static.Spec.RefreshAfter)))
		// As vault/requests.go: only this type does not put data/ into the
		// path.
		if err == nil && static.Spec.Type != "kv-v1" {
			err = fmt.Errorf("type %s asks for %s/data/%s", static.Spec.Type, static.Spec.Mount, static.Spec.Path)
		}
		if err != nil {
			return err
		}
		return sync(r, static.object, static.Spec.Mount, static.Spec.Path, static.Spec.Destination)
	})

	// As computePostSyncHorizon in
	// controllers/vaultdynamicsecret_controller.go: a credential that is
	// neither leased nor rotated by the engine is read again after
	// refreshAfter, and only where allowStaticCreds is not set.
	c.does("policy.hcl", []string{"dynamic-secret.yaml"}, func(r *attempt) error {
		var dynamic struct {
			object
			Spec struct {
				VaultAuthRef string      `json:"vaultAuthRef"`
				Mount        string      `json:"mount"`
				Path         string      `json:"path"`
				RefreshAfter string      `json:"refreshAfter"`
				Destination  destination `json:"destination"`
			} `json:"spec"`
		}
		err := errors.Join(r.parse("dynamic-secret.yaml", &dynamic), dynamic.is(group, "VaultDynamicSecret"),
			want("vaultAuthRef", "regcred", dynamic.Spec.VaultAuthRef),
			want("name", metadata{Name: "regcred", Namespace: "app"}, dynamic.Metadata))
		if err == nil && !refreshes(dynamic.Spec.RefreshAfter) {
			err = errors.New("Vault secret does not support periodic renewal/refresh via reconciliation")
		}
		if err != nil {
			return err
		}
		return sync(r, dynamic.object, dynamic.Spec.Mount, dynamic.Spec.Path, dynamic.Spec.Destination)
	})

	c.Run("allowStaticCreds", func(t *testing.T) {
		c.otherRoles()
		for _, path := range c.creds() {
			if err := staticCreds(read(t, c.vault.Client, path)); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		for _, path := range c.rotates() {
			data := read(t, c.vault.Client, path)
			if _, err := time.Parse(time.RFC3339, fmt.Sprint(data["last_vault_rotation"])); err != nil {
				t.Errorf("%s: last_vault_rotation: %v", path, err)
			}
			for field, least := range map[string]int64{"rotation_period": 1, "ttl": 1, "grace_period": 3600} {
				number, ok := data[field].(json.Number)
				if value, err := number.Int64(); !ok || err != nil || value < least {
					t.Errorf("%s: want an integer of at least %d as %s, got %T %v", path, least, field, data[field], data[field])
				}
			}
		}
	})
	// As doVault in the same file: with params, and with requestHTTPMethod, it
	// writes.
	c.Run("params", func(t *testing.T) {
		_, err := c.vault.Client.Logical().Write("regcred/creds/my_app", fields{"ttl": "1h"})
		if !isStatus(err, http.StatusMethodNotAllowed) || !strings.Contains(err.Error(), "cannot be written") {
			t.Errorf("want status 405, cannot be written, got %v", err)
		}
	})
	c.Run("no such role", c.absent)
	c.Run("fields", func(t *testing.T) { c.plainFields(t, "_raw") })
}

// staticCreds reads what the operator reads with allowStaticCreds, as
// vaultStaticCredsMetaDataFromData in its controllers does. Where the engine
// does not rotate there must be nothing; otherwise the operator would wait for
// a rotation that never comes.
func staticCreds(data map[string]any) error {
	for _, field := range []string{"last_vault_rotation", "rotation_period", "rotation_schedule", "ttl"} {
		if value, found := data[field]; found {
			return fmt.Errorf("%s is %v, but the engine does not rotate this credential", field, value)
		}
	}
	return nil
}

// TestRicobergerVaultSecretsOperator follows ricoberger/vault-secrets-operator
// 1.28.
func TestRicobergerVaultSecretsOperator(t *testing.T) {
	c := newConsumer(t, "ricoberger-vault-secrets-operator")
	// As GetSecret and convertData in internal/vault/client.go.
	convert := func(data map[string]any, keys []string) (map[string]string, error) {
		converted := map[string]string{}
		for key, value := range data {
			if value == nil || len(keys) > 0 && !slices.Contains(keys, key) {
				continue
			}
			switch value := value.(type) {
			case string:
				converted[key] = value
			case json.Number:
				converted[key] = value.String()
			case bool:
				converted[key] = strconv.FormatBool(value)
			default:
				return nil, errors.New("could not parse secret value")
			}
		}
		if len(converted) == 0 {
			return nil, errors.New("invalid secret data")
		}
		return converted, nil
	}
	sync := func(r *attempt, file string) error {
		var vaultSecret struct {
			object
			Spec struct {
				Path string   `json:"path"`
				Keys []string `json:"keys"`
				Type string   `json:"type"`
			} `json:"spec"`
		}
		if err := errors.Join(r.parse(file, &vaultSecret), vaultSecret.is("ricoberger.de/v1alpha1", "VaultSecret")); err != nil {
			return err
		}
		data, err := r.getKV(vaultSecret.Spec.Path)
		if err != nil {
			return err
		}
		converted, err := convert(data, vaultSecret.Spec.Keys)
		if err != nil {
			return err
		}
		return secret{vaultSecret.Metadata.Name, vaultSecret.Metadata.Namespace, vaultSecret.Spec.Type, converted}.isTheExample()
	}
	c.does("policy.hcl", []string{"vaultsecret.yaml", "values.yaml"}, func(r *attempt) error {
		// Values of the operator's chart, which become variables of the operator:
		// by default it logs in with a token, and reads once.
		var values struct {
			Vault struct {
				Address            string `json:"address"`
				AuthMethod         string `json:"authMethod"`
				ReconciliationTime int    `json:"reconciliationTime"`
			} `json:"vault"`
		}
		if err := errors.Join(r.parse("values.yaml", &values),
			want("login", exampleAddress+" kubernetes", values.Vault.Address+" "+values.Vault.AuthMethod),
			want("reconciliation time", 60, values.Vault.ReconciliationTime)); err != nil {
			return err
		}
		return sync(r, "vaultsecret.yaml")
	})
	c.does("keys-policy.hcl", []string{"keys.yaml"}, func(r *attempt) error { return sync(r, "keys.yaml") })
	c.Run("all fields of all roles", func(t *testing.T) {
		c.otherRoles()
		for _, path := range append(c.creds(), c.rotates()...) {
			if _, err := convert(read(t, c.vault.Client, path), nil); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	})
	c.Run("mount with version 2", c.mountedAsKV2)
	c.Run("no policy", func(t *testing.T) {
		r, err := c.start(map[string]string{"": `path "sys/none" { capabilities = ["read"] }`}, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.kvVersion("regcred/creds/my_app/kubernetes"); err == nil || !strings.Contains(err.Error(), "preflight capability check returned 403") {
			t.Errorf("want the error that docs/consumers/ricoberger-vault-secrets-operator.md shows, got %v", err)
		}
	})
	c.Run("no such role", c.absent)
	c.Run("moving from a template", c.movedFromTemplate)
}

// movedFromTemplate runs the template of docs/migrating-from-kv-templates.md on
// a KV secret, as the operator does, and compares the two pull secrets.
func (c *consumer) movedFromTemplate(t *testing.T) {
	blocks := blocksOf(t, filepath.Join("docs", "migrating-from-kv-templates.md"))
	var manifests []string
	for _, b := range blocks {
		if b.language == "yaml" {
			manifests = append(manifests, b.text)
		}
	}
	example, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", c.tool, "vaultsecret.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(manifests) != 2 || manifests[1] != string(example) {
		t.Fatal("want two manifests on the page, the second the example")
	}
	var before, after struct {
		object
		Spec struct {
			Path      string            `json:"path"`
			Keys      []string          `json:"keys"`
			Templates map[string]string `json:"templates"`
			Type      string            `json:"type"`
		} `json:"spec"`
	}
	if err := errors.Join(yaml.UnmarshalStrict([]byte(manifests[0]), &before), yaml.UnmarshalStrict([]byte(manifests[1]), &after)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before.object, after.object); diff != "" || before.Spec.Type != after.Spec.Type {
		t.Errorf("the Secret would not be changed in place (-before +after):\n%s", diff)
	}

	const username, password = "robot", "s3cr3t" // the template breaks on special characters
	v := c.vault.Client
	if err := v.Sys().Mount("kv", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}); err != nil {
		t.Fatal(err)
	}
	stored := fields{"hostname": exampleRegistry, "username": username, "password": password}
	write(t, v, "kv/data/my_app", fields{"data": stored})
	data, err := c.asRoot().getKV(before.Spec.Path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored, data); diff != "" {
		t.Fatalf("the operator reads another secret (-want +got):\n%s", diff)
	}
	functions := template.FuncMap{"b64enc": func(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }}
	parsed, err := template.New("data").Delims("{%", "%}").Funcs(functions).Parse(before.Spec.Templates[".dockerconfigjson"])
	if err != nil {
		t.Fatal(err)
	}
	var made strings.Builder
	if err := parsed.Execute(&made, map[string]any{"Secrets": data}); err != nil {
		t.Fatal(err)
	}

	write(t, v, "regcred/roles/my_app", data)
	var old, now map[string]map[string]map[string]string
	if err := errors.Join(json.Unmarshal([]byte(made.String()), &old),
		json.Unmarshal([]byte(read(t, v, after.Spec.Path)[".dockerconfigjson"].(string)), &now)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(old, now); diff != "" {
		t.Errorf("the pull secret is another one (-before +after):\n%s", diff)
	}
}

// TestSecretsStoreCSI follows hashicorp/vault-csi-provider 1.7 with
// kubernetes-sigs/secrets-store-csi-driver 1.5.5.
func TestSecretsStoreCSI(t *testing.T) {
	c := newConsumer(t, "secrets-store-csi")
	definition := secretProviderClassSchema(t)
	audience := boundAudience(t)
	// As keyFromData in internal/provider/provider.go.
	keyFromData := func(data map[string]any, key string) (string, error) {
		if inner, ok := data["data"].(map[string]any); ok {
			data = inner
		}
		text, ok := data[key].(string)
		if !ok {
			return "", fmt.Errorf("key %q does not exist at the secret path", key)
		}
		return text, nil
	}
	// As internal/client/client.go: status 404 is an error here.
	requestSecret := func(r *attempt, path string) (*api.Secret, error) {
		r.asked[path] = true
		response, err := r.Logical().ReadRaw(path)
		if err != nil {
			return nil, fmt.Errorf("error requesting secret: %w", err)
		}
		defer response.Body.Close()
		return api.ParseSecret(response.Body)
	}
	c.does("policy.hcl", []string{"secretproviderclass.yaml", "pod.yaml"}, func(r *attempt) error {
		var untyped any
		if err := r.parse("secretproviderclass.yaml", &untyped); err != nil {
			return err
		}
		if err := definition.validate("", untyped); err != nil {
			return err
		}
		var class struct {
			object
			Spec struct {
				Provider   string `json:"provider"`
				Parameters struct {
					VaultAddress       string `json:"vaultAddress"`
					VaultAuthMountPath string `json:"vaultAuthMountPath"`
					Audience           string `json:"audience"`
					RoleName           string `json:"roleName"`
					Objects            string `json:"objects"`
				} `json:"parameters"`
				SecretObjects []struct {
					SecretName string `json:"secretName"`
					Type       string `json:"type"`
					Data       []struct {
						ObjectName string `json:"objectName"`
						Key        string `json:"key"`
					} `json:"data"`
				} `json:"secretObjects"`
			} `json:"spec"`
		}
		type named struct {
			Name string `json:"name"`
		}
		var pod struct {
			object
			Spec struct {
				ServiceAccountName string  `json:"serviceAccountName"`
				ImagePullSecrets   []named `json:"imagePullSecrets"`
				Containers         []struct {
					named
					Image        string `json:"image"`
					VolumeMounts []struct {
						named
						MountPath string `json:"mountPath"`
						ReadOnly  bool   `json:"readOnly"`
					} `json:"volumeMounts"`
				} `json:"containers"`
				Volumes []struct {
					named
					CSI struct {
						Driver           string            `json:"driver"`
						ReadOnly         bool              `json:"readOnly"`
						VolumeAttributes map[string]string `json:"volumeAttributes"`
					} `json:"csi"`
				} `json:"volumes"`
			} `json:"spec"`
		}
		var objects []struct {
			ObjectName string `json:"objectName"`
			SecretPath string `json:"secretPath"`
			SecretKey  string `json:"secretKey"`
		}
		if err := errors.Join(r.parse("secretproviderclass.yaml", &class), class.is("secrets-store.csi.x-k8s.io/v1", "SecretProviderClass"),
			r.parse("pod.yaml", &pod), pod.is("v1", "Pod"),
			yaml.UnmarshalStrict([]byte(class.Spec.Parameters.Objects), &objects)); err != nil {
			return err
		}
		p := class.Spec.Parameters
		if len(objects) != 1 || len(class.Spec.SecretObjects) != 1 || len(class.Spec.SecretObjects[0].Data) != 1 ||
			len(pod.Spec.ImagePullSecrets) != 1 || len(pod.Spec.Containers) != 1 || len(pod.Spec.Containers[0].VolumeMounts) != 1 || len(pod.Spec.Volumes) != 1 {
			return errors.New("something is missing")
		}
		container, volume := pod.Spec.Containers[0], pod.Spec.Volumes[0]
		if err := errors.Join(
			want("provider", "vault "+exampleAddress+" jwt my_app", strings.Join([]string{class.Spec.Provider, p.VaultAddress, p.VaultAuthMountPath, p.RoleName}, " ")),
			want("audience", audience, p.Audience), // internal/auth/kubernetes_jwt.go: without it, that of kube-apiserver
			want("pod", metadata{Name: "app", Namespace: class.Metadata.Namespace}, pod.Metadata),
			want("pull secret", class.Spec.SecretObjects[0].SecretName, pod.Spec.ImagePullSecrets[0].Name),
			want("service account and container", "regcred app registry.gitlab.com/team/app", strings.Join([]string{pod.Spec.ServiceAccountName, container.Name, container.Image}, " ")),
			want("volume", volume.Name, container.VolumeMounts[0].Name),
			want("mount", "/regcred true", fmt.Sprint(container.VolumeMounts[0].MountPath, " ", container.VolumeMounts[0].ReadOnly)),
			want("volume's name", "regcred", volume.Name),
			want("driver", "secrets-store.csi.k8s.io true", fmt.Sprint(volume.CSI.Driver, " ", volume.CSI.ReadOnly)), // pkg/secrets-store/nodeserver.go demands readOnly
			want("class", map[string]string{"secretProviderClass": class.Metadata.Name}, volume.CSI.VolumeAttributes)); err != nil {
			return err
		}
		response, err := requestSecret(r, objects[0].SecretPath)
		if err != nil {
			return err
		}
		content, err := keyFromData(response.Data, objects[0].SecretKey)
		if err != nil {
			return err
		}
		// The driver, as GetSecretData in pkg/util/secretutil/secret.go.
		o := class.Spec.SecretObjects[0]
		if o.Data[0].ObjectName != objects[0].ObjectName {
			return fmt.Errorf("file matching objectName %s not found in the pod", o.Data[0].ObjectName)
		}
		return secret{o.SecretName, class.Metadata.Namespace, o.Type, map[string]string{o.Data[0].Key: content}}.isTheExample()
	})
	c.Run("base64", func(t *testing.T) {
		got, err := keyFromData(read(t, c.vault.Client, "regcred/creds/my_app"), "dockerconfigjson")
		decoded, decodeErr := base64.StdEncoding.DecodeString(got)
		if string(decoded) != exampleConfig() || err != nil || decodeErr != nil {
			t.Errorf("got %q, %v, %v", decoded, err, decodeErr)
		}
	})
	c.Run("fields", func(t *testing.T) { c.plainFields(t, "data") })
	c.Run("no such role", func(t *testing.T) {
		if _, err := requestSecret(c.asRoot(), "regcred/creds/none"); !isStatus(err, http.StatusNotFound) {
			t.Errorf("want status 404, got %v", err)
		}
	})
}

// boundAudience is the audience that the role of docs/consumers/login.md
// demands of a token.
func boundAudience(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", "external-secrets", "jwt-role.json"))
	if err != nil {
		t.Fatal(err)
	}
	var role struct {
		BoundAudiences string `json:"bound_audiences"`
	}
	if err := json.Unmarshal(content, &role); err != nil || role.BoundAudiences == "" {
		t.Fatalf("examples/external-secrets/jwt-role.json: no audience in %s (%v)", content, err)
	}
	return role.BoundAudiences
}

// schema is a structural schema of a resource definition.
type schema struct {
	Type                 string            `json:"type"`
	Properties           map[string]schema `json:"properties"`
	AdditionalProperties *schema           `json:"additionalProperties"`
	Items                *schema           `json:"items"`
	Required             []string          `json:"required"`
}

// secretProviderClassSchema reads the schema in the module of the driver.
func secretProviderClassSchema(t *testing.T) schema {
	t.Helper()
	const module = "sigs.k8s.io/secrets-store-csi-driver"
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
	cmd.Dir = filepath.Join(servers.Repo(), "tests", "tools", "schemas")
	out, err := cmd.Output()
	var downloaded struct{ Dir string }
	if err := errors.Join(err, json.Unmarshal(out, &downloaded)); err != nil {
		t.Fatalf("downloading %s: %v\n%s", module, err, out)
	}
	content, err := os.ReadFile(filepath.Join(downloaded.Dir, "config", "crd", "bases", "secrets-store.csi.x-k8s.io_secretproviderclasses.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var definition struct {
		Spec struct {
			Versions []struct {
				Name   string `json:"name"`
				Schema struct {
					OpenAPIV3Schema schema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(content, &definition); err != nil {
		t.Fatal(err)
	}
	for _, version := range definition.Spec.Versions {
		if version.Name == "v1" {
			return version.Schema.OpenAPIV3Schema
		}
	}
	t.Fatal("the definition has no version v1")
	return schema{}
}

func (s schema) validate(at string, value any) error {
	switch value := value.(type) {
	case map[string]any:
		for _, name := range s.Required {
			if _, found := value[name]; !found {
				return fmt.Errorf("%s.%s is missing", at, name)
			}
		}
		for name, inner := range value {
			property, found := s.Properties[name]
			switch {
			case found:
			case s.AdditionalProperties != nil:
				property = *s.AdditionalProperties
			case at == ".metadata":
				continue // kube-apiserver adds these
			default:
				return fmt.Errorf("%s.%s: unknown field", at, name)
			}
			if err := property.validate(at+"."+name, inner); err != nil {
				return err
			}
		}
		return want(at, s.Type, "object")
	case []any:
		if s.Items == nil {
			return fmt.Errorf("%s: must not be a list", at)
		}
		for _, inner := range value {
			if err := s.Items.validate(at+"[]", inner); err != nil {
				return err
			}
		}
		return nil
	default:
		return want(at, s.Type, fmt.Sprintf("%T", value))
	}
}
