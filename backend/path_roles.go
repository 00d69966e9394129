// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func listRoles() *framework.Path { return listPath("roles", "Role", roleStoragePrefix) }

func (b *backend) pathRoles() []*framework.Path {
	fields := roleFields()
	return []*framework.Path{
		listRoles(),
		{
			Pattern:        "roles/" + nameRegex,
			Fields:         fields,
			ExistenceCheck: exists(roleStoragePrefix, roleField),
			DisplayAttrs:   &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: "role", ItemType: "Role"},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: &framework.PathOperation{
					Callback:  b.readRole,
					Summary:   "Read a role, without its passwords.",
					Responses: okResponse("The role, without its passwords.", roleReadBackFields()),
				},
				logical.CreateOperation: forwarded(framework.PathOperation{
					Callback:  b.writeRole,
					Summary:   "Create a role.",
					Responses: writeResponses("The role is stored."),
				}),
				logical.UpdateOperation: forwarded(framework.PathOperation{
					Callback:  b.writeRole,
					Summary:   "Create a role, or change the named fields of an existing one.",
					Responses: writeResponses("The role is stored."),
				}),
				logical.PatchOperation: forwarded(framework.PathOperation{
					Callback:  b.writeRole,
					Summary:   "Change the named fields of an existing role; null empties a field.",
					Responses: writeResponses("The role is stored."),
				}),
				logical.DeleteOperation: forwarded(framework.PathOperation{
					Callback:  b.deleteRole,
					Summary:   "Delete a role.",
					Responses: writeResponses("The role is deleted."),
				}),
			},
			HelpSynopsis:    "Defines the pull secret that creds/<role> reads.",
			HelpDescription: strings.TrimSpace(roleHelp),
		},
	}
}

// withoutReadBack returns the fields of a request. In a write of what a read of another
// role has answered, which is known by its field type, it leaves out those that only
// the engine sets, and warns of it. So a dynamic role and a bundle, which hold no secret,
// can be copied. Of a static role the password is missing.
func withoutReadBack(req *logical.Request) (data map[string]any, warnings []string) {
	roleType, isReadBack := req.Data["type"].(string)
	if !isReadBack || !strings.HasPrefix(req.Path, roleStoragePrefix) {
		return req.Data, nil
	}
	own := roleReadBackFields()
	for name := range roleFields() {
		delete(own, name)
	}
	switch roleType {
	case typeDynamic:
		own["username"], own["expires_at"] = nil, nil // of what the role serves
	case typeBundle:
		own["expires_at"] = nil
	case typeStatic:
	default:
		return req.Data, nil
	}
	if req.Data["verify_period_from"] == periodOfConfig {
		own["verify_period"] = nil
	}
	data = maps.Clone(req.Data)
	var left []string
	for _, name := range slices.Sorted(maps.Keys(own)) {
		if _, given := data[name]; given {
			left = append(left, name)
			delete(data, name)
		}
	}
	return data, []string{"left out, because the engine sets them: " + strings.Join(left, ", ")}
}

func (b *backend) readRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := roleName(data)
	if err != nil {
		return answer(err)
	}
	r, err := b.role(ctx, req.Storage, name)
	if err != nil || r == nil {
		return nil, err
	}
	resp := &logical.Response{Data: r.readBack()}
	bundles, more, err := b.usedBy(ctx, req.Storage, name, r)
	if err != nil {
		return nil, err
	}
	if len(bundles) > 0 {
		resp.Data["used_by"] = bundles
	}
	if more {
		resp.AddWarning(fmt.Sprintf("used_by: names the first %d of the bundles that join this role", len(bundles)))
	}
	if r.isShared() {
		s, err := b.sharedStatus(ctx, req.Storage, name, r.Dynamic)
		if err != nil {
			return nil, err
		}
		maps.Copy(resp.Data, s.readBack())
	}
	d, err := b.describe(ctx, req.Storage, name, r)
	if err == nil {
		if r.Static == nil {
			maps.Copy(resp.Data, servedBy(d.Registries, d.ExpiresAt))
		}
		err = b.checkServed(ctx, req.Storage, d)
	}
	verified, verifiedErr := b.verifyReadBack(ctx, req.Storage, name, r, d)
	if verifiedErr != nil {
		return nil, verifiedErr
	}
	maps.Copy(resp.Data, verified)
	if isInputError(err) {
		return withWarnings(resp, []string{fmt.Sprintf("creds/%s is refused: %s", name, err)}), nil
	} else if err != nil {
		return nil, err
	}
	return withWarnings(resp, d.Warnings), nil
}

// writeRole creates, updates and patches. An update and a patch keep the fields
// that they do not name.
func (b *backend) writeRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := roleName(data)
	if err != nil {
		return answer(err)
	}
	in := input{data}
	var verified *proposal
	if in.isTrue("verify") {
		// The role is not locked yet: a lock must not wait for a registry.
		if verified, err = b.verifyProposal(ctx, req, name, in); err != nil {
			return answer(err)
		}
	}

	defer b.lockRole(name)()
	if connection, err := b.connectionOfWrite(ctx, req.Storage, name, in); err != nil {
		return nil, err
	} else if connection != "" {
		defer b.holdConnection(connection)() // until the role is stored, which keeps it from being deleted
	}
	p, err := b.propose(ctx, req, name, in)
	if err != nil {
		return answer(err)
	}
	if verified != nil && !verified.samePullSecret(p) {
		return answer(refusef("verify: nothing is stored, because role %q was changed meanwhile; try again", name))
	}
	settings, err := b.config(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if p.role.isShared() {
		if err := b.advanceDue(ctx, req.Storage, name, p.role); err != nil {
			return nil, err
		}
	}
	if err := b.putRoleAttended(ctx, req.Storage, name, p.role, p.old); err != nil {
		return nil, err
	}
	if p.role.isShared() {
		b.clearFailures(ctx, req.Storage, name)
		if in.isTrue("forget_given_up") {
			if err := b.forgetGivenUp(ctx, req.Storage, name); err != nil {
				return nil, err
			}
		}
	}
	if verified != nil && p.role.Static != nil { // of a dynamic role, something else was tried
		p.proved = verified.proved
	}
	b.followWrite(ctx, req.Storage, name, p.role, p.old, settings, p.proved)
	if former := p.old.connection(); former != p.role.connection() {
		b.leaveConnection(ctx, req.Storage, former, name)
	}
	b.sendEvent(ctx, req, "role-write", "creds/"+name)
	return withWarnings(nil, p.warnings), nil
}

// verifyProposal asks the registries whether the credentials of a proposal can
// pull.
func (b *backend) verifyProposal(ctx context.Context, req *logical.Request, name string, in input) (*proposal, error) {
	p, err := b.propose(ctx, req, name, in)
	if err != nil {
		return nil, err
	}
	secret, done, err := b.secretToVerify(ctx, req.Storage, name, p.role, true)
	if err != nil {
		return nil, registryError(err)
	}
	defer done()
	p.proved, err = b.verifyBeforeWrite(ctx, secret)
	return p, err
}

func (b *backend) deleteRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := roleName(data)
	if err != nil {
		return answer(err)
	}
	warnings, err := b.warnOfBundles(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	dropped, err := b.dropRole(ctx, req, name)
	left := b.revokeDropped(ctx, req.Storage, dropped) // the role is unlocked, because the registry may be slow
	if err != nil {
		return answer(err)
	}
	if left > 0 {
		warnings = append(warnings, fmt.Sprintf("%d credentials of the role are not revoked yet; the engine goes on until they are", left))
	}
	return withWarnings(nil, warnings), nil
}

// warnOfBundles returns the warning of a role that is about to be deleted, and that
// bundles join.
func (b *backend) warnOfBundles(ctx context.Context, storage logical.Storage, name string) ([]string, error) {
	r, err := b.role(ctx, storage, name)
	if unreadable := (unreadableError{}); errors.As(err, &unreadable) {
		return nil, nil // no bundle can be read with it
	} else if err != nil {
		return nil, err
	}
	bundles, more, err := b.usedBy(ctx, storage, name, r)
	if err != nil || len(bundles) == 0 {
		return nil, err
	}
	return []string{fmt.Sprintf("bundles join this role, and cannot be read without it: %s; take it out of their members", namedBundles(bundles, more))}, nil
}

// dropRole deletes a role, and returns its credentials, which are to be revoked even if
// it fails.
func (b *backend) dropRole(ctx context.Context, req *logical.Request, name string) (dropped []*newCredential, err error) {
	defer b.lockRole(name)()
	old, err := b.role(ctx, req.Storage, name)
	if unreadable := (unreadableError{}); err != nil && !errors.As(err, &unreadable) {
		return nil, err
	} else if old == nil && err == nil {
		return nil, nil
	}
	announced, err := b.announceBundles(ctx, req.Storage, name, nil, old)
	if err != nil {
		return nil, err
	}
	defer announced()
	defer func() {
		if err != nil {
			b.attentions.doubt(name)
		}
	}()
	// Drop the role's shared credentials first. Otherwise a new role of the same
	// name would serve them.
	if old == nil || old.isShared() {
		if dropped, err = b.dropShared(ctx, req.Storage, name); err != nil {
			return nil, err
		}
	}
	if err := b.deleteVerdict(ctx, req.Storage, name); err != nil {
		return dropped, err
	}
	err = b.withAttention(ctx, req.Storage, name, roleChange{deleted: true}, func() error { return req.Storage.Delete(ctx, roleStoragePrefix+name) })
	if err != nil {
		return dropped, fmt.Errorf("deleting role %q: %w", name, err)
	}
	b.deleteRoleType(ctx, req.Storage, name, old)
	b.deleteExpiry(ctx, req.Storage, old.expiresAt(), name)
	b.deleteVerifyPeriod(ctx, req.Storage, old.ownVerifyPeriod(), name)
	b.outages.forgetRole(name)
	b.deleteConnectionRole(ctx, req.Storage, old.connection(), name)
	b.deleteBundleKeys(ctx, req.Storage, name, old.members())
	b.schedule(name, time.Time{})
	b.sendEvent(ctx, req, "role-delete", "creds/"+name)
	return dropped, nil
}

const roleHelp = `
The parameters of all types of role stand in one list above. In brackets is the type of
role that has the parameter, or the type of connection.

A static role holds the credential of a registry:

    registry, username, password, and email if the registry needs one

dockerconfigjson takes a whole Docker config instead, with up to 1,000
registries, or a Kubernetes Secret that holds one. hostname means the same as
registry.

A connection mints the credential of a dynamic role at the registry:

    connection, mode, and the fields of the connection's type, such as project

With mode=shared (the default), all readers get the same credential, without a
lease. The engine replaces it every rotation_period, and revokes the former one
after grace_period. With mode=leased, each read mints a credential, on a lease of
ttl that can be renewed up to max_ttl.

A bundle role joins the credentials of other roles into one pull secret. members
names these roles, and each of them must name the bundle in its allowed_bundles.

To copy a static role, also to another mount, write what its pull secret is. Of any
other role, write what a read of it answers:

    vault read -field=config.json regcred/creds/my_app/docker |
      vault write regcred/roles/copy dockerconfigjson=-
    vault read -format=json -field=data regcred/roles/dynamic |
      vault write regcred/roles/copy -

A write to an existing role keeps the fields that it does not name: "vault write
regcred/roles/my_app password=..." replaces only the password. "vault patch" does
the same, and fails if the role does not exist. An error names the field that is
wrong, and nothing is stored. If the engine changes a value, a warning says so.

verify_period has the engine verify by itself what the role serves, once in that time.
The verdict stands in a read of the role; verify/ of the role asks at once.

verify=true stores the role only if every registry accepts the credential. If
there is a repository to try, the credential must be able to pull from it.

Reading a role never returns a password.
`
