// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// Clients send a request again that the engine asks to "try again": on a busy machine a
// registry, which here is often the test itself, takes longer to answer than a request waits
// for it. They try for less than the minute that Vault's client gives a request.
const (
	patientRetries = 25
	patientPause   = 500 * time.Millisecond
)

// Impatient returns a client that sends each request once.
func Impatient(t testing.TB, client *api.Client) *api.Client {
	t.Helper()
	once, err := client.CloneWithHeaders()
	if err != nil {
		t.Fatal(err)
	}
	once.SetToken(client.Token())
	once.SetMaxRetries(0)
	return once
}

// saysTryAgain reports whether an answer asks to send the request again. All other errors are
// for the test.
func saysTryAgain(ctx context.Context, resp *http.Response, _ error) (bool, error) {
	if ctx.Err() != nil || resp == nil || resp.StatusCode < http.StatusBadRequest {
		return false, ctx.Err()
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return err == nil && bytes.Contains(body, []byte("; try again")), nil
}
