// SPDX-License-Identifier: MPL-2.0

// Package bench measures the engine on a real Vault ("make bench") and writes
// the result to .bench/result.json. The results are ratios of figures that were
// measured in turns in the same run, because a slow or busy machine slows both.
// "make bench-docs" puts the result into docs/performance.md.
package bench
