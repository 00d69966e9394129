// SPDX-License-Identifier: MPL-2.0

// Package harbor mints robot accounts of Harbor. A role of one project gets a
// project-level robot account, which a project administrator may create. A role of
// several projects gets a system-level one. The API is Harbor's
// api/v2.0/swagger.yaml, as of Harbor 2.2, or 2.12.1 if the root credential is a
// robot account itself.
package harbor

import (
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
	fieldUsername = "username"
	fieldPassword = "password"
	fieldProjects = "projects"
	fieldAccess   = "access"

	accessPull = "pull"
	accessPush = "push"

	maxProjectName = 255 // bytes

	// maxOnlyProject is for the project of a role that names only one: Harbor stores
	// the names of its robot accounts as project+name, in 255 bytes, and answers 500
	// to longer ones.
	maxOnlyProject = 255 - len("+") - issuer.MaxName
)

// projectName is Harbor's rule for names of projects. It does not match "*", which
// means all projects to Harbor.
var projectName = regexp.MustCompile(`^[a-z0-9]+(?:[._-][a-z0-9]+)*$`)

// Type returns the type harbor.
func Type() issuer.Type {
	return issuer.Type{
		Name:        "harbor",
		Description: "Mints robot accounts of Harbor that may pull from, and if asked push to, the named projects.",
		ConnectionFields: map[string]*framework.FieldSchema{
			fieldUsername: {
				Type:        framework.TypeString,
				Description: "User name of the root credential.",
			},
			fieldPassword: {
				Type:         framework.TypeString,
				Description:  "Password of that user, or the robot secret or access token used in its place.",
				DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
			},
		},
		RoleFields: map[string]*framework.FieldSchema{
			fieldProjects: {
				Type:        framework.TypeCommaStringSlice,
				Description: "Names of the projects that the credential is for.",
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

func target(_ issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
	projects, err := parseProjects(fields[fieldProjects])
	if err != nil {
		return issuer.Target{}, fmt.Errorf("%s: %w", fieldProjects, err)
	}
	access := fields[fieldAccess]
	switch access {
	case "":
		access = accessPull
	case accessPull, accessPush:
	default:
		return issuer.Target{}, fmt.Errorf("%s: must be %s or %s, got %q", fieldAccess, accessPull, accessPush, access)
	}
	return issuer.Target{
		Settings: issuer.Settings{fieldProjects: strings.Join(projects, ","), fieldAccess: access},
		Names:    projects,
	}, nil
}

// parseProjects returns the names, sorted.
func parseProjects(list string) ([]string, error) {
	if list == "" {
		return nil, errors.New("must name at least one project")
	}
	projects := strings.Split(list, ",")
	slices.Sort(projects)
	if len(projects) == 1 && len(list) > maxOnlyProject && len(list) <= maxProjectName {
		return nil, fmt.Errorf("the name of the project must have at most %d characters, because Harbor stores the names of its robot accounts with the project's in front, in 255; this one has %d", maxOnlyProject, len(list))
	}
	for i, name := range projects {
		switch {
		case name == "*":
			return nil, errors.New("must name each project; in Harbor, * means every project, including those of other teams")
		case !projectName.MatchString(name) || len(name) > maxProjectName:
			return nil, fmt.Errorf("must be names of projects (a-z and 0-9, with single . _ - between them, at most %d characters), got %q", maxProjectName, name)
		case i > 0 && name == projects[i-1]:
			return nil, fmt.Errorf("must name each project once, got %q twice", name)
		}
	}
	return projects, nil
}

// robots is the [issuer.Issuer] of robot accounts.
type robots struct {
	api
	admin basicAuth
}

var _ issuer.RootRotator = (*robots)(nil)

func open(c issuer.Connection) (issuer.Issuer, error) {
	username, err := dockerconfig.ParseUsername(c.Settings[fieldUsername])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fieldUsername, err)
	}
	password := c.Secrets[fieldPassword]
	if password.Reveal() == "" {
		return nil, fmt.Errorf("%s: must not be empty", fieldPassword)
	}
	return &robots{
		api:   api{url: c.URL + "/api/v2.0", http: c.HTTP, now: c.Now},
		admin: basicAuth{username: username, password: password},
	}, nil
}
