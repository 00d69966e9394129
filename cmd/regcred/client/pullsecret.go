// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
	"vault-plugin-secrets-regcred/backend/redact"
)

// PullSecret is what creds/<role> has answered with.
type PullSecret struct {
	Docker    dockerconfig.Config
	ExpiresAt time.Time // zero: not known
	Warnings  []string

	// Rotates says that the engine replaces credentials of it. GracePeriod is how
	// long a replaced one goes on working.
	Rotates     bool
	GracePeriod time.Duration
}

// CacheFor returns how long the pull secret may be kept: until it expires, for half
// of the time for which a replaced credential works, and no longer than most. 0
// means not at all. The other half is for a pull that begins at the end of the
// first, and for the time until the answer was kept.
func (p PullSecret) CacheFor(most time.Duration, now time.Time) time.Duration {
	if p.Rotates {
		most = min(most, p.GracePeriod/2)
	}
	if !p.ExpiresAt.IsZero() {
		most = min(most, p.ExpiresAt.Sub(now))
	}
	return max(0, most.Truncate(time.Second))
}

// maxRoleName is the engine's limit, in bytes.
const maxRoleName = 200

var roleName = regexp.MustCompile(`^\w([\w.-]*\w)?$`)

// CheckRole refuses a text that cannot be the name of a role, so that an
// annotation or a template cannot lead to another path.
func CheckRole(name string) error {
	if len(name) > maxRoleName || !roleName.MatchString(name) || strings.Contains(name, "..") {
		return failf("%q is not the name of a role: it has letters, digits and '_', with '-' or single '.' inside", redact.Truncate(redact.Clean(name), 64))
	}
	return nil
}

// Read reads a role's pull secret. It refuses a role that is leased: each read
// would mint another credential.
func (v *Vault) Read(ctx context.Context, role string) (PullSecret, error) {
	if err := CheckRole(role); err != nil {
		return PullSecret{}, err
	}
	path := v.mount + "/creds/" + role
	secret, err := v.api.Logical().ReadWithContext(ctx, path)
	switch {
	case err != nil:
		return PullSecret{}, (&Failure{What: "reading " + path + ": " + v.reason(err), Status: status(err)}).do("%s", v.readAdvice(status(err), path))
	case secret == nil:
		return PullSecret{}, failf("reading %s: there is no role %q at %s/, or no engine is mounted there", path, role, v.mount).do("write %s/roles/%s, or correct the name", v.mount, role)
	case secret.LeaseID != "":
		// What was just minted ends with its lease at the latest.
		_, _ = v.api.Logical().WriteWithContext(ctx, "sys/leases/revoke", map[string]any{"lease_id": secret.LeaseID})
		return PullSecret{}, failf("reading %s: the role is leased, so each pull would mint a credential", path).do("use a role with mode=shared")
	}
	parsed, ok := parse(secret.Data)
	if !ok {
		return PullSecret{}, failf("reading %s: Vault at %s answered without a pull secret", path, v.address).do("check that %s/ is the regcred engine", v.mount)
	}
	for _, warning := range secret.Warnings {
		parsed.Warnings = append(parsed.Warnings, redact.Truncate(redact.Clean(warning), maxSaid))
	}
	return parsed, nil
}

// parse takes the pull secret out of the fields of an answer. Every field that is
// there must be what the engine documents.
func parse(data map[string]any) (PullSecret, bool) {
	var p PullSecret
	text, ok := data[".dockerconfigjson"].(string)
	if !ok {
		return PullSecret{}, false
	}
	var err error
	if p.Docker, err = dockerconfig.Decode([]byte(text)); err != nil {
		return PullSecret{}, false
	}
	if at, has := data["expires_at"]; has {
		text, _ := at.(string)
		if p.ExpiresAt, err = time.Parse(time.RFC3339, text); err != nil {
			return PullSecret{}, false
		}
	}
	// An engine that rotates and names no grace period is one of an earlier build:
	// then nothing may be kept.
	if _, p.Rotates = data["rotation_period"]; !p.Rotates {
		return p, true
	}
	if grace, has := data["grace_period"]; has {
		number, _ := grace.(json.Number)
		seconds, err := number.Int64()
		if err != nil || seconds < 0 {
			return PullSecret{}, false
		}
		p.GracePeriod = time.Duration(min(seconds, int64(maxGrace/time.Second))) * time.Second
	}
	return p, true
}

// maxGrace is longer than any limit of a cache, and far from an overflow.
const maxGrace = 100 * 365 * 24 * time.Hour

func (v *Vault) readAdvice(status int, path string) string {
	switch status {
	case http.StatusForbidden:
		if !v.HasToken() {
			return "there is no token: run \"vault login\", or set VAULT_TOKEN or VAULT_AGENT_ADDR"
		}
		return "the token has expired, or its policies do not allow to read " + path
	case http.StatusServiceUnavailable:
		return "unseal it, or wait until it has an active node"
	case http.StatusTooManyRequests:
		return "a rate limit of Vault is reached"
	case http.StatusInternalServerError, http.StatusBadGateway:
		return "the engine could not make the pull secret; see " + strings.Replace(path, "/creds/", "/roles/", 1)
	case http.StatusBadRequest:
		return "the engine refuses the role"
	}
	return "check address, network and CA"
}
