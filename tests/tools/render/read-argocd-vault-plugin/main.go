// SPDX-License-Identifier: MPL-2.0

// Read-argocd-vault-plugin fills in the placeholders of a manifest with the code
// of argocd-vault-plugin. It reads from Vault as that plugin's own backend does,
// which would bring in the clients of all clouds.
//
// Standard input is the manifest; standard output is the manifest with the
// values. $VAULT_ADDR and $VAULT_TOKEN say where from.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/argoproj-labs/argocd-vault-plugin/pkg/kube"
	"github.com/argoproj-labs/argocd-vault-plugin/pkg/types"
	"github.com/hashicorp/vault/api"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err == nil {
		var made string
		if made, err = render(text); err == nil {
			_, err = fmt.Print(made)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "read-argocd-vault-plugin:", err)
		os.Exit(1)
	}
}

func render(text []byte) (string, error) {
	var manifest unstructured.Unstructured
	if err := yaml.Unmarshal(text, &manifest.Object); err != nil {
		return "", err
	}
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		return "", err
	}
	template, err := kube.NewTemplate(manifest, backend{client}, nil)
	if err != nil {
		return "", err
	}
	if err := template.Replace(); err != nil {
		return "", err
	}
	return template.ToYAML()
}

// backend does what pkg/backends/vault.go does.
type backend struct{ *api.Client }

func (backend) Login() error { return nil }

func (b backend) GetSecrets(path, _ string, annotations map[string]string) (map[string]any, error) {
	secret, err := b.Logical().Read(path)
	switch {
	case err != nil:
		return nil, err
	case secret == nil:
		return nil, fmt.Errorf("Could not find secrets at path %s", path)
	case annotations[types.VaultKVVersionAnnotation] == "1":
		return secret.Data, nil
	}
	if data, ok := secret.Data["data"].(map[string]any); ok {
		return data, nil
	}
	return nil, errors.New("Could not get data from Vault, check that kv-v2 is the correct engine")
}

func (b backend) GetIndividualSecret(path, key, version string, annotations map[string]string) (any, error) {
	data, err := b.GetSecrets(path, version, annotations)
	if err != nil {
		return nil, err
	}
	return data[key], nil
}
