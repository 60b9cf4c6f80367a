// Package tlstest makes certificate chains for tests.
package tlstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA is a root with an intermediate, which signs.
type CA struct {
	RootFile string
	middle   *x509.Certificate
	key      *ecdsa.PrivateKey
}

// NewCA makes one, with its root in a file.
func NewCA(t testing.TB) *CA {
	t.Helper()
	rootKey, middleKey := newKey(t), newKey(t)
	root := sign(t, template("root", true), nil, &rootKey.PublicKey, rootKey)
	middle := sign(t, template("intermediate", true), root, &middleKey.PublicKey, rootKey)
	ca := &CA{RootFile: filepath.Join(t.TempDir(), "root.pem"), middle: middle, key: middleKey}
	write(t, ca.RootFile, "CERTIFICATE", root.Raw)
	return ca
}

// Files are where a certificate chain and its key lie.
type Files struct{ Cert, Key string }

// NewFiles are files that are not there yet.
func NewFiles(t testing.TB) Files {
	t.Helper()
	dir := t.TempDir()
	return Files{Cert: filepath.Join(dir, "chain.pem"), Key: filepath.Join(dir, "key.pem")}
}

// Issue writes a new chain for this machine's loopback addresses, named name,
// into files: first the key, then the chain. Between runs in the middle.
func (ca *CA) Issue(t testing.TB, f Files, name string, between ...func()) {
	t.Helper()
	key := newKey(t)
	leaf := sign(t, template(name, false), ca.middle, &key.PublicKey, ca.key)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f.Key, "PRIVATE KEY", raw)
	for _, do := range between {
		do()
	}
	write(t, f.Cert, "CERTIFICATE", leaf.Raw, ca.middle.Raw)
}

func template(name string, isCA bool) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true,
	}
	if isCA {
		c.KeyUsage = x509.KeyUsageCertSign
		return c
	}
	c.KeyUsage = x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	return c
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, c, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = c
	}
	raw, err := x509.CreateCertificate(rand.Reader, c, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// write replaces a file at once, as an ACME client does.
func write(t testing.TB, path, kind string, blocks ...[]byte) {
	t.Helper()
	var out []byte
	for _, b := range blocks {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
	}
	if err := os.WriteFile(path+".new", out, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
