// SPDX-License-Identifier: MPL-2.0

package ecr_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/ecr"
)

const (
	frankfurt      = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
	otherAccount   = "444455556666.dkr.ecr.eu-central-1.amazonaws.com"
	secretKey      = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
	exampleRoleARN = "arn:aws:iam::123456789012:role/path/regcred-ecr"
)

// connection returns a connection with the settings, given as pairs.
// secret_access_key becomes a secret.
func connection(url string, registries []string, pairs ...string) issuer.Connection {
	c := issuer.Connection{URL: url, Settings: issuer.Settings{}, Secrets: issuer.Secrets{}}
	for _, registry := range registries {
		c.Registries = append(c.Registries, dockerconfig.Key(registry))
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == "secret_access_key" {
			c.Secrets[pairs[i]] = dockerconfig.NewSecret(pairs[i+1])
			continue
		}
		c.Settings[pairs[i]] = pairs[i+1]
	}
	return c
}

func TestConnectionFields(t *testing.T) {
	hosts := func(hosts ...string) []string { return hosts }
	const vpc = "https://aws.example.com"
	for _, test := range []struct {
		name string
		c    issuer.Connection
		want string // the error; "" for none
	}{
		{"a private registry", connection("", hosts(frankfurt)), ""},
		{"with its region", connection("", hosts(frankfurt), "region", "eu-central-1"), ""},
		{"with a path", connection("", hosts(frankfurt+"/team")), ""},
		{"FIPS", connection("", hosts("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com")), ""},
		{"China", connection("", hosts("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn")), ""},
		{"both kinds of addresses", connection("", hosts("123456789012.dkr-ecr.eu-central-1.on.aws", frankfurt)), ""},
		{"several accounts", connection("", hosts(frankfurt, otherAccount)), ""},
		{"the public registry", connection("", hosts("public.ecr.aws")), ""},
		{"a name of one's own", connection(vpc, hosts("images.example.com", frankfurt), "region", "eu-central-1"), ""},
		{"keys", connection("", hosts(frankfurt), "access_key_id", "AKIAIOSFODNN7EXAMPLE", "secret_access_key", secretKey), ""},
		{"a role", connection("", hosts(frankfurt), "role_arn", exampleRoleARN, "external_id", "a:b/c"), ""},
		{"a role in China", connection("", hosts(frankfurt), "role_arn", "arn:aws-cn:iam::123456789012:role/x"), ""},

		{"identity tokens", connection("", hosts(frankfurt), "role_arn", exampleRoleARN, "identity_token_audience", "vault", "identity_token_ttl", "3600"), ""},
		{"identity tokens and a url", connection(vpc, hosts("images.example.com"), "region", "eu-central-1", "role_arn", exampleRoleARN, "identity_token_audience", "vault"), ""},

		{"identity tokens and a key", connection("", hosts(frankfurt), "role_arn", exampleRoleARN, "identity_token_audience", "vault", "access_key_id", "AKIAIOSFODNN7EXAMPLE", "secret_access_key", secretKey), "identity_token_audience: must be left out with access_key_id and secret_access_key, because a connection proves who it is in one way; to change it to identity tokens, write access_key_id= and secret_access_key= (empty) in the same request"},
		{"identity tokens and a key ID", connection("", hosts(frankfurt), "role_arn", exampleRoleARN, "identity_token_audience", "vault", "access_key_id", "AKIAIOSFODNN7EXAMPLE"), "identity_token_audience: must be left out with access_key_id and secret_access_key"},
		{"identity tokens without a role", connection("", hosts(frankfurt), "identity_token_audience", "vault"), "role_arn: must be the ARN of the IAM role that trusts identity_token_audience, such as arn:aws:iam::123456789012:role/regcred-ecr"},
		{"identity tokens and an external ID", connection("", hosts(frankfurt), "role_arn", exampleRoleARN, "external_id", "abc", "identity_token_audience", "vault"), "external_id: must be left out with identity_token_audience, because AWS asks for none with an identity token; the trust policy of role_arn names the mount in its place"},
		{"another registry", connection("", hosts("registry.example.com")), `registry: must be a host of ECR, such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com or public.ecr.aws, not "registry.example.com"; for a host name of your own in front of ECR, also set url and region`},
		{"another registry with url only", connection(vpc, hosts("registry.example.com")), "registry: must be a host of ECR"},
		{"another registry with region only", connection("", hosts("registry.example.com"), "region", "eu-central-1"), "registry: must be a host of ECR"},
		{"a host that only ends as ECR's", connection("", hosts("123456789012.dkr.ecr.eu-central-1.amazonaws.com.example.com")), "registry: must be a host of ECR"},
		{"a host that only begins as ECR's", connection("", hosts("x123456789012.dkr.ecr.eu-central-1.amazonaws.com")), "registry: must be a host of ECR"},
		{"two regions", connection("", hosts(frankfurt, "123456789012.dkr.ecr.eu-west-1.amazonaws.com")), "registry: must be hosts of one region, because a token is valid in one region only; \"" + frankfurt + "\" and \"123456789012.dkr.ecr.eu-west-1.amazonaws.com\" are in two regions: create a connection for each"},
		{"private and public", connection("", hosts("123456789012.dkr.ecr.us-east-1.amazonaws.com", "public.ecr.aws")), "registry: must be either public.ecr.aws or private registries, because their tokens differ: create a connection for each"},
		{"the wrong region", connection("", hosts(frankfurt), "region", "eu-west-1"), `region: must be eu-central-1, the region of "` + frankfurt + `", or be left out`},
		{"the wrong region for the public registry", connection("", hosts("public.ecr.aws"), "region", "eu-west-1"), `region: must be us-east-1, the region of "public.ecr.aws", or be left out`},
		{"the wrong region with url", connection(vpc, hosts(frankfurt), "region", "eu-west-1"), "region: must be eu-central-1"},
		{"no region", connection("", hosts(frankfurt), "region", "Frankfurt"), "region: must be an AWS region, such as eu-central-1"},
		{"a region that is a host", connection(vpc, hosts("x.example.com"), "region", "eu-central-1.example.com"), "region: must be an AWS region"},
		{"a key ID only", connection("", hosts(frankfurt), "access_key_id", "AKIAIOSFODNN7EXAMPLE"), "secret_access_key: must be given with access_key_id; leave out both to use Vault's own AWS credentials"},
		{"a secret only", connection("", hosts(frankfurt), "secret_access_key", secretKey), "access_key_id: must be given with secret_access_key; leave out both to use Vault's own AWS credentials"},
		{"a short key ID", connection("", hosts(frankfurt), "access_key_id", "AKIA", "secret_access_key", secretKey), "access_key_id: must be 16 to 128 letters, digits or '_', such as AKIAIOSFODNN7EXAMPLE"},
		{"a temporary key", connection("", hosts(frankfurt), "access_key_id", "ASIAIOSFODNN7EXAMPLE", "secret_access_key", secretKey), "access_key_id: must be the long-term key of an IAM user, which starts with AKIA: one that starts with ASIA is temporary and would stop working within hours"},
		{"a secret with a newline", connection("", hosts(frankfurt), "access_key_id", "AKIAIOSFODNN7EXAMPLE", "secret_access_key", secretKey+"\n"), "secret_access_key: must be ASCII characters without white space"},
		{"the ARN of a user", connection("", hosts(frankfurt), "role_arn", "arn:aws:iam::123456789012:user/x"), "role_arn: must be the ARN of an IAM role, such as arn:aws:iam::123456789012:role/regcred-ecr"},
		{"the name of a role", connection("", hosts(frankfurt), "role_arn", "regcred-ecr"), "role_arn: must be the ARN of an IAM role"},
		{"an external ID without a role", connection("", hosts(frankfurt), "external_id", "abc"), "external_id: must be left out without role_arn, because only the trust policy of a role requires it"},
		{"an odd external ID", connection("", hosts(frankfurt), "role_arn", exampleRoleARN, "external_id", "a b"), "external_id: must be 2 to 1224 letters, digits or any of _+=,.@:/-"},
		{"a short external ID", connection("", hosts(frankfurt), "role_arn", exampleRoleARN, "external_id", "a"), "external_id: must be 2 to 1224"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.c.HTTP = issuer.NewHTTP(nil)
			_, err := ecr.Type().New(test.c)
			wantMessage(t, err, test.want)
		})
	}
}

// wantMessage fails the test unless an error begins as wanted and repeats no secret.
func wantMessage(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("want no error, got %v", err)
	case want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)):
		t.Errorf("want the error %q, got %v", want, err)
	}
	if err != nil && strings.Contains(fmt.Sprintf("%v %+v", err, err), secretKey) {
		t.Errorf("the error repeats a secret: %v", err)
	}
}

func TestRoleFields(t *testing.T) {
	private := connection("", []string{frankfurt}, "role_arn", exampleRoleARN)
	public := connection("", []string{"public.ecr.aws"}, "role_arn", exampleRoleARN)
	unlimited := connection("", []string{frankfurt})
	long := func(n int) string {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf("team-%02d/application-of-the-team", i))
		}
		return strings.Join(names, ",")
	}
	for _, test := range []struct {
		name   string
		c      issuer.Connection
		fields issuer.Settings
		want   issuer.Target // without its warnings
		err    string
	}{
		{"nothing", private, nil, issuer.Target{Settings: issuer.Settings{"access": "pull"}, Names: []string{"*"}}, ""},
		{"repositories", private, issuer.Settings{"repositories": "b/two, a/one,b/two,c*"}, issuer.Target{Settings: issuer.Settings{"access": "pull", "repositories": "b/two,a/one,c*"}, Names: []string{"b/two", "a/one", "c*"}}, ""},
		{"push", private, issuer.Settings{"access": "push", "repositories": "a/one"}, issuer.Target{Settings: issuer.Settings{"access": "push", "repositories": "a/one"}, Names: []string{"a/one"}}, ""},
		{"all by name", private, issuer.Settings{"repositories": "*"}, issuer.Target{Settings: issuer.Settings{"access": "pull", "repositories": "*"}, Names: []string{"*"}}, ""},
		{"public", public, nil, issuer.Target{Settings: issuer.Settings{"access": "pull"}, Names: []string{"*"}}, ""},
		{"public push", public, issuer.Settings{"access": "push", "repositories": "tools/*"}, issuer.Target{Settings: issuer.Settings{"access": "push", "repositories": "tools/*"}, Names: []string{"tools/*"}}, ""},
		{"without a role", unlimited, nil, issuer.Target{Settings: issuer.Settings{}, Names: []string{"*"}}, ""},

		{"access", private, issuer.Settings{"access": "admin"}, issuer.Target{}, "access: must be pull or push (push includes pull)"},
		{"repositories without a role", unlimited, issuer.Settings{"repositories": "a/one"}, issuer.Target{}, "repositories: must be left out, because the connection has no role_arn: its tokens can do everything that the connection's AWS identity may do; with role_arn, each credential can be limited"},
		{"access without a role", unlimited, issuer.Settings{"access": "pull"}, issuer.Target{}, "access: must be left out, because the connection has no role_arn"},
		{"repositories to pull in public", public, issuer.Settings{"repositories": "tools/*"}, issuer.Target{}, "repositories: must be left out for access=pull from public.ecr.aws, because anyone may pull from it; with access=push, repositories limits where the credential can push"},
		{"a host", private, issuer.Settings{"repositories": frankfurt + "/a"}, issuer.Target{}, `repositories: must be names such as team/app, without the registry's host, not "` + frankfurt + `/a"`},
		{"upper case", private, issuer.Settings{"repositories": "Team/app"}, issuer.Target{}, `repositories: must be names of lower case letters and digits, with single '.', '_', '-' or '/' between them, and '*' for any characters, such as team/app or team/*, not "Team/app"`},
		{"a variable of IAM", private, issuer.Settings{"repositories": "${aws:username}"}, issuer.Target{}, "repositories: must be names of lower case"},
		{"a question mark", private, issuer.Settings{"repositories": "team/ap?"}, issuer.Target{}, "repositories: must be names of lower case"},
		{"two underscores", private, issuer.Settings{"repositories": "a__b"}, issuer.Target{}, "repositories: must be names of lower case"},
		{"a slash at the end", private, issuer.Settings{"repositories": "team/"}, issuer.Target{}, "repositories: must be names of lower case"},
		{"one letter", private, issuer.Settings{"repositories": "a"}, issuer.Target{}, "repositories: must be names of 2 to 256 characters"},
		{"257 letters", private, issuer.Settings{"repositories": strings.Repeat("a", 257)}, issuer.Target{}, "repositories: must be names of 2 to 256 characters"},
		{"too many", private, issuer.Settings{"repositories": long(30)}, issuer.Target{}, "repositories: must be fewer or shorter: the session policy that limits the credential to them has 2760 characters, and AWS accepts at most 2048; one name with '*', such as team/*, can replace many"},
		{"a connection of two regions", connection("", []string{frankfurt, "123456789012.dkr.ecr.eu-west-1.amazonaws.com"}), nil, issuer.Target{}, "registry: must be hosts of one region"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ecr.Type().Target(test.c, test.fields)
			wantMessage(t, err, test.err)
			if err != nil {
				return
			}
			if warned := len(got.Warnings) > 0; warned != (test.c.Settings["role_arn"] == "") {
				t.Errorf("want a warning where IAM alone limits the credential, got %q", got.Warnings)
			}
			test.want.MaxLifetime, got.Warnings = 12*time.Hour, nil
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSecretsAreMarkedSensitive(t *testing.T) {
	sensitive := map[string]bool{}
	for name, field := range ecr.Type().ConnectionFields {
		sensitive[name] = field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive
	}
	want := map[string]bool{"region": false, "access_key_id": false, "secret_access_key": true, "role_arn": false, "external_id": false, "identity_token_audience": false, "identity_token_ttl": false}
	if !maps.Equal(sensitive, want) {
		t.Errorf("want %v, got %v", want, sensitive)
	}
}
