// SPDX-License-Identifier: MPL-2.0

// Package servers starts the real programs that the tests talk to. Each start
// function waits until the server answers, keeps its log, and stops it by its
// process id when the test ends; a failed test shows the end of each log. The
// programs come from .bin and bin, which the Makefile fills.
package servers
