// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-regcred/backend/issuer"
)

const (
	defaultRotationPeriod = 24 * time.Hour
	defaultGracePeriod    = time.Hour

	// minRotationPeriod keeps a typing error from minting without pause.
	minRotationPeriod = 5 * time.Second

	// maxOverlap is how many replaced credentials of a role may be in their grace
	// period at the same time. One storage entry of limited size holds them all.
	maxOverlap = 50

	// maxPeriod caps rotation_period and grace_period: twice the one and once the
	// other must fit into the 292 years of a [time.Duration].
	maxPeriod = 50 * 365 * 24 * time.Hour

	// shortGrace is shorter than the refresh interval of many consumers.
	shortGrace = 5 * time.Minute
)

// dynamicFields are the fields of roles/<role> that make a role dynamic.
func dynamicFields() map[string]*framework.FieldSchema {
	fields := fieldsOfTypes(roleFieldsOf)
	maps.Copy(fields, map[string]*framework.FieldSchema{
		"connection": {
			Type:        framework.TypeString,
			Description: "Name of the connection that mints the role's credential. Its allowed_roles must name this role.",
		},
		"mode": {
			Type:          framework.TypeString,
			Default:       modeShared,
			Description:   "shared: one credential, rotated by the engine and read without a lease. leased: one credential per read, on a Vault lease.",
			AllowedValues: []any{modeShared, modeLeased},
		},
		"ttl": {
			Type:        framework.TypeDurationSecond,
			Description: "Leased: how long a lease lasts until it has to be renewed. Empty or 0: the mount's default.",
		},
		"max_ttl": {
			Type:        framework.TypeDurationSecond,
			Description: "Leased: how long a lease can last in all, renewals included. Empty or 0: the mount's maximum.",
		},
		"rotation_period": {
			Type:        framework.TypeDurationSecond,
			Description: "Shared: how often the credential is replaced. Default: 24h, or less if the registry allows only shorter lifetimes.",
		},
		"grace_period": {
			Type:        framework.TypeDurationSecond,
			Description: "Shared: how long a replaced credential keeps working. Default: as long as rotation_period, within 1m and 1h, or less if the registry allows only shorter lifetimes.",
		},
	})
	return fields
}

// applyDynamic returns the dynamic part of a role with the write applied to it,
// and warnings. old is nil for a new role. It checks that the role may use the
// connection and may mint for its target; each mint checks both again.
func (b *backend) applyDynamic(ctx context.Context, storage logical.Storage, in input, name string, old *dynamicRole) (*dynamicRole, []string, error) {
	d := &dynamicRole{Mode: modeShared}
	if old != nil {
		*d = *old
	}
	if in.has("connection") {
		d.Connection = in.text("connection")
	}
	if d.Connection == "" {
		return nil, nil, in.missingConnection()
	}
	if err := in.applyMode(d, old); err != nil {
		return nil, nil, err
	}
	if old != nil && in.named(dynamicFields()) == "" {
		return d, nil, nil // a role that its connection no longer allows can still be restricted
	}
	c, err := b.connectionFor(ctx, storage, d.Connection, name)
	if err != nil {
		return nil, nil, err
	}
	if err := in.refuseOtherTypes("role on a connection", c.Type, roleFieldsOf); err != nil {
		return nil, nil, err
	}
	settings := d.For
	if old != nil && old.Connection != d.Connection {
		settings = nil // they are for the other connection
	}
	target, err := c.target(in.applySettings(c.Type.RoleFields, settings))
	if err != nil {
		return nil, nil, err
	}
	d.For = target.Settings
	warnings := target.Warnings
	if d.Mode == modeLeased {
		more, err := b.applyTTLs(in, d, target)
		return d, append(warnings, more...), err
	}
	more, err := in.applyPeriods(d, old, target)
	return d, append(warnings, more...), err
}

// missingConnection is the error about a write of a dynamic role that names no
// connection.
func (in input) missingConnection() error {
	const missing = "connection: must be the name of the connection that mints the role's credential"
	field := in.named(dynamicFields())
	if in.has("connection") {
		return refusef(missing)
	}
	probable := probableField(field, slices.Sorted(maps.Keys(staticFields())))
	if probable != "" {
		probable = "; did you mean " + probable + "?"
	}
	return refusef("%s, because %s is a field of %s%s", missing, field, dynamicOwners(field), probable)
}

// dynamicOwners says which roles have a field of dynamic roles.
func dynamicOwners(field string) string {
	if types := typesWith(field, roleFieldsOf); types != "" {
		return "roles on a connection of type " + types
	}
	return "roles on a connection"
}

// applyMode sets the mode, and refuses fields of the other mode.
func (in input) applyMode(d, old *dynamicRole) error {
	if in.has("mode") {
		mode := in.text("mode")
		if mode == "" {
			mode = modeShared
		}
		if mode != modeShared && mode != modeLeased {
			return refusef("mode: must be %s (one credential, rotated by the engine) or %s (one credential per read)", modeShared, modeLeased)
		}
		if old != nil && old.Mode != mode {
			return refusef("mode: is %s and cannot be changed; delete the role first, or use another role name", old.Mode)
		}
		d.Mode = mode
	}
	others, own := []string{"ttl", "max_ttl"}, "rotation_period and grace_period"
	if d.Mode == modeLeased {
		others, own = []string{"rotation_period", "grace_period"}, "ttl and max_ttl"
	}
	if i := slices.IndexFunc(others, func(field string) bool { return in.has(field) }); i >= 0 {
		return refusef("%s: a role with mode=%s uses %s instead", others[i], d.Mode, own)
	}
	return nil
}

// applyTTLs sets how long leases last. It warns of values above the maximum.
func (b *backend) applyTTLs(in input, d *dynamicRole, target issuer.Target) (warnings []string, err error) {
	if in.has("ttl") {
		d.TTL.Duration = in.duration("ttl")
	}
	if in.has("max_ttl") {
		d.MaxTTL.Duration = in.duration("max_ttl")
	}
	if d.MaxTTL.Duration > 0 && d.TTL.Duration > d.MaxTTL.Duration {
		return nil, refusef("ttl: must be at most max_ttl, which is %s", d.MaxTTL.Duration)
	}
	maxTTL, capped := b.maxTTL(target)
	for field, ttl := range map[string]time.Duration{"ttl": d.TTL.Duration, "max_ttl": d.MaxTTL.Duration} {
		if ttl > maxTTL {
			warnings = append(warnings, fmt.Sprintf("%s: leases last at most %s, which is %s", field, maxTTL, capped))
		}
	}
	slices.Sort(warnings)
	ttl, longest := cmp.Or(d.TTL.Duration, b.System().DefaultLeaseTTL()), min(maxTTL, cmp.Or(d.MaxTTL.Duration, maxTTL))
	if in.has("ttl", "max_ttl") && ttl >= longest && d.TTL.Duration <= maxTTL {
		warnings = append(warnings, fmt.Sprintf("ttl: a lease lasts %s and cannot be renewed, because it may last no longer; write a ttl below max_ttl for leases that can be renewed", longest))
	}
	if in.has("ttl", "max_ttl") && longest < target.MinLifetime {
		warnings = append(warnings, "max_ttl: a credential is used for at most "+longest.String()+", "+livesLonger(target))
	}
	return warnings, nil
}

// livesLonger warns that a credential lives longer at its registry than it is needed.
func livesLonger(target issuer.Target) string {
	return fmt.Sprintf("and lives %s (%d seconds) at the registry, which can find and revoke none that ends sooner; the engine revokes it when it is no longer needed", target.MinLifetime, int64(target.MinLifetime/time.Second))
}

// maxTTL returns how long a lease on a credential can last, and what sets that
// limit.
func (b *backend) maxTTL(target issuer.Target) (maxTTL time.Duration, capped string) {
	maxTTL, capped = b.System().MaxLeaseTTL(), "the mount's maximum"
	if target.MaxLifetime > 0 && target.MaxLifetime < maxTTL {
		maxTTL, capped = target.MaxLifetime, "the longest lifetime that the registry allows"
	}
	return maxTTL, capped
}

// applyPeriods sets how often the credential is replaced. It stores default
// values too, so that a later change of the defaults leaves the role as it is.
func (in input) applyPeriods(d, old *dynamicRole, target issuer.Target) (warnings []string, err error) {
	longest := target.MaxLifetime
	if old == nil || in.has("rotation_period") {
		d.RotationPeriod.Duration = in.duration("rotation_period")
		if in.Raw["rotation_period"] == nil {
			d.RotationPeriod.Duration = defaultRotationPeriod
			if longest > 0 {
				d.RotationPeriod.Duration = min(d.RotationPeriod.Duration, longest/2)
			}
		}
	}
	if old == nil || in.has("grace_period") {
		d.GracePeriod.Duration = in.duration("grace_period")
		if in.Raw["grace_period"] == nil {
			d.GracePeriod.Duration = min(defaultGracePeriod, max(d.RotationPeriod.Duration, time.Minute))
			if longest > 0 {
				d.GracePeriod.Duration = min(d.GracePeriod.Duration, longest/4)
			}
		}
	}
	switch {
	case d.RotationPeriod.Duration < minRotationPeriod:
		return nil, refusef("rotation_period: must be at least %s", minRotationPeriod)
	case d.RotationPeriod.Duration > maxPeriod:
		return nil, refusef("rotation_period: must be at most %dh", int(maxPeriod.Hours()))
	case d.GracePeriod.Duration > maxPeriod:
		return nil, refusef("grace_period: must be at most %dh", int(maxPeriod.Hours()))
	case d.GracePeriod.Duration/maxOverlap > d.RotationPeriod.Duration: // a product could overflow
		return nil, refusef("grace_period: must be at most %d times rotation_period, or too many credentials would be valid at the same time", maxOverlap)
	case longest > 0 && d.RotationPeriod.Duration+d.GracePeriod.Duration > longest:
		return nil, refusef("rotation_period: rotation_period and grace_period together must be at most %s, the longest lifetime that the registry allows", longest)
	case d.GracePeriod.Duration < shortGrace && (old == nil || in.has("grace_period")):
		warnings = append(warnings, fmt.Sprintf("grace_period: %s is short; a credential that was read before a rotation stops working this long after it, and many tools read again only after some minutes", d.GracePeriod.Duration))
	}
	if used := d.RotationPeriod.Duration + d.GracePeriod.Duration; used < target.MinLifetime && (old == nil || in.has("rotation_period", "grace_period")) {
		warnings = append(warnings, fmt.Sprintf("rotation_period: a credential is used for at most %s, with grace_period, ", used)+livesLonger(target))
	}
	return warnings, nil
}
