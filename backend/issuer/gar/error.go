// SPDX-License-Identifier: MPL-2.0

package gar

import (
	"encoding/json"
	"net/http"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

// answer is an error in the two forms that Google has: that of its APIs
// (google.rpc.Status), and that of its token servers (RFC 6749, section 5.2).
type answer struct {
	Error       json.RawMessage `json:"error"`
	Description string          `json:"error_description"`
}

// apiError is the error of an API.
type apiError struct {
	Message string `json:"message"`
	Status  string `json:"status"`
}

// refusal is the error of an answer that is not success. What it says holds none of the
// secrets that were sent. The engine knows those of the connection, and not these.
func refusal(resp *http.Response, sent ...string) error {
	var (
		body answer
		api  apiError
		code string
	)
	_ = json.NewDecoder(resp.Body).Decode(&body)
	if json.Unmarshal(body.Error, &api) != nil {
		_ = json.Unmarshal(body.Error, &code)
	}
	said := []string{api.Status, api.Message, code, body.Description}
	for i, text := range said {
		said[i] = redact.Redact(text, sent, nil)
	}
	return issuer.Proving(proof(resp.StatusCode, api.Status), issuer.StatusError(resp.StatusCode, resp.Header, said...))
}

// proof says what an answer proves: an API of Google says UNAUTHENTICATED about a token
// that it does not accept.
func proof(status int, code string) issuer.Proof {
	if status == http.StatusUnauthorized && code == "UNAUTHENTICATED" {
		return issuer.ProvesRefused
	}
	return issuer.ProvesNothing
}
