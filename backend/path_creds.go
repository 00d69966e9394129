// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

const credsPrefix = "creds/"

// purpose is what a pull secret is wanted for.
type purpose int

const (
	toDescribe purpose = iota // registries and times; nothing is minted for it
	toServe                   // with credentials that work
)

// pullSecret is what a role answers with.
type pullSecret struct {
	Docker    dockerconfig.Config
	ExpiresAt time.Time // the earliest of its credentials, zero where not known
	Rotation  *rotation // nil where the engine replaces none of them
	Warnings  []string

	sources  []source // the roles that it is made of
	settings config   // of the mount, by which it is allowed
}

// pullSecret returns what reading the role gives. An error that is the
// caller's says why it is refused.
func (b *backend) pullSecret(ctx context.Context, storage logical.Storage, name string, r *role, why purpose) (pullSecret, error) {
	var secret pullSecret
	var err error
	if secret.settings, err = b.config(ctx, storage); err != nil {
		return pullSecret{}, err
	}
	if secret.sources, err = b.sources(ctx, storage, name, r); err != nil {
		return pullSecret{}, err
	}
	for i := range secret.sources {
		if err := b.load(ctx, storage, &secret.sources[i], why); err != nil {
			return pullSecret{}, err
		}
	}
	if secret.Docker, err = join(secret.sources); err != nil {
		return pullSecret{}, err
	}
	if err := secret.settings.checkAllowed(secret.Docker); err != nil {
		return pullSecret{}, err
	}
	for _, s := range secret.sources {
		if secret.ExpiresAt.IsZero() || !s.expiresAt.IsZero() && s.expiresAt.Before(secret.ExpiresAt) {
			secret.ExpiresAt = s.expiresAt
		}
		secret.Rotation = joinRotations(secret.Rotation, s.rotation)
		secret.Warnings = append(secret.Warnings, b.sourceWarnings(s, secret.settings)...)
	}
	return secret, nil
}

// load finds the credentials of a source, and when they change.
func (b *backend) load(ctx context.Context, storage logical.Storage, s *source, why purpose) (err error) {
	if s.Static != nil {
		s.docker, s.expiresAt = s.Static.Docker, s.Static.ExpiresAt
		return nil
	}
	if s.isShared() {
		if why == toServe {
			s.shared, err = b.sharedToServe(ctx, storage, s.name, s.role)
		} else {
			s.shared, err = b.shared(ctx, storage, s.name)
		}
		if err != nil {
			return err
		}
		s.rotation = s.shared.rotation(s.Dynamic, b.now())
	}
	if c := s.shared.Current; c != nil && s.shared.isFor(s.Dynamic) {
		s.docker, s.expiresAt = c.Docker, c.ExpiresAt
		return nil
	}
	c, err := b.connection(ctx, storage, s.Dynamic.Connection)
	if err != nil {
		return err
	}
	if c == nil {
		return refusef("connection %q does not exist", s.Dynamic.Connection)
	}
	s.docker, err = placeholders(c)
	return err
}

// sourceWarnings are what somebody who reads should know of a credential.
func (b *backend) sourceWarnings(s source, settings config) []string {
	if s.Static != nil {
		return expiryWarnings(s.name, s.expiresAt, b.now(), settings.ExpiryWarning)
	}
	if s.shared.Failures > 0 && s.shared.isFor(s.Dynamic) && !s.shared.rotateAt(s.Dynamic).After(b.now()) {
		return []string{fmt.Sprintf("the credential of role %q is overdue for rotation since %s, and works until %s; roles/%s says why", s.name, formatTime(s.shared.rotateAt(s.Dynamic)), untilWhen(s.expiresAt), s.name)}
	}
	return nil
}

func untilWhen(at time.Time) string {
	if at.IsZero() {
		return "it is replaced"
	}
	return formatTime(at)
}

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

// pathCreds has no list: a tool that finds all secrets below a path must not
// copy every credential.
func (b *backend) pathCreds() []*framework.Path {
	var paths []*framework.Path
	for _, format := range b.credsFormats() {
		paths = append(paths, &framework.Path{
			Pattern: credsPrefix + nameRegex + format.suffix,
			Fields: map[string]*framework.FieldSchema{
				roleField: roleNameField(),
				"version": {
					Type: framework.TypeStringSlice, Query: true, // takes whatever stands there
					Description: "Accepted and ignored, for clients that ask every engine for a version.",
				},
			},
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: format.operationSuffix},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback:  b.readCreds(format),
					Summary:   format.summary,
					Responses: okResponse("The pull secret.", format.fields),
				},
			},
			HelpSynopsis:    format.synopsis,
			HelpDescription: strings.TrimSpace(format.details),
		})
	}
	return paths
}

func (b *backend) readCreds(format credsFormat) framework.OperationFunc {
	return func(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
		name, err := roleName(data)
		if err != nil {
			return answer(err)
		}
		r, err := b.role(ctx, req.Storage, name)
		if err != nil || r == nil {
			return nil, err
		}
		if r.isLeased() {
			return b.readLeased(ctx, req, name, r, format)
		}
		secret, err := b.pullSecret(ctx, req.Storage, name, r, toServe)
		if err != nil {
			return answer(err)
		}
		return withWarnings(&logical.Response{Data: format.data(secret)}, secret.Warnings), nil
	}
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
