// SPDX-License-Identifier: MPL-2.0

// Command floor is a plugin of Vault that answers a read of creds/<name> with
// the data that was last written there, from memory, and does nothing else. No
// plugin on the same SDK answers faster, so it is what regcred is measured
// against.
package main

import (
	"context"
	"os"
	"sync"

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

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	var answers sync.Map // by name
	b := &framework.Backend{
		BackendType: logical.TypeLogical,
		Paths: []*framework.Path{{
			Pattern: "creds/" + framework.GenericNameRegex("name"),
			Fields:  map[string]*framework.FieldSchema{"name": {Type: framework.TypeString}},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{
					Callback: func(_ context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
						answers.Store(data.Get("name"), &logical.Response{Data: req.Data})
						return nil, nil
					},
				},
				logical.ReadOperation: &framework.PathOperation{
					Callback: func(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
						answer, ok := answers.Load(data.Get("name"))
						if !ok {
							return nil, nil
						}
						return answer.(*logical.Response), nil
					},
				},
			},
		}},
	}
	return b, b.Setup(ctx, conf)
}
