// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"context"
	"errors"
	"net/http"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// apply writes the roles, one after the other, each in one request: an end at any
// point leaves whole roles, and the next run finds the rest still to do. What Vault
// refuses is marked. Any other failure ends it.
func (p *plan) apply(ctx context.Context, vault *client.Vault) error {
	p.Applied = true
	for _, r := range p.Roles {
		if r.Action != actionCreate && r.Action != actionUpdate {
			continue
		}
		err := r.write(ctx, vault)
		var f *client.Failure
		switch {
		case err == nil:
		case errors.As(err, &f) && f.Status == http.StatusBadRequest:
			r.Action, r.Why = actionFailed, client.Line(err)
		default:
			return err
		}
	}
	return nil
}

// write writes a role, if it is still as it was when the plan was made.
func (r *planned) write(ctx context.Context, vault *client.Vault) error {
	now, found, err := vault.Role(ctx, r.Role)
	switch {
	case err != nil:
		return err
	case found && now.UpdatedAt != r.updatedAt, !found && r.updatedAt != "":
		r.keep("somebody has written or deleted it in the meantime; run the import again")
		return nil
	}
	fields, secrets := map[string]any{}, []string{}
	if !r.same {
		fields["dockerconfigjson"] = r.docker.RevealJSON()
		for _, c := range r.docker.Credentials() {
			secrets = append(secrets, c.Username, c.Password.Reveal(), c.Username+":"+c.Password.Reveal())
		}
	}
	if r.AllowedBundles != nil {
		fields["allowed_bundles"] = r.AllowedBundles
	}
	if r.VerifyRepository != "" {
		fields["verify_repository"] = r.VerifyRepository
	}
	if err := vault.WriteRole(ctx, r.Role, fields, secrets); err != nil {
		return err
	}
	if r.Action == actionCreate {
		r.Action = actionCreated
	} else {
		r.Action = actionUpdated
	}
	return nil
}
