package intercept

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus/internal/wholefile"
)

// Lives of certificates. An authority that is given to a sandbox outlives every
// job, with the time that its sandbox may be kept.
const (
	authorityLife = 90 * 24 * time.Hour
	authorityLeft = 30 * 24 * time.Hour // less than that: the next is made
	leafLife      = 7 * 24 * time.Hour
	leafLeft      = 24 * time.Hour
	backDated     = time.Hour // clocks differ
	serialBits    = 120
)

const authoritySuffix = ".pem"

// Trust is an authority as a sandbox knows it.
type Trust struct {
	ID  string
	PEM []byte
}

// Authority makes the certificates of one host's door. Its key never leaves the
// host's disk, and by its constraints it is good for the door's names alone, whoever
// has it. It is safe for concurrent use.
type Authority struct {
	dir   string
	names []string
	now   func() time.Time

	mu      sync.Mutex
	issuers map[string]*issuer // by id; those whose life is not over
}

// issuer is one certificate of the authority, with its key.
type issuer struct {
	id     string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	leaves map[string]*tls.Certificate // by name
}

// OpenAuthority reads what is in a folder, which it makes when it isn't there.
func OpenAuthority(dir string, names []string) (*Authority, error) {
	a := &Authority{dir: dir, names: names, now: time.Now, issuers: map[string]*issuer{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the host's authority: %w", err)
	}
	return a, a.load()
}

// load reads the issuers, and removes those whose life is over.
func (a *Authority) load() error {
	files, err := filepath.Glob(filepath.Join(a.dir, "*"+authoritySuffix))
	if err != nil {
		return fmt.Errorf("list the host's authorities: %w", err)
	}
	for _, file := range files {
		i, err := readIssuer(file)
		if err == nil && a.now().Before(i.cert.NotAfter) {
			a.issuers[i.id] = i
			continue
		}
		// One that can't be read is of no use either: the next is made.
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an authority of before: %w", err)
		}
	}
	return nil
}

func readIssuer(file string) (*issuer, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the host's authority: %w", err)
	}
	pair, err := tls.X509KeyPair(raw, raw)
	if err != nil {
		return nil, fmt.Errorf("read the host's authority %s: %w", filepath.Base(file), err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || pair.Leaf == nil || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("read the host's authority %s: it is none of ours", filepath.Base(file))
	}
	return newIssuer(pair.Leaf, key), nil
}

func newIssuer(cert *x509.Certificate, key *ecdsa.PrivateKey) *issuer {
	sum := sha256.Sum256(cert.Raw)
	return &issuer{id: hex.EncodeToString(sum[:16]), cert: cert, key: key, leaves: map[string]*tls.Certificate{}}
}

// Trust is the authority that a new sandbox is given; the next is made where the
// one that there is does not live long enough, or is good for other names.
func (a *Authority) Trust() (Trust, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var latest *issuer
	for _, i := range a.issuers {
		if slices.Equal(i.cert.PermittedDNSDomains, a.names) && (latest == nil || i.cert.NotAfter.After(latest.cert.NotAfter)) {
			latest = i
		}
	}
	if latest == nil || latest.cert.NotAfter.Sub(a.now()) < authorityLeft {
		var err error
		if latest, err = a.make(); err != nil {
			return Trust{}, fmt.Errorf("make the host's authority: %w", err)
		}
		a.issuers[latest.id] = latest
	}
	return Trust{ID: latest.id, PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: latest.cert.Raw})}, nil
}

// make makes an issuer and keeps it. a.mu is held.
func (a *Authority) make() (*issuer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// Another one each time: clients look for issuers by their names.
		Subject:   pkix.Name{CommonName: "Nimbus host " + hex.EncodeToString(serial.Bytes()[:4])},
		NotBefore: a.now().Add(-backDated), NotAfter: a.now().Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: a.names,
		ExcludedIPRanges: []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	i := newIssuer(cert, key)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	var file bytes.Buffer
	for _, block := range []*pem.Block{{Type: "CERTIFICATE", Bytes: raw}, {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := pem.Encode(&file, block); err != nil {
			return nil, fmt.Errorf("encode the authority: %w", err)
		}
	}
	if err := wholefile.WriteDurable(filepath.Join(a.dir, i.id+authoritySuffix), file.Bytes(), 0o600); err != nil {
		return nil, fmt.Errorf("keep the authority: %w", err)
	}
	return i, nil
}

// certificate is the door's for a name, of the authority that a sandbox trusts.
func (a *Authority) certificate(id, name string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := a.issuers[id]
	if i == nil || !slices.Contains(i.cert.PermittedDNSDomains, name) {
		return nil, fmt.Errorf("the authority %.32q is not there, or not for %q", id, name)
	}
	if leaf := i.leaves[name]; leaf != nil && leaf.Leaf.NotAfter.Sub(a.now()) > leafLeft {
		return leaf, nil
	}
	leaf, err := i.issue(name, a.now())
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", name, err)
	}
	i.leaves[name] = leaf
	return leaf, nil
}

func (i *issuer) issue(name string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: now.Add(-backDated), NotAfter: now.Add(leafLife), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, i.cert, key.Public(), i.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}, nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits-1))
	if err != nil {
		return nil, fmt.Errorf("choose a serial number: %w", err)
	}
	return serial.SetBit(serial, serialBits-1, 1), nil // of the same length always
}
