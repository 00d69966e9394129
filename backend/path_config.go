// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

func (b *backend) pathConfig() []*framework.Path {
	fields := map[string]*framework.FieldSchema{
		"allowed_registries": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Registries that roles may name: hosts, each with its port or path if it has one; '*' in a host matches any characters. Empty: any registry.",
		},
		"expiry_warning": {
			Type:        framework.TypeDurationSecond,
			Default:     defaultExpiryWarning.String(), // OpenAPI has durations as text
			Description: "How long before a role's expires_at its reads begin to warn.",
		},
		"ca_pem": {
			Type:        framework.TypeString,
			Description: "CA certificates in PEM form. Verification of pull secrets trusts them in addition to the system's.",
		},
		"verify_period": {
			Type:        framework.TypeDurationSecond,
			Default:     "0s",
			Description: "How often the engine proves by itself that the credentials of a role can pull, unless the role has a verify_period of its own; at least 1m, and 0 for not at all.",
		},
	}
	done := writeResponses("The settings are stored.")
	return []*framework.Path{{
		Pattern:        "config",
		Fields:         fields,
		ExistenceCheck: b.configExists,
		DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:     b.readConfig,
				Summary:      "Read the settings of the mount.",
				DisplayAttrs: &framework.DisplayAttributes{OperationSuffix: "configuration"},
				Responses:    okResponse("The current settings, defaults included.", fields),
			},
			logical.CreateOperation: forwarded(framework.PathOperation{
				Callback:     b.writeConfig,
				Summary:      "Change the named settings of the mount.",
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "configure"},
				Responses:    done,
			}),
			logical.UpdateOperation: forwarded(framework.PathOperation{
				Callback:     b.writeConfig,
				Summary:      "Change the named settings of the mount.",
				DisplayAttrs: &framework.DisplayAttributes{OperationVerb: "configure"},
				Responses:    done,
			}),
			logical.DeleteOperation: forwarded(framework.PathOperation{
				Callback:     b.deleteConfig,
				Summary:      "Return to the default settings.",
				DisplayAttrs: &framework.DisplayAttributes{OperationSuffix: "configuration"},
				Responses:    noContent("The mount has the default settings."),
			}),
		},
		HelpSynopsis:    "Settings of the mount.",
		HelpDescription: strings.TrimSpace(configHelp),
	}}
}

func (b *backend) configExists(ctx context.Context, req *logical.Request, _ *framework.FieldData) (bool, error) {
	entry, err := req.Storage.Get(ctx, configStorageKey)
	return entry != nil, err
}

func (b *backend) readConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := b.config(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	registries := make([]string, len(c.AllowedRegistries))
	for i, key := range c.AllowedRegistries {
		registries[i] = key.ImageName()
	}
	data := map[string]any{
		"allowed_registries": registries,
		"expiry_warning":     c.ExpiryWarning.count(),
		"verify_period":      c.VerifyPeriod.count(),
	}
	if c.CAPEM != "" {
		data["ca_pem"] = c.CAPEM
	}
	return &logical.Response{Data: data}, nil
}

func (b *backend) writeConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	b.configLock.Lock()
	defer b.configLock.Unlock()

	c, err := b.config(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	in := input{data}
	var warnings []string
	if in.has("allowed_registries") {
		c.AllowedRegistries, warnings, err = parseAllowedRegistries(data.Get("allowed_registries").([]string))
		if err != nil {
			return answer(err)
		}
	}
	if in.has("expiry_warning") {
		c.ExpiryWarning.Duration = time.Duration(data.Get("expiry_warning").(int)) * time.Second
	}
	if in.has("ca_pem") {
		c.CAPEM = in.text("ca_pem")
		if _, err := parseCAs(c.CAPEM); err != nil {
			return answer(err)
		}
	}
	former := c.VerifyPeriod
	if in.has("verify_period") {
		period, err := in.verifyPeriod()
		if err != nil {
			return answer(err)
		}
		if c.VerifyPeriod = (seconds{}); period != nil {
			c.VerifyPeriod = *period
		}
	}
	c.SchemaVersion = schemaVersion
	err = b.withConfigAttention(ctx, req.Storage, c, func() error { return putEntry(ctx, req.Storage, configStorageKey, c) })
	if err != nil {
		return nil, err
	}
	b.followConfig(c.VerifyPeriod != former, in.has("ca_pem"))
	b.sendEvent(ctx, req, "config-write", "config")
	return withWarnings(nil, warnings), nil
}

func (b *backend) deleteConfig(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	b.configLock.Lock()
	defer b.configLock.Unlock()

	err := b.withConfigAttention(ctx, req.Storage, defaultSettings(), func() error { return req.Storage.Delete(ctx, configStorageKey) })
	if err != nil {
		return nil, fmt.Errorf("deleting the config: %w", err)
	}
	b.followConfig(true, true)
	b.sendEvent(ctx, req, "config-delete", "config")
	return nil, nil
}

func parseAllowedRegistries(patterns []string) (keys []dockerconfig.Key, warnings []string, err error) {
	const field = "allowed_registries"
	for i, pattern := range patterns {
		key, _, err := dockerconfig.ParseKey(pattern)
		if err != nil {
			return nil, nil, refusef("%s: entry %d %w", field, i+1, err)
		}
		if stored := key.ImageName(); stored != pattern {
			warnings = append(warnings, fmt.Sprintf("%s: stored as %q", field, stored))
		}
		keys = append(keys, key)
	}
	return keys, warnings, nil
}

const configHelp = `
allowed_registries limits which registries the roles of this mount may name.
The engine checks it at every write and every read of a role, so a change takes
effect at once: a role that names another registry stays stored, and reads of
its pull secret are refused. Write patterns as you write registries:
registry.gitlab.com, registry.example.com:5000, *.example.com, docker.io,
ghcr.io/team. A pattern without a port, '*' alone too, allows no registry with a
port. A pattern without a path allows every path of its host.

expiry_warning is a duration. The default is 336h.

verify_period has the engine verify the pull secrets of this mount by itself, each
role once in that time. What it finds stands in the read-back of the role, and a
refused credential in a warning of its creds/. A role may have a verify_period of
its own.

ca_pem is for registries with certificates of a private CA. The engine uses it
when it verifies that a credential can pull. A connection has a ca_pem of its own
for calls to its API.
`
