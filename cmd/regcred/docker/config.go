// SPDX-License-Identifier: MPL-2.0

package docker

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// config is the file docker.yaml.
type config struct {
	client.Settings

	// Roles are the roles by registry, as in image names.
	Roles map[string]string `json:"roles,omitempty"`
	// Role is the role for all other registries that its pull secret holds.
	Role string `json:"role,omitempty"`

	path  string // where it was read; empty: nowhere
	hosts map[string]string
}

// load reads the first file that exists of those that [Paths] names. The
// environment goes before it, and may take its place.
func load(program string) (*config, error) {
	c := &config{}
	for i, path := range Paths(program) {
		err := client.LoadFile(path, c)
		if err == nil {
			c.path = path
			break
		}
		named := i == 0 && os.Getenv("REGCRED_DOCKER_CONFIG") != ""
		if !errors.Is(err, fs.ErrNotExist) || named {
			return nil, err
		}
	}
	c.ApplyEnvironment()
	if role := os.Getenv("REGCRED_ROLE"); role != "" {
		c.Role = role
	}
	return c, c.check(program)
}

// Paths returns the files in which the configuration of a program is looked for.
// The program's name tells it: docker-credential-regcred-work reads
// docker-work.yaml.
func Paths(program string) []string {
	if path := os.Getenv("REGCRED_DOCKER_CONFIG"); path != "" {
		return []string{path}
	}
	name := "docker" + client.Instance(program, Program) + ".yaml"
	var paths []string
	if dir, err := os.UserConfigDir(); err == nil {
		paths = append(paths, filepath.Join(dir, "regcred", name))
	}
	return append(paths, filepath.Join(client.SystemFolder, name))
}

func (c *config) check(program string) error {
	if c.Role == "" && len(c.Roles) == 0 {
		return &client.Failure{
			What: "no role is configured",
			Do:   fmt.Sprintf("write \"role: my_app\" to %s, or set REGCRED_ROLE", Paths(program)[0]),
		}
	}
	c.hosts = map[string]string{}
	for _, registry := range slices.Sorted(maps.Keys(c.Roles)) {
		key, _, err := dockerconfig.ParseKey(registry)
		if err != nil {
			return &client.Failure{What: fmt.Sprintf("%s: roles: %q %s", c.path, registry, err)}
		}
		if key.Path() != "" {
			return &client.Failure{What: fmt.Sprintf("%s: roles: %q must be a host without a path, because helpers are asked for hosts only", c.path, registry)}
		}
		if _, twice := c.hosts[key.Host()]; twice {
			return &client.Failure{What: fmt.Sprintf("%s: roles: %s is there twice, under two spellings", c.path, key.Host())}
		}
		if err := client.CheckRole(c.Roles[registry]); err != nil {
			return err
		}
		c.hosts[key.Host()] = c.Roles[registry]
	}
	if c.Role != "" {
		return client.CheckRole(c.Role)
	}
	return nil
}
