// SPDX-License-Identifier: MPL-2.0

package gitlab

import (
	"context"
	"fmt"
	"net/http"
	"time"

	api "gitlab.com/gitlab-org/api/client-go"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

const personalTokens = "personal_access_tokens"

// provider is the group or project that a service account belongs to; zero if the
// connection names none.
type provider struct{ group, project string }

// path returns its API path.
func (p provider) path() string {
	switch {
	case p.group != "":
		return "groups/" + api.PathEscape(p.group)
	case p.project != "":
		return "projects/" + api.PathEscape(p.project)
	}
	return ""
}

// PrepareRoot implements [issuer.RootRotator]: it creates a second token of the same
// user. It does not use GitLab's own rotation, because that call revokes the old
// token and returns the new one: if the answer is lost, both are lost.
func (g *gitlab) PrepareRoot(ctx context.Context, name string) (issuer.Root, error) {
	old, err := g.self(ctx)
	if err != nil {
		return issuer.Root{}, err
	}
	path := fmt.Sprintf("users/%d/%s", old.UserID, personalTokens)
	if owner := g.provider.path(); owner != "" {
		path = fmt.Sprintf("%s/service_accounts/%d/%s", owner, old.UserID, personalTokens)
	}
	var token api.PersonalAccessToken
	_, err = g.call(ctx, http.MethodPost, path, api.CreatePersonalAccessTokenOptions{
		Name:      &name,
		Scopes:    &old.Scopes,
		ExpiresAt: nextExpiry(old, g.now()),
	}, &token)
	switch status := issuer.StatusOf(err); {
	case status == http.StatusForbidden || status == http.StatusNotFound:
		return issuer.Root{}, g.notRotatable(status)
	case err != nil:
		return issuer.Root{}, err
	case token.Token == "":
		return issuer.Root{}, issuer.Malformedf("the answer has no token")
	}
	return issuer.Root{Secrets: issuer.Secrets{fieldToken: dockerconfig.NewSecret(token.Token)}}, nil
}

// nextExpiry returns the end of the next token: as many days from today as the old
// token had from its creation. It returns nil if the old token has no end.
func nextExpiry(old api.PersonalAccessToken, now time.Time) *api.ISOTime {
	if old.ExpiresAt == nil {
		return nil
	}
	days := maxDays
	if old.CreatedAt != nil {
		lifetime := expiryOf(old.ExpiresAt).Sub(old.CreatedAt.UTC().Truncate(day))
		days = min(days, max(1, int(lifetime/day)))
	}
	date := api.ISOTime(now.UTC().Truncate(day).AddDate(0, 0, days))
	return &date
}

const replaceManually = "create a new token in GitLab and write it: vault write regcred/connections/NAME token=…"

func (g *gitlab) notRotatable(status int) error {
	switch {
	case g.provider.group != "":
		return issuer.Refusedf("answered %d to the request for the next token: GitLab lets only Owners of the group %q and administrators create tokens of its service accounts, and the user of the token must be such a service account; otherwise, %s",
			status, g.provider.group, replaceManually)
	case g.provider.project != "":
		return issuer.Refusedf("answered %d to the request for the next token: GitLab (18.11 or later) lets only Maintainers and Owners of the project %q and administrators create tokens of its service accounts, and the user of the token must be such a service account; otherwise, %s",
			status, g.provider.project, replaceManually)
	}
	return issuer.Refusedf("answered %d to the request for the next token: GitLab lets only administrators create tokens of users (with the scope admin_mode where Admin Mode is on), and only Owners of a group, or Maintainers of a project, those of its service accounts (set service_account_group or service_account_project of the connection); otherwise, %s",
		status, replaceManually)
}

// ActivateRoot implements [issuer.RootRotator]. A token works from its creation on.
func (*gitlab) ActivateRoot(context.Context, issuer.Root) error { return nil }

// DiscardRoot implements [issuer.RootRotator].
func (g *gitlab) DiscardRoot(ctx context.Context, name string) error {
	self, err := g.self(ctx)
	if err != nil {
		return err
	}
	return issuer.Ending{
		Find: func(ctx context.Context) ([]string, error) {
			return g.find(ctx, personalTokens, listOptions{UserID: self.UserID, State: "active", Search: name}, name)
		},
		Delete: func(ctx context.Context, id string) error { return g.delete(ctx, personalTokens, id) },
	}.EndNamed(ctx)
}

// RetireRoot implements [issuer.RootRotator]: the old token revokes itself. One that
// GitLab refuses has ended if GitLab accepts the new one.
func (g *gitlab) RetireRoot(ctx context.Context, old issuer.Root) error {
	retired, err := newAPI(g.conn.With(old))
	if err != nil {
		return err
	}
	_, err = (&gitlab{api: retired}).call(ctx, http.MethodDelete, personalTokens+"/self", nil, nil)
	if !issuer.IsRefused(err) {
		return err
	}
	_, err = g.self(ctx)
	return err
}
