// SPDX-License-Identifier: MPL-2.0

// Package backend is the secrets engine: a file per path, named after it.
//
// A request flows one way: path, role, source (what the role's type says),
// Docker config, response. Secrets enter in the path_* files and leave through
// package dockerconfig.
package backend

import (
	"context"
	"crypto/x509"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/locksutil"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/cache"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/registry"
)

// backend is the engine of one mount.
type backend struct {
	*framework.Backend

	reads *framework.Backend // has creds/ only; see HandleRequest
	cache *cache.Mount

	roleLocks       []*locksutil.LockEntry // by role; see lockRole
	connectionLocks []*locksutil.LockEntry // by connection; see lockConnection
	configLock      sync.Mutex             // orders the writes to the config

	rotating    nameLocks // by role; held while its shared credential is minted
	inProgress  sync.Map  // names of credentials that a request is at work on
	next        schedule  // of the shared roles
	maintaining sync.Map  // names of shared roles that are tended in the background
	unreachable sync.Map  // when the registry of a connection last did not answer, by name

	lifetime   context.Context // ends with the engine
	end        context.CancelFunc
	background sync.WaitGroup

	now         func() time.Time
	sleep       func(context.Context, time.Duration)
	newVerifier func(*x509.CertPool) verifier
	newHTTP     func(*x509.CertPool) *http.Client // for the APIs of registries
}

// Factory returns what makes the engine of a mount. version is reported to
// Vault as the plugin's running version; it is a semantic version with a
// leading "v". All mounts share what they hold in memory.
func Factory(version string) logical.Factory {
	memory := cache.New()
	return func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
		b := newBackend(version, memory)
		if err := b.Setup(ctx, conf); err != nil {
			return nil, err
		}
		return b, nil
	}
}

func newBackend(version string, memory *cache.Cache) *backend {
	b := &backend{
		cache:           memory.ForMount(cachedKeys()),
		roleLocks:       locksutil.CreateLocks(),
		connectionLocks: locksutil.CreateLocks(),
		now:             time.Now,
		sleep:           sleep,
		newVerifier: func(cas *x509.CertPool) verifier {
			return registry.New(registry.Options{CAs: cas})
		},
		newHTTP: issuer.NewHTTP,
	}
	b.reads = &framework.Backend{Paths: b.pathCreds()}
	b.lifetime, b.end = context.WithCancel(context.Background())
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: version,
		PathsSpecial: &logical.Paths{
			SealWrapStorage: []string{roleStoragePrefix, connectionStoragePrefix, sharedStoragePrefix, framework.WALPrefix},
			LocalStorage:    []string{framework.WALPrefix, leaseIndexPrefix},
		},
		Paths: framework.PathAppend(
			b.pathConfig(),
			b.pathRoles(),
			b.pathCreds(),
			b.pathVerify(),
			b.pathExpiring(),
			b.pathRotate(),
			b.pathConnections(),
			b.pathRotateRoot(),
		),
		Secrets:           b.leasedSecrets(),
		PeriodicFunc:      b.periodic,
		WALRollback:       b.walRollback,
		WALRollbackMinAge: walMinAge,
		Invalidate:        func(_ context.Context, key string) { b.cache.Drop(key) },
		Clean:             b.stop,
	}
	return b
}

// sleep waits, or until the context ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// HandleExistenceCheck implements [logical.Backend]. Only the path decides, so
// the data stays out of it: the framework would put a value of the wrong type
// into an error, which Vault logs.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (bool, bool, error) {
	checked := *req
	checked.Data, checked.Storage = nil, b.cache.Over(req.Storage)
	return b.Backend.HandleExistenceCheck(ctx, &checked)
}

// HandleRequest implements [logical.Backend]. It refuses bad fields before the
// framework sees them, for all paths in one place.
//
// Reads of creds/ go through a framework of their own that knows no Vault: on
// each request the framework asks Vault for the replication state, to learn
// whether to forward it, which is a round trip as long as all else that a read
// does, and no read is forwarded for it.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	handled := *req
	handled.Storage = b.cache.Over(req.Storage)
	router := b.Backend
	if req.Operation == logical.ReadOperation && strings.HasPrefix(req.Path, credsPrefix) {
		router = b.reads
	}
	if path := router.Route(req.Path); path != nil && path.Operations[req.Operation] != nil {
		if err := checkFields(path.Fields, req); err != nil {
			return logical.ErrorResponse(err.Error()), nil
		}
	}
	return router.HandleRequest(ctx, &handled)
}

const backendHelp = `
The regcred secrets engine answers with finished pull secrets: the Docker
config JSON that a Kubernetes Secret of type kubernetes.io/dockerconfigjson
holds. A role under roles/ holds a registry's hostname, user name and password
(or a whole Docker config), joins other roles, or has a connection mint its
credential at the registry. creds/<role> reads the pull secret, verify/<role>
proves that it can pull, and rotate/<role> replaces a minted credential.
`
