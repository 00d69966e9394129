// SPDX-License-Identifier: MPL-2.0

//go:build !unix

package client

import "io/fs"

// writableByOthers cannot tell on this system: permissions are in access control
// lists, which Go does not read.
func writableByOthers(fs.FileInfo) string { return "" }
