// SPDX-License-Identifier: MPL-2.0

// Command pack packs built programs into the files of a release. The same input
// gives the same bytes: nothing of the machine, the user or the time of day
// gets into them, only the time in $SOURCE_DATE_EPOCH.
//
//	pack archive FILE.tar.gz|FILE.zip PATH...
//	pack image FOLDER FILE.tar VERSION PROGRAM PLATFORM=PATH...
//	pack chart FILE.tgz FOLDER VERSION
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

const usage = "usage: pack archive FILE.tar.gz|FILE.zip PATH... | pack image FOLDER FILE.tar VERSION PROGRAM PLATFORM=PATH... | pack chart FILE.tgz FOLDER VERSION"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH must be seconds since 1970: %w", err)
	}
	at := time.Unix(epoch, 0).UTC()
	switch {
	case len(args) > 2 && args[0] == "archive":
		return writeArchive(args[1], args[2:], at)
	case len(args) > 5 && args[0] == "image":
		img := image{version: args[3], program: args[4], created: at}
		return img.write(args[1], args[2], args[5:])
	case len(args) == 4 && args[0] == "chart":
		return writeChart(args[1], args[2], args[3], at)
	default:
		return fmt.Errorf("%s", usage)
	}
}
