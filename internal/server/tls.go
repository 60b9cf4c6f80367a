package server

import (
	"crypto/tls"
	"os"
	"sync"
	"time"

	"github.com/nimbus-ci/nimbus"
)

// certificateCheck is how often the files are looked at: renewals by an ACME
// client need no restart.
const certificateCheck = 10 * time.Second

// LoadTLS serves the certificate in two PEM files, and what they are replaced
// by. Codes: invalid.
func LoadTLS(certFile, keyFile string) (*tls.Config, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	if _, err := c.get(nil); err != nil {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "the certificate can't be used: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}, nil
}

type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex
	current *tls.Certificate
	changed time.Time // of the file that current is from
	checked time.Time
}

// get returns the certificate as it is by now. Files that are half-written
// leave the one before in use.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && time.Since(c.checked) < certificateCheck {
		return c.current, nil
	}
	c.checked = time.Now()
	info, err := os.Stat(c.certFile)
	if err == nil && c.current != nil && info.ModTime().Equal(c.changed) {
		return c.current, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(c.certFile, c.keyFile); err == nil {
			c.current, c.changed = &pair, info.ModTime()
		}
	}
	if c.current != nil {
		return c.current, nil
	}
	return nil, err
}
