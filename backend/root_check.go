// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

// rootCheck is what the registry last said of the root credential of a connection.
type rootCheck struct {
	SchemaVersion int       `json:"schema_version"`
	Of            string    `json:"of"` // see rootGeneration
	CheckedAt     time.Time `json:"checked_at"`
	ExpiresAt     time.Time `json:"expires_at,omitzero"`
	Refused       bool      `json:"refused,omitempty"`
	Status        int       `json:"status,omitempty"` // of the refusal

	// Before is about the root credential that was stored when this was written: the
	// connection with the other one may not have been stored.
	Before *rootCheck `json:"before,omitempty"`
}

// rootGeneration tells the root credentials of a connection apart: each write of the
// connection, and each rotate-root, begins a new one.
func (c *connection) rootGeneration() string {
	return c.ID + "." + strconv.FormatInt(max(c.UpdatedAt.UnixNano(), c.Root.RotatedAt.UnixNano()), 36)
}

// hasRootOf reports whether a connection has the same root credential as before a write of
// it, for the same registry.
func (c *connection) hasRootOf(old *connection) bool {
	return old != nil && c.ID == old.ID && maps.Equal(c.Settings, old.Settings) && maps.EqualFunc(c.Secrets, old.Secrets, dockerconfig.Secret.Equal)
}

// about returns what was said of one root credential; the zero value if nothing was.
func (c rootCheck) about(generation string) rootCheck {
	switch {
	case c.Of == generation:
		return c
	case c.Before != nil && c.Before.Of == generation:
		return *c.Before
	}
	return rootCheck{}
}

// says reports whether two checks say the same, whenever they were.
func (c rootCheck) says(other rootCheck) bool {
	return c.Of == other.Of && c.Refused == other.Refused && c.Status == other.Status && c.ExpiresAt.Equal(other.ExpiresAt)
}

func (b *backend) rootCheck(ctx context.Context, storage logical.Storage, connection string) (rootCheck, error) {
	var c rootCheck
	_, err := getEntry(ctx, storage, rootChecksPrefix+connection, &c, &c.SchemaVersion)
	if isUnreadable(err) {
		return rootCheck{}, nil // the next check writes it anew
	}
	return c, err
}

func (b *backend) forgetRootCheck(ctx context.Context, storage logical.Storage, connection string) error {
	if err := storage.Delete(ctx, rootChecksPrefix+connection); err != nil {
		return fmt.Errorf("deleting %s%s: %w", rootChecksPrefix, connection, err)
	}
	return nil
}
