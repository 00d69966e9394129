// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// proposal is what a write would store in place of old.
type proposal struct {
	role, old *role
	warnings  []string
	proved    []verification // what its registries said of it, if they were asked
}

// propose applies a write without storing it. It refuses a role that could not be
// read afterwards. It also refuses a create if the role exists by now: Vault
// checked its policies before the role was locked, and the caller may not have
// the right to update.
func (b *backend) propose(ctx context.Context, req *logical.Request, name string, in input) (*proposal, error) {
	old, err := b.role(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	switch {
	case old == nil && req.Operation == logical.PatchOperation:
		return nil, noSuchRole(name)
	case old != nil && req.Operation == logical.CreateOperation:
		return nil, refusef("role %q was created meanwhile; try again", name)
	}
	p := &proposal{old: old}
	if in.isTrue("forget_given_up") && !old.isSharedRole() {
		return nil, refusef("forget_given_up: is for shared roles that exist; role %q is none", name)
	}
	if p.role, p.warnings, err = b.applyRole(ctx, req.Storage, in, name, old); err != nil {
		return nil, err
	}
	toCheck := in.isTrue("verify") || p.role.Bundle != nil || p.role.Dynamic != nil && in.has("verify_repository")
	if old != nil && old.samePullSecret(p.role) && !toCheck {
		return p, nil
	}
	d, err := b.describe(ctx, req.Storage, name, p.role)
	if err == nil {
		added := d.Registries
		if p.role.Static == nil {
			added = b.addedRegistries(ctx, req.Storage, added, old)
		}
		err = d.settings.checkRegistries(added)
	}
	if err != nil {
		return nil, in.aboutCredential(err)
	}
	if p.role.Dynamic != nil {
		return p, p.role.checkVerifyRepository(d.Registries)
	}
	return p, nil
}

// addedRegistries returns the keys that a role did not serve before. A role
// whose registry is no longer allowed can still be restricted.
func (b *backend) addedRegistries(ctx context.Context, storage logical.Storage, keys []dockerconfig.Key, old *role) []dockerconfig.Key {
	before := b.registriesOf(ctx, storage, old)
	return slices.DeleteFunc(slices.Clone(keys), func(key dockerconfig.Key) bool { return slices.Contains(before, key) })
}

// samePullSecret reports whether a verification of one proposal holds for the
// other.
func (p *proposal) samePullSecret(other *proposal) bool {
	return p.role.verifiesAs(other.role)
}

// aboutCredential puts the name of the field that caused it in front of an error
// about the pull secret.
func (in input) aboutCredential(err error) error {
	for _, field := range []string{"members", "dockerconfigjson"} {
		if isInputError(err) && in.has(field) && !strings.HasPrefix(err.Error(), field+":") {
			return refuse(fieldError(field, err))
		}
	}
	return err
}

// applyRole returns the role with the write applied to it, and warnings. old is
// nil for a new role. Fields that the write does not name stay as in old.
func (b *backend) applyRole(ctx context.Context, storage logical.Storage, in input, name string, old *role) (*role, []string, error) {
	r := &role{}
	if old != nil {
		*r = *old
	}
	r.UpdatedAt = b.now()
	if err := in.checkRoleType(old); err != nil {
		return nil, nil, err
	}
	var warnings []string
	var err error
	switch {
	case in.named(bundleFields()) != "" || r.Bundle != nil:
		if r.Bundle, err = in.applyBundle(name, r.Bundle); err == nil {
			err = in.applyVerifyPeriod(r)
		}
		r.keepCredentialAt(old)
		return r, nil, err
	case in.named(dynamicFields()) != "" || r.Dynamic != nil:
		r.Dynamic, warnings, err = b.applyDynamic(ctx, storage, in, name, r.Dynamic)
	default:
		r.Static, warnings, err = in.applyStatic(r.Static, b.now())
	}
	if err != nil {
		return nil, nil, err
	}
	if in.has("allowed_bundles") {
		if r.AllowedBundles, err = parseRolePatterns(in.list("allowed_bundles")); err != nil {
			return nil, nil, refuse(fieldError("allowed_bundles", err))
		}
		if size := len(strings.Join(r.AllowedBundles, ",")); size > maxAllowedBundles {
			return nil, nil, refusef("allowed_bundles: must have at most %d bytes in total, not %d; use a pattern such as team-*, in which '*' matches any characters", maxAllowedBundles, size)
		}
		if len(r.AllowedBundles) > 0 && r.isLeased() {
			return nil, nil, refusef("allowed_bundles: a bundle cannot join a leased role, because a bundle is read without a lease; use mode=shared")
		}
	}
	if in.has("verify_repository") {
		r.VerifyRepository = in.text("verify_repository")
	}
	if r.Static != nil {
		if err := r.checkVerifyRepository(r.Static.Docker.Keys()); err != nil {
			return nil, nil, err
		}
	}
	if err := in.applyVerifyPeriod(r); err != nil {
		return nil, nil, err
	}
	r.keepCredentialAt(old)
	return r, warnings, nil
}

// keepCredentialAt notes whether a write changes what a verification tries.
func (r *role) keepCredentialAt(old *role) {
	r.CredentialAt = time.Time{}
	if r.verifiesAs(old) && !old.credentialAt().Equal(r.UpdatedAt) {
		r.CredentialAt = old.credentialAt()
	}
}

// checkRoleType refuses fields of two types, and fields of a type that the role
// does not have.
func (in input) checkRoleType(old *role) error {
	if old == nil {
		old = &role{}
	}
	member, static, dynamic, bundle := in.named(memberFields()), in.named(staticFields()), in.named(dynamicFields()), in.named(bundleFields())
	switch {
	case bundle != "" || old.Bundle != nil:
		if field := cmp.Or(static, dynamic, member); field != "" {
			return refusef("%s: a bundle has no fields besides members and verify_period; leave this one out, or write it to another role", field)
		}
		if old.Static != nil || old.Dynamic != nil {
			return refusef("members: this role holds credentials of its own; delete it first, or write members to another role")
		}
	case in.has("connection") && old.Static != nil:
		return refusef("connection: this role is static; delete it first, or use another role name")
	case in.has("connection") || old.Dynamic != nil:
		if static != "" {
			return refusef("%s: a role with a connection gets its credential from it; leave this field out, or write it to another role", static)
		}
	case dynamic != "" && (static != "" || old.Static != nil):
		return in.foreignToStatic(dynamic)
	}
	return nil
}

// foreignToStatic is the error about a field of dynamic roles in a write of a static
// one.
func (in input) foreignToStatic(field string) error {
	var own []string
	for name := range staticFields() {
		if !in.has(name) {
			own = append(own, name)
		}
	}
	slices.Sort(own)
	return refusef("%s: is a field of %s, and this role holds a credential of its own%sleave the field out, or use a connection in a role of another name", field, dynamicOwners(field), didYouMean(field, own))
}

// connectionOfWrite returns the name of the connection that a role will use,
// empty for none.
func (b *backend) connectionOfWrite(ctx context.Context, storage logical.Storage, name string, in input) (string, error) {
	if in.has("connection") {
		return in.text("connection"), nil
	}
	old, err := b.role(ctx, storage, name)
	return old.connection(), err
}
