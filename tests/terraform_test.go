// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/vault/api"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"

	"vault-plugin-secrets-regcred/tests/servers"
)

// terraformArguments are the arguments of the provider's schema, as in
// vault/resource_plugin.go, resource_mount.go and resource_generic_endpoint.go
// of release 5.6.0.
var terraformArguments = map[string][]string{
	"vault_plugin":           {"args", "command", "env", "name", "oci_image", "runtime", "sha256", "type", "version"},
	"vault_mount":            {"default_lease_ttl_seconds", "description", "max_lease_ttl_seconds", "options", "path", "plugin_version", "seal_wrap", "type"},
	"vault_generic_endpoint": {"data_json", "disable_delete", "disable_read", "ignore_absent_fields", "path", "write_fields"},
}

// TestTerraformInstalls does what the provider does with the resources that
// install and set up the engine: it creates them in order, reads them for the
// next plan, writes them again with and without the root credential, and
// deletes them in reverse order. Its token has the policies of the example and
// no other. "make e2e-terraform" does the same with OpenTofu and an old
// provider.
func TestTerraformInstalls(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	if err := v.Client.Sys().Unmount(servers.Mount); err != nil {
		t.Fatal(err)
	}
	var policies []string
	for _, name := range []string{"install-policy", "connection-policy"} {
		if err := v.Client.Sys().PutPolicy(name, terraformExample(t, name+".hcl", nil)); err != nil {
			t.Fatal(err)
		}
		policies = append(policies, name)
	}
	token, err := v.NewToken(policies...)
	if err != nil {
		t.Fatal(err)
	}
	client, err := v.Client.Clone()
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(token)

	const version = "v0.2.0"
	sum := v.CopyPlugin(t, buildPlugin(t, version), servers.PluginName+"-"+version)
	files, stands := standIns["https://gitlab.example.com"](t)
	plan := func(token cty.Value) []terraformResource {
		return terraformResources(t, stands, map[string]cty.Value{
			"regcred": cty.ObjectVal(map[string]cty.Value{"version": cty.StringVal(version), "sha256": cty.StringVal(sum)}),
			"token":   token,
		}, "install.tf", "config.tf", "connection.tf", "dynamic-role.tf")
	}

	resources := plan(cty.StringVal(files["admin"]))
	for _, r := range resources {
		if err := r.write(client); err != nil {
			t.Fatalf("creating %s: %v", r.address, err)
		}
	}
	upToDate := func(resources []terraformResource) {
		t.Helper()
		for _, r := range resources {
			if err := r.isUpToDate(client); err != nil {
				t.Errorf("the next plan would change %s: %v", r.address, err)
			}
		}
	}
	upToDate(resources)
	update := func(resources []terraformResource) {
		t.Helper()
		for _, r := range resources {
			if r.kind != "vault_generic_endpoint" {
				continue
			}
			if err := r.write(client); err != nil {
				t.Errorf("updating %s: %v", r.address, err)
			}
		}
		upToDate(resources)
	}
	update(resources)

	// From now on without the token, which rotate-root has replaced.
	resources = plan(cty.NullVal(cty.String))
	update(resources)
	write(t, v.Client, "regcred/connections/gitlab", fields{"service_account_group": "group"})
	write(t, v.Client, "regcred/connections/gitlab/rotate-root", nil)
	update(resources)

	if got := read(t, v.Client, "regcred/creds/team_app")["username"]; !strings.HasPrefix(fmt.Sprint(got), "gitlab+deploy-token-") {
		t.Errorf("creds/team_app: username %v", got)
	}
	mounts, err := v.Client.Sys().ListMounts()
	if err != nil || mounts[servers.Mount+"/"].RunningVersion != version {
		t.Errorf("want the engine %s, got %+v, %v", version, mounts[servers.Mount+"/"], err)
	}
	for _, r := range slices.Backward(resources) {
		if err := r.delete(client); err != nil {
			t.Errorf("destroying %s: %v", r.address, err)
		}
	}
	if mounts, err := v.Client.Sys().ListMounts(); err != nil || mounts[servers.Mount+"/"] != nil {
		t.Errorf("the mount is still there: %v", err)
	}
}

func terraformExample(t *testing.T, name string, stands map[string]string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", "terraform", name))
	if err != nil {
		t.Fatal(err)
	}
	fromPage, _ := replacers(stands)
	return fromPage.Replace(string(content))
}

// terraformResource is a resource with its arguments.
type terraformResource struct {
	address, kind string
	arguments     map[string]cty.Value
}

// terraformResources reads files with Terraform's own parser, and returns their
// resources in the order of their dependencies.
func terraformResources(t *testing.T, stands map[string]string, variables map[string]cty.Value, names ...string) []terraformResource {
	t.Helper()
	known := map[string]map[string]cty.Value{}
	evaluation := &hcl.EvalContext{
		Variables: map[string]cty.Value{"var": cty.ObjectVal(variables)},
		Functions: map[string]function.Function{"jsonencode": stdlib.JSONEncodeFunc, "merge": stdlib.MergeFunc},
	}
	var resources []terraformResource
	for _, name := range names {
		parsed, diagnostics := hclparse.NewParser().ParseHCL([]byte(terraformExample(t, name, stands)), name)
		if diagnostics.HasErrors() {
			t.Fatal(diagnostics)
		}
		for _, block := range parsed.Body.(*hclsyntax.Body).Blocks {
			if block.Type == "variable" {
				if _, found := variables[block.Labels[0]]; !found {
					t.Errorf("%s: variable %q", name, block.Labels[0])
				}
				if sensitive := block.Body.Attributes["sensitive"]; (block.Labels[0] == "token") != (sensitive != nil) {
					t.Errorf("%s: the token must be sensitive, and is the only thing that is", name)
				}
				continue
			}
			if block.Type != "resource" || terraformArguments[block.Labels[0]] == nil {
				t.Fatalf("%s: %s %q", name, block.Type, block.Labels)
			}
			r := terraformResource{strings.Join(block.Labels, "."), block.Labels[0], map[string]cty.Value{}}
			for argument, attribute := range block.Body.Attributes {
				if argument == "depends_on" {
					if _, diagnostics := attribute.Expr.Value(evaluation); diagnostics.HasErrors() {
						t.Errorf("%s: %v", name, diagnostics)
					}
					continue
				}
				if !slices.Contains(terraformArguments[r.kind], argument) {
					t.Errorf("%s: %s has no argument %q", name, r.kind, argument)
				}
				value, diagnostics := attribute.Expr.Value(evaluation)
				if diagnostics.HasErrors() {
					t.Fatalf("%s: %v", name, diagnostics)
				}
				r.arguments[argument] = value
			}
			if known[r.kind] == nil {
				known[r.kind] = map[string]cty.Value{}
			}
			known[r.kind][block.Labels[1]] = cty.ObjectVal(r.arguments)
			evaluation.Variables[r.kind] = cty.ObjectVal(known[r.kind])
			resources = append(resources, r)
		}
	}
	return resources
}

// text returns an argument as text; empty if it is missing or false.
func (r terraformResource) text(argument string) string {
	value, found := r.arguments[argument]
	switch {
	case !found:
		return ""
	case value.Type() == cty.Bool:
		return map[bool]string{true: "true"}[value.True()]
	default:
		return value.AsString()
	}
}

func (r terraformResource) data() (map[string]any, error) {
	var data map[string]any
	err := json.Unmarshal([]byte(r.text("data_json")), &data)
	return data, err
}

func (r terraformResource) write(client *api.Client) error {
	switch r.kind {
	case "vault_plugin":
		kind, err := api.ParsePluginType(r.text("type"))
		if err != nil {
			return err
		}
		return client.Sys().RegisterPlugin(&api.RegisterPluginInput{
			Type: kind, Name: r.text("name"), Version: r.text("version"), SHA256: r.text("sha256"), Command: r.text("command"),
		})
	case "vault_mount":
		version := r.text("plugin_version")
		if err := client.Sys().Mount(r.text("path"), &api.MountInput{Type: r.text("type"), Config: api.MountConfigInput{PluginVersion: version}}); err != nil {
			return err
		}
		return client.Sys().TuneMountAllowNil(r.text("path"), api.TuneMountConfigInput{PluginVersion: &version}) // as an update does
	default:
		data, err := r.data()
		if err != nil {
			return err
		}
		_, err = client.Logical().Write(r.text("path"), data)
		return err
	}
}

func (r terraformResource) isUpToDate(client *api.Client) error {
	switch r.kind {
	case "vault_plugin":
		got, err := client.Sys().GetPlugin(&api.GetPluginInput{Type: api.PluginTypeSecrets, Name: r.text("name"), Version: r.text("version")})
		if err != nil {
			return err
		}
		return want("command and checksum", r.text("command")+" "+r.text("sha256"), got.Command+" "+got.SHA256)
	case "vault_mount":
		got, err := client.Sys().GetMount(r.text("path"))
		if err != nil {
			return err
		}
		return want("type and version", r.text("type")+" "+r.text("plugin_version"), got.Type+" "+got.PluginVersion)
	}
	if r.text("disable_read") != "" {
		return nil
	}
	written, err := r.data()
	if err != nil {
		return err
	}
	secret, err := client.Logical().Read(r.text("path"))
	if err != nil || secret == nil {
		return fmt.Errorf("is gone: %w", err)
	}
	planned := map[string]any{}
	for field, value := range secret.Data {
		if _, found := written[field]; found || r.text("ignore_absent_fields") == "" {
			planned[field] = value
		}
	}
	for field, value := range written {
		if _, found := planned[field]; !found && r.text("ignore_absent_fields") != "" {
			planned[field] = value
		}
	}
	before, err := json.Marshal(written)
	if err != nil {
		return err
	}
	after, err := json.Marshal(planned)
	if diff := cmp.Diff(string(before), string(after)); diff != "" {
		return fmt.Errorf("data_json (-before +after):\n%s", diff)
	}
	return err
}

func (r terraformResource) delete(client *api.Client) error {
	switch {
	case r.kind == "vault_plugin":
		return client.Sys().DeregisterPlugin(&api.DeregisterPluginInput{Type: api.PluginTypeSecrets, Name: r.text("name"), Version: r.text("version")})
	case r.kind == "vault_mount":
		return client.Sys().Unmount(r.text("path"))
	case r.text("disable_delete") != "":
		return nil
	}
	_, err := client.Logical().Delete(r.text("path"))
	return err
}
