// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// rootTries and rootPause are the engine's own, for registries that refuse a new root
// credential for some seconds.
const (
	rootTries = 16
	rootPause = time.Second
)

// rotateRoot replaces the root credential in the engine's steps. The new one is in its
// file before it is put in force. A signal does not stop it half-way.
func (t *trial) rotateRoot(ctx context.Context) (string, error) {
	file, err := os.OpenFile(t.newRoot, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("NEW_ROOT must be a new file: %w", err)
	}
	defer func() { _ = file.Close() }()
	name := issuer.NewName("live-root")
	fmt.Fprintf(t.out, "        preparing the root credential %s\n", name)
	root, err := t.client.PrepareRoot(context.Background(), name)
	switch {
	case errors.Is(err, issuer.ErrRootNotRotatable):
		return "not possible for this type", os.Remove(t.newRoot)
	case err != nil && issuer.Definite(err):
		return "", errors.Join(err, os.Remove(t.newRoot))
	case err != nil:
		return "", errors.Join(err, t.discard(name))
	}
	if err := write(file, root); err != nil {
		return "", errors.Join(fmt.Errorf("writing NEW_ROOT: %w", err), t.discard(name))
	}
	renewed := *t
	renewed.conn = t.conn.With(root)
	err = renewed.reopen()
	if err == nil {
		err = t.client.ActivateRoot(context.Background(), root)
	}
	for try := 1; err == nil; try++ {
		if _, err = renewed.client.Check(context.Background()); err == nil {
			break
		}
		if status := issuer.StatusOf(err); status != 400 && status != 401 && status != 403 || try == rootTries {
			break
		}
		time.Sleep(rootPause)
		err = nil
	}
	if err != nil {
		return "", t.giveUpRoot(name, renewed.client, err)
	}
	old := issuer.Root{Settings: t.conn.Settings, Secrets: t.conn.Secrets}
	t.former, t.client, t.conn = t.client, renewed.client, renewed.conn
	fmt.Fprintf(t.out, "        the new root credential works, and is in %s\n", t.newRoot)
	for try := 1; ; try++ {
		if err = t.client.RetireRoot(context.Background(), old); err == nil || try == tries {
			break
		}
		time.Sleep(t.pause)
	}
	if err != nil {
		t.leave("the root credential that you gave may still work, although the one in %s has replaced it: end it by hand", t.newRoot)
		return "", err
	}
	for start := time.Now(); ; t.sleep(ctx, t.pause) {
		took := time.Since(start)
		if _, err := t.former.Check(context.Background()); err != nil && !issuer.IsUnanswered(err) && issuer.StatusOf(err) < 500 {
			t.former = nil
			return fmt.Sprintf("the old one was refused after %s", took.Round(time.Second)), nil
		}
		if took > t.patience || ctx.Err() != nil {
			t.leave("the root credential that you gave is not refused, although it was ended: look at the registry")
			return "", errors.New("the old root credential is not refused")
		}
	}
}

// giveUpRoot ends a new root credential if it is certain that it is not in force, and
// that the old one is. Otherwise both are kept.
func (t *trial) giveUpRoot(name string, renewed *issuer.Client, cause error) error {
	if _, err := t.client.Check(context.Background()); err == nil && issuer.Definite(cause) {
		return errors.Join(cause, t.discard(name))
	}
	t.former = renewed // cleaning up tries both
	t.leave("the root credential: either the one that you gave works, or the one in %s (%s at the registry); try both, and end the other", t.newRoot, name)
	return cause
}

// discard ends a new root credential that is not used.
func (t *trial) discard(name string) error {
	if err := t.insist(func(client *issuer.Client) error { return client.DiscardRoot(context.Background(), name) }); err != nil {
		t.leave("the new root credential %s is not used, and could not be ended: %v", name, err)
		return err
	}
	fmt.Fprintf(t.out, "        ended: %s; the root credential that you gave stays in force\n", name)
	return os.Remove(t.newRoot)
}

// write writes the fields that a new root credential replaces as JSON, which
// "vault write regcred/connections/NAME @FILE" reads.
func write(file *os.File, root issuer.Root) error {
	fields := map[string]string{}
	maps.Copy(fields, root.Settings)
	for field, secret := range root.Secrets {
		fields[field] = secret.Reveal()
	}
	if err := json.NewEncoder(file).Encode(fields); err != nil {
		return err
	}
	return file.Sync()
}
