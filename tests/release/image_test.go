// SPDX-License-Identifier: MPL-2.0

package release

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"golang.org/x/crypto/x509roots/fallback/bundle"

	"vault-plugin-secrets-regcred/tests/servers"
)

func linuxPlatforms() []string {
	return slices.DeleteFunc(slices.Clone(platforms), func(p string) bool { return !strings.HasPrefix(p, "linux/") })
}

// TestImageLayout: each folder in dist/oci is a valid layout with one image for each
// Linux platform, and the tar file is that folder.
func TestImageLayout(t *testing.T) {
	t.Parallel()
	each(t, imageLayout)
}

func imageLayout(t *testing.T, p product) {
	index := imageIndex(t, p)
	if err := validate.Index(index); err != nil {
		t.Fatalf("dist/oci: %v", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, image := range manifest.Manifests {
		got = append(got, image.Platform.OS+"/"+image.Platform.Architecture)
		if want := map[string]string{"arm": "v6"}[image.Platform.Architecture]; image.Platform.Variant != want {
			t.Errorf("%s: want the variant %q, got %q", image.Platform, want, image.Platform.Variant)
		}
	}
	if diff := cmp.Diff(linuxPlatforms(), got); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}

	folder := filesBelow(t, dist("oci", p.program))
	archive := tar.NewReader(bytes.NewReader(readFile(t, dist(p.released()+"_oci.tar"))))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(folder[header.Name], content) {
			t.Errorf("%s_oci.tar has another %s than dist/oci", p.released(), header.Name)
		}
		delete(folder, header.Name)
	}
	for name := range folder {
		t.Errorf("%s_oci.tar lacks %s", p.released(), name)
	}
}

// imageIndex returns the index of a folder in dist/oci.
func imageIndex(t *testing.T, p product) v1.ImageIndex {
	t.Helper()
	path, err := layout.FromPath(dist("oci", p.program))
	if err != nil {
		t.Fatal(err)
	}
	top, err := path.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := top.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != version {
		t.Fatalf("dist/oci: want one image with the name %s, got %+v", version, manifest.Manifests)
	}
	index, err := top.ImageIndex(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

const username, password = "releaser", "pushes"

// TestImageIsPulled pulls from a real registry, to which scripts/push.sh pushed
// the folders, and skopeo the tar files. The result has the program of the
// archive, where Vault and OpenBao look for the plugin's.
func TestImageIsPulled(t *testing.T) {
	t.Parallel()
	registry := servers.StartRegistry(t, username, password)

	push := exec.CommandContext(t.Context(), "bash", filepath.Join(servers.Repo(), "scripts", "push.sh"), version, registry.Addr+"/Plugins/RegCred")
	push.Env = append(os.Environ(), "REGISTRY_USERNAME="+username, "REGISTRY_PASSWORD="+password)
	out, err := push.CombinedOutput()
	if err != nil {
		t.Fatalf("pushing dist/oci: %v\n%s", err, out)
	}
	if strings.Contains(string(out), password) {
		t.Errorf("pushing shows the password: %s", out)
	}
	for _, p := range products {
		image := registry.Addr + "/plugins/regcred" + p.image
		digest, err := imageIndex(t, p).Digest()
		if err != nil {
			t.Fatal(err)
		}
		if want := image + "@" + digest.String(); !strings.Contains(string(out), want+"\n") {
			t.Errorf("pushing: want %q said, got %q", want, out)
		}
		imageIsPulled(t, p, registry, image)
	}
}

func imageIsPulled(t *testing.T, p product, registry *servers.Registry, image string) {
	t.Helper()
	run := func(program string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), servers.Bin(t, program), args...)
		cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+dockerConfig(t, registry.Addr, username, password))
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", program, args, err, out)
		}
		return string(out)
	}
	run("skopeo", "copy", "--insecure-policy", "--all", "--dest-tls-verify=false", "--dest-creds="+username+":"+password,
		"oci-archive:"+dist(p.released()+"_oci.tar")+":"+version, "docker://"+image+":from-tar")

	for _, platform := range linuxPlatforms() {
		// skopeo 1.9 rewrites the list itself.
		if tar, folder := run("crane", "digest", "--insecure", "--platform="+platform, image+":from-tar"),
			run("crane", "digest", "--insecure", "--platform="+platform, image+":"+version); tar != folder {
			t.Errorf("%s: the tar file has the image %s, the folder %s", platform, tar, folder)
		}
		want := sha256Hex(readFile(t, dist(folder(platform), p.program)))
		pulled := filepath.Join(t.TempDir(), "image.tar")
		run("crane", "export", "--insecure", "--platform="+platform, image+":"+version, pulled)
		files := tarFiles(t, bytes.NewReader(readFile(t, pulled)))
		if got := sha256Hex(files[p.program].content); got != want {
			t.Errorf("%s: the image has a program with the checksum %s, the archive %s", platform, got, want)
		}

		var config v1.ConfigFile
		if err := json.Unmarshal([]byte(run("crane", "config", "--insecure", "--platform="+platform, image+":"+version)), &config); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"/" + p.program}, config.Config.Entrypoint); diff != "" {
			t.Errorf("%s: entrypoint (-want +got):\n%s", platform, diff)
		}
		if config.Config.User != "65532:65532" {
			t.Errorf("%s: runs as %q", platform, config.Config.User)
		}
		if config.OS+"/"+config.Architecture != platform {
			t.Errorf("%s: the image says %s/%s", platform, config.OS, config.Architecture)
		}
	}

	// As OpenBao does: by the platform of the server, flattened, and the first
	// regular file in the root folder whose name is binary_name.
	reference, err := name.ParseReference(image+":"+version, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(reference, remote.WithContext(t.Context()),
		remote.WithPlatform(v1.Platform{OS: "linux", Architecture: strings.TrimPrefix(linuxPlatforms()[0], "linux/")}),
		remote.WithAuth(&authn.Basic{Username: username, Password: password}))
	if err != nil {
		t.Fatal(err)
	}
	flat := mutate.Extract(pulled)
	defer flat.Close()
	if got, want := sha256Hex(tarFiles(t, flat)[p.program].content), sha256Hex(readFile(t, dist(folder(linuxPlatforms()[0]), p.program))); got != want {
		t.Errorf("binary_name leads to %s, want %s", got, want)
	}
}

func dockerConfig(t *testing.T, registry, username, password string) string {
	t.Helper()
	config, err := json.Marshal(map[string]any{"auths": map[string]any{registry: map[string]string{"username": username, "password": password}}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tarFile is a file in an image.
type tarFile struct {
	mode    int64
	content []byte
}

func tarFiles(t *testing.T, r io.Reader) map[string]tarFile {
	t.Helper()
	files := map[string]tarFile{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			files[header.Name] = tarFile{header.Mode, content}
		}
	}
}

// rootsFile is the first place where Go on Linux looks for root certificates,
// and the only one in the image.
const rootsFile = "etc/ssl/certs/ca-certificates.crt"

// TestImageHoldsTheProgramAndRoots: the image has the program, root
// certificates, and nothing else. Without root certificates, a plugin in a
// container would trust no registry.
func TestImageHoldsTheProgramAndRoots(t *testing.T) {
	t.Parallel()
	each(t, imageHoldsTheProgramAndRoots)
}

func imageHoldsTheProgramAndRoots(t *testing.T, p product) {
	index := imageIndex(t, p)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var want int
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			want++
		}
	}
	if want < 50 {
		t.Fatalf("there are %d root certificates", want)
	}
	var shared v1.Hash
	for i, descriptor := range manifest.Manifests {
		image, err := index.Image(descriptor.Digest)
		if err != nil {
			t.Fatal(err)
		}
		flat := mutate.Extract(image)
		files := tarFiles(t, flat)
		flat.Close()
		modes := map[string]int64{}
		for name, file := range files {
			modes[name] = file.mode
		}
		if diff := cmp.Diff(map[string]int64{p.program: 0o755, rootsFile: 0o644}, modes); diff != "" {
			t.Errorf("%s: files (-want +got):\n%s", descriptor.Platform, diff)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(files[rootsFile].content) {
			t.Fatalf("%s: no certificates in %s", descriptor.Platform, rootsFile)
		}
		if got := bytes.Count(files[rootsFile].content, []byte("BEGIN CERTIFICATE")); got != want {
			t.Errorf("%s: want %d root certificates, got %d", descriptor.Platform, want, got)
		}
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		first, err := layers[0].Digest()
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && first != shared {
			t.Errorf("%s: has root certificates of its own", descriptor.Platform)
		}
		shared = first
	}
}
