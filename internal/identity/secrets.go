package identity

import "context"

// Secrets keeps secrets in the store, sealed.
type Secrets struct {
	Store   Store
	Keyring *Keyring
}

// putTries bounds how often a secret is sealed anew because the key changed.
const putTries = 3

// Put keeps a secret. One that was sealed just before the key changed is sealed
// anew, so that the old key can go.
func (s Secrets) Put(ctx context.Context, orgID, name string, secret []byte) error {
	sealed, err := s.Keyring.Seal(orgID, name, secret)
	if err != nil {
		return err
	}
	if err := s.Store.PutSecret(ctx, orgID, name, sealed); err != nil {
		return err
	}
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

// Delete forgets a secret. Codes: not_found.
func (s Secrets) Delete(ctx context.Context, orgID, name string) error {
	return s.Store.DeleteSecret(ctx, orgID, name)
}
