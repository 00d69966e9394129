// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	// trialLifetime is the lifetime of a credential that is minted for a
	// verification.
	trialLifetime = 10 * time.Minute

	// maxQuotedFailures is how many failed registries an error names.
	maxQuotedFailures = 5
)

func (b *backend) pathVerify() []*framework.Path {
	return []*framework.Path{{
		Pattern: "verify/" + nameRegex,
		Fields: map[string]*framework.FieldSchema{
			roleField: roleNameField(),
			"repository": {
				Type:        framework.TypeString,
				Description: "Repository to pull from instead of the role's verify_repository, such as group/my_app or group/my_app:1.4; if the pull secret holds several registries, begin with the registry.",
			},
		},
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "verify", OperationSuffix: "role"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback: b.verifyRole,
				Summary:  "Prove that a role's credentials can pull.",
				Responses: okResponse("What each registry answered. If the pull secret holds several, there is a field for each, named as in image names: its verdict, the role and repository in brackets, and the message after a colon.", map[string]*framework.FieldSchema{
					"verdict":    {Type: framework.TypeString, Required: true, Description: "The worst of all verdicts: ok, unverified, not_found, unreachable or denied."},
					"registry":   {Type: framework.TypeString, Description: "Registry as in image names, if the pull secret holds exactly one."},
					"repository": {Type: framework.TypeString, Description: "Repository that was tried, if any, where the pull secret holds exactly one registry."},
					"message":    {Type: framework.TypeString, Description: "Message of the registry, if any, where the pull secret holds exactly one registry."},
				}),
			},
		},
		HelpSynopsis:    "Proves that a role's credentials can pull.",
		HelpDescription: strings.TrimSpace(verifyHelp),
	}}
}

func (b *backend) verifyRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := roleName(data)
	if err != nil {
		return answer(err)
	}
	r, err := b.role(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, noSuchRole(name)
	}
	secret, done, err := b.secretToVerify(ctx, req.Storage, name, r, false)
	if err != nil {
		return answer(registryError(err))
	}
	defer done()
	repository := data.Get("repository").(string)
	results, err := b.verify(withUrgency(ctx, asked), secret, repository)
	if err != nil {
		return answer(err)
	}
	if repository == "" {
		if err := b.noteVerification(ctx, req.Storage, name, r, secret, results); err != nil {
			return nil, err
		}
	}
	return &logical.Response{Data: verifyResponse(name, results)}, nil
}

// noteVerification records what a request has found, if the engine verifies the role by
// itself, and it was tried what the role serves.
func (b *backend) noteVerification(ctx context.Context, storage logical.Storage, name string, r *role, secret pullSecret, results []verification) error {
	period := r.verifyPeriod(secret.settings)
	isNew := func(s source) bool { return s.isNew }
	if period == 0 || slices.ContainsFunc(secret.sources, isNew) || b.onStandby() || !b.WriteSafeReplicationState() {
		return nil
	}
	retryAt, err := b.recordVerification(ctx, storage, name, secret, results)
	b.verifyAgain(name, period, retryAt)
	return err
}

// secretToVerify returns a pull secret of a role to try: the one that it serves.
// Where it serves none, or another one to each reader, a credential is minted
// for the purpose, and stored nowhere; done revokes it. anew has one minted for
// a dynamic role in any case.
func (b *backend) secretToVerify(ctx context.Context, storage logical.Storage, name string, r *role, anew bool) (secret pullSecret, done func(), err error) {
	var trials []*newCredential
	done = func() {
		b.revokeDropped(ctx, storage, trials)
	}
	secret, err = b.pullSecretOf(ctx, storage, name, r, func(s *source) (err error) {
		if s.isShared() && (s.name != name || !anew) {
			if s.shared, err = b.sharedStatus(ctx, storage, s.name, s.Dynamic); err != nil {
				return err
			}
			if s.shared.serves() {
				s.setCredential(s.shared.Current.Docker, s.shared.Current.ExpiresAt, s.shared.rotation())
				return nil
			}
		}
		if b.onStandby() || s.isShared() && !b.WriteSafeReplicationState() {
			return logical.ErrReadOnly
		}
		minted, err := attend(ctx, b, laneOf(s.Dynamic.Connection), work[*newCredential]{
			do: func(ctx context.Context) (*newCredential, error) {
				return b.mintUntried(ctx, storage, s.name, s.role, func(issuer.Target) time.Duration { return trialLifetime })
			},
			unclaimed: func(minted *newCredential) { b.abandon(b.lifetime, storage, minted) },
		})
		if err != nil {
			return err
		}
		trials = append(trials, minted)
		s.setCredential(minted.Docker, minted.ExpiresAt, nil)
		s.isNew = true
		return nil
	})
	if err != nil {
		done()
	}
	return secret, done, err
}

// verifyBeforeWrite refuses a pull secret unless its registries accept every
// credential.
func (b *backend) verifyBeforeWrite(ctx context.Context, secret pullSecret) ([]verification, error) {
	results, err := b.verify(withUrgency(ctx, asked), secret, "")
	if err != nil {
		return nil, err
	}
	var failed []string
	for _, v := range results {
		if !v.Accepted {
			failed = append(failed, fmt.Sprintf("registry %q: %s (%s)", v.registry.ImageName(), v.Verdict, v.Message))
		}
	}
	if len(failed) > maxQuotedFailures {
		failed = append(failed[:maxQuotedFailures], fmt.Sprintf("and %d more", len(failed)-maxQuotedFailures))
	}
	if failed != nil {
		return nil, refusef("verify: nothing is stored, because not every credential can pull: %s", strings.Join(failed, "; "))
	}
	return results, nil
}

// verifyResponse returns the worst verdict, and the result of each registry as a line
// of its own: Vault's CLI shows a list of objects as one long line.
func verifyResponse(name string, results []verification) map[string]any {
	worst, data := 0, map[string]any{}
	for _, v := range results {
		worst = max(worst, severityOf(v.Verdict))
		if len(results) > 1 {
			data[v.registry.ImageName()] = v.line(name)
		} else {
			maps.Copy(data, v.described())
		}
	}
	// No image name can have a registry called "verdict".
	data["verdict"] = string(bySeverity[worst])
	return data
}

const verifyHelp = `
The engine follows the registry's own challenge, as kubelet does, and asks for a
manifest. A login alone proves little: several registries accept a login and
then refuse the pull.

    ok            the credential can pull
    denied        the registry refused the credential, or the pull
    not_found     the repository or the tag does not exist
    unreachable   no answer, or not the answer of a registry
    unverified    no repository to pull from: at most the credential was tried

A verification changes nothing. It pulls from the role's verify_repository, or
from repository if the request names one. For a bundle it tries every member.
`
