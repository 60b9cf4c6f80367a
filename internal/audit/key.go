package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/nimbus-ci/nimbus"
)

// secretName is the name under which the key is kept, for the platform.
const secretName = "audit-key"

// Secrets keeps the key that signs checkpoints, sealed.
type Secrets interface {
	// Get returns a secret. Codes: not_found.
	Get(ctx context.Context, orgID, name string) ([]byte, error)
	// Create keeps a secret where there is none of that name. Codes: conflict.
	Create(ctx context.Context, orgID, name string, secret []byte) error
}

// openKey reads the key that signs, and makes one at the first start. Of
// replicas that do so at once, all get the one that was first.
func openKey(ctx context.Context, s Secrets) (ed25519.PrivateKey, error) {
	for range 2 {
		seed, err := s.Get(ctx, "", secretName)
		switch {
		case err == nil && len(seed) == ed25519.SeedSize:
			return ed25519.NewKeyFromSeed(seed), nil
		case err == nil:
			return nil, nimbus.Errorf(nimbus.CodeInternal, "the audit key that was kept is none")
		case nimbus.ErrorCode(err) != nimbus.CodeNotFound:
			return nil, fmt.Errorf("read the audit key: %w", err)
		}
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, fmt.Errorf("make the audit key: %w", err)
		}
		if err := s.Create(ctx, "", secretName, key.Seed()); err != nil && nimbus.ErrorCode(err) != nimbus.CodeConflict {
			return nil, fmt.Errorf("keep the audit key: %w", err)
		}
	}
	return nil, nimbus.Errorf(nimbus.CodeUnavailable, "the audit key was made, and is gone")
}

// pemType is the type of a public key's PEM block.
const pemType = "PUBLIC KEY"

// EncodeKey is a public key as PEM.
func EncodeKey(key ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the audit key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// DecodeKeys reads public keys, one or more PEM blocks. Codes: invalid.
func DecodeKeys(text []byte) (keys []ed25519.PublicKey, err error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		key, ok := parsed.(ed25519.PublicKey)
		if err != nil || !ok || block.Type != pemType {
			return nil, nimbus.Errorf(nimbus.CodeInvalid, "this is not the public key of an audit ledger").WithHint("`nimbus audit key` shows it")
		}
		keys, text = append(keys, key), rest
	}
	if len(keys) == 0 {
		return nil, nimbus.Errorf(nimbus.CodeInvalid, "there is no public key in it").WithHint("`nimbus audit key` shows the ledger's")
	}
	return keys, nil
}
