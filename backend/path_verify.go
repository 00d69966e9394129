// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/registry"
)

const (
	// verifyTimeout is how long one request may take, whatever the number of
	// registries: less than Vault's own limit, so that the answer arrives.
	verifyTimeout = 60 * time.Second

	// verifyAtOnce is how many registries are asked at the same time.
	verifyAtOnce = 8

	// trialLifetime is how long a credential lives that is minted to be tried.
	trialLifetime = 10 * time.Minute

	// maxQuotedFailures is how many refusals an error repeats.
	maxQuotedFailures = 5
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

func (b *backend) pathVerify() []*framework.Path {
	return []*framework.Path{{
		Pattern: "verify/" + nameRegex,
		Fields: map[string]*framework.FieldSchema{
			roleField: roleNameField(),
			"repository": {
				Type:        framework.TypeString,
				Description: "Repository to pull from, such as group/my_app or group/my_app:1.4, in place of the role's verify_repository; where the pull secret holds several registries, with the registry in front.",
			},
		},
		DisplayAttrs: &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationVerb: "verify", OperationSuffix: "role"},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: &framework.PathOperation{
				Callback: b.verifyRole,
				Summary:  "Prove that a role's credentials can pull.",
				Responses: okResponse("What each registry answered.", map[string]*framework.FieldSchema{
					"verdict":    {Type: framework.TypeString, Required: true, Description: "The worst of all verdicts: ok, unverified, not_found, unreachable or denied."},
					"results":    {Type: framework.TypeSlice, Required: true, Description: "role, registry, repository, verdict and message of each, by registry."},
					"registry":   {Type: framework.TypeString, Description: "Registry as in image names, where there is one."},
					"repository": {Type: framework.TypeString, Description: "Repository that was tried, where there is one registry and one was."},
					"message":    {Type: framework.TypeString, Description: "What the registry said, where there is one registry and it said something."},
				}),
			},
		},
		HelpSynopsis:    "Proves that a role's credentials can pull.",
		HelpDescription: strings.TrimSpace(verifyHelp),
	}}
}

func (b *backend) verifyRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	name, err := roleName(data)
	if err != nil {
		return answer(err)
	}
	r, err := b.role(ctx, req.Storage, name)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, noSuchRole(name)
	}
	secret, done, err := b.secretToVerify(ctx, req.Storage, name, r)
	if err != nil {
		return answer(registryError(err))
	}
	defer done()
	results, err := b.verify(ctx, secret, data.Get("repository").(string))
	if err != nil {
		return answer(err)
	}
	return &logical.Response{Data: verifyResponse(results)}, nil
}

// secretToVerify returns the pull secret that a role serves. Of a leased role,
// which serves another one to each, it is one that is minted for the purpose
// and revoked when done.
func (b *backend) secretToVerify(ctx context.Context, storage logical.Storage, name string, r *role) (secret pullSecret, done func(), err error) {
	if !r.isLeased() {
		secret, err = b.pullSecret(ctx, storage, name, r, toServe)
		return secret, func() {}, err
	}
	return b.trial(ctx, storage, name, r)
}

// trial mints a credential for a dynamic role that nobody is given.
func (b *backend) trial(ctx context.Context, storage logical.Storage, name string, r *role) (secret pullSecret, done func(), err error) {
	if b.onStandby() {
		return pullSecret{}, nil, logical.ErrReadOnly
	}
	settings, err := b.config(ctx, storage)
	if err != nil {
		return pullSecret{}, nil, err
	}
	made, err := b.mintFor(ctx, storage, name, r, func(issuer.Target) time.Duration { return trialLifetime })
	if err != nil {
		return pullSecret{}, nil, err
	}
	secret = pullSecret{Docker: made.Docker, settings: settings, sources: []source{{name: name, role: r, docker: made.Docker}}}
	return secret, func() { b.abandon(ctx, storage, made) }, nil
}

// verifyBeforeWrite refuses a pull secret that its registries refuse.
func (b *backend) verifyBeforeWrite(ctx context.Context, secret pullSecret) error {
	results, err := b.verify(ctx, secret, "")
	if err != nil {
		return err
	}
	var failed []string
	for _, v := range results {
		if !v.Accepted {
			failed = append(failed, fmt.Sprintf("registry %q: %s (%s)", v.registry.ImageName(), v.Verdict, v.Message))
		}
	}
	if len(failed) > maxQuotedFailures {
		failed = append(failed[:maxQuotedFailures], fmt.Sprintf("and %d more", len(failed)-maxQuotedFailures))
	}
	if failed != nil {
		return refusef("verify: nothing is stored, because not every credential can pull: %s", strings.Join(failed, "; "))
	}
	return nil
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
	var asking sync.WaitGroup
	free := make(chan struct{}, verifyAtOnce)
	verifier := b.newVerifier(cas)
	for i, c := range credentials {
		free <- struct{}{}
		asking.Go(func() {
			results[i].Result = verifier.Verify(ctx, c, results[i].repository)
			<-free
		})
	}
	asking.Wait()
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
		return refusef("repository: must have one of the pull secret's registries in front, such as %s/group/app", results[0].registry.Host())
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
			return "", false, fmt.Errorf("must lie in %s, because no tool uses the credential elsewhere", key.ImageName())
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
	return refusef("verify_repository: must have one of the role's registries in front, such as %s/group/app", credentials[0].Registry.Host())
}

// byBadness orders the verdicts.
var byBadness = []registry.Verdict{registry.OK, registry.Unverified, registry.NotFound, registry.Unreachable, registry.Denied}

func verifyResponse(results []verification) map[string]any {
	worst := 0
	described := make([]map[string]any, len(results))
	for i, v := range results {
		worst = max(worst, slices.Index(byBadness, v.Verdict))
		described[i] = map[string]any{"role": v.role, "verdict": string(v.Verdict)}
		maps.Copy(described[i], v.described())
	}
	data := map[string]any{"verdict": string(byBadness[worst]), "results": described}
	if len(results) == 1 {
		maps.Copy(data, results[0].described())
	}
	return data
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

const verifyHelp = `
Follows the registry's own challenge, as kubelet does, and asks for a manifest.
A login alone proves little: several registries accept it and refuse the pull.

    ok            the credential pulls
    denied        the registry refuses the credential, or the pull
    not_found     no such repository or tag
    unreachable   no answer, or none that a registry gives
    unverified    no repository to try: only the credential was tried, if that

Nothing is changed by it. verify_repository of the role, or repository here,
says what to pull; every member of a bundle is tried.
`
