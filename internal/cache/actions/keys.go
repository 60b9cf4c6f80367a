package actions

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"

	"github.com/golang-jwt/jwt/v5"

	"github.com/nimbus-ci/nimbus"
)

// minSecret is how long a secret must be: as long as what is made with it.
const minSecret = sha256.Size

// Keys sign tokens and URLs. While a secret is being replaced there are two:
// what the old one signed is good until it expires.
type Keys struct {
	tokens []jwt.VerificationKey // the first one signs
	urls   [][]byte
}

// NewKeys derives keys from a secret, and from the one before it where there
// was one, which signs nothing any more. Codes: invalid.
func NewKeys(current []byte, before ...[]byte) (*Keys, error) {
	if len(before) > 1 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "there are %d old secrets: one at most is taken", len(before))
	}
	k := &Keys{}
	for _, secret := range append([][]byte{current}, before...) {
		if len(secret) < minSecret {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "a secret of the Actions cache has %d bytes", len(secret)).
				WithHint("make one of %d random bytes", minSecret)
		}
		// One secret, a key for each purpose: what signs a URL is never taken for a
		// token, nor the other way round.
		token, err := hkdf.Key(sha256.New, secret, nil, "nimbus actions token v1", sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("derive the key of tokens: %w", err)
		}
		url, err := hkdf.Key(sha256.New, secret, nil, "nimbus actions url v1", sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("derive the key of URLs: %w", err)
		}
		k.tokens, k.urls = append(k.tokens, token), append(k.urls, url)
	}
	return k, nil
}
