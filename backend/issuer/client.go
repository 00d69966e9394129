// SPDX-License-Identifier: MPL-2.0

package issuer

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/redact"
)

// Client is an open connection: the [Issuer] of its type, and what all types
// share around each call (time limit, wording of errors, redaction).
type Client struct {
	issuer Issuer
	conn   Connection

	mu      sync.Mutex
	secrets []dockerconfig.Secret // must not appear in errors, warnings or identities
}

// Open opens a connection. Its errors are for the person who wrote the fields.
func Open(t Type, c Connection) (*Client, error) {
	client := &Client{secrets: c.sentSecrets()}
	if c.TakesIdentityToken() {
		c.IdentityToken = client.withheld(c.IdentityToken)
	}
	issuer, err := t.New(c)
	if err != nil {
		return nil, err
	}
	client.issuer, client.conn = issuer, c
	return client, nil
}

// hidden returns what must not appear in errors, warnings or identities.
func (c *Client) hidden() []dockerconfig.Secret {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.secrets)
}

// sentSecrets returns the secrets, and each of them joined to a user name as in
// basic authentication: in base64, the pair does not contain the encoded secret.
func (c Connection) sentSecrets() []dockerconfig.Secret {
	var texts []dockerconfig.Secret
	for _, secret := range c.Secrets {
		texts = append(texts, secret)
		for _, value := range c.Settings {
			texts = append(texts, dockerconfig.NewSecret(value+":"+secret.Reveal()))
		}
	}
	return texts
}

func reveal(secrets []dockerconfig.Secret) []string {
	texts := make([]string, len(secrets))
	for i, secret := range secrets {
		texts[i] = secret.Reveal()
	}
	return texts
}

// known returns what readers and writers of the connection know. If one of these texts is
// the root credential, an error with that text must not say so.
func (c Connection) known() []string {
	known := append(c.Settings.names(), c.URL)
	if u, err := url.Parse(c.URL); err == nil {
		known = append(known, u.Host, u.Hostname())
	}
	for _, key := range c.Registries {
		known = append(known, string(key), key.ImageName(), key.Host())
	}
	return known
}

// names returns the values, and the parts of those that are lists or paths.
func (s Settings) names() []string {
	var names []string
	for _, value := range s {
		names = append(names, value)
		names = append(names, strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(",/", r) })...)
		names = append(names, strings.Split(value, ",")...)
	}
	return names
}

// Close closes the idle HTTP connections.
func (c *Client) Close() { c.conn.HTTP.CloseIdleConnections() }

// Check calls [Issuer.Check].
func (c *Client) Check(ctx context.Context) (Status, error) {
	ctx, cancel := forOneCall(ctx)
	defer cancel()
	status, err := c.issuer.Check(ctx)
	status.Identity = c.sanitize(status.Identity)
	for i, warning := range status.Warnings {
		status.Warnings[i] = c.sanitize(warning)
	}
	return status, c.wrapError(err)
}

// sanitize makes a text that may contain what the registry said fit to be shown.
func (c *Client) sanitize(text string) string {
	return redact.Truncate(redact.Sanitize(text, reveal(c.hidden()), c.conn.known()), maxText)
}

// Mint calls [Issuer.Mint]. A credential without user name or password is an
// error: an answer of another kind may decode to one.
func (c *Client) Mint(ctx context.Context, r Request) (Credential, error) {
	ctx, cancel := forOneCall(ctx)
	defer cancel()
	minted, err := c.issuer.Mint(ctx, r)
	if err == nil && (minted.Username == "" || minted.Password.Reveal() == "") {
		err = Malformedf("the answer has no credential")
	}
	return minted, c.wrapErrorFor(r.For, err)
}

// Revoke calls [Issuer.Revoke]. The name must be from [NewName].
func (c *Client) Revoke(ctx context.Context, target Settings, name, id string) error {
	if err := checkName(name); err != nil {
		return c.wrapError(err)
	}
	ctx, cancel := forOneCall(ctx)
	defer cancel()
	return c.wrapErrorFor(target, explainUnproven(c.issuer.Revoke(ctx, target, name, id)))
}

// Find calls [Issuer.Find].
func (c *Client) Find(ctx context.Context, target Settings, name string) ([]string, error) {
	ctx, cancel := forOneCall(ctx)
	defer cancel()
	ids, err := c.issuer.Find(ctx, target, name)
	return ids, c.wrapErrorFor(target, explainUnproven(err))
}

// RevokeNamed revokes every credential with the name, which must be from [NewName].
func (c *Client) RevokeNamed(ctx context.Context, target Settings, name string) error {
	if err := checkName(name); err != nil {
		return c.wrapError(err)
	}
	ctx, cancel := forOneCall(ctx)
	defer cancel()
	ids, err := c.issuer.Find(ctx, target, name)
	if err != nil {
		return c.wrapErrorFor(target, explainUnproven(err))
	}
	for _, id := range ids {
		if err := c.issuer.Revoke(ctx, target, name, id); err != nil {
			return c.wrapErrorFor(target, explainUnproven(err))
		}
	}
	return nil
}

// ErrRootNotRotatable is the error for a type whose root credential the engine
// cannot replace.
var ErrRootNotRotatable = errors.New("the engine cannot replace the root credential of this type of connection; write a new one to the connection")

func (c *Client) rotator() (RootRotator, error) {
	if r, ok := c.issuer.(RootRotator); ok {
		return r, nil
	}
	return nil, ErrRootNotRotatable
}

// PrepareRoot calls [RootRotator.PrepareRoot].
func (c *Client) PrepareRoot(ctx context.Context, name string) (Root, error) {
	ctx, cancel := forOneCall(ctx)
	defer cancel()
	if c.conn.TakesIdentityToken() {
		return Root{}, ErrNothingToRotate
	}
	r, err := c.rotator()
	if err != nil {
		return Root{}, err
	}
	root, err := r.PrepareRoot(ctx, name)
	return root, c.wrapError(err)
}

// ActivateRoot calls [RootRotator.ActivateRoot].
func (c *Client) ActivateRoot(ctx context.Context, root Root) error {
	ctx, cancel := forOneCall(ctx)
	defer cancel()
	r, err := c.rotator()
	if err != nil {
		return err
	}
	return c.wrapError(r.ActivateRoot(ctx, root), c.conn.With(root).sentSecrets()...)
}

// DiscardRoot calls [RootRotator.DiscardRoot]. The name must be from [NewName].
func (c *Client) DiscardRoot(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return c.wrapError(err)
	}
	ctx, cancel := forOneCall(ctx)
	defer cancel()
	r, err := c.rotator()
	if err != nil {
		return err
	}
	return c.wrapError(explainUnproven(r.DiscardRoot(ctx, name)))
}

// RetireRoot calls [RootRotator.RetireRoot]. The client is open with the new root
// credential.
func (c *Client) RetireRoot(ctx context.Context, old Root) error {
	ctx, cancel := forOneCall(ctx)
	defer cancel()
	r, err := c.rotator()
	if err != nil {
		return err
	}
	return c.wrapError(explainUnproven(r.RetireRoot(ctx, old)), c.conn.With(old).sentSecrets()...)
}

// wrapError adds to an error which registry it is about, and which secrets it
// must not repeat.
func (c *Client) wrapError(err error, more ...dockerconfig.Secret) error {
	return c.wrapErrorFor(nil, err, more...)
}

// wrapErrorFor is wrapError for a call about a target.
func (c *Client) wrapErrorFor(target Settings, err error, more ...dockerconfig.Secret) error {
	if err == nil || errors.Is(err, ErrRootNotRotatable) {
		return err
	}
	var answered *Error
	if !errors.As(Failed(err), &answered) {
		return err
	}
	copied := *answered // an issuer may return the same error again
	e := &copied
	e.discardUnproven()
	e.secrets, e.known = slices.Concat(c.hidden(), more), slices.Concat(c.conn.known(), target.names())
	where := c.conn.URL
	if where == "" {
		where = string(c.conn.Registries[0])
	}
	return fmt.Errorf("the registry's API at %s: %w", where, e)
}
