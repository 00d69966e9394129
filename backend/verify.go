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
	asked      bool // the registry was asked; otherwise it is left alone for now, or has not answered yet
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

	b.askRegistries(ctx, b.newVerifier(cas), credentials, results)
	connection := ""
	if len(secret.sources) == 1 {
		connection = secret.sources[0].connection()
	}
	for _, v := range results {
		b.counters.countVerified(connection, v.Verdict)
	}
	slices.SortFunc(results, func(a, b verification) int { return strings.Compare(string(a.registry), string(b.registry)) })
	return results, nil
}

// askRegistries tries each credential in the background. A request waits as long as
// results come in; what is missing then is unreachable.
func (b *backend) askRegistries(ctx context.Context, verifier verifier, credentials []dockerconfig.Credential, results []verification) {
	type answer struct {
		of    int
		asked bool
		registry.Result
	}
	var patience time.Duration
	trials := slices.Clone(results) // those below go on when this function has returned
	for i, c := range credentials {
		lane := laneOfRegistry(c.Registry)
		patience = max(patience, b.calls.patienceWith(lane))
		results[i].Result = registry.Result{Verdict: registry.Unreachable, Message: lane + " has not answered yet"}
	}
	if isInBackground(ctx) {
		patience = verifyTimeout
	}
	asking, cancel := b.detached(ctx)
	defer cancel()
	answers := make(chan answer, len(credentials))
	b.background.start(func() {
		asking, cancel := context.WithTimeout(asking, verifyTimeout)
		defer cancel()
		var group errgroup.Group
		group.SetLimit(verifyAtOnce)
		for i, c := range credentials {
			group.Go(func() error {
				result, asked := b.tryToPull(asking, verifier, c, trials[i])
				answers <- answer{i, asked, result}
				return nil
			})
		}
		_ = group.Wait() // a failure is a verdict
	})
	for range credentials {
		select {
		case a := <-answers:
			results[a.of].Result, results[a.of].asked = a.Result, a.asked
		case <-time.After(patience):
			return
		case <-b.lifetime.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// tryToPull tries one credential. A new one that is refused is tried again. asked is
// false if the registry is left alone.
func (b *backend) tryToPull(ctx context.Context, verifier verifier, c dockerconfig.Credential, v verification) (result registry.Result, asked bool) {
	for try := 1; ; try++ {
		leave, err := b.calls.enter(ctx, laneOfRegistry(c.Registry))
		if err != nil {
			return registry.Result{Verdict: registry.Unreachable, Message: err.Error()}, false
		}
		calling, cancel := b.detached(ctx) // an answer that comes late tells how long to wait
		result = verifier.Verify(calling, c, v.repository)
		cancel()
		if result.Verdict == registry.Unreachable {
			leave(unansweredError{result.RetryAfter})
		} else {
			leave(nil)
		}
		if !v.isNew || result.Verdict != registry.Denied || try == trialTries {
			return result, true
		}
		b.sleep(ctx, trialPause)
	}
}

// laneOfRegistry returns the name of the lane of a registry from which images are
// pulled.
func laneOfRegistry(key dockerconfig.Key) string { return "registry " + key.Host() }

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

// line describes a verification in one line. name is the role that was verified.
func (v verification) line(name string) string {
	var of []string
	if v.role != name {
		of = append(of, "role "+v.role)
	}
	if v.repository != "" {
		of = append(of, "repository "+v.repository)
	}
	line := string(v.Verdict)
	if len(of) > 0 {
		line += " (" + strings.Join(of, ", ") + ")"
	}
	if v.Message != "" {
		line += ": " + v.Message
	}
	return line
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

func severityOf(v registry.Verdict) int { return slices.Index(bySeverity, v) }

// isBad reports whether a verdict is one that somebody should look at.
func isBad(v registry.Verdict) bool { return severityOf(v) > severityOf(registry.Unverified) }
