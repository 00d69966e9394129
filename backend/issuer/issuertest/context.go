// SPDX-License-Identifier: MPL-2.0

package issuertest

import "context"

// contextUntil returns a context that also ends when a channel is closed.
func contextUntil(ctx context.Context, done <-chan struct{}) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-done:
		case <-ctx.Done():
		}
	}()
	return ctx
}
