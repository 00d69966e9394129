// SPDX-License-Identifier: MPL-2.0

// Command pause is the program in the containers of the tests: it prints its
// arguments and waits for a signal to end.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	fmt.Println(strings.Join(os.Args[1:], " "))
	<-end
}
