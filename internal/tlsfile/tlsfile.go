// Package tlsfile makes TLS configurations of PEM files, and follows the files:
// a renewed certificate needs no restart.
package tlsfile

import (
	"crypto/tls"
	"crypto/x509"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// check is how often the files are looked at.
const check = 2 * time.Second

// Server serves the certificate in two PEM files. With a file of CAs, callers
// may show a certificate of one of them; one of another CA is refused. Codes:
// invalid.
func Server(certFile, keyFile, clientCAFile string) (*tls.Config, error) {
	p, err := load(certFile, keyFile, check)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.get() }}
	if clientCAFile == "" {
		return c, nil
	}
	c.ClientAuth = tls.VerifyClientCertIfGiven
	c.ClientCAs, err = pool(clientCAFile)
	return c, err
}

// Client trusts the certificates in a file instead of the system's, and shows
// the certificate in two others. Each may be ""; nil is for none at all. Codes:
// invalid.
func Client(caFile, certFile, keyFile string) (*tls.Config, error) {
	if caFile == "" && certFile == "" && keyFile == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if caFile != "" {
		if c.RootCAs, err = pool(caFile); err != nil {
			return nil, err
		}
	}
	if certFile == "" && keyFile == "" {
		return c, nil
	}
	if certFile == "" || keyFile == "" {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "a client's certificate and its key belong together").WithHint("give --client-cert and --client-key")
	}
	p, err := load(certFile, keyFile, check)
	if err != nil {
		return nil, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.get() }
	return c, nil
}

func pool(file string) (*x509.CertPool, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the CA certificates can't be read: %w", err)
	}
	out := x509.NewCertPool()
	if !out.AppendCertsFromPEM(raw) {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "%s has no certificate in it", file).WithHint("it is PEM, one certificate after another")
	}
	return out, nil
}

// pair is a certificate with its key, as the files have them.
type pair struct {
	certFile, keyFile string
	every             time.Duration

	mu      sync.Mutex
	current *tls.Certificate
	cert    fs.FileInfo // the files that current is from
	key     fs.FileInfo
	checked time.Time
}

func load(certFile, keyFile string, every time.Duration) (*pair, error) {
	p := &pair{certFile: certFile, keyFile: keyFile, every: every}
	if _, err := p.get(); err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the certificate can't be used: %w", err)
	}
	return p, nil
}

// get returns the certificate as it is by now. Files that are half-written, or
// of which only one was replaced yet, leave the one before in use.
func (p *pair) get() (*tls.Certificate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != nil && time.Since(p.checked) < p.every {
		return p.current, nil
	}
	p.checked = time.Now()
	err := p.read()
	if p.current != nil {
		return p.current, nil
	}
	return nil, err
}

// read reads files that changed. What they were is noted before they are read:
// a change in between is seen the next time.
func (p *pair) read() error {
	cert, err := os.Stat(p.certFile)
	if err != nil {
		return err
	}
	key, err := os.Stat(p.keyFile)
	if err != nil {
		return err
	}
	if p.current != nil && same(cert, p.cert) && same(key, p.key) {
		return nil
	}
	loaded, err := tls.LoadX509KeyPair(p.certFile, p.keyFile) // which fails for a key of another certificate
	if err != nil {
		return err
	}
	p.current, p.cert, p.key = &loaded, cert, key
	return nil
}

func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
