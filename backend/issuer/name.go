// SPDX-License-Identifier: MPL-2.0

package issuer

import (
	"crypto/rand"
	"regexp"
	"strings"
)

const (
	// namePrefix starts the name of every credential, so that people who look at
	// the registry see where it comes from.
	namePrefix = "regcred-"

	// maxSlug caps the part of the role's name in it, in bytes.
	maxSlug = 40

	// MaxName is the length of the longest name, in bytes.
	MaxName = len(namePrefix) + maxSlug + 1 + 26
)

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// NewName returns a unique name for a credential: "regcred-", its purpose in
// lower case, and 26 random letters and digits (128 bits). All registries accept
// it; Harbor's rule is the strictest: [a-z0-9]+(?:[._-][a-z0-9]+)*
func NewName(purpose string) string {
	slug := notInNames.ReplaceAllString(strings.ToLower(purpose), "-")
	slug = strings.Trim(slug[:min(len(slug), maxSlug)], "-")
	if slug != "" {
		slug += "-"
	}
	return namePrefix + slug + strings.ToLower(rand.Text())
}

// checkName refuses a name that is not of the engine's making. Nothing else is ended by
// its name.
func checkName(name string) error {
	if !strings.HasPrefix(name, namePrefix) {
		return Refusedf("%q is not the name of a credential that the engine created, so nothing is ended", name)
	}
	return nil
}
