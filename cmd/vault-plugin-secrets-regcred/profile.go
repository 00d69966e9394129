// SPDX-License-Identifier: MPL-2.0

//go:build profile

package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"time"
)

// A build with the tag profile serves its profiles. If Vault's environment
// variable REGCRED_PROFILE names a directory, each process of the plugin serves
// the paths of net/http/pprof on a Unix socket there, named after its process
// id:
//
//	curl --unix-socket $REGCRED_PROFILE/4711.sock -o cpu.pprof http://plugin/debug/pprof/profile?seconds=10
//
// It is a directory because Vault starts the plugin more than once: to ask for
// its version, and again after a reload, while the former process still runs.
const profileVariable = "REGCRED_PROFILE"

func init() {
	dir := os.Getenv(profileVariable)
	if dir == "" {
		return
	}
	listener, err := net.Listen("unix", filepath.Join(dir, fmt.Sprintf("%d.sock", os.Getpid())))
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s must name a directory in which a socket can be made: %v\n", profileVariable, err)
		os.Exit(1)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index) // also serves each profile below it
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // until the process ends
}
