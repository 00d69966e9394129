// SPDX-License-Identifier: MPL-2.0

package ecr

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	// maxPolicy caps a session policy, in characters (AssumeRole in the STS API
	// reference).
	maxPolicy = 2048

	minRepository, maxRepository = 2, 256
)

// repositoryPattern is the pattern of repositoryName in the ECR API reference.
var (
	repositoryPattern = regexp.MustCompile(`^(?:[a-z0-9]+(?:[._-][a-z0-9]+)*/)*[a-z0-9]+(?:[._-][a-z0-9]+)*$`)
	starsPattern      = regexp.MustCompile(`\*+`)
)

// parseRepositories returns the names in the order given, without duplicates.
func parseRepositories(list string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		if name == "" || slices.Contains(names, name) {
			continue
		}
		if err := checkRepository(name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

func checkRepository(name string) error {
	// A star matches any part of a name. With a letter in its place, the pattern
	// checks the rest.
	literal := starsPattern.ReplaceAllString(name, "x")
	switch {
	case strings.Contains(name, "amazonaws.com") || strings.HasPrefix(name, publicHost):
		return fmt.Errorf("repositories: must be names such as team/app, without the registry's host, not %q", name)
	case !repositoryPattern.MatchString(literal):
		return fmt.Errorf("repositories: must be names of lower case letters and digits, with single '.', '_', '-' or '/' between them, and '*' for any characters, such as team/app or team/*, not %q", name)
	case len(name) > maxRepository, literal == name && len(name) < minRepository:
		return errors.New("repositories: must be names of 2 to 256 characters")
	}
	return nil
}

// policyDocument is a policy in IAM's JSON form.
type policyDocument struct {
	Version   string
	Statement []policyStatement
}

type policyStatement struct {
	Effect   string
	Action   []string
	Resource []string
}

// pullActions and pushActions are what docker pull and docker push need, according
// to the ECR user guide (IAM permissions for pushing an image). A pull through
// cache needs BatchImportUpstreamImage for the first pull of an image.
var (
	pullActions = []string{"BatchCheckLayerAvailability", "BatchGetImage", "BatchImportUpstreamImage", "GetDownloadUrlForLayer"}
	pushActions = []string{"CompleteLayerUpload", "InitiateLayerUpload", "PutImage", "UploadLayerPart"}
)

// sessionPolicy returns the limits of a session. The session may do only what both
// this policy and the policies of the assumed role allow.
func sessionPolicy(scope registryScope, partition string, role issuer.Settings) string {
	service, region := "ecr", scope.region
	login, actions := []string{"ecr:GetAuthorizationToken"}, slices.Clone(pullActions)
	if scope.public {
		// A pull from the public registry needs no permission.
		service, region = "ecr-public", ""
		login, actions = []string{"ecr-public:GetAuthorizationToken", "sts:GetServiceBearerToken"}, nil
	}
	if role[fieldAccess] == accessPush {
		actions = append(actions, pushActions...)
		if scope.public {
			actions = append(actions, "BatchCheckLayerAvailability")
		}
	}
	policy := policyDocument{Version: "2012-10-17", Statement: []policyStatement{{"Allow", login, []string{"*"}}}}
	if len(actions) > 0 {
		for i := range actions {
			actions[i] = service + ":" + actions[i]
		}
		policy.Statement = append(policy.Statement, policyStatement{"Allow", actions, resources(scope, partition, service, region, role[fieldRepositories])})
	}
	text, err := json.Marshal(policy)
	if err != nil {
		panic(err) // strings always marshal
	}
	return string(text)
}

func resources(scope registryScope, partition, service, region, repositories string) []string {
	if repositories == "" {
		repositories = "*"
	}
	var arns []string
	for _, account := range scope.accounts {
		for name := range strings.SplitSeq(repositories, ",") {
			arns = append(arns, fmt.Sprintf("arn:%s:%s:%s:%s:repository/%s", partition, service, region, account, name))
		}
	}
	return arns
}
