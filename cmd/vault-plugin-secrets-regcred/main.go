// SPDX-License-Identifier: MPL-2.0

// Command vault-plugin-secrets-regcred is the regcred secrets engine, a plugin
// of HashiCorp Vault and OpenBao. Vault starts it. Run by hand, it prints its
// version, or copies itself into a plugin directory.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/plugin"

	"vault-plugin-secrets-regcred/backend"
)

// version is set by the build: -ldflags="-X main.version=v1.2.3". Vault takes
// only semantic versions with a leading "v".
var version = "v0.0.0-dev"

// newFactory returns the factory of the engine. Builds for tests replace it.
var newFactory = backend.Factory

func main() {
	tuneRuntime(os.LookupEnv)
	if err := run(os.Args[1:]); err != nil {
		hclog.New(&hclog.LoggerOptions{Name: "regcred"}).Error("plugin stops", "error", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	// A Vault before 1.12 starts a plugin with these flags, for TLS back to
	// itself. A newer one uses AutoMTLS and passes none of them.
	apiMeta := &api.PluginAPIClientMeta{}
	flags := apiMeta.FlagSet()
	showVersion := flags.Bool("version", false, "print the version and exit")
	installTo := flags.String("install", "", "copy this program to a `file`, print the checksum to register, and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if *showVersion {
		fmt.Println(version)
		return nil
	}
	if *installTo != "" {
		sum, err := install(*installTo)
		if err != nil {
			return err
		}
		fmt.Printf("%s  %s\n", sum, *installTo)
		return nil
	}
	return plugin.ServeMultiplex(&plugin.ServeOpts{
		BackendFactoryFunc: newFactory(version),
		TLSProviderFunc:    api.VaultPluginTLSProvider(apiMeta.GetTLSConfig()),
	})
}
