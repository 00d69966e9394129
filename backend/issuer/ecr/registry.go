// SPDX-License-Identifier: MPL-2.0

package ecr

import (
	"errors"
	"fmt"
	"regexp"
	"slices"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	publicHost   = "public.ecr.aws"
	publicRegion = "us-east-1" // the region that mints for public.ecr.aws
	anyAccount   = "*"
)

var (
	// hostPattern matches the hosts of private registries and finds account and
	// region: first the IPv4 names of all partitions, then the dual-stack names.
	hostPattern = regexp.MustCompile(`^([0-9]{12})\.dkr(?:` +
		`\.ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|c2s\.ic\.gov|sc2s\.sgov\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)` +
		`|-ecr(?:-fips)?\.([a-z0-9-]+)\.on\.aws)$`)

	regionPattern = regexp.MustCompile(`^[a-z]{2,}(?:-[a-z]+)+-[0-9]+$`)
)

// registryScope says what a token of the connection must be valid for.
type registryScope struct {
	region   string
	public   bool
	accounts []string // sorted; [anyAccount] if a host does not name one
}

// resolveScope returns the scope of a connection's registries. It refuses
// registries that one token cannot cover: a token is valid for all registries of
// one region that its principal may use, in any account.
func resolveScope(c issuer.Connection) (registryScope, error) {
	region := c.Settings[fieldRegion]
	if region != "" && !regionPattern.MatchString(region) {
		return registryScope{}, errors.New("region: must be an AWS region, such as eu-central-1")
	}
	var (
		scope   registryScope
		from    string // the host that scope.region comes from
		private bool
	)
	for _, key := range c.Registries {
		host := key.Host()
		found := hostPattern.FindStringSubmatch(host)
		hostRegion, account := region, anyAccount
		switch {
		case host == publicHost:
			scope.public, hostRegion = true, publicRegion
		case found != nil:
			private, hostRegion, account = true, found[2]+found[3], found[1]
		case c.URL == "" || region == "":
			return registryScope{}, fmt.Errorf("registry: must be a host of ECR, such as 123456789012.dkr.ecr.eu-central-1.amazonaws.com or %s, not %q; for a host name of your own in front of ECR, also set url and region", publicHost, host)
		default:
			private = true
		}
		if scope.region != "" && scope.region != hostRegion {
			return registryScope{}, fmt.Errorf("registry: must be hosts of one region, because a token is valid in one region only; %q and %q are in two regions: create a connection for each", from, host)
		}
		scope.region, from = hostRegion, host
		scope.accounts = append(scope.accounts, account)
	}
	if scope.public && private {
		return registryScope{}, fmt.Errorf("registry: must be either %s or private registries, because their tokens differ: create a connection for each", publicHost)
	}
	if region != "" && region != scope.region {
		return registryScope{}, fmt.Errorf("region: must be %s, the region of %q, or be left out", scope.region, from)
	}
	slices.Sort(scope.accounts)
	scope.accounts = slices.Compact(scope.accounts)
	if scope.accounts[0] == anyAccount {
		scope.accounts = scope.accounts[:1]
	}
	return scope, nil
}
