// SPDX-License-Identifier: MPL-2.0

package servers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// certificate is a certificate for 127.0.0.1 and localhost, by a CA of its own.
// nil stands for plain http.
type certificate struct {
	ca                string // PEM
	certFile, keyFile string
}

// CA returns the certificate of a new CA, in PEM form.
func CA(t testing.TB) string {
	t.Helper()
	return newCertificate(t).ca
}

// TLSListener returns a listener for [RaftOptions], its URL, and the CA of its
// certificate in PEM form.
func TLSListener(t testing.TB) (settings, url, ca string) {
	t.Helper()
	cert, addr := newCertificate(t), FreeAddr(t)
	return fmt.Sprintf(`
listener "tcp" {
  address         = %q
  cluster_address = %q
  tls_cert_file   = %q
  tls_key_file    = %q
}`, addr, FreeAddr(t), cert.certFile, cert.keyFile), "https://" + addr, cert.ca
}

func newCertificate(t testing.TB) *certificate {
	t.Helper()
	caKey, ca := sign(t, nil, nil, &x509.Certificate{
		Subject:               pkix.Name{CommonName: "tests CA"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	})
	key, leaf := sign(t, caKey, ca, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "tests"},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &certificate{
		ca:       string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})),
		certFile: filepath.Join(dir, "server.crt"),
		keyFile:  filepath.Join(dir, "server.key"),
	}
	for file, block := range map[string]*pem.Block{
		c.certFile: {Type: "CERTIFICATE", Bytes: leaf.Raw},
		c.keyFile:  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// sign returns a new key and its certificate, signed by parent or by itself.
func sign(t testing.TB, parentKey *ecdsa.PrivateKey, parent, template *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parent == nil {
		parentKey, parent = key, template
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, signed
}

// config returns the TLS part of a registry's configuration, below "http".
func (c *certificate) config() string {
	if c == nil {
		return ""
	}
	return fmt.Sprintf("  tls:\n    certificate: %q\n    key: %q\n", c.certFile, c.keyFile)
}

// client returns a client that trusts the CA, and the scheme to use it with.
func (c *certificate) client() (client *http.Client, scheme string) {
	if c == nil {
		return http.DefaultClient, "http"
	}
	cas := x509.NewCertPool()
	cas.AppendCertsFromPEM([]byte(c.ca))
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cas}}}, "https"
}
