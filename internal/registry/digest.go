package registry

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"

	"github.com/nimbus-ci/nimbus"
)

// Digest is the name of content: the algorithm, a colon, and the hash in
// lower-case hex.
type Digest string

// The algorithms.
const (
	SHA256 = "sha256"
	SHA512 = "sha512"
)

// ParseDigest reads a digest. Codes: invalid.
func ParseDigest(text string) (Digest, error) {
	algorithm, sum, ok := strings.Cut(text, ":")
	h, known := newHash(algorithm)
	switch {
	case !ok:
		return "", Refuse(DigestInvalid, nimbus.CodeInvalid, "%.100q is no digest", text)
	case !known:
		return "", Refuse(DigestInvalid, nimbus.CodeInvalid, "%.100q is of an algorithm that is not known here: sha256 and sha512 are", text)
	case len(sum) != 2*h.Size() || strings.Trim(sum, "0123456789abcdef") != "":
		return "", Refuse(DigestInvalid, nimbus.CodeInvalid, "%.160q is no digest: after the colon come %d lower-case hexadecimal digits", text, 2*h.Size())
	}
	return Digest(text), nil
}

// Algorithm is that of the digest.
func (d Digest) Algorithm() string {
	algorithm, _, _ := strings.Cut(string(d), ":")
	return algorithm
}

// KnownAlgorithm tells whether digests of an algorithm are taken.
func KnownAlgorithm(algorithm string) bool {
	_, ok := newHash(algorithm)
	return ok
}

func newHash(algorithm string) (hash.Hash, bool) {
	switch algorithm {
	case SHA256:
		return sha256.New(), true
	case SHA512:
		return sha512.New(), true
	}
	return nil, false
}

// Of is the digest of content.
func Of(algorithm string, content []byte) Digest {
	h, ok := newHash(algorithm)
	if !ok {
		return ""
	}
	h.Write(content)
	return digestOf(algorithm, h)
}

func digestOf(algorithm string, h hash.Hash) Digest {
	return Digest(algorithm + ":" + hex.EncodeToString(h.Sum(nil)))
}
