// SPDX-License-Identifier: MPL-2.0

// Package quay mints robot accounts of an organization at Quay: quay.io, Red Hat Quay and
// Project Quay.
package quay

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	fieldOrganization = "organization"
	fieldToken        = "token"
	fieldRepositories = "repositories"
	fieldAccess       = "access"

	accessPull = "pull"
	accessPush = "push"

	// maxRepositories caps the calls of one mint: each repository takes one.
	maxRepositories = 20
)

// Type returns the type quay.
func Type() issuer.Type {
	return issuer.Type{
		Name:        "quay",
		Description: "Mints robot accounts of an organization at Quay, which may pull from (or push to) some of its repositories.",
		ConnectionFields: map[string]*framework.FieldSchema{
			fieldOrganization: {
				Type:        framework.TypeString,
				Description: "Organization whose robot accounts are minted.",
			},
			fieldToken: {
				Type:         framework.TypeString,
				Description:  "OAuth access token of an application of the organization, with the scopes org:admin and repo:admin.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
		},
		RoleFields: map[string]*framework.FieldSchema{
			fieldRepositories: {
				Type:        framework.TypeCommaStringSlice,
				Description: "Repositories of the organization, without its name, that the robot account may use.",
			},
			fieldAccess: {
				Type:        framework.TypeString,
				Description: "What the credential may do: pull (default), or push, which includes pull.",
			},
		},
		PlaceFields: []string{fieldOrganization},
		Target:      target,
		New:         open,
	}
}

var (
	// organizationPattern is Quay's rule for names of organizations; older ones may have
	// several of "._-" in a row.
	organizationPattern = regexp.MustCompile(`^[a-z0-9]+(?:[._-]+[a-z0-9]+)*$`)

	// repositoryPattern is Quay's rule for names of repositories; a "/" needs its feature
	// for extended names.
	repositoryPattern = regexp.MustCompile(`^[a-z0-9][.a-z0-9_-]*(?:/[a-z0-9][.a-z0-9_-]*)*$`)

	tokenPattern = regexp.MustCompile(`^[!-~]+$`)
)

func target(_ issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
	if fields[fieldRepositories] == "" {
		return issuer.Target{}, errors.New("repositories: must name the repositories of the organization that the robot account may use, such as app")
	}
	names := strings.Split(fields[fieldRepositories], ",")
	if len(names) > maxRepositories {
		return issuer.Target{}, fmt.Errorf("repositories: must be at most %d, because Quay takes one call for each; it gives more to several roles, which a bundle joins", maxRepositories)
	}
	for i, name := range names {
		switch {
		case !repositoryPattern.MatchString(name) || strings.Contains(name, "..") || len(name) > 255:
			return issuer.Target{}, fmt.Errorf("repositories: entry %d must be the name of one repository, without the organization and without wildcards: a-z, 0-9 and any of ._-", i+1)
		case slices.Contains(names[:i], name):
			return issuer.Target{}, fmt.Errorf("repositories: names %q twice", name)
		}
	}
	access := fields[fieldAccess]
	switch access {
	case "":
		access = accessPull
	case accessPull, accessPush:
	default:
		return issuer.Target{}, errors.New("access: must be pull or push (push includes pull)")
	}
	return issuer.Target{Settings: issuer.Settings{fieldRepositories: fields[fieldRepositories], fieldAccess: access}, Names: names}, nil
}

type quay struct {
	conn         issuer.Connection
	organization string
	token        dockerconfig.Secret
}

func open(c issuer.Connection) (issuer.Issuer, error) {
	q := &quay{conn: c, organization: c.Settings[fieldOrganization], token: c.Secrets[fieldToken]}
	switch {
	case !organizationPattern.MatchString(q.organization) || len(q.organization) > 255:
		return nil, errors.New("organization: must be the name of an organization at Quay: a-z and 0-9, with any of ._- in between")
	case q.token.Reveal() == "":
		return nil, errors.New("token: must be set: an OAuth access token of an application of the organization, with the scopes org:admin and repo:admin")
	case !tokenPattern.MatchString(q.token.Reveal()):
		return nil, errors.New("token: must be ASCII characters without white space")
	}
	return q, nil
}

// robot returns the full name of a robot account, which is its user name, and all that
// Quay knows it by.
func (q *quay) robot(name string) string { return q.organization + "+" + name }

// Check implements [issuer.Issuer]. Whether the token may administer a repository shows
// only at the first mint for it.
func (q *quay) Check(ctx context.Context) (issuer.Status, error) {
	// This is refused to who is nobody. The organization itself may be public.
	if err := q.listOne(ctx); err != nil {
		return issuer.Status{}, err
	}
	admin, err := q.isAdmin(ctx)
	switch {
	case err != nil:
		return issuer.Status{}, err
	case !admin:
		return issuer.Status{}, issuer.Refusedf("the token does not administer the organization %s: it lacks the scope org:admin, or its user is not in a team of owners", q.organization)
	}
	return issuer.Status{Identity: "an application of the organization " + q.organization}, nil
}

// Mint implements [issuer.Issuer]. The robot account is made first, and may use nothing
// then.
func (q *quay) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	secret, err := q.createRobot(ctx, r.Name)
	if err != nil {
		return issuer.Credential{}, err
	}
	for _, repository := range strings.Split(r.For[fieldRepositories], ",") {
		if err := q.allow(ctx, r.Name, repository, r.For[fieldAccess]); err != nil {
			return issuer.Credential{}, q.undo(ctx, r.Name, repository, err)
		}
	}
	return issuer.Credential{ID: q.robot(r.Name), Username: q.robot(r.Name), Password: dockerconfig.NewSecret(secret)}, nil
}

// undo deletes a robot account that could not be given what its role names. The error is
// not definite, so that the engine makes sure that it is gone.
func (q *quay) undo(ctx context.Context, name, repository string, cause error) error {
	_ = q.deleteRobot(ctx, name) // what is left, the engine finds
	return issuer.Indefinite(cause, fmt.Sprintf("the new robot account could not be given access to the repository %s/%s", q.organization, repository))
}

// Find implements [issuer.Issuer].
func (q *quay) Find(ctx context.Context, _ issuer.Settings, name string) ([]string, error) {
	err := q.getRobot(ctx, name)
	switch {
	case issuer.IsGone(err):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return []string{q.robot(name)}, nil
}

// Revoke implements [issuer.Issuer]. A robot account has no ID besides its name. The answer
// to a deletion has no body, so that it could be a proxy's: Quay is asked afterwards.
func (q *quay) Revoke(ctx context.Context, settings issuer.Settings, name, _ string) error {
	find := func(ctx context.Context) ([]string, error) { return q.Find(ctx, settings, name) }
	return issuer.EndListed(ctx, find, func(ctx context.Context, _ string) error { return q.deleteRobot(ctx, name) })
}
