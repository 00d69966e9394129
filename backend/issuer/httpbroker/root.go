// SPDX-License-Identifier: MPL-2.0

package httpbroker

import (
	"context"
	"net/http"
	"net/url"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
)

// PrepareRoot implements [issuer.RootRotator], for a broker that says that it can.
func (b *broker) PrepareRoot(ctx context.Context, name string) (issuer.Root, error) {
	ops, err := b.operations(ctx)
	switch {
	case err != nil:
		return issuer.Root{}, err
	case !ops.has(opRotateRoot) || b.auth.header == "":
		return issuer.Root{}, issuer.ErrRootNotRotatable
	}
	var made struct {
		answer
		Token string `json:"token"`
	}
	if err := b.call(ctx, http.MethodPost, "/root", nil, map[string]string{"name": name}, &made); err != nil {
		return issuer.Root{}, err
	}
	if made.Name != name || !tokenPattern.MatchString(made.Token) {
		return issuer.Root{}, issuer.Malformedf(`the answer to rotate-root has no "token" of ASCII characters without white space, or is not about the "name" that was asked for`)
	}
	return issuer.Root{Secrets: issuer.Secrets{fieldToken: dockerconfig.NewSecret(made.Token)}}, nil
}

// ActivateRoot does nothing, because the new token works at once.
func (b *broker) ActivateRoot(context.Context, issuer.Root) error { return nil }

// DiscardRoot implements [issuer.RootRotator].
func (b *broker) DiscardRoot(ctx context.Context, name string) error {
	var ended answer
	err := b.call(ctx, http.MethodDelete, "/root", url.Values{"name": {name}}, nil, &ended)
	switch {
	case issuer.IsGone(err):
		return nil
	case err == nil && ended.Name != name:
		return issuer.Malformedf(`the answer to the end of a token is not about the "name" that was to be ended`)
	}
	return err
}

// RetireRoot has the old token end itself. That it is refused proves that it has ended
// only if the new one is accepted.
func (b *broker) RetireRoot(ctx context.Context, old issuer.Root) error {
	former := *b
	former.conn.Settings, former.conn.Secrets = old.Settings, old.Secrets // which may authenticate in another way
	auth, err := newAuthentication(former.conn)
	if err != nil {
		return issuer.Refusedf("%s", err)
	}
	former.auth = auth
	var ended answer
	err = former.call(ctx, http.MethodDelete, "/root/self", nil, nil, &ended)
	if !issuer.IsRefused(err) {
		return err
	}
	_, err = b.capabilities(ctx)
	return err
}
