// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

func TestEveryWriteSendsAnEvent(t *testing.T) {
	type event struct {
		Type     string
		Metadata map[string]any
	}
	for _, c := range []struct {
		op   logical.Operation
		path string
		data fields
		want event
	}{
		{logical.UpdateOperation, "roles/new", samples["roles/app"], event{"regcred/role-write", fields{"path": "roles/new", "data_path": "creds/new", "operation": "create", "modified": "true"}}},
		{logical.UpdateOperation, "roles/app", fields{"password": password}, event{"regcred/role-write", fields{"path": "roles/app", "data_path": "creds/app", "operation": "update", "modified": "true"}}},
		{logical.PatchOperation, "roles/app", fields{"password": password}, event{"regcred/role-write", fields{"path": "roles/app", "data_path": "creds/app", "operation": "patch", "modified": "true"}}},
		{logical.DeleteOperation, "roles/app", nil, event{"regcred/role-delete", fields{"path": "roles/app", "data_path": "creds/app", "operation": "delete", "modified": "true"}}},
		{logical.UpdateOperation, "config", fields{"expiry_warning": 1}, event{"regcred/config-write", fields{"path": "config", "data_path": "config", "operation": "update", "modified": "true"}}},
		{logical.UpdateOperation, "connections/app", fields{"allowed_roles": "a"}, event{"regcred/connection-write", fields{"path": "connections/app", "data_path": "connections/app", "operation": "update", "modified": "true"}}},
		{logical.DeleteOperation, "connections/app", nil, event{"regcred/connection-delete", fields{"path": "connections/app", "data_path": "connections/app", "operation": "delete", "modified": "true"}}},
		{logical.UpdateOperation, "connections/app/rotate-root", nil, event{"regcred/root-rotate", fields{"path": "connections/app/rotate-root", "data_path": "connections/app", "operation": "update", "modified": "true"}}},
		{logical.DeleteOperation, "config", nil, event{"regcred/config-delete", fields{"path": "config", "data_path": "config", "operation": "delete", "modified": "true"}}},
	} {
		e := newSampledEngine(t)
		e.must(c.op, c.path, c.data)
		var got []event
		for _, sent := range e.events.Events {
			got = append(got, event{string(sent.Type), sent.Event.Metadata.AsMap()})
		}
		checkSame(t, string(c.op)+" "+c.path, []event{c.want}, got)
	}
}

// What is read stays the same, so tools need not read again.
func TestVerificationEventsChangeNothing(t *testing.T) {
	e := newEngine(t)
	p := verifies(e)
	e.write("roles/hub", static("ghcr.io", "me", password, fields{"verify_period": "10m"}))
	e.events.Events = nil
	for _, refused := range []bool{true, false} {
		p.refuse(password, refused)
		e.pass(30 * time.Minute)
	}
	var got []any
	for _, sent := range e.events.Events {
		got = append(got, string(sent.Type), sent.Event.Metadata.AsMap())
	}
	metadata := fields{"path": "verify/hub", "data_path": "creds/hub", "operation": "update", "modified": "false"}
	checkSame(t, "events", []any{"regcred/verify-fail", metadata, "regcred/verify-ok", metadata}, got)
}

// Each mint, rotation and revocation sends an event, and so does each failure.
func TestEveryMintSendsAnEvent(t *testing.T) {
	for name, c := range map[string]struct {
		act  func(*engine)
		want fields
	}{
		"regcred/credential-mint": {
			func(e *engine) { e.read("creds/leased/docker") },
			fields{"path": "creds/leased/docker", "data_path": "creds/leased", "operation": "read", "modified": "true"},
		},
		"regcred/credential-rotate": {
			func(e *engine) { e.write("rotate/app", nil) },
			fields{"path": "rotate/app", "data_path": "creds/app", "operation": "update", "modified": "true"},
		},
		"regcred/credential-rotate-fail": {
			func(e *engine) {
				e.minting.fail("mint", errRefused)
				e.failed(logical.UpdateOperation, "rotate/app", nil, http.StatusBadGateway)
			},
			fields{"path": "rotate/app", "data_path": "creds/app", "operation": "update", "modified": "true"},
		},
		"regcred/credential-revoke": {
			func(e *engine) {
				e.write("rotate/app", nil)
				e.clock.advance(time.Hour)
				e.sent()
				e.mustRollBack()
			},
			fields{"path": "rotate/app", "data_path": "creds/app", "operation": "update", "modified": "true"},
		},
		"regcred/root-rotate-fail": {
			func(e *engine) {
				e.minting.fail("prepare", errRefused)
				e.failed(logical.UpdateOperation, "connections/app/rotate-root", nil, http.StatusBadGateway)
			},
			fields{"path": "connections/app/rotate-root", "data_path": "connections/app", "operation": "update", "modified": "true"},
		},
	} {
		e := newSharingEngine(t)
		e.write("roles/leased", leasedRole)
		e.read("creds/app")
		e.sent()
		c.act(e)
		if len(e.events.Events) != 1 {
			t.Errorf("%s: want one event, got %v", name, e.events.Events)
			continue
		}
		checkSame(t, "type", name, string(e.events.Events[0].Type))
		checkSame(t, name, c.want, e.events.Events[0].Event.Metadata.AsMap())
	}
}

func TestReadsSendNoEvent(t *testing.T) {
	e := newSampledEngine(t)
	for _, path := range []string{"config", "roles/app", "creds/app"} {
		e.read(path)
	}
	if len(e.events.Events) > 0 {
		t.Errorf("want no event, got %v", e.events.Events)
	}
}

type brokenSender struct{}

func (brokenSender) SendEvent(context.Context, logical.EventType, *logical.EventData) error {
	return errors.New("the bus is gone")
}

func TestWritesDoNotNeedTheEventBus(t *testing.T) {
	for name, sender := range map[string]logical.EventSender{"broken": brokenSender{}, "none": nil} {
		t.Run(name, func(t *testing.T) {
			e := newSampledEngine(t, func(conf *logical.BackendConfig) { conf.EventsSender = sender })
			e.must(logical.DeleteOperation, "roles/app", nil)
			e.must(logical.DeleteOperation, "config", nil)
			e.must(logical.DeleteOperation, "connections/app", nil)
			checkSame(t, "storage", map[string]string{}, e.snapshot())
		})
	}
}
