// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// maxReference is longer than any repository with tag and digest, in bytes.
const maxReference = 1000

const exampleRepositories = "such as group/app, group/app:1.4 or group/app@sha256:…"

// ParseRepository checks and normalises a repository for [Verifier.Verify]. Of a tag
// and a digest, only the digest remains, because every tool ignores the tag then.
func ParseRepository(input string) (string, error) {
	r, err := parseRepository(input)
	return r.String(), err
}

// repository is a repository in a registry, and what to pull from it.
type repository struct {
	path   string
	tag    string // empty: any
	digest string // if set, tag is empty
}

// String returns the form that parseRepository reads.
func (r repository) String() string {
	switch {
	case r.digest != "":
		return r.path + "@" + r.digest
	case r.tag != "":
		return r.path + ":" + r.tag
	}
	return r.path
}

func parseRepository(input string) (repository, error) {
	if err := checkRepositoryText(input); err != nil {
		return repository{}, err
	}
	// With a registry in front, the first part of the input is not taken for one.
	parsed, err := reference.Parse("registry.invalid/" + input)
	named, ok := parsed.(reference.Named)
	switch {
	case errors.Is(err, reference.ErrNameContainsUppercase):
		return repository{}, errors.New("must be in lower case, except for the tag, " + exampleRepositories)
	case errors.Is(err, reference.ErrNameTooLong):
		return repository{}, errRepositoryTooLong
	case err != nil || !ok:
		return repository{}, errors.New("must be a repository in the registry, with a tag or a digest or neither, " + exampleRepositories)
	}
	r := repository{path: reference.Path(named)}
	if digested, ok := parsed.(reference.Digested); ok {
		r.digest = digested.Digest().String()
	} else if tagged, ok := parsed.(reference.Tagged); ok {
		r.tag = tagged.Tag()
	}
	return r, nil
}

var errRepositoryTooLong = fmt.Errorf("must have at most %d bytes before tag and digest", reference.RepositoryNameTotalLengthMax)

// checkRepositoryText refuses what people write in place of a repository. A first
// part with a dot is accepted, because it may be a group such as jane.doe.
func checkRepositoryText(input string) error {
	first, _, more := strings.Cut(input, "/")
	switch {
	case input == "":
		return errors.New("must not be empty; give a repository in the registry, " + exampleRepositories)
	case len(input) > maxReference: // before regular expressions see it
		return errRepositoryTooLong
	case strings.Contains(input, "://"):
		return errors.New("must not be a URL; give only the repository, " + exampleRepositories)
	case more && (strings.ContainsAny(first, ":[") || first == "localhost"):
		return errors.New("must not have a registry in front; give only the repository, " + exampleRepositories)
	case strings.HasPrefix(input, "/") || strings.HasSuffix(input, "/"):
		return errors.New("must not start or end with '/', " + exampleRepositories)
	case strings.ContainsAny(input, "*?"):
		return errors.New("must be one repository, not a pattern, " + exampleRepositories)
	}
	return nil
}

// Covers reports whether tools use the credential of a key for a repository from
// [ParseRepository]: the repository must be below the key's path, if it has one.
func Covers(key dockerconfig.Key, parsed string) bool {
	r, err := parseRepository(parsed)
	return err == nil && r.isUnder(key.Path())
}

func (r repository) isUnder(path string) bool {
	return path == "" || r.path == path || strings.HasPrefix(r.path, path+"/")
}

// names returns the repository, its tag, its digest, and the parts of its path.
func (r repository) names() []string {
	names := []string{r.path, r.tag, r.digest}
	parts := strings.Split(r.path, "/")
	for i, part := range parts {
		names = append(names, part, strings.Join(parts[:i], "/"), strings.Join(parts[i:], "/"))
	}
	return names
}

// newTarget returns the registry of a key and the repository to try in it. Its errors
// say why there is nothing to try.
func newTarget(key dockerconfig.Key, input string) (name.Registry, repository, error) {
	if strings.Contains(string(key), "*") {
		return name.Registry{}, repository{}, fmt.Errorf("%s names no single registry, so there is none to try", key)
	}
	registry, err := name.NewRegistry(key.Host(), name.StrictValidation)
	if err != nil {
		return name.Registry{}, repository{}, errors.New("the registry's name is not a valid host name")
	}
	if input == "" {
		return registry, repository{}, nil
	}
	r, err := parseRepository(input)
	if err != nil {
		return name.Registry{}, repository{}, fmt.Errorf("the repository %w", err)
	}
	if rest, found := strings.CutPrefix(r.String(), key.Host()+"/"); found && strings.Contains(key.Host(), ".") {
		return name.Registry{}, repository{}, fmt.Errorf("the repository must not have the registry in front; give only %s", rest)
	}
	r.path = registry.Repo(r.path).RepositoryStr() // with library/ where Docker Hub needs it
	if !r.isUnder(key.Path()) {
		return name.Registry{}, repository{}, fmt.Errorf("the credential is for %s only, and the repository %s is not under it", key, r.path)
	}
	return registry, r, nil
}
