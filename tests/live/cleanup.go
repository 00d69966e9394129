// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// tries is how often a call that ends something is made, if it fails.
const tries = 3

// leave notes what could not be ended.
func (t *trial) leave(format string, args ...any) {
	t.left = append(t.left, fmt.Sprintf(format, args...))
}

// cleanUp ends everything that was made, in any order of failures before. What is ended
// already is ended again, which is no error. Signals do not stop it.
func (t *trial) cleanUp() {
	for _, c := range t.made {
		switch {
		case c.ended: // it was never made
		case !t.can().Revoke:
			t.expires(c)
		case !c.answered && !t.can().Find:
			t.leave("%s may exist: the answer to its creation was lost, and the registry finds nothing by its name", c.name)
		default:
			t.end(c)
		}
	}
}

// expires says when a credential ends that nobody can end.
func (t *trial) expires(c *credential) {
	if c.answered && !c.ExpiresAt.IsZero() {
		fmt.Fprintf(t.out, "        %s ends by itself at %s\n", c.name, c.ExpiresAt.UTC().Format(time.RFC3339))
		return
	}
	t.leave("%s may exist, and the registry cannot end it early", c.name)
}

func (t *trial) end(c *credential) {
	ctx := context.Background()
	err := t.insist(func(client *issuer.Client) error {
		if c.answered {
			return client.Revoke(ctx, t.target.Settings, c.name, c.ID)
		}
		return client.RevokeNamed(ctx, t.target.Settings, c.name)
	})
	if err == nil && !c.answered {
		t.sleep(ctx, t.late) // the registry may act after its answer was lost
		err = t.insist(func(client *issuer.Client) error { return client.RevokeNamed(ctx, t.target.Settings, c.name) })
		fmt.Fprintf(t.out, "        look for %s at the registry once more in five minutes: the answer to its creation was lost\n", c.name)
	}
	if err == nil && c.answered {
		_, err = t.await(ctx, c, false)
	}
	if err != nil {
		t.leave("%s, ID %q, is not ended: %v", c.name, c.ID, err)
		return
	}
	fmt.Fprintf(t.out, "        ended: %s\n", c.name)
}

// insist makes a call until it succeeds, with each root credential that may be in force.
func (t *trial) insist(call func(*issuer.Client) error) (err error) {
	for try := range tries {
		if try > 0 {
			t.sleep(context.Background(), t.pause)
		}
		for _, client := range []*issuer.Client{t.client, t.former} {
			if client == nil {
				continue
			}
			failed := call(client)
			if failed == nil {
				return nil
			}
			err = errors.Join(err, failed)
		}
		if try < tries-1 {
			err = nil // the last is enough
		}
	}
	return err
}
