package guest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

func certificateOf(t *testing.T, subject pkix.Name) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: subject, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

// TestTrust has OpenSSL find a certificate by the image's folder alone, and by its
// bundle alone, and leaves what the image trusts.
func TestTrust(t *testing.T) {
	t.Parallel()
	for n, subject := range []pkix.Name{
		{CommonName: "Nimbus host 0102aabb"},
		{CommonName: "  Two   Spaces ", Organization: []string{"ACME & Söhne"}, Country: []string{"DE"}},
	} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			root, certificate := t.TempDir(), certificateOf(t, subject)
			folder := filepath.Join(root, hashed)
			own := filepath.Join(root, "own.crt")
			if err := os.MkdirAll(folder, 0o755); err != nil {
				t.Fatal(err)
			}
			other := certificateOf(t, pkix.Name{CommonName: "another"})
			for path, content := range map[string][]byte{filepath.Join(root, bundles()[0]): other, own: certificate} {
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // a repeated Prepare
				if err := trust(root, certificate); err != nil {
					t.Fatal(err)
				}
			}
			for _, how := range [][]string{{"-CApath", folder, "-no-CAfile"}, {"-CAfile", filepath.Join(root, bundles()[0]), "-no-CApath"}} {
				if out, err := exec.CommandContext(t.Context(), "openssl", append(append([]string{"verify"}, how...), own)...).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", how, out)
				}
			}
			have, err := os.ReadFile(filepath.Join(root, bundles()[0]))
			if err != nil || bytes.Count(have, bytes.TrimSpace(certificate)) != 1 || !bytes.Contains(have, other) {
				t.Errorf("the bundle: %v\n%s", err, have)
			}
			if kept, err := os.ReadFile(filepath.Join(root, guestlink.TrustedFile)); err != nil || !bytes.Equal(kept, certificate) {
				t.Errorf("for Node: %v", err)
			}
			if found, _ := filepath.Glob(filepath.Join(folder, "*.0")); len(found) != 1 {
				t.Errorf("by hash: %v", found)
			}
			if _, err := os.Stat(filepath.Join(root, bundles()[1])); err == nil {
				t.Error("it makes another system's bundle")
			}
		})
	}
	if err := trust(t.TempDir(), nil); err != nil {
		t.Error(err)
	}
	if err := trust(t.TempDir(), []byte("nonsense")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("what is no certificate: %v", err)
	}
}
