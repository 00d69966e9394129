// SPDX-License-Identifier: MPL-2.0

package install

import (
	"errors"
	"os"
	"syscall"
	"time"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
)

const (
	// lockLimit is how long a run waits for others, each of which needs the time of
	// some writes.
	lockLimit = 30 * time.Second
	lockPause = 50 * time.Millisecond
)

// lock keeps other runs of this program from changing files in a folder, until unlock
// is called or this process ends. It locks the folder itself, so nothing is left of it.
func lock(folder string) (unlock func(), err error) {
	file, err := os.Open(folder) //nolint:gosec // the caller says where
	if err != nil {
		return nil, &client.Failure{What: folder + " cannot be opened: " + why(err)}
	}
	unlock = func() { _ = file.Close() }
	for begin := time.Now(); ; time.Sleep(lockPause) {
		switch err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case errors.Is(err, syscall.EWOULDBLOCK) && time.Since(begin) < lockLimit, errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EWOULDBLOCK):
			unlock()
			return nil, &client.Failure{What: "another process keeps " + folder + " locked", Do: "see which, with \"lsof " + folder + "\", and run this again"}
		default: // it is locked, or its file system has no locks
			return unlock, nil
		}
	}
}
