// SPDX-License-Identifier: MPL-2.0

package importer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"vault-plugin-secrets-regcred/backend/redact"
	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// readKV reads all secrets below a path, and says where they are.
func readKV(ctx context.Context, vault *client.Vault, o *options) ([]*source, string, error) {
	kv, err := vault.FindKV(ctx, o.path)
	if err != nil {
		return nil, "", err
	}
	from := fmt.Sprintf("%s (KV version %d)", redact.Clean(strings.Trim(o.path, "/")), kv.Version)
	w := &walk{vault: vault, kv: kv}
	if err := w.folder(ctx, kv.Folder); err != nil {
		return nil, "", err
	}
	if len(w.paths) == 0 && len(w.sources) == 0 && kv.Folder != "" {
		_, gone, err := vault.ReadKV(ctx, kv, kv.Folder)
		switch {
		case err != nil:
			return nil, "", err
		case gone == client.NoSecret:
			return nil, "", &client.Failure{What: "there is no secret and no folder at " + redact.Clean(o.path), Do: "check the path with \"vault kv list\""}
		}
		w.paths = []string{kv.Folder} // it is a secret
	}
	read := make([]*source, len(w.paths))
	err = each(len(w.paths), func(i int) error {
		path := w.paths[i]
		name := strings.TrimPrefix(strings.TrimPrefix(path, kv.Folder), "/")
		if name == "" {
			name = path[strings.LastIndex(path, "/")+1:]
		}
		s := newSource(name)
		read[i] = s
		data, gone, err := vault.ReadKV(ctx, kv, path)
		switch {
		case forbidden(err):
			s.leaveOut("cannot be read: permission denied")
		case err != nil:
			return err
		case gone != "":
			s.leaveOut(gone)
			s.harmless = true
		default:
			s.read(o.layouts, data)
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	sources := slices.Concat(w.sources, read)
	slices.SortFunc(sources, func(a, b *source) int { return strings.Compare(a.name, b.name) })
	return sources, from, nil
}

// walk goes through the folders of a KV engine.
type walk struct {
	vault   *client.Vault
	kv      client.KV
	paths   []string  // of secrets
	sources []*source // folders that cannot be listed
}

func (w *walk) folder(ctx context.Context, folder string) error {
	names, err := w.vault.ListKV(ctx, w.kv, folder)
	if forbidden(err) && folder != w.kv.Folder {
		s := newSource(strings.TrimPrefix(strings.TrimPrefix(folder, w.kv.Folder), "/") + "/")
		s.leaveOut("cannot be listed: permission denied")
		w.sources = append(w.sources, s)
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		path := name
		if folder != "" {
			path = folder + "/" + name
		}
		if below, isFolder := strings.CutSuffix(path, "/"); isFolder {
			if err := w.folder(ctx, below); err != nil {
				return err
			}
			continue
		}
		w.paths = append(w.paths, path)
	}
	return nil
}

func forbidden(err error) bool {
	var f *client.Failure
	return errors.As(err, &f) && f.Status == http.StatusForbidden
}

// atOnce is how many requests are sent at the same time.
const atOnce = 8

// each calls f with 0 to n-1, several at once. After an error it starts no more.
func each(n int, f func(i int) error) error {
	var (
		mu     sync.Mutex
		next   int
		failed error
		wait   sync.WaitGroup
	)
	take := func() (i int, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == n || failed != nil {
			return 0, false
		}
		next++
		return next - 1, true
	}
	for range min(n, atOnce) {
		wait.Go(func() {
			for {
				i, ok := take()
				if !ok {
					return
				}
				if err := guarded(f, i); err != nil {
					mu.Lock()
					if failed == nil {
						failed = err
					}
					mu.Unlock()
				}
			}
		})
	}
	wait.Wait()
	return failed
}

// guarded turns a panic into an error: Go would print its value, which may hold what
// was being worked on.
func guarded(f func(i int) error, i int) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("an internal error")
		}
	}()
	return f(i)
}
