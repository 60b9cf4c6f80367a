package forge

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// signaturePrefix names the only algorithm that is accepted. GitHub's older
// X-Hub-Signature (SHA-1) is ignored.
const signaturePrefix = "sha256="

// Sign returns the X-Hub-Signature-256 value of body.
func Sign(secret, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write(body)
	return signaturePrefix + hex.EncodeToString(mac.Sum(nil))
}

// VerifySignature tells whether header signs body with any of the secrets.
// There is more than one while a secret is rotated; all are always compared,
// in constant time, so that neither the bytes nor which secret matched shows
// in the time taken. An empty secret never matches.
func VerifySignature(secrets [][]byte, body []byte, header string) bool {
	return len(signers(secrets, body, header)) > 0
}

// signers are those of the secrets that sign body.
func signers(secrets [][]byte, body []byte, header string) (matched [][]byte) {
	signature, ok := parseSignature(header)
	if !ok {
		return nil
	}
	for _, secret := range secrets {
		if len(secret) == 0 {
			continue // anybody could sign with it
		}
		mac := hmac.New(sha256.New, secret)
		mac.Write(body)
		if hmac.Equal(mac.Sum(nil), signature) {
			matched = append(matched, secret)
		}
	}
	return matched
}

// parseSignature decodes "sha256=<64 hex digits>".
func parseSignature(header string) ([]byte, bool) {
	digits, ok := strings.CutPrefix(header, signaturePrefix)
	if !ok || len(digits) != hex.EncodedLen(sha256.Size) {
		return nil, false
	}
	signature, err := hex.DecodeString(digits)
	return signature, err == nil
}
