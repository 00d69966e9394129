// SPDX-License-Identifier: MPL-2.0

// Package docker is the Docker credential helper docker-credential-regcred. It
// answers Docker, podman and all others that ask credential helpers with what
// Vault has for a registry.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/docker/docker-credential-helpers/credentials"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// Program is the name under which Docker finds the helper "regcred".
const Program = "docker-credential-regcred"

// Serve carries out one action of the helpers' protocol: get, list, store, erase
// or version, and reports whether there was no error. It writes an error to out,
// as the protocol says, and to warnings as well: "docker pull" ignores the former,
// goes on without a credential, and shows the latter to the user.
func Serve(ctx context.Context, program, version, action string, in io.Reader, out, warnings io.Writer) bool {
	credentials.Name, credentials.Package, credentials.Version = Program, "regcred", version
	err := credentials.HandleCommand(&helper{ctx, program, warnings}, action, io.LimitReader(in, maxInput), out)
	if err == nil {
		return true
	}
	var ours *client.Failure
	text := "regcred: " + client.Line(err)
	switch {
	case credentials.IsErrCredentialsNotFound(err): // only this text lets clients go on
		text = err.Error()
	case errors.As(err, &ours):
	case credentials.IsCredentialsMissingServerURL(err):
		text = "regcred: the registry is missing: its host must stand on the standard input"
	case !slices.Contains([]string{credentials.ActionGet, credentials.ActionList, credentials.ActionStore, credentials.ActionErase}, action):
		text = "regcred: there is no such action; there are get, list, store, erase and version"
	case action == credentials.ActionStore: // the input was no credential
		text = "regcred: " + client.Line(readOnly("store"))
	}
	_, _ = fmt.Fprintln(out, text)
	if !credentials.IsErrCredentialsNotFound(err) {
		_, _ = fmt.Fprintln(warnings, text)
	}
	return false
}

// maxInput is more than any action needs, in bytes.
const maxInput = 1 << 20

// helper implements [credentials.Helper].
type helper struct {
	ctx      context.Context // the interface passes none
	program  string
	warnings io.Writer
}

// Get returns the user name and password for a registry.
func (h *helper) Get(server string) (username, password string, err error) {
	c, err := load(h.program)
	if err != nil {
		return "", "", err
	}
	host, err := hostOf(server)
	if err != nil {
		return "", "", err
	}
	role, named := c.roleFor(host)
	if role == "" {
		return "", "", credentials.NewErrCredentialsNotFound()
	}
	secret, err := c.read(h.ctx, role)
	if err != nil {
		return "", "", err
	}
	found, err := credentialFor(secret, role, host, named)
	if err != nil {
		return "", "", err
	}
	return found.Username, found.Password.Reveal(), nil
}

// List returns the user names by registry of all roles. A role that cannot be
// read is left out with a warning: an error would stop every build that asks,
// whatever registry it is for.
func (h *helper) List() (map[string]string, error) {
	all := map[string]string{}
	c, err := load(h.program)
	if err != nil {
		h.warn(err)
		return all, nil
	}
	for _, role := range c.allRoles() {
		secret, err := c.read(h.ctx, role)
		if err != nil {
			h.warn(err)
			continue
		}
		for _, found := range secret.Docker.Credentials() {
			host := found.Registry.Host()
			if asked, _ := c.roleFor(host); asked != role {
				continue
			}
			if found.Registry == dockerconfig.DockerHub {
				host = string(dockerconfig.DockerHub)
			}
			all[host] = found.Username
		}
	}
	return all, nil
}

// Add explains that nothing can be stored.
func (*helper) Add(*credentials.Credentials) error { return readOnly("store") }

// Delete explains that nothing can be erased.
func (*helper) Delete(string) error { return readOnly("erase") }

func readOnly(action string) error {
	what := map[string]string{
		"store": "nothing is stored here: the credentials are in Vault, and \"docker login\" is not needed",
		"erase": "nothing is erased here: the credentials are in Vault, and this machine has no copy",
	}
	do := map[string]string{
		"store": "write them to a role with \"vault write\", or take this registry out of credHelpers and credsStore",
		"erase": "to pull without them, take this registry out of credHelpers and credsStore",
	}
	return &client.Failure{What: what[action], Do: do[action]}
}

func (h *helper) warn(err error) {
	_, _ = fmt.Fprintln(h.warnings, "regcred: left out of the list:", client.Line(err))
}

// hostOf returns the host that a client means by what it asks for: docker.io for
// each name of Docker Hub.
func hostOf(server string) (string, error) {
	key, _, err := dockerconfig.ParseKey(strings.TrimSpace(server))
	if err != nil {
		return "", &client.Failure{What: fmt.Sprintf("the registry that was asked for %s", err)}
	}
	return key.Host(), nil
}

// roleFor returns the role for a host, and whether the configuration names the
// host; "" if there is none.
func (c *config) roleFor(host string) (role string, named bool) {
	if role, named = c.hosts[host]; named {
		return role, true
	}
	return c.Role, false
}

func (c *config) allRoles() []string {
	roles := slices.Collect(maps.Values(c.hosts))
	if c.Role != "" {
		roles = append(roles, c.Role)
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

func (c *config) read(ctx context.Context, role string) (client.PullSecret, error) {
	vault, err := c.open()
	if err != nil {
		return client.PullSecret{}, err
	}
	return vault.Read(ctx, role)
}

func (c *config) open() (*client.Vault, error) {
	vault, err := client.Open(c.Settings, client.Auth{})
	if err != nil {
		return nil, err
	}
	return vault, vault.UseCLIToken()
}

// credentialFor returns the credential of a pull secret for a host. Helpers are
// asked for hosts, so a credential for one path of the host is taken for all.
// Where the role is the one for all registries, it covers only those that its
// pull secret holds.
func credentialFor(secret client.PullSecret, role, host string, named bool) (dockerconfig.Credential, error) {
	var paths []dockerconfig.Credential
	for _, c := range secret.Docker.Credentials() {
		switch {
		case c.Registry.Host() != host:
		case c.Registry.Path() == "":
			return c, nil
		default:
			paths = append(paths, c)
		}
	}
	switch {
	case len(paths) == 1:
		return paths[0], nil
	case len(paths) > 1:
		return dockerconfig.Credential{}, &client.Failure{
			What: fmt.Sprintf("role %s has %d credentials for %s, each for another path, and Docker's helpers are asked for hosts only", role, len(paths), host),
			Do:   "use a role with one credential for the host",
		}
	case !named:
		return dockerconfig.Credential{}, credentials.NewErrCredentialsNotFound()
	}
	return dockerconfig.Credential{}, &client.Failure{
		What: fmt.Sprintf("role %s has no credential for %s", role, host),
		Do:   "correct the role, or take the host out of the configuration",
	}
}
