// SPDX-License-Identifier: MPL-2.0

package dockerconfig_test

import (
	"strings"
	"testing"

	"vault-plugin-secrets-regcred/backend/dockerconfig"
)

const (
	storedAsHub = `stored as "https://index.docker.io/v1/", under which kubelet, Docker, podman, skopeo and crane find Docker Hub`

	longestHost = 253
	longestPath = 255
)

// hostOf returns a valid host name of n bytes; n must be odd.
func hostOf(n int) string { return strings.Repeat("a.", n/2) + "a" }

func storedAs(key string) string { return `stored as "` + key + `"` }

func limitedToPath(key, path, host string) string {
	return `"` + key + `" is limited to a path: kubelet matches it as a plain string prefix (` + path +
		`-other too), podman and skopeo path by path, and Docker takes the credential for the whole host ` + host
}

func defaultPort(key, port, host string) string {
	return `"` + key + `" has the port ` + port + `, and kubelet compares ports: it finds no credential for images without the port, such as ` + host + `/app; leave it out unless your images have it too`
}

func onlyKubelet(key string) string { return onlyKubeletBelow(key, "") }

func onlyKubeletBelow(key, prefix string) string {
	return `"` + key + `" has a '*', which only kubelet matches (one '*' never reaches over a '.'` + prefix + `): it sends the credential to every such host that an image names; Docker, podman, skopeo and crane find none under it`
}

func noImageName(key, host string) string {
	return `"` + key + `" has neither a '.' nor a port, so image names cannot refer to it: ` + host + `/app means docker.io/` + host + `/app`
}

func noPortOnIPv6(key, host string) string {
	return `"` + key + `" is an IPv6 address without a port, which kubelet never matches (it takes the brackets for a pattern); with a port, such as ` + host + `:5000, it does`
}

func TestParseKeyStoresOneFormAndTellsWhatItChanged(t *testing.T) {
	type row struct {
		input    string
		want     dockerconfig.Key
		warnings []string
	}
	rows := []row{
		{"registry.example.com", "registry.example.com", nil},
		{"registry.example.com:5000", "registry.example.com:5000", nil},
		{"registry.example.com:1", "registry.example.com:1", nil},
		{"registry.example.com:65535", "registry.example.com:65535", nil},
		{"registry.example.com:443", "registry.example.com:443", []string{defaultPort("registry.example.com:443", "443", "registry.example.com")}},
		{"registry.example.com:80", "registry.example.com:80", []string{defaultPort("registry.example.com:80", "80", "registry.example.com")}},
		{"registry.example.com:4430", "registry.example.com:4430", nil},
		{"123456789012.dkr.ecr.eu-central-1.amazonaws.com", "123456789012.dkr.ecr.eu-central-1.amazonaws.com", nil},
		{"xn--bcher-kva.example", "xn--bcher-kva.example", nil},
		{"a--b.example.com", "a--b.example.com", nil},
		{"127.0.0.1:5000", "127.0.0.1:5000", nil},
		{"[::1]:5000", "[::1]:5000", nil},
		{"[2001:db8::1]:443", "[2001:db8::1]:443", []string{defaultPort("[2001:db8::1]:443", "443", "[2001:db8::1]")}},
		{"localhost", "localhost", nil},
		{"localhost:5000", "localhost:5000", nil},
		{"v1.example.com", "v1.example.com", nil},
		{hostOf(longestHost), dockerconfig.Key(hostOf(longestHost)), nil},

		{"[::1]", "[::1]", []string{noPortOnIPv6("[::1]", "[::1]")}},
		{"registry", "registry", []string{noImageName("registry", "registry")}},
		{"registry:5000", "registry:5000", nil},

		{"registry.example.com/team", "registry.example.com/team", []string{
			limitedToPath("registry.example.com/team", "team", "registry.example.com"),
		}},
		{"registry.example.com:5000/team/sub-team_a.b__c", "registry.example.com:5000/team/sub-team_a.b__c", []string{
			limitedToPath("registry.example.com:5000/team/sub-team_a.b__c", "team/sub-team_a.b__c", "registry.example.com:5000"),
		}},
		{"registry.example.com/team/v1", "registry.example.com/team/v1", []string{
			limitedToPath("registry.example.com/team/v1", "team/v1", "registry.example.com"),
		}},
		{"registry.example.com/v3", "registry.example.com/v3", []string{
			limitedToPath("registry.example.com/v3", "v3", "registry.example.com"),
		}},
		{"registry.example.com/v1x", "registry.example.com/v1x", []string{
			limitedToPath("registry.example.com/v1x", "v1x", "registry.example.com"),
		}},
		{"https://Registry.Example.com/V2/Team/", "registry.example.com/team", []string{
			storedAs("registry.example.com/team"),
			limitedToPath("registry.example.com/team", "team", "registry.example.com"),
		}},
		{"localhost/team", "localhost/team", []string{limitedToPath("localhost/team", "team", "localhost")}},
		{"registry/team", "registry/team", []string{
			limitedToPath("registry/team", "team", "registry"), noImageName("registry/team", "registry"),
		}},
		{"[::1]/team", "[::1]/team", []string{
			limitedToPath("[::1]/team", "team", "[::1]"), noPortOnIPv6("[::1]/team", "[::1]"),
		}},
		{"registry.example.com/" + strings.Repeat("a", longestPath), dockerconfig.Key("registry.example.com/" + strings.Repeat("a", longestPath)), []string{
			limitedToPath("registry.example.com/"+strings.Repeat("a", longestPath), strings.Repeat("a", longestPath), "registry.example.com"),
		}},

		{"*.example.com", "*.example.com", []string{onlyKubelet("*.example.com")}},
		{"reg-*.example.com:5000", "reg-*.example.com:5000", []string{onlyKubelet("reg-*.example.com:5000")}},
		{"*.Example.com/team", "*.example.com/team", []string{
			storedAs("*.example.com/team"),
			onlyKubeletBelow("*.example.com/team", ", with the path as a plain string prefix (team-other too)"),
		}},

		// Docker looks up only DockerHub, so it never uses the key of a path there.
		{"index.docker.io/team", "docker.io/team", []string{
			storedAs("docker.io/team"),
			`"docker.io/team" is limited to a path: kubelet matches it as a plain string prefix (team-other too), podman and skopeo path by path, and Docker finds no credential for Docker Hub under it`,
		}},
		// No image name has Docker Hub's port.
		{"docker.io:443", dockerconfig.DockerHub, []string{storedAsHub}},
		{"https://index.docker.io:443/v1/", dockerconfig.DockerHub, []string{storedAsHub}},
		{"docker.io:5000", "docker.io:5000", nil},
		// The paths of its web site are no paths of images.
		{"https://hub.docker.com/r/acme/app", dockerconfig.DockerHub, []string{storedAsHub}},
		{"https://docker.com", dockerconfig.DockerHub, []string{storedAsHub}},
		{"hub.docker.com/_/nginx", dockerconfig.DockerHub, []string{storedAsHub}},
		{"https://hub.docker.com/repository/docker/acme/app/general", dockerconfig.DockerHub, []string{storedAsHub}},
		// From a file.
		{"registry.example.com\n", "registry.example.com", []string{storedAs("registry.example.com")}},
		{"registry.example.com\r\n", "registry.example.com", []string{storedAs("registry.example.com")}},
		{"notdocker.io", "notdocker.io", nil},
		{"https://index.docker.io/v1/", dockerconfig.DockerHub, nil},
	}
	for _, input := range []string{
		"https://Registry.Example.com/", "http://registry.example.com", "HTTPS://registry.example.com",
		"registry.example.com/", "registry.example.com//", "REGISTRY.EXAMPLE.COM",
		"registry.example.com/v1", "registry.example.com/v1/", "registry.example.com/v2", "registry.example.com/v2/",
		"https://registry.example.com/v1/", "https://registry.example.com/v2", "https://registry.example.com/v1/v2/",
	} {
		rows = append(rows, row{input, "registry.example.com", []string{storedAs("registry.example.com")}})
	}
	for _, host := range []string{"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "Docker.IO"} {
		for _, scheme := range []string{"", "https://", "http://"} {
			for _, end := range []string{"", "/", "/v1", "/v1/", "/v2", "/v2/"} {
				if input := scheme + host + end; input != string(dockerconfig.DockerHub) {
					rows = append(rows, row{input, dockerconfig.DockerHub, []string{storedAsHub}})
				}
			}
		}
	}
	for _, row := range rows {
		t.Run(row.input, func(t *testing.T) {
			key, warnings, err := dockerconfig.ParseKey(row.input)
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			wantEqual(t, "key", row.want, key)
			wantWarnings(t, row.warnings, warnings)
		})
	}
}

func TestParseKeyRefusesWhatIsNoRegistry(t *testing.T) {
	const example = "such as registry.example.com"
	rows := map[string]struct {
		inputs []string
		refusal
	}{
		"a session":        {[]string{"https://index.docker.io/v1/access-token", "docker.io/refresh-token"}, refusal{"must not be the place where docker login keeps the session of a person", "give docker.io"}},
		"empty":            {[]string{""}, refusal{"must not be empty", example}},
		"no host":          {[]string{"https://", "/", "/team", "https:///v1/", "//registry.example.com", ":5000/team"}, refusal{"must have a host", example}},
		"user info":        {[]string{"user:" + marker + "@registry.example.com", "https://user:" + marker + "@registry.example.com/v1/", "https://" + marker + "@registry.example.com", "registry.example.com/" + marker + "@x"}, refusal{"must not contain '@'", "without user name, password"}},
		"image digest":     {[]string{"registry.example.com/app@sha256:0123"}, refusal{"must not contain '@'", "or image digest"}},
		"query":            {[]string{"https://registry.example.com/?token=" + marker, "registry.example.com?" + marker}, refusal{"a query or a fragment", example}},
		"fragment":         {[]string{"registry.example.com#" + marker}, refusal{"a query or a fragment", example}},
		"white space":      {[]string{" registry.example.com", "registry.example.com\n\n", "registry.example.com\n ", "registry. example.com", "registry.example.com\u00a0", "registry.example.com\u2028"}, refusal{"white space or control characters", "must not contain"}},
		"control":          {[]string{"registry\x00.example.com", "registry.example.com\x7f", "registry.example.com\u0085", "\x1bregistry.example.com"}, refusal{"white space or control characters", "must not contain"}},
		"not UTF-8":        {[]string{"registry\xff.example.com"}, refusal{"must be UTF-8", "UTF-8"}},
		"bad port":         {[]string{"registry.example.com:", "registry.example.com:0", "registry.example.com:00", "registry.example.com:080", "registry.example.com:65536", "registry.example.com:+80", "registry.example.com:-1", "registry.example.com:*", "registry.example.com:5_0", "registry.example.com:" + marker, "[::1]:", "[::1]:65536", "https://https://registry.example.com"}, refusal{"must have a port from 1 to 65535", "registry.example.com:5000"}},
		"tag":              {[]string{"registry.example.com:latest"}, refusal{"an image's tag does not belong here", "registry.example.com:5000"}},
		"other scheme":     {[]string{"ftp://registry.example.com", "oci://registry.example.com", "docker://registry.example.com", "://registry.example.com", marker + "://registry.example.com"}, refusal{"must have no scheme", example}},
		"bare IPv6":        {[]string{"::1", "2001:db8::1", "a:1:2", "[::1"}, refusal{"must have an IPv6 address in brackets", "[::1]:5000"}},
		"broken IPv6":      {[]string{"[]", "[]:5000", "[::g]", "[1.2.3.4]", "[::1%eth0]:5000", "[::ffff:1.2.3.4]", "[:::]", "[*]", "[::1]]:5000"}, refusal{"must have a valid IPv6 address between the brackets", "[::1]:5000"}},
		"text behind IPv6": {[]string{"[::1]5000", "[::1]x"}, refusal{"must have only a port after the IPv6 address", "[::1]:5000"}},
		"no host name":     {[]string{"-registry.example.com", "registry-.example.com", "registry..example.com", ".example.com", "registry.example.com.", "registry_1.example.com", "registry.example.com,other", "(registry)", "registry.ex%61mple.com", "registry.example.com\\team", "*-.example.com", "!"}, refusal{"must have a host of letters, digits, '-' and '.'", example}},
		"long host":        {[]string{"a" + hostOf(longestHost), hostOf(longestHost + 2)}, refusal{"must have a host of at most", "253 bytes"}},
		// Lower case turns each of these three into an ASCII letter.
		"look-alike":       {[]string{"doc\u212aer.io", "ghcr.\u0130o", "registry.example.com/\u212aube"}, refusal{"must not contain letters other than a to z", "xn-- form"}},
		"international":    {[]string{"bücher.example", "ｒegistry.example.com", "registry。example.com", "registry.example.com:５０００", "registry.example.com/café", "regi\ufffdstry.example.com"}, refusal{"must not contain letters other than a to z", "xn-- form"}},
		"'*' in the path":  {[]string{"registry.example.com/*", "registry.example.com/team/*", "docker.io/*", "registry.example.com/te*m"}, refusal{"must not have '*' in its path", "name the path in front of the '*'"}},
		"image with a tag": {[]string{"registry.example.com/app:1.0", "registry.example.com/v2/app:latest"}, refusal{"must be a registry, not an image", "leave out the tag"}},
		"bad path":         {[]string{"registry.example.com/a//b", "registry.example.com/-a", "registry.example.com/a-", "registry.example.com/.", "registry.example.com/../x", "registry.example.com/a%2fb", "registry.example.com/a\\b", "registry.example.com/a..b", "registry.example.com/a___b", "registry.example.com/[x]", "registry.example.com/" + strings.Repeat("a", longestPath+1)}, refusal{"must have a path as in image names", "registry.example.com/team"}},
	}
	for name, row := range rows {
		for _, input := range row.inputs {
			t.Run(name+" "+input, func(t *testing.T) {
				key, warnings, err := dockerconfig.ParseKey(input)
				row.check(t, err)
				if key != "" || warnings != nil {
					t.Errorf("with the error came %q and warnings %q; want neither", key, warnings)
				}
			})
		}
	}
}

func TestKeyAsItStandsInImageNames(t *testing.T) {
	type parts struct{ ImageName, Host, Path string }
	for key, want := range map[dockerconfig.Key]parts{
		dockerconfig.DockerHub:           {"docker.io", "docker.io", ""},
		"docker.io/team":                 {"docker.io/team", "docker.io", "team"},
		"registry.example.com":           {"registry.example.com", "registry.example.com", ""},
		"registry.example.com:5000/a/b":  {"registry.example.com:5000/a/b", "registry.example.com:5000", "a/b"},
		"[::1]:5000":                     {"[::1]:5000", "[::1]:5000", ""},
		"*.example.com":                  {"*.example.com", "*.example.com", ""},
		"registry.example.com/team/v2/x": {"registry.example.com/team/v2/x", "registry.example.com", "team/v2/x"},
	} {
		wantEqual(t, string(key), want, parts{key.ImageName(), key.Host(), key.Path()})
	}
}
