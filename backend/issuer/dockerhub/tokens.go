// SPDX-License-Identifier: MPL-2.0

package dockerhub

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const description = "Created by Vault (vault-plugin-secrets-regcred), which deletes it when it is no longer used."

// Mint implements [issuer.Issuer]. The user name of a token is the organization's.
func (t *tokens) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	s, err := t.login(ctx)
	if err != nil {
		return issuer.Credential{}, issuer.NothingDone(err)
	}
	scope := "scope-image-" + r.For[fieldAccess]
	wanted := newToken{Label: r.Name, Description: description, ExpiresAt: ceilToSecond(r.ExpiresAt)}
	for repository := range strings.SplitSeq(r.For[fieldRepositories], ",") {
		wanted.Resources = append(wanted.Resources, resource{Type: "TYPE_REPO", Path: repository, Scopes: []string{scope}})
	}
	organization := organizationOf(r.For)
	var created createdToken
	err = s.do(ctx, call{method: http.MethodPost, path: tokensPath(organization), in: wanted, out: &created, status: http.StatusCreated})
	switch {
	case issuer.StatusOf(err) == http.StatusBadRequest:
		return issuer.Credential{}, issuer.Hint(err, fmt.Sprintf("each repository must exist; and an organization may have %d access tokens (Team) or %d (Business), of which those that have expired count", maxTokensTeam, maxTokensBusiness))
	case err != nil:
		return issuer.Credential{}, err
	case created.ID == "" || created.Token.Reveal() == "" || created.Label != r.Name:
		return issuer.Credential{}, issuer.Malformedf("the answer has no access token with the requested label")
	}
	minted := issuer.Credential{ID: created.ID, Username: organization, Password: created.Token.Secret}
	if created.ExpiresAt != nil {
		minted.ExpiresAt = created.ExpiresAt.UTC()
	}
	return minted, nil
}

// ceilToSecond rounds a time up to a whole second.
func ceilToSecond(t time.Time) time.Time {
	second := t.UTC().Truncate(time.Second)
	if second.Before(t) {
		second = second.Add(time.Second)
	}
	return second
}

// Find implements [issuer.Issuer]. Tokens that have expired are among them, because they
// count until they are deleted.
func (t *tokens) Find(ctx context.Context, target issuer.Settings, name string) ([]string, error) {
	s, err := t.login(ctx)
	if err != nil {
		return nil, err
	}
	return s.find(ctx, target, name)
}

func (s session) find(ctx context.Context, target issuer.Settings, name string) ([]string, error) {
	listed, _, err := s.list(ctx, organizationOf(target), func(one accessToken) bool { return one.Label == name && one.ID != "" })
	var ids []string
	for _, one := range listed {
		ids = append(ids, one.ID)
	}
	return ids, err
}

// Revoke implements [issuer.Issuer].
func (t *tokens) Revoke(ctx context.Context, target issuer.Settings, name, id string) error {
	s, err := t.login(ctx)
	if err != nil {
		return err
	}
	find := func(ctx context.Context) ([]string, error) { return s.find(ctx, target, name) }
	return issuer.EndListed(ctx, issuer.Narrowed(find, id), func(ctx context.Context, id string) error {
		return s.do(ctx, call{method: http.MethodDelete, path: tokensPath(organizationOf(target)) + "/" + url.PathEscape(id), status: http.StatusNoContent})
	})
}

// Check implements [issuer.Issuer]. Only an owner can read the list.
func (t *tokens) Check(ctx context.Context) (issuer.Status, error) {
	s, err := t.login(ctx)
	if err != nil {
		return issuer.Status{}, err
	}
	_, total, err := s.list(ctx, t.organization, func(accessToken) bool { return false })
	if err != nil {
		return issuer.Status{}, err
	}
	status := issuer.Status{Identity: t.username}
	for _, most := range []int{maxTokensTeam, maxTokensBusiness} {
		if total <= most && total >= most-most/5 {
			status.Warnings = []string{fmt.Sprintf("%s has %d access tokens; Docker Hub allows %d (Team) or %d (Business), of which those that have expired count", t.organization, total, maxTokensTeam, maxTokensBusiness)}
		}
	}
	return status, nil
}
