package tlsfile

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/tlsfile/tlstest"
)

func name(t *testing.T, p *pair) string {
	t.Helper()
	c, err := p.get()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf.Subject.CommonName
}

// TestFilesThatAreReplaced: between the key and the chain, and while one of them
// is gone or half-written, what was there before is served.
func TestFilesThatAreReplaced(t *testing.T) {
	t.Parallel()
	ca, files := tlstest.NewCA(t), tlstest.NewFiles(t)
	ca.Issue(t, files, "first")
	p, err := load(files.Cert, files.Key, 0)
	if err != nil {
		t.Fatal(err)
	}
	ca.Issue(t, files, "second", func() {
		if got := name(t, p); got != "first" {
			t.Errorf("with half a pair %s is served", got)
		}
	})
	if got := name(t, p); got != "second" {
		t.Errorf("after the change %s is served", got)
	}
	for _, break_ := range []func() error{
		func() error { return os.WriteFile(files.Cert, []byte("-----BEGIN CERT"), 0o600) },
		func() error { return os.Remove(files.Key) },
	} {
		if err := break_(); err != nil {
			t.Fatal(err)
		}
		if got := name(t, p); got != "second" {
			t.Errorf("with broken files %s is served", got)
		}
	}
	// One that is put there with the times of the one before, as cp -p does.
	info, err := os.Stat(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	ca.Issue(t, files, "third")
	for _, path := range []string{files.Cert, files.Key} {
		if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	if got := name(t, p); got != "third" {
		t.Errorf("after a change that kept the time %s is served", got)
	}
}

// TestFilesThatCanNotBeUsed are refused when the program starts.
func TestFilesThatCanNotBeUsed(t *testing.T) {
	t.Parallel()
	ca, files, other := tlstest.NewCA(t), tlstest.NewFiles(t), tlstest.NewFiles(t)
	ca.Issue(t, files, "one")
	ca.Issue(t, other, "other")
	nothing := filepath.Join(t.TempDir(), "nothing")
	if err := os.WriteFile(nothing, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := func(cert, key, ca string) error { _, err := Server(cert, key, ca); return err }
	client := func(ca, cert, key string) error { _, err := Client(ca, cert, key); return err }
	for what, err := range map[string]error{
		"no files": server("", "", ""), "another's key": server(files.Cert, other.Key, ""), "no CA": server(files.Cert, files.Key, nothing),
		"client: no CA": client(nothing, "", ""), "client: no key": client("", files.Cert, ""), "client: no chain": client("", "", files.Key),
		"client: another's key": client(ca.RootFile, files.Cert, other.Key),
	} {
		if nimbus.ErrorCode(err) != nimbus.CodeInvalid {
			t.Errorf("%s: %v", what, err)
		}
	}
	if c, err := Client("", "", ""); c != nil || err != nil {
		t.Errorf("nothing is named, and the client gets %v, %v", c, err)
	}
	if c, err := Server(files.Cert, files.Key, ""); err != nil || c.MinVersion != tls.VersionTLS12 {
		t.Errorf("%+v, %v", c, err)
	}
}
