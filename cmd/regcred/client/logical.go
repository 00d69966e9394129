// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Get reads any path of Vault. found is false where there is nothing. Of a deleted
// version, KV version 2 answers with its metadata.
func (v *Vault) Get(ctx context.Context, path string) (data map[string]any, found bool, err error) {
	data, found, err = v.get(ctx, path, nil)
	if err != nil {
		return nil, false, v.failed("reading "+path, err, "read "+path, nil)
	}
	return data, found, nil
}

// List lists any path of Vault. What ends in "/" is a folder. It is empty where
// there is nothing.
func (v *Vault) List(ctx context.Context, path string) ([]string, error) {
	data, found, err := v.get(ctx, path, map[string][]string{"list": {"true"}})
	if err != nil {
		return nil, v.failed("listing "+path, err, "list "+path, nil)
	}
	names, ok := texts(data["keys"])
	if !found && data["keys"] == nil {
		return nil, nil
	}
	if !ok || names == nil {
		return nil, failf("listing %s: the answer is not one of Vault", path)
	}
	return names, nil
}

// errEmpty is an answer of status 200 without a body, which Vault gives to no read.
var errEmpty = errors.New("the answer is empty")

// get tells a path at which there is nothing from an empty answer.
func (v *Vault) get(ctx context.Context, path string, query map[string][]string) (data map[string]any, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, v.api.ClientTimeout())
	defer cancel()
	answer, err := v.api.Logical().ReadRawWithDataWithContext(ctx, path, query)
	found = answer == nil || answer.StatusCode != http.StatusNotFound
	secret, err := v.api.Logical().ParseRawResponseAndCloseBody(answer, err)
	switch {
	case err != nil:
		return nil, false, err
	case secret != nil:
		return secret.Data, true, nil
	case found:
		return nil, false, errEmpty
	}
	return nil, false, nil
}

// Role is what roles/<role> says of a role. It has no secret.
type Role struct {
	Type             string // static, bundle or dynamic
	AllowedBundles   []string
	VerifyRepository string
	ExpiresAt        string // RFC 3339; empty: not known
	UpdatedAt        string // RFC 3339
}

// Roles lists the names of all roles.
func (v *Vault) Roles(ctx context.Context) ([]string, error) {
	return v.List(ctx, v.mount+"/roles")
}

// Role reads what is said of a role.
func (v *Vault) Role(ctx context.Context, name string) (r Role, found bool, err error) {
	if err := CheckRole(name); err != nil {
		return Role{}, false, err
	}
	path := v.mount + "/roles/" + name
	data, found, err := v.Get(ctx, path)
	if err != nil || !found {
		return Role{}, false, err
	}
	for field, into := range map[string]*string{"type": &r.Type, "verify_repository": &r.VerifyRepository, "expires_at": &r.ExpiresAt, "updated_at": &r.UpdatedAt} {
		if value, has := data[field]; has {
			if *into, has = value.(string); !has {
				return Role{}, false, noRole(v, path)
			}
		}
	}
	if value, has := data["allowed_bundles"]; has {
		if r.AllowedBundles, has = texts(value); !has {
			return Role{}, false, noRole(v, path)
		}
	}
	for _, at := range []string{r.ExpiresAt, r.UpdatedAt} {
		if _, err := time.Parse(time.RFC3339, at); at != "" && err != nil {
			return Role{}, false, noRole(v, path)
		}
	}
	if !slices.Contains([]string{"static", "bundle", "dynamic"}, r.Type) {
		return Role{}, false, noRole(v, path)
	}
	return r, true, nil
}

func noRole(v *Vault, path string) error {
	return failf("reading %s: the answer is not that of a role", path).do("check that %s/ is the regcred engine", v.mount)
}

// WriteRole writes fields of a role. No error repeats one of the secrets, which are
// all that the fields hold.
func (v *Vault) WriteRole(ctx context.Context, name string, fields map[string]any, secrets []string) error {
	if err := CheckRole(name); err != nil {
		return err
	}
	path := v.mount + "/roles/" + name
	if _, err := v.api.Logical().WriteWithContext(ctx, path, fields); err != nil {
		return v.failed("writing "+path, err, "create and update "+path, secrets)
	}
	return nil
}

// failed says why a request failed that needs a right.
func (v *Vault) failed(what string, err error, right string, secrets []string) *Failure {
	f := &Failure{What: what + ": " + v.reasonWithout(err, secrets), Status: status(err)}
	switch f.Status {
	case http.StatusForbidden:
		if !v.HasToken() {
			return f.do("there is no token: run \"vault login\", or set VAULT_TOKEN or VAULT_AGENT_ADDR")
		}
		return f.do("the token has expired, or its policies do not allow to %s", right)
	case http.StatusServiceUnavailable:
		return f.do("unseal it, or wait until it has an active node")
	case http.StatusTooManyRequests:
		return f.do("a rate limit of Vault is reached")
	case 0:
		return f.do("check address, network and CA")
	}
	return f
}

// KV is a KV engine, or a folder in one.
type KV struct {
	Version int    // 1 or 2
	Mount   string // path of the engine, without slashes at its ends
	Folder  string // below it, in the same form; empty: all
}

// FindKV finds out which engine a path belongs to.
func (v *Vault) FindKV(ctx context.Context, path string) (KV, error) {
	path = strings.Trim(path, "/")
	if path == "" || strings.ContainsAny(path, "?#") || strings.Contains(path, "..") {
		return KV{}, failf("%q is not a path of a KV engine", path)
	}
	secret, err := v.api.Logical().ReadWithContext(ctx, "sys/internal/ui/mounts/"+path)
	const check = "check the path with \"vault secrets list\""
	switch {
	case status(err) == http.StatusForbidden && v.HasToken():
		return KV{}, v.failed("finding the engine of "+path, err, "", nil).do(check + ": no engine is mounted there, or the token has expired, or its policies allow nothing below it")
	case err != nil:
		return KV{}, v.failed("finding the engine of "+path, err, "", nil)
	case secret == nil:
		return KV{}, failf("no engine is mounted at %s", path).do(check)
	}
	data := secret.Data
	mount, _ := data["path"].(string)
	mount = strings.Trim(mount, "/")
	switch kind, _ := data["type"].(string); {
	case mount == "" || path != mount && !strings.HasPrefix(path, mount+"/"):
		return KV{}, failf("no engine is mounted at %s", path).do(check)
	case kind != "kv" && kind != "generic":
		return KV{}, failf("the engine at %s/ is of type %s, not kv", mount, kind).do("give a path of a KV engine; \"vault secrets list\" shows them")
	}
	kv := KV{Version: 1, Mount: mount, Folder: strings.Trim(strings.TrimPrefix(path, mount), "/")}
	if options, ok := data["options"].(map[string]any); ok && fmt.Sprint(options["version"]) == "2" {
		kv.Version = 2
	}
	return kv, nil
}

// ListKV lists a folder, named from the engine's root.
func (v *Vault) ListKV(ctx context.Context, kv KV, folder string) ([]string, error) {
	return v.List(ctx, kv.path("metadata", folder))
}

// NoSecret is the reason of [Vault.ReadKV] where there is nothing at all.
const NoSecret = "there is no such secret any more"

// ReadKV reads the newest version of a secret. It returns nil data where there is
// none, and then the reason.
func (v *Vault) ReadKV(ctx context.Context, kv KV, name string) (data map[string]any, gone string, err error) {
	answer, found, err := v.Get(ctx, kv.path("data", name))
	switch {
	case err != nil:
		return nil, "", err
	case !found:
		return nil, NoSecret, nil
	case kv.Version == 1:
		return answer, "", nil
	}
	if data, ok := answer["data"].(map[string]any); ok {
		return data, "", nil
	}
	metadata, _ := answer["metadata"].(map[string]any)
	number := fmt.Sprint(metadata["version"])
	deleted, _ := metadata["deletion_time"].(string)
	switch {
	case metadata["destroyed"] == true:
		return nil, "version " + number + ", the newest, is destroyed", nil
	case deleted != "":
		return nil, "version " + number + ", the newest, is deleted; \"vault kv undelete\" brings it back", nil
	}
	return nil, "it has no data", nil
}

// path returns the API's path of a secret or folder.
func (kv KV) path(prefix, name string) string {
	parts := []string{kv.Mount}
	if kv.Version == 2 {
		parts = append(parts, prefix)
	}
	if name != "" {
		parts = append(parts, name)
	}
	return strings.Join(parts, "/")
}

// texts returns a list of strings.
func texts(value any) ([]string, bool) {
	list, ok := value.([]any)
	if !ok {
		return nil, value == nil
	}
	all := make([]string, len(list))
	for i, item := range list {
		if all[i], ok = item.(string); !ok {
			return nil, false
		}
	}
	return all, true
}
