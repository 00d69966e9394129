// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// rootCheck is what the registry last said of the root credential of a connection.
type rootCheck struct {
	SchemaVersion int       `json:"schema_version"`
	Of            string    `json:"of"` // see rootGeneration
	CheckedAt     time.Time `json:"checked_at"`
	ExpiresAt     time.Time `json:"expires_at,omitzero"`
	Refused       bool      `json:"refused,omitempty"`
	Status        int       `json:"status,omitempty"` // of the refusal
}

// rootGeneration tells the root credentials of a connection apart: each write of the
// connection, and each rotate-root, begins a new one.
func (c *connection) rootGeneration() string {
	return c.ID + "." + strconv.FormatInt(max(c.UpdatedAt.UnixNano(), c.Root.RotatedAt.UnixNano()), 36)
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
