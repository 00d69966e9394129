// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// patienceWith returns how long a request waits for the next answer of a registry.
func (c *calls) patienceWith(registry string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lanes[registry]
	if l == nil || l.length > 0 {
		return c.patience
	}
	return max(c.patience, min(2*l.slowest, lastPatience))
}

// wait waits until done is closed, as long as the work makes progress, or its registry
// answers others.
func (c *calls) wait(ctx context.Context, registry string, p *progress, done <-chan struct{}) error {
	l := c.join(registry)
	defer c.part(l)
	c.mu.Lock()
	came := time.Now()
	began := came
	if since := l.silentSince(); !since.IsZero() {
		began = since // so those that come later do not wait as long again
	}
	c.mu.Unlock()
	for {
		patience := c.patienceWith(registry)
		c.mu.Lock()
		until := later(later(p.since(began), l.answeredAt).Add(patience), came.Add(min(patience, leastPatience)))
		left, lastError := time.Until(until), l.lastError
		c.mu.Unlock()
		if left <= 0 {
			return l.noAnswerYet(patience, lastError)
		}
		timer := time.NewTimer(left)
		select {
		case <-done:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// noAnswerYetError is about work that a request does not wait for any more.
type noAnswerYetError struct{ logical.HTTPCodedError }

func (l *lane) noAnswerYet(patience time.Duration, lastError string) error {
	text := fmt.Sprintf("%s has not answered for %s; try again in a moment", l.registry, patience.Round(100*time.Millisecond))
	if lastError != "" {
		text += " (it failed before: " + lastError + ")"
	}
	return noAnswerYetError{logical.CodedError(http.StatusServiceUnavailable, text)}
}
