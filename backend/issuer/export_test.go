// SPDX-License-Identifier: MPL-2.0

package issuer

import "time"

// What a call reads before it is cut off is tested here. With the race detector, that takes
// seconds where nothing else runs, and many times as long where a lot does.
func init() { callTimeout = 10 * time.Minute }
