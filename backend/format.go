// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"encoding/base64"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
)

// credsFormat is one way in which a pull secret is read.
type credsFormat struct {
	suffix, operationSuffix    string
	summary, synopsis, details string
	fields                     map[string]*framework.FieldSchema
	data                       func(pullSecret) map[string]any
}

// credsFormats are creds/<role> and what lies below it. Values are strings or
// numbers, and no name is one that a tool gives a meaning of its own: sync
// tools copy these fields into Kubernetes Secrets as they are.
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
					Description:  "Base64 of the Docker config, for data: of a Kubernetes Secret.",
					DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
				},
				".dockerconfigjson": dockerconfigjson,
				"registry":          {Type: framework.TypeString, Description: "Registry as in image names, where the pull secret holds one."},
				"username":          {Type: framework.TypeString, Description: "User name, where the pull secret holds one registry."},
				"password": {
					Type: framework.TypeString, Description: "Password, where the pull secret holds one registry.",
					DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
				},
				"expires_at": {Type: framework.TypeString, Description: "When the credential stops working at the registry, RFC 3339, where known."},

				"last_vault_rotation": rotationFields(false)["last_vault_rotation"],
				"rotation_period":     rotationFields(false)["rotation_period"],
				"ttl":                 rotationFields(false)["ttl"],
			},
			data: b.allForms,
		},
		{
			suffix:          "/kubernetes",
			operationSuffix: "kubernetes-pull-secret",
			summary:         "Read a role's pull secret as the one field that a Kubernetes Secret has.",
			synopsis:        "Reads a role's pull secret with the field .dockerconfigjson only.",
			details:         "For tools that copy every field of a response: the Secret they make holds .dockerconfigjson and nothing else.",
			fields:          map[string]*framework.FieldSchema{".dockerconfigjson": dockerconfigjson},
			data: func(s pullSecret) map[string]any {
				return map[string]any{".dockerconfigjson": string(s.Docker.JSON())}
			},
		},
		{
			suffix:          "/docker",
			operationSuffix: "docker-config",
			summary:         "Read a role's pull secret as Docker's config.json.",
			synopsis:        "Reads a role's pull secret as the file config.json of Docker, podman and CI.",
			details:         "The Docker config with the field auth only, as \"docker login\" writes it: for ~/.docker/config.json, for podman's auth.json, and for DOCKER_AUTH_CONFIG in GitLab CI.",
			fields: map[string]*framework.FieldSchema{"config.json": {
				Type: framework.TypeString, Required: true,
				Description:  "The Docker config as JSON, with the field auth only.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			}},
			data: func(s pullSecret) map[string]any {
				return map[string]any{"config.json": string(s.Docker.AuthJSON())}
			},
		},
	}
}

func (b *backend) allForms(s pullSecret) map[string]any {
	docker := s.Docker.JSON()
	data := map[string]any{
		"dockerconfigjson":  base64.StdEncoding.EncodeToString(docker),
		".dockerconfigjson": string(docker),
	}
	if credentials := s.Docker.Credentials(); len(credentials) == 1 {
		data["registry"] = credentials[0].Registry.ImageName()
		data["username"] = credentials[0].Username
		data["password"] = credentials[0].Password.Reveal()
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

    dockerconfigjson    base64 of the Docker config, for data: of a Secret of
                        type kubernetes.io/dockerconfigjson
    .dockerconfigjson   the same bytes, not encoded
    registry, username, password
                        where the pull secret holds one registry
    expires_at          where it is known

creds/<role>/kubernetes has only .dockerconfigjson, creds/<role>/docker only
config.json. The same role gives the same bytes until its credential changes.

    last_vault_rotation, rotation_period, ttl
                        where the engine replaces the credential: when it last
                        did, how often it does, and in how many seconds next

There is no lease, but with a leased role: there each read mints a credential,
which ends with the lease.
`
