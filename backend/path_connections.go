// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/registry"
)

const connectionStoragePrefix = "connections/"

// connection is a registry whose API mints credentials, and the administrative
// credential for it.
type connection struct {
	Name string
	Type issuer.Type

	URL        string
	Registries []dockerconfig.Key
	Settings   issuer.Settings
	Secrets    issuer.Secrets
	CAPEM      string

	// AllowedRoles are names and globs of the roles that may use it; empty: none.
	AllowedRoles []string

	// AllowedTargets are globs of what these may mint for; empty: anything.
	AllowedTargets []string

	UpdatedAt time.Time
	Root      rootRotation
}

// storedConnection is a connection as it stands in storage.
type storedConnection struct {
	unprintable
	SchemaVersion  int                 `json:"schema_version"`
	Type           string              `json:"type"`
	UpdatedAt      time.Time           `json:"updated_at"`
	URL            string              `json:"url,omitempty"`
	Registries     []dockerconfig.Key  `json:"registries"`
	Settings       issuer.Settings     `json:"settings,omitempty"`
	Secrets        *map[string]string  `json:"secrets,omitempty"` // a pointer for the reason that storedRole.Docker is one
	CAPEM          string              `json:"ca_pem,omitempty"`
	AllowedRoles   []string            `json:"allowed_roles,omitempty"`
	AllowedTargets []string            `json:"allowed_targets,omitempty"`
	Root           *storedRootRotation `json:"root,omitempty"`
}

// connection returns nil where there is none of that name.
func (b *backend) connection(ctx context.Context, storage logical.Storage, name string) (*connection, error) {
	var stored storedConnection
	found, err := getEntry(ctx, storage, connectionStoragePrefix+name, &stored, &stored.SchemaVersion)
	if err != nil || !found {
		return nil, err
	}
	t, known := issuerType(stored.Type)
	if !known {
		return nil, unreadablef("connection %q: this plugin does not know its type %q", name, stored.Type)
	}
	if len(stored.Registries) == 0 {
		return nil, unreadablef("connection %q: the stored entry names no registry", name)
	}
	return &connection{
		Name:           name,
		Type:           t,
		URL:            stored.URL,
		Registries:     stored.Registries,
		Settings:       stored.Settings,
		Secrets:        hidden(stored.Secrets),
		CAPEM:          stored.CAPEM,
		AllowedRoles:   stored.AllowedRoles,
		AllowedTargets: stored.AllowedTargets,
		UpdatedAt:      stored.UpdatedAt,
		Root:           stored.Root.rotation(),
	}, nil
}

func (b *backend) putConnection(ctx context.Context, storage logical.Storage, c *connection) error {
	return putEntry(ctx, storage, connectionStoragePrefix+c.Name, storedConnection{
		SchemaVersion:  schemaVersion,
		Type:           c.Type.Name,
		UpdatedAt:      c.UpdatedAt,
		URL:            c.URL,
		Registries:     c.Registries,
		Settings:       c.Settings,
		Secrets:        revealed(c.Secrets),
		CAPEM:          c.CAPEM,
		AllowedRoles:   c.AllowedRoles,
		AllowedTargets: c.AllowedTargets,
		Root:           c.Root.stored(),
	})
}

// hidden and revealed turn stored secrets into what cannot be printed, and back.
func hidden(stored *map[string]string) issuer.Secrets {
	secrets := issuer.Secrets{}
	if stored != nil {
		for field, text := range *stored {
			secrets[field] = dockerconfig.NewSecret(text)
		}
	}
	return secrets
}

func revealed(secrets issuer.Secrets) *map[string]string {
	if len(secrets) == 0 {
		return nil
	}
	texts := map[string]string{}
	for field, secret := range secrets {
		texts[field] = secret.Reveal()
	}
	return &texts
}

// toOpen returns what an issuer is opened with.
func (b *backend) toOpen(c *connection) (issuer.Connection, error) {
	cas, err := parseCAs(c.CAPEM)
	if err != nil {
		return issuer.Connection{}, err
	}
	return issuer.Connection{
		URL:        c.URL,
		Registries: c.Registries,
		Settings:   c.Settings,
		Secrets:    c.Secrets,
		HTTP:       b.newHTTP(cas),
		Now:        b.now,
	}, nil
}

// open opens a connection with the administrative credential that it holds, or
// with another.
func (b *backend) open(c *connection, root issuer.Root) (*issuer.Client, error) {
	toOpen, err := b.toOpen(c)
	if err != nil {
		return nil, err
	}
	client, err := issuer.Open(c.Type, toOpen.With(root))
	if err != nil {
		return nil, refuse(err)
	}
	return client, nil
}

// readBack returns all of a connection but its secrets.
func (c *connection) readBack() map[string]any {
	data := map[string]any{
		"type":       c.Type.Name,
		"registry":   c.registryText(),
		"updated_at": formatTime(c.UpdatedAt),
	}
	if c.URL != "" {
		data["url"] = c.URL
	}
	if c.CAPEM != "" {
		data["ca_pem"] = c.CAPEM
	}
	data["allowed_roles"], data["allowed_targets"] = listed(c.AllowedRoles), listed(c.AllowedTargets)
	maps.Copy(data, readBackSettings(c.Type.ConnectionFields, c.Settings))
	maps.Copy(data, c.Root.readBack())
	return data
}

// listed returns an empty list in place of none: it means something.
func listed(list []string) []string { return append([]string{}, list...) }

// registryText is the field registry: what is written can be read and written
// again.
func (c *connection) registryText() string {
	names := make([]string, len(c.Registries))
	for i, key := range c.Registries {
		names[i] = key.ImageName()
	}
	return strings.Join(names, ",")
}

// allowsRole reports whether a role of that name may use the connection.
func (c *connection) allowsRole(role string) bool {
	return matchesAny(c.AllowedRoles, role)
}

// allowsTarget reports whether all names of a target are covered.
func (c *connection) allowsTarget(target issuer.Target) bool {
	return len(c.AllowedTargets) == 0 || !slices.ContainsFunc(target.Names, func(name string) bool {
		return !matchesAny(c.AllowedTargets, name)
	})
}

// connectionFor returns the connection for a role, if the role may use it. The
// error is the same where there is none of that name, or writers of roles could
// ask which connections there are.
func (b *backend) connectionFor(ctx context.Context, storage logical.Storage, name, role string) (*connection, error) {
	c, err := b.connection(ctx, storage, name)
	if err != nil {
		return nil, err
	}
	return c, c.checkRole(name, role)
}

// checkRole refuses a role that may not use the connection of that name, which
// is nil where there is none.
func (c *connection) checkRole(name, role string) error {
	if c == nil || !c.allowsRole(role) {
		return refusef("connection: role %q cannot use connection %q: there is no such connection, or its allowed_roles does not name the role", role, name)
	}
	return nil
}

// target returns what a role of the connection mints for, if that is allowed.
func (b *backend) target(c *connection, settings issuer.Settings) (issuer.Target, error) {
	toOpen, err := b.toOpen(c)
	if err != nil {
		return issuer.Target{}, err
	}
	target, err := c.Type.Target(toOpen, settings)
	if err != nil {
		return issuer.Target{}, refuse(err)
	}
	if !c.allowsTarget(target) {
		return issuer.Target{}, refusef("connection: the allowed_targets of connection %q do not cover all of: %s", c.Name, strings.Join(target.Names, ", "))
	}
	return target, nil
}

// lockConnection orders the writes to a connection, and waits for one that is
// asking the registry.
func (b *backend) lockConnection(name string) (unlock func()) {
	lock := locksutil.LockForKey(b.connectionLocks, name)
	lock.Lock()
	return lock.Unlock
}

func connectionNameSchema() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:         framework.TypeString,
		Description:  "Name of the connection: letters, digits and '_', with '.' or '-' inside. Case counts.",
		Required:     true,
		DisplayAttrs: &framework.DisplayAttributes{Identifier: true},
	}
}

// commonConnectionFields are those of every type.
func commonConnectionFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"type": {
			Type:          framework.TypeString,
			Description:   "What the registry is: " + strings.Join(issuerTypeNames(), ", ") + ". It cannot be changed.",
			AllowedValues: asAny(issuerTypeNames()),
		},
		"url": {
			Type:        framework.TypeString,
			Description: "URL of the API, such as https://gitlab.example.com; plain http only to this machine.",
		},
		"registry": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Registry that the credentials are for, as in image names, such as registry.example.com; several where one credential is good for several.",
		},
		"ca_pem": {
			Type:        framework.TypeString,
			Description: "CA certificates in PEM form that are trusted beside the system's when the API is called.",
		},
		"allowed_roles": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Names of the roles that may use this connection; '*' stands for any characters. Empty: none may.",
		},
		"allowed_targets": {
			Type:        framework.TypeCommaStringSlice,
			Description: "What these roles may mint for: projects, groups, users or repositories; '*' stands for any characters. Empty: anything that the administrative credential can reach.",
		},
		"verify_connection": {
			Type: framework.TypeBool, Default: true,
			Description: "Store the connection only if the registry accepts the administrative credential.",
		},
	}
}

func asAny(names []string) []any {
	values := make([]any, len(names))
	for i, name := range names {
		values[i] = name
	}
	return values
}

func (b *backend) pathConnections() []*framework.Path {
	fields := commonConnectionFields()
	maps.Copy(fields, fieldsOfTypes(connectionFieldsOf))
	fields[connectionNameField] = connectionNameSchema()
	fields["force"] = &framework.FieldSchema{
		Type: framework.TypeBool, Query: true,
		Description: "On delete: give up what the connection has minted and cannot revoke any more.",
	}
	write := func(summary string) framework.OperationHandler {
		return forwarded(framework.PathOperation{Callback: b.writeConnection, Summary: summary, Responses: stored("The connection is stored.")})
	}
	return []*framework.Path{
		{
			Pattern:      "connections/?$",
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "connections", Navigation: true, ItemType: "Connection"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: &framework.PathOperation{
					Callback: listNames(connectionStoragePrefix),
					Summary:  "List the names of the connections.",
					Responses: okResponse("The names of the connections.", map[string]*framework.FieldSchema{
						"keys": {Type: framework.TypeStringSlice, Description: "Names of the connections, sorted."},
					}),
				},
			},
			HelpSynopsis:    "The names of the connections.",
			HelpDescription: "Lists the names of all connections of this mount, whatever their type.",
		},
		{
			Pattern:        "connections/" + connectionRegex,
			Fields:         fields,
			ExistenceCheck: exists(connectionStoragePrefix, connectionNameField),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "connection", ItemType: "Connection"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback:  b.readConnection,
					Summary:   "Read a connection, without its secrets.",
					Responses: okResponse("The connection, without its secrets.", connectionReadBackFields()),
				},
				logical.CreateOperation: write("Create a connection."),
				logical.UpdateOperation: write("Create a connection, or change the named fields of an existing one."),
				logical.PatchOperation:  write("Change the named fields of an existing connection; null empties a field."),
				logical.DeleteOperation: forwarded(framework.PathOperation{
					Callback:  b.deleteConnection,
					Summary:   "Delete a connection that nothing uses.",
					Responses: stored("There is no such connection any more."),
				}),
			},
			HelpSynopsis:    "A registry whose API mints credentials, and the administrative credential for it.",
			HelpDescription: strings.TrimSpace(connectionHelp),
		},
		{
			Pattern:      "connections/" + connectionRegex + "/check",
			Fields:       map[string]*framework.FieldSchema{connectionNameField: connectionNameSchema()},
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "check", OperationSuffix: "connection"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.checkConnection,
					Summary:  "Ask the registry whether the administrative credential works.",
					Responses: okResponse("The administrative credential works.", map[string]*framework.FieldSchema{
						"identity":   {Type: framework.TypeString, Required: true, Description: "Whose the administrative credential is."},
						"expires_at": {Type: framework.TypeString, Description: "When it ends, RFC 3339, where known."},
					}),
				},
			},
			HelpSynopsis:    "Asks the registry whether the administrative credential works.",
			HelpDescription: "Nothing is changed by it. An answer is a credential that works; what does not work is an error with what the registry said.",
		},
	}
}

func connectionReadBackFields() map[string]*framework.FieldSchema {
	fields := commonConnectionFields()
	delete(fields, "verify_connection")
	fields["registry"] = &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: "Registry that the credentials are for, as in image names; several with commas between them."}
	for name, field := range fieldsOfTypes(connectionFieldsOf) {
		if !isSecretField(field) {
			fields[name] = field
		}
	}
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"updated_at":         {Type: framework.TypeString, Required: true, Description: "When the connection was last written, RFC 3339."},
		"last_root_rotation": {Type: framework.TypeString, Description: "When rotate-root last replaced the administrative credential, RFC 3339."},
		"pending_root":       {Type: framework.TypeString, Description: "What remains to be done of a rotate-root that was interrupted."},
	})
	return fields
}

func (b *backend) readConnection(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := connectionName(data)
	if err != nil {
		return answer(err)
	}
	c, err := b.connection(ctx, req.Storage, name)
	if err != nil || c == nil {
		return nil, err
	}
	return &logical.Response{Data: c.readBack()}, nil
}

func (b *backend) checkConnection(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := connectionName(data)
	if err != nil {
		return answer(err)
	}
	c, err := b.connection(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, noSuchConnection(name)
	}
	status, err := b.check(ctx, c)
	if err != nil {
		return answer(registryError(err))
	}
	resp := &logical.Response{Data: map[string]any{"identity": status.Identity}}
	if !status.ExpiresAt.IsZero() {
		resp.Data["expires_at"] = formatTime(status.ExpiresAt)
	}
	settings, err := b.config(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	return withWarnings(resp, b.statusWarnings(status, settings)), nil
}

// check asks the registry about the administrative credential.
func (b *backend) check(ctx context.Context, c *connection) (issuer.Status, error) {
	client, err := b.open(c, issuer.Root{})
	if err != nil {
		return issuer.Status{}, err
	}
	defer client.Close()
	return client.Check(ctx)
}

// statusWarnings are what a check found out that somebody should know.
func (b *backend) statusWarnings(status issuer.Status, settings config) []string {
	warnings := slices.Clone(status.Warnings)
	if left := status.ExpiresAt.Sub(b.now()); !status.ExpiresAt.IsZero() && left <= settings.ExpiryWarning {
		warnings = append(warnings, fmt.Sprintf("the administrative credential expires at %s; rotate-root, or a write with a new one, replaces it", formatTime(status.ExpiresAt)))
	}
	return warnings
}

func noSuchConnection(name string) error {
	return logical.CodedError(http.StatusNotFound, fmt.Sprintf("connection %q does not exist; a write to connections/%s creates it", name, name))
}

// registryError is the error of a call to a registry's API: neither the
// caller's mistake nor Vault's. It has status 502.
func registryError(err error) error {
	if issuer.IsError(err) {
		return badGateway(err)
	}
	return err
}

// badGateway marks what the registry, not Vault or the caller, is to blame for.
func badGateway(err error) error { return logical.CodedError(http.StatusBadGateway, err.Error()) }

func isBadGateway(err error) bool {
	var coded logical.HTTPCodedError
	return errors.As(err, &coded) && coded.Code() == http.StatusBadGateway
}

// writeConnection creates, updates and patches. The registry is asked about
// the administrative credential with the connection locked, so that what is
// stored is what was tried.
func (b *backend) writeConnection(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := connectionName(data)
	if err != nil {
		return answer(err)
	}
	defer b.lockConnection(name)()

	old, err := b.connection(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	switch {
	case old == nil && req.Operation == logical.PatchOperation:
		return nil, noSuchConnection(name)
	case old != nil && req.Operation == logical.CreateOperation:
		return answer(refusef("connection %q was created meanwhile; try again", name))
	}
	in := input{data}
	c, warnings, err := in.applyConnection(name, old, b.now())
	if err != nil {
		return answer(err)
	}
	more, err := b.checkBeforeWrite(ctx, req.Storage, c, in.Get("verify_connection").(bool))
	if err != nil {
		return answer(err)
	}
	if err := b.replaceRoot(ctx, req.Storage, c, old); err != nil {
		return nil, err
	}
	if err := b.putConnection(ctx, req.Storage, c); err != nil {
		return nil, err
	}
	b.sendEvent(ctx, req, "connection-write", connectionStoragePrefix+name)
	return withWarnings(nil, append(warnings, more...)), nil
}

// checkBeforeWrite refuses a connection that cannot be opened, or whose
// registry refuses the administrative credential.
func (b *backend) checkBeforeWrite(ctx context.Context, storage logical.Storage, c *connection, ask bool) (warnings []string, err error) {
	settings, err := b.config(ctx, storage)
	if err != nil {
		return nil, err
	}
	if err := settings.checkRegistries(c.Registries); err != nil {
		return nil, err
	}
	client, err := b.open(c, issuer.Root{})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	if !ask {
		return nil, nil
	}
	status, err := client.Check(ctx)
	if err != nil {
		return nil, refusef("verify_connection: nothing is stored, because the registry does not accept the administrative credential, or could not be asked: %w; verify_connection=false stores it all the same", err)
	}
	return b.statusWarnings(status, settings), nil
}

// applyConnection returns the connection as the write makes it; old is nil for
// a new one.
func (in input) applyConnection(name string, old *connection, now time.Time) (*connection, []string, error) {
	c := &connection{Name: name}
	if old != nil {
		*c = *old
	}
	c.UpdatedAt = now
	if err := in.applyConnectionType(c, old); err != nil {
		return nil, nil, err
	}
	warnings, err := in.applyAddress(c, old)
	if err != nil {
		return nil, nil, err
	}
	c.Settings = in.applySettings(c.Type.ConnectionFields, c.Settings)
	more, err := in.applySecrets(c)
	if err != nil {
		return nil, nil, err
	}
	warnings = append(warnings, more...)
	if in.has("ca_pem") {
		c.CAPEM = in.text("ca_pem")
		if _, err := parseCAs(c.CAPEM); err != nil {
			return nil, nil, err
		}
	}
	if in.has("allowed_roles") {
		if c.AllowedRoles, err = parseRolePatterns(in.list("allowed_roles")); err != nil {
			return nil, nil, refuse(fieldError("allowed_roles", err))
		}
		if len(c.AllowedRoles) == 0 {
			warnings = append(warnings, "allowed_roles: is empty, so no role can use this connection")
		}
	} else if old == nil {
		warnings = append(warnings, "allowed_roles: is not set, so no role can use this connection yet")
	}
	if in.has("allowed_targets") {
		if c.AllowedTargets, err = parseTargetPatterns(in.list("allowed_targets")); err != nil {
			return nil, nil, err
		}
	}
	return c, warnings, nil
}

// applyConnectionType sets the type of a new connection and refuses fields of
// other types.
func (in input) applyConnectionType(c, old *connection) error {
	if in.has("type") || old == nil {
		t, known := issuerType(in.text("type"))
		if !known {
			return refusef("type: must be one of %s", strings.Join(issuerTypeNames(), ", "))
		}
		if old != nil && t.Name != old.Type.Name {
			return refusef("type: is %s and cannot be changed; write a connection of another name", old.Type.Name)
		}
		c.Type = t
	}
	if in.has("force") {
		return refusef("force: is for deleting a connection")
	}
	return in.refuseOtherTypes("connection", c.Type, connectionFieldsOf)
}

// refuseOtherTypes refuses fields that only other types of connection have.
func (in input) refuseOtherTypes(what string, t issuer.Type, fieldsOf func(issuer.Type) map[string]*framework.FieldSchema) error {
	fields := fieldsOf(t)
	for _, name := range slices.Sorted(maps.Keys(fieldsOfTypes(fieldsOf))) {
		if fields[name] == nil && in.has(name) {
			return refusef("%s: a %s of type %s has no such field; its own are: %s", name, what, t.Name, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		}
	}
	return nil
}

// applyAddress sets where the API and the registry are.
func (in input) applyAddress(c, old *connection) (warnings []string, err error) {
	if in.has("url") {
		if c.URL, err = parseURL(in.text("url")); err != nil {
			return nil, refuse(fieldError("url", err))
		}
	}
	if c.URL == "" && !c.Type.URLOptional {
		return nil, refusef("url: must be the URL of the API, such as https://%s.example.com", c.Type.Name)
	}
	if in.has("registry") || old == nil {
		if c.Registries, warnings, err = parseConnectionRegistries(in.list("registry")); err != nil {
			return nil, err
		}
	}
	if old == nil || len(c.Secrets) == 0 {
		return warnings, nil
	}
	// Or who may write the connection, and read nothing, could have its
	// credentials sent to a host of theirs.
	moved := c.movedFrom(old)
	if moved == "" {
		return warnings, nil
	}
	for field := range c.Secrets {
		if !in.has(field) {
			return nil, refusef("%s: is on another host than before; write %s with it, because a stored credential is only ever used for the hosts that it was given for", moved, field)
		}
	}
	if !c.Root.settled() {
		c.Root = rootRotation{RotatedAt: c.Root.RotatedAt}
		warnings = append(warnings, moved+": a rotate-root was not finished; end what it has made or replaced at the former host yourself")
	}
	if moved == "url" {
		warnings = append(warnings, "url: what was minted at the former one will be looked for, and revoked, at the new one")
	}
	return warnings, nil
}

// movedFrom returns the field that names another host than before, if any.
func (c *connection) movedFrom(old *connection) string {
	known := func(key dockerconfig.Key) bool {
		return slices.ContainsFunc(old.Registries, func(other dockerconfig.Key) bool { return other.Host() == key.Host() })
	}
	switch {
	case origin(c.URL) != origin(old.URL):
		return "url"
	case slices.ContainsFunc(c.Registries, func(key dockerconfig.Key) bool { return !known(key) }):
		return "registry"
	}
	return ""
}

func origin(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return text
	}
	return u.Scheme + "://" + u.Host
}

// parseURL normalises the URL of an API.
func parseURL(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || strings.Contains(u.Host, "%"): // no zones, which are of one machine
		return "", errors.New("must be a URL, such as https://gitlab.example.com")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return "", errors.New("must have neither a user, a query nor a fragment")
	case u.Scheme == "http" && !registry.IsThisMachine(u.Hostname()):
		return "", errors.New("must begin with https://: plain http would send the administrative credential in the clear, and is accepted to this machine only")
	case u.Scheme != "https" && u.Scheme != "http":
		return "", errors.New("must begin with https://")
	}
	return u.Scheme + "://" + strings.ToLower(u.Host) + strings.TrimRight(u.EscapedPath(), "/"), nil
}

func parseConnectionRegistries(texts []string) (keys []dockerconfig.Key, warnings []string, err error) {
	if len(texts) == 0 {
		return nil, nil, refusef("registry: must be the registry that the credentials are for, as in image names, such as registry.example.com")
	}
	for _, text := range texts {
		key, changed, err := dockerconfig.ParseKey(text)
		if err != nil {
			return nil, nil, refuse(fieldError("registry", err))
		}
		if strings.Contains(string(key), "*") {
			return nil, nil, refusef("registry: must name one registry, not a pattern")
		}
		if slices.Contains(keys, key) {
			return nil, nil, refusef("registry: names %q twice", key)
		}
		keys = append(keys, key)
		warnings = append(warnings, fieldWarnings("registry", changed)...)
	}
	return keys, warnings, nil
}

// applySecrets sets the secrets that the write names.
func (in input) applySecrets(c *connection) (warnings []string, err error) {
	c.Secrets = maps.Clone(c.Secrets)
	if c.Secrets == nil {
		c.Secrets = issuer.Secrets{}
	}
	for name, field := range c.Type.ConnectionFields {
		if !isSecretField(field) || !in.has(name) {
			continue
		}
		if in.text(name) == "" {
			delete(c.Secrets, name)
			continue
		}
		secret, changed, err := dockerconfig.ParsePassword(in.text(name))
		if err != nil {
			return nil, refuse(fieldError(name, err))
		}
		c.Secrets[name] = secret
		warnings = append(warnings, fieldWarnings(name, changed)...)
	}
	return warnings, nil
}

// replaceRoot notes that the administrative credential was replaced by hand.
// What rotate-root had prepared is not wanted any more, and a write-ahead entry
// has it ended; the one that it replaced is still to be ended, unless it was
// written again.
func (b *backend) replaceRoot(ctx context.Context, storage logical.Storage, c, old *connection) error {
	if old == nil || sameSecrets(c.Secrets, old.Secrets) {
		return nil
	}
	c.Root.Name = ""
	if c.Root.Retired != nil && sameSecrets(c.Secrets, c.Root.Retired.Secrets) {
		c.Root.Retired = nil
	}
	if c.Root.Pending == nil {
		return nil
	}
	entry := walRootEntry{SchemaVersion: schemaVersion, Connection: c.Name, Name: c.Root.Pending.Name}
	if _, err := framework.PutWAL(ctx, storage, walRoot, entry); err != nil {
		return fmt.Errorf("writing ahead: %w", err)
	}
	c.Root.Pending = nil
	return nil
}

func sameSecrets(a, b issuer.Secrets) bool { return maps.EqualFunc(a, b, dockerconfig.Secret.Equal) }

// parseRolePatterns refuses patterns that no name of a role can match.
func parseRolePatterns(patterns []string) ([]string, error) {
	if len(patterns) > dockerconfig.MaxRegistries {
		return nil, fmt.Errorf("must have at most %d names, not %d", dockerconfig.MaxRegistries, len(patterns))
	}
	for i, pattern := range patterns {
		if checkName(strings.ReplaceAll(pattern, "*", "x")) != nil {
			return nil, fmt.Errorf("entry %d must be the name of a role, in which '*' stands for any characters, such as team-*", i+1)
		}
	}
	return patterns, nil
}

func parseTargetPatterns(patterns []string) ([]string, error) {
	if len(patterns) > dockerconfig.MaxRegistries {
		return nil, refusef("allowed_targets: must have at most %d entries, not %d", dockerconfig.MaxRegistries, len(patterns))
	}
	for i, pattern := range patterns {
		if pattern == "" || strings.ContainsAny(pattern, " \t\r\n") {
			return nil, refusef("allowed_targets: entry %d must be a project, group, user or repository, in which '*' stands for any characters, such as group/*", i+1)
		}
	}
	return patterns, nil
}

func (b *backend) deleteConnection(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := connectionName(data)
	if err != nil {
		return answer(err)
	}
	defer b.lockConnection(name)()

	c, err := b.connection(ctx, req.Storage, name)
	if unreadable := (unreadableError{}); err != nil && !errors.As(err, &unreadable) {
		return nil, err
	} else if c == nil && err == nil {
		return nil, nil
	}
	use, err := b.connectionUse(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	use.unfinished = c != nil && !c.Root.settled()
	var warnings []string
	if use.String() != "" {
		if len(use.roles) > 0 || !data.Get("force").(bool) {
			return answer(refusef("connection %q is in use: %s; delete the roles and revoke the leases first, or give up what cannot be revoked any more with force=true", name, use))
		}
		warnings = append(warnings, fmt.Sprintf("given up, and left at the registry: %s", use))
		if err := b.forgetLeases(ctx, req.Storage, name); err != nil {
			return nil, err
		}
	}
	if err := req.Storage.Delete(ctx, connectionStoragePrefix+name); err != nil {
		return nil, fmt.Errorf("deleting connection %q: %w", name, err)
	}
	b.sendEvent(ctx, req, "connection-delete", connectionStoragePrefix+name)
	return withWarnings(nil, warnings), nil
}

var connectionHelp = `
A connection is a registry whose API mints credentials, and the administrative
credential that it takes. Roles use it by its name: allowed_roles says which,
and allowed_targets what they may mint for. Both are checked when a role is
written and at each mint.

    type       what the registry is; each type has fields of its own
    url        of the API
    registry   that the credentials are for, as in image names

The types:

` + describedTypes() + `
A write to an existing connection keeps the fields that it does not name, and
tries the administrative credential unless verify_connection=false. Another
host for url or registry takes the administrative credential in the same write.

Reading a connection never returns the administrative credential. rotate-root
replaces it. A connection that is in use cannot be deleted.
`
