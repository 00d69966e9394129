// SPDX-License-Identifier: MPL-2.0

//go:build no_ecr

package backend

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// A build without ecr says so, and leaves alone what another build has stored.
func TestBuildWithoutECR(t *testing.T) {
	e := newEngine(t)
	e.refused(logical.UpdateOperation, "connections/app", fields{"type": "ecr", "registry": "123456789012.dkr.ecr.eu-central-1.amazonaws.com"},
		"type: this plugin was built without ecr, by the build tag no_ecr; it has acr, ")

	stored := &logical.StorageEntry{Key: connectionStoragePrefix + "aws", Value: []byte(`{"schema_version":1,"type":"ecr","registries":["123456789012.dkr.ecr.eu-central-1.amazonaws.com"]}`)}
	if err := e.storage.Put(t.Context(), stored); err != nil {
		t.Fatal(err)
	}
	for _, op := range []logical.Operation{logical.ReadOperation, logical.UpdateOperation} {
		if _, err := e.request(op, "connections/aws", fields{}); err == nil || !strings.Contains(err.Error(), `does not know its type "ecr"`) {
			t.Errorf("%s: want an error about the type, got %v", op, err)
		}
	}
	if got, err := e.storage.Get(t.Context(), stored.Key); err != nil || got == nil || string(got.Value) != string(stored.Value) {
		t.Errorf("want the entry as it was, got %v and %v", got, err)
	}
	checkSame(t, "attention", []string{"unreadable <nil>aws"}, e.needsAttention())
}
