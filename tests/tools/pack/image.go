// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// rootsFile is the first place where Go on Linux looks for root certificates.
const rootsFile = "etc/ssl/certs/ca-certificates.crt"

// nobody is a user that owns nothing. Images without a shell use this number.
const nobody = "65532:65532"

// image is an image with one program. Vault runs a plugin from it in a container,
// and OpenBao extracts one from it. Both need the program in the root folder:
// OpenBao under the name in its option binary_name, Vault as the entrypoint.
//
// The image has nothing but the program and root certificates, without which it
// could not talk to a registry. The certificates are Mozilla's, from a module
// of the Go project, so that go.sum pins them. They are in a layer of their
// own, which is the same blob for all platforms, and the program keeps the
// bytes that it has in the archives.
type image struct {
	version string
	program string
	created time.Time
}

// write writes an OCI image layout for the given PLATFORM=PATH pairs, as a
// folder and as a tar file of that folder.
func (i image) write(folder, archive string, programs []string) error {
	index, err := i.index(programs)
	if err != nil {
		return err
	}
	images, err := layout.Write(folder, empty.Index)
	if err != nil {
		return err
	}
	// "skopeo copy oci-archive:FILE:NAME" and "podman load" find it by this
	// name.
	if err := images.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": i.version,
	})); err != nil {
		return err
	}
	files, err := filesBelow(folder)
	if err != nil {
		return err
	}
	return create(archive, func(w io.Writer) error { return writeTar(w, files, i.created) })
}

func (i image) index(programs []string) (v1.ImageIndex, error) {
	roots, err := i.roots()
	if err != nil {
		return nil, err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, program := range programs {
		name, path, found := strings.Cut(program, "=")
		if !found {
			return nil, fmt.Errorf("%q is not PLATFORM=PATH", program)
		}
		platform, err := v1.ParsePlatform(name)
		if err != nil {
			return nil, err
		}
		img, err := i.forPlatform(platform, path, roots)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: platform}})
	}
	return mutate.Annotations(index, i.labels()).(v1.ImageIndex), nil
}

func (i image) labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.created":  i.created.Format(time.RFC3339),
		"org.opencontainers.image.licenses": "MPL-2.0",
		"org.opencontainers.image.title":    i.program,
		"org.opencontainers.image.version":  i.version,
	}
}

func (i image) forPlatform(platform *v1.Platform, path string, roots mutate.Addendum) (v1.Image, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	program, err := i.layer("the program", []file{{i.program, 0o755, data}})
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, roots, program)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = platform.OS, platform.Architecture, platform.Variant
	config.Created = v1.Time{Time: i.created}
	config.Config = v1.Config{User: nobody, Entrypoint: []string{"/" + i.program}, Labels: i.labels()}
	return mutate.ConfigFile(img, config)
}

// roots returns the layer of root certificates. A few of them are valid only
// for certificates issued before some day; a file cannot say that, so they are
// left out.
func (i image) roots() (mutate.Addendum, error) {
	var certificates bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&certificates, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return mutate.Addendum{}, err
		}
	}
	return i.layer("root certificates", []file{
		{"etc", fs.ModeDir | 0o755, nil},
		{"etc/ssl", fs.ModeDir | 0o755, nil},
		{"etc/ssl/certs", fs.ModeDir | 0o755, nil},
		{rootsFile, 0o644, certificates.Bytes()},
	})
}

func (i image) layer(what string, files []file) (mutate.Addendum, error) {
	var content bytes.Buffer
	if err := writeTar(&content, files, i.created); err != nil {
		return mutate.Addendum{}, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	return mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: i.created}, CreatedBy: "pack image", Comment: what},
	}, err
}

// filesBelow reads all files in a folder, in the order of their names.
func filesBelow(folder string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if entry.IsDir() {
			files = append(files, file{name, fs.ModeDir | 0o755, nil})
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files = append(files, file{name, 0o644, data})
		return nil
	})
	return files, err
}
