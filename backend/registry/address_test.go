// SPDX-License-Identifier: MPL-2.0

package registry

import (
	"net/netip"
	"net/url"
	"testing"
)

func TestForbiddenAddresses(t *testing.T) {
	for addr, want := range map[string]bool{
		// Addresses of registries.
		"127.0.0.1": false, "127.255.255.254": false, "::1": false,
		"10.0.0.1": false, "172.16.0.1": false, "192.168.1.1": false, "100.64.0.1": false, "fd00::1": false,
		"8.8.8.8": false, "2606:4700::1111": false, "192.0.0.191": false, "169.253.255.255": false, "169.255.0.0": false, "223.255.255.255": false,
		// Loopback and others in IPv6.
		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "64:ff9b::808:808": false, "2002:808:808::1": false, "::8.8.8.8": false,

		"0.0.0.0": true, "0.0.0.1": true, "0.255.255.255": true, "::": true, "255.255.255.255": true,
		"169.254.0.0": true, "169.254.0.1": true, "169.254.169.254": true, "169.254.170.2": true, "169.254.255.255": true,
		"fe80::1": true, "febf::1": true, "fe80::1%eth0": true, "fe80::a9fe:a9fe": true,
		"224.0.0.1": true, "239.255.255.250": true, "ff02::1": true, "ff0e::1": true,
		"100.100.100.200": true, "192.0.0.192": true, "168.63.129.16": true,
		"fd00:ec2::23": true, "fd00:ec2::254": true, "fd00:ec2::254%1": true, "fd20:ce::254": true,

		"::ffff:169.254.169.254": true, "::ffff:a9fe:a9fe": true, "::ffff:0.0.0.0": true, "::ffff:100.100.100.200": true, "::ffff:168.63.129.16": true, "::ffff:255.255.255.255": true, "::ffff:224.0.0.1": true,
		"::169.254.169.254": true, "::2": true, "::192.0.0.192": true,
		"::ffff:0:169.254.169.254": true,
		"64:ff9b::169.254.169.254": true, "64:ff9b::a9fe:a9fe": true, "64:ff9b::100.100.100.200": true, "64:ff9b::": true, "64:ff9b:1::169.254.169.254": true,
		"2002:a9fe:a9fe::": true, "2002:a9fe:a9fe::1": true, "2002:a83f:8110::1": true, "2002:0:0::1": true, "2002:e000:1::": true,
	} {
		if got := forbidden(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s forbidden: %t; want %t", addr, got, want)
		}
	}
	if !forbidden(netip.Addr{}) {
		t.Error("no address at all is allowed")
	}
}

func TestForbiddenHostsOfURLs(t *testing.T) {
	for host, want := range map[string]bool{
		"registry.example.com": false, "registry.example.com:5000": false, "localhost:5000": false, "127.0.0.1:5000": false, "[::1]:5000": false, "10.0.0.1": false,
		"registry1": false, "registry.example.com.": false, "v1.0a": false, "0xregistry": false, "xn--rgistry-bya.example": false,

		"169.254.169.254": true, "169.254.169.254:80": true, "[::ffff:169.254.169.254]": true, "[fe80::1%25eth0]:80": true,
		// Texts that resolvers other than Go's turn into an address.
		"2852039166": true, "0xa9fea9fe": true, "0251.0376.0251.0376": true, "169.254.43518": true, "169.16689662": true, "0xa9.0xfe.0xa9.0xfe": true, "0XA9FEA9FE": true, "169.254.169.254.": true, "1": true, "": true,
	} {
		u, err := url.Parse("https://" + host + "/v2/")
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckURL(u); (err != nil) != want {
			t.Errorf("%q: %v; want forbidden: %t", host, err, want)
		}
	}
}
