// SPDX-License-Identifier: MPL-2.0

package kubelet

import (
	"path"
	"strings"

	"github.com/distribution/reference"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// covers reports whether the kubelet takes the credential under a key for an
// image.
func covers(key dockerconfig.Key, image string) bool {
	return matchesURL(key.Host(), key.Path(), image)
}

// hubHost is how the kubelet calls the host of Docker Hub's images.
const hubHost = "docker.io"

// isHub reports whether a host is one of Docker Hub's names.
func isHub(host string) bool {
	key, _, err := dockerconfig.ParseKey(host)
	return err == nil && key.Host() == hubHost
}

// matchesURL reports whether the kubelet finds an image below a host and a path:
// the host has the same port and the same number of labels, each of which may be a
// glob, and the path is a prefix of the image's.
func matchesURL(wanted, prefix, image string) bool {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false
	}
	wantHost, wantPort, _ := strings.Cut(wanted, ":")
	host, port, _ := strings.Cut(reference.Domain(named), ":")
	want, labels := strings.Split(wantHost, "."), strings.Split(host, ".")
	if wantPort != port || len(want) != len(labels) {
		return false
	}
	for i, label := range labels {
		if matched, err := path.Match(want[i], label); err != nil || !matched {
			return false
		}
	}
	return strings.HasPrefix(reference.Path(named), prefix)
}
