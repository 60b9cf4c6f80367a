package intercept

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func openAuthority(t *testing.T, dir string, at time.Time) *Authority {
	t.Helper()
	a, err := OpenAuthority(dir, Names())
	if err != nil {
		t.Fatal(err)
	}
	a.now = func() time.Time { return at }
	return a
}

func trusted(t *testing.T, a *Authority) Trust {
	t.Helper()
	trust, err := a.Trust()
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// TestAuthorityIsForItsNamesAlone signs for others with the authority's own key, as
// who has stolen it would: nobody who trusts it believes that.
func TestAuthorityIsForItsNamesAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := openAuthority(t, dir, time.Now())
	trust := trusted(t, a)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(trust.PEM)
	name := Names()[0]
	if _, err := a.certificate(trust.ID, "github.com"); err == nil {
		t.Error("it makes a certificate for github.com")
	}
	if _, err := a.certificate("another", name); err == nil {
		t.Error("it makes a certificate of an authority that it has not")
	}
	ca := filepath.Join(dir, "ca.crt")
	if err := os.WriteFile(ca, trust.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		good bool
	}{{name, true}, {"github.com", false}, {"actions.githubusercontent.com", false}, {"10.0.0.1", false}} {
		leaf, err := a.issuers[trust.ID].issue(c.name, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: c.name}); (err == nil) != c.good {
			t.Errorf("%s: %v", c.name, err)
		}
		file := filepath.Join(dir, "leaf.crt")
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[0]}), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "openssl", "verify", "-CAfile", ca, "-verify_hostname", c.name, file).CombinedOutput()
		if (err == nil) != c.good {
			t.Errorf("openssl of %s: %v %s", c.name, err, out)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestAuthorityIsReplacedInTime: a sandbox gets one that outlives it, and keeps it
// while new ones get the next, over starts of the agent; what is over is gone, and
// what is broken is made anew.
func TestAuthorityIsReplacedInTime(t *testing.T) {
	t.Parallel()
	dir, start := t.TempDir(), time.Now()
	first := trusted(t, openAuthority(t, dir, start))
	if again := trusted(t, openAuthority(t, dir, start)); again.ID != first.ID {
		t.Error("a start makes another one")
	}
	later := start.Add(authorityLife - authorityLeft + time.Hour)
	a := openAuthority(t, dir, later)
	second := trusted(t, a)
	if second.ID == first.ID {
		t.Fatal("it is given out until its end")
	}
	if leaf, err := a.certificate(first.ID, Names()[0]); err != nil || leaf.Leaf.NotAfter.Before(later) {
		t.Errorf("a sandbox of before: %v", err)
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.pem"))
	for _, file := range files {
		if filepath.Base(file) != second.ID+authoritySuffix {
			continue
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil { // as a power cut may leave it
			t.Fatal(err)
		}
	}
	third := trusted(t, openAuthority(t, dir, later))
	if third.ID == second.ID || third.ID == first.ID {
		t.Error("a broken one is given out")
	}
}

// TestCertificatesAreRenewed before they end.
func TestCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	now := time.Now()
	a := openAuthority(t, t.TempDir(), now)
	id := trusted(t, a).ID
	first, err := a.certificate(id, Names()[0])
	if err != nil {
		t.Fatal(err)
	}
	if same, err := a.certificate(id, Names()[0]); err != nil || same != first {
		t.Errorf("made twice: %v", err)
	}
	a.now = func() time.Time { return now.Add(leafLife - time.Hour) }
	if next, err := a.certificate(id, Names()[0]); err != nil || !next.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Errorf("not renewed: %v", err)
	}
}
