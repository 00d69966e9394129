// SPDX-License-Identifier: MPL-2.0

package redact

import (
	"net/http"
	"slices"
	"strings"
)

// commonTexts are what servers say to everyone. They tell nothing of a secret that is
// a part of them.
var commonTexts = func() []string {
	// The codes of the OCI distribution specification, and what registries say with
	// them and to a wrong password.
	texts := []string{
		"BLOB_UNKNOWN", "blob unknown to registry",
		"MANIFEST_INVALID", "manifest invalid",
		"MANIFEST_UNKNOWN", "manifest unknown", "manifest unknown to registry",
		"NAME_INVALID", "invalid repository name",
		"NAME_UNKNOWN", "repository name not known to registry",
		"UNAUTHORIZED", "authentication required", "unauthorized: authentication required",
		"DENIED", "requested access to the resource is denied", "access to the requested resource is not authorized",
		"UNSUPPORTED", "The operation is unsupported.",
		"TOOMANYREQUESTS", "too many requests", "rate limit exceeded",
		"UNAVAILABLE", "service unavailable",
		"UNKNOWN", "unknown error", "NOT_FOUND", "not found",
		"access denied", "access forbidden", "permission denied", "not authorized",
		"incorrect username or password", "invalid username or password", "invalid username/password",
		"invalid token", "invalid credentials", "bad credentials", "bad token", "wrong password",
	}
	for status := http.StatusBadRequest; status < 600; status++ {
		if text := http.StatusText(status); text != "" {
			texts = append(texts, text)
		}
	}
	for _, text := range slices.Clone(texts) {
		texts = append(texts, strings.ToLower(text), strings.ToUpper(text[:1])+text[1:])
	}
	return texts
}()
