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
	return below(owner, target)
}

// below returns the API path of the tokens of a project or group.
func below(owner string, target issuer.Settings) string {
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
func (g *gitlab) Find(ctx context.Context, target issuer.Settings, name string) (ids []string, err error) {
	err = g.inOwner(ctx, target, name, func(tokens string) error {
		ids, err = g.findIn(ctx, tokens, target, name)
		return err
	})
	if issuer.IsGone(err) {
		return nil, nil
	}
	return ids, err
}

func (g *gitlab) findIn(ctx context.Context, tokens string, target issuer.Settings, name string) ([]string, error) {
	return g.find(ctx, tokens, optionsFor(target, name), name)
}

// optionsFor returns what limits a list to a name. Deploy tokens cannot be searched.
func optionsFor(target issuer.Settings, name string) listOptions {
	if target[fieldTokenType] == accessToken {
		return listOptions{State: "active", Search: name}
	}
	return listOptions{}
}

// Revoke implements [issuer.Issuer].
func (g *gitlab) Revoke(ctx context.Context, target issuer.Settings, name, id string) error {
	if _, err := strconv.ParseInt(id, 10, 64); err != nil {
		return issuer.Refusedf("the ID of the credential is not a number, as IDs of GitLab are")
	}
	err := g.inOwner(ctx, target, name, func(tokens string) error {
		return issuer.Ending{
			NameOf: func(ctx context.Context, id string) (string, error) { return g.nameOf(ctx, tokens, name, id) },
			Find:   func(ctx context.Context) ([]string, error) { return g.findIn(ctx, tokens, target, name) },
			Delete: func(ctx context.Context, id string) error { return g.delete(ctx, tokens, id) },
		}.End(ctx, name, id)
	})
	if issuer.IsGone(err) {
		return nil
	}
	return err
}

// inOwner looks for a target's token, with the API path of the tokens. It follows a
// project to its new path, where its tokens live on: also one that is being deleted,
// which GitLab renames first. Where the project or group is not to be seen, the error
// proves that the token is gone only if an administrator does not see the token either.
func (g *gitlab) inOwner(ctx context.Context, target issuer.Settings, name string, look func(tokens string) error) error {
	err := look(tokensOf(target))
	if project := movedTo(err); project != "" {
		err = look(below("projects/"+project, target))
	}
	if !isOwnerGone(err) {
		return err
	}
	return g.explainOwnerGone(ctx, target, name, err)
}

// explainOwnerGone asks an administrator's lists, which have the tokens of all projects
// and groups, whether a token exists.
func (g *gitlab) explainOwnerGone(ctx context.Context, target issuer.Settings, name string, gone error) error {
	ids, err := g.findAnywhere(ctx, target, name)
	switch status := issuer.StatusOf(err); {
	case err == nil && len(ids) == 0:
		return issuer.Gonef("there is no such token")
	case err == nil:
		return issuer.Refusedf("the project or group has another path now, and its token still exists: write the path to the role, or delete the token in GitLab")
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		return issuer.Hint(gone, "to a user who is no member, GitLab answers as if the project or group had been deleted: make the user of the token a member again, or write an administrator's token to the connection, which sees whether the credential is gone; otherwise it works until it ends by itself")
	}
	return err
}

// findAnywhere returns the IDs of the live tokens with a name in all projects and groups.
// GitLab answers 403 to all except administrators.
func (g *gitlab) findAnywhere(ctx context.Context, target issuer.Settings, name string) ([]string, error) {
	if target[fieldTokenType] != accessToken {
		return g.find(ctx, "deploy_tokens", listOptions{Active: true}, name)
	}
	// To others, the list of access tokens is that of their own.
	var first issuer.List[tokenEntry]
	if _, err := g.call(ctx, http.MethodGet, "deploy_tokens", listOptions{Page: 1, PerPage: 1}, &first); err != nil {
		return nil, err
	}
	return g.find(ctx, personalTokens, optionsFor(target, name), name)
}

// nameOf returns the name of the token that has an ID. The error proves that there is
// none, or that the wanted one has ended.
func (g *gitlab) nameOf(ctx context.Context, tokens, wanted, id string) (string, error) {
	var token tokenEntry
	_, err := g.call(ctx, http.MethodGet, tokens+"/"+id, nil, &token)
	switch {
	case err != nil:
		return "", err
	case fmt.Sprint(token.ID) != id || token.Name == "":
		return "", issuer.Malformedf("the answer does not describe the token")
	case token.Name == wanted && !token.works():
		return token.Name, issuer.Gonef("the token has ended")
	}
	return token.Name, nil
}

func (g *gitlab) delete(ctx context.Context, tokens, id string) error {
	_, err := g.call(ctx, http.MethodDelete, tokens+"/"+id, nil, nil)
	return err
}
