// SPDX-License-Identifier: MPL-2.0

// Package backend is the secrets engine.
//
// A request flows one way: path, role, source, Docker config, response. A minted
// credential flows once more: connection, issuer, registry. Secrets enter in the
// path_* files and leave through package dockerconfig.
//
// The files stand in layers. "make lint" fails if they depend on each other in a
// circle. From the top:
//
//	backend.go, openapi.go, unsupported.go
//	                             assembly, and what is the same for all paths
//	path_*.go                    routes and handlers, one file per path
//	role_input.go                what a write of a role would store
//	pullsecret.go                what a role serves
//	rollback.go, periodic.go, verify_due.go
//	                             cleaning up after a crash; the work of each minute;
//	                             which role the engine verifies when
//	leased.go, lease_index.go, shared_rotate.go
//	                             the two modes of a dynamic role
//	mint.go, verify.go           minting one credential; proving that one can pull
//	verify_shown.go, verify_record.go
//	                             what verifying a role has found, and what follows
//	format.go                    the forms of a pull secret
//	attention_list.go, attention_work.go, attention_view.go, metrics.go
//	                             what needs attention: after a start, after a write, shown
//	connection_use.go            what keeps a connection from being deleted
//	source.go                    the roles that a pull secret is joined from
//	due_index.go                 the index of shared roles by what is due next
//	shared_state.go              what a shared role serves, and when it is due
//	root_rotate.go               the steps of a rotate-root
//	static.go, bundle.go, dynamic.go, connection_input.go
//	                             the fields of a write, and their parsing
//	role.go, role_entry.go, shared_entry.go, bundle_index.go, connection.go,
//	root_state.go, config.go, verify_period.go, verdict.go, verify_outage.go
//	                             what is stored, and who may use it
//	background.go, calls.go, pause.go
//	                             work that goes on without a request; what all calls to
//	                             registries pass
//	identity_token.go            plugin identity tokens of Vault Enterprise
//	storage.go, index.go, wal.go, schedule.go, timetable.go
//	                             storage, indexes, write-ahead entries, due times
//	fields.go, input.go, suggest.go, response.go, issuers.go, locks.go, keys.go
//	                             what all others use
package backend

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

	reads *framework.Backend // serves creds/ and lists only; see HandleRequest
	cache *cache.Mount

	roleLocks       []*locksutil.LockEntry // by role name; see lockRole
	connectionLocks nameLocks              // by connection name; see lockConnection
	connectionUses  []*locksutil.LockEntry // by connection name; see holdConnection
	configLock      sync.Mutex             // held by writes to the config

	rotating      nameLocks // by role name; held while its shared credential is minted
	leaseLocks    nameLocks // by name of the credential; held while its lease is renewed or revoked
	inProgress    sync.Map  // names of credentials that a request is working on
	next          schedule  // when each shared role is due
	roots         unfinishedRoots
	waiting       waitingEntries
	unstored      sync.Map     // by name of a shared role: a failed rotation that could not be stored
	verifications timetable    // when each role is to be verified
	failing       failingRoles // whose last verdict is bad
	outages       outages      // registries that cannot be reached when roles are verified
	attentions    *attentions
	view          atomic.Pointer[attentionView] // what was last shown of them
	counters      *counters
	announcing    nameLocks // by key in the index of what needs attention; held for storage only

	lifetime   context.Context // ends with the engine
	end        context.CancelFunc
	background background
	calls      *calls
	flights    flights
	jobs       jobs

	now         func() time.Time
	newID       func() string // random, for what must not be taken for another thing of the same name
	sleep       func(context.Context, time.Duration)
	newVerifier func(*x509.CertPool) verifier
	newHTTP     func(*x509.CertPool) *http.Client // for calls to registry APIs
}

// Factory returns the function that creates the engine of a mount. version is
// the plugin's running version, as reported to Vault: a semantic version with a
// leading "v". All mounts of the process share one cache.
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
		cache:          memory.ForMount(cachedKeys()),
		roleLocks:      locksutil.CreateLocks(),
		connectionUses: locksutil.CreateLocks(),
		attentions:     newAttentions(),
		counters:       newCounters(),
		flights:        flights{byKey: map[string]*flight{}},
		jobs:           jobs{known: map[string]bool{}, lanes: map[string]*jobLane{}},
		now:            time.Now,
		newID:          rand.Text,
		sleep:          sleep,
		newVerifier: func(cas *x509.CertPool) verifier {
			return registry.New(registry.Options{CAs: cas})
		},
		newHTTP: issuer.NewHTTP,
	}
	b.calls = newCalls(func() time.Time { return b.now() })
	b.reads = &framework.Backend{Paths: slices.Concat(b.pathCreds(), []*framework.Path{listRoles(), listConnections()}, b.pathStatus(), b.pathMetrics())}
	b.lifetime, b.end = context.WithCancel(context.Background())
	b.Backend = &framework.Backend{
		Help:           strings.TrimSpace(backendHelp),
		BackendType:    logical.TypeLogical,
		RunningVersion: version,
		PathsSpecial: &logical.Paths{
			SealWrapStorage: []string{roleStoragePrefix, connectionStoragePrefix, sharedStoragePrefix, framework.WALPrefix},
			LocalStorage:    []string{framework.WALPrefix, leaseIndexPrefix, leaseAttentionPrefix, fenceStorageKey},
		},
		Paths: framework.PathAppend(
			b.pathConfig(),
			b.pathRoles(),
			b.pathCreds(),
			b.pathVerify(),
			b.pathExpiring(),
			b.pathStatus(),
			b.pathMetrics(),
			b.pathRotate(),
			b.pathConnections(),
			b.pathRotateRoot(),
		),
		Secrets:        b.leasedSecrets(),
		InitializeFunc: b.initialize,
		Invalidate:     b.invalidate,
		Clean:          b.stop,
	}
	return b
}

// sleep waits for d, or until the context ends.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// HandleExistenceCheck implements [logical.Backend]. It removes the request's
// data, which the check does not need: the framework would repeat a value of the
// wrong type in an error, and Vault logs that error.
func (b *backend) HandleExistenceCheck(ctx context.Context, req *logical.Request) (bool, bool, error) {
	checked := *req
	checked.Data, checked.Storage = nil, b.cache.Over(req.Storage)
	return b.Backend.HandleExistenceCheck(ctx, &checked)
}

// HandleRequest implements [logical.Backend]. It refuses bad fields of all paths
// before the framework sees them, and puts others into the form that it reads.
//
// Reads of creds/ and lists use a framework.Backend of their own, which was not set
// up with Vault's system view. The main one asks Vault for the replication state on
// each request, to decide whether to forward it. That round trip takes as long as
// the rest of a read, and these are never forwarded.
func (b *backend) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	handled := *req
	handled.Storage = &doubtingStorage{b.cache.Over(req.Storage), b.attentions}
	if req.Operation == logical.RollbackOperation {
		b.periodic(&handled)
		if isImmediate(req) {
			b.background.Wait()
		}
		return nil, nil
	}
	router := b.Backend
	if (req.Operation == logical.ListOperation || req.Operation == logical.ReadOperation) && b.reads.Route(req.Path) != nil {
		router = b.reads
	}
	var tidied []string
	if len(req.Data) > 0 {
		var err error
		if handled.Data, tidied, err = tidyRequest(router, req); err != nil {
			return logical.ErrorResponse(err.Error()), nil
		}
	}
	resp, err := router.HandleRequest(ctx, &handled)
	if req.Operation == logical.HelpOperation {
		completeOpenAPI(resp)
	}
	if err != nil {
		err = explainUnsupported(req, router.Route(req.Path), err)
	}
	if isNotFound(req.Operation, resp, err) && b.onStandby() {
		return nil, logical.ErrReadOnly
	}
	if err != nil || resp == nil && req.Operation == logical.ReadOperation {
		return resp, err
	}
	return withWarnings(resp, tidied), nil
}

// tidyRequest returns the fields of a request in the form that the framework reads, and
// warnings.
func tidyRequest(router *framework.Backend, req *logical.Request) (map[string]any, []string, error) {
	path := router.Route(req.Path)
	if path == nil || path.Operations[req.Operation] == nil {
		return req.Data, nil, nil
	}
	given := *req
	var left []string
	given.Data, left = withoutReadBack(req)
	if err := checkFields(path.Fields, &given); err != nil {
		return nil, nil, err
	}
	data, tidied, err := tidyFields(path.Fields, given.Data)
	return data, append(left, tidied...), err
}

// isNotFound reports whether an answer says that something does not exist. A
// standby lags behind the active node: what it does not find may have just been
// written, and tools delete Secrets on a 404. So Vault forwards the request to
// the active node.
func isNotFound(op logical.Operation, resp *logical.Response, err error) bool {
	var coded logical.HTTPCodedError
	return errors.As(err, &coded) && coded.Code() == http.StatusNotFound ||
		op == logical.ReadOperation && resp == nil && err == nil
}

// invalidate is called by Vault for each key that another node has written.
func (b *backend) invalidate(_ context.Context, key string) {
	b.cache.Drop(key)
	if name, ok := strings.CutPrefix(key, failingIndexPrefix); ok {
		b.failing.changed(name)
	} else if name, ok := strings.CutPrefix(key, verdictStoragePrefix); ok && b.failing.has(name) {
		b.failing.changed(name)
	}
	if name, ok := strings.CutPrefix(key, connectionStoragePrefix); ok {
		b.roots.note(name, true)
	}
}

const backendHelp = `
The regcred secrets engine answers with finished pull secrets: the Docker
config JSON that a Kubernetes Secret of type kubernetes.io/dockerconfigjson
holds. A role under roles/ holds a registry's hostname, user name and password
(or a whole Docker config), joins other roles, or has a connection mint its
credential at the registry. creds/<role> reads the pull secret, verify/<role>
proves that it can pull, and rotate/<role> replaces a minted credential.
`
