// SPDX-License-Identifier: MPL-2.0

// Package importer brings pull secrets that people have in a KV engine or in the
// Secrets of a cluster into roles of the engine: "regcred import".
//
// It goes one way: read the sources (kv.go, cluster.go), parse each (source.go),
// join and name them (names.go), compare them with the roles that there are
// (plan.go), write what is missing (apply.go), and compare what the sources pull
// with today with what the roles give (compare.go). Nothing prints a user name, a
// password, or anything derived from one.
package importer

import (
	"context"
	"fmt"
	"io"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

// The exit statuses, besides 1 for a failure and 2 for an internal error.
const (
	StatusDone    = 0 // every role is as it should be
	StatusFailed  = 1
	StatusPlanned = 3 // -apply would write something
	StatusPartial = 4 // something needs somebody's decision, and all else is done
)

// Run carries out the command with its arguments, and returns its exit status.
func Run(ctx context.Context, args []string, out io.Writer) (status int, err error) {
	o, err := parse(args)
	if err != nil {
		return StatusFailed, err
	}
	vault, err := open(o)
	if err != nil {
		return StatusFailed, err
	}
	var sources []*source
	var from string
	switch o.kind {
	case kindKV:
		sources, from, err = readKV(ctx, vault, o)
	default:
		sources, from, err = readCluster(ctx, o)
	}
	if err == nil && len(sources) == 0 {
		err = &client.Failure{What: "there are no pull secrets in " + from, Do: "check the path, or the namespaces and the selector"}
	}
	if err != nil {
		return StatusFailed, err
	}
	p, err := makePlan(ctx, vault, o, from, sources)
	if err != nil {
		return StatusFailed, err
	}
	toWrite := p.count(actionCreate) + p.count(actionUpdate)
	if !o.json {
		if err := p.writePlan(out); err != nil {
			return StatusFailed, err
		}
	}
	var stopped error
	if o.apply && toWrite > 0 {
		if !o.json {
			_, _ = fmt.Fprintf(out, "\nWriting %s …\n", counted(toWrite, "role", "roles"))
		}
		stopped = p.apply(ctx, vault)
	}
	if stopped == nil && (o.apply || toWrite == 0) {
		if stopped = p.compare(ctx, vault); stopped != nil {
			p.Comparison = nil
		}
	}
	if o.json {
		err = p.writeJSON(out)
	} else {
		err = p.writeResult(out)
	}
	if err == nil {
		err = stopped
	}
	return p.status(), err
}

func open(o *options) (*client.Vault, error) {
	var settings client.Settings
	settings.ApplyEnvironment()
	if o.mount != "" {
		settings.Mount = o.mount
	}
	vault, err := client.Open(settings, client.Auth{})
	if err != nil {
		return nil, err
	}
	return vault, vault.UseCLIToken()
}

// status returns the exit status of a plan that has been carried out as far as asked.
func (p *plan) status() int {
	switch {
	case p.count(actionFailed) > 0 || p.Comparison != nil && p.Comparison.unexpected > 0:
		return StatusFailed
	case p.count(actionCreate)+p.count(actionUpdate) > 0:
		return StatusPlanned
	case p.count(actionKept)+p.count(actionClash) > 0 || p.refused() > 0:
		return StatusPartial
	}
	return StatusDone
}
