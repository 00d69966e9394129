// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestOpenAPIThatVaultServesIsValid reads what Vault makes of the engine's OpenAPI
// document. Vault drops references on the way, and then clients that are generated from
// the document know no field.
func TestOpenAPIThatVaultServesIsValid(t *testing.T) {
	t.Parallel()
	v := servers.StartVault(t)
	response, err := v.Client.Logical().ReadRaw("sys/internal/specs/openapi")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var served map[string]any
	if err := json.NewDecoder(response.Body).Decode(&served); err != nil {
		t.Fatal(err)
	}
	paths, ok := served["paths"].(map[string]any)
	if !ok {
		t.Fatalf("the document has no paths: %v", slices.Sorted(maps.Keys(served)))
	}
	maps.DeleteFunc(paths, func(path string, _ any) bool { return !strings.HasPrefix(path, "/regcred/") })
	delete(served, "components") // are all of other engines, and not all of them are valid
	encoded, err := json.Marshal(served)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(encoded)
	if err != nil {
		t.Fatalf("loading the document: %v", err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Errorf("the document is not valid: %v", err)
	}
	operations := 0
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			operations++
			where := method + " " + path
			if op.RequestBody != nil {
				checkSchema(t, where+": the request", op.RequestBody.Value.Content)
			}
			for status, response := range op.Responses.Map() {
				checkSchema(t, fmt.Sprintf("%s: the response %s", where, status), response.Value.Content)
			}
		}
	}
	if operations < 20 {
		t.Errorf("the document has %d operations of the engine", operations)
	}
	if write := doc.Paths.Find("/regcred/roles/{role}"); write == nil || write.Post.RequestBody.Value.Content["application/json"].Schema.Value.Properties["password"] == nil {
		t.Error("want the field password in the body of a write of a role")
	}
}

// checkSchema fails the test for a body whose schema says nothing.
func checkSchema(t *testing.T, where string, content openapi3.Content) {
	t.Helper()
	for mediaType, object := range content {
		if object.Schema == nil || object.Schema.Value == nil || len(object.Schema.Value.Properties) == 0 {
			t.Errorf("%s: the schema of %s has no fields", where, mediaType)
		}
	}
}
