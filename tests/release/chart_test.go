// SPDX-License-Identifier: MPL-2.0

package release

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vault-plugin-secrets-regcred/tests/servers"
)

// TestChart: the packed chart has the files of the repository, and in Chart.yaml the
// version of the release.
func TestChart(t *testing.T) {
	t.Parallel()
	at := commitTime(t)
	want := map[string]member{}
	for name, content := range filesBelow(t, filepath.Join(servers.Repo(), "deploy", "regcred-node")) {
		if name == "Chart.yaml" {
			text := strings.Replace(string(content), "\nversion: 0.0.0-dev\n", "\nversion: "+strings.TrimPrefix(version, "v")+"\n", 1)
			content = []byte(strings.Replace(text, "\nappVersion: v0.0.0-dev\n", "\nappVersion: "+version+"\n", 1))
			if strings.Contains(string(content), "0.0.0-dev") {
				t.Errorf("Chart.yaml: another version stays:\n%s", content)
			}
		}
		want["regcred-node/"+name] = member{0o644, "root:root 0:0", at, sha256Hex(content)}
	}
	if diff := cmp.Diff(want, readTarGz(t, dist(chart))); diff != "" {
		t.Errorf("%s (-want +got):\n%s", chart, diff)
	}
}
