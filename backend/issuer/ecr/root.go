// SPDX-License-Identifier: MPL-2.0

package ecr

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

const (
	// rotationTag is a tag of the IAM user that says which key is being created,
	// because a key has no name or tag of its own; see [creation].
	rotationTag = "regcred-rotate-root"

	// creationTime is how long after the tag the key may appear: the call has
	// [issuer.CallTimeout], and AWS may act on it a moment later.
	creationTime = issuer.CallTimeout + 5*time.Second

	maxKeys = 100 // of one user; AWS allows two

	refusedKey = "InvalidClientTokenId" // for a key that does not exist, or no longer
	noEntity   = "NoSuchEntity"
)

// PrepareRoot creates a second access key for the IAM user of the connection.
func (t *tokens) PrepareRoot(ctx context.Context, name string) (issuer.Root, error) {
	user, err := t.user(ctx)
	if err != nil {
		return issuer.Root{}, convertError(err)
	}
	others, now, err := user.otherKeys(ctx)
	if err != nil {
		return issuer.Root{}, convertError(err)
	}
	if len(others) > 0 {
		return issuer.Root{}, issuer.Refusedf("the IAM user %s has a second access key, %s, and AWS allows only two: delete it if it is not used", redact.Untrusted(user.name), redact.Untrusted(strings.Join(idsOf(others), ", ")))
	}
	if now.IsZero() {
		return issuer.Root{}, issuer.Refusedf("the answer to ListAccessKeys has no date, without which a new key could not be told from another one")
	}
	if err := user.tag(ctx, creation{name: name, only: user.key, since: now}.String()); err != nil {
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

// DiscardRoot deletes the key that PrepareRoot created under the name: the only
// other one of the user, if it appeared within the time of that call.
func (t *tokens) DiscardRoot(ctx context.Context, name string) error {
	user, err := t.user(ctx)
	if err != nil {
		return convertError(err)
	}
	tag, err := user.rotationTag(ctx)
	if err != nil {
		return convertError(err)
	}
	created, ours := parseCreation(tag)
	if tag != name && (!ours || created.name != name) {
		return nil
	}
	others, _, err := user.otherKeys(ctx)
	if err != nil {
		return convertError(err)
	}
	found := slices.DeleteFunc(others, func(key accessKey) bool { return !created.may(key) })
	if len(found) == 1 {
		if err := user.deleteKey(ctx, found[0].id); err != nil {
			return convertError(err)
		}
	}
	// A key that may be somebody else's stays. If the engine made it, nobody knows
	// its secret, because the answer never came; the next rotation names it.
	return convertError(user.untag(ctx))
}

// creation is what the rotation tag says of a key that is being created.
type creation struct {
	name  string    // of the rotation
	only  string    // ID of the user's only key before
	since time.Time // by the clock of AWS
}

// String returns the value of the tag.
func (c creation) String() string {
	return strings.Join([]string{c.name, c.only, c.since.UTC().Format(time.RFC3339)}, "/")
}

// parseCreation reports whether a tag is one that String wrote. Earlier builds wrote
// the name alone, which does not tell one key from another.
func parseCreation(tag string) (creation, bool) {
	name, rest, _ := strings.Cut(tag, "/")
	only, at, _ := strings.Cut(rest, "/")
	since, err := time.Parse(time.RFC3339, at)
	return creation{name, only, since}, err == nil && name != "" && only != ""
}

// may reports whether a key may be the one that was created.
func (c creation) may(key accessKey) bool {
	return !c.since.IsZero() && key.id != c.only && !key.created.Before(c.since) && !key.created.After(c.since.Add(creationTime))
}

// RetireRoot deletes the old key, authenticated with that key. It removes the tag first,
// so that DiscardRoot cannot delete a key created later. If AWS refuses the old key, the
// new one asks whether it is still in the list: AWS also refuses a key that is inactive.
func (t *tokens) RetireRoot(ctx context.Context, root issuer.Root) error {
	old := *t
	old.conn = t.conn.With(root)
	old.creds = signingCredentials(old.conn, t.scope.region)
	user, err := old.user(ctx)
	if err == nil {
		err = user.untag(ctx)
	}
	if err == nil {
		err = user.deleteKey(ctx, user.key)
	}
	if !hasCode(err, refusedKey) {
		return convertError(err)
	}
	if user, err = t.user(ctx); err != nil {
		return convertError(err)
	}
	others, _, err := user.otherKeys(ctx)
	if err != nil {
		return convertError(err)
	}
	if key := root.Settings[fieldAccessKey]; slices.Contains(idsOf(others), key) {
		return convertError(user.deleteKey(ctx, key))
	}
	return nil
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
	switch {
	case key == "" && t.conn.TakesIdentityToken():
		return nil, issuer.Refusedf("the connection has no access key, with which the keys of its former IAM user could be listed; delete there the key that an unfinished rotate-root has left")
	case key == "":
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

// accessKey is a key as AWS lists it.
type accessKey struct {
	id      string
	created time.Time // whole seconds, by the clock of AWS
}

func idsOf(keys []accessKey) []string {
	ids := make([]string, len(keys))
	for i, key := range keys {
		ids[i] = key.id
	}
	return ids
}

// otherKeys returns the user's keys, except the connection's own, and when AWS
// answered, by its own clock; zero if it does not say.
func (u *iamUser) otherKeys(ctx context.Context) (others []accessKey, now time.Time, err error) {
	own := false
	for pages := iam.NewListAccessKeysPaginator(u.api, &iam.ListAccessKeysInput{UserName: &u.name}); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, time.Time{}, err
		}
		now, _ = middleware.GetServerTime(page.ResultMetadata)
		for _, key := range page.AccessKeyMetadata {
			if id := aws.ToString(key.AccessKeyId); id == u.key {
				own = true
			} else {
				others = append(others, accessKey{id, aws.ToTime(key.CreateDate)})
			}
		}
		if len(others) > maxKeys {
			return nil, time.Time{}, issuer.Malformedf("the answer to ListAccessKeys lists more than %d keys, and AWS allows two", maxKeys)
		}
	}
	// A list without the connection's own key cannot be trusted.
	if !own {
		return nil, time.Time{}, issuer.Malformedf("the answer to ListAccessKeys does not list the connection's own key")
	}
	return others, now, nil
}

func (u *iamUser) deleteKey(ctx context.Context, key string) error {
	_, err := u.api.DeleteAccessKey(ctx, &iam.DeleteAccessKeyInput{UserName: &u.name, AccessKeyId: &key})
	if hasCode(err, noEntity) {
		return nil
	}
	return err
}

func (u *iamUser) tag(ctx context.Context, value string) error {
	_, err := u.api.TagUser(ctx, &iam.TagUserInput{
		UserName: &u.name,
		Tags:     []types.Tag{{Key: aws.String(rotationTag), Value: &value}},
	})
	return err
}

func (u *iamUser) untag(ctx context.Context) error {
	_, err := u.api.UntagUser(ctx, &iam.UntagUserInput{UserName: &u.name, TagKeys: []string{rotationTag}})
	return err
}

// rotationTag returns the value of the user's rotation tag, "" if it has none.
func (u *iamUser) rotationTag(ctx context.Context) (string, error) {
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
			return issuer.Indefinite(err, "and the tag "+rotationTag+" of the IAM user "+redact.Untrusted(u.name)+" could not be removed")
		}
	}
	return err
}
