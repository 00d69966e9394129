// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Kubernetes is a running kube-apiserver on an etcd of its own. It has no
// controllers: a namespace holds only what a test creates, and lacks even the
// service account "default".
type Kubernetes struct {
	*Process
	Kubeconfig string // a path; its user may do everything
	PublicKey  string // PEM; verifies the tokens of service accounts
	Issuer     string // of the tokens of service accounts

	nodeKubeconfig string // a path; its user is the node nodeName, and may do what a node may

	home  string    // where kubectl caches what the server offers
	limit time.Time // end of waiting; kubectl is stopped then
}

// StartKubernetes starts etcd and kube-apiserver on loopback.
func StartKubernetes(t testing.TB) *Kubernetes {
	t.Helper()
	dir := t.TempDir()
	etcd := startEtcd(t)
	k := &Kubernetes{
		Kubeconfig:     filepath.Join(dir, "kubeconfig"),
		nodeKubeconfig: filepath.Join(dir, "node-kubeconfig"),
		home:           dir,
		limit:          Limit(t),
		Issuer:         "https://kubernetes.default.svc.cluster.local",
	}
	private, public := newKeyPair(t)
	k.PublicKey = public
	admin, node := randomToken(), randomToken()
	addr := FreeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	certs := filepath.Join(dir, "certs")
	ca := filepath.Join(certs, "apiserver.crt")
	key, tokens := filepath.Join(dir, "service-accounts.key"), filepath.Join(dir, "tokens.csv")
	for file, content := range map[string]string{
		key:              private,
		tokens:           admin + ",admin,admin,system:masters\n" + node + ",system:node:" + nodeName + ",node,system:nodes\n",
		k.Kubeconfig:     kubeconfig(addr, ca, admin),
		k.nodeKubeconfig: kubeconfig(addr, ca, node),
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(Bin(t, "kube-apiserver"),
		"--etcd-servers="+etcd, "--cert-dir="+certs,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+port,
		// A node may do only what its pods need, as in any cluster.
		"--token-auth-file="+tokens, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer="+k.Issuer, "--service-account-signing-key-file="+key, "--service-account-key-file="+key,
		// Without controllers, no service account would ever be created.
		"--disable-admission-plugins=ServiceAccount",
		"--service-cluster-ip-range=10.0.0.0/24")
	cmd.Env = []string{"HOME=" + dir}
	k.Process = start(t, "kube-apiserver", cmd, func() error {
		if err := dial(addr); err != nil {
			return err
		}
		_, err := k.TryKubectl("", "get", "--raw=/readyz")
		return err
	})
	return k
}

func startEtcd(t testing.TB) (url string) {
	t.Helper()
	client, peer := FreeAddr(t), "http://"+FreeAddr(t)
	url = "http://" + client
	dir := t.TempDir()
	cmd := exec.Command(Bin(t, "etcd"), "--name=one", "--data-dir="+dir, "--log-level=warn",
		"--listen-client-urls="+url, "--advertise-client-urls="+url,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=one="+peer,
		"--unsafe-no-fsync") // the data is not needed after the test
	cmd.Env = []string{"HOME=" + dir}
	start(t, "etcd", cmd, func() error { return dial(client) })
	return url
}

func newKeyPair(t testing.TB) (private, public string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	private = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	return private, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func kubeconfig(addr, ca, token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://%s", certificate-authority: %q}}]
users: [{name: test, user: {token: %s}}]
contexts: [{name: test, context: {cluster: test, user: test, namespace: default}}]
current-context: test
`, addr, ca, token)
}

// Namespace creates a namespace and returns the cluster with a kubeconfig whose
// current namespace it is.
func (k *Kubernetes) Namespace(t testing.TB, name string) *Kubernetes {
	t.Helper()
	k.Kubectl(t, "", "create", "namespace", name)
	content, err := os.ReadFile(k.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	in := *k
	in.Kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	content = bytes.Replace(content, []byte("namespace: default"), []byte("namespace: "+name), 1)
	if err := os.WriteFile(in.Kubeconfig, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return &in
}

// Kubectl runs kubectl as an administrator and returns its standard output. It
// fails the test if kubectl fails.
func (k *Kubernetes) Kubectl(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	out, err := k.TryKubectl(stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TryKubectl is [Kubernetes.Kubectl] for a command that may fail. The error
// holds the standard error of kubectl.
func (k *Kubernetes) TryKubectl(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithDeadline(context.Background(), k.limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(Repo(), ".bin", "kubectl"), args...)
	cmd.Env = k.Env()
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// Env is the environment in which programs talk to this cluster.
func (k *Kubernetes) Env() []string {
	return []string{"KUBECONFIG=" + k.Kubeconfig, "HOME=" + k.home}
}
