// Ask-provider looks images up through credential providers, as a kubelet does.
//
// It exists to try a provider with the kubelet's own code: its configuration, its
// cache, its strict decoding and its keyring. It is called with a
// CredentialProviderConfig and the folder of the providers. Each line of standard
// input is one pull, as JSON; each line of standard output is what the kubelet
// would try, in order. Standard error is the kubelet's log.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/credentialprovider/plugin"
	"k8s.io/kubernetes/pkg/util/parsers"
)

// pull is an image, and the service account of the pod that needs it.
type pull struct {
	Image          string            `json:"image"`
	Namespace      string            `json:"namespace"`
	Pod            string            `json:"pod"`
	ServiceAccount string            `json:"service_account"` // empty: a static pod
	Annotations    map[string]string `json:"annotations"`     // of the service account
	Token          string            `json:"token"`           // what the API server gives for it
}

type credential struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// answer is what the kubelet would try, and the audience of the token that it has
// asked for.
type answer struct {
	Credentials []credential `json:"credentials"`
	Audience    string       `json:"audience"`
}

// cluster is the API server of one pull at a time.
type cluster struct {
	mu       sync.Mutex
	current  pull
	audience string
}

func (c *cluster) account(namespace, name string) (*v1.ServiceAccount, error) {
	return &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, UID: types.UID("uid-" + namespace + "-" + name), Annotations: c.current.Annotations,
	}}, nil
}

func (c *cluster) token(_, _ string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	c.audience = request.Spec.Audiences[0]
	request.Status.Token = c.current.Token
	return request, nil
}

func main() {
	var c cluster
	if err := plugin.RegisterCredentialProviderPlugins(os.Args[1], os.Args[2], c.token, c.account); err != nil {
		fmt.Fprintln(os.Stderr, "ask-provider:", err)
		os.Exit(1)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		found, err := c.lookUp(lines.Bytes())
		if err == nil {
			err = out.Encode(found)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "ask-provider:", err)
			os.Exit(1)
		}
	}
}

func (c *cluster) lookUp(line []byte) (answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current, c.audience = pull{}, ""
	if err := json.Unmarshal(line, &c.current); err != nil {
		return answer{}, err
	}
	// The kubelet asks its keyring for the repository, with Docker's defaults filled in.
	repository, _, _, err := parsers.ParseImageName(c.current.Image)
	if err != nil {
		return answer{}, err
	}
	keyring := plugin.NewExternalCredentialProviderDockerKeyring(c.current.Namespace, c.current.Pod, "uid-"+c.current.Pod, c.current.ServiceAccount)
	found, _ := keyring.Lookup(repository)
	a := answer{Credentials: []credential{}, Audience: c.audience}
	for _, f := range found {
		a.Credentials = append(a.Credentials, credential{f.Username, f.Password})
	}
	return a, nil
}
