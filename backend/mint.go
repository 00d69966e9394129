// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/registry"
)

// newCredential is a minted credential that is not yet stored or leased. A
// write-ahead entry stands for it until commit or abandon.
type newCredential struct {
	credentialRef
	Docker    dockerconfig.Config
	ExpiresAt time.Time // at the registry; zero: never
	MintedAt  time.Time

	proved    []verification // what its registries said of it, if they were asked
	revocable bool
	wal       string // ID of the write-ahead entry of what is revocable
	done      func()
}

// mintFor mints a credential for a role, and pulls with it if the role says
// from where. The caller commits or abandons what it gets. lifetime returns how
// long the credential must live, for what the registry can do.
//
// A mint that has begun is brought to its end, even if nobody waits for it any more.
func (b *backend) mintFor(ctx context.Context, storage logical.Storage, name string, r *role, lifetime func(issuer.Target) time.Duration) (*newCredential, error) {
	minted, err := b.mintUntried(ctx, storage, name, r, lifetime)
	if err != nil {
		return nil, err
	}
	if err := b.tryMinted(ctx, storage, r, minted); err != nil {
		b.abandon(ctx, storage, minted)
		return nil, err
	}
	return minted, nil
}

// mintUntried mints without pulling. If the registry refuses a root credential
// that was replaced meanwhile, the mint is planned anew, by what the connection
// says by then.
func (b *backend) mintUntried(ctx context.Context, storage logical.Storage, name string, r *role, lifetime func(issuer.Target) time.Duration) (*newCredential, error) {
	for try := 1; ; try++ {
		if _, err := b.usableConnection(ctx, storage, r.Dynamic.Connection); err != nil {
			return nil, err
		}
		leave, err := b.calls.enter(ctx, laneOf(r.Dynamic.Connection))
		if err != nil {
			return nil, err
		}
		c, target, minted, err := b.planMint(ctx, storage, name, r.Dynamic)
		if err != nil {
			leave(errNotCalled)
			return nil, err
		}
		answer, err := b.mintPlanned(ctx, storage, c, minted, minted.MintedAt.Add(lifetime(target)))
		leave(err)
		b.counters.countResult(c.Name, mintedOnce, mintFailed, err)
		if issuer.IsRefused(err) || err == nil && b.attentions.has(connectionMark+c.Name, kindRootRefused) {
			b.attentions.checkRootSoon(c.Name)
		}
		if err == nil {
			if err := b.accept(ctx, storage, c, minted, answer); err != nil {
				return nil, err
			}
			return minted, nil
		}
		if try == 2 || !b.rootReplaced(ctx, storage, c, err) {
			return nil, fmt.Errorf("minting a credential for role %q: %w", name, err)
		}
	}
}

// errNotCalled is about a call that was not made.
var errNotCalled = errors.New("the registry was not called")

// planMint decides whether a role may have a credential minted, and for what,
// and writes ahead how it will be found. Nothing that it decides is used for
// another connection than the one that it returns. The connection cannot be
// deleted until the write-ahead entry is there.
func (b *backend) planMint(ctx context.Context, storage logical.Storage, name string, d *dynamicRole) (*connection, issuer.Target, *newCredential, error) {
	defer b.holdConnection(d.Connection)()
	fail := func(err error) (*connection, issuer.Target, *newCredential, error) {
		return nil, issuer.Target{}, nil, err
	}
	c, err := b.connectionFor(ctx, storage, d.Connection, name)
	if err != nil {
		return fail(err)
	}
	target, err := c.target(d.For)
	if err != nil {
		return fail(err)
	}
	settings, err := b.config(ctx, storage)
	if err != nil {
		return fail(err)
	}
	if err := settings.checkRegistries(c.Registries); err != nil {
		return fail(err)
	}
	ref := credentialRef{Connection: c.Name, ConnectionID: c.ID, URL: apiRoot(c.URL), Role: name, Name: issuer.NewName(name), For: target.Settings}
	minted := &newCredential{credentialRef: ref, MintedAt: b.now(), revocable: c.can().Revoke, done: b.markInProgress(ref.Name)}
	if minted.revocable {
		if err = b.checkWaiting(ctx, storage, c.Name); err == nil {
			minted.wal, err = b.putCredentialWAL(ctx, storage, ref)
		}
		if err != nil {
			minted.done()
			return fail(err)
		}
	}
	return c, target, minted, nil
}

// mintPlanned has the registry mint what was planned.
func (b *backend) mintPlanned(ctx context.Context, storage logical.Storage, c *connection, minted *newCredential, expiresAt time.Time) (answer issuer.Credential, err error) {
	err = b.callEntered(ctx, c, issuer.Root{}, func(ctx context.Context, client *issuer.Client) (err error) {
		answer, err = client.Mint(ctx, issuer.Request{Name: minted.Name, For: minted.For, ExpiresAt: expiresAt})
		return err
	})
	if err != nil {
		// Where something may be at the registry, the entry stays.
		if issuer.Definite(err) || isInputError(err) {
			b.deleteWAL(ctx, storage, minted.wal)
		}
		minted.done()
	}
	return answer, err
}

// accept takes in what the registry has minted. What cannot be served is abandoned.
func (b *backend) accept(ctx context.Context, storage logical.Storage, c *connection, minted *newCredential, answer issuer.Credential) (err error) {
	minted.ID, minted.ExpiresAt = answer.ID, answer.ExpiresAt
	if !minted.works() {
		b.abandon(ctx, storage, minted)
		return badGateway(fmt.Errorf("the registry of connection %q minted what ends at a time that cannot be right; its clock, or that of Vault, may be wrong", c.Name))
	}
	if minted.Docker, err = pullSecretOf(c.Registries, answer); err != nil {
		b.abandon(ctx, storage, minted)
		return badGateway(fmt.Errorf("the registry of connection %q minted what cannot be in a pull secret: %w", c.Name, err))
	}
	return nil
}

// works reports whether a credential ends after it was minted, and at a time
// that storage and tools can hold. Otherwise each read would mint another.
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

// tryMinted pulls with a new credential before a read returns it, if the role has
// a verify_repository. Only a refusal of the registry counts against it: nodes may
// reach a registry that Vault cannot reach.
func (b *backend) tryMinted(ctx context.Context, storage logical.Storage, r *role, minted *newCredential) error {
	if r.VerifyRepository == "" {
		return nil
	}
	settings, err := b.config(ctx, storage)
	if err != nil {
		return err
	}
	results, err := b.verify(ctx, minted.pullSecret(r, settings), "")
	if err != nil {
		return err
	}
	minted.proved = results
	for _, v := range results {
		if v.Verdict == registry.Denied {
			return badGateway(fmt.Errorf("the new credential is not served, because it cannot pull from verify_repository: registry %q refuses what was minted (%s)", v.registry.ImageName(), v.Message))
		}
	}
	return nil
}

// pullSecret returns the pull secret that the credential makes for its role.
func (m *newCredential) pullSecret(r *role, settings config) pullSecret {
	return pullSecret{
		Docker:      m.Docker,
		description: description{Registries: m.Docker.Keys(), ExpiresAt: m.ExpiresAt, settings: settings, sources: []source{{name: m.Role, role: r, docker: m.Docker, registries: m.Docker.Keys(), isNew: true}}},
	}
}

// commit deletes the write-ahead entry of what is stored or leased now. After an
// error the entry may be there still.
func (b *backend) commit(ctx context.Context, storage logical.Storage, minted *newCredential) error {
	if minted.wal != "" {
		if err := b.tryDeleteWAL(ctx, storage, minted.wal); err != nil {
			return err
		}
	}
	minted.done()
	return nil
}

// abandon revokes what was minted and is not wanted, and reports whether it is
// gone. What cannot be revoked now is ended by the write-ahead entry.
func (b *backend) abandon(ctx context.Context, storage logical.Storage, minted *newCredential) (gone bool) {
	ctx, cancel := b.detached(ctx)
	defer cancel()
	defer minted.done()
	err := b.atItsRegistry(ctx, storage, minted.credentialRef, minted.revocable, func(ctx context.Context, client *issuer.Client) error {
		return b.endAt(ctx, client, minted.credentialRef)
	})
	if err := withoutGivenUp(err); err != nil {
		b.Logger().Warn("a credential is still to be revoked", "connection", minted.Connection, "name", minted.Name, "error", err)
		b.writeIDAhead(ctx, storage, minted)
		return false
	}
	b.deleteWAL(ctx, storage, minted.wal)
	return true
}

// writeIDAhead has the write-ahead entry say the ID that the mint has told: not every
// registry finds what it has minted by the name alone.
func (b *backend) writeIDAhead(ctx context.Context, storage logical.Storage, minted *newCredential) {
	if minted.wal == "" || minted.ID == "" {
		return
	}
	if _, err := b.putCredentialWAL(ctx, storage, minted.credentialRef); err != nil {
		b.Logger().Warn("the ID of a credential that is to be revoked could not be stored", "connection", minted.Connection, "name", minted.Name, "error", err)
		return
	}
	b.deleteWAL(ctx, storage, minted.wal)
}

// revoke ends a credential at the registry that minted it. errGivenUp says that
// the connection does not lead there.
func (b *backend) revoke(ctx context.Context, storage logical.Storage, ref credentialRef) error {
	return b.revokeAs(ctx, storage, ref, ref.ID != "")
}

func (b *backend) revokeAs(ctx context.Context, storage logical.Storage, ref credentialRef, revocable bool) error {
	return b.atItsRegistry(ctx, storage, ref, revocable, func(ctx context.Context, client *issuer.Client) error {
		if err := b.fence(ctx, storage); err != nil {
			return err
		}
		return b.endAt(ctx, client, ref)
	})
}

// find returns the IDs of the credentials of that name.
func (b *backend) find(ctx context.Context, c *connection, ref credentialRef) (ids []string, err error) {
	err = b.callRegistry(ctx, c, issuer.Root{}, func(ctx context.Context, client *issuer.Client) (err error) {
		ids, err = client.Find(ctx, ref.For, ref.Name)
		return err
	})
	return ids, err
}

// endAt ends a credential, by its ID where that is known.
func (b *backend) endAt(ctx context.Context, client *issuer.Client, ref credentialRef) (err error) {
	if ref.ID == "" {
		err = client.RevokeNamed(ctx, ref.For, ref.Name)
	} else {
		err = client.Revoke(ctx, ref.For, ref.Name, ref.ID)
	}
	b.counters.countResult(ref.Connection, revoked, revocationFailed, err)
	return err
}

// atItsRegistry calls the registry that minted a credential, which was revocable when it
// was minted, or was not. errGivenUp says that nothing can end it any more.
func (b *backend) atItsRegistry(ctx context.Context, storage logical.Storage, ref credentialRef, revocable bool, do func(context.Context, *issuer.Client) error) error {
	for try := 1; ; try++ {
		c, err := b.usableConnection(ctx, storage, ref.Connection)
		if err != nil {
			return err
		}
		if c == nil || !c.minted(ref) {
			b.reportGivenUp(ctx, ref)
			return errGivenUp
		}
		switch can := c.can(); {
		case !can.Revoke && !revocable:
			return nil
		case !can.Revoke:
			b.reportUnrevocable(ctx, ref)
			return errGivenUp
		case !can.Find && ref.ID == "":
			b.reportUnfindable(ctx, ref)
			return errGivenUp
		}
		err = b.callRegistry(ctx, c, issuer.Root{}, do)
		if err == nil || try == 2 || !b.rootReplaced(ctx, storage, c, err) {
			return err
		}
	}
}

// reportGivenUp says where a credential stays.
func (b *backend) reportGivenUp(ctx context.Context, ref credentialRef) {
	b.Logger().Warn("a credential is given up: its connection does not lead to the registry that minted it any more; delete it there if it does not expire",
		"connection", ref.Connection, "role", ref.Role, "name", ref.Name, "url", ref.URL)
	b.sendEventOf(ctx, "credential-give-up", "connections/"+ref.Connection, "creds/"+ref.Role, logical.UpdateOperation)
}

// reportUnrevocable says that a connection has lost the way to end what it has minted.
func (b *backend) reportUnrevocable(ctx context.Context, ref credentialRef) {
	b.Logger().Warn("a credential is given up: its connection cannot revoke any more, as it could when it was minted; delete it at the registry if it does not expire",
		"connection", ref.Connection, "role", ref.Role, "name", ref.Name)
	b.sendEventOf(ctx, "credential-give-up", "connections/"+ref.Connection, "creds/"+ref.Role, logical.UpdateOperation)
}

// reportUnfindable says that a credential may be left whose ID no answer has told.
func (b *backend) reportUnfindable(ctx context.Context, ref credentialRef) {
	b.Logger().Warn("a credential is given up that may have been minted: no answer told its ID, and its registry cannot find it by its name; it works until it expires",
		"connection", ref.Connection, "role", ref.Role, "name", ref.Name)
	b.sendEventOf(ctx, "credential-give-up", "connections/"+ref.Connection, "creds/"+ref.Role, logical.UpdateOperation)
}

// rootReplaced reports whether an error refuses a root credential that has been
// replaced since the connection was read.
func (b *backend) rootReplaced(ctx context.Context, storage logical.Storage, c *connection, err error) bool {
	if !refusesCredential(err) {
		return false
	}
	now, err := b.connection(ctx, storage, c.Name)
	return err == nil && now != nil && !sameSecrets(now.Secrets, c.Secrets)
}
