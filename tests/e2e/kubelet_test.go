// SPDX-License-Identifier: MPL-2.0

//go:build linux && e2e && e2e_kubelet

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"vault-plugin-secrets-regcred/tests/servers"
)

// unauthorized is the registry's answer in the events of a pod.
const unauthorized = "401 Unauthorized"

// TestKubelet makes a real kubelet run pods from the registry, with Secrets
// that the scripts for kubectl made.
func TestKubelet(t *testing.T) {
	t.Parallel()
	k := servers.StartKubernetes(t)
	node := servers.StartNode(t, k)
	for name, test := range map[string]func(*testing.T, *servers.Kubernetes, *servers.Node){
		"runs a pod": testKubeletRunsPod,
		"refuses a pod until its Secret is right":                        testKubeletRefusesPod,
		"names the Secret that is missing":                               testKubeletNamesMissingSecret,
		"runs no image that it has already for a pod without the Secret": testKubeletChecksImagesItHas,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, k, node)
		})
	}
}

func testKubeletRunsPod(t *testing.T, k *servers.Kubernetes, node *servers.Node) {
	w := newPodWorld(t, node)
	for _, script := range []string{"create", "update", "apply"} {
		t.Run(script, func(t *testing.T) {
			k := k.Namespace(t, "kubelet-"+script)
			w.makeSecret(t, k, script)
			w.startPod(t, k, node, "app", "regcred")
			servers.Eventually(t, func() error { return runs(k, "app") })
			servers.Eventually(t, func() error {
				if log := node.ContainerLog(t, "kubelet-"+script, "app"); !strings.Contains(log, w.image) {
					return fmt.Errorf("want the container to say %q, got %q", w.image, log)
				}
				return nil
			})
		})
	}
}

func testKubeletRefusesPod(t *testing.T, k *servers.Kubernetes, node *servers.Node) {
	w := newPodWorld(t, node)
	k = k.Namespace(t, "kubelet-refusal")
	w.vault.CLI(t, "", "write", "regcred/roles/my_app", "password=wrong")
	w.makeSecret(t, k, "create")
	w.startPod(t, k, node, "app", "regcred")
	servers.Eventually(t, func() error { return refused(k, "app", unauthorized) })

	w.vault.CLI(t, w.login.Password, "write", "regcred/roles/my_app", "password=-")
	w.makeSecret(t, k, "update")
	corrected := time.Now()
	servers.Eventually(t, func() error { return runs(k, "app") })
	t.Logf("the pod ran %s after its Secret was right", time.Since(corrected).Round(100*time.Millisecond))

	// After the password has changed, running pods continue, but nothing new is
	// pulled.
	w.login.Password = "an0ther"
	w.registry.SetPassword(t, w.login.Username, w.login.Password)
	w.image = w.registry.Addr + "/team/next:1"
	w.push(t)
	w.startPod(t, k, node, "next", "regcred")
	servers.Eventually(t, func() error { return refused(k, "next", unauthorized) })
	if err := runs(k, "app"); err != nil {
		t.Error(err)
	}
}

// testKubeletNamesMissingSecret starts a pod before its Secret exists.
func testKubeletNamesMissingSecret(t *testing.T, k *servers.Kubernetes, node *servers.Node) {
	w := newPodWorld(t, node)
	k = k.Namespace(t, "kubelet-missing")
	w.startPod(t, k, node, "app", "regcred")
	servers.Eventually(t, func() error { return refused(k, "app", "Unable to retrieve some image pull secrets (regcred)") })
	w.makeSecret(t, k, "apply")
	servers.Eventually(t, func() error { return runs(k, "app") })
}

// testKubeletChecksImagesItHas: since Kubernetes 1.35, an image that one pod
// was allowed to pull is not available to all pods.
func testKubeletChecksImagesItHas(t *testing.T, k *servers.Kubernetes, node *servers.Node) {
	w := newPodWorld(t, node)
	k = k.Namespace(t, "kubelet-image-present")
	w.makeSecret(t, k, "create")
	w.startPod(t, k, node, "first", "regcred")
	servers.Eventually(t, func() error { return runs(k, "first") })

	w.startPod(t, k, node, "with", "regcred")
	w.startPod(t, k, node, "without", "")
	servers.Eventually(t, func() error { return runs(k, "with") })
	servers.Eventually(t, func() error { return refused(k, "without", unauthorized) })
}

// newPodWorld is a world with an image that can run.
func newPodWorld(t *testing.T, node *servers.Node) *world {
	t.Helper()
	w := newWorld(t)
	w.usePolicy(t, example(t, "kubectl/policy.hcl"))
	w.push(t)
	node.PullOverHTTP(t, w.registry.Addr)
	return w
}

// push pushes an image whose container prints the name of the image.
func (w *world) push(t *testing.T) {
	t.Helper()
	tag, err := name.NewTag(w.image, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	auth := remote.WithAuth(&authn.Basic{Username: w.login.Username, Password: w.login.Password})
	if err := remote.Write(tag, servers.PauseImage(t, w.image), auth, remote.WithContext(t.Context())); err != nil {
		t.Fatalf("pushing %s: %v", w.image, err)
	}
}

// makeSecret runs one of the scripts for kubectl.
func (w *world) makeSecret(t *testing.T, k *servers.Kubernetes, script string) {
	t.Helper()
	if out, err := runScript(t, w, k, example(t, "kubectl/"+script+".sh")); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// startPod creates a pod that runs the image on the node. It has a pull secret
// unless secret is empty.
func (w *world) startPod(t *testing.T, k *servers.Kubernetes, node *servers.Node, name, secret string) {
	t.Helper()
	pullSecrets := "[]"
	if secret != "" {
		pullSecrets = "[{name: " + secret + "}]"
	}
	k.Kubectl(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: %s
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  imagePullSecrets: %s
  containers:
  - name: app
    image: %s
`, name, node.Name, pullSecrets, w.image), "apply", "-f", "-")
}

// runs returns nil when all containers of a pod run, and none has failed.
func runs(k *servers.Kubernetes, pod string) error {
	status, err := k.TryKubectl("", "get", "pod", pod, "-o", "json")
	if err != nil {
		return err
	}
	var object struct {
		Status struct {
			Phase             string
			ContainerStatuses []struct {
				Ready        bool
				RestartCount int
				State        map[string]any
			}
		}
	}
	if err := json.Unmarshal([]byte(status), &object); err != nil {
		return fmt.Errorf("reading kubectl's output: %w", err)
	}
	s := object.Status
	running := s.Phase == "Running" && len(s.ContainerStatuses) > 0
	for _, c := range s.ContainerStatuses {
		running = running && c.Ready && c.RestartCount == 0
	}
	if !running {
		return fmt.Errorf("want pod %s to run, got %+v", pod, s)
	}
	return nil
}

// refused returns nil when a pod waits because its image could not be pulled,
// and its events give the reason.
func refused(k *servers.Kubernetes, pod, reason string) error {
	status, err := k.TryKubectl("", "get", "pod", pod, "-o", "jsonpath={.status.phase} {.status.containerStatuses[*].state.waiting.reason}")
	if err != nil {
		return err
	}
	if status != "Pending ImagePullBackOff" {
		return fmt.Errorf("want pod %s in ImagePullBackOff, got %q", pod, status)
	}
	events, err := k.TryKubectl("", "get", "events", "--field-selector=involvedObject.name="+pod, "-o", "jsonpath={range .items[*]}{.reason}: {.message}\n{end}")
	if err == nil && !strings.Contains(events, reason) {
		err = fmt.Errorf("want an event that says %q, got\n%s", reason, events)
	}
	return err
}
