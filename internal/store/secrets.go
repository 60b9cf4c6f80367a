package store

import (
	"context"
	"errors"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/store/gen"
)

// SecretNames implements identity.Store.
func (s *Store) SecretNames(ctx context.Context, orgID string) (names []identity.SecretName, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.SecretNames(ctx, orgID)
		for _, r := range rows {
			names = append(names, identity.SecretName{Name: r.Name, ChangedAt: fromMicros(r.UpdatedAt)})
		}
		return err
	})
	return names, err
}

// DeleteSecret implements identity.Store.
func (s *Store) DeleteSecret(ctx context.Context, orgID, name string, e nimbus.AuditEvent) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.DeleteSecret(ctx, gen.DeleteSecretParams{OrgID: orgID, Name: name})
		if err == nil && n == 0 {
			return nimbus.Errorf(nimbus.CodeNotFound, "there is no secret %q", name)
		}
		return errors.Join(err, t.told(ctx, e))
	})
}

// CreateSecret implements identity.Store.
func (s *Store) CreateSecret(ctx context.Context, orgID, name string, sealed []byte) error {
	return s.write(ctx, func(t *tx) error {
		n, err := t.CreateSecret(ctx, gen.CreateSecretParams{OrgID: orgID, Name: name, Sealed: sealed, UpdatedAt: micros(t.now)})
		if err == nil && n == 0 {
			return nimbus.Errorf(nimbus.CodeConflict, "there is a secret %q", name)
		}
		return err
	})
}

// SealedSecrets implements identity.SealedStore.
func (s *Store) SealedSecrets(ctx context.Context, after identity.SealedSecret, n int) (out []identity.SealedSecret, err error) {
	err = s.read(ctx, func(t *tx) error {
		rows, err := t.SealedSecrets(ctx, gen.SealedSecretsParams{OrgID: after.OrgID, Name: after.Name, Limit: int32(n)})
		for _, r := range rows {
			out = append(out, identity.SealedSecret{OrgID: r.OrgID, Name: r.Name, Sealed: r.Sealed})
		}
		return err
	})
	return out, err
}

// ReplaceSealed implements identity.SealedStore. The secret's time stays: it is
// the same secret.
func (s *Store) ReplaceSealed(ctx context.Context, orgID, name string, old, anew []byte) (replaced bool, err error) {
	err = s.write(ctx, func(t *tx) error {
		n, err := t.ReplaceSealed(ctx, gen.ReplaceSealedParams{Anew: anew, OrgID: orgID, Name: name, Old: old})
		replaced = n == 1
		return err
	})
	return replaced, err
}
