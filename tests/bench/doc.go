// SPDX-License-Identifier: MPL-2.0

// Package bench measures the engine on a real Vault ("make bench") and writes
// what it found to .bench/result.json. What counts are ratios of figures that
// were measured in turns in the same run: a machine that is slow, or busy for a
// while, is so for both. "make bench-docs" puts the result into
// docs/performance.md.
package bench
