// SPDX-License-Identifier: MPL-2.0

package kubelet

import (
	"path"
	"strings"

	"github.com/distribution/reference"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// covers reports whether the kubelet takes the credential under a key for an
// image: the host has the same port and the same number of labels, each of which
// may be a glob, and the path is a prefix of the image's.
func covers(key dockerconfig.Key, image string) bool {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false
	}
	wantHost, wantPort, _ := strings.Cut(key.Host(), ":")
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
	return strings.HasPrefix(reference.Path(named), key.Path())
}
