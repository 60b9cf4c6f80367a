package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math/big"
	"strings"
)

// Kind is what a token is for; it can be read off the token.
type Kind string

// The kinds.
const (
	KindAdmin   Kind = "admin"
	KindUser    Kind = "user"
	KindAccount Kind = "account"
	KindJoin    Kind = "join"
	KindHost    Kind = "host"
	KindJob     Kind = "job"
	KindLogin   Kind = "login"
	KindSession Kind = "session"
)

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

func newToken(k Kind) string {
	b := make([]byte, secretBytes)
	rand.Read(b) // never fails
	secret := encode(new(big.Int).SetBytes(b), secretLength)
	return prefix + string(k) + "_" + secret + checksum(k, secret)
}

func checksum(k Kind, secret string) string {
	return encode(big.NewInt(int64(crc32.ChecksumIEEE([]byte(string(k)+secret)))), checksumLength)
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

// parse reads a token's kind and checks its form. Its error never holds the token.
func parse(token string) (Kind, error) {
	rest, ok := strings.CutPrefix(token, prefix)
	kind, body, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || len(body) != secretLength+checksumLength {
		return "", errors.New("tokens look like nbs_<kind>_…: this is none, or a part of one")
	}
	secret, sum := body[:secretLength], body[secretLength:]
	if checksum(Kind(kind), secret) != sum {
		return "", errors.New("a character of the token is wrong")
	}
	return Kind(kind), nil
}

// version is that of how a token is kept, in its row. Of another one nothing is
// believed.
const version = 1

// hash is how a token is kept.
func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}
