// SPDX-License-Identifier: MPL-2.0

// Package servers starts the real programs that the tests talk to. Each start
// function waits until the server answers, keeps its log, and stops it by its
// process id when the test ends. A failed test shows the end of each log. The
// Makefile puts the programs into .bin and bin.
package servers
