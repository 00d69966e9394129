// Read-kubelet looks images up in Docker configs the way a node does.
//
// It exists to prove that the kubelet finds the credential in a pull secret:
// each config becomes a Secret of type kubernetes.io/dockerconfigjson, and the
// kubelet's own code turns that into a keyring and looks the image up in it.
//
// Standard input is a JSON array of {"config", "image"}; standard output is an
// array of the same length, of {"credentials"} in the order in which the
// kubelet tries them, or {"error"}.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/credentialprovider"
	"k8s.io/kubernetes/pkg/credentialprovider/secrets"
	"k8s.io/kubernetes/pkg/util/parsers"
)

// question asks which credentials a Docker config holds for an image.
type question struct {
	Config string `json:"config"`
	Image  string `json:"image"`
}

type credential struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// answer has credentials (perhaps none) or an error, never both.
type answer struct {
	Credentials []credential
	Err         error
}

func (a answer) MarshalJSON() ([]byte, error) {
	if a.Err != nil {
		return json.Marshal(map[string]string{"error": a.Err.Error()})
	}
	return json.Marshal(map[string][]credential{"credentials": a.Credentials})
}

func main() {
	var questions []question
	if err := json.NewDecoder(os.Stdin).Decode(&questions); err != nil {
		fmt.Fprintln(os.Stderr, "read-kubelet: reading the questions:", err)
		os.Exit(1)
	}
	answers := make([]answer, 0, len(questions))
	for _, q := range questions {
		answers = append(answers, lookUp(q))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		fmt.Fprintln(os.Stderr, "read-kubelet: writing the answers:", err)
		os.Exit(1)
	}
}

// lookUp hands the config to the kubelet's keyring as a pod's pull secret.
func lookUp(q question) answer {
	secret := v1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "pull-secret"},
		Type:       v1.SecretTypeDockerConfigJson,
		Data:       map[string][]byte{v1.DockerConfigJsonKey: []byte(q.Config)},
	}
	// The node's own keyring stays empty, so that only the secret can answer.
	keyring, err := secrets.MakeDockerKeyring([]v1.Secret{secret}, &credentialprovider.BasicDockerKeyring{})
	if err != nil {
		return answer{Err: err}
	}
	// The kubelet asks its keyring for the repository, with Docker's defaults filled in.
	repository, _, _, err := parsers.ParseImageName(q.Image)
	if err != nil {
		return answer{Err: err}
	}
	found, _ := keyring.Lookup(repository)
	credentials := make([]credential, 0, len(found))
	for _, c := range found {
		credentials = append(credentials, credential{c.Username, c.Password})
	}
	return answer{Credentials: credentials}
}
