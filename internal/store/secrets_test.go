package store_test

import (
	"fmt"
	"testing"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestKeysRotateOnBothEngines: every secret of every org, over several pages,
// and none that was put anew meanwhile is lost.
func TestKeysRotateOnBothEngines(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]func(*testing.T) string{
		"sqlite":   sqliteDSN,
		"postgres": func(t *testing.T) string { return testenv.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := open(t, dsn(t)), t.Context()
			file := t.TempDir() + "/master.key"
			keyring, err := identity.OpenKeyring(file)
			if err != nil {
				t.Fatal(err)
			}
			secrets := identity.Secrets{Store: s, Keyring: keyring}
			for i := range 230 {
				if err := secrets.Put(ctx, fmt.Sprintf("org_%d", i%3), fmt.Sprintf("name %d", i), []byte{byte(i)}, nimbus.AuditEvent{}); err != nil {
					t.Fatal(err)
				}
			}
			stale, err := s.Secret(ctx, "org_0", "name 0")
			if err != nil {
				t.Fatal(err)
			}
			if err := secrets.Put(ctx, "org_0", "name 0", []byte("anew"), nimbus.AuditEvent{}); err != nil {
				t.Fatal(err)
			}
			if replaced, err := s.ReplaceSealed(ctx, "org_0", "name 0", stale, []byte("x")); replaced || err != nil {
				t.Errorf("what was put meanwhile was replaced: %v", err)
			}
			got, err := identity.Rotation{File: file, Store: s}.Run(ctx, "", false)
			if err != nil || got.Resealed != 230 || len(got.Removed) != 1 {
				t.Fatalf("%+v, %v", got, err)
			}
			for i := 1; i < 230; i++ {
				if got, err := secrets.Get(ctx, fmt.Sprintf("org_%d", i%3), fmt.Sprintf("name %d", i)); err != nil || len(got) != 1 || got[0] != byte(i) {
					t.Fatalf("secret %d is %v, %v", i, got, err)
				}
			}
		})
	}
}
