// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/registry"
)

const (
	// trialTries and trialPause are for registries that take a moment until
	// they accept what they have just minted.
	trialTries = 4
	trialPause = time.Second
)

// issued is a minted credential that is not yet stored or leased. Until
// kept or abandoned, a write-ahead entry stands for it.
type newCredential struct {
	credentialRef
	Docker    dockerconfig.Config
	ExpiresAt time.Time // at the registry; zero: never
	MintedAt  time.Time

	revocable bool
	wal       string // ID of the write-ahead entry of what is revocable
	done      func()
}

// mintFor mints a credential for a role that lives long enough for lifetime,
// which is told what the registry can do. Whether the role may use the
// connection, and mint for what it names, is checked here, at each mint. The
// caller keeps or abandons what it gets.
//
// The request may end before: a mint that has begun is brought to its end.
func (b *backend) mintFor(ctx context.Context, storage logical.Storage, name string, r *role, lifetime func(issuer.Target) time.Duration) (*newCredential, error) {
	ctx = context.WithoutCancel(ctx)
	d := r.Dynamic
	c, err := b.usableConnection(ctx, storage, d.Connection)
	if err != nil {
		return nil, err
	}
	if err := c.checkRole(d.Connection, name); err != nil {
		return nil, err
	}
	target, err := b.target(c, d.For)
	if err != nil {
		return nil, err
	}
	settings, err := b.config(ctx, storage)
	if err != nil {
		return nil, err
	}
	if err := settings.checkRegistries(c.Registries); err != nil {
		return nil, err
	}

	m := credentialRef{Connection: c.Name, Role: name, Name: issuer.NewName(name), For: target.Settings}
	minted := &newCredential{credentialRef: m, MintedAt: b.now(), revocable: !c.Type.NoRevocation, done: b.markInProgress(m.Name)}
	if minted.revocable {
		if minted.wal, err = b.putWAL(ctx, storage, m); err != nil {
			minted.done()
			return nil, err
		}
	}
	var answer issuer.Credential
	err = b.ask(ctx, storage, c, func(client *issuer.Client) (err error) {
		answer, err = client.Mint(ctx, issuer.Request{Name: m.Name, For: m.For, ExpiresAt: minted.MintedAt.Add(lifetime(target))})
		return err
	})
	if err != nil {
		// Where something may be at the registry, the entry stays.
		if issuer.Definite(err) || isInputError(err) {
			b.deleteWAL(ctx, storage, minted.wal)
		}
		minted.done()
		return nil, fmt.Errorf("minting a credential for role %q: %w", name, err)
	}
	minted.ID, minted.ExpiresAt = answer.ID, answer.ExpiresAt
	if !minted.works() {
		b.abandon(ctx, storage, minted)
		return nil, badGateway(fmt.Errorf("the registry of connection %q minted what ends at a time that cannot be right; its clock, or that of Vault, may be wrong", c.Name))
	}
	if minted.Docker, err = pullSecretOf(c.Registries, answer); err != nil {
		b.abandon(ctx, storage, minted)
		return nil, badGateway(fmt.Errorf("the registry of connection %q minted what cannot be in a pull secret: %w", c.Name, err))
	}
	if err := b.tryMinted(ctx, settings, r, minted); err != nil {
		b.abandon(ctx, storage, minted)
		return nil, err
	}
	return minted, nil
}

// works reports whether the time at which a credential ends is after the one at
// which it was minted, and one that storage and tools can hold. Else each read
// would mint another.
func (m *newCredential) works() bool {
	return m.ExpiresAt.IsZero() || m.ExpiresAt.After(m.MintedAt) && m.ExpiresAt.UTC().Year() <= 9999
}

// pullSecretOf makes a Docker config of a minted credential.
func pullSecretOf(registries []dockerconfig.Key, minted issuer.Credential) (dockerconfig.Config, error) {
	username, err := dockerconfig.ParseUsername(minted.Username)
	if err != nil {
		return dockerconfig.Config{}, fieldError("username", err)
	}
	password, _, err := dockerconfig.ParsePassword(minted.Password.Reveal())
	if err != nil {
		return dockerconfig.Config{}, fieldError("password", err)
	}
	credentials := make([]dockerconfig.Credential, len(registries))
	for i, key := range registries {
		credentials[i] = dockerconfig.Credential{Registry: key, Username: username, Password: password}
	}
	return dockerconfig.New(credentials...)
}

// tryMinted pulls with a new credential before anybody is given it, if the role
// says what from. Only a registry that refuses it counts against it: one that
// Vault cannot reach may be reached by the nodes.
func (b *backend) tryMinted(ctx context.Context, settings config, r *role, minted *newCredential) error {
	if r.VerifyRepository == "" {
		return nil
	}
	secret := pullSecret{Docker: minted.Docker, settings: settings, sources: []source{{name: minted.Role, role: r, docker: minted.Docker}}}
	for try := 1; ; try++ {
		results, err := b.verify(ctx, secret, "")
		if err != nil {
			return err
		}
		denied := ""
		for _, v := range results {
			if v.Verdict == registry.Denied {
				denied = fmt.Sprintf("registry %q refuses what was minted (%s)", v.registry.ImageName(), v.Message)
			}
		}
		if denied == "" {
			return nil
		}
		if try == trialTries {
			return badGateway(errors.New("the new credential is revoked again, because it cannot pull from verify_repository: " + denied))
		}
		b.sleep(ctx, trialPause)
	}
}

// kept ends the write-ahead entry of what is stored or leased now. After an
// error the entry may be there still.
func (b *backend) commit(ctx context.Context, storage logical.Storage, minted *newCredential) error {
	if minted.wal != "" {
		if err := framework.DeleteWAL(ctx, storage, minted.wal); err != nil {
			return fmt.Errorf("deleting a write-ahead entry: %w", err)
		}
	}
	minted.done()
	return nil
}

// abandon revokes what was minted and is not wanted, and reports whether it is
// gone. What cannot be revoked now is found by the write-ahead entry.
func (b *backend) abandon(ctx context.Context, storage logical.Storage, minted *newCredential) (gone bool) {
	ctx = context.WithoutCancel(ctx)
	defer minted.done()
	if err := b.revoke(ctx, storage, minted.credentialRef); err != nil {
		b.Logger().Warn("a credential is still to be revoked", "connection", minted.Connection, "name", minted.Name, "error", err)
		return false
	}
	b.deleteWAL(ctx, storage, minted.wal)
	return true
}

// revoke ends a credential at the registry. A connection that is gone was given
// up with all that it had minted.
func (b *backend) revoke(ctx context.Context, storage logical.Storage, m credentialRef) error {
	if m.ID == "" {
		return b.revokeNamed(ctx, storage, m)
	}
	return b.withClient(ctx, storage, m, func(client *issuer.Client) error {
		return client.Revoke(ctx, m.For, m.ID)
	})
}

// revokeNamed ends what has the name of a credential, if anything.
func (b *backend) revokeNamed(ctx context.Context, storage logical.Storage, m credentialRef) error {
	return b.withClient(ctx, storage, m, func(client *issuer.Client) error {
		return client.RevokeNamed(ctx, m.For, m.Name)
	})
}

// withClient opens the connection of a credential.
func (b *backend) withClient(ctx context.Context, storage logical.Storage, m credentialRef, do func(*issuer.Client) error) error {
	c, err := b.usableConnection(ctx, storage, m.Connection)
	if err != nil {
		return err
	}
	if c == nil {
		b.Logger().Warn("a credential was given up with its connection", "connection", m.Connection, "name", m.Name)
		return nil
	}
	if c.Type.NoRevocation {
		return nil
	}
	return b.ask(ctx, storage, c, do)
}

// ask does something with a connection, and once more if its root
// credential is refused because it was replaced meanwhile.
func (b *backend) ask(ctx context.Context, storage logical.Storage, c *connection, do func(*issuer.Client) error) error {
	err := b.askOnce(c, do)
	if !refusesCredential(err) {
		return err
	}
	now, readErr := b.connection(ctx, storage, c.Name)
	if readErr != nil || now == nil || sameSecrets(now.Secrets, c.Secrets) {
		return err
	}
	return b.askOnce(now, do)
}

func (b *backend) askOnce(c *connection, do func(*issuer.Client) error) error {
	client, err := b.open(c, issuer.Root{})
	if err != nil {
		return err
	}
	defer client.Close()
	return do(client)
}
