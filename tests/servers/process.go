// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	stopLimit  = 20 * time.Second // after it, a server that does not end is killed
	shownLines = 40               // of each server's log, in a failed test

	// Ports below those of Kubernetes' services (30000) and of Linux' clients (32768).
	firstPort, lastPort = 10000, 29999
)

// Repo returns the root of the repository.
func Repo() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Bin returns the path of a program in .bin. It fails the test if the program
// is missing.
func Bin(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Repo(), ".bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing: run \"make test\", \"make crash\" or \"make e2e\", which build it", path)
	}
	return path
}

// Plugin returns the path of the plugin's binary.
func Plugin(t testing.TB) string {
	t.Helper()
	path := filepath.Join(Repo(), "bin", "vault-plugin-secrets-regcred")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing: run \"make build\"", path)
	}
	return path
}

// ClientAs returns a folder that has the client regcred under the given names.
func ClientAs(t testing.TB, names ...string) string {
	t.Helper()
	path := filepath.Join(Repo(), "bin", "regcred")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing: run \"make client\"", path)
	}
	dir := t.TempDir()
	for _, name := range names {
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Process is a running server.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  logBuffer
	done chan struct{}
}

// start runs cmd until the test ends and waits until ready returns nil.
func start(t testing.TB, name string, cmd *exec.Cmd, ready func() error) *Process {
	t.Helper()
	p := &Process{name: name, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.log, &p.log
	endWithParent(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", name, p.log.tail(shownLines))
		}
		p.stopOrKill()
	})

	Eventually(t, func() error {
		err := ready()
		// Another process may have taken the port, and answer instead.
		if p.Ended() {
			t.Fatalf("%s ended while starting", name)
		}
		if err != nil {
			err = fmt.Errorf("%s is not ready: %w", name, err)
		}
		return err
	})
	return p
}

// Stop ends the process and waits for it.
func (p *Process) Stop(t testing.TB) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	Receive(t, p.done, p.name+" has not ended")
}

// stopOrKill ends the process at the end of the test, unless it has ended.
func (p *Process) stopOrKill() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopLimit):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns everything that the process has written so far.
func (p *Process) Log() string { return p.log.String() }

// logBuffer collects the output of a process.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// tail returns the last n lines, without those of level TRACE.
func (l *logBuffer) tail(n int) string {
	lines := strings.Split(strings.TrimRight(l.String(), "\n"), "\n")
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "[TRACE]") })
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// FreeAddr returns a loopback address that is the test's own until it ends. Its port is not
// one of those that a system hands out by itself, to clients and to who listens at port 0: a
// server that starts a moment later, or once more, would find it taken. The UDP port of the
// same number keeps it from other tests, those of other processes too.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort+1))
		reserved, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		if listener, err := net.Listen("tcp", addr); err == nil {
			_ = listener.Close()
			t.Cleanup(func() { _ = reserved.Close() })
			return addr
		}
		_ = reserved.Close()
	}
	t.Fatalf("found no free port from %d to %d", firstPort, lastPort)
	return ""
}

func dial(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return fmt.Errorf("nothing listens yet: %w", err)
	}
	return conn.Close()
}
