// SPDX-License-Identifier: MPL-2.0

package kubelet

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/ryanuber/go-glob"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// account is the service account that a token is for.
type account struct{ namespace, name string }

func (a account) String() string { return a.namespace + "/" + a.name }

// claims are what a token says of itself.
type claims struct {
	Subject  string `json:"sub"`
	Audience any    `json:"aud"` // a text, or a list of them
}

// claimsOf reads a token. It proves nothing: the kubelet has asked for the token,
// and Vault checks it.
func claimsOf(token string) (c claims) {
	if parts := strings.Split(token, "."); len(parts) == 3 {
		if payload, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(payload, &c) // what is no token says nothing
		}
	}
	return c
}

// accountOf reads the service account from a token. See [claimsOf].
func accountOf(token string) (account, error) {
	rest, found := strings.CutPrefix(claimsOf(token).Subject, "system:serviceaccount:")
	namespace, name, both := strings.Cut(rest, ":")
	if found && both && namespace != "" && name != "" {
		return account{namespace, name}, nil
	}
	return account{}, &client.Failure{What: "the token that the kubelet passed is not that of a service account"}
}

// audiencesOf reads from a token for whom it is. See [claimsOf].
func audiencesOf(token string) []string {
	var audiences []string
	switch all := claimsOf(token).Audience.(type) {
	case string:
		audiences = append(audiences, all)
	case []any:
		for _, one := range all {
			if text, is := one.(string); is {
				audiences = append(audiences, text)
			}
		}
	}
	return audiences
}

// choice is a role, and what it was chosen by.
type choice struct{ role, by string }

// choose returns the role of a pod; none means that this pod needs nothing from
// here. An annotation only chooses among the roles: which of them a pod may read,
// Vault's policy decides.
func (c *config) choose(a account, annotations map[string]string, image string) choice {
	if key := c.Role.Annotation; key != "" && annotations[key] != "" {
		return choice{annotations[key], "annotation " + key}
	}
	for _, r := range c.Role.Rules {
		if matches(r.Namespace, a.namespace) && matches(r.ServiceAccount, a.name) && matchesAny(r.Images, image) {
			return choice{r.Role, "rules"}
		}
	}
	if c.Role.Template == "" {
		return choice{}
	}
	return choice{strings.NewReplacer(namespaceField, a.namespace, accountField, a.name).Replace(c.Role.Template), "template " + c.Role.Template}
}

func matches(pattern, text string) bool { return pattern == "" || glob.Glob(pattern, text) }

func matchesAny(patterns []string, text string) bool {
	for _, pattern := range patterns {
		if matches(pattern, text) {
			return true
		}
	}
	return len(patterns) == 0
}

// dependsOnImage reports whether two images of one pod may need different roles.
func (c *config) dependsOnImage() bool {
	for _, r := range c.Role.Rules {
		if len(r.Images) > 0 {
			return true
		}
	}
	return false
}
