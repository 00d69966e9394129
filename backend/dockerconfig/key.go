// SPDX-License-Identifier: MPL-2.0

package dockerconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/distribution/reference"
)

// Key is a normalised key of "auths" in a Docker config: host, host:port or host/path
// in lower case, or [DockerHub].
type Key string

const (
	// DockerHub is the only key under which kubelet, Docker, BuildKit, crane,
	// kaniko, podman and skopeo all find the credential for Docker Hub.
	DockerHub Key = "https://index.docker.io/v1/"

	// dockerHubHost is Docker Hub's host in image names.
	dockerHubHost = "docker.io"

	// maxHostLength is the longest host name that DNS allows, in bytes.
	maxHostLength = 253
)

// dockerHubHosts are the hosts that mean Docker Hub: in image names, in Docker's
// oldest configs, of its API, and of its web sites.
var dockerHubHosts = map[string]bool{
	dockerHubHost:             true,
	"index.docker.io":         true,
	"registry-1.docker.io":    true,
	"registry.hub.docker.com": true,
	"hub.docker.com":          true,
	"docker.com":              true,
}

// dockerHubSites are web sites. Their paths are no paths of images.
var dockerHubSites = map[string]bool{"hub.docker.com": true, "docker.com": true}

// ParseKey normalises a registry as people write it: a host with or without scheme,
// port, path or API version ("https://Registry.Example.com/v2/"). The warnings say
// what was changed, and which tools will not match the key.
func ParseKey(input string) (Key, []string, error) {
	key, warnings, err := parseKey(input)
	if err == nil && key.isSession() {
		return "", nil, errors.New("must not be the place where docker login keeps the session of a person; give docker.io for Docker Hub")
	}
	return key, warnings, err
}

// isSession reports whether docker login keeps a token of a person's session under the
// key, which no tool pulls with.
func (k Key) isSession() bool {
	return k == dockerHubHost+"/access-token" || k == dockerHubHost+"/refresh-token"
}

func parseKey(input string) (Key, []string, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(input, "\n"), "\r") // from a file
	if err := checkKeyText(text); err != nil {
		return "", nil, err
	}
	authority, err := cutScheme(text)
	if err != nil {
		return "", nil, err
	}
	host, path, _ := strings.Cut(authority, "/")
	host = strings.ToLower(host)
	if err := checkHost(host); err != nil {
		return "", nil, err
	}
	if name, isDefault := strings.CutSuffix(host, ":443"); isDefault && dockerHubHosts[name] {
		host = name // no image name has Docker Hub's port
	}
	if dockerHubSites[host] {
		return DockerHub, keyWarnings(input, DockerHub), nil
	}
	path, err = normalisePath(path)
	if err != nil {
		return "", nil, err
	}

	key := Key(host)
	switch {
	case dockerHubHosts[host] && path == "":
		key = DockerHub
	case dockerHubHosts[host]:
		key = Key(dockerHubHost + "/" + path)
	case path != "":
		key = Key(host + "/" + path)
	}
	return key, keyWarnings(input, key), nil
}

// ImageName returns the registry's form in image names: the key itself, or docker.io
// for [DockerHub].
func (k Key) ImageName() string {
	if k == DockerHub {
		return dockerHubHost
	}
	return string(k)
}

// Host returns the host, and its port if there is one, in the form of image names.
func (k Key) Host() string {
	host, _, _ := strings.Cut(k.ImageName(), "/")
	return host
}

// HostAndPort returns the parts of [Key.Host]. The port is "" if there is none.
func (k Key) HostAndPort() (host, port string) {
	host = k.Host()
	if colon := strings.LastIndexByte(host, ':'); colon > strings.LastIndexByte(host, ']') {
		return host[:colon], host[colon+1:]
	}
	return host, ""
}

// Path returns the repository path that the key is limited to, "" for the whole
// registry.
func (k Key) Path() string {
	_, path, _ := strings.Cut(k.ImageName(), "/")
	return path
}

func checkKeyText(input string) error {
	switch {
	case input == "":
		return errors.New("must not be empty; give the registry's host, such as registry.example.com")
	case !utf8.ValidString(input):
		return errors.New("must be UTF-8")
	case strings.ContainsFunc(input, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return errors.New("must not contain white space or control characters, except one newline at the end of a file")
	case strings.Contains(input, "@"):
		return errors.New("must not contain '@': give only the registry, such as registry.example.com, without user name, password or image digest")
	case strings.ContainsAny(input, "?#"):
		return errors.New("must not contain a query or a fragment ('?', '#'); give only the registry, such as registry.example.com")
	case strings.ContainsFunc(input, func(r rune) bool { return r > unicode.MaxASCII }):
		// Lower case turns some letters into ASCII, such as the Kelvin sign into k.
		// A look-alike name would then become the registry that it imitates.
		return errors.New("must not contain letters other than a to z, such as registry.example.com; write an international domain name in its xn-- form")
	}
	return nil
}

func cutScheme(input string) (string, error) {
	scheme, rest, found := strings.Cut(input, "://")
	if !found {
		return input, nil
	}
	switch strings.ToLower(scheme) {
	case "https", "http":
		return rest, nil
	}
	return "", errors.New("must have no scheme other than https:// or http://; give only the registry, such as registry.example.com")
}

// checkHost accepts what an image name can have before its first slash, and '*' in
// it.
func checkHost(hostport string) error {
	host, port, hasPort := strings.Cut(hostport, ":")
	if end := strings.LastIndexByte(hostport, ']'); strings.HasPrefix(hostport, "[") && end > 0 {
		host, port = hostport[:end+1], hostport[end+1:]
		if port, hasPort = strings.CutPrefix(port, ":"); !hasPort && port != "" {
			return errors.New("must have only a port after the IPv6 address, such as [::1]:5000")
		}
		if addr, err := netip.ParseAddr(host[1:end]); err != nil || !addr.Is6() || addr.Zone() != "" || addr.Is4In6() {
			return errors.New("must have a valid IPv6 address between the brackets, such as [::1]:5000")
		}
	} else if strings.Contains(port, ":") {
		return errors.New("must have an IPv6 address in brackets, such as [::1]:5000")
	}

	if host == "" {
		return errors.New("must have a host, such as registry.example.com")
	}
	if len(host) > maxHostLength {
		return fmt.Errorf("must have a host of at most %d bytes", maxHostLength)
	}
	if hasPort && !validPort(port) {
		return errors.New("must have a port from 1 to 65535 after the ':', such as registry.example.com:5000; an image's tag does not belong here")
	}
	literal := strings.ReplaceAll(hostport, "*", "x")
	if named, err := reference.WithName(literal + "/x"); err != nil || reference.Domain(named) != literal {
		return errors.New("must have a host of letters, digits, '-' and '.', as in image names, such as registry.example.com; write an international domain name in its xn-- form")
	}
	return nil
}

// cutPort cuts the port off a host.
func cutPort(hostport string) (host, port string, found bool) {
	at := strings.LastIndexByte(hostport, ':')
	if at < 0 || strings.HasSuffix(hostport, "]") {
		return hostport, "", false
	}
	return hostport[:at], hostport[at+1:], true
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && port[0] != '0' && port[0] != '+'
}

// normalisePath removes an API version at the start, as kubelet does, and converts to
// lower case, because repositories have no upper case.
func normalisePath(path string) (string, error) {
	path = strings.ToLower(strings.Trim(path, "/"))
	for {
		first, rest, _ := strings.Cut(path, "/")
		if first != "v1" && first != "v2" {
			break
		}
		path = strings.Trim(rest, "/")
	}
	switch {
	case path == "":
		return "", nil
	case strings.Contains(path, "*"):
		return "", errors.New("must not have '*' in its path: every tool takes the path literally; name the path in front of the '*', such as registry.example.com/team")
	case strings.Contains(path, ":"):
		return "", errors.New("must be a registry, not an image: leave out the tag")
	}
	if _, err := reference.WithName("registry.invalid/" + path); err != nil {
		return "", errors.New("must have a path as in image names (parts of letters and digits, with '.', '_' or '-' between them, at most 255 bytes), such as registry.example.com/team")
	}
	return path, nil
}

func keyWarnings(input string, key Key) []string {
	var warnings []string
	if input != string(key) {
		reason := ""
		if key == DockerHub {
			reason = ", under which kubelet, Docker, podman, skopeo and crane find Docker Hub"
		}
		warnings = append(warnings, fmt.Sprintf("stored as %q%s", key, reason))
	}
	host, path := key.Host(), key.Path()
	switch {
	case strings.Contains(host, "*"):
		prefix := ""
		if path != "" {
			prefix = fmt.Sprintf(", with the path as a plain string prefix (%s-other too)", path)
		}
		warnings = append(warnings, fmt.Sprintf("%q has a '*', which only kubelet matches (one '*' never reaches over a '.'%s): it sends the credential to every such host that an image names; Docker, podman, skopeo and crane find none under it", key, prefix))
	case path != "":
		docker := "takes the credential for the whole host " + host
		if host == dockerHubHost {
			docker = "finds no credential for Docker Hub under it"
		}
		warnings = append(warnings, fmt.Sprintf("%q is limited to a path: kubelet matches it as a plain string prefix (%s-other too), podman and skopeo path by path, and Docker %s", key, path, docker))
	}
	if name, port, _ := cutPort(host); port == "443" || port == "80" {
		warnings = append(warnings, fmt.Sprintf("%q has the port %s, and kubelet compares ports: it finds no credential for images without the port, such as %s/app; leave it out unless your images have it too", key, port, name))
	}
	if strings.HasSuffix(host, "]") {
		warnings = append(warnings, fmt.Sprintf("%q is an IPv6 address without a port, which kubelet never matches (it takes the brackets for a pattern); with a port, such as %s:5000, it does", key, host))
	}
	if !strings.ContainsAny(host, ".:*[") && host != "localhost" {
		warnings = append(warnings, fmt.Sprintf("%q has neither a '.' nor a port, so image names cannot refer to it: %s/app means docker.io/%s/app", key, host, host))
	}
	return warnings
}
