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

// A build with the tag profile can be looked into. If the environment variable
// REGCRED_PROFILE of Vault names a directory, each process of the plugin serves
// what net/http/pprof has, on a Unix socket there that is named after its id:
//
//	curl --unix-socket $REGCRED_PROFILE/4711.sock -o cpu.pprof http://plugin/debug/pprof/profile?seconds=10
//
// A directory, because Vault starts the plugin more than once: to ask for its
// version, and anew after a reload, while the former process still runs.
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
	mux.HandleFunc("/debug/pprof/", pprof.Index) // and all profiles by their names
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // until the process ends
}
