// SPDX-License-Identifier: MPL-2.0

// Package gitlab mints deploy tokens and access tokens of GitLab projects and
// groups. docs/connections/gitlab.md lists the behaviour it depends on, and where
// GitLab documents it.
package gitlab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	api "gitlab.com/gitlab-org/api/client-go"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

// Fields of connections and roles.
const (
	fieldToken                 = "token"
	fieldServiceAccountGroup   = "service_account_group"
	fieldServiceAccountProject = "service_account_project"
	fieldProject               = "project"
	fieldGroup                 = "group"
	fieldTokenType             = "token_type"
	fieldAccess                = "access"
)

// Values of roles' fields.
const (
	deployToken = "deploy_token"
	accessToken = "access_token"
	pull        = "pull"
	push        = "push"
)

const (
	day = 24 * time.Hour

	// maxDays is GitLab's default limit for the end of a token, in days from today.
	maxDays = 365
)

// Type returns the type gitlab.
func Type() issuer.Type {
	return issuer.Type{
		Name:        "gitlab",
		Description: "Mints deploy tokens and access tokens of GitLab projects and groups.",
		ConnectionFields: map[string]*framework.FieldSchema{
			fieldToken: {
				Type:         framework.TypeString,
				Description:  "Personal access token with the scope api, of a user who is Maintainer of the projects or Owner of the groups that roles name.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
			fieldServiceAccountGroup: {
				Type:        framework.TypeString,
				Description: "Group that owns the service account of the token. With it, rotate-root can create the next token; without it and service_account_project, rotate-root can replace only an administrator's token.",
			},
			fieldServiceAccountProject: {
				Type:        framework.TypeString,
				Description: "In place of service_account_group: project that owns the service account of the token (GitLab 18.11 or later).",
			},
		},
		RoleFields: map[string]*framework.FieldSchema{
			fieldProject: {
				Type:        framework.TypeString,
				Description: "Project that the credential is for.",
			},
			fieldGroup: {
				Type:        framework.TypeString,
				Description: "Group that the credential is for, with all projects below it.",
			},
			fieldTokenType: {
				Type:        framework.TypeString,
				Description: "What is minted: deploy_token (default), or access_token.",
			},
			fieldAccess: {
				Type:        framework.TypeString,
				Description: "What the credential may do: pull (default), or push, which includes pull.",
			},
		},
		Target: target,
		New:    open,
	}
}

// fullPath is GitLab's rule for the full path of a project or group.
var fullPath = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.-]*(/[A-Za-z0-9_.][A-Za-z0-9_.-]*)*$`)

// number matches what GitLab takes for the ID of a project or group. allowed_targets
// could not cover an ID.
var number = regexp.MustCompile(`^[0-9]+$`)

func isPath(path string) bool {
	return fullPath.MatchString(path) && !strings.Contains(path, "..") && !strings.Contains("/"+path+"/", "/./") && !number.MatchString(path)
}

func target(_ issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
	project, group := fields[fieldProject], fields[fieldGroup]
	settings := issuer.Settings{
		fieldTokenType: cmp.Or(fields[fieldTokenType], deployToken),
		fieldAccess:    cmp.Or(fields[fieldAccess], pull),
	}
	t := issuer.Target{Settings: settings}
	switch {
	case (project == "") == (group == ""):
		return issuer.Target{}, errors.New("project: exactly one of project and group must be set")
	case project != "" && (!isPath(project) || !strings.Contains(project, "/")):
		return issuer.Target{}, errors.New("project: must be the full path of a project, such as group/my_app, not its number or URL")
	case group != "" && !isPath(group):
		return issuer.Target{}, errors.New("group: must be the full path of a group, such as group/team, not its number or URL")
	case !slices.Contains([]string{deployToken, accessToken}, settings[fieldTokenType]):
		return issuer.Target{}, errors.New("token_type: must be deploy_token or access_token")
	case !slices.Contains([]string{pull, push}, settings[fieldAccess]):
		return issuer.Target{}, errors.New("access: must be pull or push")
	case project != "":
		settings[fieldProject], t.Names = project, []string{project}
	default:
		settings[fieldGroup], t.Names = group, []string{group}
	}
	if settings[fieldTokenType] == accessToken {
		// The end is rounded up by as much as a day.
		t.MaxLifetime = (maxDays - 1) * day
		t.Warnings = []string{"GitLab creates a bot user for each access token, and such a token can end only at the start of a day (UTC); neither applies to deploy_token, the default"}
	}
	return t, nil
}

// gitlab implements [issuer.Issuer] and [issuer.RootRotator].
type gitlab struct {
	api      *api.Client
	conn     issuer.Connection
	provider provider
	now      func() time.Time
}

// noRateLimit replaces the client library's limiter, which could delay a call beyond
// its time limit.
type noRateLimit struct{}

func (noRateLimit) Wait(context.Context) error { return nil }

// notInToken matches characters that a header cannot carry. GitLab's tokens have none
// of them.
var notInToken = regexp.MustCompile(`[^!-~]`)

func open(c issuer.Connection) (issuer.Issuer, error) {
	token := c.Secrets[fieldToken].Reveal()
	of := provider{group: c.Settings[fieldServiceAccountGroup], project: c.Settings[fieldServiceAccountProject]}
	switch {
	case token == "":
		return nil, errors.New("token: must be set, to a personal access token with the scope api")
	case notInToken.MatchString(token):
		return nil, errors.New("token: must be a personal access token: letters, digits and punctuation, without white space")
	case of.group != "" && !isPath(of.group):
		return nil, errors.New("service_account_group: must be the full path of a group, not its number or URL")
	case of.project != "" && (!isPath(of.project) || !strings.Contains(of.project, "/")):
		return nil, errors.New("service_account_project: must be the full path of a project, not its number or URL")
	case of.group != "" && of.project != "":
		return nil, errors.New("service_account_project: must not be set together with service_account_group")
	}
	client, err := newAPI(c)
	if err != nil {
		return nil, err
	}
	return &gitlab{api: client, conn: c, provider: of, now: c.Now}, nil
}

// newAPI returns a client that is authenticated with the connection's token.
func newAPI(c issuer.Connection) (*api.Client, error) {
	inner := *c.HTTP
	inner.Transport = refusalTransport{next: c.HTTP.Transport}
	client, err := api.NewClient(c.Secrets[fieldToken].Reveal(),
		api.WithBaseURL(c.URL),
		api.WithHTTPClient(&inner),
		api.WithoutRetries(),
		api.WithCustomLimiter(noRateLimit{}),
	)
	if err != nil {
		return nil, fmt.Errorf("url: must be the URL of GitLab: %w", err)
	}
	return client, nil
}

// botOfProjectOrGroup matches the user names that GitLab creates for access tokens
// of projects and groups.
var botOfProjectOrGroup = regexp.MustCompile(`^(project|group)_[0-9]+_bot`)

// Check implements [issuer.Issuer]. Whether the user may mint depends on the project
// or group, so only a mint shows it.
func (g *gitlab) Check(ctx context.Context) (issuer.Status, error) {
	token, err := g.self(ctx)
	if err != nil {
		return issuer.Status{}, err
	}
	if !slices.Contains(token.Scopes, "api") {
		return issuer.Status{}, issuer.Refusedf("the token lacks the scope api, which minting needs; create one that has it")
	}
	var user struct {
		Username string `json:"username"`
		IsAdmin  bool   `json:"is_admin"`
	}
	if _, err := g.call(ctx, http.MethodGet, "user", nil, &user); err != nil {
		return issuer.Status{}, err
	}
	if user.Username == "" {
		return issuer.Status{}, issuer.Malformedf("the answer does not name the user of the token")
	}
	status := issuer.Status{Identity: redact.Untrusted(user.Username), ExpiresAt: expiryOf(token.ExpiresAt)}
	if user.IsAdmin {
		status.Warnings = append(status.Warnings, "the token is an administrator's: it may do more than is needed; a user who is Maintainer of the projects, or Owner of the groups, is enough")
	}
	if botOfProjectOrGroup.MatchString(user.Username) {
		status.Warnings = append(status.Warnings, "the token is an access token of a project or group: it can mint deploy tokens only, and rotate-root cannot replace it")
	}
	return status, nil
}

// self returns the connection's token.
func (g *gitlab) self(ctx context.Context) (api.PersonalAccessToken, error) {
	var token api.PersonalAccessToken
	_, err := g.call(ctx, http.MethodGet, personalTokens+"/self", nil, &token)
	switch {
	case err != nil:
		return token, err
	case token.ID == 0 || token.UserID == 0:
		return token, issuer.Malformedf("the answer does not describe the token")
	case token.Revoked || !token.Active:
		return token, issuer.Refusedf("the token is revoked or has expired")
	}
	return token, nil
}

// expiryOf returns when a token with an expiry date ends: at the start of that day.
// It returns zero for a token without a date.
func expiryOf(date *api.ISOTime) time.Time {
	if date == nil {
		return time.Time{}
	}
	return time.Time(*date).UTC()
}
