// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

func TestParseRepository(t *testing.T) {
	for _, row := range []struct{ input, want string }{
		{"app", "app"},
		{"app:1.4", "app:1.4"},
		{"group/app", "group/app"},
		{"group/app:1.4", "group/app:1.4"},
		{"group/sub/app:V1_a-b.c", "group/sub/app:V1_a-b.c"},
		{"group/app@" + sha, "group/app@" + sha},
		{"group/app:1.4@" + sha, "group/app@" + sha},
		{"jane.doe/project/app", "jane.doe/project/app"},
		{"a__b/c--d/e.f", "a__b/c--d/e.f"},
		{strings.Repeat("a", 255), strings.Repeat("a", 255)},
	} {
		if got, err := ParseRepository(row.input); got != row.want || err != nil {
			t.Errorf("%s: got %q, %v; want %q", row.input, got, err, row.want)
		}
	}
}

func TestParseRepositoryRefuses(t *testing.T) {
	for _, row := range []struct{ input, part string }{
		{"", "must not be empty"},
		{"Group/app", "must be in lower case"},
		{"registry.example.com:5000/app", "must not have a registry in front"},
		{"localhost/app", "must not have a registry in front"},
		{"[::1]:5000/app", "must not have a registry in front"},
		{"https://registry.example.com/app", "must not be a URL"},
		{"docker://app", "must not be a URL"},
		{"/group/app", "must not start or end with '/'"},
		{"group/app/", "must not start or end with '/'"},
		{"group/*", "not a pattern"},
		{strings.Repeat("a", 256), "at most 255 bytes"},
		{"group//app", "must be a repository"},
		{"group/app:", "must be a repository"},
		{"group/app:-1", "must be a repository"},
		{"group/app:" + strings.Repeat("1", 129), "must be a repository"},
		{"group/app@sha256:123", "must be a repository"},
		{"group/app@md5:d41d8cd98f00b204e9800998ecf8427e", "must be a repository"},
		{"group/../app", "must be a repository"},
		{"group/app ", "must be a repository"},
		{"group/app\n", "must be a repository"},
		{"group/äpp", "must be a repository"},
		{"group/app#x", "must be a repository"},
		{"group/%61pp", "must be a repository"},
	} {
		got, err := ParseRepository(row.input)
		if err == nil || got != "" {
			t.Errorf("%q: got %q; want an error", row.input, got)
			continue
		}
		if !strings.Contains(err.Error(), row.part) || !strings.Contains(err.Error(), "group/app") && row.part != "at most 255 bytes" {
			t.Errorf("%q: error %q; want %q and what would be right", row.input, err, row.part)
		}
	}
}

func FuzzParseRepository(f *testing.F) {
	for _, seed := range []string{"group/app", "group/app:1.4", "app@" + sha, "a:b/c", "../x", "localhost/x", "%2e%2e/x", "x?n=1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		got, err := ParseRepository(input)
		if err != nil {
			if got != "" {
				t.Errorf("%q: got %q with an error", input, got)
			}
			return
		}
		if again, err := ParseRepository(got); err != nil || again != got {
			t.Errorf("%q: %q is not normalised: %q, %v", input, got, again, err)
		}
		// An accepted repository must mean the same in a URL.
		registry, r, err := newTarget(dockerconfig.Key("registry.invalid"), got)
		if err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		s := &session{registry: registry, repository: r, scheme: "https", guard: &guard{}}
		u := s.manifestURL(r.reference())
		want := "https://registry.invalid/v2/" + r.path + "/manifests/" + r.reference()
		if u.String() != want || u.Host != "registry.invalid" || strings.Contains(u.Path, "/../") {
			t.Errorf("%q: URL %s; want %s", input, u, want)
		}
	})
}
