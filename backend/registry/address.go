// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"golang.org/x/net/http/httpproxy"
)

// metadataAddrs are cloud metadata services that are not at a link-local address.
// They give credentials to anyone who can reach them.
var metadataAddrs = map[netip.Addr]bool{
	netip.MustParseAddr("fd20:ce::254"):    true, // Google Cloud
	netip.MustParseAddr("100.100.100.200"): true, // Alibaba Cloud
	netip.MustParseAddr("192.0.0.192"):     true, // Oracle Cloud
	netip.MustParseAddr("168.63.129.16"):   true, // Azure
}

var (
	broadcast   = netip.MustParseAddr("255.255.255.255")
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")     // Linux takes 0.0.0.0 for loopback
	awsServices = netip.MustParsePrefix("fd00:ec2::/32") // metadata, and credentials of pods

	// embeddings are the prefixes of IPv6 addresses that contain an IPv4 address,
	// and the byte at which it begins.
	embeddings = []struct {
		prefix netip.Prefix
		start  int
	}{
		{netip.MustParsePrefix("::/96"), 12},           // IPv4-compatible
		{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, // IPv4-translated
		{netip.MustParsePrefix("64:ff9b::/96"), 12},    // NAT64
		{netip.MustParsePrefix("64:ff9b:1::/48"), 12},  // NAT64 of the local network
		{netip.MustParsePrefix("2002::/16"), 2},        // 6to4
	}
)

// forbidden reports whether an address is one that no registry has.
func forbidden(addr netip.Addr) bool {
	addr = addr.WithZone("").Unmap()
	switch {
	case !addr.IsValid(), addr.IsUnspecified(), addr.IsMulticast(), addr.IsLinkLocalUnicast(),
		addr == broadcast, thisNetwork.Contains(addr), awsServices.Contains(addr), metadataAddrs[addr]:
		return true
	case addr.Is4(), addr.IsLoopback():
		return false
	}
	bytes := addr.As16()
	for _, e := range embeddings {
		if e.prefix.Contains(addr) && forbidden(netip.AddrFrom4([4]byte(bytes[e.start:e.start+4]))) {
			return true
		}
	}
	return false
}

// Dial connects to an address, unless it resolves to one that no registry has, such as
// that of a cloud metadata service. A name of this machine must resolve to this machine,
// because plain http is accepted for it.
func Dial(ctx context.Context, dialer net.Dialer, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	ofThisMachine := err == nil && IsLoopback(host)
	dialer.Control = func(_, resolved string, _ syscall.RawConn) error {
		if ofThisMachine && !isLoopbackAddress(resolved) {
			return failf(Unreachable, "%s is a name of this machine and leads to %s; nothing was sent there", untrusted(host), resolved)
		}
		return refuseForbidden(resolved)
	}
	return dialer.DialContext(ctx, network, address)
}

func refuseForbidden(address string) error {
	parsed, err := netip.ParseAddrPort(address)
	if err != nil || forbidden(parsed.Addr()) {
		return failf(Unreachable, "%s is an address that no registry has; nothing was sent there", address)
	}
	return nil
}

func isLoopbackAddress(address string) bool {
	parsed, err := netip.ParseAddrPort(address)
	return err == nil && parsed.Addr().Unmap().IsLoopback()
}

// ProxyFromEnvironment returns a Proxy function for an [http.Transport], which follows
// the environment. It names no proxy for this machine under any of its names: a proxy
// is another machine, and plain http would give it the credential.
func ProxyFromEnvironment() func(*http.Request) (*url.URL, error) {
	proxyFor := httpproxy.FromEnvironment().ProxyFunc()
	return func(r *http.Request) (*url.URL, error) {
		if IsLoopback(r.URL.Hostname()) {
			return nil, nil
		}
		return proxyFor(r.URL)
	}
}

// CheckURL refuses the addresses that [Dial] refuses if they stand in a URL, because
// with a proxy the dialer sees only the proxy's address. It refuses numbers that are not
// an address in the usual form ("2852039166", "0xa9.0xfe.43518"), because some
// resolvers turn them into one.
func CheckURL(u *url.URL) error {
	host := u.Hostname()
	addr, err := netip.ParseAddr(host)
	if err == nil && !forbidden(addr) {
		return nil
	}
	if err != nil && !endsInNumber(host) {
		return nil
	}
	return failf(Unreachable, "%s is an address that no registry has; nothing was sent there", untrusted(u.Host))
}

// endsInNumber is the rule by which browsers tell addresses from names.
func endsInNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
	digits := "0123456789"
	if rest, hex := strings.CutPrefix(last, "0x"); hex {
		last, digits = "0"+rest, "0123456789abcdef"
	}
	return last == "" || strings.Trim(last, digits) == ""
}
