// SPDX-License-Identifier: MPL-2.0

// Read-image-updater does what Argo CD Image Updater does with a pull secret: it
// reads its list of registries from a ConfigMap, finds the registry of an image,
// and fetches that registry's credential from a Secret, all with Image
// Updater's own code.
//
// Standard input is a JSON array of {"config", "secret", "manifest", "image"}: a
// Docker config, the namespace and name of the Secret that holds it, the
// ConfigMap (without it: the built-in list), and an image. Standard output is an
// array of the same length, of {"credentials", "read"} or {"error"}. "read" is
// the registry of the image.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/argoproj-labs/argocd-image-updater/registry-scanner/pkg/image"
	"github.com/argoproj-labs/argocd-image-updater/registry-scanner/pkg/kube"
	"github.com/argoproj-labs/argocd-image-updater/registry-scanner/pkg/log"
	"github.com/argoproj-labs/argocd-image-updater/registry-scanner/pkg/registry"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"
)

type question struct {
	Config   string `json:"config"`
	Secret   string `json:"secret"`
	Manifest string `json:"manifest"`
	Image    string `json:"image"`
}

type credential struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

type answer struct {
	Credentials []credential      `json:"credentials,omitempty"`
	Read        map[string]string `json:"read,omitempty"`
	Error       string            `json:"error,omitempty"`
}

func main() {
	// Image Updater logs to both outputs.
	out := os.Stdout
	os.Stdout = os.Stderr
	log.Log().SetOutput(os.Stderr)
	var questions []question
	if err := json.NewDecoder(os.Stdin).Decode(&questions); err != nil {
		fmt.Fprintln(os.Stderr, "read-image-updater: reading the questions:", err)
		os.Exit(1)
	}
	answers := make([]answer, 0, len(questions))
	for _, q := range questions {
		a, err := lookUp(context.Background(), q)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		answers = append(answers, a)
	}
	if err := json.NewEncoder(out).Encode(answers); err != nil {
		fmt.Fprintln(os.Stderr, "read-image-updater: writing the answers:", err)
		os.Exit(1)
	}
}

func lookUp(ctx context.Context, q question) (answer, error) {
	registry.RestoreDefaultRegistryConfiguration()
	var config corev1.ConfigMap
	if q.Manifest != "" {
		if err := load(ctx, q.Manifest, &config); err != nil {
			return answer{}, err
		}
	}
	endpoint, err := registry.GetRegistryEndpoint(ctx, image.NewFromIdentifier(q.Image))
	if err != nil {
		return answer{}, err
	}
	namespace, name, _ := strings.Cut(q.Secret, "/")
	client := kube.NewKubernetesClient(ctx, fake.NewClientset(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Type:       corev1.SecretTypeDockerConfigJson,
		Data:       map[string][]byte{corev1.DockerConfigJsonKey: []byte(q.Config)},
	}), namespace)
	source := ""
	if q.Manifest == "" {
		source = "pullsecret:" + q.Secret // as pullSecret of an ImageUpdater
	}
	found, err := endpoint.SetEndpointCredentials(ctx, client, source)
	if err != nil {
		return answer{}, err
	}
	a := answer{Read: map[string]string{
		"configmap": config.Namespace + "/" + config.Name,
		"name":      endpoint.RegistryName, "prefix": endpoint.RegistryPrefix, "api_url": endpoint.RegistryAPI,
		"credsexpire": endpoint.CredsExpire.String(), "defaultns": endpoint.DefaultNS,
	}}
	if found.Username != "" || found.Password != "" {
		a.Credentials = []credential{{found.Username, found.Password}}
	}
	return a, nil
}

// load loads registries.conf of a ConfigMap as Image Updater does, which mounts
// it as a file.
func load(ctx context.Context, manifest string, config *corev1.ConfigMap) error {
	if err := yaml.UnmarshalStrict([]byte(manifest), config); err != nil {
		return err
	}
	if config.APIVersion != "v1" || config.Kind != "ConfigMap" {
		return fmt.Errorf("want a ConfigMap, got %s %s", config.APIVersion, config.Kind)
	}
	text, found := config.Data["registries.conf"]
	if !found {
		return errors.New("no registries.conf")
	}
	file, err := os.CreateTemp("", "registries.conf")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	if _, err := file.WriteString(text); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return registry.LoadRegistryConfiguration(ctx, file.Name(), false)
}
