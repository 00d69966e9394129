// SPDX-License-Identifier: MPL-2.0

package ecr

import (
	"context"
	"encoding/base64"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecrpublic"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	// checkName is the session name of [tokens.Check].
	checkName = "regcred-check"

	maxSessionName = 64
	uniqueSuffix   = 27 // length of '-' and the random end of a name
)

// Check asks AWS for the principal, and mints a token that it throws away, because
// no other call shows whether the principal may mint.
func (t *tokens) Check(ctx context.Context) (issuer.Status, error) {
	session, err := t.session(ctx, checkName, issuer.Settings{fieldAccess: accessPull})
	if err != nil {
		return issuer.Status{}, err
	}
	who, err := t.identity(ctx, session)
	if err != nil {
		return issuer.Status{}, convertError(err)
	}
	if _, err := t.token(ctx, session); err != nil {
		return issuer.Status{}, err
	}
	status := issuer.Status{Identity: redact.Untrusted(who)}
	if strings.HasSuffix(who, ":root") {
		status.Warnings = []string{"the key belongs to the AWS account's root user, which may do anything; create an IAM user or role with the permissions that ECR needs, and delete the root user's key"}
	}
	return status, nil
}

// Mint implements [issuer.Issuer].
func (t *tokens) Mint(ctx context.Context, r issuer.Request) (issuer.Credential, error) {
	session, err := t.session(ctx, sessionName(r.Name), r.For)
	if err != nil {
		return issuer.Credential{}, err
	}
	return t.token(ctx, session)
}

// Find returns nothing, because AWS has no list of tokens.
func (t *tokens) Find(context.Context, issuer.Settings, string) ([]string, error) { return nil, nil }

// Revoke does nothing, because AWS has no call that ends a token.
func (t *tokens) Revoke(context.Context, issuer.Settings, string, string) error { return nil }

// config returns the settings for the client of one AWS service. It ignores the
// environment, which could send the credentials to another host.
func (t *tokens) config(creds aws.CredentialsProvider) aws.Config {
	c := aws.Config{
		Region:      t.scope.region,
		Credentials: creds,
		HTTPClient:  t.conn.HTTP,
		Retryer:     func() aws.Retryer { return t.retryer },
	}
	if t.conn.URL != "" {
		c.BaseEndpoint = aws.String(t.conn.URL)
	}
	return c
}

// session returns the AWS credentials that mint for a role: those of role_arn,
// limited by the role's fields, or the connection's own if it has no role_arn.
func (t *tokens) session(ctx context.Context, name string, role issuer.Settings) (aws.CredentialsProvider, error) {
	if t.conn.TakesIdentityToken() {
		return t.federatedSession(ctx, name, role)
	}
	if _, err := t.creds.Retrieve(ctx); err != nil {
		return nil, credentialsError(ctx, err)
	}
	arn := t.conn.Settings[fieldRoleARN]
	if arn == "" {
		return t.creds, nil
	}
	in := &sts.AssumeRoleInput{
		RoleArn:         aws.String(arn),
		RoleSessionName: aws.String(name),
		Policy:          aws.String(sessionPolicy(t.scope, partition(arn), role)),
	}
	if id := t.conn.Settings[fieldExternalID]; id != "" {
		in.ExternalId = aws.String(id)
	}
	out, err := sts.NewFromConfig(t.config(t.creds)).AssumeRole(ctx, in)
	if err != nil {
		return nil, convertError(err)
	}
	return sessionOf("AssumeRole", out.Credentials)
}

// federatedSession assumes role_arn with an identity token of Vault. The token is sent to
// AWS alone: the connection's url does not change the address.
func (t *tokens) federatedSession(ctx context.Context, name string, role issuer.Settings) (aws.CredentialsProvider, error) {
	proof, err := t.conn.IdentityToken(ctx)
	if err != nil {
		return nil, err
	}
	arn := t.conn.Settings[fieldRoleARN]
	out, err := awsSTS(t.scope.region, t.conn.HTTP).AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn:          aws.String(arn),
		RoleSessionName:  aws.String(name),
		Policy:           aws.String(sessionPolicy(t.scope, partition(arn), role)),
		WebIdentityToken: aws.String(proof.Reveal()),
	})
	if err != nil {
		return nil, convertError(err)
	}
	return sessionOf("AssumeRoleWithWebIdentity", out.Credentials)
}

// awsSTS returns the STS of AWS, whatever the connection's url is, for tokens that prove an
// identity.
func awsSTS(region string, client *http.Client) *sts.Client {
	return sts.NewFromConfig(aws.Config{Region: region, HTTPClient: client, Retryer: newRetryer})
}

// sessionOf returns the credentials in the answer to a call of STS.
func sessionOf(call string, got *types.Credentials) (aws.CredentialsProvider, error) {
	if got == nil || aws.ToString(got.AccessKeyId) == "" || aws.ToString(got.SecretAccessKey) == "" || aws.ToString(got.SessionToken) == "" {
		return nil, issuer.Malformedf("the answer to %s has no credentials", call)
	}
	return credentials.NewStaticCredentialsProvider(*got.AccessKeyId, *got.SecretAccessKey, *got.SessionToken), nil
}

// sessionName shortens a name to the length that AWS accepts. It cuts the middle,
// so that the purpose stays readable and the name unique.
func sessionName(name string) string {
	if len(name) <= maxSessionName {
		return name
	}
	return name[:maxSessionName-uniqueSuffix] + name[len(name)-uniqueSuffix:]
}

// identity returns the ARN of the principal. It returns errors of the SDK.
func (t *tokens) identity(ctx context.Context, creds aws.CredentialsProvider) (string, error) {
	out, err := sts.NewFromConfig(t.config(creds)).GetCallerIdentity(ctx, nil)
	if err != nil {
		return "", err
	}
	if aws.ToString(out.Arn) == "" {
		return "", issuer.Malformedf("the answer to GetCallerIdentity has no ARN")
	}
	return *out.Arn, nil
}

func (t *tokens) token(ctx context.Context, creds aws.CredentialsProvider) (issuer.Credential, error) {
	if t.scope.public {
		out, err := ecrpublic.NewFromConfig(t.config(creds)).GetAuthorizationToken(ctx, nil)
		switch {
		case err != nil:
			return issuer.Credential{}, convertError(err)
		case out.AuthorizationData == nil:
			return issuer.Credential{}, issuer.Malformedf("the answer to GetAuthorizationToken has no token")
		}
		return credential(out.AuthorizationData.AuthorizationToken, out.AuthorizationData.ExpiresAt)
	}
	out, err := ecr.NewFromConfig(t.config(creds)).GetAuthorizationToken(ctx, nil)
	switch {
	case err != nil:
		return issuer.Credential{}, convertError(err)
	case len(out.AuthorizationData) == 0:
		return issuer.Credential{}, issuer.Malformedf("the answer to GetAuthorizationToken has no token")
	}
	return credential(out.AuthorizationData[0].AuthorizationToken, out.AuthorizationData[0].ExpiresAt)
}

// credential decodes a token: base64 of user:password.
func credential(token *string, expiresAt *time.Time) (issuer.Credential, error) {
	text, err := base64.StdEncoding.DecodeString(aws.ToString(token))
	username, password, found := strings.Cut(string(text), ":")
	switch {
	case err != nil, !found, username == "", password == "":
		return issuer.Credential{}, issuer.Malformedf("the answer to GetAuthorizationToken has a token that is not base64 of user:password")
	case expiresAt == nil:
		// A zero time would mean a token that never ends.
		return issuer.Credential{}, issuer.Malformedf("the answer to GetAuthorizationToken has no expiry time")
	}
	return issuer.Credential{Username: username, Password: dockerconfig.NewSecret(password), ExpiresAt: *expiresAt}, nil
}
