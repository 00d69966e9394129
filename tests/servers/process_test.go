// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"net"
	"testing"
)

// TestFreeAddrIsNobodyElses asks often enough for a port that a system's choice, or that of
// another test, would repeat one.
func TestFreeAddrIsNobodyElses(t *testing.T) {
	given := map[string]bool{}
	for range 500 {
		addr := FreeAddr(t)
		if given[addr] {
			t.Fatalf("%s was given twice", addr)
		}
		given[addr] = true
	}
	for range 200 { // as a client, or a server at any port, gets one
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		if addr := listener.Addr().String(); given[addr] {
			t.Fatalf("the system gave %s to somebody else", addr)
		}
	}
}
