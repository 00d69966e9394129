// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

func listConnections() *framework.Path {
	return listPath("connections", "Connection", connectionStoragePrefix)
}

func (b *backend) pathConnections() []*framework.Path {
	fields := commonConnectionFields()
	maps.Copy(fields, fieldsOfTypes(connectionFieldsOf))
	fields[connectionNameField] = connectionNameSchema()
	fields["force"] = &framework.FieldSchema{
		Type: framework.TypeBool, Query: true,
		Description: "On delete: give up the credentials that the connection has minted and can no longer revoke.",
	}
	write := func(summary string) framework.OperationHandler {
		return forwarded(framework.PathOperation{Callback: b.writeConnection, Summary: summary, Responses: writeResponses("The connection is stored.")})
	}
	return []*framework.Path{
		listConnections(),
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
					Summary:   "Delete a connection that is not in use.",
					Responses: writeResponses("The connection is deleted."),
				}),
			},
			HelpSynopsis:    "Defines a registry whose API mints credentials, with the root credential for it.",
			HelpDescription: strings.TrimSpace(connectionHelp),
		},
		{
			Pattern:      "connections/" + connectionRegex + "/check",
			Fields:       map[string]*framework.FieldSchema{connectionNameField: connectionNameSchema()},
			DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "check", OperationSuffix: "connection"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback: b.checkConnection,
					Summary:  "Ask the registry whether the root credential works.",
					Responses: okResponse("The root credential works.", map[string]*framework.FieldSchema{
						"identity":   {Type: framework.TypeString, Required: true, Description: "Account at the registry that the root credential belongs to."},
						"expires_at": {Type: framework.TypeString, Description: "When the root credential expires, RFC 3339, if known."},
					}),
				},
			},
			HelpSynopsis:    "Asks the registry whether the root credential works.",
			HelpDescription: "It changes nothing. A response means that the credential works. If it does not, the error says what the registry answered.",
		},
	}
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
	c, status, err := b.check(ctx, req.Storage, name)
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
	warnings := b.statusWarnings(status, settings)
	if !maps.Equal(status.Declared, c.Declared) {
		warnings = append(warnings, "the registry declares something else than when the connection was written; write the connection again, with any field, to have the engine heed it")
	}
	if pending, ok := c.Root.readBack()["pending_root"].(string); ok {
		warnings = append(warnings, "rotate-root is not finished: "+pending)
	}
	return withWarnings(resp, warnings), nil
}

// check asks the registry whether the root credential of a connection works.
func (b *backend) check(ctx context.Context, storage logical.Storage, name string) (*connection, issuer.Status, error) {
	var c *connection
	status, err := attend(ctx, b, laneOf(name), work[issuer.Status]{do: func(ctx context.Context) (status issuer.Status, err error) {
		ctx = withUrgency(ctx, asked)
		c, err = b.usableConnection(ctx, storage, name)
		if err == nil && c == nil {
			err = noSuchConnection(name)
		}
		if err != nil {
			return issuer.Status{}, err
		}
		status, err = b.askAbout(ctx, c, issuer.Root{})
		return status, errors.Join(err, b.noteRootCheck(ctx, storage, c, status, err))
	}})
	if err != nil {
		return nil, issuer.Status{}, err
	}
	return c, status, nil
}

// statusWarnings returns the warnings of a check, and one if the root credential
// expires soon.
func (b *backend) statusWarnings(status issuer.Status, settings config) []string {
	warnings := slices.Clone(status.Warnings)
	if left := status.ExpiresAt.Sub(b.now()); !status.ExpiresAt.IsZero() && left <= settings.ExpiryWarning.Duration {
		warnings = append(warnings, fmt.Sprintf("the root credential expires at %s; replace it with rotate-root, or write a new one", formatTime(status.ExpiresAt)))
	}
	return warnings
}

// writeConnection creates, updates and patches. It checks the root credential
// while the connection is locked, so that it stores the credential that it
// checked.
func (b *backend) writeConnection(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := connectionName(data)
	if err != nil {
		return answer(err)
	}
	unlock, err := b.lockConnection(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()

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
	c, warnings, err := in.applyConnection(name, old, b.now(), b.newID)
	if err != nil {
		return answer(err)
	}
	status, more, err := b.checkBeforeWrite(ctx, req.Storage, c, old, in.isTrue("verify_connection"))
	if err != nil {
		return answer(err)
	}
	warnings = append(warnings, lostAbilities(c, old)...)
	if err := b.replaceRoot(ctx, req.Storage, c, old); err != nil {
		return nil, err
	}
	moved := old != nil && (c.ID != old.ID || !slices.Equal(c.Registries, old.Registries) || !maps.Equal(c.Settings, old.Settings))
	if moved {
		if err := b.announceConnection(ctx, req.Storage, name); err != nil {
			return nil, err
		}
	}
	announced, err := b.announceRoles(ctx, req.Storage, c, old)
	if err != nil {
		return nil, err
	}
	defer announced()
	if in.isTrue("verify_connection") {
		err = b.putRootCheck(ctx, req.Storage, c, status, nil)
	} else if c.hasRootOf(old) {
		err = b.keepRootCheck(ctx, req.Storage, c, old)
	}
	if err != nil {
		return nil, err
	}
	if err := b.putConnectionAttended(ctx, req.Storage, c); err != nil {
		return nil, err
	}
	b.calls.forgive(laneOf(name))
	if moved {
		b.scheduleRolesOf(ctx, req.Storage, name)
	}
	b.sendEvent(ctx, req, "connection-write", connectionStoragePrefix+name)
	return withWarnings(nil, append(warnings, more...)), nil
}

// checkBeforeWrite refuses a connection that cannot be opened. If ask is true, it
// also refuses one whose root credential fails the check.
func (b *backend) checkBeforeWrite(ctx context.Context, storage logical.Storage, c, old *connection, ask bool) (status issuer.Status, warnings []string, err error) {
	settings, err := b.config(ctx, storage)
	if err != nil {
		return status, nil, err
	}
	added := c.Registries // a connection whose registry is no longer allowed can still be restricted
	var before issuer.Settings
	if old != nil {
		before = old.Settings
		added = slices.DeleteFunc(slices.Clone(added), func(key dockerconfig.Key) bool { return slices.Contains(old.Registries, key) })
	}
	if err := settings.checkRegistries(added); err != nil {
		return status, nil, err
	}
	client, err := b.open(c, issuer.Root{})
	if err != nil {
		return status, nil, err
	}
	client.Close()
	if err := b.tryIdentityToken(ctx, c.Type, c.Settings, before); err != nil {
		return status, nil, err
	}
	if !ask {
		return status, nil, nil
	}
	status, err = attend(ctx, b, laneOf(c.Name), work[issuer.Status]{do: func(ctx context.Context) (issuer.Status, error) {
		return b.askAbout(withUrgency(ctx, asked), c, issuer.Root{})
	}})
	if wait := (noAnswerYetError{}); errors.As(err, &wait) {
		return status, nil, noAnswerYetError{logical.CodedError(wait.Code(), fmt.Sprintf("verify_connection: nothing is stored, because %s; verify_connection=false stores the connection without this check", wait))}
	}
	if err != nil {
		return status, nil, refusef("verify_connection: nothing is stored, because the check of the root credential failed: %w; verify_connection=false stores the connection without this check", err)
	}
	c.Declared = status.Declared
	return status, b.statusWarnings(status, settings), nil
}

// lostAbilities warns if a connection can do less than before with what it has minted:
// by what its registry declares, or by its fields.
func lostAbilities(c, old *connection) []string {
	if old == nil || c.ID != old.ID {
		return nil // what another registry has minted is given up in any case
	}
	before, after := old.can(), c.can()
	switch {
	case old.Declared == nil && c.Declared != nil: // it was never asked
		return nil
	case before.Revoke && !after.Revoke:
		return []string{"the connection can no longer revoke: what it has minted before is given up when it is to be revoked, and works until it expires"}
	case before.Find && !after.Find:
		return []string{"the connection can no longer find credentials by their names: what it mints in a call without an answer works until it expires"}
	}
	return nil
}

func (b *backend) deleteConnection(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := connectionName(data)
	if err != nil {
		return answer(err)
	}
	unlock, err := b.lockConnection(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()

	c, err := b.connection(ctx, req.Storage, name)
	if unreadable := (unreadableError{}); err != nil && !errors.As(err, &unreadable) {
		return nil, err
	} else if c == nil && err == nil {
		return nil, nil
	}
	force := (input{data}).isTrue("force")
	failed := 0
	if c != nil && !force {
		failed, err = attend(ctx, b, laneOf(name), work[int]{
			key: "leases of " + name + " that are gone",
			do:  func(ctx context.Context) (int, error) { return b.forgetGoneLeases(ctx, req.Storage, c) },
		})
		if err != nil {
			return nil, err
		}
	}

	unindexed, err := b.leftUnindexed(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	useNow := func() (connectionUse, error) {
		use, err := b.connectionUse(ctx, req.Storage, name, unindexed)
		use.failed, use.unfinished = failed, c != nil && !c.Root.isFinished()
		if err == nil {
			err = use.refusal(name, force)
		}
		return use, err
	}
	if _, err := useNow(); err != nil { // before it is closed: no mint waits while much is in use
		return answer(err)
	}
	defer b.closeConnection(name)() // from here on no registry is called
	use, err := useNow()
	if err != nil {
		return answer(err)
	}
	var warnings []string
	if use.String() != "" {
		warnings = append(warnings, fmt.Sprintf("given up, and left at the registry: %s", use))
	}
	if err := req.Storage.Delete(ctx, connectionStoragePrefix+name); err != nil {
		return nil, fmt.Errorf("deleting connection %q: %w", name, err)
	}
	b.forgetConnection(ctx, req.Storage, name)
	b.calls.forgive(laneOf(name))
	if err := b.forgetRootCheck(ctx, req.Storage, name); err != nil {
		b.Logger().Debug("what is known of a former root credential stays in storage", "connection", name, "error", err)
	}
	b.lookAtConnection(ctx, req.Storage, name)
	b.counters.forget(name)
	// Once the connection is gone, because a crash in between must not leave one
	// that has forgotten what it minted. The sweep gives up what stays in the index.
	if err := b.forgetLeases(ctx, req.Storage, name); err != nil {
		b.Logger().Warn("leases of a deleted connection stay in the index for now", "connection", name, "error", err)
	}
	b.sendEvent(ctx, req, "connection-delete", connectionStoragePrefix+name)
	return withWarnings(nil, warnings), nil
}

var connectionHelp = `
A connection is a registry whose API mints credentials, with the root credential
for that API. Roles name the connection that they use. allowed_roles says which
roles may use it, and allowed_targets what they may mint for. The engine checks
both when a role is written and at each mint.

    type       type of the registry; each type has fields of its own
    url        URL of the API
    registry   registry that the credentials are for, as in image names

The types:

` + describedTypes() + `
A write to an existing connection keeps the fields that it does not name. It
checks the root credential, unless verify_connection=false. A write that names a
new host in url or registry must include the root credential.

Reading a connection never returns the root credential. rotate-root replaces it.
A connection that is in use cannot be deleted.
`
