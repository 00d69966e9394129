// SPDX-License-Identifier: MPL-2.0

package client

import "context"

// CheckHealth is the step that asks Vault how it is. It reports whether the next
// steps have a chance.
func CheckHealth(ctx context.Context, v *Vault, steps *Steps) bool {
	health, err := v.Health(ctx)
	switch {
	case err != nil:
		steps.Fail("Vault", err)
		return false
	case health.Sealed:
		steps.Fail("Vault", failf("Vault at %s is sealed", v.address).do("unseal it"))
		return false
	}
	steps.OK("Vault", "%s answers, version %s", v.address, health.Version)
	return true
}
