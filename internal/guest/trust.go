package guest

import (
	"bytes"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nimbus-ci/nimbus/internal/guestlink"
)

// hashed is where OpenSSL looks for certificates by the hash of whose they are, and
// with it what is built on it: .NET, Python, curl.
const hashed = "/etc/ssl/certs"

// bundles are the files in which systems keep all that they trust. The first is made
// where there is none.
func bundles() []string {
	return []string{
		"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch
		"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora
		"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // the same, of now
		"/etc/ssl/ca-bundle.pem",                            // SUSE
		"/etc/ssl/cert.pem",                                 // LibreSSL
	}
}

// trust has a certificate trusted beside the image's own, below root. It may be
// repeated.
func trust(root string, certificate []byte) error {
	if len(certificate) == 0 {
		return nil
	}
	block, _ := pem.Decode(certificate)
	if block == nil {
		return errors.New("the certificate to trust is none")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return fmt.Errorf("read the certificate to trust: %w", err)
	}
	// Where update-ca-certificates finds it again, whenever the job has it run.
	if err := keepCertificate(filepath.Join(root, guestlink.TrustedFile), certificate); err != nil {
		return err
	}
	for i, file := range bundles() {
		if err := addToBundle(filepath.Join(root, file), certificate, i == 0); err != nil {
			return err
		}
	}
	return addHashed(filepath.Join(root, hashed), cert, certificate)
}

func keepCertificate(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make certificate folder: %w", err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}

// addToBundle adds a certificate to a file of many, whatever links lead to it.
func addToBundle(path string, certificate []byte, always bool) error {
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !always:
		return nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("read certificates: %w", err)
	case bytes.Contains(have, bytes.TrimSpace(certificate)):
		return nil
	}
	return keepCertificate(path, slices.Concat(have, []byte("\n"), certificate))
}

// maxHashed is how many certificates of one name there may be.
const maxHashed = 16

// addHashed puts a certificate where OpenSSL looks for it.
func addHashed(dir string, cert *x509.Certificate, certificate []byte) error {
	hash, err := subjectHash(cert.RawSubject)
	if err != nil {
		return err
	}
	for n := range maxHashed {
		path := filepath.Join(dir, fmt.Sprintf("%08x.%d", hash, n))
		have, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(have, certificate) {
			continue
		}
		if err == nil {
			return nil
		}
		return keepCertificate(path, certificate)
	}
	return errors.New("write certificate: too many of one name")
}

// subjectHash is X509_NAME_hash of OpenSSL: of a name in the canonical form, in
// which texts are UTF-8, in lower case and without superfluous spaces, and there is
// no header around the whole.
func subjectHash(subject []byte) (uint32, error) {
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	type attributes []attribute
	var name []asn1.RawValue
	if _, err := asn1.Unmarshal(subject, &name); err != nil {
		return 0, fmt.Errorf("read whose the certificate is: %w", err)
	}
	var canonical []byte
	for _, set := range name {
		var of attributes
		if _, err := asn1.UnmarshalWithParams(set.FullBytes, &of, "set"); err != nil {
			return 0, fmt.Errorf("read whose the certificate is: %w", err)
		}
		for i, a := range of {
			switch a.Value.Tag {
			case asn1.TagUTF8String, asn1.TagPrintableString, asn1.TagIA5String, asn1.TagT61String:
				text := strings.ToLower(strings.Join(strings.Fields(string(a.Value.Bytes)), " "))
				of[i].Value = asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(text)}
			}
		}
		raw, err := asn1.MarshalWithParams(of, "set")
		if err != nil {
			return 0, fmt.Errorf("write whose the certificate is: %w", err)
		}
		canonical = append(canonical, raw...)
	}
	sum := sha1.Sum(canonical)
	return binary.LittleEndian.Uint32(sum[:4]), nil
}
