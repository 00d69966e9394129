// SPDX-License-Identifier: MPL-2.0

package release

import (
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestVaultTakesIt: a real Vault registers the program of the archive by the
// checksum in SHA256SUMS.binaries, lists its version, and serves a pull secret
// with it.
func TestVaultTakesIt(t *testing.T) {
	t.Parallel()
	program := plugin.program
	v := servers.StartVaultWith(t, hostBinary(t, plugin))
	sum := checksums(t, "SHA256SUMS.binaries")[runtime.GOOS+"_"+runtime.GOARCH+"/"+program]

	// The dev server has registered the plugin under the same name, without a
	// version.
	v.CLI(t, "", "plugin", "register", "-sha256="+sum, "-version="+version, "secret", program)
	list := v.CLI(t, "", "plugin", "list", "-detailed", "secret")
	if !regexp.MustCompile(`(?m)^` + program + ` +secret +` + regexp.QuoteMeta(version) + `\b`).MatchString(list) {
		t.Errorf("plugin list -detailed does not show %s %s:\n%s", program, version, list)
	}

	v.CLI(t, "", "secrets", "enable", "-path=released", "-plugin-version="+version, program)
	mounts, err := v.Client.Sys().ListMounts()
	if err != nil {
		t.Fatal(err)
	}
	if got := mounts["released/"]; got.RunningVersion != version || got.RunningSha256 != sum {
		t.Errorf("runs %s %s, want %s %s", got.RunningVersion, got.RunningSha256, version, sum)
	}
	v.CLI(t, "", "write", "released/roles/my_app", "registry=registry.gitlab.com", "username=gitlab+deploy-token-910431", "password=gldt-x9Qm7")
	if got := v.CLI(t, "", "read", "-field=.dockerconfigjson", "released/creds/my_app"); !strings.Contains(got, `"username":"gitlab+deploy-token-910431","password":"gldt-x9Qm7"`) {
		t.Errorf("creds/my_app: %s", got)
	}

	// Vault refuses a version other than the one that the plugin reports.
	err = v.Client.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: program, Type: api.PluginTypeSecrets, Command: program, SHA256: sum, Version: "v99.0.0",
	})
	if err == nil {
		err = v.Client.Sys().Mount("other", &api.MountInput{Type: program, Config: api.MountConfigInput{PluginVersion: "v99.0.0"}})
	}
	if err == nil {
		t.Error("registered as v99.0.0 it must not run: it says another version")
	}
}
