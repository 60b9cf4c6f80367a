package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nimbus-ci/nimbus"
)

// sealedStore is the secrets of a store, in their order.
type sealedStore struct {
	Store

	secrets []SealedSecret
	told    []string // what the audit ledger heard
	deaf    error    // why it hears nothing
}

func (s *sealedStore) RecordAudit(_ context.Context, events []nimbus.AuditEvent) error {
	for _, e := range events {
		s.told = append(s.told, e.Action+" "+e.Target)
	}
	return s.deaf
}

func (s *sealedStore) SealedSecrets(_ context.Context, after SealedSecret, n int) ([]SealedSecret, error) {
	at := slices.IndexFunc(s.secrets, func(o SealedSecret) bool { return o.Name > after.Name })
	if at < 0 {
		return nil, nil
	}
	return slices.Clone(s.secrets[at:min(at+n, len(s.secrets))]), nil
}

func (s *sealedStore) ReplaceSealed(_ context.Context, _, name string, old, anew []byte) (bool, error) {
	i := slices.IndexFunc(s.secrets, func(o SealedSecret) bool { return o.Name == name })
	if !bytes.Equal(s.secrets[i].Sealed, old) {
		return false, nil
	}
	s.secrets[i].Sealed = anew
	return true, nil
}

func (s *sealedStore) PutSecret(_ context.Context, orgID, name string, sealed []byte, _ nimbus.AuditEvent) error {
	s.secrets = append(s.secrets, SealedSecret{OrgID: orgID, Name: name, Sealed: sealed})
	return nil
}

// vault is some secrets under a key file, and the keyring of a server that runs.
type vault struct {
	*sealedStore
	file   string
	server *Keyring
}

func newVault(t *testing.T, secrets int) *vault {
	t.Helper()
	v := &vault{sealedStore: &sealedStore{}, file: filepath.Join(t.TempDir(), "master.key")}
	var err error
	if v.server, err = OpenKeyring(v.file); err != nil {
		t.Fatal(err)
	}
	for i := range secrets {
		if err := (Secrets{Store: v, Keyring: v.server}).Put(t.Context(), "org", fmt.Sprintf("%04d", i), []byte("secret"), nimbus.AuditEvent{}); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func (v *vault) rotation() Rotation { return Rotation{File: v.file, Store: v} }

func (v *vault) ids(t *testing.T) (ids []string) {
	t.Helper()
	raw, err := os.ReadFile(v.file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		ids = append(ids, line[:2*keyIDBytes])
	}
	return ids
}

// allOpen tells whether every secret opens, for a server that runs and for one
// that starts now.
func (v *vault) allOpen(t *testing.T, when string) {
	t.Helper()
	starts, err := OpenKeyring(v.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range v.secrets {
		for who, ring := range map[string]*Keyring{"running": v.server, "starting": starts} {
			if got, err := ring.Open(s.OrgID, s.Name, s.Sealed); err != nil || string(got) != "secret" {
				t.Fatalf("%s: for the %s server %s is %q, %v", when, who, s.Name, got, err)
			}
		}
	}
}

// TestARotationThatEndsAnywhere is finished by the next one; at each point all
// secrets open, and at the end with one key.
func TestARotationThatEndsAnywhere(t *testing.T) {
	t.Parallel()
	errDied := errors.New("died")
	for _, at := range []string{"on top", "one sealed anew", "resealed", ""} {
		v := newVault(t, 2*sealBatch+50)
		first := v.ids(t)[0]
		r, n := v.rotation(), 0
		r.step = func(name string) error {
			if name != "one sealed anew" {
				v.allOpen(t, name)
			} else if n++; n < sealBatch+7 {
				return nil
			}
			if name == at {
				return errDied
			}
			return nil
		}
		_, err := r.Run(t.Context(), "", false)
		if errors.Is(err, errDied) != (at != "") {
			t.Fatalf("%s: %v", at, err)
		}
		v.allOpen(t, "after "+at)
		if at != "" {
			again, err := v.rotation().Run(t.Context(), "", false)
			if err != nil || !again.Resumed || !slices.Equal(again.Removed, []string{first}) {
				t.Errorf("%s: the next one was %+v, %v", at, again, err)
			}
		}
		v.allOpen(t, "finished after "+at)
		ids := v.ids(t)
		if len(ids) != 1 || ids[0] == first {
			t.Errorf("%s: the keys are %v, the old one was %s", at, ids, first)
		}
		for _, s := range v.secrets {
			if keyID(s.Sealed) != ids[0] {
				t.Fatalf("%s: %s is sealed with %s", at, s.Name, keyID(s.Sealed))
			}
		}
	}
}

// TestAServerSealsDuringARotation: with the new key from when it is there, and
// what it was about to keep with the old one it seals anew.
func TestAServerSealsDuringARotation(t *testing.T) {
	t.Parallel()
	v := newVault(t, 3)
	late, err := v.server.Seal("org", "late", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	r := v.rotation()
	r.step = func(name string) error {
		if name != "on top" {
			return nil
		}
		fresh, err := v.server.Seal("org", "fresh", []byte("secret"))
		if err == nil && keyID(fresh) != v.ids(t)[0] {
			t.Error("a running server seals with the old key")
		}
		return err
	}
	if _, err := r.Run(t.Context(), "", true); err != nil {
		t.Fatal(err)
	}
	if err := v.PutSecret(t.Context(), "org", "late", late, nimbus.AuditEvent{}); err != nil { // was under way
		t.Fatal(err)
	}
	if _, err := v.rotation().Run(t.Context(), "", false); err != nil {
		t.Fatal(err)
	}
	v.allOpen(t, "at the end")
	// The same between two lines of Put: the key changes while it is kept.
	rotated := false
	s := Secrets{Keyring: v.server, Store: putHook{v.sealedStore, func() {
		if !rotated {
			rotated = true
			if _, err := v.rotation().Run(t.Context(), "", false); err != nil {
				t.Error(err)
			}
		}
	}}}
	if err := s.Put(t.Context(), "org", "overtaken", []byte("secret"), nimbus.AuditEvent{}); err != nil {
		t.Fatal(err)
	}
	v.allOpen(t, "after it was overtaken")
}

// putHook does something before a secret is kept.
type putHook struct {
	*sealedStore
	before func()
}

func (p putHook) PutSecret(ctx context.Context, orgID, name string, sealed []byte, e nimbus.AuditEvent) error {
	p.before()
	return p.sealedStore.PutSecret(ctx, orgID, name, sealed, e)
}

// TestAStagedKey opens at once, and seals when it is told to.
func TestAStagedKey(t *testing.T) {
	t.Parallel()
	v := newVault(t, 3)
	first := v.ids(t)[0]
	id, err := v.rotation().Stage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := v.ids(t); !slices.Equal(got, []string{first, id}) {
		t.Fatalf("the keys are %v", got)
	}
	if _, err := v.rotation().Run(t.Context(), "00000000", false); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("to a key that is not there: %v", err)
	}
	if got, err := v.rotation().Run(t.Context(), id, true); err != nil || got.ID != id || got.Resealed != 3 || got.Removed != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if want := []string{"master_key.stage " + id, "master_key.rotate " + id}; !slices.Equal(v.told, want) {
		t.Errorf("the ledger heard %v, not %v", v.told, want)
	}
	if got := v.ids(t); !slices.Equal(got, []string{id, first}) {
		t.Errorf("the keys are %v", got)
	}
	uses, err := v.rotation().Uses(t.Context())
	if want := []KeyUse{{ID: id, Seals: true, Secrets: 3}, {ID: first}}; err != nil || !slices.Equal(uses, want) {
		t.Errorf("they are used as %+v, %v", uses, err)
	}
}

// TestARotationWithoutItsKey: nothing is changed while a key is missing, and
// two rotations at once are one too many.
func TestARotationWithoutItsKey(t *testing.T) {
	t.Parallel()
	v := newVault(t, 2)
	other := newVault(t, 0)
	r := Rotation{File: other.file, Store: v}
	before := other.ids(t)
	if _, err := r.Run(t.Context(), "", false); nimbus.ErrorCode(err) != nimbus.CodeConflict || !strings.Contains(err.Error(), v.ids(t)[0]) {
		t.Errorf("%v", err)
	}
	if got := other.ids(t); !slices.Equal(got, before) {
		t.Errorf("the keys are %v", got)
	}
	busy := v.rotation()
	busy.step = func(string) error {
		if _, err := v.rotation().Stage(t.Context()); nimbus.ErrorCode(err) != nimbus.CodeConflict {
			t.Errorf("a second one at once: %v", err)
		}
		return nil
	}
	if _, err := busy.Run(t.Context(), "", false); err != nil {
		t.Fatal(err)
	}
}

// TestTheLedgerHearsOfKeys before the file changes: while it can't be told,
// the file stays as it is.
func TestTheLedgerHearsOfKeys(t *testing.T) {
	t.Parallel()
	v := newVault(t, 1)
	first := v.ids(t)
	v.deaf = errors.New("deaf")
	_, staged := v.rotation().Stage(t.Context())
	_, rotated := v.rotation().Run(t.Context(), "", false)
	if got := v.ids(t); !errors.Is(staged, v.deaf) || !errors.Is(rotated, v.deaf) || !slices.Equal(got, first) {
		t.Errorf("staging: %v; rotating: %v; the keys are %v, not %v", staged, rotated, got, first)
	}
	v.deaf, v.told = nil, nil
	got, err := v.rotation().Run(t.Context(), "", false)
	want := []string{"master_key.rotate " + got.ID, "master_key.remove " + first[0]}
	if err != nil || !slices.Equal(v.told, want) {
		t.Errorf("%v; the ledger heard %v, not %v", err, v.told, want)
	}
}
