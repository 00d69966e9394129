// SPDX-License-Identifier: MPL-2.0

//go:build no_ecr

package backend

import "vault-plugin-secrets-regcred/backend/issuer"

var ecrTypes []issuer.Type
