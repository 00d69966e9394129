// SPDX-License-Identifier: MPL-2.0

// Command floor is a plugin of Vault that answers a read of creds/<name> with
// the data that was last written there, from memory, and does nothing else. It
// answers as fast as a plugin on this SDK can, so regcred is measured against
// it. A list of names/ has as many names as its field count says, because Vault
// does not allow so many to be written.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	meta := &api.PluginAPIClientMeta{}
	err := meta.FlagSet().Parse(os.Args[1:])
	if err == nil {
		err = plugin.ServeMultiplex(&plugin.ServeOpts{
			BackendFactoryFunc: factory,
			TLSProviderFunc:    api.VaultPluginTLSProvider(meta.GetTLSConfig()),
		})
	}
	if err != nil {
		hclog.New(&hclog.LoggerOptions{Name: "floor"}).Error("plugin stops", "error", err)
		os.Exit(1)
	}
}

// The paths have Callbacks. With Operations, the framework asks Vault for the
// state of its replication at each request, which is a second round trip.
func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	b := &framework.Backend{
		BackendType: logical.TypeLogical,
		Paths:       []*framework.Path{pathCreds(), pathNames()},
	}
	return b, b.Setup(ctx, conf)
}

func pathCreds() *framework.Path {
	var answers sync.Map // by name
	return &framework.Path{
		Pattern: "creds/" + framework.GenericNameRegex("name"),
		Fields:  map[string]*framework.FieldSchema{"name": {Type: framework.TypeString}},
		Callbacks: map[logical.Operation]framework.OperationFunc{ //nolint:staticcheck // not Operations, as above
			logical.UpdateOperation: func(_ context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
				answers.Store(data.Get("name"), &logical.Response{Data: req.Data})
				return nil, nil
			},
			logical.ReadOperation: func(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
				answer, ok := answers.Load(data.Get("name"))
				if !ok {
					return nil, nil
				}
				return answer.(*logical.Response), nil
			},
		},
	}
}

func pathNames() *framework.Path {
	var names atomic.Pointer[logical.Response]
	return &framework.Path{
		Pattern: "names/?$",
		Fields: map[string]*framework.FieldSchema{
			"count":  {Type: framework.TypeInt},
			"format": {Type: framework.TypeString}, // as package fmt prints it
		},
		Callbacks: map[logical.Operation]framework.OperationFunc{ //nolint:staticcheck // not Operations, as above
			logical.UpdateOperation: func(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
				keys := make([]string, data.Get("count").(int))
				for i := range keys {
					keys[i] = fmt.Sprintf(data.Get("format").(string), i)
				}
				names.Store(logical.ListResponse(keys))
				return nil, nil
			},
			logical.ListOperation: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
				return names.Load(), nil
			},
		},
	}
}
