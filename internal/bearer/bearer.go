// Package bearer is the form of Nimbus' tokens, and how a host proves that it is
// itself: what the control plane and its hosts must see alike.
package bearer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math/big"
	"strings"
)

// Host is the kind of a host's tokens, which hosts make themselves.
const Host = "host"

// A token is nbs_<kind>_<secret><checksum>: 32 random bytes and their CRC-32 in
// base62. The checksum tells a typing error without a query, and lets scanners
// of leaked secrets be sure.
const (
	prefix         = "nbs_"
	secretBytes    = 32
	secretLength   = 43
	checksumLength = 6
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// New makes a token.
func New(kind string) string {
	b := make([]byte, secretBytes)
	rand.Read(b) // never fails
	secret := encode(new(big.Int).SetBytes(b), secretLength)
	return prefix + kind + "_" + secret + checksum(kind, secret)
}

func checksum(kind, secret string) string {
	return encode(big.NewInt(int64(crc32.ChecksumIEEE([]byte(kind+secret)))), checksumLength)
}

// encode writes n in base62, padded to length.
func encode(n *big.Int, length int) string {
	out := make([]byte, length)
	radix, digit := big.NewInt(int64(len(base62))), new(big.Int)
	for i := length - 1; i >= 0; i-- {
		n.DivMod(n, radix, digit)
		out[i] = base62[digit.Int64()]
	}
	return string(out)
}

// Parse reads a token's kind and checks its form. Its error never holds the token.
func Parse(token string) (kind string, err error) {
	rest, ok := strings.CutPrefix(token, prefix)
	kind, body, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || len(body) != secretLength+checksumLength {
		return "", errors.New("tokens look like nbs_<kind>_…: this is none, or a part of one")
	}
	secret, sum := body[:secretLength], body[secretLength:]
	if checksum(kind, secret) != sum {
		return "", errors.New("a character of the token is wrong")
	}
	return kind, nil
}

// Hash is how a token is kept: its SHA-256 in hex.
func Hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
