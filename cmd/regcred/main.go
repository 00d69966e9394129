// SPDX-License-Identifier: MPL-2.0

// Command regcred is the client of the regcred secrets engine. For the machines that
// pull images it is a kubelet credential provider and a Docker credential helper. For
// whoever sets the engine up, it imports the pull secrets that there are.
//
// It is called as "regcred <command>", or by the name that its caller looks for:
// regcred-credential-provider by the kubelet, docker-credential-regcred by Docker.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"vault-plugin-secrets-regcred/cmd/regcred/client"
	"vault-plugin-secrets-regcred/cmd/regcred/docker"
	"vault-plugin-secrets-regcred/cmd/regcred/importer"
	"vault-plugin-secrets-regcred/cmd/regcred/install"
	"vault-plugin-secrets-regcred/cmd/regcred/kubelet"
)

// version is set by the build: -ldflags="-X main.version=v1.2.3".
var version = "v0.0.0-dev"

// process is what a command has of its process.
type process struct {
	name           string // by which it was called, such as docker-credential-regcred-work
	stdin          io.Reader
	stdout, stderr io.Writer
}

// command is one of "regcred <command>".
type command struct {
	name    string
	summary string
	help    string
	program string // the name by which the command is called without naming it
	run     func(ctx context.Context, p process, args []string) error
}

// commands returns all commands, in the order of the help.
func commands() []command {
	return []command{
		{"kubelet", "answer the kubelet as its credential provider", kubeletHelp, kubelet.Program, runKubelet},
		{"docker", "answer Docker, podman and others as their credential helper", dockerHelp, docker.Program, runDocker},
		{"check", "do the same step by step, and say what goes wrong", checkHelp, "", runCheck},
		{"import", "bring pull secrets of a KV engine or a cluster into roles", importHelp, "", runImport},
		{"install", "put the kubelet provider onto a node", installHelp, "", runInstall},
	}
}

// errFailed says that the command has said everything already.
const errFailed = exitStatus(1)

// exitStatus is an error of which the command has said everything already.
type exitStatus int

func (exitStatus) Error() string { return "failed" }

func main() {
	os.Exit(run(context.Background(), os.Args, process{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}))
}

// run returns the exit status: 1 if the command failed, or what the command says.
func run(ctx context.Context, args []string, p process) (status int) {
	defer func() {
		// A panic's value may hold what was being worked on.
		if recover() != nil {
			_, _ = fmt.Fprintln(p.stderr, "regcred: an internal error")
			status = 2
		}
	}()
	err := dispatch(ctx, args, p)
	var said exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &said):
		return int(said)
	default:
		_, _ = fmt.Fprintln(p.stderr, "regcred: "+client.Line(err))
		return 1
	}
}

func dispatch(ctx context.Context, args []string, p process) error {
	p.name = client.ProgramName(args[0])
	args = args[1:]
	if len(args) == 1 && (args[0] == "-version" || args[0] == "--version") {
		_, err := fmt.Fprintln(p.stdout, version)
		return err
	}
	for _, c := range commands() {
		if c.program != "" && (p.name == c.program || client.Instance(p.name, c.program) != "") {
			return c.run(ctx, p, args)
		}
	}
	if len(args) == 0 {
		return help(p.stdout, nil)
	}
	switch name := args[0]; name {
	case "help", "-h", "-help", "--help":
		return help(p.stdout, args[1:])
	default:
		for _, c := range commands() {
			if c.name == name {
				p.name = c.program
				return c.run(ctx, p, args[1:])
			}
		}
		return &client.Failure{What: fmt.Sprintf("there is no command %q", name), Do: "\"regcred help\" lists them"}
	}
}

func runKubelet(ctx context.Context, p process, args []string) error {
	if asksForHelp(args) {
		return help(p.stdout, []string{"kubelet"})
	}
	return kubelet.Serve(ctx, p.name, args, p.stdin, p.stdout)
}

func runDocker(ctx context.Context, p process, args []string) error {
	if len(args) != 1 || asksForHelp(args) {
		return help(p.stdout, []string{"docker"})
	}
	ctx, cancel := context.WithTimeout(ctx, client.MaxTimeout)
	defer cancel()
	if !docker.Serve(ctx, p.name, version, args[0], p.stdin, p.stdout, p.stderr) {
		return errFailed
	}
	return nil
}

func runCheck(ctx context.Context, p process, args []string) error {
	what := ""
	if len(args) > 0 {
		what = args[0]
	}
	steps := &client.Steps{Out: p.stdout}
	switch {
	case asksForHelp(args):
		return help(p.stdout, []string{"check"})
	case what == "kubelet":
		kubelet.Check(ctx, kubelet.Program, args[1:], p.stdin, steps)
	case what == "docker" && len(args) == 2:
		ctx, cancel := context.WithTimeout(ctx, client.MaxTimeout)
		defer cancel()
		docker.Check(ctx, docker.Program, args[1], steps)
	default:
		return &client.Failure{What: "check takes \"kubelet\" and its flags, or \"docker\" and a registry", Do: "see \"regcred help check\""}
	}
	if steps.Failed() {
		return errFailed
	}
	return nil
}

func runImport(ctx context.Context, p process, args []string) error {
	if len(args) == 0 || asksForHelp(args) {
		return help(p.stdout, []string{"import"})
	}
	status, err := importer.Run(ctx, args, p.stdout)
	if err == nil && status != importer.StatusDone {
		err = exitStatus(status)
	}
	return err
}

func runInstall(ctx context.Context, p process, args []string) error {
	if asksForHelp(args) {
		return help(p.stdout, []string{"install"})
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return install.Run(ctx, args, version, p.stdout)
}

func asksForHelp(args []string) bool {
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") && strings.Trim(arg, "-") == "help" || arg == "-h" {
			return true
		}
	}
	return false
}
