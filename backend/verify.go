// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/registry"
)

const (
	// verifyTimeout is how long one request may take, whatever the number of
	// registries: less than Vault's own limit, so that the answer arrives.
	verifyTimeout = 60 * time.Second

	// verifyAtOnce is how many registries are asked at the same time.
	verifyAtOnce = 8
)

// verifier proves that a credential can pull from a repository of its
// registry; an empty repository tries the credential alone.
type verifier interface {
	Verify(ctx context.Context, credential dockerconfig.Credential, repository string) registry.Result
}

// verification is what came out for one credential.
type verification struct {
	role       string
	registry   dockerconfig.Key
	repository string
	registry.Result
}

// verify asks the registries of a pull secret, some at a time.
func (b *backend) verify(ctx context.Context, secret pullSecret, repository string) ([]verification, error) {
	cas, err := parseCAs(secret.settings.CAPEM)
	if err != nil {
		return nil, err
	}

	var results []verification
	var credentials []dockerconfig.Credential
	for _, s := range secret.sources {
		for _, c := range s.docker.Credentials() {
			results = append(results, verification{role: s.name, registry: c.Registry, repository: s.VerifyRepository})
			credentials = append(credentials, c)
		}
	}
	if err := chooseRepositories(results, secret.sources, repository); err != nil {
		return nil, err
	}

	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	verifier := b.newVerifier(cas)
	var asking errgroup.Group
	asking.SetLimit(verifyAtOnce)
	for i, c := range credentials {
		asking.Go(func() error {
			results[i].Result = verifier.Verify(ctx, c, results[i].repository)
			return nil
		})
	}
	_ = asking.Wait() // a failure is a verdict
	slices.SortFunc(results, func(a, b verification) int { return strings.Compare(string(a.registry), string(b.registry)) })
	return results, nil
}

// chooseRepositories finds the repository to try for each credential: the one
// that the request names where it lies in that registry, else that of the role.
func chooseRepositories(results []verification, sources []source, requested string) error {
	held := map[string]int{} // credentials of each role
	for _, s := range sources {
		held[s.name] = len(s.docker.Credentials())
	}
	used := false
	for i := range results {
		v := &results[i]
		path, fits, err := repositoryIn(v.registry, requested, len(results) == 1)
		if err != nil {
			return refuse(fieldError("repository", err))
		}
		if used = used || fits; !fits {
			if path, _, err = repositoryIn(v.registry, v.repository, held[v.role] == 1); err != nil {
				return refuse(fieldError("verify_repository", err))
			}
		}
		v.repository = path
	}
	if requested != "" && !used {
		return refusef("repository: must begin with one of the pull secret's registries, such as %s/group/app", results[0].registry.Host())
	}
	return nil
}

// repositoryIn returns the path of a repository within a registry, and whether
// it lies there: a role with a single registry needs no registry in front.
func repositoryIn(key dockerconfig.Key, repository string, single bool) (path string, fits bool, err error) {
	path, named := strings.CutPrefix(repository, key.Host()+"/")
	if repository == "" || !named && !single {
		return "", false, nil
	}
	if path, err = registry.ParseRepository(path); err != nil {
		return "", false, err
	}
	if !registry.Covers(key, path) {
		if single {
			return "", false, fmt.Errorf("must be below %s, because no tool uses the credential elsewhere", key.ImageName())
		}
		return "", false, nil
	}
	return path, true, nil
}

// checkVerifyRepository refuses a repository that a verification could not use.
func (r *role) checkVerifyRepository(docker dockerconfig.Config) error {
	if r.VerifyRepository == "" {
		return nil
	}
	credentials := docker.Credentials()
	for _, c := range credentials {
		_, fits, err := repositoryIn(c.Registry, r.VerifyRepository, len(credentials) == 1)
		if err != nil {
			return refuse(fieldError("verify_repository", err))
		}
		if fits {
			return nil
		}
	}
	return refusef("verify_repository: must begin with one of the role's registries, such as %s/group/app", credentials[0].Registry.Host())
}

// described returns what is known of one verification.
func (v verification) described() map[string]any {
	data := map[string]any{"registry": v.registry.ImageName()}
	if v.repository != "" {
		data["repository"] = v.repository
	}
	if v.Message != "" {
		data["message"] = v.Message
	}
	return data
}

// byBadness orders the verdicts.
var bySeverity = []registry.Verdict{registry.OK, registry.Unverified, registry.NotFound, registry.Unreachable, registry.Denied}
