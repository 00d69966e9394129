// SPDX-License-Identifier: MPL-2.0

package ecr

import (
	"context"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	// rotationTag is a tag of the IAM user that holds the name of the key being
	// created, because a key has no name or tag of its own. It is set only while
	// the connection's key is the user's only one. Any other key found with the
	// tag is therefore the one created under that name.
	rotationTag = "regcred-rotate-root"

	refusedKey = "InvalidClientTokenId" // for a key that does not exist, or no longer
	noEntity   = "NoSuchEntity"
)

// PrepareRoot creates a second access key for the IAM user of the connection.
func (t *tokens) PrepareRoot(ctx context.Context, name string) (issuer.Root, error) {
	user, err := t.user(ctx)
	if err != nil {
		return issuer.Root{}, convertError(err)
	}
	others, err := user.otherKeys(ctx)
	if err != nil {
		return issuer.Root{}, convertError(err)
	}
	if len(others) > 0 {
		return issuer.Root{}, issuer.Refusedf("the IAM user %s has a second access key, %s, and AWS allows only two: delete it if it is not used", redact.Untrusted(user.name), redact.Untrusted(strings.Join(others, ", ")))
	}
	if err := user.tag(ctx, name); err != nil {
		return issuer.Root{}, convertError(err)
	}
	out, err := user.api.CreateAccessKey(ctx, &iam.CreateAccessKeyInput{UserName: &user.name})
	if err != nil {
		return issuer.Root{}, user.untagAfterFailure(ctx, convertError(err))
	}
	key := out.AccessKey
	if key == nil || aws.ToString(key.AccessKeyId) == "" || aws.ToString(key.SecretAccessKey) == "" {
		return issuer.Root{}, issuer.Malformedf("the answer to CreateAccessKey has no key")
	}
	return issuer.Root{
		Settings: issuer.Settings{fieldAccessKey: *key.AccessKeyId},
		Secrets:  issuer.Secrets{fieldSecretKey: dockerconfig.NewSecret(*key.SecretAccessKey)},
	}, nil
}

// ActivateRoot does nothing: a new key is active from the start.
func (t *tokens) ActivateRoot(context.Context, issuer.Root) error { return nil }

// DiscardRoot deletes the key that PrepareRoot created under the name.
func (t *tokens) DiscardRoot(ctx context.Context, name string) error {
	user, err := t.user(ctx)
	if err != nil {
		return convertError(err)
	}
	tagged, err := user.taggedName(ctx)
	if err != nil || tagged != name {
		return convertError(err)
	}
	others, err := user.otherKeys(ctx)
	if err != nil {
		return convertError(err)
	}
	for _, key := range others {
		if err := user.deleteKey(ctx, key); err != nil {
			return convertError(err)
		}
	}
	return convertError(user.untag(ctx))
}

// RetireRoot deletes the key of the connection, authenticated with that key. It
// removes the tag first, so that DiscardRoot cannot delete a key created later.
func (t *tokens) RetireRoot(ctx context.Context) error {
	user, err := t.user(ctx)
	if err == nil {
		err = user.untag(ctx)
	}
	if err == nil {
		err = user.deleteKey(ctx, user.key)
	}
	if hasCode(err, refusedKey) {
		return nil
	}
	return convertError(err)
}

// iamUser is the IAM user that the connection's key belongs to. Its methods return
// errors of the SDK.
type iamUser struct {
	api  *iam.Client
	name string
	key  string // ID of the connection's key
}

// user asks AWS which IAM user the connection's key belongs to.
func (t *tokens) user(ctx context.Context) (*iamUser, error) {
	key := t.conn.Settings[fieldAccessKey]
	if key == "" {
		return nil, issuer.Refusedf("the connection has no access key to replace: it uses the AWS credentials of the machine or pod that Vault runs on, which AWS renews itself")
	}
	arn, err := t.identity(ctx, t.creds)
	if err != nil {
		return nil, err
	}
	_, path, found := strings.Cut(arn, ":user/")
	if !found {
		return nil, issuer.Refusedf("access_key_id belongs to %s; only the key of an IAM user can be replaced", redact.Untrusted(arn))
	}
	return &iamUser{api: iam.NewFromConfig(t.config(t.creds)), name: path[strings.LastIndexByte(path, '/')+1:], key: key}, nil
}

// otherKeys returns the IDs of the user's keys, except the connection's own.
func (u *iamUser) otherKeys(ctx context.Context) ([]string, error) {
	var all []string
	for pages := iam.NewListAccessKeysPaginator(u.api, &iam.ListAccessKeysInput{UserName: &u.name}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, key := range page.AccessKeyMetadata {
			all = append(all, aws.ToString(key.AccessKeyId))
		}
	}
	// A list without the connection's own key cannot be trusted.
	own := slices.Index(all, u.key)
	if own < 0 {
		return nil, issuer.Malformedf("the answer to ListAccessKeys does not list the connection's own key")
	}
	return slices.Delete(all, own, own+1), nil
}

func (u *iamUser) deleteKey(ctx context.Context, key string) error {
	_, err := u.api.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: &u.name, AccessKeyId: &key})
	if hasCode(err, noEntity) {
		return nil
	}
	return err
}

func (u *iamUser) tag(ctx context.Context, name string) error {
	_, err := u.api.TagUser(ctx, &iam.TagUserInput{
		UserName: &u.name,
		Tags:     []types.Tag{{Key: aws.String(rotationTag), Value: &name}},
	})
	return err
}

func (u *iamUser) untag(ctx context.Context) error {
	_, err := u.api.UntagUser(ctx, &iam.UntagUserInput{UserName: &u.name, TagKeys: []string{rotationTag}})
	return err
}

// taggedName returns the value of the user's rotation tag, "" if it has none.
func (u *iamUser) taggedName(ctx context.Context) (string, error) {
	for pages := iam.NewListUserTagsPaginator(u.api, &iam.ListUserTagsInput{UserName: &u.name}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return "", err
		}
		for _, tag := range page.Tags {
			if aws.ToString(tag.Key) == rotationTag {
				return aws.ToString(tag.Value), nil
			}
		}
	}
	return "", nil
}

// untagAfterFailure removes the tag if the failed call certainly created no key. If
// the tag stays, the error is not definite, so that DiscardRoot is called later.
func (u *iamUser) untagAfterFailure(ctx context.Context, err error) error {
	if issuer.Definite(err) {
		if untagged := u.untag(ctx); untagged != nil {
			return issuer.Malformedf("%s; and the tag %s of the IAM user %s could not be removed", redact.Untrusted(err.Error()), rotationTag, redact.Untrusted(u.name))
		}
	}
	return err
}
