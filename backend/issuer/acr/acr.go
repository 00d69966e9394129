// SPDX-License-Identifier: MPL-2.0

// Package acr mints credentials of Azure Container Registry, in two ways: tokens with
// the rights of a scope map, which can be ended; or the registry's refresh tokens, with
// the rights of the root credential itself, which end after some hours by themselves.
//
// It has an HTTP client of its own: Microsoft's azidentity and armcontainerregistry
// would add the whole Azure SDK for two forms and five calls.
package acr

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	fieldTenant     = "tenant_id"
	fieldClient     = "client_id"
	fieldSecret     = "client_secret"
	fieldRegistryID = "registry_id"
	fieldScopeMap   = "scope_map"

	// fieldLifetime is how long a refresh token of the registry lives. The registry
	// declares it by the one that a check obtains.
	fieldLifetime = "refresh_token_lifetime"

	// leastLifetime is the shortest life of a refresh token that users have seen, for
	// as long as no check has obtained one.
	leastLifetime = 75 * time.Minute
)

// Type returns the type acr.
func Type() issuer.Type {
	return issuer.Type{
		Name:             "acr",
		Description:      "Mints tokens of Azure Container Registry with the rights of a scope map, or exchanges a Microsoft Entra token for a refresh token of the registry.",
		ConnectionFields: issuer.WithIdentityToken(connectionFields()),
		DeclaredFields: map[string]*framework.FieldSchema{
			fieldLifetime: {Type: framework.TypeString, Description: "Without registry_id: how long a refresh token of the registry lives, by the last check."},
		},
		RoleFields: map[string]*framework.FieldSchema{
			fieldScopeMap: {
				Type:        framework.TypeString,
				Description: "Name of the scope map of the registry whose rights the credential has, such as _repositories_pull. Only if the connection has a registry_id.",
			},
		},
		URLOptional: true,
		Can:         abilities,
		PlaceFields: []string{fieldRegistryID},
		Target:      target,
		New:         open,
	}
}

func connectionFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldTenant: {
			Type:        framework.TypeString,
			Description: "ID of the Microsoft Entra tenant of the application or managed identity.",
		},
		fieldClient: {
			Type:        framework.TypeString,
			Description: "Client ID of the application or managed identity.",
		},
		fieldSecret: {
			Type:         framework.TypeString,
			Description:  "Client secret of the application. Without it and without identity_token_audience, the token file of the pod that Vault runs in is used, which AZURE_FEDERATED_TOKEN_FILE names there.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		fieldRegistryID: {
			Type:        framework.TypeString,
			Description: "Resource ID of the registry. With it, each credential is a token with the rights of a scope map, and can be ended. Without it, credentials have the rights of the application, and end by themselves.",
		},
	}
}

// abilities returns what can be done with what a connection mints: the registry can end
// its tokens, and not its refresh tokens.
func abilities(c issuer.Connection) issuer.Abilities {
	named := c.Settings[fieldRegistryID] != ""
	return issuer.Abilities{Revoke: named, Find: named}
}

var (
	hostPattern     = regexp.MustCompile(`^[a-z0-9]{5,50}(?:-[a-z0-9]+)?\.azurecr\.io$`)
	guidPattern     = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	registryPattern = regexp.MustCompile(`^/subscriptions/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/resourceGroups/[\w.()-]{1,90}/providers/Microsoft\.ContainerRegistry/registries/[a-zA-Z0-9]{5,50}$`)
	scopeMapPattern = regexp.MustCompile(`^[a-zA-Z0-9_-]{5,50}$`)
)

func checkConnection(c issuer.Connection) error {
	id := c.Settings[fieldRegistryID]
	switch {
	case len(c.Registries) != 1:
		return errors.New("registry: must be one registry, because a credential of Azure is good for one; create a connection for each")
	case c.URL == "" && !hostPattern.MatchString(c.Registries[0].Host()):
		return fmt.Errorf("registry: must be the login server of a registry, such as acmeimages.azurecr.io, not %q; for a host name of your own in front of it, also set url", c.Registries[0].Host())
	case !guidPattern.MatchString(c.Settings[fieldTenant]):
		return errors.New("tenant_id: must be the ID of a Microsoft Entra tenant, such as 72f988bf-86f1-41af-91ab-2d7cd011db47, in lower case")
	case !guidPattern.MatchString(c.Settings[fieldClient]):
		return errors.New("client_id: must be the client ID of an application or managed identity, such as 11111111-2222-3333-4444-555555555555, in lower case")
	case c.TakesIdentityToken() && c.Secrets[fieldSecret].Reveal() != "":
		return issuer.TwoRootCredentials(fieldSecret)
	case c.URL != "" && c.TakesIdentityToken():
		return errors.New("url: must be left out with identity_token_audience, because identity tokens are sent to Microsoft alone")
	case c.URL != "" && c.Secrets[fieldSecret].Reveal() == "":
		// Whoever may write connections could have it sent to a server of theirs.
		return errors.New("url: must be left out without client_secret, because the token of Vault's pod is sent to Microsoft alone")
	case id != "" && !registryPattern.MatchString(id):
		return errors.New("registry_id: must be the resource ID of the registry, as from az acr show --query id: /subscriptions/…/resourceGroups/…/providers/Microsoft.ContainerRegistry/registries/…")
	}
	return nil
}

// registry is the issuer of a connection.
type registry struct{ conn issuer.Connection }

func open(c issuer.Connection) (issuer.Issuer, error) {
	if err := checkConnection(c); err != nil {
		return nil, err
	}
	if c.Settings[fieldRegistryID] == "" {
		return &exchange{registry{c}}, nil
	}
	return &tokens{registry{c}}, nil
}

func target(c issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
	if err := checkConnection(c); err != nil {
		return issuer.Target{}, err
	}
	name := fields[fieldScopeMap]
	switch {
	case c.Settings[fieldRegistryID] == "" && name != "":
		return issuer.Target{}, errors.New("scope_map: must be left out, because the connection has no registry_id: its credentials can do everything that the application may do; with registry_id, each has the rights of a scope map")
	case c.Settings[fieldRegistryID] == "":
		return issuer.Target{
			Settings: issuer.Settings{}, Names: []string{"*"}, MaxLifetime: lifetimeOf(c),
			Warnings: []string{"the credential can do everything in the registry that the connection's application may do; set registry_id on the connection to limit it with scope_map"},
		}, nil
	case name == "":
		return issuer.Target{}, errors.New("scope_map: must be the name of a scope map of the registry, such as _repositories_pull, which may pull from every repository")
	case !scopeMapPattern.MatchString(name):
		return issuer.Target{}, errors.New("scope_map: must be 5 to 50 letters, digits, '_' or '-', such as _repositories_pull")
	}
	return issuer.Target{Settings: issuer.Settings{fieldScopeMap: name}, Names: []string{name}}, nil
}

// lifetimeOf returns how long a refresh token of a connection's registry lives.
func lifetimeOf(c issuer.Connection) time.Duration {
	if declared, err := time.ParseDuration(c.Declared[fieldLifetime]); err == nil && declared > 0 {
		return declared
	}
	return leastLifetime
}

// endpoint returns the base URL of a service of Azure, which the connection's url
// replaces.
func (r *registry) endpoint(host string) string {
	if r.conn.URL != "" {
		return r.conn.URL
	}
	return "https://" + host
}

// host returns the login server of the registry.
func (r *registry) host() string { return r.conn.Registries[0].Host() }
