// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclparse"

	"vault-plugin-secrets-regcred/tests/servers"
)

// openBaoConfig are the settings of OpenBao 2.6 that docs/openbao.md uses, from
// PluginConfig and Config in command/server/config.go. A setting that is not
// here is an error.
type openBaoConfig struct {
	PluginDirectory    string `hcl:"plugin_directory,optional"`
	PluginAutoDownload bool   `hcl:"plugin_auto_download,optional"`
	PluginAutoRegister bool   `hcl:"plugin_auto_register,optional"`
	Plugins            []struct {
		Type       string `hcl:"type,label"`
		Name       string `hcl:"name,label"`
		Image      string `hcl:"image,optional"`
		Command    string `hcl:"command,optional"`
		Version    string `hcl:"version"`
		BinaryName string `hcl:"binary_name,optional"`
		SHA256Sum  string `hcl:"sha256sum"`
	} `hcl:"plugin,block"`
	Audit []struct {
		Type        string `hcl:"type,label"`
		Path        string `hcl:"path,label"`
		Description string `hcl:"description,optional"`
		Options     struct {
			FilePath string `hcl:"file_path"`
		} `hcl:"options,block"`
	} `hcl:"audit,block"`
}

// TestOpenBaoPage checks the configuration and the policy of docs/openbao.md.
// TestDocs executes its commands.
func TestOpenBaoPage(t *testing.T) {
	t.Parallel()
	var policies []string
	var plugins, audits int
	for _, b := range blocksOf(t, filepath.Join("docs", "openbao.md")) {
		switch {
		case b.language != "hcl":
		case strings.HasPrefix(b.text, `path "`):
			policies = append(policies, b.text)
		default:
			parsed, diagnostics := hclparse.NewParser().ParseHCL([]byte(b.text), "openbao.hcl")
			if diagnostics.HasErrors() {
				t.Fatal(diagnostics)
			}
			var config openBaoConfig
			if diagnostics := gohcl.DecodeBody(parsed.Body, nil, &config); diagnostics.HasErrors() {
				t.Errorf("%v\nin\n%s", diagnostics, b.text)
			}
			audits += len(config.Audit)
			for _, p := range config.Plugins {
				plugins++
				if p.Type != "secret" || p.Name != servers.PluginName || config.PluginDirectory == "" || !config.PluginAutoRegister {
					t.Errorf("want a secrets plugin %s that is registered, got\n%s", servers.PluginName, b.text)
				}
				// As PluginConfig.Validate in command/server/config.go: an image or a
				// command, and only an image has a binary in it.
				if (p.Image == "") == (p.Command == "") || (p.Image == "") != (p.BinaryName == "") || (p.Image != "") != config.PluginAutoDownload {
					t.Errorf("want either an image, which is downloaded, or a command, got\n%s", b.text)
				}
			}
		}
	}
	if plugins != 2 || audits != 1 || len(policies) != 1 {
		t.Fatalf("want two plugins, an audit device and a policy on the page, got %d, %d, %d", plugins, audits, len(policies))
	}

	// The path exists in Vault as well, whose CLI asks for another one.
	v := servers.StartVault(t)
	platform, err := os.ReadFile(filepath.Join(servers.Repo(), "examples", "policies", "platform-engineer.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	for name, policy := range map[string]string{"platform-engineer": string(platform), "reload": policies[0]} {
		if err := v.Client.Sys().PutPolicy(name, policy); err != nil {
			t.Fatal(err)
		}
	}
	for _, names := range [][]string{{"platform-engineer"}, {"platform-engineer", "reload"}} {
		token, err := v.NewToken(names...)
		if err != nil {
			t.Fatal(err)
		}
		may := slices.Contains(names, "reload")
		if status := statusOf(t, v.Addr, token, http.MethodPut, "sys/plugins/reload/backend"); (status != http.StatusForbidden) != may {
			t.Errorf("%v: reloading as OpenBao's CLI does: want allowed %t, got status %d", names, may, status)
		}
	}
}
