// SPDX-License-Identifier: MPL-2.0

// Command docs puts the result of "make bench" into docs/performance.md and
// draws docs/performance.svg.
package main

import (
	"log"
	"os"
	"path/filepath"

	"vault-plugin-secrets-regcred/tests/bench"
	"vault-plugin-secrets-regcred/tests/servers"
)

func main() {
	log.SetFlags(0)
	if err := run(servers.Repo()); err != nil {
		log.Fatal(err)
	}
}

func run(repo string) error {
	result, err := bench.Read(filepath.Join(repo, ".bench", "result.json"))
	if err != nil {
		return err
	}
	file := filepath.Join(repo, "docs", "performance.md")
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text, err := result.Document(string(page))
	if err != nil {
		return err
	}
	plot, err := result.Plot()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(repo, "docs", "performance.svg"), plot, 0o644); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}
