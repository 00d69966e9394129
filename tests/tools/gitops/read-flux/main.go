// SPDX-License-Identifier: MPL-2.0

// Read-flux does what Flux does with a pull secret: it parses an
// ImageRepository or an OCIRepository with the types of Flux's API, takes the
// Secret that the object names, and looks up the object's registry in it with
// the keychain that both controllers use.
//
// Standard input is a JSON array of {"config", "secret", "manifest"}: a Docker
// config, the namespace and name of the Secret that holds it, and an object of
// Flux. Standard output is an array of the same length, of {"credentials",
// "read"} or {"error"}. "read" is what the object says.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	imagev1 "github.com/fluxcd/image-reflector-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/authn/kubernetes"
	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

type question struct {
	Config   string `json:"config"`
	Secret   string `json:"secret"`
	Manifest string `json:"manifest"`
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
	var questions []question
	if err := json.NewDecoder(os.Stdin).Decode(&questions); err != nil {
		fmt.Fprintln(os.Stderr, "read-flux: reading the questions:", err)
		os.Exit(1)
	}
	answers := make([]answer, 0, len(questions))
	for _, q := range questions {
		a, err := lookUp(q)
		if err != nil {
			a = answer{Error: err.Error()}
		}
		answers = append(answers, a)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fmt.Fprintln(os.Stderr, "read-flux: writing the answers:", err)
		os.Exit(1)
	}
}

func lookUp(q question) (answer, error) {
	read, repository, err := parse(q.Manifest)
	if err != nil {
		return answer{}, err
	}
	// A controller gets the Secret of this name in the object's namespace.
	if secret := read["namespace"] + "/" + read["secret"]; secret != q.Secret {
		return answer{}, fmt.Errorf("failed to get secret '%s': not found", secret)
	}
	keychain, err := kubernetes.NewFromPullSecrets(context.Background(), []corev1.Secret{{
		Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(q.Config)},
	}})
	if err != nil {
		return answer{}, err
	}
	authenticator, err := keychain.Resolve(repository)
	if err != nil {
		return answer{}, err
	}
	a := answer{Read: read}
	if authenticator == authn.Anonymous {
		return a, nil
	}
	found, err := authenticator.Authorization()
	if err != nil {
		return answer{}, err
	}
	a.Credentials = []credential{{found.Username, found.Password}}
	return a, nil
}

// parse returns what an object says, and the repository that it is for. A field
// that Flux's API does not have is an error, as kubectl's.
func parse(manifest string) (map[string]string, name.Repository, error) {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(manifest), &kind); err != nil {
		return nil, name.Repository{}, err
	}
	var (
		image imagev1.ImageRepository
		oci   sourcev1.OCIRepository

		object   metav1.ObjectMeta
		secret   *meta.LocalObjectReference
		interval metav1.Duration
		address  string
		tag      string
	)
	switch kind.GroupVersionKind() {
	case imagev1.GroupVersion.WithKind(imagev1.ImageRepositoryKind):
		if err := yaml.UnmarshalStrict([]byte(manifest), &image); err != nil {
			return nil, name.Repository{}, err
		}
		object, secret, interval, address = image.ObjectMeta, image.Spec.SecretRef, image.Spec.Interval, image.Spec.Image
	case sourcev1.GroupVersion.WithKind(sourcev1.OCIRepositoryKind):
		if err := yaml.UnmarshalStrict([]byte(manifest), &oci); err != nil {
			return nil, name.Repository{}, err
		}
		var found bool
		if address, found = strings.CutPrefix(oci.Spec.URL, sourcev1.OCIRepositoryPrefix); !found {
			return nil, name.Repository{}, fmt.Errorf("URL must be in format 'oci://<domain>/<org>/<repo>', not %q", oci.Spec.URL)
		}
		object, secret, interval = oci.ObjectMeta, oci.Spec.SecretRef, oci.Spec.Interval
		if oci.Spec.Reference != nil {
			tag = oci.Spec.Reference.Tag
		}
	default:
		return nil, name.Repository{}, fmt.Errorf("no matches for kind %s", kind.GroupVersionKind())
	}
	if secret == nil {
		secret = &meta.LocalObjectReference{}
	}
	repository, err := name.NewRepository(address)
	return map[string]string{
		"kind": kind.Kind, "namespace": object.Namespace, "name": object.Name, "secret": secret.Name,
		"interval": interval.Duration.String(), "repository": address, "tag": tag,
	}, repository, err
}
