// SPDX-License-Identifier: MPL-2.0

package issuer

import (
	"crypto/rand"
	"regexp"
	"strings"
)

const (
	// namePrefix starts the names of all credentials, so that whoever looks at
	// the registry sees where they come from.
	namePrefix = "regcred-"

	// maxSlug is how many bytes of a role's name are in them.
	maxSlug = 40
)

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// NewName returns a name under which a credential can be found: regcred-, what
// it is for in lower case, and 26 random letters and digits (128 bits). It is
// one that all registries take, Harbor being the strictest:
// [a-z0-9]+(?:[._-][a-z0-9]+)*
func NewName(purpose string) string {
	slug := notInNames.ReplaceAllString(strings.ToLower(purpose), "-")
	slug = strings.Trim(slug[:min(len(slug), maxSlug)], "-")
	if slug != "" {
		slug += "-"
	}
	return namePrefix + slug + strings.ToLower(rand.Text())
}
