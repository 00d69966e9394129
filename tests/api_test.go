// SPDX-License-Identifier: MPL-2.0

package tests

import (
	"errors"
	"net/http"
	"testing"

	"github.com/hashicorp/vault/api"
)

// write writes data and returns the warnings; it fails the test on any error.
func write(t testing.TB, client *api.Client, path string, data map[string]any) []string {
	t.Helper()
	secret, err := client.Logical().Write(path, data)
	if err != nil {
		t.Fatalf("writing %s: %v", path, err)
	}
	if secret == nil {
		return nil
	}
	return secret.Warnings
}

// read returns the data of a path, which must be there.
func read(t testing.TB, client *api.Client, path string) map[string]any {
	t.Helper()
	secret, err := client.Logical().Read(path)
	if err != nil {
		t.Fatalf("reading %s: %v", path, err)
	}
	if secret == nil {
		t.Fatalf("reading %s: want data, got status 404", path)
	}
	return secret.Data
}

// refusal returns the text of an error with status 400, and fails the test on
// any other outcome.
func refusal(t testing.TB, err error) string {
	t.Helper()
	if !isStatus(err, http.StatusBadRequest) {
		t.Fatalf("want an error with status 400, got %v", err)
	}
	return err.Error()
}

// isStatus reports whether err is an answer of Vault with that status code.
func isStatus(err error, code int) bool {
	var response *api.ResponseError
	return errors.As(err, &response) && response.StatusCode == code
}
