// SPDX-License-Identifier: MPL-2.0

package ecr

import (
	"slices"
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

func TestSessionPolicy(t *testing.T) {
	private := registryScope{region: "eu-central-1", accounts: []string{"123456789012"}}
	for _, test := range []struct {
		name      string
		scope     registryScope
		partition string
		role      issuer.Settings
		want      string
	}{
		{
			"pull", private, "aws",
			issuer.Settings{"access": "pull", "repositories": "team/app"},
			`{"Version":"2012-10-17","Statement":[` +
				`{"Effect":"Allow","Action":["ecr:GetAuthorizationToken"],"Resource":["*"]},` +
				`{"Effect":"Allow","Action":["ecr:BatchCheckLayerAvailability","ecr:BatchGetImage","ecr:BatchImportUpstreamImage","ecr:GetDownloadUrlForLayer"],` +
				`"Resource":["arn:aws:ecr:eu-central-1:123456789012:repository/team/app"]}]}`,
		},
		{
			"push of two repositories in two accounts",
			registryScope{region: "cn-north-1", accounts: []string{"123456789012", "444455556666"}},
			"aws-cn",
			issuer.Settings{"access": "push", "repositories": "a/*,b"},
			`{"Version":"2012-10-17","Statement":[` +
				`{"Effect":"Allow","Action":["ecr:GetAuthorizationToken"],"Resource":["*"]},` +
				`{"Effect":"Allow","Action":["ecr:BatchCheckLayerAvailability","ecr:BatchGetImage","ecr:BatchImportUpstreamImage","ecr:GetDownloadUrlForLayer",` +
				`"ecr:CompleteLayerUpload","ecr:InitiateLayerUpload","ecr:PutImage","ecr:UploadLayerPart"],` +
				`"Resource":["arn:aws-cn:ecr:cn-north-1:123456789012:repository/a/*","arn:aws-cn:ecr:cn-north-1:123456789012:repository/b",` +
				`"arn:aws-cn:ecr:cn-north-1:444455556666:repository/a/*","arn:aws-cn:ecr:cn-north-1:444455556666:repository/b"]}]}`,
		},
		{
			"all of any account",
			registryScope{region: "eu-central-1", accounts: []string{anyAccount}},
			"aws",
			issuer.Settings{"access": "pull"},
			`{"Version":"2012-10-17","Statement":[` +
				`{"Effect":"Allow","Action":["ecr:GetAuthorizationToken"],"Resource":["*"]},` +
				`{"Effect":"Allow","Action":["ecr:BatchCheckLayerAvailability","ecr:BatchGetImage","ecr:BatchImportUpstreamImage","ecr:GetDownloadUrlForLayer"],` +
				`"Resource":["arn:aws:ecr:eu-central-1:*:repository/*"]}]}`,
		},
		{
			"public pull",
			registryScope{region: publicRegion, public: true, accounts: []string{anyAccount}},
			"aws",
			issuer.Settings{"access": "pull"},
			`{"Version":"2012-10-17","Statement":[` +
				`{"Effect":"Allow","Action":["ecr-public:GetAuthorizationToken","sts:GetServiceBearerToken"],"Resource":["*"]}]}`,
		},
		{
			"public push",
			registryScope{region: publicRegion, public: true, accounts: []string{anyAccount}},
			"aws",
			issuer.Settings{"access": "push", "repositories": "tools"},
			`{"Version":"2012-10-17","Statement":[` +
				`{"Effect":"Allow","Action":["ecr-public:GetAuthorizationToken","sts:GetServiceBearerToken"],"Resource":["*"]},` +
				`{"Effect":"Allow","Action":["ecr-public:CompleteLayerUpload","ecr-public:InitiateLayerUpload","ecr-public:PutImage","ecr-public:UploadLayerPart","ecr-public:BatchCheckLayerAvailability"],` +
				`"Resource":["arn:aws:ecr-public::*:repository/tools"]}]}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := sessionPolicy(test.scope, test.partition, test.role); got != test.want {
				t.Errorf("want\n%s\ngot\n%s", test.want, got)
			}
		})
	}
}

func TestAccountsOfTheRegistries(t *testing.T) {
	for _, test := range []struct {
		registries []string
		want       []string
	}{
		{[]string{"444455556666.dkr.ecr.eu-central-1.amazonaws.com", "123456789012.dkr.ecr.eu-central-1.amazonaws.com", "123456789012.dkr-ecr.eu-central-1.on.aws"}, []string{"123456789012", "444455556666"}},
		{[]string{"444455556666.dkr.ecr.eu-central-1.amazonaws.com", "images.example.com"}, []string{"*"}},
	} {
		c := issuer.Connection{URL: "https://aws.example.com", Settings: issuer.Settings{"region": "eu-central-1"}}
		for _, registry := range test.registries {
			c.Registries = append(c.Registries, dockerconfig.Key(registry))
		}
		got, err := resolveScope(c)
		if err != nil || !slices.Equal(got.accounts, test.want) || got.region != "eu-central-1" {
			t.Errorf("%q: want the accounts %q, got %+v, %v", test.registries, test.want, got, err)
		}
	}
}
