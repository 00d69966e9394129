// SPDX-License-Identifier: MPL-2.0

package acr

import (
	"encoding/json"
	"net/http"
	"strings"

	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/redact"
)

// codes are errors in the forms of the three services: Azure Resource Manager and
// registries have a code and a message, Microsoft Entra has a code and a description.
type codes struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// refusal is the error of an answer that is not success. What it says holds none of the
// secrets that were sent.
func refusal(resp *http.Response, sent []string) error {
	var body struct {
		Error       json.RawMessage    `json:"error"`
		Description string             `json:"error_description"`
		Errors      issuer.List[codes] `json:"errors"`
	}
	_ = json.NewDecoder(resp.Body).Decode(&body)
	var (
		manager codes
		entra   string
	)
	if json.Unmarshal(body.Error, &manager) != nil {
		_ = json.Unmarshal(body.Error, &entra)
	}
	// The further lines of a description are IDs and times.
	description, _, _ := strings.Cut(body.Description, "\n")
	said := []string{manager.Code, manager.Message, entra, strings.TrimSpace(description)}
	for _, e := range body.Errors[:min(len(body.Errors), 1)] {
		said = append(said, e.Code, e.Message)
	}
	for i, text := range said {
		said[i] = redact.Redact(text, sent, nil)
	}
	return issuer.Proving(proof(resp.StatusCode, entra, body.Description), issuer.StatusError(resp.StatusCode, resp.Header, said...))
}

// proof says what an answer proves. Microsoft Entra says with a code of its own that it
// does not accept a client secret or a pod's token. That a token of a registry is gone
// is proved by the list alone.
func proof(status int, entra, description string) issuer.Proof {
	if status == http.StatusUnauthorized && entra == "invalid_client" && strings.HasPrefix(description, "AADSTS") {
		return issuer.ProvesRefused
	}
	return issuer.ProvesNothing
}
