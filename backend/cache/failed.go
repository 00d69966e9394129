// SPDX-License-Identifier: MPL-2.0

package cache

import "hash/maphash"

// failedBits is how many bits [failedWrites] has: 64 KiB of them.
const failedBits = 1 << 19

// failedWrites remembers the keys whose write has failed, in a fixed amount of memory:
// each key is one of its bits. Keys that share a bit are taken for failed together, so
// they are not held either, which is slower and never wrong. After 10,000 failures that
// is one key of 50. The zero value is empty.
type failedWrites struct {
	seed maphash.Seed
	bits []uint64 // nil until a write fails
}

func (f *failedWrites) add(key entryKey) {
	if f.bits == nil {
		f.seed, f.bits = maphash.MakeSeed(), make([]uint64, failedBits/64)
	}
	word, mask := f.bit(key)
	f.bits[word] |= mask
}

func (f *failedWrites) has(key entryKey) bool {
	if f.bits == nil {
		return false
	}
	word, mask := f.bit(key)
	return f.bits[word]&mask != 0
}

func (f *failedWrites) bit(key entryKey) (word, mask uint64) {
	bit := maphash.Comparable(f.seed, key) % failedBits
	return bit / 64, 1 << (bit % 64)
}
