// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// client makes requests. It checks their status and decodes no answer, because it
// runs on the cores that are measured.
type client struct {
	addr, token string
	transport   *http.Transport
}

func newClient(addr, token string) client {
	return client{addr, token, &http.Transport{
		MaxIdleConnsPerHost:   workers, // keep all connections open
		DisableCompression:    true,
		ResponseHeaderTimeout: time.Minute,
	}}
}

// do makes one request below /v1/, which must succeed.
func (c client) do(method, path string, body []byte) error {
	req, err := http.NewRequest(method, c.addr+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Token", c.token)
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (c client) read(path string) error { return c.do(http.MethodGet, path, nil) }

// run calls act from as many workers as concurrency says, for a while, and
// returns how long each call took.
func run(t testing.TB, concurrency int, slice time.Duration, act func() error) (took []time.Duration, elapsed time.Duration) {
	t.Helper()
	var (
		mu      sync.Mutex
		failed  error
		waiting sync.WaitGroup
	)
	began := time.Now()
	for range concurrency {
		waiting.Go(func() {
			var mine []time.Duration
			var err error
			for last := began; err == nil && last.Sub(began) < slice; {
				err = act()
				now := time.Now()
				mine, last = append(mine, now.Sub(last)), now
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			if err != nil {
				failed = err
			}
		})
	}
	waiting.Wait()
	elapsed = time.Since(began)
	if failed != nil {
		t.Fatal(failed)
	}
	return took, elapsed
}

// each calls act once for each number below n, from as many workers as
// concurrency says.
func each(t testing.TB, concurrency, n int, act func(int) error) {
	t.Helper()
	var (
		next    atomic.Int64
		failed  atomic.Pointer[error]
		waiting sync.WaitGroup
	)
	for range concurrency {
		waiting.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && failed.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := act(i); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	waiting.Wait()
	if err := failed.Load(); err != nil {
		t.Fatal(*err)
	}
}
