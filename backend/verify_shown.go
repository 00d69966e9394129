// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/registry"
)

// The values of verify_period_from.
const (
	periodOfRole   = "role"
	periodOfConfig = "config"
)

// verdictFields are the fields of a role's read-back about its verification.
func verdictFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"verify_period":       {Type: framework.TypeDurationSecond, Description: "How often the engine verifies the role by itself; 0: not at all. Absent if neither the role nor config has a verify_period."},
		"verify_period_from":  {Type: framework.TypeString, Description: "Where verify_period is from: role, or config.", AllowedValues: []any{periodOfRole, periodOfConfig}},
		"last_verified":       {Type: framework.TypeString, Description: "When the credentials that the role serves were last verified, RFC 3339. For a bundle, the earliest time of its members. Absent until they are."},
		"last_verdict":        {Type: framework.TypeString, Description: "What was found: ok, unverified, not_found, unreachable or denied; for a bundle, the worst of its members."},
		"last_verify_message": {Type: framework.TypeString, Description: "Message of the registry, if any."},
		"verified_since":      {Type: framework.TypeString, Description: "Since when last_verdict is the same, RFC 3339."},
	}
}

// verifyReadBack describes what verifying a role has found for what it serves. d is
// empty if the role serves nothing.
func (b *backend) verifyReadBack(ctx context.Context, storage logical.Storage, name string, r *role, d description) (map[string]any, error) {
	settings, err := b.config(ctx, storage)
	if err != nil || r.isLeased() || r.VerifyPeriod == nil && settings.VerifyPeriod.Duration == 0 {
		return nil, err
	}
	period := r.verifyPeriod(settings)
	data := map[string]any{"verify_period": seconds{period}.count(), "verify_period_from": periodOfConfig}
	if r.VerifyPeriod != nil {
		data["verify_period_from"] = periodOfRole
	}
	if period == 0 {
		return data, nil
	}
	v, err := b.verdictOf(ctx, storage, name, d)
	if err != nil {
		return nil, err
	}
	if !v.At.IsZero() {
		data["last_verified"] = formatTime(v.At)
	}
	if v.Verdict != "" {
		data["last_verdict"], data["verified_since"] = string(v.Verdict), formatTime(v.Since)
	}
	if v.Message != "" {
		data["last_verify_message"] = v.Message
	}
	return data, nil
}

// verdictOf returns the verdict for what a role serves: for a bundle, the worst of its
// members. It is the zero value if there is none yet.
func (b *backend) verdictOf(ctx context.Context, storage logical.Storage, name string, d description) (worst verdict, err error) {
	var earliest time.Time
	consider := func(of string, sources ...source) error {
		if len(sources) == 0 {
			return nil
		}
		v, err := b.verdict(ctx, storage, of)
		if err != nil || v.Subject != subjectOf(sources...) { // there is none yet for the credential that is served
			return err
		}
		if earliest.IsZero() || v.At.Before(earliest) {
			earliest = v.At
		}
		if worst.Verdict == "" || severityOf(v.Verdict) > severityOf(worst.Verdict) {
			if worst = v; of != name && v.Message != "" {
				worst.Message = fmt.Sprintf("role %s: %s", of, v.Message)
			}
		}
		return nil
	}
	own := d.sources
	if d.isBundle {
		own = verifiedWithBundle(d.sources, d.settings)
		for _, s := range d.sources {
			if s.verifyPeriod(d.settings) == 0 {
				continue
			}
			if err := consider(s.name, s); err != nil {
				return verdict{}, err
			}
		}
	}
	if err := consider(name, own...); err != nil {
		return verdict{}, err
	}
	worst.At = earliest
	for _, key := range slices.Sorted(slices.Values(d.Registries)) {
		h := b.outages.of(key.Host())
		if h.confirmed && (worst.Verdict == "" || severityOf(worst.Verdict) < severityOf(registry.Unreachable)) {
			worst.Verdict, worst.Registry, worst.Since = registry.Unreachable, key.ImageName(), h.Since
			worst.Message = fmt.Sprintf("%s cannot be reached: %s", key.Host(), h.Message)
		}
	}
	return worst, nil
}
