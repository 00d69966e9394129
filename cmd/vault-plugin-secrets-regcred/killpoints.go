// SPDX-License-Identifier: MPL-2.0

//go:build killpoints

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend"
)

// A build with the tag killpoints is for tests of crashes. It kills itself
// where a test says, and answers two paths of its own:
//
//	killpoints/arm       fields path and after: the process dies at the nth
//	                     kill point of the next requests for that path;
//	                     after=0 disarms it
//	killpoints/rollback  does the work that Vault asks for every minute, without
//	                     regard to the age of write-ahead entries
const (
	pathArm      = "killpoints/arm"
	pathRollback = "killpoints/rollback"
)

func init() {
	newFactory = func(version string) logical.Factory {
		return func(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
			inner, err := backend.Factory(version)(ctx, conf)
			if err != nil {
				return nil, err
			}
			return &killable{Backend: inner, PluginVersioner: inner.(logical.PluginVersioner)}, nil
		}
	}
}

// killable is an engine that can be killed.
type killable struct {
	logical.Backend
	logical.PluginVersioner

	mu   sync.Mutex
	path string // armed for requests of this path
	left int    // kill points until the process dies; 0: disarmed
}

// HandleRequest implements [logical.Backend].
func (k *killable) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if req.Path == pathArm {
		return nil, k.arm(req.Data)
	}
	if k.isArmedFor(req.Path) {
		req.Storage = dangerous{req.Storage, k.point}
	}
	if req.Path != pathRollback {
		return k.Backend.HandleRequest(ctx, req)
	}
	resp, err := k.Backend.HandleRequest(ctx, &logical.Request{
		Operation: logical.RollbackOperation,
		Storage:   req.Storage,
		Data:      map[string]any{"immediate": true},
	})
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	if err != nil {
		return logical.ErrorResponse(err.Error()), nil // Vault hides the text of other errors
	}
	return nil, nil
}

func (k *killable) arm(data map[string]any) error {
	path, _ := data["path"].(string)
	points, err := strconv.Atoi(fmt.Sprint(data["after"]))
	if err != nil {
		return fmt.Errorf("after: must be a number: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.path, k.left = path, points
	return nil
}

func (k *killable) isArmedFor(path string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.left > 0 && k.path == path
}

// point counts a kill point, and kills the process at the last one.
func (k *killable) point() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left == 0 {
		return
	}
	if k.left--; k.left == 0 {
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			_ = self.Kill()
		}
		select {} // wait for the kill to take effect
	}
}

// dangerous is storage with two kill points for each write: one before it, and
// one after it.
type dangerous struct {
	logical.Storage
	point func()
}

// Put implements [logical.Storage].
func (d dangerous) Put(ctx context.Context, entry *logical.StorageEntry) error {
	d.point()
	defer d.point()
	return d.Storage.Put(ctx, entry)
}

// Delete implements [logical.Storage].
func (d dangerous) Delete(ctx context.Context, key string) error {
	d.point()
	defer d.point()
	return d.Storage.Delete(ctx, key)
}
