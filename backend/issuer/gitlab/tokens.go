// SPDX-License-Identifier: MPL-2.0

package gitlab

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	api "gitlab.com/gitlab-org/api/client-go"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// tokensOf returns the API path of a target's tokens.
func tokensOf(target issuer.Settings) string {
	owner := "projects/" + api.PathEscape(target[fieldProject])
	if group := target[fieldGroup]; group != "" {
		owner = "groups/" + api.PathEscape(group)
	}
	if target[fieldTokenType] == accessToken {
		return owner + "/access_tokens"
	}
	return owner + "/deploy_tokens"
}

// scopesFor returns the scopes of a token, and the lowest role that may use them in a
// private project. A push needs both scopes, because clients first check which
// layers exist.
func scopesFor(target issuer.Settings) ([]string, api.AccessLevelValue) {
	if target[fieldAccess] == push {
		return []string{"read_registry", "write_registry"}, api.DeveloperPermissions
	}
	return []string{"read_registry"}, api.ReporterPermissions
}

// Mint implements [issuer.Issuer].
func (g *gitlab) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	if r.For[fieldTokenType] == accessToken {
		return g.mintAccessToken(ctx, r)
	}
	return g.mintDeployToken(ctx, r)
}

func (g *gitlab) mintDeployToken(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	scopes, _ := scopesFor(r.For)
	until := ceilToSecond(r.ExpiresAt)
	var token api.DeployToken
	// Groups take the same options as projects.
	if _, err := g.call(ctx, http.MethodPost, tokensOf(r.For), api.CreateProjectDeployTokenOptions{
		Name:      &r.Name,
		Scopes:    &scopes,
		ExpiresAt: &until,
	}, &token); err != nil {
		return issuer.Credential{}, err
	}
	minted := issuer.Credential{
		ID:       fmt.Sprint(token.ID),
		Username: token.Username,
		Password: dockerconfig.NewSecret(token.Token),
	}
	if token.ExpiresAt != nil {
		minted.ExpiresAt = token.ExpiresAt.UTC()
	}
	return validate(minted, token.ID)
}

func (g *gitlab) mintAccessToken(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	scopes, level := scopesFor(r.For)
	until := api.ISOTime(issuer.CoveringDate(r.ExpiresAt))
	var token api.PersonalAccessToken
	if _, err := g.call(ctx, http.MethodPost, tokensOf(r.For), api.CreateProjectAccessTokenOptions{
		Name:        &r.Name,
		Scopes:      &scopes,
		AccessLevel: &level,
		ExpiresAt:   &until,
	}, &token); err != nil {
		return issuer.Credential{}, err
	}
	return validate(issuer.Credential{
		ID:        fmt.Sprint(token.ID),
		Username:  r.Name, // GitLab accepts any
		Password:  dockerconfig.NewSecret(token.Token),
		ExpiresAt: expiryOf(token.ExpiresAt),
	}, token.ID)
}

// validate refuses a token that could not be used, or not be revoked.
func validate(minted issuer.Credential, id int64) (issuer.Credential, error) {
	if id <= 0 || minted.Username == "" || minted.Password.Reveal() == "" {
		return issuer.Credential{}, issuer.Malformedf("the answer has no token")
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

// Find implements [issuer.Issuer].
func (g *gitlab) Find(ctx context.Context, target issuer.Settings, name string) ([]string, error) {
	var list listOptions
	if target[fieldTokenType] == accessToken {
		list = listOptions{State: "active", Search: name}
	}
	ids, err := g.find(ctx, tokensOf(target), list, name)
	if isGone(err) {
		return nil, nil
	}
	return ids, err
}

// Revoke implements [issuer.Issuer].
func (g *gitlab) Revoke(ctx context.Context, target issuer.Settings, id string) error {
	if _, err := strconv.ParseInt(id, 10, 64); err != nil {
		return issuer.Refusedf("the ID of the credential is not a number, as IDs of GitLab are")
	}
	_, err := g.call(ctx, http.MethodDelete, tokensOf(target)+"/"+id, nil, nil)
	if isGone(err) {
		return nil
	}
	return err
}
