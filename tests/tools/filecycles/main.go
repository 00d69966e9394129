// SPDX-License-Identifier: MPL-2.0

// Command filecycles prints which files of a Go package name each other in a
// circle, and fails if there are any:
//
//	filecycles -hub=backend ../backend
//
// File a names file b if a declaration in a uses a package-level declaration,
// a method or a field of b. Such a graph without cycles can be read top down:
// to understand a file, a reader needs only the files below it.
//
// -hub names a struct type that all files share, as the receiver of most
// methods. The type and its fields don't count; its methods do. Test files
// don't count.
package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/types"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	log.SetFlags(0)
	hub := flag.String("hub", "", "struct `type` that all files share, which does not count")
	verbose := flag.Bool("v", false, "print the files in order, each after the files that name it")
	why := flag.Bool("why", false, "print what the files of a cycle name of each other")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: filecycles [-hub=type] [-v] [-why] <folder>")
	}
	graph, err := load(flag.Arg(0), *hub)
	if err != nil {
		log.Fatal(err)
	}
	order, cycles := graph.components()
	if *verbose {
		fmt.Println(strings.Join(order, "\n"))
	}
	for _, cycle := range cycles {
		fmt.Printf("%s: files that name each other in a circle: %s\n", flag.Arg(0), strings.Join(cycle, ", "))
		if *why {
			graph.explain(cycle)
		}
	}
	fmt.Printf("%s: %d cycles between %d files\n", flag.Arg(0), len(cycles), len(graph))
	if len(cycles) > 0 {
		os.Exit(1)
	}
}

// graph holds what each file names: by file, the files below it, and of each
// the declarations that are named.
type graph map[string]map[string][]string

// load returns the graph of the package in a folder.
func load(folder, hub string) (graph, error) {
	loaded, err := packages.Load(&packages.Config{
		Dir:  folder,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports | packages.NeedDeps,
	}, ".")
	if err != nil {
		return nil, err
	}
	pkg := loaded[0]
	if len(pkg.Errors) > 0 {
		return nil, fmt.Errorf("%s: %w", folder, pkg.Errors[0])
	}
	shared := map[types.Object]bool{}
	if hub != "" {
		object := pkg.Types.Scope().Lookup(hub)
		if object == nil {
			return nil, fmt.Errorf("%s: has no type %q", folder, hub)
		}
		shared[object] = true
		if fields, ok := object.Type().Underlying().(*types.Struct); ok {
			for field := range fields.Fields() {
				shared[field] = true
			}
		}
	}

	found := graph{}
	for _, file := range pkg.Syntax {
		from := filepath.Base(pkg.Fset.Position(file.Pos()).Filename)
		found[from] = map[string][]string{}
		ast.Inspect(file, func(n ast.Node) bool {
			name, ok := n.(*ast.Ident)
			if !ok {
				return true
			}
			used := pkg.TypesInfo.Uses[name]
			if used == nil || used.Pkg() != pkg.Types || shared[used] {
				return true
			}
			to := filepath.Base(pkg.Fset.Position(used.Pos()).Filename)
			if to != from && !slices.Contains(found[from][to], used.Name()) {
				found[from][to] = append(found[from][to], used.Name())
			}
			return true
		})
	}
	return found, nil
}

// components returns the files, each after those that name it, and the groups
// of files that name each other in a circle (Tarjan's algorithm).
func (g graph) components() (order []string, cycles [][]string) {
	index, low := map[string]int{}, map[string]int{}
	var stack []string
	var visit func(string)
	visit = func(file string) {
		index[file] = len(index) + 1
		low[file] = index[file]
		stack = append(stack, file)
		for _, to := range slices.Sorted(maps.Keys(g[file])) {
			if index[to] == 0 {
				visit(to)
				low[file] = min(low[file], low[to])
			} else if slices.Contains(stack, to) {
				low[file] = min(low[file], index[to])
			}
		}
		if low[file] != index[file] {
			return
		}
		start := slices.Index(stack, file)
		component := slices.Clone(stack[start:])
		stack = stack[:start]
		order = append(order, component...)
		if len(component) > 1 {
			slices.Sort(component)
			cycles = append(cycles, component)
		}
	}
	for _, file := range slices.Sorted(maps.Keys(g)) {
		if index[file] == 0 {
			visit(file)
		}
	}
	slices.Reverse(order)
	return order, cycles
}

// explain prints what the files of a cycle name of each other.
func (g graph) explain(cycle []string) {
	for _, from := range cycle {
		for _, to := range cycle {
			if names := g[from][to]; len(names) > 0 {
				slices.Sort(names)
				fmt.Printf("  %s names of %s: %s\n", from, to, strings.Join(names, ", "))
			}
		}
	}
}
