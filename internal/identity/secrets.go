package identity

import (
	"context"

	"github.com/nimbus-ci/nimbus"
)

// Secrets keeps secrets in the store, sealed.
type Secrets struct {
	Store   Store
	Keyring *Keyring
}

// putTries bounds how often a secret is sealed anew because the key changed.
const putTries = 3

// Put keeps a secret, and tells the audit ledger of it, unless e has no action.
func (s Secrets) Put(ctx context.Context, orgID, name string, secret []byte, e nimbus.AuditEvent) error {
	sealed, err := s.Keyring.Seal(orgID, name, secret)
	if err != nil {
		return err
	}
	if err := s.Store.PutSecret(ctx, orgID, name, sealed, e); err != nil {
		return err
	}
	return s.sealAnew(ctx, orgID, name, secret, sealed)
}

// Create keeps a secret where there is none of that name. Codes: conflict.
func (s Secrets) Create(ctx context.Context, orgID, name string, secret []byte) error {
	sealed, err := s.Keyring.Seal(orgID, name, secret)
	if err != nil {
		return err
	}
	if err := s.Store.CreateSecret(ctx, orgID, name, sealed); err != nil {
		return err
	}
	return s.sealAnew(ctx, orgID, name, secret, sealed)
}

// sealAnew seals a secret anew that was sealed just before the key changed, so
// that the old key can go.
func (s Secrets) sealAnew(ctx context.Context, orgID, name string, secret, sealed []byte) error {
	for range putTries {
		if s.Keyring.seals(sealed) {
			return nil
		}
		anew, err := s.Keyring.Seal(orgID, name, secret)
		if err != nil {
			return err
		}
		if replaced, err := s.Store.ReplaceSealed(ctx, orgID, name, sealed, anew); err != nil || !replaced {
			return err // somebody else has put another by now
		}
		sealed = anew
	}
	return nil
}

// Get returns a secret. Codes: not_found.
func (s Secrets) Get(ctx context.Context, orgID, name string) ([]byte, error) {
	sealed, err := s.Store.Secret(ctx, orgID, name)
	if err != nil {
		return nil, err
	}
	return s.Keyring.Open(orgID, name, sealed)
}

// Names are the names of an org's secrets.
func (s Secrets) Names(ctx context.Context, orgID string) ([]SecretName, error) {
	return s.Store.SecretNames(ctx, orgID)
}

// Delete forgets a secret, and tells the audit ledger of it, unless e has no
// action. Codes: not_found.
func (s Secrets) Delete(ctx context.Context, orgID, name string, e nimbus.AuditEvent) error {
	return s.Store.DeleteSecret(ctx, orgID, name, e)
}
