// SPDX-License-Identifier: MPL-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// install copies the running program to a file, which every user can execute. It
// replaces the file if there is one, and returns the SHA-256 of the copy in hex.
//
// Release images have no shell, so an init container that puts the program into
// Vault's plugin directory has nothing else to do it with.
func install(file string) (sum string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("-install: %w", err)
		}
	}()
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return "", fmt.Errorf("%s is a directory; name the file in it, such as %s", file, filepath.Join(file, "vault-plugin-secrets-regcred"))
	}
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	content, err := os.ReadFile(program) //nolint:gosec // the program itself
	if err != nil {
		return "", err
	}
	// A rename, because a program that runs cannot be written to, and because Vault
	// must never find half of one.
	half := file + ".new"
	defer func() { _ = os.Remove(half) }()                     // there is none after the rename
	if err := os.WriteFile(half, content, 0o700); err != nil { //nolint:gosec // a program
		return "", err
	}
	if err := os.Chmod(half, 0o755); err != nil { //nolint:gosec // Vault may run as another user
		return "", err
	}
	if err := os.Rename(half, file); err != nil {
		return "", err
	}
	checksum := sha256.Sum256(content)
	return hex.EncodeToString(checksum[:]), nil
}
