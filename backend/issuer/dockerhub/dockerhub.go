// SPDX-License-Identifier: MPL-2.0

// Package dockerhub mints organization access tokens of Docker Hub.
// docs/connections/dockerhub.md lists the behaviour it depends on, and where Docker
// documents it.
package dockerhub

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// Fields of connections and roles.
const (
	fieldOrganization = "organization"
	fieldUsername     = "username"
	fieldPassword     = "password"
	fieldRepositories = "repositories"
	fieldAccess       = "access"
)

// Values of the field access.
const (
	pull = "pull"
	push = "push"
)

const (
	// maxRepositories is Docker's limit for one token.
	maxRepositories = 50

	// maxTokensTeam and maxTokensBusiness are how many access tokens an organization may
	// have, by its subscription. Those that have expired count.
	maxTokensTeam, maxTokensBusiness = 10, 100
)

// Type returns the type dockerhub.
func Type() issuer.Type {
	return issuer.Type{
		Name:            "dockerhub",
		Description:     "Mints organization access tokens of Docker Hub that may pull from, and if asked push to, the named repositories.",
		DefaultURL:      "https://hub.docker.com",
		DefaultRegistry: "docker.io",
		ConnectionFields: map[string]*framework.FieldSchema{
			fieldOrganization: {
				Type:        framework.TypeString,
				Description: "Organization that the tokens belong to. It is their user name.",
			},
			fieldUsername: {
				Type:        framework.TypeString,
				Description: "Docker ID of an owner of the organization.",
			},
			fieldPassword: {
				Type:         framework.TypeString,
				Description:  "Password of that user. Docker Hub lets no personal access token mint.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
		},
		RoleFields: map[string]*framework.FieldSchema{
			fieldRepositories: {
				Type:        framework.TypeCommaStringSlice,
				Description: "Repositories of the organization that the credential is for, such as acme/web.",
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

var (
	// organizationName is narrower than what Docker may allow, and names nothing else
	// in the path of an API.
	organizationName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{1,62}$`)

	// repositoryName is Docker's rule for the name of a repository.
	repositoryName = regexp.MustCompile(`^[a-z0-9]+(?:[._-][a-z0-9]+)*$`)
)

func target(c issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
	repositories, err := parseRepositories(fields[fieldRepositories], c.Settings[fieldOrganization])
	if err != nil {
		return issuer.Target{}, fmt.Errorf("%s: %w", fieldRepositories, err)
	}
	access := cmp.Or(fields[fieldAccess], pull)
	if access != pull && access != push {
		return issuer.Target{}, fmt.Errorf("%s: must be %s or %s, got %q", fieldAccess, pull, push, access)
	}
	return issuer.Target{
		Settings: issuer.Settings{fieldRepositories: strings.Join(repositories, ","), fieldAccess: access},
		Names:    repositories,
		Warnings: []string{fmt.Sprintf("repositories: Docker Hub lets an organization have %d access tokens (Team) or %d (Business): a shared role takes one, and one more for each credential in its grace_period; a leased role takes one for each lease", maxTokensTeam, maxTokensBusiness)},
	}, nil
}

// parseRepositories returns the repositories of an organization in a list, sorted.
func parseRepositories(list, organization string) ([]string, error) {
	if list == "" {
		return nil, errors.New("must name at least one repository, such as " + cmp.Or(organization, "acme") + "/web")
	}
	repositories := strings.Split(list, ",")
	slices.Sort(repositories)
	if len(repositories) > maxRepositories {
		return nil, fmt.Errorf("must be at most %d, which is Docker Hub's limit for one token; these are %d", maxRepositories, len(repositories))
	}
	for i, repository := range repositories {
		owner, name, _ := strings.Cut(repository, "/")
		switch {
		case strings.Contains(repository, "*"):
			return nil, fmt.Errorf("must name each repository, without *, got %q", repository)
		case len(name) < 2 || len(name) > 255 || !repositoryName.MatchString(name) || !organizationName.MatchString(owner):
			return nil, fmt.Errorf("must be repositories such as acme/web (2 to 255 characters after the slash: a-z and 0-9, with single . _ - between them), got %q", repository)
		case owner != organization:
			return nil, fmt.Errorf("must be repositories of %s, the organization of the connection, got %q", organization, repository)
		case i > 0 && repository == repositories[i-1]:
			return nil, fmt.Errorf("must name each repository once, got %q twice", repository)
		}
	}
	return repositories, nil
}

// organizationOf returns the organization that a target's tokens belong to. The
// connection may name another one by now.
func organizationOf(target issuer.Settings) string {
	organization, _, _ := strings.Cut(target[fieldRepositories], "/")
	return organization
}

// tokens is the [issuer.Issuer] of organization access tokens. Docker Hub has no API that
// replaces a password, and lets no personal access token mint, so that it is no
// [issuer.RootRotator].
type tokens struct {
	api
	organization string
	now          func() time.Time
}

func open(c issuer.Connection) (issuer.Issuer, error) {
	username, err := dockerconfig.ParseUsername(c.Settings[fieldUsername])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fieldUsername, err)
	}
	password := c.Secrets[fieldPassword]
	switch organization := c.Settings[fieldOrganization]; {
	case password.Reveal() == "":
		return nil, fmt.Errorf("%s: must be set, to the password of that user", fieldPassword)
	case !organizationName.MatchString(organization):
		return nil, fmt.Errorf("%s: must be the name of an organization: a-z, 0-9, _ and -, got %q", fieldOrganization, organization)
	}
	return &tokens{
		api:          api{url: c.URL, http: c.HTTP, username: username, password: password},
		organization: c.Settings[fieldOrganization], now: c.Now,
	}, nil
}
