// SPDX-License-Identifier: MPL-2.0

package soak

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"vault-plugin-secrets-regcred/tests/servers"
)

const (
	restTime  = 2 * time.Second // at most, for requests in progress to end
	restTries = 5
)

// sample is the size of the plugin's process while it has no requests.
type sample struct {
	after      time.Duration // since the load began
	pid        int
	done       int64
	goroutines int
	files      int
	heap       int // bytes in use after a collection
	resident   int // bytes of anonymous memory
	living     int // credentials at the registry
	stacks     string
}

// rest stops the load and measures. It measures several times, and the smallest
// values count, because requests in progress need a moment to end.
func (w *world) rest(lasts time.Duration) sample {
	w.holdUp()
	defer w.load.Unlock()
	s := sample{after: time.Since(w.began), pid: w.vault.PluginPID(w), done: w.done.Load(), living: len(w.gitlab.Living())}
	for try := range restTries {
		time.Sleep(lasts / restTries)
		s.stacks = w.profile(s.pid, "goroutine?debug=1")
		s.goroutines = leastOf(try, s.goroutines, w.goroutines(s.stacks))
		s.files = leastOf(try, s.files, w.openFiles(s.pid))
		s.heap = leastOf(try, s.heap, w.heap(s.pid))
		s.resident = leastOf(try, s.resident, w.resident(s.pid))
	}
	return s
}

// holdUp waits until no request is in progress, and lets none begin. It cuts
// calls that hang.
func (w *world) holdUp() {
	held := make(chan struct{})
	go func() {
		for {
			w.faults.mended()
			select {
			case <-held:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	w.load.Lock()
	close(held)
}

func leastOf(try, least, now int) int {
	if try == 0 {
		return now
	}
	return min(least, now)
}

// profile asks the plugin for a profile as text.
func (w *world) profile(pid int, query string) string {
	w.Helper()
	client := &http.Client{Timeout: time.Until(servers.Limit(w)), Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(w.profiles, fmt.Sprintf("%d.sock", pid)))
		},
	}}
	resp, err := client.Get("http://plugin/debug/pprof/" + query)
	if err != nil {
		w.Fatalf("asking process %d for its profile: %v", pid, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		w.Fatalf("asking process %d for its profile: %s, %v", pid, resp.Status, err)
	}
	return string(body)
}

// goroutines returns their number, including those that answer this request.
func (w *world) goroutines(stacks string) int {
	first, _, _ := strings.Cut(stacks, "\n")
	return w.number(first, "goroutine profile: total ")
}

func (w *world) heap(pid int) int {
	scanner := bufio.NewScanner(strings.NewReader(w.profile(pid, "heap?gc=1&debug=1")))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		if strings.HasPrefix(scanner.Text(), "# HeapAlloc = ") {
			return w.number(scanner.Text(), "# HeapAlloc = ")
		}
	}
	w.Fatal("the heap profile does not say how much is in use")
	return 0
}

func (w *world) resident(pid int) int {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		w.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if strings.HasPrefix(line, "RssAnon:") {
			return 1024 * w.number(strings.TrimSuffix(strings.TrimSpace(line), " kB"), "RssAnon:")
		}
	}
	w.Fatalf("process %d does not say how much memory it has", pid)
	return 0
}

func (w *world) openFiles(pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		w.Fatal(err)
	}
	return len(entries)
}

func (w *world) number(line, after string) int {
	w.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, after)))
	if err != nil {
		w.Fatalf("want a number after %q, got %q", after, line)
	}
	return n
}

// growth is how much a value may grow.
type growth struct {
	what   string
	of     func(sample) int
	factor float64
	more   int
}

var growths = []growth{
	{"goroutines", func(s sample) int { return s.goroutines }, 1, 5},
	{"open files", func(s sample) int { return s.files }, 1, 3},
	{"bytes in use", func(s sample) int { return s.heap }, 1.01, 128 << 10},
	{"resident bytes", func(s sample) int { return s.resident }, 1.15, 6 << 20},
}

// checkFlat compares the medians of the second and the last quarter of the
// samples, which are of one process. The first quarter is for warming up.
func (w *world) checkFlat(samples []sample) {
	quarter := len(samples) / 4
	early, late := samples[quarter:2*quarter], samples[len(samples)-quarter:]
	for _, g := range growths {
		before, after := median(early, g.of), median(late, g.of)
		most := int(float64(before)*g.factor) + g.more
		w.Logf("%s: %d at first, %d at the end, at most %d", g.what, before, after, most)
		if after > most {
			w.Errorf("the plugin's process grows: %d %s at first and %d at the end; want at most %d", before, g.what, after, most)
			w.Logf("its goroutines at the end:\n%.4000s", late[len(late)-1].stacks)
		}
	}
	for _, s := range samples {
		if s.pid != samples[0].pid {
			w.Errorf("the plugin's process was to stay, and changed from %d to %d", samples[0].pid, s.pid)
			return
		}
	}
}

func median(samples []sample, of func(sample) int) int {
	var values []int
	for _, s := range samples {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
