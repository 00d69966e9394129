// SPDX-License-Identifier: MPL-2.0

package ecr

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"vault-plugin-secrets-regcred/backend/issuer"
)

// convertError converts an error of the SDK to one of package issuer. An error of
// package issuer, or nil, is returned as it is.
func convertError(err error) error {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil {
		return issuer.Failed(err)
	}
	// For a call without an answer, the SDK makes up an empty one with status 0.
	switch status := answer.HTTPStatusCode(); {
	case status >= http.StatusMultipleChoices:
		return issuer.StatusError(status, answer.Response.Header, awsMessage(err)...)
	case status >= http.StatusOK && errors.Is(err, io.EOF):
		// The body was read to its end and lacks the expected content. A body that
		// was cut off has another error.
		return issuer.Malformedf("the answer could not be understood")
	}
	return issuer.Failed(err)
}

// awsMessage returns the refused call, AWS's error code, and the first line of its
// message. For a wrong signature, the further lines repeat the headers of the
// request, and one header is a session token.
func awsMessage(err error) []string {
	var (
		parts []string
		call  *smithy.OperationError
		api   smithy.APIError
	)
	if errors.As(err, &call) {
		parts = append(parts, call.Operation())
	}
	if errors.As(err, &api) {
		message, _, _ := strings.Cut(api.ErrorMessage(), "\n")
		parts = append(parts, api.ErrorCode(), message)
	}
	return parts
}

// hasCode reports whether AWS answered with the given error code.
func hasCode(err error, code string) bool {
	var api smithy.APIError
	return errors.As(err, &api) && api.ErrorCode() == code
}

// credentialsError is the error if there are no AWS credentials to sign with. A call of
// STS is made only if there is something to exchange.
func credentialsError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return issuer.Failed(ctx.Err())
	}
	var call *smithy.OperationError
	if explained := convertError(err); issuer.StatusOf(explained) != 0 || errors.As(err, &call) && call.Service() == sts.ServiceID {
		return explained
	}
	return issuer.Refusedf("no AWS credentials: write access_key_id and secret_access_key to the connection, or give them to the machine or pod that Vault runs on (instance profile, container role, web identity, or AWS_* in the environment)")
}
