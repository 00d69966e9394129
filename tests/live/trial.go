// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/registry"
)

// trial is one run against a registry. No call to the registry is cut short by a signal,
// so that its answer is known: each has a time limit of its own.
type trial struct {
	settings
	newRoot  string // file for the new root credential; empty to keep the old one
	out      io.Writer
	target   issuer.Target
	client   *issuer.Client
	former   *issuer.Client // with the root credential before rotate-root; nil before it
	verifier *registry.Verifier

	patience time.Duration // for a registry to accept or refuse a credential
	pause    time.Duration // between two questions
	late     time.Duration // for a registry that acts after its answer was lost

	made   []*credential
	steps  []step
	failed error    // of the last step
	left   []string // what could not be ended, for the person who runs it
}

// credential is one that the trial has asked for.
type credential struct {
	issuer.Credential
	name     string
	answered bool // its ID is known
	ended    bool
}

func (t *trial) can() issuer.Abilities { return t.kind.AbilitiesOf(t.conn) }

// reopen opens the connection with what is known about it now.
func (t *trial) reopen() (err error) {
	if t.target, err = t.kind.Target(t.conn, t.role); err == nil {
		t.client, err = issuer.Open(t.kind, t.conn)
	}
	return err
}

// lifetime is how long the credentials are asked to live.
func (t *trial) lifetime() time.Duration {
	return min(time.Hour, cmp.Or(t.target.MaxLifetime, time.Hour))
}

// key is the registry that the credentials are tried at.
func (t *trial) key() dockerconfig.Key {
	covers := func(key dockerconfig.Key) bool { return t.repository == "" || registry.Covers(key, t.repository) }
	return t.conn.Registries[max(0, slices.IndexFunc(t.conn.Registries, covers))]
}

// run does all steps, ends what is left, and prints the report. It returns the exit code.
func (t *trial) run(ctx context.Context) int {
	t.try(ctx)
	t.cleanUp()
	t.report()
	if t.failed != nil || len(t.left) > 0 {
		return 1
	}
	return 0
}

// try does the steps until one fails. The notes of a step are published, so they hold
// nothing that came from the settings or the registry.
func (t *trial) try(ctx context.Context) {
	var first, second *credential
	do := func(name string, do func() (note string, err error)) { t.step(ctx, name, do) }
	mint := func(into **credential) func() (string, error) {
		return func() (note string, err error) {
			*into, note, err = t.mint()
			return note, err
		}
	}
	works := func(c **credential) func() (string, error) {
		return func() (string, error) { return t.await(ctx, *c, true) }
	}
	refused := func(c **credential) func() (string, error) {
		return func() (string, error) { return t.await(ctx, *c, false) }
	}
	revoke := func(c **credential) func() (string, error) {
		return func() (string, error) {
			return "", t.client.Revoke(context.Background(), t.target.Settings, (*c).name, (*c).ID)
		}
	}

	do("check", t.check)
	do("mint", mint(&first))
	can := t.can()
	if can.Find {
		do("find by name", func() (string, error) { return t.find(first, first.ID) })
	}
	do("use", works(&first))
	do("use again", works(&first))
	do("rotate: mint the next", mint(&second))
	do("rotate: the next works", works(&second))
	do("rotate: the former works still", works(&first))
	if can.Revoke {
		do("rotate: revoke the former", revoke(&first))
		do("the former is refused", refused(&first))
		do("the next works still", works(&second))
		do("revoke the former again", revoke(&first))
	}
	if can.Revoke && can.Find {
		do("the former is not found", func() (string, error) { return t.find(first) })
		do("a part of a name ends nothing", func() (string, error) {
			return "", t.client.RevokeNamed(context.Background(), t.target.Settings, second.name[:len(second.name)-1])
		})
		do("the next works still", works(&second))
	}
	if t.newRoot != "" {
		do("rotate-root", func() (string, error) { return t.rotateRoot(ctx) })
		do("the next works still", works(&second))
	}
	if can.Revoke {
		do("revoke the next", revoke(&second))
		do("the next is refused", refused(&second))
	}
	if can.Revoke && can.Find {
		do("the next is not found", func() (string, error) { return t.find(second) })
	}
}

var errStopped = errors.New("stopped by a signal")

// step does one step and records it. After a failure it does nothing.
func (t *trial) step(ctx context.Context, name string, do func() (note string, err error)) {
	if t.failed == nil && ctx.Err() != nil {
		t.failed = errStopped
	}
	if t.failed != nil {
		return
	}
	start := time.Now()
	note, err := do()
	t.steps = append(t.steps, step{name, note, time.Since(start), err})
	t.failed = err
	if err != nil {
		fmt.Fprintf(t.out, "FAILED  %s: %v\n", name, err)
		return
	}
	fmt.Fprintf(t.out, "ok      %s\n", name)
}

// check asks whose root credential it is, and keeps what the registry declares.
func (t *trial) check() (string, error) {
	status, err := t.client.Check(context.Background())
	if err != nil {
		return "", err
	}
	fmt.Fprintf(t.out, "        root credential of %s\n", status.Identity)
	for _, warning := range status.Warnings {
		fmt.Fprintf(t.out, "        warning: %s\n", warning)
	}
	note := fmt.Sprintf("%d warnings; the end of the root credential is not known", len(status.Warnings))
	if !status.ExpiresAt.IsZero() {
		note = fmt.Sprintf("%d warnings; the end of the root credential is known", len(status.Warnings))
	}
	t.conn.Declared = status.Declared
	return note, t.reopen()
}

// mint mints a credential, and notes its name before.
func (t *trial) mint() (*credential, string, error) {
	c := &credential{name: issuer.NewName("live")}
	t.made = append(t.made, c)
	fmt.Fprintf(t.out, "        minting %s\n", c.name)
	until := time.Now().Add(t.lifetime())
	minted, err := t.client.Mint(context.Background(), issuer.Request{Name: c.name, For: t.target.Settings, ExpiresAt: until})
	if err != nil {
		c.ended = issuer.Definite(err)
		return c, "", err
	}
	c.Credential, c.answered = minted, true
	if minted.ExpiresAt.IsZero() {
		return c, "has no end at the registry", nil
	}
	if minted.ExpiresAt.Before(until.Truncate(time.Second)) {
		return c, "", errors.New("the credential ends before the time that was asked for")
	}
	return c, fmt.Sprintf("ends %s after the time that was asked for", minted.ExpiresAt.Sub(until).Round(time.Second)), nil
}

// find fails unless the credentials with a name have exactly the IDs.
func (t *trial) find(c *credential, want ...string) (string, error) {
	ids, err := t.client.Find(context.Background(), t.target.Settings, c.name)
	if err == nil && !slices.Equal(ids, want) {
		err = fmt.Errorf("want the IDs %q for the name %s, got %q", want, c.name, ids)
	}
	return "", err
}

// await waits until the registry accepts a credential, or refuses it.
func (t *trial) await(ctx context.Context, c *credential, accepted bool) (string, error) {
	known := dockerconfig.Credential{Registry: t.key(), Username: c.Username, Password: c.Password}
	for start := time.Now(); ; {
		result := t.verifier.Verify(context.Background(), known, t.repository)
		took := fmt.Sprintf("%s after %s", result.Verdict, time.Since(start).Round(time.Second))
		switch {
		case result.Verdict == registry.OK && result.Message != "",
			result.Verdict == registry.Unverified && !result.Accepted:
			c.ended = c.ended || !accepted
			return "NOT TRIED: the registry asked for no credential", nil
		case result.Accepted && accepted:
			return took, nil
		case result.Verdict == registry.Denied && !accepted:
			c.ended = true
			return took, nil
		case result.Verdict == registry.NotFound:
			return took, errors.New("repository: has no image; name one that has, or leave it out")
		case ctx.Err() != nil:
			return took, errStopped
		case time.Since(start) > t.patience && accepted:
			return took, fmt.Errorf("the credential does not work: %s: %s", result.Verdict, result.Message)
		case time.Since(start) > t.patience:
			return took, fmt.Errorf("the credential was revoked, and is not refused: %s: %s", result.Verdict, result.Message)
		}
		t.sleep(ctx, t.pause)
	}
}

// sleep waits; a signal ends it.
func (*trial) sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
