// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"
)

// The versions of a chart that is in no release.
const chartVersion, appVersion = "version: 0.0.0-dev\n", "appVersion: v0.0.0-dev\n"

// writeChart packs a Helm chart, with the version of the release as its own and as
// that of what it installs.
func writeChart(archive, folder, version string, at time.Time) error {
	found, err := filesBelow(folder)
	if err != nil {
		return err
	}
	var files []file
	for _, f := range found {
		if f.mode.IsDir() {
			continue // as Helm packs it
		}
		if f.name == "Chart.yaml" {
			for _, line := range []string{chartVersion, appVersion} {
				if bytes.Count(f.data, []byte("\n"+line)) != 1 {
					return fmt.Errorf("%s/Chart.yaml has no line %q", folder, line)
				}
			}
			f.data = bytes.Replace(f.data, []byte("\n"+chartVersion), []byte("\nversion: "+strings.TrimPrefix(version, "v")+"\n"), 1)
			f.data = bytes.Replace(f.data, []byte("\n"+appVersion), []byte("\nappVersion: "+version+"\n"), 1)
		}
		f.name = filepath.Base(folder) + "/" + f.name
		files = append(files, f)
	}
	return create(archive, func(w io.Writer) error { return writeTarGz(w, files, at) })
}
