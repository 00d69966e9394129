// SPDX-License-Identifier: MPL-2.0

// Read-vals replaces the references to Vault in a text as vals and helm-secrets
// do: with vals' own code that finds references, and its own provider for Vault,
// which reads $VAULT_TOKEN. Between the two stands what vals.go does with an
// address: package vals itself would bring in the clients of all clouds.
//
// Standard input is the text; standard output is the text with the values.
package main

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/helmfile/vals/pkg/config"
	"github.com/helmfile/vals/pkg/expansion"
	"github.com/helmfile/vals/pkg/log"
	"github.com/helmfile/vals/pkg/providers/vault"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		expand := expansion.ExpandRegexMatch{Target: expansion.DefaultRefRegexp, Lookup: lookUp}
		var expanded string
		if expanded, err = expand.InString(string(text)); err == nil {
			_, err = fmt.Print(expanded)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "read-vals:", err)
		os.Exit(1)
	}
}

// lookUp returns the value of a reference, such as
// vault://regcred/creds/my_app?address=http://127.0.0.1:8200#/dockerconfigjson.
func lookUp(reference string) (any, error) {
	uri, err := url.Parse(reference)
	if err != nil {
		return nil, err
	}
	if uri.Scheme != "vault" {
		return nil, fmt.Errorf("no provider registered for scheme %q", uri.Scheme)
	}
	settings := map[string]any{}
	for name, values := range uri.Query() {
		settings[name] = values[0]
	}
	provider := vault.New(log.New(log.Config{Output: os.Stderr}), config.MapConfig{M: settings})
	data, err := provider.GetStringMap(strings.TrimSuffix(uri.Host+uri.Path, "/"))
	if err != nil {
		return nil, err
	}
	key := strings.TrimPrefix(uri.Fragment, "/")
	value, found := data[key]
	if !found {
		return nil, fmt.Errorf("no value found for key %s", key)
	}
	return value, nil
}
