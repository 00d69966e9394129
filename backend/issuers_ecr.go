// SPDX-License-Identifier: MPL-2.0

//go:build !no_ecr

package backend

import (
	"vault-plugin-secrets-regcred/backend/issuer"
	"vault-plugin-secrets-regcred/backend/issuer/ecr"
)

// ecrTypes is the type ecr. The build tag no_ecr leaves it out, because AWS's library is
// almost a quarter of the program.
var ecrTypes = []issuer.Type{ecr.Type()}
