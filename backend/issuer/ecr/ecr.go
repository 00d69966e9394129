// SPDX-License-Identifier: MPL-2.0

// Package ecr mints authorization tokens of Amazon's Elastic Container Registry,
// private and public. Such a token is a password of the user name AWS. It is valid
// for 12 hours and cannot be ended early.
package ecr

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	// tokenLifetime is given by AuthorizationData in the ECR API reference.
	tokenLifetime = 12 * time.Hour

	fieldRegion       = "region"
	fieldAccessKey    = "access_key_id"
	fieldSecretKey    = "secret_access_key"
	fieldRoleARN      = "role_arn"
	fieldExternalID   = "external_id"
	fieldRepositories = "repositories"
	fieldAccess       = "access"

	accessPull = "pull"
	accessPush = "push"
)

// Type returns the type ecr.
func Type() issuer.Type {
	return issuer.Type{
		Name:             "ecr",
		Description:      "Mints authorization tokens of Amazon ECR, private and public, which are good for 12 hours.",
		ConnectionFields: issuer.WithIdentityToken(connectionFields()),
		RoleFields:       roleFields(),
		URLOptional:      true,
		Can:              func(issuer.Connection) issuer.Abilities { return issuer.Abilities{} },
		Target:           target,
		New:              open,
	}
}

func connectionFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldRegion: {
			Type:        framework.TypeString,
			Description: "AWS region of the registries. Default: the region in the host names of ECR.",
		},
		fieldAccessKey: {
			Type:        framework.TypeString,
			Description: "Access key ID of an IAM user. Without it and without identity_token_audience, Vault's own AWS credentials are used: environment, web identity (IRSA), container or instance profile.",
		},
		fieldSecretKey: {
			Type:         framework.TypeString,
			Description:  "Secret access key that belongs to access_key_id.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
		fieldRoleARN: {
			Type:        framework.TypeString,
			Description: "ARN of an IAM role to assume for each credential. Roles can limit what a credential may do only if it is set.",
		},
		fieldExternalID: {
			Type:        framework.TypeString,
			Description: "External ID that the trust policy of role_arn requires.",
		},
	}
}

func roleFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		fieldRepositories: {
			Type:        framework.TypeCommaStringSlice,
			Description: "Repositories that the credential is limited to, without the registry's host; '*' matches any characters. Empty: every repository that the connection's role_arn may use.",
		},
		fieldAccess: {
			Type:        framework.TypeString,
			Description: "What the credential may do: pull (default), or push, which includes pull.",
		},
	}
}

// tokens is the issuer of a connection.
type tokens struct {
	conn    issuer.Connection
	scope   registryScope
	creds   aws.CredentialsProvider
	retryer aws.Retryer
}

func open(c issuer.Connection) (issuer.Issuer, error) {
	scope, err := resolveScope(c)
	if err != nil {
		return nil, err
	}
	if err := checkIdentityToken(c); err != nil {
		return nil, err
	}
	if err := checkKeys(c.Settings[fieldAccessKey], c.Secrets[fieldSecretKey].Reveal()); err != nil {
		return nil, err
	}
	if err := checkRole(c.Settings[fieldRoleARN], c.Settings[fieldExternalID]); err != nil {
		return nil, err
	}
	return &tokens{conn: c, scope: scope, creds: signingCredentials(c, scope.region), retryer: newRetryer()}, nil
}

func signingCredentials(c issuer.Connection, region string) aws.CredentialsProvider {
	if key := c.Settings[fieldAccessKey]; key != "" {
		return credentials.NewStaticCredentialsProvider(key, c.Secrets[fieldSecretKey].Reveal(), "")
	}
	return aws.NewCredentialsCache(ambientCredentials{region: region, http: c.HTTP})
}

var (
	keyPattern        = regexp.MustCompile(`^\w{16,128}$`)
	rolePattern       = regexp.MustCompile(`^arn:(aws[a-z-]*):iam::[0-9]{12}:role/(?:[!-~]{1,510}/)?[\w+=,.@-]{1,64}$`)
	externalIDPattern = regexp.MustCompile(`^[\w+=,.@:/-]+$`)
	secretPattern     = regexp.MustCompile(`^[!-~]+$`)
)

// checkKeys requires both parts of an access key, or neither.
func checkKeys(key, secret string) error {
	switch {
	case key == "" && secret == "":
		return nil
	case key == "":
		return errors.New("access_key_id: must be given with secret_access_key; leave out both to use Vault's own AWS credentials")
	case secret == "":
		return errors.New("secret_access_key: must be given with access_key_id; leave out both to use Vault's own AWS credentials")
	case !keyPattern.MatchString(key):
		return errors.New("access_key_id: must be 16 to 128 letters, digits or '_', such as AKIAIOSFODNN7EXAMPLE")
	case strings.HasPrefix(key, "ASIA"):
		return errors.New("access_key_id: must be the long-term key of an IAM user, which starts with AKIA: one that starts with ASIA is temporary and would stop working within hours")
	case !secretPattern.MatchString(secret):
		return errors.New("secret_access_key: must be ASCII characters without white space")
	}
	return nil
}

// checkIdentityToken refuses what cannot be had with identity tokens.
func checkIdentityToken(c issuer.Connection) error {
	switch {
	case !c.TakesIdentityToken():
		return nil
	case c.Settings[fieldAccessKey] != "" || c.Secrets[fieldSecretKey].Reveal() != "":
		return issuer.TwoRootCredentials(fieldAccessKey, fieldSecretKey)
	case c.Settings[fieldRoleARN] == "":
		return errors.New("role_arn: must be the ARN of the IAM role that trusts identity_token_audience, such as arn:aws:iam::123456789012:role/regcred-ecr")
	case c.Settings[fieldExternalID] != "":
		return errors.New("external_id: must be left out with identity_token_audience, because AWS asks for none with an identity token; the trust policy of role_arn names the mount in its place")
	}
	return nil
}

func checkRole(arn, externalID string) error {
	switch {
	case arn != "" && !rolePattern.MatchString(arn):
		return errors.New("role_arn: must be the ARN of an IAM role, such as arn:aws:iam::123456789012:role/regcred-ecr")
	case arn == "" && externalID != "":
		return errors.New("external_id: must be left out without role_arn, because only the trust policy of a role requires it")
	case externalID != "" && (!externalIDPattern.MatchString(externalID) || len(externalID) < 2 || len(externalID) > 1224):
		return errors.New("external_id: must be 2 to 1224 letters, digits or any of _+=,.@:/-")
	}
	return nil
}

// partition returns the partition in the ARN of a role: aws, aws-cn, aws-us-gov.
func partition(arn string) string {
	if found := rolePattern.FindStringSubmatch(arn); found != nil {
		return found[1]
	}
	return "aws"
}

// target refuses fields of a role that no session policy would enforce.
func target(c issuer.Connection, fields issuer.Settings) (issuer.Target, error) {
	scope, err := resolveScope(c)
	if err != nil {
		return issuer.Target{}, err
	}
	t := issuer.Target{Settings: issuer.Settings{}, Names: []string{"*"}, MaxLifetime: tokenLifetime}
	if c.Settings[fieldRoleARN] == "" {
		for _, field := range []string{fieldRepositories, fieldAccess} {
			if fields[field] != "" {
				return issuer.Target{}, fmt.Errorf("%s: must be left out, because the connection has no role_arn: its tokens can do everything that the connection's AWS identity may do; with role_arn, each credential can be limited", field)
			}
		}
		t.Warnings = []string{"the credential can do everything that the connection's AWS identity may do; set role_arn on the connection to limit it with repositories and access"}
		return t, nil
	}
	access := fields[fieldAccess]
	switch access {
	case "":
		access = accessPull
	case accessPull, accessPush:
	default:
		return issuer.Target{}, errors.New("access: must be pull or push (push includes pull)")
	}
	t.Settings[fieldAccess] = access
	names, err := parseRepositories(fields[fieldRepositories])
	if err != nil {
		return issuer.Target{}, err
	}
	if len(names) > 0 {
		if scope.public && access == accessPull {
			return issuer.Target{}, errors.New("repositories: must be left out for access=pull from public.ecr.aws, because anyone may pull from it; with access=push, repositories limits where the credential can push")
		}
		t.Settings[fieldRepositories], t.Names = strings.Join(names, ","), names
	}
	if size := len(sessionPolicy(scope, partition(c.Settings[fieldRoleARN]), t.Settings)); size > maxPolicy {
		return issuer.Target{}, fmt.Errorf("repositories: must be fewer or shorter: the session policy that limits the credential to them has %d characters, and AWS accepts at most %d; one name with '*', such as team/*, can replace many", size, maxPolicy)
	}
	return t, nil
}

// ambientCredentials is the AWS identity of the machine or pod that Vault runs
// on. It is looked up at the first use, because New makes no call.
type ambientCredentials struct {
	region string
	http   *http.Client
}

// Retrieve implements [aws.CredentialsProvider]. A web identity token, whose file the
// environment of Vault names, is sent with the connection's client, and to AWS alone:
// neither the connection's url nor the environment changes the address. All other
// sources do not use that client, because it refuses the link-local addresses at which
// AWS serves the credentials of a machine.
func (a ambientCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	found, err := config.LoadDefaultConfig(
		ctx, config.WithRegion(a.region),
		config.WithWebIdentityRoleCredentialOptions(func(o *stscreds.WebIdentityRoleOptions) {
			o.Client = awsSTS(a.region, a.http)
		}),
	)
	if err != nil {
		return aws.Credentials{}, err
	}
	return found.Credentials.Retrieve(ctx)
}

// newRetryer retries throttled calls only, so that an access key is never created
// twice. AWS reports throttling with status 400, which the connection's client
// does not retry.
func newRetryer() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff = 3, 2*time.Second
		o.Retryables = []retry.IsErrorRetryable{retry.RetryableErrorCode{Codes: map[string]struct{}{
			"Throttling": {}, "ThrottlingException": {}, "RequestLimitExceeded": {}, "TooManyRequestsException": {},
		}}}
	})
}
