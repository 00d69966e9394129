// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/base64"
	"errors"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
)

// credsFormat is one form in which a pull secret can be read.
type credsFormat struct {
	suffix, operationSuffix    string
	summary, synopsis, details string
	fields                     map[string]*framework.FieldSchema
	data                       func(pullSecret) map[string]any
}

// credsFormats are creds/<role> and the paths below it. Sync tools copy these
// fields into Kubernetes Secrets as they are: so each value is a string or a
// number, and no field has a name to which a tool gives a special meaning.
func (b *backend) credsFormats() []credsFormat {
	dockerconfigjson := &framework.FieldSchema{
		Type: framework.TypeString, Required: true,
		Description:  "The Docker config as JSON, for tools that copy a response's fields into a Secret as they are.",
		DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
	}
	return []credsFormat{
		{
			operationSuffix: "pull-secret",
			summary:         "Read a role's pull secret, in all forms.",
			synopsis:        "Reads a role's pull secret.",
			details:         credsHelp,
			fields: map[string]*framework.FieldSchema{
				"dockerconfigjson": {
					Type: framework.TypeString, Required: true,
					Description:  "Base64 of the Docker config, for the data of a Kubernetes Secret.",
					DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
				},
				".dockerconfigjson": dockerconfigjson,
				"registry":          {Type: framework.TypeString, Description: "Registry as in image names, if the pull secret holds exactly one."},
				"username":          {Type: framework.TypeString, Description: "User name, if the pull secret holds exactly one registry."},
				"password": {
					Type: framework.TypeString, Description: "Password, if the pull secret holds exactly one registry.",
					DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
				},
				"expires_at": {Type: framework.TypeString, Description: "When the credential stops working at the registry, RFC 3339, if known."},

				"last_vault_rotation": rotationFields(false)["last_vault_rotation"],
				"rotation_period":     rotationFields(false)["rotation_period"],
				"ttl":                 rotationFields(false)["ttl"],
				"grace_period":        rotationFields(false)["grace_period"],
			},
			data: b.allForms,
		},
		{
			suffix:          "/kubernetes",
			operationSuffix: "kubernetes-pull-secret",
			summary:         "Read a role's pull secret as the single field of a Kubernetes Secret.",
			synopsis:        "Reads a role's pull secret with the field .dockerconfigjson only.",
			details:         "For tools that copy every field of a response into a Secret: that Secret holds .dockerconfigjson and nothing else.",
			fields:          map[string]*framework.FieldSchema{".dockerconfigjson": dockerconfigjson},
			data: func(s pullSecret) map[string]any {
				return map[string]any{".dockerconfigjson": s.Docker.RevealJSON()}
			},
		},
		{
			suffix:          "/docker",
			operationSuffix: "docker-config",
			summary:         "Read a role's pull secret as Docker's config.json.",
			synopsis:        "Reads a role's pull secret as the file config.json of Docker, podman and CI.",
			details:         "The Docker config with only the field auth, as \"docker login\" writes it: for ~/.docker/config.json, podman's auth.json, and DOCKER_AUTH_CONFIG in GitLab CI.",
			fields: map[string]*framework.FieldSchema{"config.json": {
				Type: framework.TypeString, Required: true,
				Description:  "The Docker config as JSON, with only the field auth.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			}},
			data: func(s pullSecret) map[string]any {
				return map[string]any{"config.json": string(s.Docker.AuthJSON())}
			},
		},
	}
}

// answer returns the fields of a pull secret. A pull secret without a
// credential, or with one that cannot pull, is an error, whatever has led to it:
// a sync tool would overwrite a good Secret with it.
func (f credsFormat) answer(s pullSecret) (map[string]any, error) {
	switch {
	case s.Docker.CheckComplete() != nil:
		return nil, errors.New("the pull secret lacks a user name or password, which is a fault of this plugin")
	case s.Docker.Len() == 0:
		return nil, errors.New("the pull secret has no credential, which is a fault of this plugin")
	}
	return f.data(s), nil
}

func (b *backend) allForms(s pullSecret) map[string]any {
	docker := s.Docker.RevealJSON()
	data := map[string]any{
		"dockerconfigjson":  base64.StdEncoding.EncodeToString([]byte(docker)),
		".dockerconfigjson": docker,
	}
	if s.Docker.Len() == 1 {
		for c := range s.Docker.All() {
			data["registry"] = c.Registry.ImageName()
			data["username"] = c.Username
			data["password"] = c.Password.Reveal()
		}
	}
	if !s.ExpiresAt.IsZero() {
		data["expires_at"] = formatTime(s.ExpiresAt)
	}
	if s.Rotation != nil {
		maps.Copy(data, s.Rotation.fields(b.now()))
	}
	return data
}

const credsHelp = `
Answers with a finished pull secret:

    dockerconfigjson    base64 of the Docker config, for the data of a Secret
                        of type kubernetes.io/dockerconfigjson
    .dockerconfigjson   the same bytes, not encoded
    registry, username, password
                        only if the pull secret holds exactly one registry
    expires_at          if known
    last_vault_rotation, rotation_period, ttl
                        only if the engine replaces the credential: the last
                        time, the interval and the time left, in seconds
    grace_period        with them: for how many seconds a replaced credential
                        goes on working

creds/<role>/kubernetes returns only .dockerconfigjson, and creds/<role>/docker
only config.json. The same role returns the same bytes until its credential
changes.

A read has no lease, except for a leased role: there each read mints a
credential on a lease.
`
