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
	// verifyTimeout is how long one verification may take, for all registries
	// together. It is shorter than Vault's own request limit, so that the response
	// arrives.
	verifyTimeout = 60 * time.Second

	// verifyAtOnce is how many registries one verification asks at the same time.
	verifyAtOnce = 8

	// trialTries and trialPause are for registries that take a moment until
	// they accept what they have just minted.
	trialTries = 4
	trialPause = time.Second
)

// verifier tries whether a credential can pull from a repository of its registry.
// Without a repository it tries only the credential.
type verifier interface {
	Verify(ctx context.Context, credential dockerconfig.Credential, repository string) registry.Result
}

// verification is the result for one credential.
type verification struct {
	role       string
	registry   dockerconfig.Key
	repository string
	isNew      bool
	registry.Result
}

// verify tries all credentials of a pull secret, up to verifyAtOnce at the same
// time.
func (b *backend) verify(ctx context.Context, secret pullSecret, repository string) ([]verification, error) {
	cas, err := parseCAs(secret.settings.CAPEM)
	if err != nil {
		return nil, err
	}

	var results []verification
	var credentials []dockerconfig.Credential
	for _, s := range secret.sources {
		for _, c := range s.docker.Credentials() {
			results = append(results, verification{role: s.name, registry: c.Registry, repository: s.VerifyRepository, isNew: s.isNew})
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
			for try := 1; ; try++ {
				results[i].Result = verifier.Verify(ctx, c, results[i].repository)
				if !results[i].isNew || results[i].Verdict != registry.Denied || try == trialTries {
					return nil
				}
				b.sleep(ctx, trialPause)
			}
		})
	}
	_ = asking.Wait() // a failure is a verdict
	slices.SortFunc(results, func(a, b verification) int { return strings.Compare(string(a.registry), string(b.registry)) })
	return results, nil
}

// chooseRepositories sets the repository to try for each credential: the requested
// one if it lies in that registry, else the role's verify_repository.
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

// repositoryIn returns the path of a repository within a registry, and whether it
// lies there. If single is true, the repository may lack the registry in front.
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

// checkVerifyRepository refuses a verify_repository that lies in none of the
// role's registries.
func (r *role) checkVerifyRepository(keys []dockerconfig.Key) error {
	if r.VerifyRepository == "" {
		return nil
	}
	for _, key := range keys {
		_, fits, err := repositoryIn(key, r.VerifyRepository, len(keys) == 1)
		if err != nil {
			return refuse(fieldError("verify_repository", err))
		}
		if fits {
			return nil
		}
	}
	return refusef("verify_repository: must begin with one of the role's registries, such as %s/group/app", keys[0].Host())
}

// described returns the response fields of one verification.
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

// bySeverity has the verdicts from the best to the worst.
var bySeverity = []registry.Verdict{registry.OK, registry.Unverified, registry.NotFound, registry.Unreachable, registry.Denied}
