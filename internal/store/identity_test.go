package store_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nimbus-ci/nimbus"
	"github.com/nimbus-ci/nimbus/internal/identity"
	"github.com/nimbus-ci/nimbus/internal/store"
	"github.com/nimbus-ci/nimbus/internal/testenv"
)

// TestIdentity runs the same cases on both engines, through the service: what
// matters is what a token can do.
func TestIdentity(t *testing.T) {
	t.Parallel()
	for name, dsn := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + t.TempDir() + "/nimbus.db" },
		"postgres": func(t *testing.T) string { return testenv.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, dsn(t))
			t.Run("kinds", func(t *testing.T) { testKinds(t, identity.New(s, nimbus.SystemClock{})) })
			t.Run("single use", func(t *testing.T) { testSingleUse(t, identity.New(s, nimbus.SystemClock{})) })
			t.Run("job tokens", func(t *testing.T) { testJobTokens(t, identity.New(s, nimbus.SystemClock{})) })
			t.Run("expiry", func(t *testing.T) { testExpiry(t, s) })
			t.Run("secrets", func(t *testing.T) { testSecrets(t, s) })
		})
	}
}

func refused(t *testing.T, err error) {
	t.Helper()
	if nimbus.ErrorCode(err) != nimbus.CodeUnauthenticated {
		t.Errorf("want unauthenticated, got %v", err)
	}
}

func testKinds(t *testing.T, s *identity.Service) {
	ctx := t.Context()
	admin, created, err := s.IssueAdmin(ctx)
	if err != nil || !created {
		t.Fatal(created, err)
	}
	if _, again, err := s.IssueAdmin(ctx); err != nil || again {
		t.Errorf("a second administrator: %v, %v", again, err)
	}
	host, err := s.IssueHost(ctx, "host_1")
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]nimbus.PrincipalKind{admin: nimbus.PrincipalAdmin, host: nimbus.PrincipalHost} {
		p, err := s.Authenticate(ctx, token)
		if err != nil || p.Kind != want {
			t.Errorf("%v, %v; want %s", p, err, want)
		}
		_, err = s.AuthenticateSession(ctx, token)
		refused(t, err)
	}
	flipped := []byte(admin)
	flipped[20] ^= 1
	for _, bad := range []string{"", "x", admin[:len(admin)-1], admin + "0", string(flipped), "nbs_host_" + admin[len("nbs_admin_"):]} {
		_, err := s.Authenticate(ctx, bad)
		refused(t, err)
	}
}

func testSingleUse(t *testing.T, s *identity.Service) {
	ctx := t.Context()
	join, _, err := s.IssueJoin(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Authenticate(ctx, join)
	refused(t, err) // it stands for nobody
	var won atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if s.RedeemJoin(ctx, join) == nil {
				won.Add(1)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("one join token joined %d hosts", won.Load())
	}
	code, err := s.CreateLogin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, s.RedeemJoin(ctx, code)) // of another kind
	session, _, err := s.RedeemLogin(ctx, code)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.RedeemLogin(ctx, code)
	refused(t, err)
	if p, err := s.AuthenticateSession(ctx, session); err != nil || p.Kind != nimbus.PrincipalAdmin {
		t.Errorf("%v, %v", p, err)
	}
	_, err = s.Authenticate(ctx, session)
	refused(t, err) // a cookie is no bearer token
	if err := s.EndSession(ctx, session); err != nil {
		t.Fatal(err)
	}
	_, err = s.AuthenticateSession(ctx, session)
	refused(t, err)
}

func testJobTokens(t *testing.T, s *identity.Service) {
	ctx := t.Context()
	token, err := s.IssueJob(ctx, nimbus.DefaultOrgID, "att_1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Authenticate(ctx, token)
	refused(t, err) // inert
	for range 2 {
		if err := s.ActivateJob(ctx, "att_1"); err != nil {
			t.Fatal(err)
		}
	}
	p, err := s.Authenticate(ctx, token)
	if err != nil || p.Kind != nimbus.PrincipalJob || p.OrgID != nimbus.DefaultOrgID || p.Subject != "att_1" {
		t.Errorf("%+v, %v", p, err)
	}
	if err := s.RevokeJob(ctx, "att_1"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Authenticate(ctx, token)
	refused(t, err)
	if err := s.ActivateJob(ctx, "att_1"); err != nil {
		t.Fatal(err)
	}
	_, err = s.Authenticate(ctx, token)
	refused(t, err) // a revoked one stays so
}

func testExpiry(t *testing.T, s *store.Store) {
	ctx := t.Context()
	id := identity.New(s, nimbus.SystemClock{})
	join, _, err := id.IssueJoin(ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.OffsetClock(ctx, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	refused(t, id.RedeemJoin(ctx, join))
	if _, _, err := id.IssueJoin(ctx, 48*time.Hour); nimbus.ErrorCode(err) != nimbus.CodeInvalid {
		t.Errorf("a join token for two days: %v", err)
	}
}

func testSecrets(t *testing.T, s *store.Store) {
	ctx := t.Context()
	keyring, err := identity.OpenKeyring(t.TempDir() + "/master.key")
	if err != nil {
		t.Fatal(err)
	}
	secrets := identity.Secrets{Store: s, Keyring: keyring}
	for _, value := range []string{"first", "second"} {
		if err := secrets.Put(ctx, nimbus.DefaultOrgID, "webhook", []byte(value)); err != nil {
			t.Fatal(err)
		}
		if got, err := secrets.Get(ctx, nimbus.DefaultOrgID, "webhook"); err != nil || string(got) != value {
			t.Errorf("%q, %v", got, err)
		}
	}
	if _, err := secrets.Get(ctx, "org_other", "webhook"); nimbus.ErrorCode(err) != nimbus.CodeNotFound {
		t.Errorf("another org: %v", err)
	}
	// Moved to another org in the database it does not open.
	sealed, err := s.Secret(ctx, nimbus.DefaultOrgID, "webhook")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open("org_other", "webhook", sealed); err == nil {
		t.Error("a secret opened as another org's")
	}
}
