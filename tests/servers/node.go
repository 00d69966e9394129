// SPDX-License-Identifier: MPL-2.0

//go:build linux

package servers

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Node is a running kubelet with a containerd of its own, registered with a
// cluster. It has no network of its own, so its pods must use the host's.
type Node struct {
	*Process
	Name       string   // for a pod's nodeName, as there is no scheduler
	Containerd *Process // it logs each pull, and how it ended

	dir    string
	kube   *Kubernetes
	flags  []string // of the kubelet, beside those of all nodes
	health string   // address at which the kubelet tells that it is well
}

// NodeOptions are options of a node.
type NodeOptions struct {
	Flags    []string          // of the kubelet
	Settings []string          // lines of its configuration
	Client   map[string]string // files in ClientFolder, by name
}

// ClientFolder is where a node has the configuration of the client regcred. The
// machine itself does not have these files there.
const ClientFolder = "/etc/regcred"

// nodeName is the name of the node, which is the only one in its cluster.
const nodeName = "node"

const (
	// pauseImage is the image that keeps a pod's namespaces. It is imported,
	// not pulled.
	pauseImage = "localhost/pause:1"

	cgroups = "/sys/fs/cgroup"
)

// isolate runs a program as the first process of new namespaces, which end with
// it, so that no container and no mount outlives containerd. Files that
// containerd and the kubelet write outside their configured folders go to $1
// instead, and so do the kernel settings that the kubelet would change on the
// machine. Shims have their sockets in /run/containerd, wherever containerd has
// its own. /etc is a copy in memory, with $1/regcred as [ClientFolder].
const isolate = `
mount --make-rprivate /
mount -t proc proc /proc
for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  mkdir -p "$1/sysctl/${setting%/*}"
  cat "/proc/sys/$setting" >"$1/sysctl/$setting"
  mount --bind "$1/sysctl/$setting" "/proc/sys/$setting"
done
mkdir -p "$1/etc" "$1/regcred"
mount -t tmpfs tmpfs "$1/etc"
cp -a /etc/. "$1/etc"
mkdir -p "$1/etc/regcred"
mount --bind "$1/regcred" "$1/etc/regcred"
mount --rbind "$1/etc" /etc
for folder in /var/lib /var/log /run; do
  mkdir -p "$1$folder"
  mount --bind "$1$folder" "$folder"
done
shift
exec "$@"
`

// StartNode starts containerd and a kubelet, which needs root. When the test
// ends it leaves nothing on the machine; when the test is killed, it leaves
// only empty cgroups and temporary files.
func StartNode(t testing.TB, k *Kubernetes) *Node {
	t.Helper()
	return StartNodeWith(t, k, NodeOptions{})
}

// StartNodeWith is StartNode with options.
func StartNodeWith(t testing.TB, k *Kubernetes, options NodeOptions) *Node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a kubelet needs root")
	}
	// Not t.TempDir, whose paths may be too long for a socket.
	dir, err := os.MkdirTemp("", "node-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing the files of the node: %v", err)
		}
	})
	n := &Node{Name: nodeName, dir: dir, kube: k, flags: options.Flags}
	for name, content := range options.Client {
		n.WriteClientFile(t, name, content)
	}
	n.Containerd = n.startContainerd(t)
	n.importPause(t)
	n.StartKubelet(t, options.Settings...)
	return n
}

func (n *Node) startContainerd(t testing.TB) *Process {
	t.Helper()
	t.Cleanup(func() { n.removeCgroups(t) })
	n.write(t, "containerd.toml", fmt.Sprintf(`
version = 2
root = "%[1]s/containerd"
state = "%[1]s/containerd-state"
temp = "%[1]s/containerd-temp"
[grpc]
  address = "%[1]s/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "%[1]s/containerd-opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[2]q
  # Neither is to depend on what the machine lets its root do.
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  # It mounts nothing, so that any file system will do.
  snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "%[1]s/registries"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "%[1]s/cni"
  conf_dir = "%[1]s/cni"
`, n.dir, pauseImage))
	cmd := exec.Command("sh", "-euc", isolate, "isolate", n.dir,
		"containerd", "--config="+filepath.Join(n.dir, "containerd.toml"), "--log-level=info")
	cmd.Env = n.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	return start(t, "containerd", cmd, func() error {
		_, err := n.ctr("plugins", "ls", "id==cri")
		return err
	})
}

// StartKubelet starts the kubelet of a node, with further lines in its
// configuration.
func (n *Node) StartKubelet(t testing.TB, settings ...string) {
	t.Helper()
	n.health = FreeAddr(t)
	_, port, _ := strings.Cut(n.health, ":")
	socket := "unix://" + filepath.Join(n.dir, "containerd.sock")
	n.write(t, "kubelet.yaml", fmt.Sprintf(`
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: %[2]q
enableServer: false
healthzBindAddress: 127.0.0.1
healthzPort: %[3]s
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
# Any machine will do: with either version of cgroups, with swap, with a full disk.
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
# The machine's firewall, name servers and folders stay as they are.
makeIPTablesUtilChains: false
resolvConf: ""
podLogsDir: "%[1]s/pod-logs"
volumePluginDir: "%[1]s/volume-plugins"
%[4]s
`, n.dir, socket, port, strings.Join(settings, "\n")))
	cmd := exec.Command("nsenter", append([]string{
		"--target=" + strconv.Itoa(n.Containerd.PID()), "--mount", "--pid", "--",
		Bin(t, "kubelet"), "--config=" + filepath.Join(n.dir, "kubelet.yaml"), "--kubeconfig=" + n.kube.nodeKubeconfig,
		"--root-dir=" + filepath.Join(n.dir, "kubelet"), "--cert-dir=" + filepath.Join(n.dir, "kubelet", "pki"),
		"--hostname-override=" + n.Name,
	}, n.flags...)...)
	cmd.Env = n.env()
	// The stopped process is nsenter. The kubelet shares its standard output
	// and ends with containerd.
	cmd.WaitDelay = time.Second
	n.Process = start(t, "kubelet", cmd, n.kubeletIsWell)
}

func (n *Node) kubeletIsWell() error {
	if err := dial(n.health); err != nil {
		return err
	}
	resp, err := http.Get("http://" + n.health + "/healthz")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /healthz: %s", resp.Status)
	}
	_, err = n.kube.TryKubectl("", "get", "node", n.Name)
	return err
}

// StopKubelet ends the kubelet. Its pods go on.
func (n *Node) StopKubelet(t testing.TB) {
	t.Helper()
	for _, pid := range childrenOf(t, n.PID()) {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatalf("stopping the kubelet: %v", err)
		}
	}
	Receive(t, n.done, "the kubelet has not ended")
}

// WriteClientFile writes a file into [ClientFolder] of the node, or replaces it.
func (n *Node) WriteClientFile(t testing.TB, name, content string) {
	t.Helper()
	// Rename, so that nobody reads half a file.
	n.write(t, filepath.Join("regcred", name+".new"), content)
	if err := os.Rename(n.ClientFile(name+".new"), n.ClientFile(name)); err != nil {
		t.Fatal(err)
	}
}

// ClientFile returns where the machine has a file of the node's [ClientFolder].
func (n *Node) ClientFile(name string) string { return filepath.Join(n.dir, "regcred", name) }

// env has no credentials for registries, which the kubelet would look for in
// its home. The last variable keeps mount and umount from creating /run/mount.
func (n *Node) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + n.dir, "TMPDIR=" + n.dir, "LIBMOUNT_UTAB=" + filepath.Join(n.dir, "utab")}
}

// PullOverHTTP makes containerd talk to a registry without TLS.
func (n *Node) PullOverHTTP(t testing.TB, registry string) {
	t.Helper()
	n.PullFrom(t, registry, registry)
}

// PullFrom makes containerd pull the images of a registry from an address,
// without TLS. It asks no other server.
func (n *Node) PullFrom(t testing.TB, registry, addr string) {
	t.Helper()
	n.write(t, filepath.Join("registries", registry, "hosts.toml"), fmt.Sprintf(`
server = "http://%[1]s"
[host."http://%[1]s"]
  capabilities = ["pull", "resolve"]
`, addr))
}

// ContainerLog returns the output of the containers of a pod.
func (n *Node) ContainerLog(t testing.TB, namespace, pod string) string {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(n.dir, "pod-logs", namespace+"_"+pod+"_*", "*", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, log := range logs {
		content, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(content)
	}
	return all.String()
}

func (n *Node) importPause(t testing.TB) {
	t.Helper()
	tag, err := name.NewTag(pauseImage)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(n.dir, "pause.tar")
	if err := tarball.WriteToFile(file, tag, PauseImage(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.ctr("--namespace=k8s.io", "images", "import", "--snapshotter=native", file); err != nil {
		t.Fatal(err)
	}
}

func (n *Node) ctr(args ...string) (string, error) {
	cmd := exec.Command("ctr", append([]string{"--address=" + filepath.Join(n.dir, "containerd.sock")}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ctr %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// EndContainer ends the container app of a pod, as if its program had failed.
func (n *Node) EndContainer(t testing.TB, namespace, pod string) {
	t.Helper()
	found, err := n.ctr("--namespace=k8s.io", "containers", "ls", "--quiet", fmt.Sprintf(
		`labels."io.kubernetes.pod.namespace"==%s,labels."io.kubernetes.pod.name"==%s,labels."io.kubernetes.container.name"==app`, namespace, pod))
	if err != nil {
		t.Fatal(err)
	}
	for _, container := range strings.Fields(found) {
		if _, err := n.ctr("--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", container); err != nil {
			t.Fatal(err)
		}
	}
}

func (n *Node) write(t testing.TB, file, content string) {
	t.Helper()
	path := filepath.Join(n.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// PauseImage returns an image with a program that prints its arguments,
// beginning with the given ones, and waits for a signal to end.
func PauseImage(t testing.TB, args ...string) v1.Image {
	t.Helper()
	program, err := os.ReadFile(Bin(t, "pause"))
	if err != nil {
		t.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	opened, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, opened)
	if err != nil {
		t.Fatal(err)
	}
	image, err = mutate.ConfigFile(image, withProgram(t, image, append([]string{"/pause"}, args...)))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func withProgram(t testing.TB, image v1.Image, entrypoint []string) *v1.ConfigFile {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint = entrypoint
	return config
}

// removeCgroups removes the cgroups of the containers that ended with
// containerd, in the one hierarchy of version 2 or in all hierarchies of
// version 1.
func (n *Node) removeCgroups(t testing.TB) {
	t.Helper()
	containers, err := filepath.Glob(filepath.Join(n.dir, "containerd-state", "io.containerd.runtime.v2.task", "k8s.io", "*"))
	if err != nil {
		t.Fatal(err)
	}
	hierarchies := []string{cgroups, filepath.Join(cgroups, "*")}
	if err := TryUntil(Limit(t), func() error {
		var failed error
		for _, container := range containers {
			for _, hierarchy := range hierarchies {
				failed = errors.Join(failed, removeAll(filepath.Join(hierarchy, "k8s.io", filepath.Base(container))))
			}
		}
		return failed
	}); err != nil {
		t.Errorf("removing the cgroups of the containers: %v", err)
	}
	for _, hierarchy := range hierarchies {
		_ = removeAll(filepath.Join(hierarchy, "k8s.io")) // fails if another containerd has cgroups there
	}
}

// removeAll removes the cgroups that match a pattern. They have no child
// groups, and the kernel removes their files.
func removeAll(pattern string) error {
	found, err := filepath.Glob(pattern)
	for _, group := range found {
		err = errors.Join(err, os.Remove(group))
	}
	return err
}
